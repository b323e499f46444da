//! D3: agents that are slow and declared dead, and agents that look alive and get nowhere.
//!
//! Times are a hundredth of those in the stories: a silence of four seconds where a tenth of that is allowed stands for ten
//! minutes where one is.

use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

use super::{PATIENCE, saw, starts, story};

/// Does what its input names, as agents elsewhere did.
const WATCHED: &str = r#"
import itertools, json, os, select, sys, time

ME = os.environ["MESH_AGENT"]
time.sleep(float(os.environ.get("SLOW_START", "0")))

def say(kind, payload, **head):
    print(json.dumps({"type": kind, "payload": payload, **head}), flush=True)

def read():
    for line in sys.stdin:
        m = json.loads(line)
        if m["type"] == "CONTROL" and m["payload"]["verb"] == "shutdown": sys.exit(0)
        yield m

def until(wanted):
    """What else comes is passed over, but for a cancellation, which is obeyed."""
    for m in lines:
        if m["type"] == "CONTROL" and m["payload"]["verb"] == "cancel":
            say("STATUS_UPDATE", {}, in_reply_to=m["id"])
            return None
        if wanted(m): return m

def cancelled():
    """Whether somebody has said something in the meantime. Only a cancellation is ever said to one at work."""
    if select.select([sys.stdin], [], [], 0.02)[0]: return until(lambda m: False) is None

def call(task):
    say("STATUS_UPDATE", {"call": {"id": "c", "name": "llm", "boundMs": 60000}}, task_id=task)
    time.sleep(4)
    say("STATUS_UPDATE", {"callEnded": "c"}, task_id=task)
    return "a long story"

def silent(task):
    time.sleep(4)
    return "a long story"

def overrun(task):
    say("STATUS_UPDATE", {"call": {"id": "c", "name": "llm", "boundMs": 500}}, task_id=task)
    until(lambda m: False)

def repeat(task):
    for n in itertools.count():
        say("MEMORY", {"op": "get", "key": "the same"}, id="m%d" % n, task_id=task)
        if until(lambda m: m.get("in_reply_to") == "m%d" % n) is None: return None
        time.sleep(0.01)

def beat(task):
    while not cancelled():
        say("STATUS_UPDATE", {"progress": 0.5, "note": "working", "health": {"status": "healthy"}}, task_id=task)
    return None

def beat_a_while(task):
    for n in range(150):
        say("STATUS_UPDATE", {"progress": 0.5, "note": "working"}, task_id=task)
        time.sleep(0.02)
    return "at last"

HOOKS = json.loads(os.environ.get("HOOKS", "[]"))
say("HANDSHAKE", {"name": ME, "version": "1.0.0", "capabilities": [ME], "hooks": HOOKS})
lines = read()
for m in lines:
    if m["type"] == "TASK_REQUEST":
        given = m["payload"]["input"]
        output = globals()[given](m["task_id"]) if given in globals() else given
        if output is not None: say("TASK_RESULT", {"ok": True, "output": output}, task_id=m["task_id"])
    elif m["type"] == "CONTROL" and m["payload"]["verb"] == "health" and os.environ.get("HANGS"):
        # Not silent: it only never comes to an answer.
        while True:
            say("STATUS_UPDATE", {"note": "alive"})
            time.sleep(0.1)
    elif m["type"] == "CONTROL":
        say("STATUS_UPDATE", {"health": {"status": os.environ.get("HEALTH", "healthy")}}, in_reply_to=m["id"])
"#;

/// As shipped, with shorter waits.
const QUICK: &str =
    "supervision:\n  backoff_base: 20ms\n  stop_timeout: 1s\n  cancel_timeout: 2s\n";

fn watched(id: &str, env: Value, liveness: Value) -> Bundle {
    Bundle::new(id)
        .file("main.py", WATCHED)
        .set("entry", json!("main.py"))
        .set(
            "runtime",
            json!({"command": "python3", "args": ["main.py"], "env": env}),
        )
        .set("policy", json!({"liveness": liveness}))
}

/// One attempt at one of its ways, for so long at most.
fn attempt(daemon: &Daemon, agent: &str, way: &str, timeout_ms: u64) -> Value {
    let task = daemon.submit(&json!({
        "requirements": [agent], "input": way, "timeoutMs": timeout_ms, "retry": {"maxAttempts": 1},
    }));
    daemon.ended(&task, PATIENCE)
}

/// What was found of an agent.
fn findings(daemon: &Daemon, agent: &str) -> Vec<Value> {
    let records = daemon.audit(&format!("kind=health.finding&agent={agent}"));
    let found = records.into_iter();
    found.map(|mut r| r["payload"]["finding"].take()).collect()
}

