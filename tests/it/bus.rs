//! The bus: durable subscriptions, at least once, also across `kill -9`.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

mod kills;

const PATIENCE: Duration = Duration::from_secs(30);

fn envelope(id: &str, topic: &str, data: &Value) -> Value {
    json!({"id": id, "type": "PUBLISH", "to": format!("topic://{topic}"), "payload": {"topic": topic, "data": data}})
}

fn publish(client: &Client, id: &str, topic: &str, data: &Value) {
    let receipt = client
        .post("/v1/messages", &envelope(id, topic, data))
        .ok(200);
    assert_eq!(receipt["status"], "published", "{receipt}");
}

fn pull(client: &Client, subscription: &str, query: &str) -> Vec<Value> {
    let path = format!("/v1/subscriptions/{subscription}/pull?{query}");
    let pulled = client.post(&path, &json!({})).ok(200);
    pulled["messages"].as_array().unwrap().clone()
}

fn settle(
    client: &Client,
    subscription: &str,
    verb: &str,
    tokens: &[&Value],
    more: Value,
) -> Value {
    let mut body = json!({ "tokens": tokens });
    if let Value::Object(more) = more {
        body.as_object_mut().unwrap().extend(more);
    }
    let path = format!("/v1/subscriptions/{subscription}/{verb}");
    client.post(&path, &body).ok(200)
}

fn operator(daemon: &Daemon, name: &str) -> Client {
    let body = json!({"role": "operator", "subject": name});
    let issued = daemon.client().post("/v1/tokens", &body).ok(201);
    daemon.client().with_token(issued["token"].as_str())
}

#[test]
fn a_message_comes_until_it_is_acknowledged_by_its_owner() {
    let daemon = Daemon::start();
    let (ada, eve) = (operator(&daemon, "ada"), operator(&daemon, "eve"));
    let order =
        json!({"name": "orders", "topic": "orders.*", "ackTimeoutMs": 500, "maxDeliver": 3});
    ada.post("/v1/subscriptions", &order).ok(201);
    ada.post("/v1/subscriptions", &order).ok(200);
    let other = json!({"name": "orders", "topic": "orders.>"});
    ada.post("/v1/subscriptions", &other)
        .problem(409, "subscription_exists");
    publish(&eve, "m1", "orders.new", &json!(1));
    publish(&eve, "m0", "bills.new", &json!(0));

    let first = pull(&ada, "orders", "max=10");
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0]["envelope"]["id"], "m1");
    assert_eq!(first[0]["envelope"]["from"], "user:eve");
    // It is in hand; then its time is over, and it comes again under the same id.
    let again = pull(&ada, "orders", "wait=20s");
    assert_eq!(again[0]["envelope"]["id"], "m1");
    assert_eq!(
        (&first[0]["delivery"], &again[0]["delivery"]),
        (&json!(1), &json!(2))
    );
    let stale = settle(&ada, "orders", "ack", &[&first[0]["token"]], Value::Null);
    assert_eq!(stale["stale"], json!([first[0]["token"]]));
    // Another's is another's, whatever is done.
    for path in ["pull", "ack"] {
        let path = format!("/v1/subscriptions/user:ada:orders/{path}");
        let body = json!({"tokens": [again[0]["token"]]});
        eve.post(&path, &body).problem(403, "forbidden");
    }
    eve.delete("/v1/subscriptions/user:ada:orders")
        .problem(403, "forbidden");
    let done = settle(&ada, "orders", "ack", &[&again[0]["token"]], Value::Null);
    assert_eq!(done["done"], json!([again[0]["token"]]));
    let view = ada.get("/v1/subscriptions/orders").ok(200);
    let counts = ["delivered", "redelivered", "acked", "queued", "unacked"];
    assert_eq!(
        counts.map(|name| view[name].as_u64().unwrap()),
        [2, 1, 1, 0, 0],
        "{view}"
    );
    ada.delete("/v1/subscriptions/orders").ok(200);
    ada.get("/v1/subscriptions/orders")
        .problem(404, "subscription_not_found");
}

