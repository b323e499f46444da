//! Agents as they should be: in any language, delegating, remembering.

use mesh_tests::{Bundle, Daemon, Home, has_python};
use serde_json::{Value, json};

use super::SOON;

/// An agent in a language without a JSON library.
const SHELL: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"sh","version":"1.0.0","capabilities":["sh"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      id=$(printf '%s' "$line" | sed 's/.*"task_id":"\([^"]*\)".*/\1/')
      echo "{\"type\":\"STATUS_UPDATE\",\"task_id\":\"$id\",\"payload\":{\"progress\":0.5,\"note\":\"half way\"}}"
      echo "{\"type\":\"TASK_RESULT\",\"task_id\":\"$id\",\"payload\":{\"ok\":true,\"output\":\"from sh\"}}" ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

/// The example of docs/KLP.md, word for word.
const FIVE_LINES: &str = r#"import json, sys
print(json.dumps({"type": "HANDSHAKE", "payload": {"name": "echo", "version": "1.0.0", "capabilities": ["echo"]}}), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "TASK_REQUEST":
        print(json.dumps({"type": "TASK_RESULT", "task_id": m["task_id"], "payload": {"ok": True, "output": m["payload"]["input"]}}), flush=True)
"#;

#[test]
fn an_agent_may_be_a_few_lines_of_shell() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("sh", SHELL));
    for _ in 0..3 {
        assert_eq!(daemon.output("sh", &json!(1)), json!("from sh"));
    }
}

#[test]
fn the_example_of_the_documentation_works_as_it_stands() {
    if !has_python("the_example_of_the_documentation_works_as_it_stands") {
        return;
    }
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/KLP.md")).unwrap();
    assert!(
        documented.contains(FIVE_LINES),
        "the example has changed; change it here, too"
    );
    let daemon = Daemon::start();
    // Without a runtime: the ending of the entry says what runs it.
    daemon.deploy(
        &Bundle::new("echo")
            .file("main.py", FIVE_LINES)
            .set("entry", json!("main.py")),
    );
    assert_eq!(
        daemon.output("echo", &json!({"text": "hi"})),
        json!({"text": "hi"})
    );
}

#[test]
fn delegation_brings_the_answer_and_parents_that_wait_cannot_starve_their_children() {
    if !has_python(
        "delegation_brings_the_answer_and_parents_that_wait_cannot_starve_their_children",
    ) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::rogue("boss", "delegate").set("concurrency", json!(20)));
    // More parents than tasks may run at once.
    let input = |n: u32| json!({"to": "echo", "input": {"n": n}});
    let tasks: Vec<String> = (0..20).map(|n| daemon.ask("boss", &input(n))).collect();
    for (n, task) in (0_u32..).zip(&tasks) {
        let task = daemon.ended(task, SOON);
        assert_eq!(task["state"], "succeeded", "{task}");
        assert_eq!(
            task["output"],
            json!({"child": {"ok": true, "output": {"n": n}}})
        );
    }
    let children = daemon.client().get("/v1/tasks?limit=100").ok(200);
    let of_parents = children["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|task| task["parent"].is_string());
    assert_eq!(of_parents.count(), 20);
}

fn memory(daemon: &Daemon, op: &Value) -> Value {
    let reply = daemon.output("mind", op);
    assert_eq!(reply["ok"], true, "{reply}");
    reply["value"].clone()
}

#[test]
fn persistent_memory_survives_the_daemon_and_volatile_memory_does_not() {
    if !has_python("persistent_memory_survives_the_daemon_and_volatile_memory_does_not") {
        return;
    }
    for (kind, after) in [("persistent", json!({"n": 1})), ("volatile", Value::Null)] {
        let daemon = Daemon::start();
        daemon.deploy(&Bundle::rogue("mind", "remember").set("memory", json!({"type": kind})));
        memory(
            &daemon,
            &json!({"op": "set", "key": "seen/42", "value": {"n": 1}}),
        );
        memory(
            &daemon,
            &json!({"op": "set", "key": "other", "value": true}),
        );
        assert_eq!(
            memory(&daemon, &json!({"op": "get", "key": "seen/42"})),
            json!({"n": 1})
        );
        assert_eq!(
            memory(&daemon, &json!({"op": "list", "key": "seen/"})),
            json!(["seen/42"])
        );
        memory(&daemon, &json!({"op": "delete", "key": "other"}));
        assert_eq!(
            memory(&daemon, &json!({"op": "get", "key": "other"})),
            Value::Null
        );
        let daemon = daemon.kill9().start();
        assert_eq!(
            memory(&daemon, &json!({"op": "get", "key": "seen/42"})),
            after,
            "{kind}"
        );
    }
}

#[test]
fn a_fleet_shares_the_work_and_no_more_runs_at_once_than_is_allowed() {
    if !has_python("a_fleet_shares_the_work_and_no_more_runs_at_once_than_is_allowed") {
        return;
    }
    let home = Home::new().config("orchestrator:\n  policies:\n    max_parallel_tasks: 3\n");
    let daemon = home.start();
    daemon.deploy(&Bundle::rogue("slow", "slow").set("replicas", json!(5)));
    let tasks: Vec<String> = (0..12)
        .map(|_| daemon.ask("slow", &json!({"ms": 100})))
        .collect();
    let mut most = 0;
    mesh_tests::eventually("all are done", SOON, || {
        let counts = daemon.client().get("/status").ok(200)["tasks"].clone();
        let at = |state: &str| counts[state].as_u64().unwrap_or(0);
        most = most.max(at("assigned") + at("running"));
        if at("succeeded") == 12 {
            Ok(())
        } else {
            Err(counts.to_string())
        }
    });
    assert!((1..=3).contains(&most), "{most} at once");
    let by: std::collections::BTreeSet<String> = tasks
        .iter()
        .map(|id| daemon.task(id)["attempts"][0]["instance"].to_string())
        .collect();
    assert!(by.len() > 1, "the replicas share the work: {by:?}");
}
