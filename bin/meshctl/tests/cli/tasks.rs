//! Submitting tasks and waiting for them.

use serde_json::{Value, json};

use crate::run::Meshctl;
use crate::stub::{Reply, Stub};

const SUBMIT: [&str; 6] = [
    "task",
    "submit",
    "--requires",
    "echo,shout",
    "--input",
    "{\"text\": \"hi\"}",
];

fn receipt() -> Reply {
    Reply::Json(
        202,
        json!({ "id": "t1", "state": "queued", "assignment": null, "waitingFor": null }),
    )
}

fn task(state: &str, more: &Value) -> Reply {
    let mut task = json!({
        "id": "t1", "state": state, "requirements": ["echo"], "input": { "text": "hi" }, "priority": "normal",
        "output": null, "error": null, "attempts": [], "progress": null, "waitingFor": null, "assignment": null,
        "submittedBy": "user:admin", "submittedAt": "2026-01-02T03:04:05.000Z",
        "deadlineAt": "2026-01-03T03:04:05.000Z", "endedAt": null,
    });
    for (name, value) in more.as_object().expect("more fields") {
        task[name] = value.clone();
    }
    Reply::Json(200, task)
}

fn ending(state: &'static str, more: Value) -> Stub {
    Stub::new(move |seen, _| {
        if seen.method == "POST" {
            receipt()
        } else {
            task(state, &more)
        }
    })
}

fn with(more: &[&'static str]) -> Vec<&'static str> {
    SUBMIT.iter().chain(more).copied().collect()
}

#[test]
fn a_submission_prints_the_id_alone() {
    let stub = ending("queued", json!({}));
    let meshctl = Meshctl::at(&stub.url);
    let options = [
        "--priority",
        "high",
        "--deadline",
        "30s",
        "--timeout",
        "10s",
        "--label",
        "a=b",
        "--depends-on",
        "t0",
        "--max-attempts",
        "2",
        "--idempotency-key",
        "k",
    ];
    let ran = meshctl.run(&with(&options));
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "t1\n", "")
    );
    assert_eq!(
        stub.seen()[0].json(),
        json!({
            "requirements": ["echo", "shout"], "input": { "text": "hi" }, "priority": "high", "deadlineMs": 30_000,
            "timeoutMs": 10_000, "labels": { "a": "b" }, "dependsOn": ["t0"], "retry": { "maxAttempts": 2 },
            "idempotencyKey": "k",
        })
    );
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    let stub = Stub::new(|_, before| if before < 2 { Reply::Lost } else { receipt() });
    let ran = Meshctl::at(&stub.url).run(&SUBMIT);
    assert_eq!((ran.code, ran.out.as_str()), (0, "t1\n"));
    let keys: Vec<Value> = stub
        .seen()
        .iter()
        .map(|seen| seen.json()["idempotencyKey"].clone())
        .collect();
    assert!(
        keys.len() == 3 && keys[0].is_string() && keys.iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );
    // The next submission is another task.
    Meshctl::at(&stub.url).run(&SUBMIT);
    assert_ne!(stub.seen()[3].json()["idempotencyKey"], keys[0]);
}

#[test]
fn a_success_prints_the_output_alone() {
    let stub = ending("succeeded", json!({ "output": { "text": "hi" } }));
    let meshctl = Meshctl::at(&stub.url);
    let ran = meshctl.run(&with(&["--wait"]));
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "{\"text\":\"hi\"}\n", "")
    );
    let document = meshctl.run(&with(&["--wait", "5s", "-o", "json"])).json();
    assert_eq!(
        (&document["id"], &document["output"]["text"]),
        (&json!("t1"), &json!("hi"))
    );
    assert_eq!(
        meshctl.run(&["task", "wait", "t1"]).out,
        "{\"text\":\"hi\"}\n"
    );
}

#[test]
fn a_failure_tells_class_and_message_on_standard_error() {
    for state in ["failed", "dead_lettered"] {
        let error = json!({ "class": "refusal", "message": "no such page", "retryable": false });
        let stub = ending(state, json!({ "error": error }));
        let ran = Meshctl::at(&stub.url).run(&with(&["--wait"]));
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert_eq!(
            ran.err,
            format!("meshctl: task t1 {state}: refusal: no such page\n")
        );
    }
    assert_eq!(
        Meshctl::at(&ending("cancelled", json!({})).url)
            .run(&["task", "wait", "t1"])
            .code,
        1
    );
}

#[test]
fn a_task_that_takes_longer_is_7_and_named() {
    let waiting = json!({ "reason": "no_agent", "detail": "no agent can do echo" });
    let stub = ending("parked", json!({ "waitingFor": waiting }));
    let ran = Meshctl::at(&stub.url).run(&with(&["--wait", "50ms"]));
    assert_eq!((ran.code, ran.out.as_str()), (7, ""));
    assert!(
        ran.err.contains("t1 is parked still: no agent can do echo")
            && ran.err.contains("task wait t1"),
        "{ran:?}"
    );
    assert!(
        stub.seen()[1].target.starts_with("/v1/tasks/t1?wait="),
        "{:?}",
        stub.seen()[1]
    );
}

#[test]
fn a_wait_outlives_a_lost_connection() {
    let stub = Stub::new(|_, before| {
        if before == 0 {
            Reply::Lost
        } else {
            task("succeeded", &json!({ "output": 7 }))
        }
    });
    let ran = Meshctl::at(&stub.url).run(&["task", "wait", "t1"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "7\n"));
}

#[test]
fn watching_tells_every_change_until_the_end() {
    let stub = Stub::new(|seen, before| match (seen.target.as_str(), before) {
        ("/v1/tasks/t1?wait=0ms", 0 | 1) => task("queued", &json!({})),
        ("/v1/tasks/t1?wait=0ms", 2) => task(
            "running",
            &json!({ "progress": { "fraction": 0.5, "note": "half", "at": "2026-01-02T03:04:05Z" } }),
        ),
        ("/v1/tasks/t1?wait=0ms", _) => task("succeeded", &json!({})),
        _ => Reply::Text("text/event-stream", "data: {}\n\n".into()),
    });
    let ran = Meshctl::at(&stub.url).run(&["task", "watch", "t1"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "queued\nrunning 50% half\nsucceeded\n")
    );
}

#[test]
fn what_an_agent_says_cannot_drive_the_terminal() {
    let error = json!({ "class": "refusal", "message": "\u{1b}[2Jgone", "retryable": false });
    let stub = ending("failed", json!({ "error": error }));
    let ran = Meshctl::at(&stub.url).run(&["task", "show", "t1"]);
    assert!(
        ran.code == 0 && ran.out.contains("\\u{1b}[2Jgone") && !ran.out.contains('\u{1b}'),
        "{ran:?}"
    );
}
