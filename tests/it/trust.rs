//! Trust, seen from outside: earned by what was checked, lost by what was wrong, asked for by tasks.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// Answers 7 when it is asked for it, and something else when it is not.
fn worker(id: &str) -> Bundle {
    let script =
        r#"if grep -q '"wrong"'; then echo '{"answer": "seven"}'; else echo '{"answer": 7}'; fi"#;
    Bundle::command(id, script)
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"]})
}

/// Has the agent break, or keep, a contract.
fn judged(daemon: &Daemon, capability: &str, input: &str) -> Value {
    let id = daemon.submit(&json!({
        "type": capability, "input": {input: true},
        "contract": {"outputSchema": schema()}, "retry": {"maxAttempts": 1},
    }));
    daemon.ended(&id, PATIENCE)
}

fn trust(daemon: &Daemon, agent: &str) -> Value {
    daemon.client().get(&format!("/v1/trust/{agent}")).ok(200)
}

/// In millionths, so that it can be compared exactly.
fn level(daemon: &Daemon, agent: &str) -> i64 {
    let shown = trust(daemon, agent);
    let level = shown["capabilities"][0]["trust"].to_string();
    let digits = level.strip_prefix("0.").unwrap_or("0");
    format!("{digits:0<6}").parse().unwrap()
}

fn reset(daemon: &Daemon, agent: &str, score: f64) {
    let body = json!({"reason": "a test", "score": score});
    let path = format!("/v1/trust/{agent}/reset");
    let shown = daemon.client().post(&path, &body).ok(200);
    assert_eq!(shown["capabilities"][0]["trust"], json!(score), "{shown}");
}

fn parked_for_trust(daemon: &Daemon, id: &str) -> Value {
    let task = daemon.task(id);
    assert_eq!(task["state"], "parked", "{task}");
    assert_eq!(task["waitingFor"]["reason"], "trust", "{task}");
    task["waitingFor"].clone()
}

#[test]
fn a_task_that_needs_trust_waits_until_its_agent_has_earned_it() {
    let daemon = Daemon::start();
    daemon.deploy(&worker("w"));
    // A new mesh is of use: nobody has to be proven first.
    let first = daemon.submit(&json!({"type": "w", "trust": true}));
    assert_eq!(daemon.ended(&first, PATIENCE)["state"], "succeeded");
    assert_eq!(
        level(&daemon, "w"),
        750_000,
        "what nobody checked moves nothing"
    );

    assert_eq!(judged(&daemon, "w", "wrong")["error"]["class"], "contract");
    assert_eq!(level(&daemon, "w"), 562_500);
    let waits = daemon.submit(&json!({"type": "w", "trust": true}));
    let waiting = parked_for_trust(&daemon, &waits);
    assert!(
        waiting["until"].is_string(),
        "time alone will do: {waiting}"
    );
    let why = daemon
        .client()
        .get(&format!("/v1/tasks/{waits}/explain"))
        .ok(200);
    assert_eq!(
        why["candidates"][0]["reasons"][0],
        "trust 0.5625, and the task needs 0.7"
    );
    // Others still get work through it, and that is how it makes good.
    let mut good = 0;
    while level(&daemon, "w") < 700_000 {
        parked_for_trust(&daemon, &waits);
        assert_eq!(judged(&daemon, "w", "right")["state"], "succeeded");
        good += 1;
        assert!(good <= 24, "{}", trust(&daemon, "w"));
    }
    assert_eq!(good, 24);
    assert_eq!(daemon.ended(&waits, PATIENCE)["state"], "succeeded");

    let shown = trust(&daemon, "w");
    let history = shown["history"].as_array().unwrap();
    assert_eq!(history[0]["cause"]["kind"], "verified", "{shown}");
    let fall = &history[24];
    assert_eq!(fall["cause"]["class"], "contract", "{shown}");
    // Each change is a record that follows from the end of the attempt.
    let record = daemon
        .audit("kind=trust.changed")
        .into_iter()
        .find(|record| {
            record["payload"]["trust.changed"]["cause"]["kind"] == "failed"
                || record["payload"]["cause"]["kind"] == "failed"
        });
    let record = record.expect("the fall is in the audit");
    assert_eq!(record["agent"], "w", "{record}");
    assert!(record["cause"].is_u64(), "{record}");
}

