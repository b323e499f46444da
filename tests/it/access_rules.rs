//! Rules on who may do what, by task type, requirements and owner: one decision on every way in.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that delegates the input of each task, and hands the answer back as its result.
const ASKER: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "asker", "version": "1.0.0", "capabilities": ["ask"]})
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        say(type="TASK_REQUEST", id="q-" + got["task_id"], task_id=got["task_id"], payload=got["payload"]["input"])
    elif got["type"] == "TASK_RESULT":
        say(type="TASK_RESULT", task_id=got["in_reply_to"][2:], payload={"ok": True, "output": got["payload"]})
"#;

fn asker(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!(["ask"]))
        .file("asker.py", ASKER)
        .set("entry", json!("asker.py"))
        .set("runtime", json!({"command": "python3"}))
}

fn apply(daemon: &Daemon, document: &Value) -> mesh_tests::Answer {
    let json = [("content-type", "application/json")];
    let body = document.to_string();
    daemon
        .client()
        .send("PUT", "/v1/policies", &json, Some(body.as_bytes()))
}

fn rules(daemon: &Daemon, rules: &Value) {
    apply(daemon, &json!({"default": {"access": rules}})).ok(200);
}

#[track_caller]
fn forbidden(answer: &mesh_tests::Answer, rule: Option<&str>) {
    let problem = answer.problem(403, "forbidden");
    assert_eq!(problem["detail"], "Insufficient permissions", "{problem}");
    match rule {
        Some(rule) => assert_eq!(problem["errors"], json!([format!("denied by {rule}")])),
        None => assert!(problem.get("errors").is_none(), "{problem}"),
    }
}

fn run_of(kind: &str) -> Value {
    json!({"workflow": {"name": "w", "steps": [{"id": "s", "type": kind, "requirements": ["echo"]}]}})
}

#[test]
fn a_task_type_that_is_denied_is_denied_on_every_way_in_and_the_rule_is_named() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let ben = daemon.of_role("operator", "ben");
    let olga = daemon.of_role("operator", "olga");
    let task = |kind: &str| json!({"type": kind, "requirements": ["echo"], "input": {}});
    let before = ben.post("/v1/tasks?wait=30s", &task("billing.run")).ok(200);
    let later =
        json!({"id": "later", "cron": "0 0 1 1 *", "workflow": run_of("billing.run")["workflow"]});
    olga.post("/v1/schedules", &later).ok(201);
    let planned = olga.post("/v1/plans", &run_of("billing.run")).ok(201);

    rules(
        &daemon,
        &json!([
            {"decision": "deny", "verbs": ["erase"], "subjects": ["nobody"]},
            {"decision": "deny", "verbs": ["task.submit", "task.control"], "subjects": ["ben"],
             "taskTypes": ["billing.*"]},
        ]),
    );
    let rule = Some("default.access[1]");
    let denied = |answer: mesh_tests::Answer| forbidden(&answer, rule);
    denied(ben.post("/v1/tasks", &task("billing.run")));
    denied(ben.post("/v1/tasks", &json!([task("echo"), task("billing.x")])));
    denied(ben.post("/v1/tasks", &json!({"requirements": ["billing.run"]})));
    let message = json!({"type": "TASK_REQUEST", "to": "kai://agent.echo", "payload": {"action": "billing.run", "input": {}}});
    denied(ben.post("/v1/messages", &message));
    denied(ben.post("/v1/workflows", &run_of("billing.run")));
    let inner = json!({"workflow": {"name": "o", "steps": [{"id": "in", "workflow": run_of("billing.run")["workflow"]}]}});
    denied(ben.post("/v1/workflows", &inner));
    let mut schedule = later.clone();
    schedule["id"] = json!("bens");
    denied(ben.post("/v1/schedules", &schedule));
    denied(ben.post("/v1/plans", &run_of("billing.run")));
    let plan = format!("/v1/plans/{}", planned["id"].as_str().unwrap());
    denied(ben.post(&format!("{plan}/start"), &json!({"version": 1})));
    denied(ben.delete(&plan));
    denied(ben.delete("/v1/schedules/later"));
    denied(ben.post("/v1/schedules/later/pause", &json!({})));
    let id = before["id"].as_str().unwrap();
    for verb in ["cancel", "retry"] {
        denied(ben.post(&format!("/v1/tasks/{id}/{verb}"), &json!({})));
        // Another spelling of the same task is the same task.
        let spelt = id.replacen(&id[..1], &format!("%{:02x}", id.as_bytes()[0]), 1);
        denied(ben.post(&format!("/v1/tasks/{spelt}/{verb}"), &json!({})));
    }

    // What the rule does not speak of goes on, and others are not touched.
    ben.post("/v1/tasks", &task("echo")).ok(202);
    ben.post("/v1/workflows", &run_of("echo")).ok(202);
    olga.post("/v1/tasks", &task("billing.run")).ok(202);
    let records = eventually("the refusals are in the audit", LONG, || {
        let found = daemon.audit("kind=access.denied");
        let bens: Vec<_> = found
            .into_iter()
            .filter(|record| record["payload"]["user"] == "user:ben")
            .collect();
        if bens.len() >= 10 {
            Ok(bens)
        } else {
            Err(bens.len().to_string())
        }
    });
    for record in &records {
        let payload = &record["payload"];
        assert_eq!(payload["reason"], "Insufficient permissions", "{payload}");
        assert_eq!(payload["rule"], "default.access[1]", "{payload}");
        let action = payload["action"].as_str().unwrap();
        assert!(
            matches!(action, "task.submit" | "task.control"),
            "{payload}"
        );
    }
    // meshctl is a client like any other; the policy says where the rules come from, and outlives a kill.
    let daemon = daemon.kill9().start();
    denied(
        daemon
            .of_role("operator", "ben")
            .post("/v1/tasks", &task("billing.run")),
    );
    let shown = daemon.client().get("/v1/policies").ok(200);
    let values = shown["values"].as_array().unwrap();
    let access = values
        .iter()
        .find(|value| value["key"] == "access")
        .unwrap();
    assert_eq!(access["origin"], "policy");
    assert_eq!(access["value"].as_array().unwrap().len(), 2);
    rules(&daemon, &json!([]));
    daemon
        .of_role("operator", "ben")
        .post("/v1/tasks", &task("billing.run"))
        .ok(202);
}

