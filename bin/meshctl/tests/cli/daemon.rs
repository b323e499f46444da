//! Finding the daemon, exit codes, forms of output.

use serde_json::json;

use crate::run::Meshctl;
use crate::stub::{Reply, Stub};

fn empty_list() -> Stub {
    Stub::new(|_, _| Reply::Json(200, json!({ "items": [], "nextCursor": null })))
}

fn agent(id: &str, fault: &str) -> serde_json::Value {
    json!({
        "id": id, "name": id, "version": "1.0.0", "persona": "utility", "capabilities": ["echo", "shout"], "tags": [],
        "status": "active", "lifecycle": "executing", "activity": "idle", "faultState": fault,
        "instancesReady": 1, "instancesWanted": 2, "epoch": 7,
    })
}

#[test]
fn the_data_directory_names_the_daemon_and_the_token() {
    let stub = empty_list();
    let meshctl = Meshctl::new()
        .file(".mesh/endpoint", &stub.url)
        .file(".mesh/token", "secret\n");
    assert_eq!(meshctl.run(&["agent", "list"]).code, 0);
    assert_eq!(
        stub.seen()[0].header("authorization"),
        Some("Bearer secret")
    );
    let elsewhere = Meshctl::new().env("MESH_DATA", meshctl.path(".mesh").display().to_string());
    assert_eq!(elsewhere.run(&["agent", "list"]).code, 0);
    let flag = Meshctl::new().run(&[
        "agent",
        "list",
        "--data",
        &meshctl.path(".mesh").display().to_string(),
    ]);
    assert_eq!((flag.code, stub.seen().len()), (0, 3));
}

#[test]
fn flags_win_over_the_environment() {
    let stub = empty_list();
    let meshctl = Meshctl::at("http://127.0.0.1:1")
        .env("MESH_TOKEN", "theirs")
        .file("mine", "mine");
    assert_eq!(
        meshctl
            .run(&["agent", "list", "--url", &stub.url, "--token-file", "mine"])
            .code,
        0
    );
    assert_eq!(stub.seen()[0].header("authorization"), Some("Bearer mine"));
}