#[test]
fn the_threshold_is_met_exactly_and_survives_kill_9() {
    let home = Home::new().config("orchestrator:\n  security:\n    trust_threshold: 0.7\n");
    let daemon = home.start();
    daemon.deploy(&worker("w"));
    reset(&daemon, "w", 0.699_999);
    let waits = daemon.submit(&json!({"type": "w", "trust": true}));
    let less = daemon.submit(&json!({"type": "w", "trust": 0.699_999}));
    assert_eq!(daemon.ended(&less, PATIENCE)["state"], "succeeded");
    parked_for_trust(&daemon, &waits);

    let daemon = daemon.kill9().start();
    assert_eq!(level(&daemon, "w"), 699_999);
    eventually("it is parked again", PATIENCE, || {
        match &daemon.task(&waits)["waitingFor"]["reason"] {
            reason if reason == "trust" => Ok(()),
            other => Err(other.to_string()),
        }
    });
    reset(&daemon, "w", 0.7);
    assert_eq!(daemon.ended(&waits, PATIENCE)["state"], "succeeded");
    let shown = trust(&daemon, "w");
    let cause = &shown["history"][0]["cause"];
    assert_eq!(
        (&cause["kind"], &cause["reason"]),
        (&json!("reset"), &json!("a test"))
    );
    assert!(
        cause["by"].as_str().unwrap().starts_with("user:"),
        "{shown}"
    );
}

#[test]
fn who_forges_its_sender_is_trusted_with_nothing_and_is_not_helped_by_a_new_registration() {
    let daemon = Daemon::start();
    let forger = Bundle::rogue("forger", "forge");
    daemon.deploy(&forger);
    daemon.submit(&json!({"type": "forger", "retry": {"maxAttempts": 1}}));
    let conduct = || trust(&daemon, "forger")["conduct"].as_f64().unwrap();
    eventually("it is found out", PATIENCE, || match conduct() {
        fallen if fallen < 0.3 => Ok(()),
        other => Err(other.to_string()),
    });
    let shown = trust(&daemon, "forger");
    assert_eq!(shown["history"][0]["cause"]["kind"], "violation", "{shown}");
    assert_eq!(shown["capabilities"][0]["trusted"], false, "{shown}");
    let before = conduct();
    daemon.client().delete("/v1/agents/forger").ok(200);
    daemon.register(&forger);
    assert!(conduct() <= before, "{}", trust(&daemon, "forger"));
}

#[test]
fn trust_is_shown_and_set_from_the_command_line_and_wrong_words_change_nothing() {
    let daemon = Daemon::start();
    daemon.deploy(&worker("w"));
    let listed = daemon.ctl(&["trust", "-o", "json"]).exits(0).json();
    assert!(listed.to_string().contains("\"w\""), "{listed}");
    let set = ["trust", "w", "--reset", "on probation", "--score", "0.25"];
    daemon.ctl(&set).exits(0);
    assert_eq!(level(&daemon, "w"), 250_000);
    let text = daemon.ctl(&["trust", "w"]).exits(0).out;
    assert!(
        text.contains("on probation") && text.contains("0.25"),
        "{text}"
    );

    let client = daemon.client();
    let refused = |body: Value, code: &str| {
        client.post("/v1/trust/w/reset", &body).problem(422, code);
    };
    refused(json!({"reason": " "}), "invalid_reason");
    refused(
        json!({"reason": "x", "capability": "fly"}),
        "unknown_capability",
    );
    client
        .get("/v1/trust/nobody")
        .problem(404, "agent_not_found");
    let task = json!({"type": "w", "trust": 1.5});
    client.post("/v1/tasks", &task).problem(422, "invalid_task");
    assert_eq!(level(&daemon, "w"), 250_000);
}