#[test]
fn what_is_refused_too_often_is_a_dead_letter_that_can_be_put_back_or_dropped() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let order = json!({"name": "s", "topic": "t", "maxDeliver": 2});
    let made = client.post("/v1/subscriptions", &order).ok(201);
    let id = made["terms"]["id"].as_str().unwrap();
    publish(client, "m1", "t", &json!(1));
    for _ in 0..2 {
        let handed = pull(client, "s", "wait=10s");
        settle(
            client,
            "s",
            "nack",
            &[&handed[0]["token"]],
            json!({"reason": "no stock"}),
        );
    }
    let letter = client.get("/v1/bus/dead").ok(200)["items"][0].clone();
    assert_eq!(
        (&letter["message"], &letter["subscription"]),
        (&json!("m1"), &json!(id))
    );
    assert_eq!(letter["causes"][1]["why"], "refused: no stock");
    let number = letter["id"].to_string();
    daemon.ctl(&["bus", "dead", "retry", &number]).exits(0);
    let handed = pull(client, "s", "wait=10s");
    assert_eq!(handed[0]["delivery"], 3, "{handed:?}");
    settle(
        client,
        "s",
        "nack",
        &[&handed[0]["token"]],
        json!({"delayMs": 1}),
    );
    let handed = pull(client, "s", "wait=10s");
    settle(client, "s", "nack", &[&handed[0]["token"]], Value::Null);
    let letters = daemon
        .ctl(&["bus", "dead", "list", "-o", "json"])
        .exits(0)
        .json();
    let number = letters["items"][0]["id"].to_string();
    daemon.ctl(&["bus", "dead", "drop", &number]).exits(0);
    daemon.ctl(&["bus", "dead", "drop", &number]).exits(3);
    assert_eq!(client.get("/v1/bus/dead").ok(200)["items"], json!([]));
    let settled = daemon.audit("kind=message.dead_settled");
    assert_eq!(settled.len(), 2, "{settled:?}");
}

