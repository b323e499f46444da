//! `meshctl chaos` and `POST /v1/chaos`: each blow does what it says, to whom it says, on whose word it says, and the
//! verdict on a fleet that was hurt is that every promise held.

use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, Home, eventually};
use serde_json::{Value, json};

mod runs;

const SOON: Duration = Duration::from_secs(30);

/// Chaos switched on, short waits, and a policy that bears a lot.
const LENIENT: &str = "\
chaos:
  enabled: true
supervision:
  stop_timeout: 2s
  backoff_base: 20ms
  backoff_max: 200ms
  hourly_max: 900
default_policy:
  lifecycle:
    max_crashes: 900
    quarantine_threshold: 900
api:
  drain_timeout: 2s
";
/// Chaos switched on, and the policy as shipped, with shorter waits.
const SHIPPED: &str = "\
chaos:
  enabled: true
supervision:
  stop_timeout: 2s
  backoff_base: 20ms
  cool_down_base: 300ms
api:
  drain_timeout: 2s
";

fn lenient() -> Daemon {
    Home::new().config(LENIENT).start()
}

/// A client with a token of this role.
#[track_caller]
fn client_of(daemon: &Daemon, role: &str) -> Client {
    let issued = daemon
        .client()
        .post("/v1/tokens", &json!({"role": role, "subject": "echo"}))
        .ok(201);
    daemon.client().with_token(issued["token"].as_str())
}

#[track_caller]
fn strike(daemon: &Daemon, order: &Value) -> Value {
    daemon.client().post("/v1/chaos", order).ok(200)
}

fn starts(daemon: &Daemon, agent: &str) -> usize {
    daemon.audit(&format!("kind=activated&agent={agent}")).len()
}

/// Milliseconds of an RFC 3339 time, of the day: tests do not run over midnight often enough to care, and say so then.
fn millis(time: &Value) -> u64 {
    let text = time.as_str().unwrap();
    let clock = text.split('T').nth(1).unwrap().trim_end_matches('Z');
    let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
    let seconds = Duration::from_secs_f64(parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]);
    u64::try_from(seconds.as_millis()).unwrap()
}

#[test]
fn chaos_is_off_as_shipped_and_the_refusal_says_how_to_switch_it_on() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let order = json!({"action": "kill", "agent": "echo"});
    let refused = daemon
        .client()
        .post("/v1/chaos", &order)
        .problem(403, "chaos_disabled");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("chaos.enabled"),
        "{refused}"
    );
    let ran = daemon
        .ctl(&["chaos", "--agent", "echo", "--for", "1s"])
        .exits(4);
    assert!(ran.err.contains("chaos.enabled"), "{}", ran.err);
    assert_eq!(starts(&daemon, "echo"), 1);
    assert_eq!(daemon.audit("kind=chaos.struck").len(), 0);
}

#[test]
fn only_an_admin_may_hurt_and_a_refusal_is_on_record() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let order = json!({"action": "kill", "agent": "echo"});
    for role in ["viewer", "operator", "publisher", "agent"] {
        let refused = client_of(&daemon, role).post("/v1/chaos", &order);
        refused.problem(403, "forbidden");
    }
    eventually("the refusals are on record", SOON, || {
        let denied = daemon.audit("kind=access.denied");
        let chaos = denied
            .iter()
            .filter(|record| record["payload"]["action"] == "chaos")
            .count();
        if chaos == 4 {
            Ok(())
        } else {
            Err(format!("{denied:?}"))
        }
    });
    assert_eq!(starts(&daemon, "echo"), 1);
    assert_eq!(daemon.audit("kind=chaos.struck").len(), 0);
}

#[test]
fn the_root_is_refused_by_name_and_every_other_part_is_known() {
    let daemon = lenient();
    let client = daemon.client();
    let part = |name: &str| client.post("/v1/chaos", &json!({"action": "kill", "part": name}));
    part("mesh").problem(403, "chaos_root_refused");
    let unknown = part("nonsense").problem(422, "invalid_chaos");
    let text = unknown["detail"].as_str().unwrap();
    let status = client.get("/status").ok(200);
    for component in status["components"].as_array().unwrap() {
        let name = component["name"].as_str().unwrap();
        if !["mesh", "api"].contains(&name) {
            assert!(text.contains(name), "{name} is not in: {text}");
        }
    }
    part("agent:nobody").problem(404, "agent_not_found");
    let ran = daemon
        .ctl(&["chaos", "--tree", "mesh", "--for", "1s"])
        .exits(4);
    assert!(ran.err.contains("root"), "{}", ran.err);
    daemon
        .ctl(&["chaos", "--tree", "nonsense", "--for", "1s"])
        .exits(1);
    daemon.ctl(&["chaos", "--for", "1s"]).exits(2);
    daemon.ctl(&["chaos", "--agent", "nobody"]).exits(3);
    assert_eq!(daemon.audit("kind=chaos.struck").len(), 0);
}

