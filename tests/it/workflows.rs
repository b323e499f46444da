//! Workflows, sent over HTTP to a real daemon: what they do, what is refused, and that `kill -9` neither loses nor doubles
//! a step.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually};
use serde_json::{Value, json};

mod kills;
mod names;
mod odd;
mod services;
mod teams;
mod templates;

const END_MAX: Duration = Duration::from_mins(1);

/// A daemon with agents that answer with their input, refuse, and take their time.
#[track_caller]
fn daemon() -> Daemon {
    let daemon = Daemon::start();
    for bundle in fleet() {
        daemon.deploy(&bundle);
    }
    daemon
}

fn fleet() -> [Bundle; 3] {
    [
        Bundle::echo("echo").set("concurrency", json!(16)),
        Bundle::command("refuse", "exit 3"),
        Bundle::command("slow", "sleep 0.4; cat").set("concurrency", json!(4)),
    ]
}

#[track_caller]
fn start(daemon: &Daemon, workflow: &Value, input: &Value) -> String {
    let body = json!({"workflow": workflow, "input": input});
    let answer = daemon.client().post("/v1/workflows", &body);
    // Accepted, or over already.
    assert!([200, 202].contains(&answer.status), "{}", answer.text());
    let run = answer.json();
    run["id"].as_str().expect("a run has an id").to_owned()
}

#[track_caller]
fn ended(daemon: &Daemon, id: &str) -> Value {
    eventually(&format!("run {id} has ended"), END_MAX, || {
        let run = daemon
            .client()
            .get(&format!("/v1/workflows/{id}?wait=1s"))
            .ok(200);
        match run["state"].as_str() {
            Some("succeeded" | "failed" | "cancelled") => Ok(run),
            _ => Err(run["steps"].to_string()),
        }
    })
}

#[track_caller]
fn outcome(daemon: &Daemon, workflow: &Value, input: &Value) -> Value {
    let id = start(daemon, workflow, input);
    ended(daemon, &id)
}

#[track_caller]
fn step<'r>(run: &'r Value, id: &str) -> &'r Value {
    let steps = run["steps"].as_array().expect("a run has steps");
    steps
        .iter()
        .find(|step| step["id"] == id)
        .unwrap_or_else(|| panic!("no step {id} in {run}"))
}

#[track_caller]
fn states(run: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = run["steps"].as_array().expect("a run has steps");
    steps
        .iter()
        .map(|step| (text(&step["id"]), text(&step["state"])))
        .collect()
}