#[test]
fn a_full_subscription_refuses_or_drops_as_it_says_and_delays_nobody_else() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for (name, topic, more) in [
        ("slow", "t.>", json!({"maxQueue": 2})),
        ("fine", "t.>", json!({})),
        ("strict", "u", json!({"maxQueue": 1, "overflow": "reject"})),
    ] {
        let mut order = json!({"name": name, "topic": topic});
        order
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        client.post("/v1/subscriptions", &order).ok(201);
    }
    for n in 0..5 {
        publish(client, &format!("m{n}"), "t.a", &json!(n));
    }
    let ids = |messages: &[Value]| -> Vec<Value> {
        messages
            .iter()
            .map(|m| m["envelope"]["id"].clone())
            .collect()
    };
    assert_eq!(
        ids(&pull(client, "fine", "max=10")),
        ["m0", "m1", "m2", "m3", "m4"]
    );
    assert_eq!(ids(&pull(client, "slow", "max=10")), ["m3", "m4"]);
    assert_eq!(
        client.get("/v1/bus/dead").ok(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    publish(client, "u1", "u", &json!(1));
    let refused = client.post("/v1/messages", &envelope("u2", "u", &json!(2)));
    refused.problem(503, "queue_full");
    let routes = client.get("/v1/bus/routes").ok(200);
    let route = |name: &str| {
        let rows = routes["items"].as_array().unwrap();
        let own = |row: &&Value| {
            row["subscription"]
                .as_str()
                .is_some_and(|id| id.ends_with(name))
        };
        rows.iter().find(own).unwrap().clone()
    };
    assert_eq!(
        (&route("strict")["queued"], &route("fine")["unacked"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(route("slow")["pattern"], "topic://t.>");
}

#[test]
fn who_comes_late_gets_what_the_log_holds_when_it_asks_for_it() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for n in 0..100 {
        publish(client, &format!("m{n:03}"), "t", &json!(n));
    }
    for (name, from) in [("new", json!("now")), ("old", json!("earliest"))] {
        let order = json!({"name": name, "topic": "t", "from": from, "maxUnacked": 1000});
        client.post("/v1/subscriptions", &order).ok(201);
    }
    publish(client, "m100", "t", &json!(100));
    let mut got = Vec::new();
    while got.len() < 101 {
        let handed = pull(client, "old", "max=64&wait=20s");
        assert!(!handed.is_empty(), "{} came", got.len());
        got.extend(
            handed
                .iter()
                .map(|m| m["envelope"]["id"].as_str().unwrap().to_owned()),
        );
    }
    got.sort();
    let all: Vec<String> = (0..=100).map(|n| format!("m{n:03}")).collect();
    assert_eq!(got, all);
    assert_eq!(pull(client, "new", "max=64").len(), 1);
}

#[test]
fn a_traced_conversation_is_shown_hop_by_hop_and_another_by_its_head_alone() {
    let daemon = Daemon::start();
    let client = daemon.client();
    client
        .post("/v1/subscriptions", &json!({"name": "s", "topic": "t"}))
        .ok(201);
    let mut traced = envelope("m1", "t", &json!("told"));
    traced["context"] = json!({"trace": true});
    client.post("/v1/messages", &traced).ok(200);
    let handed = pull(client, "s", "wait=10s");
    settle(client, "s", "ack", &[&handed[0]["token"]], Value::Null);
    let answer = json!({"id": "m2", "type": "MESSAGE", "to": "user:bob", "in_reply_to": "m1", "payload": "heard"});
    client.post("/v1/messages", &answer).ok(200);
    publish(client, "m3", "t", &json!("secret"));
    let trace = client.get("/v1/messages/m2/trace").ok(200);
    let hops = trace["hops"].as_array().unwrap();
    let steps: Vec<(&str, &str)> = hops
        .iter()
        .map(|hop| {
            (
                hop["kind"].as_str().unwrap(),
                hop["message"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            ("message_sent", "m1"),
            ("subscription.delivered", "m1"),
            ("subscription.acked", "m1"),
            ("message_sent", "m2"),
        ]
    );
    assert_eq!(
        (&hops[0]["payload"]["data"], &hops[3]["payload"]),
        (&json!("told"), &json!("heard"))
    );
    let trace = client.get("/v1/messages/m3/trace").ok(200);
    assert_eq!(trace["traced"], false);
    assert!(!trace.to_string().contains("secret"), "{trace}");
    client
        .get("/v1/messages/m4/trace")
        .problem(404, "message_not_traced");
    daemon.ctl(&["bus", "trace", "m1"]).exits(0);
}

#[test]
fn what_happens_to_the_mesh_is_published_by_meshd_alone() {
    let daemon = Daemon::start();
    let client = daemon.client();
    daemon.deploy(&Bundle::rogue("slow", "slow"));
    client
        .post(
            "/v1/subscriptions",
            &json!({"name": "all", "topic": ">", "maxUnacked": 1000}),
        )
        .ok(201);
    let forged = envelope("x", "task.created", &json!({}));
    client
        .post("/v1/messages", &forged)
        .problem(403, "not_allowed");
    // So slow that every look at the queue, one a second, meets the backlog.
    let tasks: Vec<Value> = (0..120)
        .map(|_| json!({"type": "t", "requirements": ["slow"], "input": {"ms": 200}}))
        .collect();
    let receipts = client.post("/v1/tasks", &json!(tasks)).ok(202);
    let ids: BTreeSet<String> = receipts
        .as_array()
        .unwrap()
        .iter()
        .map(|receipt| receipt["id"].as_str().unwrap().to_owned())
        .collect();
    let (mut created, mut said) = (BTreeSet::new(), Vec::new());
    eventually("everything is said", Duration::from_mins(2), || {
        for message in pull(client, "all", "max=64&wait=1s") {
            let payload = &message["envelope"]["payload"];
            let data = &payload["data"];
            match payload["topic"].as_str().unwrap() {
                "task.created" => {
                    assert_eq!(data["type"], "t");
                    created.insert(data["task"].as_str().unwrap().to_owned());
                }
                other => said.push(format!("{other} {}", data["state"].as_str().unwrap())),
            }
            settle(client, "all", "ack", &[&message["token"]], Value::Null);
        }
        let over = |topic: &str| said.iter().any(|s| *s == format!("{topic} over"));
        let all = created.len() == ids.len() && over("queue.backlog") && over("agent.overloaded");
        if all {
            Ok(())
        } else {
            Err(format!("{} created, {said:?}", created.len()))
        }
    });
    assert_eq!(created, ids);
    let of = |topic: &str| -> Vec<String> {
        let of = said.iter().filter(|said| said.starts_with(topic));
        of.cloned().collect()
    };
    let backlog = ["queue.backlog begins", "queue.backlog over"];
    assert_eq!(of("queue.backlog"), backlog, "each once");
    // A look may meet a free place between two tasks, so it may be said again; always in turn.
    for (at, said) in of("agent.overloaded").into_iter().enumerate() {
        let state = ["begins", "over"][at % 2];
        assert_eq!(said, format!("agent.overloaded {state}"));
    }
}

/// Subscribes durably, then works on what comes: it dies of `die` the first time, refuses `no`, and acknowledges the rest.
const READER: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "reader", "version": "1.0.0", "capabilities": ["reader"]})
say(type="SUBSCRIBE", payload={"topic": "news.>", "durable": True, "name": "inbox", "maxDeliver": 3})
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "PUBLISH":
        d, what = m["context"]["delivery"], m["payload"]["data"]
        if what == "die" and d["delivery"] == 1:
            os._exit(3)
        op = "nack" if what == "no" else "ack"
        say(type="ACK", payload={"op": op, "subscription": d["subscription"], "tokens": [d["token"]]})
        say(type="PUBLISH", payload={"topic": "seen", "data": [m["id"], d["delivery"], op]})
    elif m["type"] == "TASK_REQUEST":
        say(type="TASK_RESULT", task_id=m["task_id"], payload={"ok": True, "output": 1})
    elif m["type"] == "CONTROL" and m["payload"]["verb"] == "shutdown":
        sys.exit(0)
"#;

#[test]
fn an_agents_subscription_outlives_its_incarnations_and_the_daemon() {
    if !has_python("bus") {
        return;
    }
    let reader = Bundle::new("reader")
        .set("entry", json!("main.py"))
        .file("main.py", READER);
    let daemon = Daemon::start();
    daemon.deploy(&reader);
    let client = daemon.client();
    client
        .post(
            "/v1/subscriptions",
            &json!({"name": "seen", "topic": "seen", "ackTimeoutMs": 60000}),
        )
        .ok(201);
    let subscribed = |daemon: &Daemon| {
        eventually("it subscribed", PATIENCE, || {
            let answer = daemon.client().get("/v1/subscriptions/agent:reader:inbox");
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.text())
            }
        });
    };
    subscribed(&daemon);
    let seen = |daemon: &Daemon, expected: Value| {
        let mut found = Vec::new();
        eventually("it is seen", PATIENCE, || {
            for message in pull(daemon.client(), "seen", "max=10&wait=1s") {
                found.push(message["envelope"]["payload"]["data"].clone());
                settle(
                    daemon.client(),
                    "seen",
                    "ack",
                    &[&message["token"]],
                    Value::Null,
                );
            }
            if found.contains(&expected) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
    };
    publish(client, "m1", "news.a", &json!("yes"));
    seen(&daemon, json!(["m1", 1, "ack"]));
    publish(client, "m2", "news.b.c", &json!("die"));
    seen(&daemon, json!(["m2", 2, "ack"]));
    publish(client, "m3", "news.a", &json!("no"));
    seen(&daemon, json!(["m3", 3, "nack"]));
    eventually("it is a dead letter", PATIENCE, || {
        let dead = daemon.client().get("/v1/bus/dead").ok(200);
        let found = dead["items"][0]["subscription"] == "agent:reader:inbox";
        found.then_some(()).ok_or_else(|| dead.to_string())
    });
    // What is published while the agent is away waits; what it acknowledged does not come again.
    client.post("/v1/agents/reader/stop", &json!({})).ok(200);
    publish(client, "m4", "news.a", &json!("later"));
    let daemon = daemon.kill9().start();
    daemon
        .client()
        .post("/v1/agents/reader/start", &json!({}))
        .ok(200);
    seen(&daemon, json!(["m4", 1, "ack"]));
    eventually("nothing waits", PATIENCE, || {
        let view = daemon
            .client()
            .get("/v1/subscriptions/agent:reader:inbox")
            .ok(200);
        let idle = view["queued"] == 0 && view["unacked"] == 0 && view["acked"] == 3;
        idle.then_some(()).ok_or_else(|| view.to_string())
    });
}
