//! What is posted over HTTP with an agent's token.

use mesh_tests::{Bundle, Daemon};
use serde_json::{Value, json};

use super::{denied, on_record, own, permission};

#[test]
fn what_is_posted_needs_what_the_same_act_needs_elsewhere() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let permissions = [
        permission("api", &["write"], Some("message.send")),
        permission("capability", &["execute"], Some("echo")),
        permission("topic", &["read"], None),
        permission("agent", &["write"], Some("echo")),
    ];
    let agent = Bundle::echo("agent").set("security", json!({"permissions": permissions}));
    daemon.deploy(&agent);
    let own = own(&daemon);
    let post = |kind: &str, to: &str, payload: Value| {
        let message = json!({"type": kind, "to": to, "payload": payload});
        own.post("/v1/messages", &message)
    };
    let news = json!({"note": "well"});
    post("STATUS_UPDATE", "kai://agent.echo", news.clone()).ok(200);
    let barred = [
        ("message.send", "agent:write (agent)"),
        ("task.submit", "api:execute (task.submit)"),
        ("message.receive", "api:read (message.receive)"),
    ];
    let task = json!({"requirements": ["echo"], "input": 1});
    denied(
        &post("STATUS_UPDATE", "kai://agent.agent", news),
        barred[0].1,
    );
    denied(&post("TASK_REQUEST", "kai://agent.echo", task), barred[1].1);
    let topic = json!({"topic": "a"});
    denied(&post("SUBSCRIBE", "kai://agent.agent", topic), barred[2].1);
    on_record(&daemon, &barred);
}
