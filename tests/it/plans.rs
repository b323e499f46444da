//! Stored plans: written down, read, edited, and started by a person; kept through `kill -9`.

use mesh_tests::{Bundle, Daemon, Home};
use serde_json::{Value, json};

fn mesh() -> Daemon {
    let daemon = Home::new().start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon
}

fn document(text: &str) -> Value {
    json!({"name": "greet", "steps": [{"id": "hello", "requirements": ["echo"], "input": {"text": text}}]})
}

fn tasks(daemon: &Daemon) -> usize {
    let page = daemon.client().get("/v1/tasks").ok(200);
    page["items"].as_array().expect("tasks").len()
}

#[test]
fn a_plan_is_read_and_edited_before_it_runs_and_then_runs_as_it_was_read() {
    let daemon = mesh();
    let body = json!({"goal": "say hello", "workflow": document("first")});
    let plan = daemon.client().post("/v1/plans", &body).ok(201);
    let path = format!("/v1/plans/{}", plan["id"].as_str().expect("an id"));
    assert_eq!(
        (&plan["state"], &plan["version"]),
        (&json!("draft"), &json!(1))
    );
    assert_eq!(tasks(&daemon), 0, "nothing of it runs");

    let daemon = daemon.kill9().start();
    let kept = daemon.client().get(&path).ok(200);
    assert_eq!(kept, plan, "it is kept");
    let edit = json!({"goal": "say it better", "workflow": document("second"), "version": 1});
    let edited = daemon.client().put(&path, &edit).ok(200);
    assert_eq!(
        (&edited["version"], &edited["earlier"][0]["goal"]),
        (&json!(2), &json!("say hello"))
    );
    // Whoever read the first version starts nothing, and changes nothing.
    let start = format!("{path}/start");
    let refused = daemon.client().post(&start, &json!({"version": 1})).ok(409);
    assert_eq!(refused["code"], "plan_changed", "{refused}");
    let refused = daemon.client().put(&path, &edit).ok(409);
    assert_eq!(refused["code"], "plan_changed", "{refused}");
    assert_eq!(tasks(&daemon), 0);

    let started = daemon.client().post(&start, &json!({"version": 2})).ok(202);
    let daemon = daemon.kill9().start();
    let again = daemon.client().post(&start, &json!({"version": 2})).ok(200);
    assert_eq!(again["run"], started["run"], "one run");
    let run = format!(
        "/v1/workflows/{}?wait=50s",
        started["run"].as_str().expect("a run")
    );
    let run = daemon.client().get(&run).ok(200);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"]["hello"]["text"], "second", "{run}");
    assert_eq!(tasks(&daemon), 1);
    let refused = daemon
        .client()
        .put(&path, &json!({"workflow": document("third"), "version": 2}));
    assert_eq!(refused.ok(409)["code"], "plan_started");
    let kinds: Vec<_> = ["plan.written", "plan.started"]
        .map(|kind| daemon.audit(&format!("kind={kind}")).len())
        .into();
    assert_eq!(kinds, [2, 1]);
}

#[test]
fn a_task_is_submitted_as_a_plan_and_handled_on_the_command_line() {
    let daemon = mesh();
    let task = r#"{"requirements": ["echo"], "input": {"n": 7}}"#;
    let id = daemon
        .ctl(&["plan", "create", "--task", task, "-o", "name"])
        .exits(0)
        .out;
    let id = id.trim();
    let list = daemon.ctl(&["plan", "list"]).exits(0).out;
    assert!(list.contains(id) && list.contains("draft"), "{list}");
    let screen = daemon.ctl(&["plan", "show", id]).exits(0).out;
    assert!(screen.contains("flowchart"), "{screen}");
    daemon
        .ctl(&["plan", "start", id, "--version", "2"])
        .exits(5);
    let run = daemon
        .ctl(&["plan", "start", id, "--version", "1", "-o", "json"])
        .exits(0)
        .json();
    let run = run["run"].as_str().expect("a run").to_owned();
    let ended = daemon
        .client()
        .get(&format!("/v1/workflows/{run}?wait=50s"))
        .ok(200);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["output"]["task"]["n"], 7, "{ended}");
    daemon.ctl(&["plan", "delete", id]).exits(0);
    daemon.ctl(&["plan", "show", id]).exits(3);

    let bad = json!({"workflow": {"steps": [{"id": "a", "requirements": ["unheard-of"]}]}});
    let refused = daemon.client().post("/v1/plans", &bad).ok(422);
    assert_eq!(refused["code"], "invalid_workflow", "{refused}");
    let both = json!({"task": {"type": "echo", "idempotencyKey": "k"}});
    let refused = daemon.client().post("/v1/plans", &both).ok(422);
    assert_eq!(refused["field"], "task.idempotencyKey", "{refused}");
    // What would be left out in silence is refused.
    for (field, body) in [
        (
            "input",
            json!({"task": {"type": "echo"}, "input": {"n": 1}}),
        ),
        ("version", json!({"task": {"type": "echo"}, "version": 1})),
    ] {
        let refused = daemon.client().post("/v1/plans", &body).ok(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
}
