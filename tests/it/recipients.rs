//! Rules on whom an agent may reach, on the same host, whichever way it asks.

use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that says each line of its task's input, and ends the task once it was answered as often as it waits for.
const SPEAKER: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
me = os.environ["MESH_AGENT"]
say(type="HANDSHAKE", payload={"name": me, "version": "1.0.0", "capabilities": [me, "talk"]})
task, answers, wanted = None, [], 0
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        given = got["payload"]["input"]
        task, answers, wanted = got["task_id"], [], given.get("answers", 0)
        for order in given["say"]: say(**order)
    elif got["type"] in ("TASK_RESULT", "ERROR"):
        answers.append(got["payload"])
    else:
        continue
    if task and len(answers) >= wanted:
        say(type="TASK_RESULT", task_id=task, payload={"ok": True, "output": {"by": me, "answers": answers}})
        task = None
"#;

fn speaker(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!([id, "talk"]))
        .file("speaker.py", SPEAKER)
        .set("entry", json!("speaker.py"))
        .set("runtime", json!({"command": "python3"}))
}

fn apply(daemon: &Daemon, document: &Value) -> mesh_tests::Answer {
    let json = [("content-type", "application/json")];
    let body = document.to_string();
    daemon
        .client()
        .send("PUT", "/v1/policies", &json, Some(body.as_bytes()))
}

fn token(daemon: &Daemon, subject: &str) -> Client {
    let body = json!({"role": "agent", "subject": subject});
    let issued = daemon.client().post("/v1/tokens", &body).ok(201);
    daemon.client().with_token(issued["token"].as_str())
}

fn message(to: &str) -> Value {
    json!({"type": "MESSAGE", "to": to, "payload": {"text": "hello"}})
}

/// What `ann` was refused, on record: the resource, and the rule.
fn refused(daemon: &Daemon) -> Vec<(String, String)> {
    let denied = daemon.audit("kind=access.denied");
    let of_ann = denied.iter().map(|record| &record["payload"]);
    let text = |denied: &Value, field: &str| denied[field].as_str().unwrap_or_default().to_owned();
    of_ann
        .filter(|denied| denied["user"] == "agent:ann")
        .map(|denied| (text(denied, "resource"), text(denied, "rule")))
        .collect()
}

#[test]
fn an_agent_reaches_only_those_whom_policy_names_on_every_path() {
    if !has_python("an_agent_reaches_only_those_whom_policy_names_on_every_path") {
        return;
    }
    let daemon = Daemon::start();
    for id in ["ann", "ben", "cat"] {
        daemon.deploy(&speaker(id));
    }
    let rule = json!({
        "decision": "deny",
        "verbs": ["message.send", "task.submit"],
        "toOthersThan": ["agent:ben", "topic:news.*"],
    });
    apply(&daemon, &json!({"agents": {"ann": {"access": [rule]}}})).ok(200);

    // On its own channel: a message, a publication, and a task that is delegated.
    let delegate = |id: &str, needs: &[&str]| {
        json!({"type": "TASK_REQUEST", "id": id, "payload": {
            "requirements": needs, "input": {"say": []},
        }})
    };
    let say = [
        message("kai://agent.ben"),
        message("kai://agent.cat"),
        message("kExecutor:cat"),
        json!({"type": "PUBLISH", "payload": {"topic": "news.today", "data": 1}}),
        json!({"type": "PUBLISH", "payload": {"topic": "gossip", "data": 1}}),
        delegate("d1", &["ben"]),
    ];
    let task = daemon.submit(&json!({"type": "ann", "input": {"say": say, "answers": 4}}));
    let ended = daemon.ended(&task, LONG);
    let answers = ended["output"]["answers"].as_array().unwrap().clone();
    let errors = answers.iter().filter(|one| one.get("code").is_some());
    assert_eq!(errors.count(), 3, "{ended}");
    let done = answers.iter().find(|one| one["ok"] == true).unwrap();
    assert_eq!(done["output"]["by"], "ben", "{ended}");
    let rule = "agents.ann.access[0]".to_owned();
    eventually("the refusals are on record", LONG, || {
        let refused = refused(&daemon);
        let wanted = [
            ("kai://agent.cat".to_owned(), rule.clone()),
            ("topic://gossip".to_owned(), rule.clone()),
        ];
        if refused.len() == 3 && wanted.iter().all(|one| refused.contains(one)) {
            Ok(())
        } else {
            Err(format!("{refused:?}"))
        }
    });

    // Over HTTP, in its name.
    let ann = token(&daemon, "ann");
    ann.post("/v1/messages", &message("kai://agent.ben"))
        .ok(200);
    let problem = ann
        .post("/v1/messages", &message("kai://agent.cat"))
        .problem(403, "forbidden");
    assert_eq!(problem["errors"], json!([format!("denied by {rule}")]));
    let named = json!({"type": "cat", "agent": "cat", "input": {"say": []}});
    ann.post("/v1/tasks", &named).problem(403, "forbidden");
    // An admin who speaks in its name says what it may not say.
    let mut forged = message("kai://agent.cat");
    forged["from"] = json!("kai://agent.ann");
    let client = daemon.client();
    client
        .post("/v1/messages", &forged)
        .problem(403, "forbidden");
    client
        .post("/v1/messages", &message("kai://agent.cat"))
        .ok(200);

    // A task for whoever can do it goes to none that it may not reach, and says so.
    let open = json!({"type": "talk", "input": {"say": []}});
    for _ in 0..3 {
        let id = ann.post("/v1/tasks", &open).ok(202);
        let ended = daemon.ended(id["id"].as_str().unwrap(), LONG);
        assert_eq!(ended["output"]["by"], "ben", "{ended}");
    }
    let stuck = ann
        .post("/v1/tasks", &json!({"type": "cat", "input": {"say": []}}))
        .ok(202);
    let path = format!("/v1/tasks/{}", stuck["id"].as_str().unwrap());
    let held = client.get(&path).ok(200);
    let why = held["waitingFor"]["detail"].as_str().unwrap().to_owned();
    assert!(why.contains("agents.ann.access[0]"), "{held}");
    let other = daemon.submit(&json!({"type": "cat", "input": {"say": []}}));
    assert_eq!(daemon.ended(&other, LONG)["state"], "succeeded");
    // Without the rule it goes on.
    apply(&daemon, &json!({"agents": {"ann": {}}})).ok(200);
    let ended = daemon.ended(stuck["id"].as_str().unwrap(), LONG);
    assert_eq!(ended["output"]["by"], "cat", "{ended}");
}

#[test]
fn a_rule_about_recipients_that_cannot_be_meant_is_refused_by_its_field() {
    let daemon = Daemon::start();
    for (rule, field) in [
        (
            json!({"decision": "allow", "verbs": ["message.send"], "to": ["agent:a"]}),
            "decision",
        ),
        (
            json!({"decision": "deny", "verbs": ["read"], "to": ["agent:a"]}),
            "verbs[0]",
        ),
        (
            json!({"decision": "deny", "verbs": ["message.send"], "to": ["a"]}),
            "to[0]",
        ),
    ] {
        let answer = apply(&daemon, &json!({"default": {"access": [rule]}}));
        assert_eq!(answer.status, 422, "{rule}");
        let problem: Value = answer.json();
        let at = problem["field"].as_str().unwrap();
        assert!(at.ends_with(field), "{problem}");
    }
}
