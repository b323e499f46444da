//! Names that a document uses and nobody has, and tasks that outlive their run.

use serde_json::{Value, json};

use super::{daemon, ended, outcome};

#[test]
fn every_name_that_nobody_has_is_refused_at_its_path() {
    let daemon = daemon();
    let check = json!({"checks": [{"name": "v", "requirements": ["nosuch"]}]});
    let document = json!({"steps": [
        {"id": "a", "requirements": ["echo"], "contract": check},
        {"id": "b", "requirements": ["echo"], "agent": "nosuch"},
        {"id": "c", "requirements": ["echo"], "prefer": "nosuch"},
        {"id": "d", "requirements": ["echo"], "escalate": [{"agent": "nosuch"}, {"requirements": ["nosuch"]}]},
        {"id": "e", "workflow": {"steps": [{"id": "f", "requirements": ["echo"], "agent": "nosuch"}]}},
        {"id": "g", "requirements": ["echo"], "agent": "echo", "prefer": "slow",
         "escalate": [{"person": "operator"}],
         "contract": {"checks": [{"name": "v", "command": ["true"]}, {"name": "w", "requirements": ["slow"]}]}},
    ]});
    let body = json!({"workflow": document});
    let client = daemon.client();
    let refused = client.post("/v1/workflows", &body);
    let refused = refused.problem(422, "invalid_workflow");
    let errors: Vec<&str> = refused["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error.as_str().unwrap().split(": ").next().unwrap())
        .collect();
    let expected = [
        "workflow.steps[0].contract.checks[0].requirements",
        "workflow.steps[1].agent",
        "workflow.steps[2].prefer",
        "workflow.steps[3].escalate[0].agent",
        "workflow.steps[3].escalate[1].requirements",
        "workflow.steps[4].workflow.steps[0].agent",
    ];
    assert_eq!(errors, expected);
    client
        .post("/v1/workflows?check=true&deployLater=true", &body)
        .ok(200);
    // Whoever may not have it run is told so: a command in a check is an admin's to say.
    daemon
        .of_role("operator", "ann")
        .post("/v1/workflows?check=true&deployLater=true", &body)
        .problem(403, "forbidden");
    let labelled = json!({"type": "echo", "labels": {"workflow": "r1"}});
    let problem = client
        .post("/v1/tasks", &labelled)
        .problem(422, "invalid_task");
    assert_eq!(problem["field"], "labels.workflow", "{problem}");
}

#[test]
fn a_check_that_nobody_can_make_ends_its_task_at_once() {
    let daemon = daemon();
    let check = json!({"checks": [{"name": "v", "requirements": ["nosuch"]}]});
    let step = json!({"id": "a", "requirements": ["echo"], "contract": check, "retry": {"maxAttempts": 1}});
    let body = json!({"workflow": {"steps": [step]}});
    let run = daemon
        .client()
        .post("/v1/workflows?deployLater=true", &body)
        .ok(202);
    let run = ended(&daemon, run["id"].as_str().unwrap());
    assert_eq!(run["state"], "failed", "{run}");
    assert!(
        run["error"].to_string().contains("could not be made"),
        "{run}"
    );
}

#[test]
fn a_task_whose_run_has_ended_gets_no_other_round() {
    let daemon = daemon();
    let refused = json!({"id": "a", "requirements": ["refuse"]});
    let run = outcome(&daemon, &json!({"steps": [refused]}), &Value::Null);
    assert_eq!(run["state"], "failed", "{run}");
    let task = run["steps"][0]["taskIds"][0].as_str().unwrap();
    let path = format!("/v1/tasks/{task}/retry");
    let problem = daemon.client().post(&path, &json!({}));
    let problem = problem.problem(409, "task_not_retryable");
    assert!(
        problem["detail"].as_str().unwrap().contains("has ended"),
        "{problem}"
    );
    assert_eq!(daemon.task(task)["state"], "failed");
}
