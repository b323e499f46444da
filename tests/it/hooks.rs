//! The hooks of an agent's life come in their order, and only to those who asked for them.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually, has_python};
use serde_json::{Value, json};

#[test]
fn hooks_come_in_order_and_shutdown_comes_last() {
    if !has_python("hooks_come_in_order_and_shutdown_comes_last") {
        return;
    }
    let daemon = Daemon::start();
    let agent =
        Bundle::rogue("hooks", "hooks").set("heartbeat", json!({"interval": "200ms", "ttl": "5s"}));
    daemon.deploy(&agent);
    // It serves only once `init` and `start` were answered, in this order.
    let first = daemon.output("hooks", &json!(null));
    assert_eq!(
        first.as_array().unwrap()[..2],
        [json!("init"), json!("start")],
        "{first}"
    );
    eventually(
        "its health is asked for, again and again",
        Duration::from_secs(20),
        || {
            let seen = daemon.output("hooks", &json!(null));
            let asked = seen
                .as_array()
                .unwrap()
                .iter()
                .filter(|verb| **verb == "health")
                .count();
            if asked >= 2 {
                Ok(())
            } else {
                Err(seen.to_string())
            }
        },
    );
    daemon
        .client()
        .post("/v1/agents/hooks/pause", &json!({}))
        .ok(200);
    daemon
        .client()
        .post("/v1/agents/hooks/resume", &json!({}))
        .ok(200);
    let seen = daemon.output("hooks", &json!(null));
    let verbs: Vec<&Value> = seen
        .as_array()
        .unwrap()
        .iter()
        .filter(|verb| **verb != "health")
        .collect();
    assert_eq!(verbs, ["init", "start", "pause", "resume"]);

    daemon
        .client()
        .post("/v1/agents/hooks/stop", &json!({}))
        .ok(200);
    daemon.gone("hooks", Duration::from_secs(10));
    let logs = daemon
        .client()
        .get("/v1/agents/hooks/logs?tail=1000")
        .ok(200);
    let last = logs["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["line"], "hook shutdown", "{logs}");
    let stopped = daemon.audit("kind=instance.stopped&agent=hooks");
    assert_eq!(stopped.len(), 1);
    assert_eq!(
        daemon.audit("kind=error&agent=hooks").len(),
        0,
        "an ordered end is no failure"
    );
    assert_eq!(daemon.status("hooks")["fault"]["score"], 0);
}

#[test]
fn who_asked_for_no_hook_is_sent_none() {
    if !has_python("who_asked_for_no_hook_is_sent_none") {
        return;
    }
    let daemon = Daemon::start();
    let spy = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"spy","version":"1.0.0","capabilities":["spy"]}}'
while read -r line; do
  case "$line" in
    *'"verb":"shutdown"'*) exit 0 ;;
    *'"type":"CONTROL"'*) echo "CONTROL" >&2 ;;
    *'"type":"TASK_REQUEST"'*)
      id=$(printf '%s' "$line" | sed 's/.*"task_id":"\([^"]*\)".*/\1/')
      echo "{\"type\":\"TASK_RESULT\",\"task_id\":\"$id\",\"payload\":{\"ok\":true,\"output\":1}}" ;;
  esac
done"#;
    daemon.deploy(&Bundle::shell("spy", spy));
    daemon
        .client()
        .post("/v1/agents/spy/pause", &json!({}))
        .ok(200);
    daemon
        .client()
        .post("/v1/agents/spy/resume", &json!({}))
        .ok(200);
    assert_eq!(daemon.output("spy", &json!(null)), json!(1));
    let logs = daemon.client().get("/v1/agents/spy/logs").ok(200);
    assert_eq!(logs["items"], json!([]));
}