/// The one finding that there is.
#[track_caller]
fn found(daemon: &Daemon, agent: &str, finding: &str, action: &str) -> Value {
    let found = findings(daemon, agent);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["finding"], finding, "{found:?}");
    assert_eq!(found[0]["action"], action, "{found:?}");
    found[0].clone()
}

fn class(task: &Value) -> &Value {
    &task["attempts"][0]["error"]["class"]
}

fn alerts(daemon: &Daemon) -> Vec<Value> {
    daemon.audit("kind=health.alert")
}

/// Waits until everything was looked at so often again.
#[track_caller]
fn looked_at(daemon: &Daemon, times: usize) {
    let mut looks = Vec::new();
    eventually("it is looked at", PATIENCE, || {
        let health = daemon.client().get("/v1/health").ok(200);
        if !looks.contains(&health["timestamp"]) {
            looks.push(health["timestamp"].clone());
        }
        if looks.len() > times {
            Ok(())
        } else {
            Err(health.to_string())
        }
    });
}

#[test]
fn d3_the_slow_are_left_alone() {
    if !has_python("d3_the_slow_are_left_alone") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    // It declares everything that could be held against it.
    let strict =
        json!({"silence": {"limit": "400ms"}, "stall": {"limit": "400ms", "action": "end"}});
    let slow = watched("slow", json!({"SLOW_START": "3"}), strict.clone())
        .set("heartbeat", json!({"interval": "100ms", "ttl": "60s"}));
    let began = Instant::now();
    daemon.deploy(&slow);
    saw(&format!(
        "D3 slow to start: ready after {:?}",
        began.elapsed()
    ));
    assert!(began.elapsed() > Duration::from_secs(3));
    let task = attempt(&daemon, "slow", "call", 60_000);
    assert_eq!(task["output"], "a long story", "{task}");
    assert_eq!(findings(&daemon, "slow"), [json!(null); 0]);
    assert_eq!(starts(&daemon, "slow"), 1);
    assert_eq!(daemon.status("slow")["fault"]["score"], 0);
    saw(&format!(
        "D3 silent within an announced call: {}",
        story(&task)
    ));

    // Controls: the same silence without the word that explains it; the same start with less time for it.
    let task = attempt(&daemon, "slow", "silent", 60_000);
    assert_eq!(class(&task), "hang", "{task}");
    let found = found(&daemon, "slow", "silence", "end");
    saw(&format!(
        "D3 control, silent without a word: {}",
        found["detail"]
    ));
    let daemon = Home::new()
        .config(&format!("{QUICK}  start_timeout: 1s\n"))
        .start();
    daemon.register(&watched("slow", json!({"SLOW_START": "3"}), strict));
    eventually("it is not given the time", PATIENCE, || {
        let errors = daemon.audit("kind=error&agent=slow");
        match errors.first() {
            Some(error) if error["payload"]["failure"]["class"] == "start" => Ok(()),
            _ => Err(format!("{errors:?}")),
        }
    });
}

#[test]
fn d3_one_that_repeats_a_call_is_found_once_and_given_up() {
    if !has_python("d3_one_that_repeats_a_call_is_found_once_and_given_up") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    let rule =
        |action: &str| json!({"repetition": {"limit": 30, "over": "500ms", "action": action}});
    daemon.deploy(&watched("looping", json!({}), rule("cancel")));
    let task = attempt(&daemon, "looping", "repeat", 60_000);
    assert_eq!(class(&task), "timeout", "{task}");
    let one = found(&daemon, "looping", "repetition", "cancel");
    assert!(one["count"].as_u64() >= Some(30), "{one}");
    assert!(one["lastedMs"].as_u64() >= Some(500), "{one}");
    assert_eq!(one["limitCount"], 30, "{one}");
    assert!(
        one["call"]
            .as_str()
            .unwrap()
            .starts_with("MEMORY get the same ")
    );
    assert_eq!(one["task"], task["id"], "{one}");
    // It let go, so its instance goes on, and nobody is blamed.
    assert_eq!(daemon.output("looping", &json!("fine")), "fine");
    assert_eq!(starts(&daemon, "looping"), 1);
    let status = daemon.status("looping");
    assert_eq!(status["fault"]["score"], 0, "{status}");
    let errors = status["health"]["errors"].as_array().unwrap();
    assert!(errors.iter().any(|e| e["type"] == "repetition"), "{status}");
    // Each attempt is judged anew, once.
    attempt(&daemon, "looping", "repeat", 60_000);
    assert_eq!(findings(&daemon, "looping").len(), 2);
    saw(&format!("D3 repetition: {}", one["detail"]));

    // Control: nobody looks, and it goes on until its time is up.
    daemon.deploy(&watched("unwatched", json!({}), rule("off")));
    let task = attempt(&daemon, "unwatched", "repeat", 3000);
    assert_eq!(class(&task), "timeout", "{task}");
    let message = task["attempts"][0]["error"]["message"].as_str().unwrap();
    assert!(!message.contains("same call"), "{message}");
    assert_eq!(findings(&daemon, "unwatched"), [json!(null); 0]);
    saw(&format!("D3 control, not looked for: {message}"));
}

