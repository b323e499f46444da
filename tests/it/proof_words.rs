//! What agents say: once, whichever way it comes, and on record whoever hears it.

use std::fs;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually, has_python};
use serde_json::{Value, json};

use crate::proof_audit::interop;
use crate::proof_identity::{bundle, foreign_key, key_of, new_key, python, signed};

const WITHIN: Duration = Duration::from_secs(30);

/// An agent of the second implementation that hears, and answers what is no answer itself.
fn listener() -> Bundle {
    let source = fs::read_to_string(interop("agent.py")).unwrap();
    let renamed = source.replace("[\"interop\"]", "[\"listen\"]");
    assert_ne!(source, renamed);
    bundle("listener", None, false)
        .set("capabilities", json!(["listen"]))
        .file("agent.py", &renamed)
}

/// The one record of this kind that contains this text.
fn one(daemon: &Daemon, query: &str, text: &str) -> Value {
    eventually("a record", WITHIN, || {
        let found = daemon.audit(query);
        let mut found = found.into_iter().filter(|r| r.to_string().contains(text));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn what_an_agent_signed_on_its_own_channel_cannot_be_posted_by_anybody() {
    if !has_python("what_an_agent_signed_on_its_own_channel_cannot_be_posted_by_anybody") {
        return;
    }
    let daemon = Daemon::start();
    let (secret, did) = key_of(&daemon, "agent:interop");
    daemon.deploy(&bundle("interop", Some(&secret), false));
    daemon.deploy(&listener());
    let said = json!({"tell": "agent:listener", "text": "sell at noon"});
    daemon.output("interop", &said);
    let alert =
        json!({"alert": {"severity": "low", "description": "odd smell", "agent": "listener"}});
    daemon.output("interop", &alert);
    let received = "agent=listener&kind=message_received";
    one(&daemon, received, "sell at noon");
    // Its result repeats the text.
    let of_interop = "agent=interop&kind=message_sent";
    let sent = one(&daemon, of_interop, "\"payload\":\"sell at noon\"");
    let envelope = sent["payload"]["envelope"].clone();
    assert_eq!(envelope["auth"]["key"], did.as_str(), "{envelope}");
    assert_eq!(envelope["to"], "agent:listener", "{envelope}");
    let alerted = one(&daemon, of_interop, "\"SECURITY_ALERT\"");
    let post = |daemon: &Daemon, envelope: &Value| {
        daemon
            .client()
            .post("/v1/messages", envelope)
            .problem(409, "replayed");
    };
    post(&daemon, &envelope);
    post(&daemon, &alerted["payload"]["envelope"]);
    // Nor when meshd has forgotten everything that is not on the disk.
    let daemon = daemon.kill9().start();
    post(&daemon, &envelope);
    post(&daemon, &alerted["payload"]["envelope"]);
    one(&daemon, received, "sell at noon");
}

#[test]
fn an_answer_that_somebody_waits_for_is_on_record_before_they_have_it() {
    if !has_python("an_answer_that_somebody_waits_for_is_on_record_before_they_have_it") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&listener());
    let asked = json!({
        "id": "question-1", "type": "MESSAGE", "to": "agent:listener", "payload": "are you there",
        "context": {"trace": true},
    });
    let answer = daemon.client().post("/v1/messages", &asked).ok(200);
    assert_eq!(answer["payload"], json!({"heard": "are you there"}));
    assert_eq!(answer["in_reply_to"], "question-1");
    let plain =
        json!({"id": "question-2", "type": "MESSAGE", "to": "agent:listener", "payload": 1});
    daemon.client().post("/v1/messages", &plain).ok(200);
    let daemon = daemon.kill9().start();
    let question = one(
        &daemon,
        "agent=listener&kind=message_received",
        "question-1",
    );
    let said = "\"in_reply_to\":\"question-1\"";
    let said = one(&daemon, "agent=listener&kind=message_sent", said);
    assert_eq!(said["payload"]["envelope"], answer);
    assert_eq!(said["actor"], "agent:listener");
    assert_eq!(said["cause"], question["position"], "{said} {question}");
    assert_eq!(said["correlation"], question["correlation"], "{said}");
    let trace = daemon.client().get("/v1/messages/question-1/trace").ok(200);
    let steps: Vec<_> = trace["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["kind"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["message_received", "message_sent"], "{trace}");
    // Of one that is not traced, and of its answer, the heads alone are known.
    let trace = daemon.client().get("/v1/messages/question-2/trace").ok(200);
    let hops = trace["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 2, "{trace}");
    assert_eq!(hops[0]["kind"], "message_received", "{trace}");
    assert_eq!(hops[1]["inReplyTo"], "question-2", "{trace}");
    assert!(hops[1].get("payload").is_none_or(Value::is_null), "{trace}");
}

#[test]
fn an_agent_knows_the_node_by_its_key_and_a_stranger_what_the_agent_signed() {
    let test = "an_agent_knows_the_node_by_its_key_and_a_stranger_what_the_agent_signed";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    let (secret, did) = key_of(&daemon, "agent:interop");
    // It proves its key, and has the node prove its own; one that does not ends.
    let signs = json!({"security": {"crypto_required": true}});
    daemon.deploy(&bundle("interop", Some(&secret), false).set("policy", signs));
    let task = daemon.submit(&json!({"requirements": ["interop"], "input": {"hé": [1, 0.5]}}));
    daemon.ended(&task, WITHIN);
    let bad =
        json!({"requirements": ["interop"], "input": {"fail": "no"}, "retry": {"maxAttempts": 1}});
    let failed = daemon.submit(&bad);
    daemon.ended(&failed, WITHIN);
    let daemon = daemon.kill9().start();
    let log = daemon.home().scratch().join("interop.jsonl");
    let exported = daemon.client().get("/v1/audit/export?agent=interop");
    fs::write(&log, exported.text()).unwrap();
    let dir = interop("");
    let checked = |log: &std::path::Path| {
        let mut command = std::process::Command::new("python3");
        command.args([
            dir.join("signed.py").to_str().unwrap(),
            log.to_str().unwrap(),
        ]);
        mesh_tests::Ended::of(command, Duration::from_mins(1))
    };
    let told = checked(&log);
    assert_eq!(told.code, 0, "{} {}", told.out, told.err);
    for expected in [&did, task.as_str(), failed.as_str(), "\"ok\":false"] {
        assert!(told.out.contains(expected), "{expected}: {}", told.out);
    }
    // Another result than the one that was signed.
    let forged = fs::read_to_string(&log).unwrap().replace("0.5", "0.25");
    fs::write(&log, forged).unwrap();
    let told = checked(&log);
    assert_eq!(told.code, 1, "{} {}", told.out, told.err);
}

#[test]
fn who_had_a_task_done_is_shown_by_their_own_signature() {
    let test = "who_had_a_task_done_is_shown_by_their_own_signature";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    let (secret, did) = key_of(&daemon, "agent:interop");
    let (ada, adas) = key_of(&daemon, "user:ada");
    daemon.deploy(&bundle("interop", Some(&secret), false));
    daemon.deploy(&Bundle::echo("echo"));
    // An agent has another one do it; a person does with a message that she signed, and with one that she did not.
    let delegated = json!({"requirements": ["echo"], "input": {"rows": 0.5}});
    assert_eq!(
        daemon.output("interop", &json!({"delegate": delegated})),
        json!({"rows": 0.5})
    );
    let now = daemon.client().get("/v1/health").ok(200)["timestamp"].clone();
    let asked = json!({
        "v": 1, "id": "a1", "type": "TASK_REQUEST", "from": "kai://user.ada", "to": "agent:echo",
        "timestamp": now, "payload": {"requirements": ["echo"], "input": "for ada alone"},
    });
    let asked = signed(&ada, &asked);
    let answer = daemon.client().post("/v1/messages", &asked).ok(200);
    let query = json!({
        "v": 1, "id": "a2", "type": "CAPABILITY_QUERY", "from": "user:ada", "to": "agent:echo", "timestamp": now,
        "payload": {"capabilities": ["echo"]},
    });
    let query = signed(&ada, &query);
    daemon.client().post("/v1/messages", &query).ok(200);
    let adas_task = answer["context"]["taskId"].as_str().unwrap().to_owned();
    let unsigned = json!({
        "type": "TASK_REQUEST", "to": "agent:echo", "payload": {"requirements": ["echo"], "input": "unsigned"},
    });
    daemon.client().post("/v1/messages", &unsigned).ok(200);
    let daemon = daemon.kill9().start();
    let submitted = daemon.audit("kind=task.submitted");
    let keys: Vec<_> = (submitted.iter())
        .map(|record| &record["payload"]["envelope"]["auth"]["key"])
        .collect();
    // What was taken is not taken again, whoever brings it; nor what an agent said on its own channel.
    let operator = daemon.of_role("operator", "bob");
    for line in [&asked, &query] {
        for client in [&operator, daemon.client()] {
            client.post("/v1/messages", line).problem(409, "replayed");
        }
    }
    let delegation = &submitted[1]["payload"]["envelope"];
    operator
        .post("/v1/messages", delegation)
        .problem(409, "stale");
    let (did, adas) = (json!(did), json!(adas));
    assert_eq!(keys, [&Value::Null, &did, &adas, &Value::Null]);
    let log = daemon.home().scratch().join("all.jsonl");
    let exported = || daemon.client().get("/v1/audit/export").text();
    let checked = |text: &str| {
        fs::write(&log, text).unwrap();
        let program = interop("signed.py");
        python(&[program.to_str().unwrap(), log.to_str().unwrap()], &[])
    };
    let whole = exported();
    let told = checked(&whole);
    assert_eq!(told.code, 0, "{} {}", told.out, told.err);
    let asked: Vec<_> = (told.out.lines())
        .filter(|line| line.contains(" asked "))
        .collect();
    assert_eq!(asked.len(), 2, "{}", told.out);
    assert!(asked[0].contains(did.as_str().unwrap()), "{}", told.out);
    assert!(asked[1].starts_with(&adas_task), "{}", told.out);
    // Another task than the one that she signed.
    let said = r#"\"input\":\"for ada alone\""#;
    assert!(whole.contains(said), "{whole}");
    let forged = whole.replacen(said, r#"\"input\":\"for everybody\""#, 1);
    assert_eq!(checked(&forged).code, 1);
    // It is erased with the task.
    let erase = ["audit", "erase", "--task", &adas_task, "--reason", "test"];
    daemon.ctl(&erase).exits(0);
    eventually("it is erased", WITHIN, || {
        let log = exported();
        (!log.contains("for ada alone")).then_some(()).ok_or(log)
    });
    assert_eq!(checked(&exported()).code, 0);
}

#[test]
fn in_the_name_of_an_agent_nothing_is_taken_that_it_may_not_say_now() {
    let test = "in_the_name_of_an_agent_nothing_is_taken_that_it_may_not_say_now";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    let (secret, _) = key_of(&daemon, "agent:interop");
    daemon.deploy(&bundle("interop", Some(&secret), false));
    daemon.deploy(&listener());
    let said = |daemon: &Daemon, id: &str, more: Value| {
        let now = daemon.client().get("/v1/health").ok(200)["timestamp"].clone();
        let mut line = json!({
            "v": 1, "id": id, "type": "MESSAGE", "from": "agent:interop", "to": "agent:listener", "timestamp": now,
            "payload": id,
        });
        for (member, value) in more.as_object().unwrap() {
            line[member] = value.clone();
        }
        signed(&secret, &line)
    };
    let post = |daemon: &Daemon, line: &Value| daemon.client().post("/v1/messages", line);
    let shaken = daemon.audit("agent=interop&kind=handshaken");
    let epoch = shaken[0]["payload"]["epoch"].as_u64().unwrap();
    for other in [0, epoch + 1] {
        let line = said(&daemon, "other", json!({"epoch": other}));
        post(&daemon, &line).problem(409, "stale");
    }
    post(&daemon, &said(&daemon, "now", json!({"epoch": epoch}))).ok(200);
    post(&daemon, &said(&daemon, "any", json!({}))).ok(200);
    daemon
        .ctl(&["agent", "quarantine", "interop", "--reason", "test"])
        .exits(0);
    daemon.fault_state("interop", "quarantined", WITHIN);
    for from in ["agent:interop", "kExecutor:interop", "kai://agent.interop"] {
        let line = said(&daemon, "late", json!({"from": from}));
        post(&daemon, &line).problem(403, "not_allowed");
    }
    // What the node itself said is no more said by whoever repeats it.
    let node = fs::read_to_string(daemon.home().data().join("node.key")).unwrap();
    let from = daemon.client().get("/status").ok(200)["node"].clone();
    let from = format!("kai://node.{}", from.as_str().unwrap());
    let line = said(&daemon, "node", json!({"from": from}));
    let line = signed(node.trim(), &line);
    post(&daemon, &line).problem(403, "not_allowed");
}

#[test]
fn a_key_is_of_the_kind_that_the_manifest_says() {
    let daemon = Daemon::start();
    let (_, ed25519) = new_key(&daemon, "agent.key");
    daemon
        .ctl(&["key", "register", &ed25519, "--owner", "agent:echo"])
        .exits(0);
    let tar = [("content-type", "application/x-tar")];
    let post = |crypto: &str| {
        let bundle = Bundle::echo("echo").set("security", json!({"crypto": crypto}));
        daemon
            .client()
            .send("POST", "/v1/agents", &tar, Some(&bundle.tar()))
    };
    for crypto in ["secp256k1", "rsa"] {
        let problem = post(crypto).problem(422, "policy_refused");
        assert!(problem.to_string().contains("of kind ed25519"), "{problem}");
    }
    post("ed25519").ok(201);
    // One that holds a key on the other curve may have to sign with it.
    let (_, foreign) = foreign_key(9);
    daemon
        .ctl(&["key", "register", &foreign, "--owner", "agent:interop"])
        .exits(0);
    let signs = json!({"security": {"crypto_required": true}});
    let post = |crypto: &str| {
        let bundle = bundle("interop", None, false).set("policy", signs.clone());
        let bundle = bundle.set("security", json!({"crypto": crypto}));
        daemon
            .client()
            .send("POST", "/v1/agents", &tar, Some(&bundle.tar()))
    };
    post("none").problem(422, "invalid_manifest");
    post("ed25519").problem(422, "policy_refused");
    post("secp256k1").ok(201);
}

#[test]
fn whoever_has_to_sign_does_so_under_every_name_that_reaches_it() {
    if !has_python("whoever_has_to_sign_does_so_under_every_name_that_reaches_it") {
        return;
    }
    let daemon = Daemon::start();
    let (secret, _) = key_of(&daemon, "agent:interop");
    let signs = json!({"security": {"crypto_required": true}});
    daemon.deploy(&bundle("interop", Some(&secret), false).set("policy", signs));
    daemon.deploy(&listener());
    for from in [
        "agent:interop",
        "kExecutor:interop",
        "Agent:interop",
        "kai://agent.interop",
    ] {
        let posted = json!({"type": "MESSAGE", "from": from, "to": "agent:listener", "payload": 1});
        daemon
            .client()
            .post("/v1/messages", &posted)
            .problem(403, "unsigned");
    }
    // A token that opens nothing is refused as that of whoever brings it.
    let posted = json!({
        "type": "MESSAGE", "to": "agent:listener", "payload": 1, "auth": {"token": "mesh_nothing"},
    });
    daemon
        .client()
        .post("/v1/messages", &posted)
        .problem(401, "unauthenticated");
    let denied = one(&daemon, "kind=access.denied", "\"authenticate\"");
    assert_eq!(denied["payload"]["user"], "user:admin", "{denied}");
}

#[test]
fn a_period_has_its_records_and_does_not_end_before_it_begins() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let all = daemon.audit("agent=echo");
    let middle = all[all.len() / 2]["time"].as_str().unwrap();
    let tail = |more: [&str; 2]| {
        let arguments = [
            "audit", "tail", "--agent", "echo", "-n", "1000", "-o", "json",
        ];
        let told = daemon
            .ctl(&[&arguments[..], &more].concat())
            .exits(0)
            .json();
        let items = told["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|entry| entry["time"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (before, after) = (tail(["--until", middle]), tail(["--since", middle]));
    assert!(before.len() < all.len() && !before.is_empty(), "{before:?}");
    assert!(before.iter().all(|time| &**time <= middle), "{before:?}");
    assert!(after.iter().all(|time| &**time >= middle), "{after:?}");
    assert!(after.len() + before.len() >= all.len());
    let (early, late) = ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
    for verb in ["tail", "report"] {
        let told = daemon.ctl(&["audit", verb, "--since", late, "--until", early]);
        assert_eq!(told.code, 2, "{}", told.err);
    }
    let wrong = daemon
        .client()
        .get(&format!("/v1/audit?since={late}&until={early}"));
    assert_eq!(wrong.status, 400, "{}", wrong.text());
}
