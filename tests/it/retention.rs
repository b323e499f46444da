//! Ended tasks beyond what is kept: gone from lists, told of by name, erased in the log, while every proof holds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually, meshctl};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Retention looks every ten seconds, and removes what it finds in one go.
const SOON: Duration = Duration::from_mins(1);

/// A daemon that keeps three ended tasks.
fn frugal() -> Home {
    Home::new().config(
        "supervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\njournal:\n  retention:\n    max_tasks: 3\n",
    )
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let page = daemon.client().get("/v1/tasks?state=succeeded").ok(200);
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|task| task["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether a text is anywhere in the log or the read side.
fn is_on_disk(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_on_disk(&path, text);
        }
        let bytes = fs::read(&path).unwrap();
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    })
}

#[test]
fn what_is_kept_no_longer_is_gone_and_the_audit_still_proves_that_it_was() {
    let daemon = frugal().start();
    daemon.deploy(&Bundle::echo("echo"));
    let all: Vec<String> = (0..8)
        .map(|n| {
            let task = json!({
                "type": "echo", "requirements": ["echo"], "idempotencyKey": format!("key-{n}"),
                "input": {"text": format!("secret-{n}-of-nobody")},
            });
            let id = daemon.submit(&task);
            daemon.ended(&id, SOON);
            id
        })
        .collect();
    let kept: Vec<String> = all[5..].iter().rev().cloned().collect();
    eventually("three ended tasks are left", SOON, || {
        let left = ids(&daemon);
        if left == kept {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    let gone = daemon.client().get(&format!("/v1/tasks/{}", all[0]));
    assert_eq!(
        (gone.status, gone.json()["code"].clone()),
        (404, json!("task_removed"))
    );
    let never = daemon.client().get("/v1/tasks/never");
    assert_eq!(never.json()["code"], "task_not_found");

    let erased = |daemon: &Daemon| {
        let audit = daemon
            .client()
            .get("/v1/audit?kind=tasks.erased&limit=100")
            .ok(200);
        let items = audit["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|entry| entry["payload"]["records"].as_u64().unwrap())
            .sum::<u64>()
    };
    eventually("their records are erased", SOON, || match erased(&daemon) {
        0..15 => Err(format!("{} records so far", erased(&daemon))),
        _ => Ok(()),
    });
    let log = daemon.home().data().join("journal/log");
    assert!(!is_on_disk(&log, "secret-0-of-nobody"));
    assert!(is_on_disk(&log, "secret-7-of-nobody"));

    // A key whose task is gone stands for nothing; one whose task is kept does.
    let again = |n: usize| {
        let task = json!({
            "type": "echo", "requirements": ["echo"], "idempotencyKey": format!("key-{n}"),
            "input": {"text": format!("secret-{n}-of-nobody")},
        });
        daemon.client().post("/v1/tasks", &task)
    };
    assert_eq!(again(7).status, 200);
    assert_eq!(again(0).status, 202);

    verifies(&daemon);
    // Not even a life that begins with an empty read side brings them back.
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    fs::remove_dir_all(home.data().join("projections")).unwrap();
    fs::remove_dir_all(home.data().join("journal/snapshots")).ok();
    let daemon = home.start();
    let gone = daemon.client().get(&format!("/v1/tasks/{}", all[1]));
    assert_eq!(gone.json()["code"], "task_removed");
    assert!(ids(&daemon).iter().all(|id| !all[..5].contains(id)));
    verifies(&daemon);
}

/// An export proves itself offline, with the erased records in it.
fn verifies(daemon: &Daemon) {
    let file = daemon.home().scratch().join("audit.jsonl");
    let path = file.to_str().unwrap();
    daemon.ctl(&["audit", "export", "--out", path]).exits(0);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line["salt"].is_null() && line["record"].is_string())
    );
    let key = lines.last().unwrap()["key"].as_str().unwrap();
    let nowhere = daemon.home().scratch().join("nowhere");
    meshctl(&nowhere, &["audit", "verify", path, "--key", key]).exits(0);
}