#[test]
fn an_order_that_makes_no_sense_is_refused_with_its_field() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    for (order, field) in [
        (json!({"action": "kill"}), "agent"),
        (
            json!({"action": "kill", "agent": "echo", "part": "bus"}),
            "part",
        ),
        (json!({"action": "pause", "part": "bus"}), "action"),
        (
            json!({"action": "kill", "agent": "echo", "durationMs": 1}),
            "durationMs",
        ),
        (
            json!({"action": "pause", "agent": "echo", "lines": 1}),
            "lines",
        ),
    ] {
        let refused = daemon
            .client()
            .post("/v1/chaos", &order)
            .problem(422, "invalid_chaos");
        assert_eq!(refused["field"], field, "{order}: {refused}");
    }
    for order in [
        json!({"action": "hang", "agent": "echo", "durationMs": 300_001}),
        json!({"action": "flood", "agent": "echo", "lines": 100_001}),
        json!({"action": "explode", "agent": "echo"}),
    ] {
        assert_eq!(
            daemon.client().post("/v1/chaos", &order).status,
            422,
            "{order}"
        );
    }
}

#[test]
fn a_kill_ends_one_instance_and_is_on_record_before_its_effect() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("victim").set("replicas", json!(2)));
    let before = daemon.status("victim");
    let prey = &before["instances"][1];
    let answer = strike(
        &daemon,
        &json!({"action": "kill", "agent": "victim", "instance": 1}),
    );
    let target = &answer["blow"]["target"];
    assert_eq!(
        (
            &target["agent"],
            &target["instance"],
            &target["epoch"],
            &target["pid"]
        ),
        (&json!("victim"), &json!(1), &prey["epoch"], &prey["pid"]),
    );
    let error = eventually("the death is noticed", SOON, || {
        daemon
            .audit("kind=error&agent=victim")
            .pop()
            .ok_or_else(String::new)
    });
    assert_eq!(error["payload"]["failure"]["class"], "crash", "{error}");
    assert_eq!(error["payload"]["epoch"], prey["epoch"], "{error}");
    let records = daemon.audit("kind=chaos.struck&agent=victim");
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["payload"]["blow"], answer["blow"]);
    assert_eq!(records[0]["actor"], "user:admin");
    assert!(records[0]["position"].as_u64() < error["position"].as_u64());
    eventually(
        "it is started again, and the other was left alone",
        SOON,
        || {
            let after = daemon.status("victim");
            let (same, other) = (&after["instances"][0], &after["instances"][1]);
            let back = other["lifecycle"] == "executing"
                && other["epoch"].as_u64() > prey["epoch"].as_u64();
            assert_eq!(same["epoch"], before["instances"][0]["epoch"]);
            if back { Ok(()) } else { Err(after.to_string()) }
        },
    );
}

/// While it lasts, no task of the agent comes to its end; afterwards it does, in the same incarnation.
#[track_caller]
fn holds_work_up(action: &str) {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("slow"));
    let epoch = daemon.status("slow")["epoch"].clone();
    let order = json!({"action": action, "agent": "slow", "durationMs": 1500});
    let answer = strike(&daemon, &order);
    let again = daemon.client().post("/v1/chaos", &order);
    again.problem(409, "chaos_under_way");
    let task = daemon.ask("echo", &json!(1));
    let task = daemon.ended(&task, SOON);
    assert_eq!(task["state"], "succeeded", "{task}");
    let took = millis(&task["endedAt"]) - millis(&answer["blow"]["at"]);
    assert!(took >= 1450, "{action}: the task ended after {took} ms");
    assert_eq!(
        daemon.status("slow")["epoch"],
        epoch,
        "it was not started again"
    );
    // It is over, and may come again.
    eventually("it is over", SOON, || {
        let answer = daemon.client().post(
            "/v1/chaos",
            &json!({"action": action, "agent": "slow", "durationMs": 1}),
        );
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text())
        }
    });
}

#[test]
fn a_paused_instance_stands_still_and_goes_on() {
    holds_work_up("pause");
}

#[test]
fn a_hung_instance_is_not_heard_until_it_is_over() {
    holds_work_up("hang");
}