#[test]
fn an_allowance_reaches_exactly_as_far_as_it_says_and_a_denial_wins_over_it() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let vera = daemon.of_role("viewer", "vera");
    let task =
        |kind: &str, needs: &[&str]| json!({"type": kind, "requirements": needs, "input": {}});
    forbidden(&vera.post("/v1/tasks", &task("report.a", &["echo"])), None);
    rules(
        &daemon,
        &json!([
            {"decision": "allow", "verbs": ["task.submit"], "roles": ["viewer"],
             "taskTypes": ["report.*"], "requirements": ["echo"]},
            {"decision": "deny", "verbs": ["task.submit"], "taskTypes": ["report.secret"]},
            {"decision": "allow", "verbs": ["task.control"], "roles": ["viewer"], "owner": "self"},
            {"decision": "deny", "verbs": ["task.control"], "roles": ["operator"], "owner": "other"},
        ]),
    );
    let hers = vera.post("/v1/tasks", &task("report.a", &["echo"])).ok(202);
    forbidden(&vera.post("/v1/tasks", &task("other", &["echo"])), None);
    forbidden(
        &vera.post("/v1/tasks", &task("report.a", &["echo", "shell"])),
        None,
    );
    forbidden(
        &vera.post(
            "/v1/tasks",
            &json!([task("report.a", &["echo"]), task("other", &["echo"])]),
        ),
        None,
    );
    let secret = task("report.secret", &["echo"]);
    forbidden(&vera.post("/v1/tasks", &secret), Some("default.access[1]"));
    forbidden(
        &daemon.client().post("/v1/tasks", &secret),
        Some("default.access[1]"),
    );
    // It opens no other door: neither messages nor workflows were given.
    forbidden(&vera.post("/v1/workflows", &run_of("report.a")), None);
    forbidden(&vera.post("/v1/tokens", &json!({"role": "admin"})), None);

    let olga = daemon.of_role("operator", "olga");
    let cancel = |id: &Value| format!("/v1/tasks/{}/cancel", id.as_str().unwrap());
    forbidden(
        &olga.post(&cancel(&hers["id"]), &json!({})),
        Some("default.access[3]"),
    );
    let wait = task("waits", &["nobody-can"]);
    let own = olga.post("/v1/tasks", &wait).ok(202);
    forbidden(&vera.post(&cancel(&own["id"]), &json!({})), None);
    olga.post(&cancel(&own["id"]), &json!({})).ok(200);
}

