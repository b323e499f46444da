//! Tasks: submission, waiting, idempotency, the end, and why it takes long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn with_echo() -> Daemon {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon
}

#[test]
fn submitting_prints_the_output_alone_and_the_exit_code_says_how_it_went() {
    let daemon = with_echo();
    let given = r#"{"text": "hi"}"#;
    let done = daemon
        .ctl(&[
            "task",
            "submit",
            "--requires",
            "echo",
            "--input",
            given,
            "--wait",
        ])
        .exits(0);
    assert_eq!(
        serde_json::from_str::<Value>(&done.out).unwrap(),
        json!({"text": "hi"}),
        "{}",
        done.out
    );

    daemon.deploy(&Bundle::command("refuser", "echo 'not today' >&2; exit 9"));
    let failed = daemon
        .ctl(&["task", "submit", "--requires", "refuser", "--wait"])
        .exits(1);
    assert_eq!(failed.out, "");
    assert!(
        failed.err.contains("refusal") && failed.err.contains('9'),
        "{}",
        failed.err
    );

    let waiting = daemon
        .ctl(&[
            "task",
            "submit",
            "--requires",
            "nobody-can",
            "--wait",
            "300ms",
        ])
        .exits(7);
    assert!(
        waiting.err.contains("nobody-can") || waiting.err.contains("no agent"),
        "{}",
        waiting.err
    );

    let id = daemon
        .ctl(&["task", "submit", "--requires", "echo", "--input", "7"])
        .exits(0);
    let waited = daemon.ctl(&["task", "wait", id.out.trim()]).exits(0);
    assert_eq!(waited.out.trim(), "7");
}

#[test]
fn a_submission_may_wait_for_its_end() {
    let daemon = with_echo();
    let body = json!({"requirements": ["echo"], "input": {"n": 1}, "labels": {"team": "web"}});
    let task = daemon.client().post("/v1/tasks?wait=30s", &body).ok(200);
    assert_eq!(
        (&task["state"], &task["output"]),
        (&json!("succeeded"), &json!({"n": 1}))
    );
    assert_eq!(task["labels"], json!({"team": "web"}));
    assert_eq!(task["attempts"][0]["number"], 1);
    assert_eq!(task["attempts"][0]["agentId"], "echo");
    assert_eq!(task["assignment"]["agentId"], "echo");
    for member in ["confidence", "reasoning", "riskFactors", "assignedAt"] {
        assert!(task["assignment"].get(member).is_some(), "{member}: {task}");
    }
    let began = Instant::now();
    let receipt = daemon
        .client()
        .post("/v1/tasks?wait=300ms", &json!({"requirements": ["nobody"]}))
        .ok(202);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(receipt["waitingFor"]["reason"], "no_agent", "{receipt}");
}

#[test]
fn one_key_is_one_task() {
    let daemon = with_echo();
    let post = |key: &str, input: Value| {
        let body = json!({"requirements": ["echo"], "input": input}).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        daemon
            .client()
            .send("POST", "/v1/tasks", &headers, Some(body.as_bytes()))
    };
    let first = post("order-7", json!(1)).ok(202);
    let again = post("order-7", json!(1)).ok(200);
    assert_eq!(first["id"], again["id"]);
    post("order-7", json!(2)).problem(409, "idempotency_conflict");
    assert_ne!(post("order-8", json!(1)).ok(202)["id"], first["id"]);
    // The key in the body is the same key.
    let body = json!({"requirements": ["echo"], "input": 1, "idempotencyKey": "order-7"});
    assert_eq!(
        daemon.client().post("/v1/tasks", &body).ok(200)["id"],
        first["id"]
    );
    // Another caller's keys are its own.
    let operator = issue(&daemon, "operator");
    let theirs = operator.post("/v1/tasks", &body).ok(202);
    assert_ne!(theirs["id"], first["id"]);
    // It holds as long as the task: also over a restart, and after the end.
    daemon.ended(first["id"].as_str().unwrap(), SOON);
    let daemon = daemon.kill9().start();
    assert_eq!(
        daemon.client().post("/v1/tasks", &body).ok(200)["id"],
        first["id"]
    );
}

fn issue(daemon: &Daemon, role: &str) -> Client {
    let issued = daemon
        .client()
        .post("/v1/tokens", &json!({"role": role}))
        .ok(201);
    daemon.client().with_token(issued["token"].as_str())
}

#[test]
fn two_clients_at_once_with_one_key_get_one_task() {
    let daemon = with_echo();
    let body = json!({"requirements": ["echo"], "input": "x", "idempotencyKey": "race"});
    let client = daemon.client();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let post = || client.post("/v1/tasks", &body);
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(post)).collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    let ids: BTreeSet<String> = answers
        .iter()
        .map(|answer| answer.json()["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 202).count(),
        1
    );
}