/// Hands on what its task holds.
const PLANNER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"planner","version":"1.0.0","capabilities":["plan"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      trust=${line#*\"trust\":}; trust=${trust%%\}*}
      echo '{"type":"TASK_REQUEST","id":"r-'$task'","task_id":"'$task'","payload":{"requirements":["w"],"input":1,"trust":'$trust'}}' ;;
    *'"type":"TASK_RESULT"'*)
      parent=${line#*\"in_reply_to\":\"r-}; parent=${parent%%\"*}
      case "$line" in *'"ok":true'*) ok='true,"output":1' ;; *) ok='false,"error":{"class":"refusal","message":"no"}' ;; esac
      echo '{"type":"TASK_RESULT","task_id":"'$parent'","payload":{"ok":'$ok'}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

#[test]
fn delegations_and_steps_of_workflows_ask_for_trust_as_tasks_do() {
    let daemon = Daemon::start();
    daemon.deploy(&worker("w"));
    daemon.deploy(&Bundle::shell("planner", PLANNER).set("capabilities", json!(["plan"])));
    reset(&daemon, "w", 0.5);
    let run = json!({"workflow": {"name": "w", "steps": [
        {"id": "s", "requirements": ["w"], "trust": 0.6},
    ]}});
    let run = daemon.client().post("/v1/workflows", &run).ok(202)["id"].clone();
    let delegated = daemon.submit(&json!({"type": "plan", "input": {"trust": 0.6}}));
    let waiting = || {
        let page = daemon.client().get("/v1/tasks?state=parked").ok(200);
        page["items"].as_array().unwrap().clone()
    };
    eventually("both wait for trust", PATIENCE, || {
        let waiting = waiting();
        let for_trust = |task: &&Value| task["waitingFor"]["reason"] == "trust";
        match waiting.iter().filter(for_trust).count() {
            2 => Ok(()),
            _ => Err(format!("{waiting:?}")),
        }
    });
    reset(&daemon, "w", 0.6);
    assert_eq!(daemon.ended(&delegated, PATIENCE)["state"], "succeeded");
    eventually("the run ends well", PATIENCE, || {
        let path = format!("/v1/workflows/{}", run.as_str().unwrap());
        let run = daemon.client().get(&path).ok(200);
        (run["state"] == "succeeded")
            .then_some(())
            .ok_or_else(|| run.to_string())
    });
    // The same checks: a level is from 0 to 1, and only tasks ask for one.
    let wrong = daemon.submit(&json!({"type": "plan", "input": {"trust": 1.5}}));
    assert_eq!(daemon.ended(&wrong, PATIENCE)["state"], "failed");
    for (step, path) in [
        (
            json!({"id": "s", "requirements": ["w"], "trust": 2}),
            "steps[0].trust",
        ),
        (
            json!({"id": "s", "approval": true, "trust": true}),
            "steps[0].trust",
        ),
    ] {
        let run = json!({"workflow": {"name": "w", "steps": [step]}});
        let refused = daemon.client().post("/v1/workflows", &run);
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(refused.text().contains(path), "{}", refused.text());
    }
}

#[test]
fn a_reset_that_changes_nothing_says_so_and_leaves_no_record() {
    let daemon = Daemon::start();
    daemon.deploy(&worker("w"));
    let client = daemon.client();
    let again = json!({"reason": "to be sure"});
    client
        .post("/v1/trust/w/reset", &again)
        .problem(409, "nothing_to_reset");
    let ran = daemon.ctl(&["trust", "w", "--reset", "to be sure"]);
    assert!(ran.err.contains("already"), "{}", ran.err);
    assert_eq!(daemon.audit("kind=trust.changed").len(), 0);
    // A score reaches what was never seen at work, too, and upwards as well.
    reset(&daemon, "w", 0.9);
    client
        .post("/v1/trust/w/reset", &json!({"reason": "x", "score": 0.9}))
        .problem(409, "nothing_to_reset");
    client.post("/v1/trust/w/reset", &again).ok(200);
    assert_eq!(level(&daemon, "w"), 750_000);
    assert_eq!(daemon.audit("kind=trust.changed").len(), 2);
}
