//! The protocol where it meets the vault, priorities and envelopes that are none: from outside, type by type.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually};
use serde_json::{Value, json};

/// How long something may take that a process of an agent does.
const WITHIN: Duration = Duration::from_secs(30);

/// An agent that says something under a reference to a token before it answers.
const SPEAKER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"speaker","version":"1.0.0","capabilities":["speaker"]}}'
while read -r line; do
  case "$line" in
    *TASK_REQUEST*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo '{"type":"MESSAGE","task_id":"'$task'","to":"user:bob","payload":"hello","auth":{"token":"vault://mesh-token@kai"}}'
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":1}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

fn said(daemon: &Daemon) -> Vec<Value> {
    daemon.audit("agent=speaker&kind=message_sent")
}

#[test]
fn a_token_by_reference_is_looked_up_for_its_sender_and_never_travels() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("speaker", SPEAKER));
    let issued = daemon
        .client()
        .post("/v1/tokens", &json!({"role": "viewer", "subject": "bob"}));
    let issued = issued.ok(201);
    let token = issued["token"].as_str().unwrap();
    // A reference that stands for nothing proves nothing and harms nothing.
    daemon.output("speaker", &json!(1));
    eventually("the first message", WITHIN, || {
        (said(&daemon).len() == 1)
            .then_some(())
            .ok_or_else(|| "none yet".to_owned())
    });
    let body = json!({"value": token, "agents": ["speaker"]}).to_string();
    let headers = [("content-type", "application/json")];
    daemon
        .client()
        .send(
            "PUT",
            "/v1/secrets/mesh-token",
            &headers,
            Some(body.as_bytes()),
        )
        .ok(200);
    daemon.output("speaker", &json!(2));
    let second = eventually("the second message", WITHIN, || {
        said(&daemon)
            .get(1)
            .cloned()
            .ok_or_else(|| "not yet".to_owned())
    });
    assert_eq!(
        second["payload"]["envelope"]["auth"]["token"], "vault://mesh-token@kai",
        "{second}"
    );
    let export = daemon.client().get("/v1/audit/export").text();
    assert!(!export.contains(token), "the token itself is in no record");

    // Nobody else borrows it by its name.
    let operator = daemon
        .client()
        .post("/v1/tokens", &json!({"role": "operator", "subject": "eve"}));
    let eve = daemon
        .client()
        .with_token(operator.ok(201)["token"].as_str());
    let borrowed = json!({
        "type": "MESSAGE", "from": "agent:speaker", "to": "user:bob", "payload": "boo",
        "auth": {"token": "vault://mesh-token@kai"},
    });
    eve.post("/v1/messages", &borrowed)
        .problem(403, "not_allowed");

    // What it stands for was revoked: the message is refused, and the agent told.
    let id = issued["id"].as_str().unwrap();
    daemon.ctl(&["token", "revoke", id]).exits(0);
    daemon.output("speaker", &json!(3));
    eventually("the refusal", WITHIN, || {
        let status = daemon.status("speaker");
        let refused = status["instances"][0]["refusedMessages"].as_u64();
        (refused == Some(1))
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    assert_eq!(said(&daemon).len(), 2);
}

#[test]
fn envelopes_that_two_readers_could_understand_differently_are_refused_by_name() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let post = |body: &str| {
        let headers = [("content-type", "application/json")];
        let answer = daemon
            .client()
            .send("POST", "/v1/messages", &headers, Some(body.as_bytes()));
        let told: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
        (
            answer.status,
            told["code"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let messages = || {
        let all = daemon.audit("");
        let is_message = |r: &&Value| r["kind"].as_str().unwrap().starts_with("message_");
        all.iter().filter(is_message).count()
    };
    let before = messages();
    for (body, status, code) in [
        (
            r#"{"type":"MESSAGE","to":"agent:echo","to":"agent:other","payload":1}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","\u0074o":"agent:other","payload":1}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payload":9007199254740993}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payload":NaN}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payload":1}{}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payload":"\ud800"}"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payl"#,
            400,
            "malformed_json",
        ),
        (
            r#"{"type":"GOSSIP","to":"agent:echo","payload":1}"#,
            422,
            "unknown_type",
        ),
        (
            r#"{"type":"MESSAGE","to":"agent:echo","payload":1,"secret":1}"#,
            422,
            "unknown_field",
        ),
        (
            r#"{"v":2,"type":"MESSAGE","to":"agent:echo","payload":1}"#,
            422,
            "unsupported_version",
        ),
        (r#"{"type":"MESSAGE","payload":1}"#, 422, "missing_field"),
        (
            r#"{"type":"MESSAGE","to":"nowhere","payload":1}"#,
            422,
            "invalid_field",
        ),
        (
            r#"{"type":"CAPABILITY_QUERY","to":"agent:echo","payload":{"capabilities":1}}"#,
            422,
            "invalid_payload",
        ),
        (
            r#"{"type":"MESSAGE","from":"user:admin","to":"agent:echo","timestamp":"2025-06-20T22:04:00Z","payload":1,"auth":{"signature":"rsa:AAAA"}}"#,
            403,
            "bad_signature",
        ),
    ] {
        assert_eq!(post(body), (status, code.to_owned()), "{body}");
    }
    assert_eq!(messages(), before, "what is refused leaves no message");
}