#[test]
fn an_array_is_taken_whole_or_not_at_all() {
    let daemon = with_echo();
    let good = json!({"requirements": ["echo"], "input": 1});
    let refused = daemon.client().post(
        "/v1/tasks",
        &json!([good, {"requirements": ["echo"], "priority": "urgent"}, good]),
    );
    let problem = refused.problem(422, "invalid_value");
    assert!(
        problem["field"].as_str().unwrap().starts_with("[1]"),
        "{problem}"
    );
    assert_eq!(daemon.client().get("/v1/tasks").ok(200)["items"], json!([]));

    let many = Value::Array(
        (0..1000)
            .map(|n| json!({"requirements": ["echo"], "input": n}))
            .collect(),
    );
    let receipts = daemon.client().post("/v1/tasks", &many).ok(202);
    assert_eq!(receipts.as_array().unwrap().len(), 1000);
    let more = Value::Array(vec![good; 1001]);
    daemon
        .client()
        .post("/v1/tasks", &more)
        .problem(422, "too_many_in_array");
    eventually("all have succeeded", Duration::from_mins(2), || {
        let tasks = daemon.client().get("/status").ok(200)["tasks"].clone();
        if tasks["succeeded"] == 1000 {
            Ok(())
        } else {
            Err(tasks.to_string())
        }
    });
}

