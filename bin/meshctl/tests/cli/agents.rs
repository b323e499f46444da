//! Deploying and controlling agents.

use serde_json::{Value, json};

use crate::run::Meshctl;
use crate::stub::{Reply, Stub};

const MANIFEST: &str =
    r#"{"id":"echo","version":"1.0.0","capabilities":["echo"],"entry":"main.py"}"#;

fn bundle(url: &str) -> Meshctl {
    Meshctl::at(url)
        .file("echo/manifest.json", MANIFEST)
        .file("echo/main.py", "print(1)\n")
}

fn registration(status: u16, ready: u32, changed: bool) -> Reply {
    Reply::Json(
        status,
        json!({
            "id": "echo", "version": "1.0.0", "digest": "blake3:00", "lifecycle": "registered",
            "instancesReady": ready, "instancesWanted": 1, "registeredAt": "2026-01-02T03:04:05Z",
            "changed": changed, "notices": [],
        }),
    )
}

fn status(version: &str, fault: &str, score: u32, stages: &[&str]) -> Reply {
    let instances: Vec<Value> = stages
        .iter()
        .map(|stage| {
            json!({
                "instance": 0, "epoch": 1, "lifecycle": stage, "activity": "idle", "pid": 1, "uid": 1,
                "startedAt": "2026-01-02T03:04:05Z", "assignedTasks": [], "memoryUsage": 1.0, "cpuUsage": null,
                "lastActivity": null, "refusedMessages": 0,
            })
        })
        .collect();
    Reply::Json(
        200,
        json!({
            "status": "active", "lifecycle": "registered", "version": version, "instances": instances,
            "fault": { "state": fault, "score": score, "crashesInWindow": score, "nextAttemptAt": null,
                "reason": "start: no such interpreter" },
        }),
    )
}

#[test]
fn a_bundle_is_sent_and_awaited() {
    let stub = Stub::new(|seen, before| match (seen.method.as_str(), before) {
        ("POST", _) => registration(201, 0, true),
        // Before its first start it is stopped; that is no failure.
        (_, 0) => status("1.0.0", "stopped", 0, &[]),
        (_, 1) => status("1.0.0", "running", 0, &["activated"]),
        (_, _) => status("1.0.0", "running", 0, &["executing"]),
    });
    let ran = bundle(&stub.url).run(&["agent", "deploy", "echo"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "echo 1.0.0 registered, 1 instance ready\n"),
        "{}",
        ran.err
    );
    let sent = &stub.seen()[0];
    assert_eq!(
        (sent.target.as_str(), sent.header("content-type")),
        ("/v1/agents", Some("application/x-tar"))
    );
    let mut archive = tar::Archive::new(sent.body.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["main.py", "manifest.json"]);
}

#[test]
fn the_same_bundle_again_is_nothing_to_do() {
    let stub = Stub::new(|_, _| registration(200, 1, false));
    let ran = bundle(&stub.url).run(&["agent", "deploy", "echo/manifest.json"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "echo 1.0.0 unchanged, 1 instance ready\n")
    );
    assert_eq!(stub.seen().len(), 1);
}

#[test]
fn other_content_under_one_version_is_a_conflict() {
    let stub = Stub::new(|_, _| Reply::Problem(409, "version_exists"));
    assert_eq!(bundle(&stub.url).run(&["agent", "deploy", "echo"]).code, 5);
}

#[test]
fn no_start_registers_only() {
    let stub = Stub::new(|_, _| registration(201, 0, true));
    let ran = bundle(&stub.url).run(&["agent", "deploy", "echo", "--no-start"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "echo 1.0.0 registered, not started\n")
    );
    assert_eq!(stub.seen()[0].target, "/v1/agents?start=false");
}

