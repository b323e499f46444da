//! Limits of agents: changed by a verb while they run, and run into.

use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, Outside, eventually, has_python, skip};
use serde_json::{Value, json};

use crate::egress::{daemon as with_outside, traveller};

const SOON: Duration = Duration::from_secs(20);

/// What a change may take until it holds.
const AT_ONCE: Duration = Duration::from_secs(10);

fn shown(daemon: &Daemon, id: &str) -> Value {
    daemon.status(id)["instances"][0]["limits"].clone()
}

fn becomes(daemon: &Daemon, id: &str, field: &str, value: &Value) {
    eventually("the limit holds", AT_ONCE, || {
        let limits = shown(daemon, id);
        (limits.get(field).unwrap_or(&Value::Null) == value)
            .then_some(())
            .ok_or_else(|| limits.to_string())
    });
}

/// The last record of this kind about the agent.
fn last(daemon: &Daemon, kind: &str) -> Value {
    let records = daemon.audit(&format!("kind={kind}"));
    records
        .last()
        .map_or(Value::Null, |one| one["payload"].clone())
}

#[test]
fn limits_that_a_verb_changes_hold_at_once_and_after_kill_9_until_they_are_taken_back() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let first = daemon.status("echo")["epoch"].clone();
    daemon
        .ctl(&[
            "agent", "limit", "echo", "--memory", "128MiB", "--cpu", "500m",
        ])
        .exits(0);
    let answer = daemon.ctl(&["agent", "limit", "echo", "--pids", "40", "-o", "json"]);
    let limits = answer.exits(0).json()["limits"].clone();
    assert_eq!(
        (
            &limits["memoryBytes"],
            &limits["pids"],
            &limits["cpuMillicores"]
        ),
        (&json!(128 << 20), &json!(40), &json!(500)),
        "one change leaves the other alone"
    );
    becomes(&daemon, "echo", "pids", &json!(40));
    assert_eq!(daemon.status("echo")["epoch"], first, "without a restart");
    eventually("it is on record", AT_ONCE, || {
        let record = last(&daemon, "limits.changed");
        (record["limits"] == limits)
            .then_some(())
            .ok_or_else(|| record.to_string())
    });
    let values = daemon.client().get("/v1/agents/echo/policy").ok(200);
    let mut values = values["items"].as_array().unwrap().iter();
    let memory = values
        .find(|value| value["key"] == "resource_limits.memory_bytes")
        .unwrap();
    assert_eq!(memory["origin"], "policy:echo");

    // What makes no sense changes nothing.
    for (body, field) in [
        (json!({}), "reset"),
        (json!({"pids": 3, "reset": ["pids"]}), "pids"),
        (json!({"memory": "1B"}), "limits"),
        (json!({"pids": 1}), "limits"),
    ] {
        let refused = daemon.client().post("/v1/agents/echo/limit", &body).ok(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
    daemon
        .client()
        .post("/v1/agents/nobody/limit", &json!({"pids": 9}))
        .ok(404);
    daemon.ctl(&["agent", "limit", "echo"]).exits(2);
    assert_eq!(shown(&daemon, "echo"), limits);

    let daemon = daemon.kill9().start();
    eventually("it runs again", SOON, || {
        let again = shown(&daemon, "echo");
        (again == limits)
            .then_some(())
            .ok_or_else(|| again.to_string())
    });
    daemon
        .ctl(&["agent", "limit", "echo", "--reset", "memory,cpu,pids"])
        .exits(0);
    becomes(&daemon, "echo", "memoryBytes", &json!(512_000_000));
    let policy = daemon.client().get("/v1/policies").ok(200);
    assert_eq!(policy["applied"], json!({}), "nothing is left of them");
}

#[test]
fn of_changes_at_once_the_last_in_the_log_is_the_one_that_holds() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let client = daemon.client();
    std::thread::scope(|scope| {
        for who in 0..4 {
            scope.spawn(move || {
                for round in 0..5 {
                    let bytes = (100 + 10 * who + round) << 20;
                    let memory = json!({ "memory": format!("{bytes}B") });
                    let pids = json!({ "pids": 30 + who });
                    client.post("/v1/agents/echo/limit", &memory).ok(200);
                    client.post("/v1/agents/echo/limit", &pids).ok(200);
                }
            });
        }
    });
    let applied = daemon.client().get("/v1/policies").ok(200)["applied"].clone();
    let held = &applied["agents"]["echo"]["resource_limits"];
    let logged = last(&daemon, "policy.applied");
    assert_eq!(&logged["policy"]["resource_limits"], held, "{logged}");
    becomes(&daemon, "echo", "pids", &held["pids"]);
    eventually("the instance has the last of each", AT_ONCE, || {
        let (limits, record) = (shown(&daemon, "echo"), last(&daemon, "limits.changed"));
        let memory = daemon.client().get("/v1/agents/echo/policy").ok(200);
        let mut values = memory["items"].as_array().unwrap().iter();
        let wanted = values
            .find(|value| value["key"] == "resource_limits.memory_bytes")
            .unwrap()["value"]
            .clone();
        (limits["memoryBytes"] == wanted && record["limits"] == limits)
            .then_some(())
            .ok_or_else(|| format!("{wanted} {limits} {record}"))
    });
}

