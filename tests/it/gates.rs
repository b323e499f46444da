//! What a task says that it waits for while its provider's gate moves.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// Is refused by its provider, whatever it asks.
const REFUSED: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"refused","version":"1.0.0","capabilities":["refused"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":false,"error":{"class":"quota","message":"HTTP 429","retryAfterMs":1000}}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

#[test]
fn what_a_parked_task_waits_for_is_where_the_gate_stands_now() {
    let daemon = Daemon::start();
    let agent = Bundle::shell("refused", REFUSED).set("budget", json!({"provider": "acme"}));
    daemon.deploy(&agent);
    let first = daemon.submit(&json!({"requirements": ["refused"]}));
    let gate = || daemon.client().get("/v1/gates").ok(200)["items"][0].clone();
    eventually("the gate is closed", PATIENCE, || match gate() {
        Value::Null => Err("open".to_owned()),
        _ => Ok(()),
    });
    let behind = daemon.submit(&json!({"requirements": ["refused"]}));
    let strikes = |least: u64| {
        eventually("the gate has moved", PATIENCE, || {
            let gate = gate();
            let closed = gate["state"] == "closed" && gate["strikes"].as_u64() >= Some(least);
            closed.then_some(()).ok_or_else(|| gate.to_string())
        });
    };
    // The reason stays the same, and its time does not: wherever it is shown, it is the gate's.
    for least in [2, 3] {
        strikes(least);
        for id in [&first, &behind] {
            eventually("it is shown as it is", PATIENCE, || {
                let until = gate()["until"].clone();
                let shown = [
                    daemon.task(id)["waitingFor"]["until"].clone(),
                    daemon
                        .client()
                        .get(&format!("/v1/tasks/{id}/explain"))
                        .ok(200)["waitingFor"]["until"]
                        .clone(),
                    listed(&daemon, id)["waitingFor"]["until"].clone(),
                ];
                // It may move while it is looked at.
                let same = shown.iter().all(|at| *at == until) && gate()["until"] == until;
                same.then_some(())
                    .ok_or_else(|| format!("{until} {shown:?}"))
            });
        }
    }
    let records = daemon.audit("kind=task.waiting");
    assert!(
        records.len() < 8,
        "its times are no records: {}",
        records.len()
    );
}

fn listed(daemon: &Daemon, id: &str) -> Value {
    let page = daemon.client().get("/v1/tasks?state=parked").ok(200);
    let mut items = page["items"].as_array().unwrap().iter();
    items
        .find(|task| task["id"] == id)
        .cloned()
        .unwrap_or_default()
}
