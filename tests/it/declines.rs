//! An agent that will not do a task leaves it to the next.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually, has_python};
use serde_json::json;

const LONG: Duration = Duration::from_mins(1);

/// An agent that declines what is not for it by name, or for nobody.
const PICKY: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
me = os.environ["MESH_AGENT"]
say(type="HANDSHAKE", payload={"name": me, "version": "1.0.0", "capabilities": ["pick"]})
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] != "TASK_REQUEST": continue
    if got["payload"]["input"]["for"] == me:
        say(type="TASK_RESULT", task_id=got["task_id"], payload={"ok": True, "output": me})
    else:
        error = {"class": "declined", "message": "not for " + me}
        say(type="TASK_RESULT", task_id=got["task_id"], payload={"ok": False, "error": error})
"#;

fn picky(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!(["pick"]))
        .file("picky.py", PICKY)
        .set("entry", json!("picky.py"))
        .set("runtime", json!({"command": "python3"}))
}

#[test]
fn the_next_is_offered_what_one_declines_and_what_all_decline_is_dead_lettered() {
    if !has_python("the_next_is_offered_what_one_declines_and_what_all_decline_is_dead_lettered") {
        return;
    }
    let daemon = Daemon::start();
    for id in ["a", "b", "c"] {
        daemon.deploy(&picky(id));
    }
    let task = daemon.submit(&json!({
        "type": "pick", "input": {"for": "c"}, "retry": {"maxAttempts": 1},
    }));
    let ended = daemon.ended(&task, LONG);
    assert_eq!(ended["output"], "c", "{ended}");
    let attempts = ended["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{ended}");
    assert_eq!(attempts[0]["error"]["class"], "declined");
    assert_eq!(attempts[0]["error"]["message"], "not for a");

    let nobody = daemon.submit(&json!({"type": "pick", "input": {"for": "nobody"}}));
    let ended = daemon.ended(&nobody, LONG);
    assert_eq!(ended["state"], "dead_lettered");
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 3, "{ended}");
    // Nobody paid for it.
    for id in ["a", "b", "c"] {
        let status = daemon
            .client()
            .get(&format!("/v1/agents/{id}/status"))
            .ok(200);
        assert_eq!(status["fault"]["score"], 0, "{status}");
    }
    let declined = daemon.audit("kind=task.attempt_failed");
    assert_eq!(declined.len(), 5);

    // A person takes up what nobody wants; after kill -9 those who declined are new, and are asked anew.
    let asked = daemon.submit(&json!({
        "type": "pick", "input": {"for": "nobody"}, "escalate": [{"person": "operator"}],
    }));
    let item = |daemon: &Daemon| {
        eventually("somebody is asked", LONG, || {
            let page = daemon.client().get("/v1/inbox").ok(200);
            match page["items"].as_array().unwrap().first() {
                Some(item) => Ok(item.clone()),
                None => Err(page.to_string()),
            }
        })
    };
    let first = item(&daemon);
    assert_eq!(first["about"]["error"]["class"], "declined", "{first}");
    let daemon = daemon.kill9().start();
    assert_eq!(item(&daemon)["id"], first["id"]);
    daemon
        .ctl(&[
            "inbox",
            "answer",
            first["id"].as_str().unwrap(),
            "output: \"by hand\"",
        ])
        .exits(0);
    assert_eq!(daemon.ended(&asked, LONG)["output"], "by hand");
}

/// What a manifest says that a capability takes and gives is held, and so is how long it takes.
#[test]
fn profiles_are_held() {
    let daemon = Daemon::start();
    let profile = json!({
        "input": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
        "output": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}},
        "timeout": "1s",
    });
    let bundle = Bundle::command(
        "narrow",
        "read -r x; case $x in *7*) sleep 60;; *) echo \"$x\";; esac",
    )
    .set("capabilities", json!(["count"]))
    .set("profiles", json!({"count": profile}));
    daemon.deploy(&bundle);
    let ended = |input: serde_json::Value| {
        let task = json!({"type": "count", "input": input, "retry": {"maxAttempts": 1}});
        daemon.ended(&daemon.submit(&task), LONG)
    };
    let good = ended(json!({"n": 3}));
    assert_eq!(good["output"]["n"], 3, "{good}");
    assert_eq!(good["attempts"][0]["limitMs"], 1000, "{good}");
    let class = |task: &serde_json::Value| task["error"]["class"].clone();
    let refused = ended(json!({"n": "three"}));
    assert_eq!(class(&refused), "declined", "{refused}");
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("count: n"), "{refused}");
    let broken = ended(json!({"n": 12}));
    assert_eq!(class(&broken), "contract", "{broken}");
    let late = ended(json!({"n": 7}));
    assert_eq!(class(&late), "timeout", "{late}");
    // What the task says goes before.
    let patient = json!({"type": "count", "input": {"n": 5}, "timeoutMs": 5000});
    let patient = daemon.ended(&daemon.submit(&patient), LONG);
    assert_eq!(patient["attempts"][0]["limitMs"], json!(null), "{patient}");

    // Another that takes it is asked in its stead.
    let wide = Bundle::command("wide", "cat").set("capabilities", json!(["count"]));
    daemon.deploy(&wide);
    let taken = ended(json!({"n": "three"}));
    assert_eq!(taken["output"]["n"], "three", "{taken}");
}
