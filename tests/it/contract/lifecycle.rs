//! The verbs of an agent's life, and what quarantine means.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Marker, eventually, has_python, marked};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn verb(daemon: &Daemon, verb: &str, body: &Value) -> mesh_tests::Answer {
    daemon
        .client()
        .post(&format!("/v1/agents/echo/{verb}"), body)
}

#[test]
fn an_unknown_agent_has_a_status_and_nothing_else() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.client().get("/v1/agents/nobody/status").ok(200),
        json!({"status": "not_found"})
    );
    for path in [
        "",
        "/history",
        "/insights",
        "/logs",
        "/policy",
        "/instances",
        "/sandbox",
    ] {
        daemon
            .client()
            .get(&format!("/v1/agents/nobody{path}"))
            .problem(404, "agent_not_found");
    }
    for verb in [
        "start",
        "stop",
        "restart",
        "pause",
        "resume",
        "quarantine",
        "recover",
        "terminate",
    ] {
        daemon
            .client()
            .post(&format!("/v1/agents/nobody/{verb}"), &json!({}))
            .problem(404, "agent_not_found");
    }
}

#[test]
fn stop_start_restart_pause_and_resume_do_what_they_say() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let first = daemon.status("echo");
    assert_eq!(
        (&first["status"], &first["lifecycle"]),
        (&json!("active"), &json!("executing"))
    );
    for member in ["status", "uptime", "memoryUsage", "lastActivity", "errors"] {
        assert!(first["health"].get(member).is_some(), "{member}: {first}");
    }

    let stopped = verb(&daemon, "stop", &json!({})).ok(200);
    assert_eq!(stopped["fault"]["state"], "stopped", "{stopped}");
    daemon.gone("echo", SOON);
    let waiting = daemon.ask("echo", &json!(1));
    assert_eq!(daemon.task(&waiting)["waitingFor"]["reason"], "agent_down");
    verb(&daemon, "start", &json!({})).ok(200);
    assert_eq!(daemon.ended(&waiting, SOON)["state"], "succeeded");
    let second = daemon.status("echo");
    assert!(
        second["epoch"].as_u64() > first["epoch"].as_u64(),
        "every start is an incarnation of its own"
    );

    daemon.ctl(&["agent", "restart", "echo"]).exits(0);
    assert_eq!(daemon.output("echo", &json!(2)), json!(2));
    let third = daemon.status("echo");
    assert!(third["epoch"].as_u64() > second["epoch"].as_u64());
    assert_eq!(third["fault"]["score"], 0, "orders are no failures");

    verb(&daemon, "pause", &json!({})).ok(200);
    let waiting = daemon.ask("echo", &json!(3));
    let task = daemon
        .client()
        .get(&format!("/v1/tasks/{waiting}?wait=300ms"))
        .ok(200);
    assert_ne!(task["state"], "succeeded", "a paused agent gets no work");
    assert_eq!(
        daemon.status("echo")["epoch"],
        third["epoch"],
        "it stays up"
    );
    verb(&daemon, "resume", &json!({})).ok(200);
    assert_eq!(daemon.ended(&waiting, SOON)["state"], "succeeded");
}

#[test]
fn replicas_follow_the_number_that_is_asked_for() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo").set("replicas", json!(2)));
    for wanted in [4, 1] {
        daemon
            .ctl(&["agent", "scale", "echo", &wanted.to_string()])
            .exits(0);
        eventually("so many serve", SOON, || {
            let list = daemon.client().get("/v1/agents/echo/instances").ok(200);
            let items = list["items"].as_array().unwrap();
            let all = items
                .iter()
                .all(|instance| instance["lifecycle"] == "executing");
            if items.len() == wanted && all {
                Ok(())
            } else {
                Err(list.to_string())
            }
        });
    }
    let uids = daemon.audit("kind=started&agent=echo").len();
    assert_eq!(uids, 4, "two, and two more");
}