#[test]
fn an_agent_that_does_not_start_is_a_failure_with_its_reason() {
    let stub = Stub::new(|seen, _| match seen.method.as_str() {
        "POST" => registration(201, 0, true),
        _ => status("1.0.0", "open", 4, &[]),
    });
    let ran = bundle(&stub.url).run(&["agent", "deploy", "echo"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("it is open: start: no such interpreter"),
        "{}",
        ran.err
    );
}

#[test]
fn a_later_version_waits_for_an_upgrade() {
    let stub = Stub::new(|seen, _| match seen.method.as_str() {
        "POST" => registration(201, 1, true),
        _ => status("0.9.0", "running", 0, &["executing"]),
    });
    let ran = bundle(&stub.url).run(&["agent", "deploy", "echo"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "echo 1.0.0 registered, 0.9.0 in force\n")
    );
    assert!(
        ran.err.contains("agent upgrade echo --to 1.0.0"),
        "{}",
        ran.err
    );
}

#[test]
fn a_bad_manifest_never_leaves_this_machine() {
    let stub = Stub::new(|_, _| registration(201, 0, true));
    let meshctl = Meshctl::at(&stub.url).file(
        "bad/manifest.yaml",
        "id: 7\nversion: x\ncapabilities: [a]\nentry: a.py\n",
    );
    for command in ["deploy", "validate"] {
        let ran = meshctl.run(&["agent", command, "bad"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err.contains("\n  id: ") && ran.err.contains("\n  version: "),
            "{}",
            ran.err
        );
    }
    assert!(stub.seen().is_empty());
    let document = meshctl.run(&["agent", "validate", "bad", "-o", "json"]);
    assert_eq!(
        (document.code, &document.json()["valid"]),
        (1, &json!(false))
    );
}

#[test]
fn a_good_manifest_needs_no_daemon() {
    let meshctl = bundle("http://127.0.0.1:1");
    let ran = meshctl.run(&["agent", "validate", "echo"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "echo 1.0.0 valid\n"));
    assert_eq!(
        meshctl.run(&["agent", "validate", "echo", "--quiet"]).out,
        ""
    );
}

#[test]
fn orders_carry_their_bodies() {
    let stub = Stub::new(|_, _| status("1.0.0", "running", 0, &[]));
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(
        meshctl.run(&["agent", "stop", "echo"]).out,
        "echo stopped (registered)\n"
    );
    assert_eq!(
        meshctl.run(&["agent", "scale", "echo", "3"]).out,
        "echo scaled to 3 (registered)\n"
    );
    meshctl.run(&[
        "agent",
        "quarantine",
        "echo",
        "--reason",
        "odd",
        "--severity",
        "high",
    ]);
    let seen = stub.seen();
    assert_eq!(
        (seen[0].route(), seen[0].body.len()),
        (("POST", "/v1/agents/echo/stop"), 0)
    );
    assert_eq!(
        (seen[1].route(), seen[1].json()),
        (("POST", "/v1/agents/echo/scale"), json!({ "replicas": 3 }))
    );
    assert_eq!(
        seen[2].json(),
        json!({ "type": "manual", "description": "odd", "severity": "high" })
    );
}

#[test]
fn a_recovery_that_fails_is_a_failure() {
    let stub = Stub::new(|_, before| match before {
        0 => Reply::Json(
            200,
            json!({ "success": false, "reason": "max_retries_exceeded" }),
        ),
        _ => Reply::Json(200, json!({ "success": true })),
    });
    let meshctl = Meshctl::at(&stub.url);
    let ran = meshctl.run(&["agent", "recover", "echo"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("max_retries_exceeded") && ran.err.contains("--force"),
        "{}",
        ran.err
    );
    let forced = meshctl.run(&["agent", "recover", "echo", "--force"]);
    assert_eq!((forced.code, forced.out.as_str()), (0, "echo recovering\n"));
    assert_eq!(stub.seen()[1].json(), json!({ "force": true }));
}

#[test]
fn an_unknown_agents_status_is_an_answer() {
    let stub = Stub::new(|_, _| Reply::Json(200, json!({ "status": "not_found" })));
    let ran = Meshctl::at(&stub.url).run(&["agent", "status", "nobody"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "status  not_found\n"));
}
