//! What an agent says of itself before it is exchanged or restarted is given to its next incarnation.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// Keeps what its tasks tell it, in memory alone. What it does when it is asked to save and to restore is in its
/// arguments: `ok`, `error`, `exit`, `silent`; `none` names no hook.
const KEEPER: &str = r#"
import json, os, sys, time
version, saves, restores = sys.argv[1:4]
def say(**line): print(json.dumps(line), flush=True)
hooks = [name for name, way in [("save_state", saves), ("restore_state", restores)] if way != "none"]
state, told = None, []
say(type="HANDSHAKE", payload={"name": "keeper", "version": version, "capabilities": ["keep"], "hooks": hooks})
for line in sys.stdin:
    got = json.loads(line)
    payload = got.get("payload", {})
    verb = payload.get("verb")
    if verb == "shutdown": break
    if verb in ("save_state", "restore_state"):
        way = saves if verb == "save_state" else restores
        if way == "exit": os._exit(3)
        if way == "silent": time.sleep(600)
        answer = {"error": "cannot"} if way == "error" else {}
        if verb == "save_state" and way == "ok": answer = {"state": state}
        if verb == "restore_state" and way == "ok": state = payload["args"]["state"]; told.append(payload["args"])
        say(type="STATUS_UPDATE", in_reply_to=got["id"], payload=answer)
    if got["type"] == "TASK_REQUEST":
        order = payload["input"]
        if "hang" in order and got["attempt"] == 1: continue
        if "keep" in order: state = order["keep"]
        if "large" in order: state = "x" * order["large"]
        say(type="TASK_RESULT", task_id=got["task_id"], payload={"ok": True, "output": {
            "version": version, "state": state if len(str(state)) < 1000 else len(str(state)),
            "told": [{key: each[key] for key in ("version", "epoch")} for each in told]}})
"#;

fn keeper(version: &str, saves: &str, restores: &str) -> Bundle {
    Bundle::new("keeper")
        .set("version", json!(version))
        .set("capabilities", json!(["keep"]))
        .file("keeper.py", KEEPER)
        .set(
            "runtime",
            json!({"command": "python3", "args": ["keeper.py", version, saves, restores]}),
        )
}

fn upgrade(daemon: &Daemon, to: &str) -> Value {
    let body = json!({"type": "soft", "targetVersion": to});
    daemon
        .client()
        .post("/v1/agents/keeper/upgrade", &body)
        .ok(200)
}