#[test]
fn a_leak_ends_the_agent_for_want_of_memory_and_a_small_one_does_not() {
    let daemon = lenient();
    let small = json!({"resource_limits": {"memory": "64MB"}});
    daemon.deploy(&Bundle::echo("hungry").set("policy", small));
    let controls = daemon.client().get("/v1/agents/hungry/sandbox").ok(200);
    let grouped = controls["controls"]
        .as_array()
        .unwrap()
        .iter()
        .any(|control| {
            control["control"] == "memory"
                && control["mechanism"].as_str().unwrap().starts_with("cgroup")
        });
    let order =
        json!({"action": "leak", "agent": "hungry", "bytes": 8_000_000, "durationMs": 2000});
    if !grouped {
        let refused = daemon.client().post("/v1/chaos", &order);
        refused.problem(409, "chaos_unsupported");
        return;
    }
    let answer = strike(&daemon, &order);
    assert_eq!(answer["blow"]["bytes"], 8_000_000);
    let used = daemon.status("hungry")["instances"][0]["memoryUsage"]
        .as_f64()
        .unwrap();
    assert!(used > 7.0, "{used} MB; {answer}");
    assert_eq!(starts(&daemon, "hungry"), 1, "{answer}");
    eventually("it is given back", SOON, || {
        let used = daemon.status("hungry")["instances"][0]["memoryUsage"].as_f64();
        if used < Some(7.0) {
            Ok(())
        } else {
            Err(format!("{used:?}"))
        }
    });

    let answer = strike(&daemon, &json!({"action": "leak", "agent": "hungry"}));
    assert_eq!(
        answer["blow"]["bytes"], 64_000_000,
        "never more than it may have"
    );
    let error = eventually("the kernel ends it", SOON, || {
        let errors = daemon.audit("kind=error&agent=hungry");
        errors
            .into_iter()
            .next()
            .ok_or_else(|| daemon.status("hungry").to_string())
    });
    assert_eq!(error["payload"]["failure"]["class"], "resource", "{error}");
    eventually("it is started again", SOON, || {
        if starts(&daemon, "hungry") == 2 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
}

#[test]
fn garbage_is_refused_line_by_line_and_a_flood_is_borne() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let epoch = daemon.status("echo")["epoch"].clone();
    let refused = |wanted: u64| {
        eventually("every line is refused", SOON, || {
            let status = daemon.status("echo");
            let count = status["instances"][0]["refusedMessages"].as_u64();
            if count == Some(wanted) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    strike(
        &daemon,
        &json!({"action": "garbage", "agent": "echo", "lines": 37, "seed": 5}),
    );
    refused(37);
    strike(
        &daemon,
        &json!({"action": "garbage", "agent": "echo", "lines": 3, "seed": 6}),
    );
    refused(40);
    let flood = strike(
        &daemon,
        &json!({"action": "flood", "agent": "echo", "lines": 3000}),
    );
    eventually("the flood is heard", SOON, || {
        let status = daemon.status("echo");
        let heard = &status["instances"][0]["lastActivity"];
        if millis(heard) > millis(&flood["blow"]["at"]) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(
        daemon.output("echo", &json!("still here")),
        json!("still here")
    );
    refused(40);
    assert_eq!(daemon.status("echo")["epoch"], epoch, "nobody died of it");
}

#[test]
fn what_cannot_be_struck_is_refused_with_the_reason() {
    let daemon = lenient();
    daemon.deploy(&Bundle::command("tool", "cat"));
    for action in ["kill", "hang", "leak"] {
        let refused = daemon
            .client()
            .post("/v1/chaos", &json!({"action": action, "agent": "tool"}));
        refused.problem(409, "chaos_no_target");
    }
    let stopped = daemon.client().post("/v1/agents/tool/stop", &json!({}));
    assert_eq!(stopped.status, 200);
    let order = json!({"action": "kill", "agent": "tool", "instance": 5});
    let refused = daemon
        .client()
        .post("/v1/chaos", &order)
        .problem(409, "chaos_no_target");
    assert!(
        refused["detail"].as_str().unwrap().contains("stopped"),
        "{refused}"
    );
}

#[test]
fn a_part_of_the_tree_is_killed_and_started_again_and_no_agent_notices() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let restarts = |name: &str| {
        let status = daemon.client().get("/status").ok(200);
        let parts = status["components"].as_array().unwrap().clone();
        let part = parts.into_iter().find(|part| part["name"] == name);
        part.and_then(|part| part["restarts"].as_u64())
    };
    let before = restarts("bus");
    let answer = strike(&daemon, &json!({"action": "kill", "part": "bus"}));
    assert_eq!(answer["blow"]["target"]["part"], "bus");
    eventually("it was restarted", SOON, || {
        let now = restarts("bus");
        if now > before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    assert_eq!(daemon.output("echo", &json!(1)), json!(1));
    assert_eq!(starts(&daemon, "echo"), 1);
    // An agent's own actor takes its instances with it, and comes back with others.
    strike(&daemon, &json!({"action": "kill", "part": "agent:echo"}));
    eventually("the agent is started again", SOON, || {
        if starts(&daemon, "echo") == 2 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    assert_eq!(daemon.output("echo", &json!(2)), json!(2));
}

#[test]
fn the_tree_takes_no_more_blows_than_a_group_bears() {
    let daemon = lenient();
    for _ in 0..8 {
        eventually("it runs, and is struck", SOON, || {
            let answer = daemon
                .client()
                .post("/v1/chaos", &json!({"action": "kill", "part": "health"}));
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.text())
            }
        });
    }
    let refused = daemon
        .client()
        .post("/v1/chaos", &json!({"action": "kill", "part": "health"}));
    refused.problem(429, "chaos_too_fast");
    assert!(refused.header("retry-after").is_some());
}