#[test]
fn lists_page_without_a_gap_and_without_a_repetition() {
    let daemon = with_echo();
    let ids: BTreeSet<String> = (0..7).map(|n| daemon.ask("echo", &json!(n))).collect();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon
            .client()
            .get(&format!("/v1/tasks?limit=3{cursor}"))
            .ok(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(
            items
                .iter()
                .map(|task| task["id"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn why_it_went_there_and_why_it_waits_is_told() {
    let daemon = with_echo();
    daemon.deploy(&Bundle::echo("other"));
    let id = daemon.ask("echo", &json!(1));
    daemon.ended(&id, SOON);
    let why = daemon
        .client()
        .get(&format!("/v1/tasks/{id}/explain"))
        .ok(200);
    let candidates = why["candidates"].as_array().unwrap();
    let named: BTreeSet<&str> = candidates
        .iter()
        .map(|c| c["agentId"].as_str().unwrap())
        .collect();
    assert_eq!(named, BTreeSet::from(["echo", "other"]));
    assert!(
        candidates
            .iter()
            .all(|c| c["reasons"].as_array().is_some_and(|r| !r.is_empty())),
        "{why}"
    );
    let told = daemon.ctl(&["task", "explain", &id]).exits(0);
    assert!(told.out.contains("other"), "{}", told.out);

    let lost = daemon.ask("nobody-can", &json!(1));
    let why = daemon
        .client()
        .get(&format!("/v1/tasks/{lost}/explain"))
        .ok(200);
    assert_eq!(why["waitingFor"]["reason"], "no_agent", "{why}");
    assert_eq!(why["state"], "parked");
    // Once somebody can, it moves by itself.
    daemon.deploy(&Bundle::command("late", "cat").set("capabilities", json!(["nobody-can"])));
    assert_eq!(daemon.ended(&lost, SOON)["state"], "succeeded");
}

#[test]
fn dependents_wait_and_deadlines_end_what_nobody_did() {
    let daemon = with_echo();
    let first = daemon.ask("nobody-yet", &json!("first"));
    let second =
        daemon.submit(&json!({"requirements": ["echo"], "input": "second", "dependsOn": [first]}));
    let blocked = daemon.task(&second);
    assert_eq!(
        (&blocked["state"], &blocked["waitingFor"]["reason"]),
        (&json!("blocked"), &json!("dependency"))
    );
    let late = daemon.submit(&json!({"requirements": ["nobody-ever"], "deadlineMs": 300}));
    let late = daemon.ended(&late, SOON);
    assert_eq!(
        (&late["state"], &late["error"]["class"]),
        (&json!("dead_lettered"), &json!("timeout")),
        "{late}"
    );
    daemon.deploy(&Bundle::command("helper", "cat").set("capabilities", json!(["nobody-yet"])));
    assert_eq!(daemon.ended(&second, SOON)["state"], "succeeded");

    let doomed = daemon.ask("nobody-ever", &json!(1));
    let dependent = daemon.submit(&json!({"requirements": ["echo"], "dependsOn": [doomed]}));
    daemon
        .client()
        .post(
            &format!("/v1/tasks/{doomed}/cancel"),
            &json!({"reason": "no longer"}),
        )
        .ok(200);
    let dependent = daemon.ended(&dependent, SOON);
    assert_ne!(dependent["state"], "succeeded", "{dependent}");
    assert!(
        dependent["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&doomed),
        "{dependent}"
    );
}

#[test]
fn cancelling_ends_the_work_and_what_has_ended_cannot_be_cancelled() {
    if !has_python("cancelling_ends_the_work_and_what_has_ended_cannot_be_cancelled") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::rogue("slow", "slow"));
    let id = daemon.ask("slow", &json!({"ms": 3_600_000}));
    eventually("it runs", SOON, || {
        let task = daemon.task(&id);
        if task["state"] == "running" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    let card = |state: &str| {
        let board = daemon.client().get("/v1/board").ok(200);
        let columns = board["columns"].as_array().unwrap().clone();
        let at = columns.iter().find(|column| {
            column["cards"]
                .as_array()
                .unwrap()
                .iter()
                .any(|card| card["id"] == id.as_str())
        });
        assert_eq!(at.unwrap()["name"], state, "{board}");
    };
    card("In progress");
    daemon
        .ctl(&["task", "cancel", &id, "--reason", "no longer needed"])
        .exits(0);
    let task = daemon.ended(&id, SOON);
    assert_eq!(task["state"], "cancelled", "{task}");
    card("Done");
    daemon
        .client()
        .post(&format!("/v1/tasks/{id}/cancel"), &json!({}))
        .problem(409, "task_ended");
    daemon.ctl(&["task", "cancel", &id]).exits(5);
    // The slot is free again.
    assert_eq!(daemon.output("slow", &json!({"ms": 1})), json!({"ms": 1}));
}

#[test]
fn a_failed_task_gets_another_round_when_somebody_says_so() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::command(
        "moody",
        "test -f $HOME/mood && cat || { touch $HOME/mood; exit 4; }",
    ));
    let id = daemon.ask("moody", &json!({"n": 1}));
    let task = daemon.ended(&id, SOON);
    assert_eq!(
        (&task["state"], &task["error"]["class"]),
        (&json!("failed"), &json!("refusal")),
        "{task}"
    );
    daemon
        .client()
        .post(&format!("/v1/tasks/{id}/retry"), &json!({}))
        .ok(200);
    let task = daemon.ended(&id, SOON);
    assert_eq!(
        (&task["state"], &task["output"]),
        (&json!("succeeded"), &json!({"n": 1})),
        "{task}"
    );
    daemon
        .client()
        .post(&format!("/v1/tasks/{id}/retry"), &json!({}))
        .problem(409, "task_not_retryable");
    let events = daemon
        .client()
        .get(&format!("/v1/tasks/{id}/events"))
        .ok(200);
    let kinds: Vec<&str> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.first(), Some(&"task.submitted"));
    assert_eq!(kinds.last(), Some(&"task.succeeded"));
    assert!(kinds.contains(&"task.retried"), "{kinds:?}");
}

#[test]
fn the_result_must_keep_the_contract_of_the_task() {
    let daemon = with_echo();
    let body = |input: Value| {
        json!({
            "requirements": ["echo"], "input": input, "retry": {"maxAttempts": 2, "baseDelayMs": 10},
            "contract": {"outputSchema": {"type": "object", "required": ["total"]}},
        })
    };
    let kept = daemon.submit(&body(json!({"total": 3})));
    assert_eq!(daemon.ended(&kept, SOON)["state"], "succeeded");
    let broken = daemon.submit(&body(json!({"sum": 3})));
    let broken = daemon.ended(&broken, SOON);
    assert_eq!(broken["state"], "dead_lettered", "{broken}");
    assert_eq!(broken["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(broken["error"]["class"], "contract");
    assert_eq!(
        daemon.status("echo")["fault"]["score"],
        0,
        "a broken contract is no crash"
    );
}

#[test]
fn outcomes_of_attempts_that_are_over_are_refused() {
    let daemon = with_echo();
    let id = daemon.ask("echo", &json!(1));
    let task = daemon.ended(&id, SOON);
    let epoch = task["attempts"][0]["epoch"].clone();
    for outcome in [
        json!({"attempt": 1, "epoch": epoch, "output": "late"}),
        json!({"attempt": 2, "epoch": epoch, "output": "early"}),
    ] {
        let answer = daemon
            .client()
            .post(&format!("/v1/tasks/{id}/outcome"), &outcome);
        assert_eq!(answer.status, 409, "{}", answer.text());
    }
    assert_eq!(daemon.task(&id)["output"], json!(1));
}