#[test]
fn d3_one_that_heartbeats_and_does_not_move_is_found_once_and_ended() {
    if !has_python("d3_one_that_heartbeats_and_does_not_move_is_found_once_and_ended") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    let rule = |action: &str| json!({"stall": {"limit": "700ms", "action": action}});
    daemon.deploy(&watched("beating", json!({}), rule("end")));
    let task = attempt(&daemon, "beating", "beat", 60_000);
    assert_eq!(class(&task), "hang", "{task}");
    let one = found(&daemon, "beating", "stall", "end");
    let lasted = one["lastedMs"].as_u64().unwrap();
    assert!((700..5000).contains(&lasted), "within its limit: {one}");
    assert!(one["count"].as_u64() >= Some(10), "{one}");
    // Ended once, and replaced; it is its agent's doing.
    assert_eq!(daemon.output("beating", &json!("fine")), "fine");
    assert_eq!(starts(&daemon, "beating"), 2);
    assert_eq!(daemon.status("beating")["fault"]["score"], 1);
    saw(&format!("D3 stall: {}", one["detail"]));

    // Control: nobody looks, and it beats until its time is up.
    daemon.deploy(&watched("unwatched", json!({}), rule("off")));
    let task = attempt(&daemon, "unwatched", "beat", 3000);
    assert_eq!(class(&task), "timeout", "{task}");
    assert_eq!(findings(&daemon, "unwatched"), [json!(null); 0]);
    saw(&format!("D3 control, not looked for: {}", story(&task)));
}

