//! A task that nobody could do is taken up by somebody, before it ends.

use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that refuses `{"no": true}` for good, cannot do `{"ill": true}`, does all else, and mends what was escalated.
const WORKER: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
me = os.environ["MESH_AGENT"]
say(type="HANDSHAKE", payload={"name": me, "version": "1.0.0", "capabilities": [me]})
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] != "TASK_REQUEST": continue
    task, payload = got["task_id"], got["payload"]
    asked = payload["input"]
    if payload["action"] == "escalation":
        error = asked["error"]["class"]
        output = {"mended": asked["task"], "after": len(asked["attempts"]), "error": error, "was": asked["input"]}
        say(type="TASK_RESULT", task_id=task, payload={"ok": True, "output": output})
    elif asked.get("no"):
        say(type="TASK_RESULT", task_id=task, payload={"ok": False, "error": {"class": "refusal", "message": "never"}})
    elif asked.get("ill"):
        say(type="TASK_RESULT", task_id=task, payload={"ok": False, "error": {"class": "unavailable", "message": "not now"}})
    else:
        say(type="TASK_RESULT", task_id=task, payload={"ok": True, "output": {"did": asked}})
"#;

fn worker(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!([id]))
        .file("worker.py", WORKER)
        .set("entry", json!("worker.py"))
        .set("runtime", json!({"command": "python3"}))
}

fn doomed(input: &Value, steps: &Value) -> Value {
    json!({
        "type": "junior",
        "input": input,
        "retry": {"maxAttempts": 2, "baseDelayMs": 1, "jitter": false},
        "escalate": steps,
    })
}

fn answer(client: &Client, id: &Value, body: &Value) -> mesh_tests::Answer {
    client.post(&format!("/v1/inbox/{}/answer", id.as_str().unwrap()), body)
}

fn say(text: &str) -> Value {
    json!({"approve": true, "answer": text})
}