#[test]
fn steps_fan_out_join_skip_and_go_over_items_and_rounds() {
    let daemon = daemon();
    let workflow = json!({"name": "shapes", "version": "3", "steps": [
        {"id": "first", "requirements": ["echo"], "input": {"n": "${input.n}", "text": "n is ${input.n}"}},
        {"id": "left", "requirements": ["echo"], "input": "${steps.first.output.n * 2}", "after": ["first"]},
        {"id": "right", "requirements": ["echo"], "input": "${steps.first.output.text}"},
        {"id": "never", "requirements": ["echo"], "when": "${input.n > 100}"},
        {"id": "each", "requirements": ["echo"], "forEach": "${input.list}", "input": {"i": "${index}", "x": "${item}"}},
        {"id": "count", "requirements": ["echo"], "input": "${round * 10}",
         "repeat": {"until": "${steps.count.output >= 30}", "max": 9}},
        {"id": "capped", "requirements": ["echo"], "input": "${round}", "repeat": {"until": "${false}", "max": 2}},
        {"id": "join-all", "requirements": ["echo"], "after": ["left", "right", "never", "each"],
         "input": {"sum": "${steps.left.output + 1}", "right": "${steps.right.output}"}},
        {"id": "inner", "input": {"v": "${steps.join-all.output.sum}"}, "workflow": {"steps": [
            {"id": "twice", "requirements": ["echo"], "input": "${input.v * 2}"}],
            "output": {"doubled": "${steps.twice.output}"}}},
    ], "output": {
        "join": "${steps.join-all.output}", "each": "${steps.each.output}", "count": "${steps.count.output}",
        "capped": "${steps.capped.output}", "inner": "${steps.inner.output.doubled}", "never": "${steps.never.output}"}});
    let run = outcome(
        &daemon,
        &workflow,
        &json!({"n": 5, "list": ["a", "b", "c"]}),
    );
    assert_eq!(run["state"], "succeeded", "{run}");
    let expected = json!({
        "join": {"sum": 11, "right": "n is 5"},
        "each": [{"i": 0, "x": "a"}, {"i": 1, "x": "b"}, {"i": 2, "x": "c"}],
        "count": 30, "capped": 2, "inner": 22, "never": null});
    assert_eq!(run["output"], expected);
    assert_eq!(step(&run, "never")["state"], "skipped");
    assert_eq!(step(&run, "count")["round"], 3);
    assert_eq!(
        step(&run, "each")["taskIds"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(run["version"], "3");
    // Its tasks are tasks like all others, marked with the run.
    let task = daemon.task(step(&run, "left")["taskIds"][0].as_str().unwrap());
    assert_eq!(
        task["labels"],
        json!({"workflow": run["id"], "step": "left"})
    );
    // And it is listed, without the runs of its steps.
    let list = daemon.client().get("/v1/workflows").ok(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    let inner = step(&run, "inner")["runs"][0].as_str().unwrap();
    let inner = daemon
        .client()
        .get(&format!("/v1/workflows/{inner}"))
        .ok(200);
    assert_eq!(
        (&inner["state"], &inner["parent"]["run"]),
        (&json!("succeeded"), &run["id"])
    );
}

#[test]
fn failures_end_continue_or_are_taken_back_last_first() {
    let daemon = daemon();
    let failing = |on_error: &str| {
        json!({"steps": [
            {"id": "a", "requirements": ["echo"], "input": {"made": 1},
             "compensate": {"requirements": ["echo"], "input": {"undo": "${steps.a.output.made}"}}},
            {"id": "b", "requirements": ["echo"], "input": {"made": 2}, "after": ["a"],
             "compensate": {"requirements": ["echo"]}},
            {"id": "bad", "requirements": ["refuse"], "after": ["b"], "onError": on_error,
             "compensate": {"requirements": ["echo"]}},
            {"id": "last", "requirements": ["echo"], "after": ["bad"], "input": "${steps.bad.state}"},
        ]})
    };
    let run = outcome(&daemon, &failing("fail"), &Value::Null);
    assert_eq!(run["state"], "failed");
    assert_eq!(run["error"]["class"], "refusal", "{run}");
    assert_eq!(step(&run, "last")["state"], "cancelled");
    assert_eq!(step(&run, "a")["compensation"], Value::Null);

    let run = outcome(&daemon, &failing("continue"), &Value::Null);
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!({"last": "failed"}))
    );

    let run = outcome(&daemon, &failing("compensate"), &Value::Null);
    assert_eq!(run["state"], "failed");
    let id = run["id"].as_str().unwrap();
    let undone: Vec<_> = daemon
        .audit("kind=workflow.compensating")
        .into_iter()
        .filter(|record| record["payload"]["run"] == id)
        .map(|record| {
            (
                record["payload"]["step"].clone(),
                record["payload"]["input"].clone(),
            )
        })
        .collect();
    let expected = [
        (json!("b"), json!({"made": 2})),
        (json!("a"), json!({"undo": 1})),
    ];
    assert_eq!(undone, expected, "exactly what succeeded, last first");
    assert_eq!(step(&run, "a")["compensation"], "succeeded");
    assert_eq!(step(&run, "bad")["compensation"], Value::Null);
}

#[test]
fn a_step_that_takes_too_long_fails_and_its_task_is_ended() {
    let daemon = daemon();
    let workflow = json!({"steps": [
        {"id": "late", "requirements": ["slow"], "timeoutMs": 100, "retry": {"maxAttempts": 1}},
    ]});
    let run = outcome(&daemon, &workflow, &Value::Null);
    assert_eq!(run["state"], "failed", "{run}");
    assert_eq!(run["error"]["class"], "timeout", "{run}");
    let task = step(&run, "late")["taskIds"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let task = daemon.ended(&task, END_MAX);
    assert_ne!(task["state"], "succeeded");
}

#[test]
fn a_person_approves_or_denies_exactly_once() {
    let daemon = daemon();
    let workflow = json!({"steps": [
        {"id": "draft", "requirements": ["echo"], "input": "text"},
        {"id": "ok", "approval": {"message": "publish?"}, "after": ["draft"]},
        {"id": "publish", "requirements": ["echo"], "after": ["ok"], "input": "${steps.draft.output}"},
    ], "output": "${steps.publish.output}"});
    let asked = |id: &str| {
        eventually("it waits for a person", END_MAX, || {
            let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
            if run["state"] == "blocked" {
                Ok(run)
            } else {
                Err(run.to_string())
            }
        })
    };
    let id = start(&daemon, &workflow, &Value::Null);
    let run = asked(&id);
    assert_eq!(step(&run, "ok")["state"], "blocked");
    assert_eq!(step(&run, "publish")["state"], "blocked");
    let task = step(&run, "ok")["taskIds"][0].as_str().unwrap().to_owned();
    let waiting = daemon.task(&task);
    assert_eq!(
        (&waiting["state"], &waiting["waitingFor"]["reason"]),
        (&json!("blocked"), &json!("approval"))
    );
    let path = format!("/v1/tasks/{task}/approve");
    // Whoever may only look may not answer.
    let token = daemon.ctl(&["token", "issue", "--role", "viewer"]);
    let viewer = daemon.client().with_token(Some(token.out.trim()));
    viewer
        .post(&path, &json!({"approve": true}))
        .problem(403, "forbidden");
    let task_after = daemon
        .client()
        .post(&path, &json!({"approve": true, "comment": "fine"}))
        .ok(200);
    assert_eq!(task_after["state"], "succeeded");
    assert_eq!(task_after["output"]["comment"], "fine");
    daemon
        .client()
        .post(&path, &json!({"approve": false}))
        .problem(409, "not_waiting_for_approval");
    let run = ended(&daemon, &id);
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!("text"))
    );

    let id = start(&daemon, &workflow, &Value::Null);
    let task = step(&asked(&id), "ok")["taskIds"][0]
        .as_str()
        .unwrap()
        .to_owned();
    daemon.ctl(&["task", "approve", &task, "--deny", "--comment", "not yet"]);
    let run = ended(&daemon, &id);
    assert_eq!(
        (&run["state"], &step(&run, "ok")["state"]),
        (&json!("failed"), &json!("failed"))
    );
    assert!(
        run["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not yet"),
        "{run}"
    );
}