fn restart(daemon: &Daemon) {
    let before = daemon.status("keeper")["epoch"].as_u64().unwrap();
    daemon
        .client()
        .post("/v1/agents/keeper/restart", &json!({}))
        .ok(200);
    eventually("it was restarted", LONG, || {
        let status = daemon.status("keeper");
        let again = status["epoch"].as_u64().unwrap() > before;
        if again && status["lifecycle"] == "executing" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn state() -> Value {
    json!({"b": [1, 2.5, null, "ä\u{0}\n\\"], "a": {"deep": {"": true}}, "n": -9_007_199_254_740_991_i64})
}

#[test]
fn what_one_version_says_is_given_to_the_next_one() {
    if !has_python("what_one_version_says_is_given_to_the_next_one") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&keeper("1.0.0", "ok", "ok"));
    daemon.output("keep", &json!({"keep": state()}));
    daemon.register(&keeper("2.0.0", "ok", "ok"));
    let done = upgrade(&daemon, "2.0.0");
    assert_eq!(
        (&done["success"], &done["type"]),
        (&json!(true), &json!("soft")),
        "{done}"
    );
    let seen = daemon.output("keep", &json!({}));
    let told = json!([{"version": "1.0.0", "epoch": 1}]);
    assert_eq!(
        seen,
        json!({"version": "2.0.0", "state": state(), "told": told})
    );

    // A restart by order hands it on as well; a large one lies apart from the log.
    daemon.output("keep", &json!({"large": 400_000}));
    restart(&daemon);
    let seen = daemon.output("keep", &json!({}));
    assert_eq!(seen["state"], 400_000, "{seen}");
    assert_eq!(seen["told"], json!([{"version": "2.0.0", "epoch": 2}]));
    assert_eq!(daemon.audit("kind=state.saved").len(), 2);
    assert_eq!(daemon.audit("kind=state.restored").len(), 2);
    assert_eq!(daemon.audit("kind=state.lost").len(), 0);

    // What it says is shown to those alone who may read its memory.
    let viewer = daemon
        .client()
        .post("/v1/tokens", &json!({"role": "viewer"}))
        .ok(201);
    let viewer = daemon.client().with_token(viewer["token"].as_str());
    let shown = viewer.get("/v1/audit?kind=state.saved").ok(200);
    for record in shown["items"].as_array().unwrap() {
        assert!(record["payload"].is_null(), "{record}");
    }
}

#[test]
fn a_version_that_cannot_take_it_gives_way_and_the_old_one_has_it_again() {
    if !has_python("a_version_that_cannot_take_it_gives_way_and_the_old_one_has_it_again") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&keeper("1.0.0", "ok", "ok"));
    daemon.output("keep", &json!({"keep": state()}));
    for (version, restores, why) in [
        ("2.0.0", "error", "its restore_state hook failed: cannot"),
        ("2.1.0", "exit", "3"),
        ("2.2.0", "none", "names no hook `restore_state`"),
    ] {
        daemon.register(&keeper(version, "ok", restores));
        let done = upgrade(&daemon, version);
        assert_eq!(done["success"], false, "{done}");
        assert!(done["error"].as_str().unwrap().contains(why), "{done}");
        let seen = daemon.output("keep", &json!({}));
        assert_eq!(
            (&seen["version"], &seen["state"]),
            (&json!("1.0.0"), &state()),
            "{restores}"
        );
    }
    assert_eq!(daemon.audit("kind=state.lost").len(), 0);
    assert_eq!(
        daemon.status("keeper")["fault"]["score"],
        0,
        "it is nobody's failure"
    );
}

#[test]
fn an_upgrade_without_what_was_asked_for_is_taken_back_on_record() {
    if !has_python("an_upgrade_without_what_was_asked_for_is_taken_back_on_record") {
        return;
    }
    let daemon = Daemon::start();
    for (saves, why) in [
        ("error", "its save_state hook failed: cannot"),
        ("exit", "it ended before it said what it is"),
        ("large", "524288 at most are kept"),
    ] {
        let way = if saves == "large" { "ok" } else { saves };
        daemon.deploy(&keeper("1.0.0", way, "ok"));
        if saves == "large" {
            daemon.output("keep", &json!({"large": 600_000}));
        }
        daemon.register(&keeper("2.0.0", "ok", "ok"));
        let lost = daemon.audit("kind=state.lost").len();
        let done = upgrade(&daemon, "2.0.0");
        assert_eq!(done["success"], false, "{done}");
        assert!(done["error"].as_str().unwrap().contains(why), "{done}");
        assert_eq!(daemon.output("keep", &json!({}))["version"], "1.0.0");
        assert_eq!(daemon.audit("kind=state.lost").len(), lost + 1);
        daemon
            .client()
            .post("/v1/agents/keeper/terminate", &json!({}))
            .ok(200);
        daemon.client().delete("/v1/agents/keeper").ok(200);
    }
}

#[test]
fn what_is_in_the_midst_of_its_work_is_not_asked() {
    if !has_python("what_is_in_the_midst_of_its_work_is_not_asked") {
        return;
    }
    let home = Home::new().config("api:\n  drain_timeout: 1s\n");
    let daemon = home.start();
    daemon.deploy(&keeper("1.0.0", "ok", "ok"));
    daemon.register(&keeper("2.0.0", "ok", "ok"));
    let task = daemon.submit(&json!({
        "requirements": ["keep"], "input": {"hang": true}
    }));
    eventually("it is at work", LONG, || {
        let task = daemon.task(&task);
        if task["state"] == "running" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    let done = upgrade(&daemon, "2.0.0");
    assert_eq!(done["success"], false, "{done}");
    let why = done["error"].as_str().unwrap();
    assert!(why.contains("its work was not done in time"), "{done}");
    assert_eq!(daemon.output("keep", &json!({}))["version"], "1.0.0");
    assert_eq!(daemon.audit("kind=state.lost").len(), 1);
    assert_eq!(daemon.audit("kind=state.saved").len(), 0);
}

#[test]
fn what_was_said_outlives_a_crash_of_meshd_in_the_midst_of_an_upgrade() {
    if !has_python("what_was_said_outlives_a_crash_of_meshd_in_the_midst_of_an_upgrade") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&keeper("1.0.0", "ok", "ok"));
    daemon.output("keep", &json!({"keep": state()}));
    // The new version never says whether it took it, so the upgrade goes on until meshd dies.
    daemon.register(&keeper("2.0.0", "ok", "silent"));
    let client = daemon.client().clone();
    let body = json!({"type": "soft", "targetVersion": "2.0.0"})
        .to_string()
        .into_bytes();
    let waiting = std::thread::spawn(move || {
        let json = [("content-type", "application/json")];
        let _dies = client.try_send("POST", "/v1/agents/keeper/upgrade", &json, Some(&body));
    });
    eventually("the new version was started", LONG, || {
        let status = daemon.status("keeper");
        let new = status["epoch"] == 2 && daemon.audit("kind=handshaken&agent=keeper").len() >= 2;
        if new { Ok(()) } else { Err(status.to_string()) }
    });
    let daemon = daemon.kill9().start();
    let _ended = waiting.join();
    let seen = daemon.output("keep", &json!({}));
    assert_eq!(
        (&seen["version"], &seen["state"]),
        (&json!("1.0.0"), &state())
    );
    assert_eq!(daemon.audit("kind=state.restored").len(), 1);
}