#[test]
fn the_way_out_is_narrowed_and_widened_while_an_agent_runs() {
    let test = "the_way_out_is_narrowed_and_widened_while_an_agent_runs";
    if !has_python(test) {
        return;
    }
    let outside = Outside::start();
    let daemon = with_outside(&outside);
    daemon.deploy(&traveller("net", &["allowed.test"]));
    let epoch = daemon.status("net")["epoch"].clone();
    let url = format!("http://allowed.test:{}/", outside.port());
    let send = |bytes: usize| {
        let asked = Instant::now();
        let order = json!({"x": ["http", url, "POST", {}, "b".repeat(bytes)]});
        let seen = daemon.output("net", &order);
        (seen, asked.elapsed())
    };
    let (seen, _) = send(10);
    assert_eq!(seen["x"]["ok"], true, "{seen}");
    assert_eq!(shown(&daemon, "net")["connections"], 64);

    daemon
        .ctl(&["agent", "limit", "net", "--connections", "0"])
        .exits(0);
    becomes(&daemon, "net", "connections", &json!(0));
    let (seen, _) = send(10);
    assert!(seen.to_string().contains("too_many_connections"), "{seen}");

    let limit = [
        "agent",
        "limit",
        "net",
        "--connections",
        "5",
        "--bandwidth",
        "100KB",
    ];
    daemon.ctl(&limit).exits(0);
    becomes(&daemon, "net", "bytesPerSecond", &json!(100_000));
    // A quarter of a megabyte may go at once; the rest at the rate.
    let (seen, took) = send(600_000);
    assert_eq!(seen["x"]["ok"], true, "{seen}");
    assert!(
        took > Duration::from_secs(2),
        "600 kB at 100 kB/s within {took:?}"
    );
    daemon
        .ctl(&["agent", "limit", "net", "--reset", "bandwidth"])
        .exits(0);
    becomes(&daemon, "net", "bytesPerSecond", &Value::Null);
    let record = last(&daemon, "limits.changed");
    assert_eq!(record["limits"]["connections"], 5, "{record}");
    assert_eq!(daemon.status("net")["epoch"], epoch, "without a restart");
}