#[test]
fn a_person_is_asked_once_over_kill_9_and_gives_another_round_the_output_or_neither() {
    if !has_python(
        "a_person_is_asked_once_over_kill_9_and_gives_another_round_the_output_or_neither",
    ) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&worker("junior"));
    let task = daemon.submit(&doomed(
        &json!({"ill": true}),
        &json!([{"person": "operator"}]),
    ));
    let item = daemon.asked(LONG);
    assert_eq!(item["parent"], json!(task));
    assert_eq!(item["about"]["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(item["choices"], json!(["retry", "drop"]));
    let daemon = daemon.kill9().start();
    let same = daemon.asked(LONG);
    assert_eq!(
        (&same["id"], &same["expiresAt"]),
        (&item["id"], &item["expiresAt"])
    );
    let held = daemon.client().get(&format!("/v1/tasks/{task}")).ok(200);
    assert_eq!(held["state"], "blocked");
    assert_eq!(held["waitingFor"]["reason"], "escalation");
    assert_eq!(held["waitingFor"]["tasks"], json!([item["id"]]));
    let why = daemon.ctl(&["task", "explain", &task]).exits(0);
    assert!(why.out.contains("an operator is to take it up"), "{why:?}");

    let viewer = daemon.of_role("viewer", "vera");
    answer(&viewer, &item["id"], &say("retry")).problem(403, "forbidden");
    let olga = daemon.of_role("operator", "olga");
    answer(&olga, &item["id"], &say("perhaps")).problem(422, "invalid_answer");
    answer(&olga, &item["id"], &say("retry")).ok(200);
    // It fails again, and somebody is asked anew.
    let second = daemon.asked(LONG);
    assert_ne!(second["id"], item["id"]);
    let daemon = daemon.kill9().start();
    let olga = daemon.of_role("operator", "olga");
    answer(&olga, &item["id"], &say("retry")).problem(409, "not_waiting_for_approval");
    answer(&olga, &second["id"], &say(r#"output: {"did": "by hand"}"#)).ok(200);
    let ended = daemon.ended(&task, LONG);
    assert_eq!(
        (&ended["state"], &ended["output"]),
        (&json!("succeeded"), &json!({"did": "by hand"}))
    );
    assert_eq!(ended["escalation"]["by"], "user:olga");
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 4);
    let shown = daemon.ctl(&["task", "show", &task]).exits(0);
    assert!(shown.out.contains("done by user:olga"), "{shown:?}");
    assert_eq!(daemon.inbox(), Vec::<Value>::new());
    // Asked and moved on, twice each.
    assert_eq!(daemon.audit("kind=task.escalation").len(), 4);

    let dropped = daemon.submit(&doomed(&json!({"no": true}), &json!([{"person": "admin"}])));
    let item = daemon.asked(LONG);
    answer(&olga, &item["id"], &say("drop")).problem(403, "forbidden");
    daemon
        .ctl(&["inbox", "deny", item["id"].as_str().unwrap()])
        .exits(0);
    let ended = daemon.ended(&dropped, LONG);
    assert_eq!(
        (&ended["state"], &ended["error"]["class"]),
        (&json!("failed"), &json!("refusal"))
    );
}

#[test]
fn an_agent_takes_up_what_another_could_not_do_over_kill_9() {
    if !has_python("an_agent_takes_up_what_another_could_not_do_over_kill_9") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&worker("junior"));
    let given = daemon
        .ctl(&[
            "task",
            "submit",
            "--requires",
            "junior",
            "--input",
            r#"{"ill": true}"#,
            "--escalate",
            "agent:senior",
            "--max-attempts",
            "1",
        ])
        .exits(0);
    let task = given.out.trim().to_owned();
    // There is no such agent yet; it waits for it.
    let follow_up = eventually("a follow-up waits", LONG, || {
        let task = daemon.client().get(&format!("/v1/tasks/{task}")).ok(200);
        match task["escalation"]["task"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(task.to_string()),
        }
    });
    let daemon = daemon.kill9().start();
    daemon.deploy(&worker("senior"));
    let ended = daemon.ended(&task, LONG);
    assert_eq!(
        ended["output"],
        json!({"mended": task, "after": 1, "error": "unavailable", "was": {"ill": true}})
    );
    assert_eq!(ended["escalation"]["by"], "agent:senior");
    let follow_up = daemon
        .client()
        .get(&format!("/v1/tasks/{follow_up}"))
        .ok(200);
    assert_eq!(follow_up["escalates"], json!(task));
    assert_eq!(follow_up["attempts"][0]["agentId"], "senior");
}

#[test]
fn a_retry_takes_the_question_back_and_the_policy_names_who_is_asked_by_default() {
    if !has_python("a_retry_takes_the_question_back_and_the_policy_names_who_is_asked_by_default") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&worker("junior"));
    let put = |document: Value| {
        daemon.client().send(
            "PUT",
            "/v1/policies",
            &[("content-type", "application/json")],
            Some(document.to_string().as_bytes()),
        )
    };
    let wrong = json!({"default": {"escalate": [{"person": "operator", "agent": "x"}]}});
    assert_eq!(put(wrong).status, 422);
    put(json!({"default": {"escalate": [{"person": "operator"}]}})).ok(200);
    let plain = json!({"type": "junior", "input": {"no": true}});
    let task = daemon.submit(&plain);
    let item = daemon.asked(LONG);
    daemon.ctl(&["task", "retry", &task]).exits(0);
    let gone = daemon
        .client()
        .get(&format!("/v1/inbox/{}", item["id"].as_str().unwrap()))
        .ok(200);
    assert_eq!(gone["state"], "withdrawn");
    let second = daemon.asked(LONG);
    assert_ne!(second["id"], item["id"]);
    daemon.ctl(&["task", "cancel", &task]).exits(0);
    assert_eq!(daemon.inbox(), Vec::<Value>::new());
    let mut alone = plain;
    alone["escalate"] = json!([]);
    let ended = daemon.ended(&daemon.submit(&alone), LONG);
    assert_eq!(ended["state"], "failed");

    // A step of a workflow waits like any other task.
    let document = json!({"name": "w", "version": "1.0.0", "steps": [
        {"id": "a", "requirements": ["junior"], "input": {"no": true}, "escalate": [{"person": "operator"}]},
        {"id": "b", "requirements": ["junior"], "input": "${steps.a.output}"},
    ], "output": "${steps.b.output}"});
    let run = daemon
        .client()
        .post(
            "/v1/workflows",
            &json!({"workflow": document, "input": null}),
        )
        .ok(202);
    let item = daemon.asked(LONG);
    answer(daemon.client(), &item["id"], &say(r#"output: {"x": 1}"#)).ok(200);
    let path = format!("/v1/workflows/{}", run["id"].as_str().unwrap());
    eventually("the run goes on", LONG, || {
        let run = daemon.client().get(&path).ok(200);
        if run["output"] == json!({"did": {"x": 1}}) {
            Ok(())
        } else {
            Err(run.to_string())
        }
    });
}

/// Has its work done by `junior`, and by `senior` what that one cannot do.
const LEAD: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "lead", "version": "1.0.0", "capabilities": ["lead"]})
waiting = {}
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        task = got["task_id"]
        waiting["part-1"] = task
        say(type="TASK_REQUEST", id="part-1", task_id=task, payload={
            "action": "junior", "requirements": ["junior"], "input": got["payload"]["input"],
            "escalate": [{"requirements": ["senior"]}]})
    elif got["type"] == "TASK_RESULT" and got.get("in_reply_to") in waiting:
        task = waiting.pop(got["in_reply_to"])
        say(type="TASK_RESULT", task_id=task, payload=got["payload"])
"#;

#[test]
fn what_an_agent_delegates_is_taken_up_over_kill_9_before_the_agent_hears_of_it() {
    if !has_python("what_an_agent_delegates_is_taken_up_over_kill_9_before_the_agent_hears_of_it") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&worker("junior"));
    let lead = Bundle::new("lead")
        .set("capabilities", json!(["lead"]))
        .file("lead.py", LEAD)
        .set("entry", json!("lead.py"))
        .set("runtime", json!({"command": "python3"}));
    daemon.deploy(&lead);
    let task = daemon.submit(&json!({"requirements": ["lead"], "input": {"no": true}}));
    let taken_up = |daemon: &Daemon| -> Value {
        eventually("somebody is to take the part up", LONG, || {
            let all = daemon.client().get("/v1/tasks?state=parked").ok(200);
            match &all["items"].as_array().unwrap()[..] {
                [one] => Ok(one.clone()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let held = taken_up(&daemon);
    let part = held["parent"].as_str().unwrap();
    assert_eq!(daemon.task(part)["parent"], json!(task));
    assert_eq!(daemon.task(part)["waitingFor"]["reason"], "escalation");

    let daemon = daemon.kill9().start();
    assert_eq!(taken_up(&daemon)["id"], held["id"]);
    daemon.deploy(&worker("senior"));
    let ended = daemon.ended(&task, LONG);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let output = &ended["output"];
    assert_eq!(
        (&output["mended"], &output["error"]),
        (&json!(part), &json!("refusal"))
    );
    let all = daemon.client().get("/v1/tasks?limit=100").ok(200);
    let all = all["items"].as_array().unwrap();
    assert_eq!(
        all.len(),
        3,
        "the task, its part, and who took it up: {all:?}"
    );
}