#[test]
fn d3_one_that_is_watched_gets_no_further_work_until_it_is_through() {
    if !has_python("d3_one_that_is_watched_gets_no_further_work_until_it_is_through") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    let rule = json!({"stall": {"limit": "500ms", "action": "alert"}});
    daemon.deploy(&watched("beating", json!({}), rule).set("concurrency", json!(2)));
    let task = daemon.ask("beating", &json!("beat_a_while"));
    eventually("it is watched", PATIENCE, || {
        let status = daemon.status("beating");
        if status["health"]["status"] == "warning" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    eventually("everybody can see it", PATIENCE, || {
        let health = daemon.client().get("/v1/health").ok(200);
        let text = health["issues"].to_string();
        if text.contains("agent:beating: drains") {
            Ok(())
        } else {
            Err(text)
        }
    });
    // It is found once, although it goes on for many times the limit; and it is not disturbed.
    let task = daemon.ended(&task, PATIENCE);
    assert_eq!(task["output"], "at last", "{task}");
    let one = found(&daemon, "beating", "stall", "alert");
    assert_eq!(daemon.output("beating", &json!("fine")), "fine");
    let changes = daemon.audit("kind=health.instance&agent=beating");
    let actions: Vec<_> = changes.iter().map(|r| &r["payload"]["action"]).collect();
    assert_eq!(actions, ["drain", "resume"], "{changes:?}");
    assert_eq!(starts(&daemon, "beating"), 1);
    saw(&format!(
        "D3 watched: {}; then it took work again",
        one["detail"]
    ));
}

#[test]
fn d3_a_call_beyond_its_own_bound_is_given_up() {
    if !has_python("d3_a_call_beyond_its_own_bound_is_given_up") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    daemon.deploy(&watched("calling", json!({}), json!({})));
    let task = attempt(&daemon, "calling", "overrun", 60_000);
    assert_eq!(class(&task), "timeout", "{task}");
    let one = found(&daemon, "calling", "overrun", "cancel");
    assert_eq!(one["limitMs"], 500, "{one}");
    assert_eq!(starts(&daemon, "calling"), 1);
    saw(&format!("D3 overrun: {}", one["detail"]));
}

#[test]
fn d3_one_that_hangs_in_its_health_check_harms_nobody_else() {
    if !has_python("d3_one_that_hangs_in_its_health_check_harms_nobody_else") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    daemon.deploy(&Bundle::echo("healthy"));
    let beat = json!({"interval": "200ms", "ttl": "900ms"});
    let hanging = watched(
        "hanging",
        json!({"HOOKS": "[\"health\"]", "HANGS": "1"}),
        json!({}),
    );
    // Its policy has it quarantined at the third, which ends the story.
    let hanging = hanging
        .set("heartbeat", beat.clone())
        .set("policy", json!({"lifecycle": {"quarantine_threshold": 3}}));
    daemon.register(&hanging);
    let mut slowest = Duration::ZERO;
    eventually("it is quarantined for it", PATIENCE, || {
        let began = Instant::now();
        daemon.client().get("/healthz").ok(200);
        assert_eq!(daemon.output("echo", &json!(1)), json!(1));
        slowest = slowest.max(began.elapsed());
        let status = daemon.status("hanging");
        if status["fault"]["state"] == "quarantined" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let found = findings(&daemon, "hanging");
    // One for each of its lives, each acted upon.
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|f| f["finding"] == "health_check"));
    assert_eq!(starts(&daemon, "hanging"), 3);
    assert_eq!(starts(&daemon, "healthy"), 1);
    saw(&format!(
        "D3 hangs in its health check: {} ends, quarantined; an echo beside it took {slowest:?} at most",
        found.len()
    ));

    // Said once, however often it is looked at, and not again by the next life of meshd.
    eventually("it is said", PATIENCE, || {
        let raised = format!("{:?}", alerts(&daemon));
        if raised.contains("agent:hanging: in quarantine") {
            Ok(())
        } else {
            Err(raised)
        }
    });
    let said = alerts(&daemon).len();
    looked_at(&daemon, 3);
    assert_eq!(alerts(&daemon).len(), said, "{:?}", alerts(&daemon));
    let daemon = daemon.kill9().start();
    looked_at(&daemon, 3);
    let quarantined = |records: &[Value]| {
        let raised = records.iter().map(|r| r["payload"]["raised"].to_string());
        raised
            .filter(|r| r.contains("hanging: in quarantine"))
            .count()
    };
    assert_eq!(quarantined(&alerts(&daemon)), 1, "{:?}", alerts(&daemon));

    // Control: one that answers is left alone.
    let answering = watched("answering", json!({"HOOKS": "[\"health\"]"}), json!({}));
    daemon.deploy(&answering.set("heartbeat", beat));
    let task = daemon.submit(&json!({"requirements": ["nobody"], "deadlineMs": 3000}));
    daemon.ended(&task, PATIENCE);
    assert_eq!(findings(&daemon, "answering"), [json!(null); 0]);
    assert_eq!(starts(&daemon, "answering"), 1);
}

#[test]
fn d3_a_warning_drains_and_only_what_is_critical_restarts() {
    if !has_python("d3_a_warning_drains_and_only_what_is_critical_restarts") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    let says = |id: &str, health: &str| {
        watched(
            id,
            json!({"HOOKS": "[\"health\"]", "HEALTH": health}),
            json!({}),
        )
        .set("heartbeat", json!({"interval": "300ms", "ttl": "10s"}))
    };
    daemon.deploy(&says("unwell", "warning"));
    let change = |agent: &str| {
        eventually("its level has changed", PATIENCE, || {
            let changes = daemon.audit(&format!("kind=health.instance&agent={agent}"));
            changes.first().cloned().ok_or_else(|| "not yet".to_owned())
        })
    };
    assert_eq!(change("unwell")["payload"]["action"], "drain");
    let task = daemon.ask("unwell", &json!("fine"));
    eventually("its task waits, and is told why", PATIENCE, || {
        let explained = daemon.client().get(&format!("/v1/tasks/{task}/explain"));
        let text = explained.ok(200).to_string();
        if text.contains("health is warning") {
            Ok(())
        } else {
            Err(text)
        }
    });
    assert_eq!(starts(&daemon, "unwell"), 1, "watched, not restarted");

    let dying =
        says("dying", "critical").set("policy", json!({"lifecycle": {"quarantine_threshold": 2}}));
    daemon.register(&dying);
    assert_eq!(change("dying")["payload"]["action"], "restart");
    let status = daemon.fault_state("dying", "quarantined", PATIENCE);
    assert_eq!(
        starts(&daemon, "dying"),
        2,
        "as often as its policy allows: {status}"
    );
    assert_eq!(starts(&daemon, "unwell"), 1);
    saw("D3 levels: warning drained without a restart; critical restarted, to the number");
}