/// SV8: of the protocols of the way out, an agent speaks those that its policy lists.
#[test]
fn a_protocol_that_is_not_listed_is_refused_with_a_record() {
    let test = "a_protocol_that_is_not_listed_is_refused_with_a_record";
    if !has_python(test) {
        return;
    }
    let outside = Outside::start();
    let daemon = with_outside(&outside);
    let listed = json!({"networkLimit": {"allowedProtocols": ["http", "gopher"]}});
    daemon.deploy(&traveller("net", &["allowed.test"]).set("policy", listed));
    let port = outside.port();
    let seen = daemon.output(
        "net",
        &json!({
            "http": ["http", format!("http://allowed.test:{port}/"), "POST", {}, "x"],
            "tunnel": ["tunnel", format!("allowed.test:{port}"), "GET / HTTP/1.0\r\n\r\n"],
        }),
    );
    assert_eq!(seen["http"]["ok"], true, "{seen}");
    assert!(
        seen["tunnel"].to_string().contains("protocol_not_allowed"),
        "{seen}"
    );
    eventually("it is on record", SOON, || {
        let record = last(&daemon, "egress.denied");
        (record.to_string().contains("protocol_not_allowed"))
            .then_some(())
            .ok_or_else(|| record.to_string())
    });
}

#[test]
fn the_use_of_disks_is_limited_while_an_agent_runs_or_refused_where_nobody_holds_it() {
    let test = "the_use_of_disks_is_limited_while_an_agent_runs_or_refused_where_nobody_holds_it";
    let config = "sandbox:\n  degradable: [cpu, memory, pids, disk, user, io]\n";
    let daemon = Home::new().config(config).start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon
        .ctl(&["agent", "limit", "echo", "--io", "5MB"])
        .exits(0);
    becomes(&daemon, "echo", "ioBytesPerSecond", &json!(5_000_000));
    let mut late = String::new();
    eventually("it is on record", AT_ONCE, || {
        let record = last(&daemon, "limits.changed");
        late = record["not_yet"].to_string();
        (record["limits"]["ioBytesPerSecond"] == 5_000_000)
            .then_some(())
            .ok_or_else(|| record.to_string())
    });
    let pid = daemon.status("echo")["instances"][0]["pid"].to_string();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let held = groups.lines().find_map(|line| {
        let (_, path) = line.split_once(":blkio:")?;
        let file = format!("/sys/fs/cgroup/blkio{path}/blkio.throttle.write_bps_device");
        std::fs::read_to_string(file).ok()
    });
    let Some(held) = held else {
        return skip(
            test,
            "what the kernel holds is not shown by control groups of version 1 here",
        );
    };
    assert!(
        held.contains(" 5000000") || late.contains("io"),
        "{held} {late}"
    );
    // After a restart it is in the report, with who holds it.
    daemon.ctl(&["agent", "restart", "echo"]).exits(0);
    eventually("it is in the report", SOON, || {
        let report = daemon.client().get("/v1/agents/echo/sandbox").ok(200);
        let io = report["controls"].as_array().unwrap().iter();
        io.filter(|one| one["control"] == "io")
            .any(|one| one["level"] == "advisory" || one["level"] == "kernel")
            .then_some(())
            .ok_or_else(|| report.to_string())
    });
    daemon
        .ctl(&["agent", "limit", "echo", "--reset", "io"])
        .exits(0);
    becomes(&daemon, "echo", "ioBytesPerSecond", &Value::Null);
    drop(daemon);

    // As shipped, a limit that the kernel does not hold whole is refused before it keeps the agent from starting.
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let ran = daemon
        .ctl(&["agent", "limit", "echo", "--io", "5MB"])
        .exits(1);
    assert!(ran.err.contains("sandbox.degradable"), "{}", ran.err);
}

/// Whether a control group holds this limit of the agent.
fn grouped(daemon: &Daemon, id: &str, control: &str) -> bool {
    let view = daemon
        .client()
        .get(&format!("/v1/agents/{id}/sandbox"))
        .ok(200);
    view["controls"].as_array().unwrap().iter().any(|one| {
        one["control"] == control && one["mechanism"].as_str().unwrap().starts_with("cgroup")
    })
}

