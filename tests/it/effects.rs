//! Effects on the world that are recorded once: over KLP, through kills of agent and meshd.

use std::time::Duration;

use mesh_tests::{Bundle, Home, eventually, has_python};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);

/// Asks whether it has done its work before; does it and records it if not; then dies before its first result.
const CAREFUL: &str = r#"
import json, os, sys, time
def say(o): print(json.dumps(o), flush=True)
say({"type": "HANDSHAKE", "payload": {"name": "careful", "version": "1.0.0", "capabilities": ["careful"]}})
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "TASK_REQUEST":
        task = m
        say({"type": "MEMORY", "id": "once-%s" % m["attempt"], "payload":
             {"op": "once", "key": "sent/" + m["task_id"], "value": {"by": m["epoch"]}}})
    elif m["type"] == "MEMORY":
        answer = m["payload"]
        if answer["first"]:
            time.sleep(600)
        say({"type": "TASK_RESULT", "task_id": task["task_id"], "payload": {"ok": True, "output":
             {"first": answer["first"], "by": answer["value"]["by"], "epoch": task["epoch"]}}})
"#;

#[test]
fn what_was_done_before_a_kill_is_known_to_the_attempt_after_it() {
    if !has_python("what_was_done_before_a_kill_is_known_to_the_attempt_after_it") {
        return;
    }
    let daemon = Home::new().start();
    let careful = Bundle::new("careful")
        .file("main.py", CAREFUL)
        .set("entry", json!("main.py"));
    daemon.deploy(&careful);
    let id = daemon.submit(&json!({"requirements": ["careful"], "input": null}));
    let path = format!("/v1/memory/careful/sent%2F{id}");
    let recorded = eventually("the effect is on record", PATIENCE, || {
        let answer = daemon.client().get(&path);
        match answer.status {
            200 => Ok(answer.json()),
            _ => Err(answer.text()),
        }
    });
    let daemon = daemon.kill9().start();
    let task = daemon.ended(&id, PATIENCE);
    assert_eq!(task["state"], "succeeded", "{task}");
    let output = &task["output"];
    assert_eq!(output["first"], false, "{task}");
    assert_eq!(output["by"], recorded["value"]["by"], "{recorded}");
    assert_ne!(
        output["by"], output["epoch"],
        "an earlier incarnation did it: {task}"
    );
}
