//! What agents say: once, whichever way it comes, and on record whoever hears it.

use std::fs;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually, has_python};
use serde_json::{Value, json};

use crate::proof_audit::interop;
use crate::proof_identity::{bundle, new_key};

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
    let (secret, did) = new_key(&daemon, "agent.key");
    daemon
        .ctl(&["key", "register", &did, "--owner", "agent:interop"])
        .exits(0);
    daemon.deploy(&bundle("interop", Some(&secret), false));
    daemon.deploy(&listener());
    let said = json!({"tell": "agent:listener", "text": "sell at noon"});
    daemon.output("interop", &said);
    let alert =
        json!({"alert": {"severity": "low", "description": "odd smell", "agent": "listener"}});
    daemon.output("interop", &alert);
    let received = "agent=listener&kind=message_received";
    one(&daemon, received, "sell at noon");
    let sent = one(
        &daemon,
        "agent=interop&kind=message_sent",
        "\"sell at noon\"",
    );
    let envelope = sent["payload"]["envelope"].clone();
    assert_eq!(envelope["auth"]["key"], did.as_str(), "{envelope}");
    assert_eq!(envelope["to"], "agent:listener", "{envelope}");
    let alerted = one(&daemon, "agent=interop&kind=message_sent", "odd smell");
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
    let daemon = daemon.kill9().start();
    let question = one(&daemon, "kind=message_sent", "\"are you there\"");
    let received = one(
        &daemon,
        "agent=listener&kind=message_received",
        "question-1",
    );
    let said = one(&daemon, "agent=listener&kind=message_sent", "heard");
    assert_eq!(said["payload"]["envelope"], answer);
    assert_eq!(said["actor"], "agent:listener");
    assert_eq!(said["causeId"], question["position"], "{said} {received}");
    assert_eq!(said["correlationId"], question["correlationId"], "{said}");
    let trace = daemon
        .client()
        .get("/v1/messages/question-1/trace")
        .ok(200);
    let steps: Vec<_> = trace["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        steps,
        ["message_sent", "message_received", "message_sent"],
        "{trace}"
    );
}