/// The first record of a breach of this limit, and when it was written.
fn breach(daemon: &Daemon, limit: &str) -> Value {
    let mut found = Value::Null;
    eventually("the breach is on record", SOON, || {
        let records = daemon.audit("kind=limit.breached");
        let breach = records
            .into_iter()
            .find(|record| record["payload"]["breach"]["limit"] == limit);
        found = breach.ok_or("not yet".to_owned())?;
        Ok(())
    });
    found
}

#[test]
fn a_command_that_runs_out_of_memory_is_on_record_within_two_seconds() {
    let test = "a_command_that_runs_out_of_memory_is_on_record_within_two_seconds";
    let daemon = Daemon::start();
    let script = "x=$(head -c 300m /dev/zero | tr '\\0' x); echo ${#x}";
    let small = json!({"resource_limits": {"memory": "48MiB"}});
    daemon.deploy(&Bundle::command("hungry", script).set("policy", small));
    if !grouped(&daemon, "hungry", "memory") {
        return skip(test, "no control group accounts for memory here");
    }
    let task = json!({"requirements": ["hungry"], "input": {}, "retry": {"maxAttempts": 1}});
    let id = daemon.submit(&task);
    let ended = daemon.ended(&id, SOON);
    let error = &ended["attempts"][0]["error"];
    assert_eq!(error["class"], "resource", "{ended}");
    let record = breach(&daemon, "memory");
    let (seen, end) = (
        time(&record["time"]),
        time(&ended["attempts"][0]["endedAt"]),
    );
    assert!(seen.abs_diff(end) <= 2000, "{record} {ended}");
    let breach = &record["payload"]["breach"];
    assert_eq!(breach["allowed"], 48 << 20, "{breach}");
    // Once, although the kernel counted it and the end showed it.
    let all = daemon.audit("kind=limit.breached");
    let about = all
        .iter()
        .filter(|one| one["payload"]["epoch"] == record["payload"]["epoch"]);
    assert_eq!(about.count(), 1, "{all:?}");
}

/// Milliseconds of the day of a timestamp; the tests around it take seconds.
fn time(stamp: &Value) -> u64 {
    let text = stamp.as_str().unwrap_or_else(|| panic!("{stamp}"));
    let (_, clock) = text.trim_end_matches('Z').split_once('T').unwrap();
    let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
    let seconds = parts[0] * 3600.0 + parts[1] * 60.0 + parts[2];
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap()
}

#[test]
fn what_a_short_command_was_refused_is_on_record_although_nobody_looked_meanwhile() {
    let test = "what_a_short_command_was_refused_is_on_record_although_nobody_looked_meanwhile";
    let daemon = Daemon::start();
    let script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); (sleep .2 & sleep .2 & sleep .2 & sleep .2 &); done 2>/dev/null; echo over";
    let few = json!({"resource_limits": {"pids": 12}});
    daemon.deploy(&Bundle::command("forker", script).set("policy", few));
    if !grouped(&daemon, "forker", "pids") {
        return skip(test, "no control group counts processes here");
    }
    let id = daemon.submit(&json!({"requirements": ["forker"], "input": {}}));
    daemon.ended(&id, SOON);
    let record = breach(&daemon, "pids");
    assert_eq!(record["payload"]["breach"]["allowed"], 12, "{record}");
}

#[test]
fn a_file_beyond_the_limit_of_disk_ends_its_writer_with_a_record() {
    let daemon = Daemon::start();
    let small = json!({"resource_limits": {"disk": "2MiB"}});
    let script = "exec head -c 8m /dev/zero > ~/big";
    daemon.deploy(&Bundle::command("writer", script).set("policy", small));
    let task = json!({"requirements": ["writer"], "input": {}, "retry": {"maxAttempts": 1}});
    let id = daemon.submit(&task);
    let ended = daemon.ended(&id, SOON);
    assert_eq!(
        ended["attempts"][0]["error"]["class"], "resource",
        "{ended}"
    );
    let record = breach(&daemon, "disk");
    assert_eq!(record["payload"]["breach"]["allowed"], 2 << 20, "{record}");
}