#[test]
fn an_agent_and_a_run_under_way_are_held_to_the_rules_of_the_moment() {
    if !has_python("an_agent_and_a_run_under_way_are_held_to_the_rules_of_the_moment") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&asker("asker"));
    let child = json!({"action": "billing.pay", "requirements": ["echo"], "input": {}});
    let allowed = daemon.ended(&daemon.ask("ask", &child), LONG);
    assert_eq!(allowed["output"]["ok"], true, "{allowed}");
    // The second step is submitted when somebody has approved the first.
    let document = json!({"workflow": {"name": "w", "steps": [
        {"id": "ask", "approval": "go on?"},
        {"id": "pay", "type": "billing.pay", "requirements": ["echo"], "after": ["ask"], "input": {}},
    ]}});
    let run = daemon.client().post("/v1/workflows", &document).ok(202);
    let waits = eventually("somebody is asked", LONG, || {
        let open = daemon.client().get("/v1/inbox").ok(200);
        open["items"][0]["id"]
            .as_str()
            .map(str::to_owned)
            .ok_or("nobody".to_owned())
    });
    let own = json!({"access": [{"decision": "deny", "verbs": ["task.submit"], "taskTypes": ["billing.*"]}]});
    let all = json!({"access": [{"decision": "deny", "verbs": ["task.submit"], "subjects": ["*"], "requirements": ["ech*"], "taskTypes": ["billing.*"]}]});
    apply(&daemon, &json!({"default": all, "agents": {"asker": own}})).ok(200);

    let denied = daemon.ended(&daemon.ask("ask", &child), LONG);
    assert_eq!(denied["output"]["ok"], false, "{denied}");
    assert_eq!(denied["output"]["error"]["class"], "refusal", "{denied}");
    assert_eq!(
        denied["output"]["error"]["message"],
        "Insufficient permissions"
    );
    let other = json!({"requirements": ["echo"], "input": {}});
    let allowed = daemon.ended(&daemon.ask("ask", &other), LONG);
    assert_eq!(allowed["output"]["ok"], true, "{allowed}");
    daemon
        .client()
        .post(
            &format!("/v1/inbox/{waits}/answer"),
            &json!({"approve": true}),
        )
        .ok(200);
    let path = format!("/v1/workflows/{}", run["id"].as_str().unwrap());
    let ended = eventually("the run ends", LONG, || {
        let run = daemon.client().get(&path).ok(200);
        if run["state"] == "failed" {
            Ok(run)
        } else {
            Err(run["state"].to_string())
        }
    });
    assert!(
        ended.to_string().contains("Insufficient permissions"),
        "{ended}"
    );
    let named: Vec<_> = daemon
        .audit("kind=access.denied")
        .iter()
        .map(|record| record["payload"]["rule"].clone())
        .collect();
    assert!(
        named.contains(&json!("agents.asker.access[0]")),
        "{named:?}"
    );
    assert!(named.contains(&json!("default.access[0]")), "{named:?}");
}

#[test]
fn rules_that_cannot_be_meant_change_nothing_and_are_named() {
    let daemon = Daemon::start();
    for (rule, field) in [
        (
            json!({"decision": "allow", "verbs": ["tokens"]}),
            "default.access[0].verbs[0]",
        ),
        (
            json!({"decision": "deny", "verbs": ["governance"]}),
            "default.access[0].verbs[0]",
        ),
        (
            json!({"decision": "deny", "verbs": ["read"], "requirements": ["a"]}),
            "default.access[0].verbs[0]",
        ),
        (
            json!({"decision": "maybe", "verbs": ["read"]}),
            "default.access[0].decision",
        ),
        (
            json!({"decision": "deny", "verbs": ["fly"]}),
            "default.access[0].verbs[0]",
        ),
    ] {
        let refused =
            apply(&daemon, &json!({"default": {"access": [rule]}})).problem(422, "invalid_value");
        assert_eq!(refused["field"], field, "{refused}");
    }
    let shown = daemon.client().get("/v1/policies").ok(200);
    assert_eq!(shown["applied"], json!({}));
}

/// Says what its tasks order it to say.
const SPEAKER: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "speaker", "version": sys.argv[1], "capabilities": ["speak"]})
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        for order in got["payload"]["input"]: say(**order)
        say(type="TASK_RESULT", task_id=got["task_id"], payload={"ok": True, "output": 1})
"#;

fn speaker(version: &str, topics: &Value) -> Bundle {
    Bundle::new("speaker")
        .set("version", json!(version))
        .set("capabilities", json!(["speak"]))
        .set("security", json!({"session": true, "topics": topics}))
        .file("speaker.py", SPEAKER)
        .set(
            "runtime",
            json!({"command": "python3", "args": ["speaker.py", version]}),
        )
}