#[test]
fn every_refusal_has_its_exit_code_and_is_told_on_standard_error() {
    for (status, code) in [
        (400, 1),
        (422, 1),
        (413, 1),
        (401, 4),
        (403, 4),
        (404, 3),
        (409, 5),
        (429, 75),
        (503, 75),
        (500, 70),
        (504, 7),
    ] {
        let stub = Stub::new(move |_, _| Reply::Problem(status, "some_code"));
        let ran = Meshctl::at(&stub.url).run(&["agent", "show", "echo"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{status}");
        assert!(
            ran.err
                .starts_with("meshctl: refused: some_code (some_code)\n"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn nobody_there_is_6_with_the_next_step() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let ran = Meshctl::at(&format!("http://{free}")).run(&["status"]);
    assert_eq!(ran.code, 6);
    assert!(
        ran.err.contains("from MESH_URL") && ran.err.contains("start it with `meshd`"),
        "{}",
        ran.err
    );
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["nonsense"] as &[&str],
        &["agent", "list", "--url", "ftp://127.0.0.1:1"],
        &["audit", "checkpoint", "--watch"],
        &["agent", "list", "--token-file", "nowhere"],
        &["task", "submit", "--requires", "echo", "--input", "{"],
    ] {
        assert_eq!(Meshctl::new().run(arguments).code, 2, "{arguments:?}");
    }
    let stub = Stub::new(|_, _| Reply::Json(200, json!({ "profile": "none", "controls": [] })));
    let unnamed = Meshctl::at(&stub.url).run(&["audit", "checkpoint", "-o", "name"]);
    assert_eq!((unnamed.code, unnamed.out.as_str()), (2, ""));
}

#[test]
fn a_list_has_every_form() {
    let stub = Stub::new(|_, _| {
        Reply::Json(
            200,
            json!({ "items": [agent("echo", "running"), agent("zap", "open")], "nextCursor": null }),
        )
    });
    let meshctl = Meshctl::at(&stub.url);
    let table = meshctl.run(&["agent", "list"]);
    assert_eq!(
        table.out,
        "ID    VERSION  STATUS  STAGE      FAULT    ACTIVITY  READY  CAPABILITIES\n\
         echo  1.0.0    active  executing  running  idle      1/2    echo,shout\n\
         zap   1.0.0    active  executing  open     idle      1/2    echo,shout\n"
    );
    assert_eq!(
        meshctl.run(&["agent", "list", "-o", "name"]).out,
        "echo\nzap\n"
    );
    assert_eq!(
        meshctl.run(&["agent", "list", "-o", "json"]).json()["items"][1]["id"],
        "zap"
    );
    let yaml = meshctl.run(&["agent", "list", "-o", "yaml"]).out;
    assert!(
        yaml.contains("faultState: open") && !yaml.contains('{'),
        "{yaml}"
    );
}

#[test]
fn a_list_goes_over_all_pages() {
    let stub = Stub::new(|_, before| match before {
        0 => Reply::Json(
            200,
            json!({ "items": [agent("a", "running")], "nextCursor": "x y" }),
        ),
        _ => Reply::Json(
            200,
            json!({ "items": [agent("b", "running")], "nextCursor": null }),
        ),
    });
    let meshctl = Meshctl::at(&stub.url);
    let ran = meshctl.run(&["agent", "list", "-o", "json", "--capability", "echo"]);
    assert_eq!(
        (
            ran.json()["items"].as_array().unwrap().len(),
            &ran.json()["nextCursor"]
        ),
        (2, &json!(null))
    );
    assert_eq!(
        stub.seen()[1].target,
        "/v1/agents?capability=echo&limit=999&cursor=x%20y"
    );
}

#[test]
fn a_limit_is_kept_and_told() {
    let stub = Stub::new(|_, _| {
        Reply::Json(
            200,
            json!({ "items": [agent("a", "running")], "nextCursor": "more" }),
        )
    });
    let ran = Meshctl::at(&stub.url).run(&["agent", "list", "--limit", "1", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "a\n"));
    assert!(ran.err.contains("--limit"), "{}", ran.err);
    assert_eq!(stub.seen()[0].target, "/v1/agents?limit=1");
}

#[test]
fn watching_repeats_what_changed_only() {
    let list = |fault| {
        Reply::Json(
            200,
            json!({ "items": [agent("a", fault)], "nextCursor": null }),
        )
    };
    let stub = Stub::new(move |seen, before| match (seen.route().1, before) {
        ("/v1/events", _) => Reply::Text("text/event-stream", "data: {}\n\n".into()),
        (_, 0 | 1) => list("running"),
        (_, 2 | 5) => list("open"),
        // It is away for a moment, which whoever watches lives through.
        (_, 3 | 4) => Reply::Problem(503, "shutting_down"),
        (_, _) => Reply::Problem(403, "forbidden"),
    });
    let ran = Meshctl::at(&stub.url).run(&["agent", "list", "--watch"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    let told = ["meshd does not answer; waiting for it", "meshd is back"];
    assert!(
        told.iter().all(|text| ran.err.matches(text).count() == 1),
        "{}",
        ran.err
    );
    let rows: Vec<&str> = ran
        .out
        .lines()
        .filter(|line| line.starts_with('a'))
        .collect();
    assert!(
        rows.len() == 2 && rows[0].contains("running") && rows[1].contains("open"),
        "{}",
        ran.out
    );
}

#[test]
fn the_doctor_of_a_named_daemon_is_asked_over_http() {
    let status = json!({
        "version": "0.1.0", "node": "did:key:x", "runId": "r", "startedAt": "2026-01-02T03:00:00.000Z", "uptime": 1,
        "health": "healthy", "issues": [], "accepting": true, "refusingBecause": null, "components": [],
        "agents": { "active": 2 }, "tasks": {}, "warnings": ["pids: no cgroup"], "refused": {},
        "journal": { "records": 9, "bytes": 1, "projected": 8, "checkpointSize": 9 },
    });
    let stub = Stub::new(move |_, _| Reply::Json(200, status.clone()));
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(meshctl.run(&["doctor"]).out, "pids: no cgroup\n");
    let screen = meshctl.run(&["status"]).out;
    assert!(
        screen.contains("agents      2 active\n") && screen.ends_with("warning: pids: no cgroup\n"),
        "{screen}"
    );
    assert_eq!(meshctl.run(&["key", "show"]).out, "did:key:x\n");
}

#[test]
fn a_token_is_printed_alone() {
    let stub = Stub::new(|_, _| {
        Reply::Json(
            201,
            json!({ "id": "t1", "token": "mesh_abc", "role": "viewer", "expires": null }),
        )
    });
    let meshctl = Meshctl::at(&stub.url);
    let ran = meshctl.run(&["token", "issue", "--role", "viewer", "--ttl", "1h"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "mesh_abc\n"));
    assert_eq!(
        stub.seen()[0].json(),
        json!({ "role": "viewer", "ttl": "1h" })
    );
    assert_eq!(
        meshctl
            .run(&["token", "issue", "--role", "viewer", "-o", "json"])
            .json()["token"],
        "mesh_abc"
    );
    assert_eq!(meshctl.run(&["token", "issue", "--role", "king"]).code, 2);
}

#[test]
fn a_memory_key_may_hold_anything() {
    let entry = json!({ "key": "a/b c", "value": { "n": 1 }, "updatedAt": "2026-01-02T03:04:05Z",
        "expiresAt": null, "persistent": true });
    let stub = Stub::new(move |_, _| Reply::Json(200, entry.clone()));
    let meshctl = Meshctl::at(&stub.url);
    assert_eq!(
        meshctl.run(&["memory", "get", "echo", "a/b c"]).out,
        "{\"n\":1}\n"
    );
    let set = meshctl.run(&[
        "memory",
        "set",
        "echo",
        "a/b c",
        "{\"n\":1}",
        "--ttl",
        "90s",
    ]);
    assert_eq!((set.code, set.out.as_str()), (0, "echo remembers a/b c\n"));
    let seen = stub.seen();
    assert_eq!(seen[1].route(), ("PUT", "/v1/memory/echo/a%2Fb%20c"));
    assert_eq!(seen[1].json(), json!({ "value": { "n": 1 }, "ttl": "90s" }));
}

#[test]
fn a_new_key_is_kept_for_its_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let meshctl = Meshctl::new();
    let ran = meshctl.run(&["key", "new", "--out", "my.key"]);
    assert!(
        ran.code == 0 && ran.out.starts_with("did:key:z6Mk"),
        "{ran:?}"
    );
    let about = std::fs::metadata(meshctl.path("my.key")).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(meshctl.path("my.key")).unwrap();
    assert_eq!(secret.trim().len(), 64);
    assert_eq!(meshctl.run(&["key", "new", "--out", "my.key"]).code, 5);
    assert_eq!(
        std::fs::read_to_string(meshctl.path("my.key")).unwrap(),
        secret
    );
}

#[test]
fn help_and_completions_need_nothing() {
    let help = Meshctl::new().run(&["task", "submit", "--help"]);
    assert!(help.code == 0 && help.out.contains("Examples:"), "{help:?}");
    for shell in ["bash", "zsh", "fish"] {
        let ran = Meshctl::new().run(&["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("quarantine"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let meshctl = Meshctl::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = meshctl
        .command(&["completions", "bash"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}
