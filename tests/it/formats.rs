//! Data directories of every version of the formats, opened by the current binaries.
//!
//! A version has a directory and a description in `tests/vectors/data/`. They were written once, by that version, and are never
//! written again, and their keys are nobody's; `docs/decisions/0009-versions-of-formats.md` says when there is a next one. To make it:
//! `MAKE_DATA_VECTOR=v2 cargo test -p mesh-tests --test it formats`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, meshctl};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// The header of a body of JSON.
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// What of a data directory is kept: the truth, and the key that it belongs to.
const KEPT: [&str; 4] = ["journal", "content", "bundles", "node.key"];
/// What of a journal is left out: an empty segment, and the lock.
const LEFT_OUT: [&str; 3] = ["spare", "lock", "snapshots"];

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/data")
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            if !LEFT_OUT.iter().any(|left| name == **left) {
                copy(&from.join(&name), &to.join(&name));
            }
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// What must be found again.
fn describe(daemon: &Daemon) -> Value {
    let tasks = daemon.client().get("/v1/tasks?limit=1000").ok(200);
    let tasks = tasks["items"].as_array().unwrap().iter();
    // What is open now ends by its deadline, and when this is read again that may be long ago.
    let ended = tasks.filter(|task| task["labels"]["open"].is_null());
    let tasks = ended.map(|task| {
        json!({
            "id": task["id"], "state": task["state"], "output": task["output"], "error": task["error"],
            "attempts": task["attempts"].as_array().map(Vec::len), "labels": task["labels"],
        })
    });
    let agents = daemon.client().get("/v1/agents?limit=1000").ok(200);
    let agents = agents["items"].as_array().unwrap().iter().map(|agent| {
        json!({ "id": agent["id"], "version": agent["version"], "status": agent["status"] })
    });
    json!({
        "tasks": tasks.collect::<Vec<_>>(),
        "agents": agents.collect::<Vec<_>>(),
        "memory": daemon.client().get("/v1/memory/mind/seen").ok(200)["value"],
        "key": daemon.ctl(&["key", "show"]).exits(0).out.trim(),
    })
}

/// Writes a data directory with something of everything, and its description.
fn make(version: &str) {
    // The smallest segments, so that there is more than one, and none is large.
    let daemon = Home::new()
        .env("MESH_JOURNAL__SEGMENT_SIZE", "128KiB")
        .start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::command("refuser", "echo 'not today' >&2; exit 9"));
    daemon.deploy(&Bundle::command("busy", "exit 75"));
    let mind = Bundle::command("mind", "cat");
    daemon.deploy(&mind.set("memory", json!({ "type": "persistent" })));
    let entry = json!({ "value": { "n": 42 } });
    daemon
        .client()
        .send(
            "PUT",
            "/v1/memory/mind/seen",
            JSON,
            Some(entry.to_string().as_bytes()),
        )
        .ok(200);
    let end = |task: &str| daemon.ended(task, SOON);
    for n in 0..40 {
        let labels = json!({ "n": n.to_string() });
        end(&daemon.submit(&json!({
            "requirements": ["echo"], "input": { "text": "x".repeat(1000) }, "labels": labels,
        })));
    }
    // In the content store.
    end(&daemon.ask("echo", &json!({ "text": "y".repeat(40_000) })));
    end(&daemon.ask("refuser", &json!({})));
    let retry = json!({ "maxAttempts": 2, "baseDelayMs": 1 });
    end(&daemon.submit(&json!({ "requirements": ["busy"], "retry": retry })));
    daemon.submit(&json!({ "requirements": ["nobody-can"], "labels": { "open": "yes" } }));
    let cancelled = daemon.ask("nobody-can", &json!({}));
    let path = format!("/v1/tasks/{cancelled}/cancel");
    daemon.client().post(&path, &json!({})).ok(200);
    daemon
        .client()
        .post("/v1/agents/busy/terminate", &json!({}))
        .ok(200);
    let mut description = describe(&daemon);
    description["witness"] = json!(daemon.ctl(&["audit", "checkpoint"]).exits(0).out);
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    for kept in KEPT {
        copy(&home.data().join(kept), &vectors().join(version).join(kept));
    }
    let text = serde_json::to_string_pretty(&description).unwrap();
    fs::write(vectors().join(format!("{version}.json")), text + "\n").unwrap();
}

#[test]
fn every_version_of_the_data_is_opened_with_all_that_is_in_it() {
    if let Ok(version) = std::env::var("MAKE_DATA_VECTOR") {
        make(&version);
    }
    let mut versions = Vec::new();
    for entry in fs::read_dir(vectors()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        versions.extend(name.strip_suffix(".json").map(str::to_owned));
    }
    assert!(versions.contains(&"v1".to_owned()), "{versions:?}");
    for version in versions {
        check(&version);
    }
}

fn check(version: &str) {
    let text = fs::read_to_string(vectors().join(format!("{version}.json"))).unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    let witness = expected["witness"].take();
    expected.as_object_mut().unwrap().remove("witness");

    let home = Home::new();
    copy(&vectors().join(version), home.data());
    let daemon = home.start();
    let found = describe(&daemon);
    for part in ["key", "agents", "memory", "tasks"] {
        assert_eq!(found[part], expected[part], "{version}: {part}");
    }
    // It goes on, and the log is the one that was signed then.
    let more = json!({ "requirements": ["echo"], "input": 1 });
    let task = daemon.ended(&daemon.submit(&more), SOON);
    assert_eq!(task["output"], json!(1), "{version}: {task}");
    let scratch = daemon.home().scratch().to_owned();
    let (note, log) = (scratch.join("witness.note"), scratch.join("audit.jsonl"));
    fs::write(&note, witness.as_str().unwrap()).unwrap();
    daemon
        .ctl(&["audit", "export", "--out", log.to_str().unwrap()])
        .exits(0);
    let key = expected["key"].as_str().unwrap();
    let verify = ["audit", "verify", log.to_str().unwrap(), "--key", key];
    let witness = ["--witness", note.to_str().unwrap()];
    meshctl(&scratch, &[&verify[..], &witness].concat()).exits(0);
}