/// The refusals of an agent's use of topics that are on record: what, and by which rule.
fn topics_refused(daemon: &Daemon) -> Vec<(String, String)> {
    let denied = daemon.audit("kind=access.denied");
    let of_topics = denied.iter().map(|record| &record["payload"]);
    of_topics
        .filter(|denied| denied["user"] == "agent:speaker")
        .map(|denied| {
            let text = |field: &str| denied[field].as_str().unwrap_or_default().to_owned();
            (text("resource"), text("rule"))
        })
        .collect()
}

fn publish(topic: &str) -> Value {
    json!({"type": "PUBLISH", "payload": {"topic": topic, "data": 1}})
}

fn subscribe(topic: &str, durable: bool) -> Value {
    let mut payload = json!({"topic": topic});
    if durable {
        payload["durable"] = json!(true);
        payload["name"] = json!(topic.replace(['.', '>', '*'], "-"));
    }
    json!({"type": "SUBSCRIBE", "payload": payload})
}

#[test]
fn an_agent_uses_the_topics_that_its_manifest_leaves_it_whichever_way_it_asks() {
    if !has_python("an_agent_uses_the_topics_that_its_manifest_leaves_it_whichever_way_it_asks") {
        return;
    }
    let daemon = Daemon::start();
    let topics = json!({"publish": ["orders.*"], "subscribe": ["orders.>", "prices"]});
    daemon.deploy(&speaker("1.0.0", &topics));
    let spoken = |orders: &[Value]| daemon.output("speak", &json!(orders));
    let refused = |expected: &[(String, String)]| {
        eventually("what is refused is on record", LONG, || {
            let mut refused = topics_refused(&daemon);
            refused.sort();
            if refused.len() < expected.len() {
                return Err(format!("{refused:?}"));
            }
            assert_eq!(refused, expected, "one record each, and of nothing else");
            Ok(())
        });
    };
    let left = [
        publish("orders.new"),
        subscribe("orders.*", false),
        subscribe("orders.a.>", true),
        subscribe("prices", true),
    ];
    spoken(&left);

    let barred = [
        (publish("orders"), "orders", "publish"),
        (publish("orders.new.more"), "orders.new.more", "publish"),
        (
            json!({"type": "MESSAGE", "to": "topic://prices", "payload": {}}),
            "prices",
            "publish",
        ),
        (subscribe("*", false), "*", "subscribe"),
        (subscribe(">", true), ">", "subscribe"),
        (subscribe("prices.*", true), "prices.*", "subscribe"),
    ];
    let orders: Vec<Value> = barred.iter().map(|(order, ..)| order.clone()).collect();
    spoken(&orders);
    let mut expected: Vec<_> = barred
        .iter()
        .map(|(_, topic, rule)| {
            (
                format!("topic://{topic}"),
                format!("security.topics.{rule}"),
            )
        })
        .collect();
    expected.sort();
    refused(&expected);

    // Over HTTP with a token of the agent's, too.
    let own = daemon.of_role("agent", "speaker");
    let payload = json!({"topic": "prices", "data": 1});
    let body = json!({"type": "PUBLISH", "to": "topic://prices", "payload": payload});
    let problem = own.post("/v1/messages", &body).problem(403, "forbidden");
    let denied = json!(["denied by security.topics.publish"]);
    assert_eq!(problem["errors"], denied, "{problem}");
    let body = json!({"name": "all", "topic": ">"});
    forbidden(
        &own.post("/v1/subscriptions", &body),
        Some("security.topics.subscribe"),
    );
    let body = json!({"name": "mine", "topic": "orders.mine"});
    own.post("/v1/subscriptions", &body).ok(201);

    // A version that leaves less ends what is beyond it, and other agents' topics are theirs.
    let nothing = speaker("1.1.0", &json!({"publish": [], "subscribe": ["prices"]}));
    daemon.register(&nothing);
    let upgrade = json!({"targetVersion": "1.1.0"});
    daemon
        .client()
        .post("/v1/agents/speaker/upgrade", &upgrade)
        .ok(200);
    eventually("only what is left is subscribed to", LONG, || {
        let listed = daemon.client().get("/v1/subscriptions").ok(200);
        let listed = listed["items"].as_array().unwrap().iter();
        let names: Vec<_> = listed
            .map(|one| one["terms"]["topic"].to_string())
            .collect();
        if names == ["\"prices\""] {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    spoken(&[publish("orders.new")]);
    let more = ["orders.new", "prices"].map(|topic| (topic, "publish"));
    let more = more.into_iter().chain([(">", "subscribe")]);
    expected.extend(more.map(|(topic, rule)| {
        (
            format!("topic://{topic}"),
            format!("security.topics.{rule}"),
        )
    }));
    expected.sort();
    refused(&expected);
}

#[test]
fn work_of_an_agents_own_token_is_part_of_what_bounds_the_work_that_it_has() {
    if !has_python("work_of_an_agents_own_token_is_part_of_what_bounds_the_work_that_it_has") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&asker("asker"));
    // Issued by an admin, not given with the handshake: the same agent.
    let own = daemon.of_role("agent", "asker");
    let free = json!({"requirements": ["nobody"]});
    own.post("/v1/tasks", &free).ok(202);
    let bounded = daemon.submit(&json!({
        "requirements": ["ask"], "budget": {"calls": 3},
        "input": {"requirements": ["nobody"], "input": 1},
    }));
    eventually("it has delegated", LONG, || {
        let task = daemon.task(&bounded);
        if task["state"] == "running" && !daemon.audit("kind=task.budget").is_empty() {
            Ok(())
        } else {
            Err(task["state"].to_string())
        }
    });
    let refused = own.post("/v1/tasks", &free).problem(422, "invalid_task");
    assert_eq!(refused["field"], "parent", "{refused}");
    let message = json!({"type": "TASK_REQUEST", "to": "kai://agent.asker", "payload": {"requirements": ["nobody"], "approval": {"message": "may I?"}}});
    let refused = own.post("/v1/messages", &message);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let mut child = free.clone();
    child["parent"] = json!(bounded);
    child["budget"] = json!({"calls": 3});
    let refused = own.post("/v1/tasks", &child).problem(422, "invalid_task");
    assert_eq!(refused["field"], "budget.calls", "{refused}");
    child["budget"] = json!({"calls": 1});
    own.post("/v1/tasks", &child).ok(202);
    // What is somebody else's is not its to use up.
    daemon.deploy(&asker("other"));
    let other = daemon.of_role("agent", "other");
    let refused = other.post("/v1/tasks", &child).problem(403, "forbidden");
    assert_eq!(refused["detail"], "Insufficient permissions", "{refused}");
}

#[test]
fn nobody_puts_work_under_anothers_task_and_so_at_its_cost() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let ada = daemon.of_role("operator", "ada");
    let ben = daemon.of_role("operator", "ben");
    // It waits, with a budget that others would like.
    let task = json!({"requirements": ["nobody"], "budget": {"calls": 3}});
    let parent = ada.post("/v1/tasks", &task).ok(202)["id"].clone();
    let child = json!({"requirements": ["echo"], "input": 1, "parent": parent});
    let rule = format!("parent {}, which is another's", parent.as_str().unwrap());
    forbidden(&ben.post("/v1/tasks", &child), Some(&rule));
    // Several at once are refused as a whole.
    let free = json!({"requirements": ["echo"], "input": 1, "idempotencyKey": "alone"});
    forbidden(&ben.post("/v1/tasks", &json!([free, child])), Some(&rule));
    let denied = &daemon.audit("kind=access.denied")[0];
    assert_eq!(denied["payload"]["user"], "user:ben", "{denied}");
    assert_eq!(denied["payload"]["rule"], rule, "{denied}");
    let account = || {
        let path = format!("/v1/budgets/task:{}", parent.as_str().unwrap());
        daemon.client().get(&path).ok(200).to_string()
    };
    assert!(!account().contains("\"used\":1"), "{}", account());
    let tasks = daemon.client().get("/v1/tasks").ok(200);
    assert_eq!(tasks["items"].as_array().unwrap().len(), 1, "{tasks}");
    // Its submitter may, and below what was put there; so may an admin.
    let own = ada.post("/v1/tasks", &child).ok(202)["id"].clone();
    let waits = json!({"requirements": ["nobody"], "parent": parent});
    let admins = daemon.submit(&waits);
    let below = json!({"requirements": ["echo"], "parent": admins});
    ada.post("/v1/tasks", &below).ok(202);
    let rule = format!("parent {admins}, which is another's");
    forbidden(&ben.post("/v1/tasks", &below), Some(&rule));
    daemon.ended(own.as_str().unwrap(), LONG);
    // What is not there is nobody's.
    let nowhere = json!({"requirements": ["echo"], "parent": "nowhere"});
    let refused = ben.post("/v1/tasks", &nowhere).problem(422, "invalid_task");
    assert_eq!(refused["field"], "parent", "{refused}");
}
