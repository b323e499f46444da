//! D9 with a fleet: 512 agents share one account, all of them meet its limit at once, and meshd is killed while they wait.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

use super::saw;

/// Agents at one account, each with a process, and a task, of its own.
const AGENTS: usize = 512;
/// For starting so many processes on a small machine.
const LONG: Duration = Duration::from_mins(8);
/// How long the provider refuses everybody.
const WALL: Duration = Duration::from_secs(30);

/// Is refused by its provider until the time that its task names.
const MEMBER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"'$MESH_AGENT'","version":"1.0.0","capabilities":["ask"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      until=${line#*\"until\":}; until=${until%%[!0-9]*}
      if [ "$(date +%s)" -lt "$until" ]; then
        echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":false,"error":{"class":"quota","message":"HTTP 429","retryAfterMs":2000}}}'
      else
        echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":"'$MESH_AGENT'"}}'
      fi ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

fn name(nth: usize) -> String {
    format!("member-{nth:03}")
}

fn all_serve(daemon: &Daemon) {
    for nth in 0..AGENTS {
        daemon.executing(&name(nth), 1, LONG);
    }
}

/// What is answered, once it is: on a small machine not every look comes through while all are refused at once.
fn seen(daemon: &Daemon, path: &str) -> Value {
    eventually(path, LONG, || {
        let answer = daemon.client().get(path);
        match answer.status {
            200 => Ok(answer.json()),
            _ => Err(answer.text()),
        }
    })
}

fn gate(daemon: &Daemon) -> Value {
    seen(daemon, "/v1/gates")["items"][0].clone()
}

#[test]
fn d9_512_agents_at_one_account_lose_no_task_though_meshd_is_killed_while_they_wait() {
    let daemon = Home::new()
        .config(&format!(
            "orchestrator:\n  policies:\n    max_parallel_tasks: {AGENTS}\nsupervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\n"
        ))
        .start();
    for nth in 0..AGENTS {
        let bundle = Bundle::shell(&name(nth), MEMBER)
            .set("capabilities", json!(["ask"]))
            .set("budget", json!({"provider": "acme"}));
        daemon.register(&bundle);
    }
    all_serve(&daemon);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let until = (now + WALL).as_secs();
    let tasks = (0..AGENTS).map(|nth| {
        json!({"requirements": ["ask"], "agent": name(nth), "input": {"until": until}, "retry": {"maxAttempts": 1}})
    });
    let receipts = daemon
        .client()
        .post("/v1/tasks", &Value::Array(tasks.collect()))
        .ok(202);
    let ids: Vec<String> = receipts
        .as_array()
        .unwrap()
        .iter()
        .map(|receipt| receipt["id"].as_str().unwrap().to_owned())
        .collect();
    eventually("the account is closed and all wait", LONG, || {
        let gate = gate(&daemon);
        let page = seen(&daemon, "/v1/tasks?state=parked&limit=200");
        let parked = page["items"].as_array().map_or(0, Vec::len);
        (gate["state"] == "closed" && parked == 200)
            .then_some(())
            .ok_or_else(|| format!("{parked} of {AGENTS} are parked; {gate}"))
    });
    saw(&format!("before the kill: {}", gate(&daemon)));

    let daemon = daemon.kill9().start();
    all_serve(&daemon);
    saw(&format!("after the kill: {}", gate(&daemon)));
    let mut refused = 0;
    for (nth, id) in ids.iter().enumerate() {
        let task = daemon.ended(id, LONG);
        assert_eq!(task["state"], "succeeded", "{task}");
        assert_eq!(task["output"], name(nth), "{task}");
        // Only one attempt counts, and that one was not lost: refusals and the kill use up none.
        for attempt in task["attempts"].as_array().unwrap() {
            let class = attempt["error"]["class"].as_str().unwrap_or_default();
            assert!(["", "quota", "lost"].contains(&class), "{task}");
            refused += usize::from(class == "quota");
        }
    }
    saw(&format!("{refused} refusals of {AGENTS} agents"));
    assert!(refused > 0, "the limit was met");
    // Each has one outcome, in the log as well.
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for record in daemon.audit("kind=task.succeeded") {
        let task = record["task"].as_str().unwrap().to_owned();
        *outcomes.entry(task).or_default() += 1;
    }
    assert_eq!(outcomes.len(), AGENTS);
    assert!(outcomes.values().all(|times| *times == 1), "{outcomes:?}");
    eventually("the gate opens", LONG, || match gate(&daemon) {
        Value::Null => Ok(()),
        gate => Err(gate.to_string()),
    });
}