#[test]
fn a_run_is_cancelled_with_what_it_has_under_way() {
    let daemon = daemon();
    let workflow = json!({"steps": [
        {"id": "ask", "approval": true},
        {"id": "inner", "workflow": {"steps": [{"id": "ask-too", "approval": "well?"}]}},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    let run = eventually("both ask", END_MAX, || {
        let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
        let inner = step(&run, "inner")["runs"][0].as_str().map(str::to_owned);
        inner
            .map(|inner| (run.clone(), inner))
            .ok_or_else(|| run.to_string())
    });
    daemon
        .client()
        .post(
            &format!("/v1/workflows/{id}/cancel"),
            &json!({"reason": "enough"}),
        )
        .ok(200);
    let ended_run = ended(&daemon, &id);
    assert_eq!(ended_run["state"], "cancelled");
    let task = step(&run.0, "ask")["taskIds"][0].as_str().unwrap();
    assert_eq!(daemon.ended(task, END_MAX)["state"], "cancelled");
    assert_eq!(ended(&daemon, &run.1)["state"], "cancelled");
    let path = format!("/v1/workflows/{id}/cancel");
    daemon
        .client()
        .post(&path, &json!({}))
        .problem(409, "workflow_ended");
    daemon
        .client()
        .get("/v1/workflows/nobody")
        .problem(404, "workflow_not_found");
}

#[test]
fn bad_documents_are_refused_as_a_whole_with_every_path() {
    let daemon = daemon();
    let body = json!({"input": {}, "workflow": {"name": "bad", "steps": [
        {"id": "a", "requirements": ["echo"], "after": ["b"]},
        {"id": "b", "requirements": ["echo"], "after": ["c"]},
        {"id": "c", "requirements": ["echo"], "after": ["a", "nobody"]},
        {"id": "c", "requirements": ["no-such-capability"]},
        {"id": "e", "requirements": ["echo"], "input": "${steps.ghost.output}", "when": "${1 +}"},
        {"id": "f", "requirements": ["echo"], "repeat": {"until": "${true}"}},
        {"id": "g", "requirements": ["echo"], "forEach": "${input.n > 1}", "when": 5},
        {"id": "h"},
        {"id": "i", "requirements": ["echo"], "when": "${oops}", "timeoutMs": 0, "colour": "red"},
        {"id": "j", "requirements": ["echo"], "approval": true},
    ]}});
    for path in ["/v1/workflows", "/v1/workflows?check=true"] {
        let problem = daemon
            .client()
            .post(path, &body)
            .problem(422, "invalid_workflow");
        let errors: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e.as_str().unwrap())
            .collect();
        for (at, what) in [
            ("workflow.steps[0].after", "cycle: "),
            ("workflow.steps[2].after[1]", "unknown step \"nobody\""),
            ("workflow.steps[3].id", "steps[2]"),
            ("workflow.steps[3].requirements", "no-such-capability"),
            ("workflow.steps[4].input", "unknown step \"ghost\""),
            ("workflow.steps[4].when", "not a CEL expression"),
            ("workflow.steps[5].repeat.max", "loop without a bound"),
            ("workflow.steps[6].forEach", "type mismatch"),
            ("workflow.steps[6].when", ""),
            ("workflow.steps[7]", "is nothing"),
            ("workflow.steps[8].colour", "unknown key"),
            ("workflow.steps[8].timeoutMs", ""),
            ("workflow.steps[8].when", "unknown variable \"oops\""),
            ("workflow.steps[9]", "several things"),
        ] {
            let named =
                |error: &&&str| error.starts_with(&format!("{at}: ")) && error.contains(what);
            assert!(
                errors.iter().any(|error| named(&error)),
                "{at} {what}: {errors:#?}"
            );
        }
    }
    let steps: Vec<_> = (0..10_000)
        .map(|n| json!({"id": format!("s{n}"), "requirements": ["echo"]}))
        .collect();
    let many = json!({"workflow": {"steps": steps}});
    let problem = daemon
        .client()
        .post("/v1/workflows", &many)
        .problem(422, "invalid_workflow");
    assert!(
        problem["detail"].as_str().unwrap().contains("10000 steps"),
        "{problem}"
    );
    let list = daemon.client().get("/v1/workflows").ok(200);
    assert_eq!(list["items"], json!([]), "what is refused changes nothing");
    let good = json!({"workflow": {"steps": [{"id": "later", "requirements": ["not-yet"]}]}});
    let checked = daemon
        .client()
        .post("/v1/workflows?check=true&deployLater=true", &good)
        .ok(200);
    assert_eq!(
        (&checked["valid"], &checked["steps"]),
        (&json!(true), &json!(1))
    );
}

#[test]
fn one_key_is_one_run_and_meshctl_waits_for_it() {
    let daemon = daemon();
    let body = json!({"workflow": {"name": "keyed", "steps": [{"id": "a", "requirements": ["echo"], "input": "${input}"}],
        "output": "${steps.a.output}"}, "input": 7, "idempotencyKey": "k"});
    let first = daemon
        .client()
        .post("/v1/workflows?wait=20s", &body)
        .ok(200);
    let again = daemon.client().post("/v1/workflows", &body).ok(200);
    assert_eq!(first["id"], again["id"]);
    let mut other = body.clone();
    other["input"] = json!(8);
    daemon
        .client()
        .post("/v1/workflows", &other)
        .problem(409, "idempotency_conflict");
    // A document that has run can be named.
    let named = json!({"workflow": {"steps": [{"id": "sub", "workflow": "keyed", "input": 3}]}});
    let run = daemon
        .client()
        .post("/v1/workflows?wait=20s", &named)
        .ok(200);
    assert_eq!(run["output"], json!({"sub": 3}), "{run}");

    let file = daemon.home().scratch().join("w.yaml");
    let text = "name: yaml\nsteps:\n  - id: a\n    requirements: [echo]\n    input: hello ${input.who}\noutput: ${steps.a.output}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let ran = daemon.ctl(&[
        "workflow",
        "submit",
        file,
        "--input",
        "{\"who\": \"ann\"}",
        "--wait",
        "20s",
    ]);
    assert_eq!((ran.code, ran.out.trim()), (0, "\"hello ann\""), "{ran:?}");
    let ran = daemon.ctl(&["workflow", "submit", file, "--check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let fraction = daemon.home().scratch().join("fraction.yaml");
    std::fs::write(&fraction, format!("version: 1.10\n{text}")).unwrap();
    let refused = daemon.ctl(&["workflow", "submit", fraction.to_str().unwrap(), "--check"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.err.contains("version: 1.1 ") && refused.err.contains("put it in quotes"),
        "{refused:?}"
    );
    std::fs::write(&fraction, format!("version: '1.10'\n{text}")).unwrap();
    let fine = daemon.ctl(&["workflow", "submit", fraction.to_str().unwrap(), "--check"]);
    assert!(fine.out.contains("yaml 1.10 is valid"), "{fine:?}");
    let listed = daemon.ctl(&["workflow", "list", "-o", "name"]);
    let id = listed.out.lines().next().unwrap().to_owned();
    let shown = daemon.ctl(&["workflow", "show", &id]);
    assert!(shown.out.contains("succeeded"), "{shown:?}");
    let graph = daemon.ctl(&["workflow", "show", &id, "--graph", "mermaid"]);
    assert!(graph.out.starts_with("flowchart TD"), "{graph:?}");
}

#[test]
fn hundreds_of_runs_end_and_are_forgotten_by_the_machine() {
    let daemon = daemon();
    let workflow = json!({"name": "many", "steps": [
        {"id": "a", "requirements": ["echo"], "input": 1},
        {"id": "b", "requirements": ["echo"], "input": "${steps.a.output + 1}"},
    ]});
    let ids: Vec<String> = (0..200)
        .map(|_| start(&daemon, &workflow, &Value::Null))
        .collect();
    for id in &ids {
        let run = ended(&daemon, id);
        assert_eq!(
            (&run["state"], &run["output"]),
            (&json!("succeeded"), &json!({"b": 2}))
        );
    }
    let list = daemon.client().get("/v1/workflows?limit=1000").ok(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(ids.len()));
}
