//! A full disk: what still works, what is refused and how, and that it passes by itself.

use std::time::Duration;

use mesh_tests::{Answer, Bundle, Daemon, eventually};
use serde_json::{Value, json};

use super::load::no_panic;
use crate::faults::on_tmpfs;

/// A full disk is noticed, and space is noticed, within this time.
const NOTICED_MAX: Duration = Duration::from_mins(1);

/// Submits until it is refused; what was taken on the way. Nobody works on it, so the room that is kept for the ends of
/// what is under way stays.
fn fill_the_journal(daemon: &Daemon) -> Vec<String> {
    let mut taken = Vec::new();
    let body = json!({"requirements": ["nobody"], "input": "x".repeat(20_000)});
    eventually("new work is refused", NOTICED_MAX, || {
        let answer = daemon.client().post("/v1/tasks", &body);
        if answer.status == 202 {
            taken.push(answer.json()["id"].as_str().unwrap().to_owned());
            return Err("taken".to_owned());
        }
        answer.problem(503, "read_only");
        Ok(())
    });
    taken
}

fn refused(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.text());
    answer.problem(503, "read_only");
}

/// Everything that only reads.
fn reads_answer(daemon: &Daemon, known: &str, output: &Value) {
    let client = daemon.client();
    for path in [
        "/healthz",
        "/status",
        "/metrics",
        "/v1/agents",
        "/v1/tasks",
        "/v1/board",
        "/v1/audit",
    ] {
        let answer = client.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let status = client.get("/status").ok(200);
    assert_eq!(status["accepting"], false, "{status}");
    assert_eq!(daemon.task(known)["output"], *output);
    let listed = client.get("/v1/tasks?state=succeeded").ok(200);
    let ids = listed["items"].as_array().unwrap();
    assert!(ids.iter().any(|task| task["id"] == known), "{listed}");
}

/// Every way in for something new.
fn new_work_is_refused(daemon: &Daemon) {
    let client = daemon.client();
    let task = json!({"requirements": ["echo"], "input": 1});
    refused("a task", &client.post("/v1/tasks", &task));
    refused("an array", &client.post("/v1/tasks", &json!([task, task])));
    let large = json!({"requirements": ["echo"], "input": "x".repeat(100_000)});
    refused("a large task", &client.post("/v1/tasks", &large));
    let bundle = Bundle::echo("another").tar();
    let headers = [("content-type", "application/x-tar")];
    refused(
        "an agent",
        &client.send("POST", "/v1/agents", &headers, Some(&bundle)),
    );
    let message = json!({"type": "MESSAGE", "to": "kai://agent.echo", "payload": {"n": 1}});
    refused("a message", &client.post("/v1/messages", &message));
}

#[test]
fn a_full_disk_leaves_all_reads_and_the_ends_of_work_and_survives_kill_9() {
    let test = "a_full_disk_leaves_all_reads_and_the_ends_of_work_and_survives_kill_9";
    let Some((home, disk)) = on_tmpfs(test, "96m") else {
        return;
    };
    let daemon = home.start();
    daemon.deploy(&Bundle::echo("echo"));
    let known = daemon.ask("echo", &json!("known"));
    daemon.ended(&known, NOTICED_MAX);
    let waiting = daemon.ask("nobody", &json!("waits"));
    // While the disk is full, views stay as they are; what somebody asked for is in them.
    daemon.client().get("/v1/tasks").ok(200);
    disk.fill();
    let acknowledged = fill_the_journal(&daemon);
    assert!(!acknowledged.is_empty());

    reads_answer(&daemon, &known, &json!("known"));
    new_work_is_refused(&daemon);
    // An order is on record before it is carried out, or refused for the same reason as new work: never half of it.
    let cancel = format!("/v1/tasks/{waiting}/cancel");
    let cancelled = daemon.client().post(&cancel, &json!({"reason": "full"}));
    if cancelled.status != 200 {
        refused("an order", &cancelled);
        assert_ne!(daemon.task(&waiting)["state"], "cancelled");
    }
    let stopped = daemon.ctl(&["agent", "stop", "echo"]);
    assert!([0, 75].contains(&stopped.code), "{stopped:?}");
    reads_answer(&daemon, &known, &json!("known"));

    // On a disk that is full still it says so, or starts and refuses.
    let home = match daemon.kill9().try_start() {
        Err((home, code)) => {
            assert_eq!(code, 75, "{}", home.log());
            disk.free();
            home
        }
        Ok(daemon) => {
            new_work_is_refused(&daemon);
            disk.free();
            eventually("it takes work by itself", NOTICED_MAX, || {
                let task = json!({"requirements": ["echo"], "input": "after"});
                let answer = daemon.client().post("/v1/tasks", &task);
                if answer.status == 202 {
                    Ok(())
                } else {
                    Err(answer.text())
                }
            });
            daemon.kill9()
        }
    };
    let daemon = home.start();
    if cancelled.status != 200 {
        let now = daemon.client().post(&cancel, &json!({"reason": "full"}));
        assert_eq!(now.ok(200)["state"], "cancelled");
    }
    assert_eq!(daemon.task(&waiting)["state"], "cancelled");
    if stopped.code == 0 {
        daemon.ctl(&["agent", "start", "echo"]).exits(0);
    }
    assert_eq!(daemon.task(&known)["output"], "known");
    for id in &acknowledged {
        assert_eq!(daemon.task(id)["requirements"], json!(["nobody"]));
    }
    assert_eq!(daemon.output("echo", &json!("again")), json!("again"));
    let file = daemon.home().scratch().join("audit.jsonl");
    let file = file.to_str().unwrap();
    daemon.ctl(&["audit", "export", "--out", file]).exits(0);
    daemon.ctl(&["audit", "verify", file]).exits(0);
    no_panic(daemon.home());
    drop(daemon);
}
