//! D4: work that is lost, done twice, or ended by a word from the past. (`it/crash.rs` has the loop of `kill -9`.)

use std::time::Duration;

use mesh_tests::{Bundle, Home, descendants, eventually, has_python};
use serde_json::json;

use super::{PATIENCE, at_work, saw, signal, story};

/// Takes its time, answers, and then says so in its log.
const TELLING: &str = r#"
import json, os, sys, time
def say(o): print(json.dumps(o), flush=True)
say({"type": "HANDSHAKE", "payload": {"name": "telling", "version": "1.0.0", "capabilities": ["telling"]}})
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] != "TASK_REQUEST": continue
    time.sleep(m["payload"]["input"]["ms"] / 1000)
    say({"type": "TASK_RESULT", "task_id": m["task_id"], "attempt": m["attempt"], "epoch": m["epoch"],
         "payload": {"ok": True, "output": {"by": m["epoch"], "attempt": m["attempt"]}}})
    print("answered attempt", m["attempt"], file=sys.stderr, flush=True)
"#;

fn telling() -> Bundle {
    Bundle::new("telling")
        .file("main.py", TELLING)
        .set("entry", json!("main.py"))
}

#[test]
fn d4_an_instance_that_comes_back_after_its_time_changes_nothing() {
    if !has_python("d4_an_instance_that_comes_back_after_its_time_changes_nothing") {
        return;
    }
    // It has long to let go, so that it is still there, and answers, when its attempt has been given to another.
    let daemon = Home::new()
        .config("supervision:\n  cancel_timeout: 20s\n  stop_timeout: 1s\n")
        .start();
    daemon.deploy(&telling().set("replicas", json!(2)));
    let task = daemon.submit(&json!({
        "requirements": ["telling"], "input": {"ms": 600}, "timeoutMs": 1500,
        "retry": {"maxAttempts": 3, "baseDelayMs": 10},
    }));
    eventually("it is at work", PATIENCE, || {
        let task = daemon.task(&task);
        if task["state"] == "running" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    let status = daemon.status("telling");
    let assigned = daemon.task(&task)["attempts"][0]["epoch"].clone();
    let instances = status["instances"].as_array().unwrap();
    let paused = instances
        .iter()
        .find(|instance| instance["epoch"] == assigned)
        .unwrap_or_else(|| panic!("{status}"));
    // Its first process is meshd's; the agent is below.
    let init = u32::try_from(paused["pid"].as_u64().unwrap()).unwrap();
    let agent = descendants(init);
    assert!(!agent.is_empty());
    let all = |name| agent.iter().for_each(|one| signal(name, one.pid.into()));
    all("-STOP");
    let ended = daemon.ended(&task, PATIENCE);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["attempts"][0]["error"]["class"], "timeout", "{ended}");
    let outcome = ended["output"].clone();
    assert_ne!(outcome["by"], assigned, "{ended}");

    all("-CONT");
    // It answers now, and nobody listens.
    eventually("its late result has come", PATIENCE, || {
        let log = daemon.client().get("/v1/agents/telling/logs").text();
        if log.contains("answered attempt 1") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(daemon.output("telling", &json!({"ms": 0}))["attempt"], 1);
    let after = daemon.task(&task);
    assert_eq!(after["output"], outcome, "the outcome stands");
    let outcomes = daemon.audit(&format!("kind=task.succeeded&task={task}"));
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    saw(&format!(
        "D4 paused: {}; the late result changed nothing",
        story(&ended)
    ));
}

#[test]
fn d4_work_in_hand_when_meshd_dies_is_done_once_more_and_ends_once() {
    if !has_python("d4_work_in_hand_when_meshd_dies_is_done_once_more_and_ends_once") {
        return;
    }
    let daemon = Home::new().start();
    daemon.deploy(&telling());
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "once"),
    ];
    let body = json!({"requirements": ["telling"], "input": {"ms": 1500}}).to_string();
    let submit = |daemon: &mesh_tests::Daemon| {
        let answer = daemon
            .client()
            .send("POST", "/v1/tasks", &headers, Some(body.as_bytes()));
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let task = submit(&daemon);
    at_work(&daemon, "telling", &task);
    let daemon = daemon.kill9().start();
    assert_eq!(
        submit(&daemon),
        task,
        "the same key is the same task, after a restart, too"
    );
    let ended = daemon.ended(&task, PATIENCE);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["attempts"][0]["error"]["class"], "lost", "{ended}");
    assert_eq!(
        daemon
            .audit(&format!("kind=task.succeeded&task={task}"))
            .len(),
        1
    );
    saw(&format!("D4 kill -9 in the middle: {}", story(&ended)));

    // The end is as durable as the beginning.
    let daemon = daemon.kill9().start();
    assert_eq!(submit(&daemon), task);
    let again = daemon.ended(&task, Duration::from_secs(5));
    assert_eq!(again["output"], ended["output"]);
    assert_eq!(again["attempts"], ended["attempts"]);
}
