//! Exporting and verifying the log.

use std::sync::Arc;

use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Timestamp};
use mesh_persistence::{Clock, Journal as _, MemoryJournal, export};
use serde_json::json;

use crate::run::Meshctl;
use crate::stub::{Reply, Stub};

/// An export of three records, and the key that signed it.
fn exported() -> (String, String) {
    let key = SigningKey::from_secret(&[7; 32]);
    let did = key.public().to_string();
    let clock: Arc<dyn Clock> = Arc::new(|| Timestamp::from_millis(1_000));
    let journal = MemoryJournal::new(key, clock);
    let record = |n: u32| NewRecord {
        kind: "registered".into(),
        kind_version: 1,
        agent: None,
        task: None,
        actor: "user:admin".into(),
        cause: None,
        after: None,
        correlation: None,
        payload: format!("{{\"n\":{n}}}").into_bytes(),
    };
    let partition = PartitionId::from_static("registry");
    journal
        .append(&partition, 0, (0..3).map(record).collect())
        .expect("a record of known form");
    let mut file = Vec::new();
    export(&journal, None, &mut file).expect("writing to memory");
    (String::from_utf8(file).expect("an export is text"), did)
}

#[test]
fn a_sound_export_is_verified_without_a_daemon() {
    let (file, key) = exported();
    let meshctl = Meshctl::at("http://127.0.0.1:1").file("audit.jsonl", &file);
    let ran = meshctl.run(&["audit", "verify", "audit.jsonl", "--key", &key]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.starts_with("verified 3 records, root "),
        "{}",
        ran.out
    );
    let document = meshctl
        .run(&[
            "audit",
            "verify",
            "audit.jsonl",
            "--key",
            &key,
            "-o",
            "json",
        ])
        .json();
    assert_eq!(
        (&document["records"], &document["keyIsFromFile"]),
        (&json!(3), &json!(false))
    );
}

#[test]
fn without_a_key_the_files_own_is_warned_about() {
    let (file, key) = exported();
    let ran = Meshctl::new().file("audit.jsonl", &file).run(&[
        "audit",
        "verify",
        "audit.jsonl",
        "--quiet",
    ]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.err.contains("warning: the key is the file's own") && ran.err.contains(&key),
        "{}",
        ran.err
    );
}

#[test]
fn the_first_bad_record_is_named() {
    let (file, key) = exported();
    let changed = file.replacen("{\\\"n\\\":1}", "{\\\"n\\\":9}", 1);
    assert_ne!(changed, file);
    let missing: String = file
        .lines()
        .enumerate()
        .filter(|(i, _)| *i != 1)
        .map(|(_, line)| line.to_owned() + "\n")
        .collect();
    for (content, record) in [(changed, 1), (missing, 1), (String::new(), 0)] {
        let ran = Meshctl::new().file("audit.jsonl", content).run(&[
            "audit",
            "verify",
            "audit.jsonl",
            "--key",
            &key,
        ]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err.starts_with(&format!("meshctl: record {record}: ")),
            "{}",
            ran.err
        );
    }
    let other = SigningKey::from_secret(&[8; 32]).public().to_string();
    let ran = Meshctl::new().file("audit.jsonl", &file).run(&[
        "audit",
        "verify",
        "audit.jsonl",
        "--key",
        &other,
    ]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        Meshctl::new()
            .run(&["audit", "verify", "audit.jsonl", "--key", "nonsense"])
            .code,
        2
    );
}

#[test]
fn an_export_is_copied_byte_for_byte() {
    let (file, _) = exported();
    let sent = file.clone();
    let stub = Stub::new(move |_, _| Reply::Text("application/x-ndjson", sent.clone()));
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(
        meshctl.run(&["audit", "export", "--agent", "echo"]).out,
        file
    );
    assert_eq!(stub.seen()[0].target, "/v1/audit/export?agent=echo");
    let ran = meshctl.run(&["audit", "export", "--out", "audit.jsonl", "-q"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert_eq!(
        std::fs::read_to_string(meshctl.path("audit.jsonl")).unwrap(),
        file
    );
}

#[test]
fn an_export_that_breaks_off_leaves_no_file() {
    let stub = Stub::new(|_, _| Reply::Broken("application/x-ndjson", "{\"record\"".into()));
    let meshctl = Meshctl::at(&stub.url);
    let ran = meshctl.run(&["audit", "export", "--out", "audit.jsonl"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("broke off"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(meshctl.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_checkpoint_is_printed_as_it_is() {
    let stub = Stub::new(|_, _| {
        Reply::Text(
            "text/plain; charset=utf-8",
            "origin\n3\nroot\n\n— sig\n".into(),
        )
    });
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(
        meshctl.run(&["audit", "checkpoint"]).out,
        "origin\n3\nroot\n\n— sig\n"
    );
    let document = meshctl.run(&["audit", "checkpoint", "-o", "json"]).json();
    assert_eq!(
        document,
        json!({ "checkpoint": "origin\n3\nroot\n\n— sig\n" })
    );
}

#[test]
fn the_tail_looks_back_only_as_far_as_it_must() {
    let entry = |position: u64| {
        json!({ "position": position, "time": "2026-01-02T03:04:05Z", "kind": "started", "actor": "meshd",
            "cause": null, "commitment": "sha256:00", "payload": null })
    };
    let status = json!({
        "version": "0.1.0", "node": "did:key:x", "runId": "r", "startedAt": "2026-01-02T03:00:00.000Z",
        "uptime": 3_600_000, "health": "healthy", "issues": [], "accepting": true, "refusingBecause": null,
        "components": [], "agents": {}, "tasks": {},
        "journal": { "records": 9, "bytes": 1, "projected": 8, "checkpointSize": 9 }, "warnings": [], "refused": {},
    });
    let stub = Stub::new(move |seen, _| match seen.route().1 {
        "/status" => Reply::Json(200, status.clone()),
        // Nothing in the last minute, three in the last hour.
        _ if seen.target.contains("since=2026-01-02T03%3A59") => {
            Reply::Json(200, json!({ "items": [] }))
        }
        _ => Reply::Json(
            200,
            json!({ "items": [entry(5), entry(6), entry(7)], "nextCursor": null }),
        ),
    });
    let ran = Meshctl::at(&stub.url).run(&["audit", "tail", "-n", "2", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "6\n7\n"));
    assert_eq!(stub.seen().len(), 3);
}