#[test]
fn a_quarantined_agent_executes_nothing_and_comes_back_only_by_recovery() {
    if !has_python("a_quarantined_agent_executes_nothing_and_comes_back_only_by_recovery") {
        return;
    }
    let daemon = Daemon::start();
    let marker = Marker::new();
    daemon.deploy(&Bundle::marked_rogue("echo", "daemonize", &marker));
    assert_eq!(daemon.output("echo", &json!(1)), json!(1));
    assert!(
        marked(marker.as_str()).len() >= 2,
        "the agent and what it left behind"
    );

    let conflict = verb(&daemon, "recover", &json!({}));
    assert_eq!(
        conflict.problem(409, "not_in_quarantine")["detail"],
        "Agent echo not in quarantine"
    );
    daemon.ctl(&["agent", "recover", "echo"]).exits(5);

    let order = json!({"type": "manual", "description": "answers look wrong", "severity": "high"});
    let status = verb(&daemon, "quarantine", &order).ok(200);
    assert_eq!(
        (&status["status"], &status["lifecycle"]),
        (&json!("quarantined"), &json!("quarantined"))
    );
    assert_eq!(status["fault"]["state"], "quarantined");
    let record = &status["fault"]["quarantine"];
    assert_eq!(record["reason"]["description"], "answers look wrong");
    assert_eq!(
        (&record["reason"]["type"], &record["reason"]["severity"]),
        (&json!("manual"), &json!("high"))
    );
    assert!(
        record["manifestDigest"]
            .as_str()
            .unwrap()
            .starts_with("blake3:"),
        "{record}"
    );
    eventually(
        "nothing of it runs",
        Duration::from_secs(5),
        || match marked(marker.as_str()) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );

    let waiting = daemon.ask("echo", &json!(2));
    let task = daemon.task(&waiting);
    assert_eq!(
        (&task["state"], &task["waitingFor"]["reason"]),
        (&json!("parked"), &json!("breaker")),
        "{task}"
    );
    for refused in ["start", "stop", "restart", "resume"] {
        let answer = verb(&daemon, refused, &json!({}));
        assert_eq!(answer.status, 409, "{refused}: {}", answer.text());
        assert!(
            answer.text().contains("recover"),
            "{refused}: {}",
            answer.text()
        );
    }

    // It survives the daemon.
    let daemon = daemon.kill9().start();
    assert_eq!(daemon.status("echo")["status"], "quarantined");
    assert_eq!(marked(marker.as_str()), []);
    let recovered = verb(&daemon, "recover", &json!({"force": true})).ok(200);
    assert_eq!(recovered["success"], true, "{recovered}");
    assert_eq!(daemon.ended(&waiting, SOON)["state"], "succeeded");
    let kinds: Vec<Value> = daemon
        .audit("agent=echo&kind=quarantined")
        .iter()
        .map(|r| r["actor"].clone())
        .collect();
    assert_eq!(kinds.len(), 1);
}

#[test]
fn termination_is_for_good_and_removal_keeps_the_audit() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let ended = verb(&daemon, "terminate", &json!({})).ok(200);
    assert_eq!(ended["status"], "terminated", "{ended}");
    assert_eq!(verb(&daemon, "start", &json!({})).status, 409);
    let kinds: Vec<Value> = daemon
        .audit("agent=echo")
        .iter()
        .map(|record| record["kind"].clone())
        .collect();
    assert!(
        kinds.contains(&json!("terminated")) && kinds.last() == Some(&json!("audited")),
        "{kinds:?}"
    );
    // A new registration begins a new life, whose epochs go on.
    let epoch = ended["epoch"].as_u64();
    daemon.deploy(&Bundle::echo("echo").set("version", json!("2.0.0")));
    assert!(daemon.status("echo")["epoch"].as_u64() > epoch);

    daemon.ctl(&["agent", "remove", "echo"]).exits(0);
    assert_eq!(daemon.status("echo"), json!({"status": "not_found"}));
    assert!(!daemon.audit("agent=echo").is_empty());
}

#[test]
fn the_policy_in_force_names_the_origin_of_every_value() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo").set("policy", json!({"maxCrashes": 7, "memoryLimit": 64})));
    let policy = daemon.client().get("/v1/agents/echo/policy").ok(200);
    let values = policy["items"].as_array().unwrap();
    let own: Vec<&Value> = values
        .iter()
        .filter(|value| value["origin"] == "manifest")
        .collect();
    assert_eq!(own.len(), 2, "{policy}");
    assert!(own.iter().any(|value| value["value"] == 7), "{policy}");
    assert!(
        values.iter().all(|value| value["origin"].is_string()),
        "{policy}"
    );
    assert!(values.len() > 5, "{policy}");
}