/// Answers tasks, and counts the signals that it gets; a result tells of them.
const LISTENS: &str = r#"
import json, os, signal, sys

got = []
for name in ("HUP", "USR1", "WINCH"):
    signal.signal(getattr(signal, "SIG" + name), lambda number, _: got.append(signal.Signals(number).name))

def send(kind, payload, **head):
    print(json.dumps({"type": kind, "payload": payload, **head}), flush=True)

send("HANDSHAKE", {"name": "listens", "version": "1.0.0", "capabilities": ["listens"]})
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "TASK_REQUEST":
        send("TASK_RESULT", {"ok": True, "output": {"pid": os.getpid(), "got": got}}, task_id=message["task_id"])
"#;

#[test]
fn signals_reach_the_agents_own_process_and_are_on_record() {
    if !has_python("signals_reach_the_agents_own_process_and_are_on_record") {
        return;
    }
    let daemon = Daemon::start();
    let bundle = Bundle::new("listens")
        .set("entry", json!("main.py"))
        .set("runtime", json!({"command": "python3"}))
        .file("main.py", LISTENS);
    daemon.deploy(&bundle);
    let got = || daemon.output("listens", &json!("now"))["got"].clone();
    assert_eq!(got(), json!([]));
    daemon.ctl(&["agent", "signal", "listens", "HUP"]).exits(0);
    eventually("it got HUP", SOON, || {
        let seen = got();
        (seen == json!(["SIGHUP"]))
            .then_some(())
            .ok_or_else(|| seen.to_string())
    });
    let sent = daemon
        .client()
        .post(
            "/v1/agents/listens/signal",
            &json!({"signal": "USR1", "instance": 0}),
        )
        .ok(200);
    assert_eq!(
        sent,
        json!({"agentId": "listens", "signal": "USR1", "instances": [{"instance": 0, "epoch": 1}]})
    );
    eventually("it got USR1", SOON, || {
        let seen = got();
        (seen == json!(["SIGHUP", "SIGUSR1"]))
            .then_some(())
            .ok_or_else(|| seen.to_string())
    });
    let allowed = daemon.audit("kind=access.allowed");
    let resources: Vec<&Value> = allowed
        .iter()
        .map(|one| &one["payload"]["resource"])
        .collect();
    let expected = [
        json!("/v1/agents/listens/signal/HUP"),
        json!("/v1/agents/listens/signal/USR1/0"),
    ];
    assert!(
        expected.iter().all(|one| resources.contains(&one)),
        "{resources:?}"
    );
    // What has an order of its own is none, and who is not there or stands still takes none.
    let post = |agent: &str, body: Value| {
        daemon
            .client()
            .post(&format!("/v1/agents/{agent}/signal"), &body)
    };
    post("listens", json!({"signal": "KILL"})).problem(422, "invalid_value");
    post("listens", json!({"signal": "HUP", "instance": 7})).problem(409, "agent_not_running");
    post("nobody", json!({"signal": "HUP"})).problem(404, "agent_not_found");
    let wrong = daemon.ctl(&["agent", "signal", "listens", "kill"]).exits(2);
    assert!(
        format!("{wrong:?}").contains("meshctl agent restart"),
        "{wrong:?}"
    );
    daemon.ctl(&["agent", "pause", "listens"]).exits(0);
    post("listens", json!({"signal": "HUP"})).problem(409, "agent_paused");
    daemon.ctl(&["agent", "resume", "listens"]).exits(0);
    // One that it does not handle ends it, and the supervisor starts it again.
    daemon
        .ctl(&["agent", "signal", "listens", "SIGTERM"])
        .exits(0);
    eventually("it runs again", SOON, || {
        let status = daemon.status("listens");
        let again = status["epoch"] == 2 && status["lifecycle"] == "executing";
        again.then_some(()).ok_or_else(|| status.to_string())
    });
}
