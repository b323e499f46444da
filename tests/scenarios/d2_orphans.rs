//! D2: tools that outlive what started them, and hold locks and memory for weeks.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Marker, eventually, has_python, marked, survivors};
use serde_json::json;

use super::{PATIENCE, at_work, saw, signal};

/// Nothing of an ended instance may be alive after this time.
const GONE_MAX: Duration = Duration::from_secs(5);

/// Leaves a process that hears no signal, stops one, and goes on forking while it works.
const CLINGING: &str = r#"
import os, signal, sys, time, json
def say(o): print(json.dumps(o), flush=True)
def deaf():
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT): signal.signal(s, signal.SIG_IGN)
def leave():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            deaf()
            while True: time.sleep(3600)
        os._exit(0)
    os.wait()
deaf()
say({"type": "HANDSHAKE", "payload": {"name": "clinging", "version": os.environ["VERSION"], "capabilities": ["clinging"]}})
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] != "TASK_REQUEST": continue
    leave()
    if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
    if m["payload"]["input"] == "work":
        while True:
            if os.fork() == 0:
                time.sleep(3600)
            time.sleep(0.05)
    say({"type": "TASK_RESULT", "task_id": m["task_id"], "payload": {"ok": True, "output": 1}})
"#;

fn clinging(marker: &Marker, version: &str) -> Bundle {
    Bundle::new("clinging")
        .set("version", json!(version))
        .file("main.py", CLINGING)
        .set("entry", json!("main.py"))
        .set(
            "runtime",
            json!({"command": "python3", "args": ["main.py"], "env": {"IT_MARK": marker.as_str(), "VERSION": version}}),
        )
}

/// Gives it work that leaves processes behind, and waits for them.
#[track_caller]
fn bite(daemon: &Daemon, marker: &Marker) -> Vec<mesh_tests::Process> {
    assert_eq!(daemon.output("clinging", &json!("leave")), json!(1));
    eventually("it has left processes behind", PATIENCE, || {
        let left = marked(marker.as_str());
        if left.len() >= 3 {
            Ok(left)
        } else {
            Err(format!("{left:?}"))
        }
    })
}

#[track_caller]
fn gone(what: &str, before: &[mesh_tests::Process]) {
    eventually(&format!("after {what} nothing is left"), GONE_MAX, || {
        let left = survivors(before);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    saw(&format!("D2 {what}: {} processes, none left", before.len()));
}

#[test]
fn d2_nothing_of_an_instance_outlives_it_and_nothing_else_is_touched() {
    if !has_python("d2_nothing_of_an_instance_outlives_it_and_nothing_else_is_touched") {
        return;
    }
    let (marker, other) = (Marker::new(), Marker::new());
    // Somebody else's, with the same program, started by the same user.
    let mut stranger = Command::new("sleep")
        .arg("3600")
        .env("IT_MARK", other.as_str())
        .spawn()
        .unwrap();
    let daemon = Home::new()
        .config("supervision:\n  stop_timeout: 1s\n  cancel_timeout: 1s\n  backoff_base: 20ms\napi:\n  drain_timeout: 1s\n")
        .start();
    daemon.deploy(&clinging(&marker, "1.0.0"));

    let before = bite(&daemon, &marker);
    daemon.ctl(&["agent", "stop", "clinging"]).exits(0);
    gone("stop", &before);
    daemon.ctl(&["agent", "start", "clinging"]).exits(0);

    bite(&daemon, &marker);
    let task = daemon.ask("clinging", &json!("work"));
    let pid = at_work(&daemon, "clinging", &task);
    eventually("it forks", PATIENCE, || {
        let many = marked(marker.as_str());
        if many.len() >= 10 {
            Ok(())
        } else {
            Err(format!("{}", many.len()))
        }
    });
    let before = marked(marker.as_str());
    assert!(pid > 0);
    let cancel = format!("/v1/tasks/{task}/cancel");
    daemon.client().post(&cancel, &json!({})).ok(200);
    gone("cancel, while it forks", &before);

    // Its first process is killed by somebody: what it left goes with it.
    let before = bite(&daemon, &marker);
    let pid = daemon.status("clinging")["instances"][0]["pid"].as_u64();
    signal("-KILL", pid.unwrap());
    gone("death of its first process", &before);

    let before = bite(&daemon, &marker);
    let order = json!({"type": "manual", "description": "seen enough", "severity": "low"});
    daemon
        .client()
        .post("/v1/agents/clinging/quarantine", &order)
        .ok(200);
    gone("quarantine", &before);
    daemon
        .ctl(&["agent", "recover", "clinging", "--force"])
        .exits(0);

    let before = bite(&daemon, &marker);
    let dir = clinging(&marker, "1.1.0").write(daemon.home().scratch());
    daemon
        .ctl(&["agent", "deploy", dir.to_str().unwrap()])
        .exits(0);
    daemon
        .ctl(&["agent", "upgrade", "clinging", "--to", "1.1.0"])
        .exits(0);
    gone("upgrade", &before);

    let before = bite(&daemon, &marker);
    let home = daemon.kill9();
    gone("kill -9 of meshd", &before);
    let daemon = home.start();
    bite(&daemon, &marker);
    daemon.ctl(&["agent", "terminate", "clinging"]).exits(0);
    eventually("nothing bears the mark", GONE_MAX, || {
        let left = marked(marker.as_str());
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "a stranger was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn d2_control_outside_meshd_the_same_program_leaves_orphans() {
    if !has_python("d2_control_outside_meshd_the_same_program_leaves_orphans") {
        return;
    }
    let marker = Marker::new();
    let mut agent = Command::new("python3")
        .args(["-c", CLINGING])
        .env("IT_MARK", marker.as_str())
        .env("VERSION", "1.0.0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = agent.stdin.take().unwrap();
    let task = json!({"type": "TASK_REQUEST", "task_id": "t", "payload": {"input": "leave"}});
    std::io::Write::write_all(&mut stdin, format!("{task}\n").as_bytes()).unwrap();
    // Its answer says that it has left them; what bears the mark before may be a wrapper that only finds the interpreter.
    let answer = BufReader::new(agent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("TASK_RESULT"));
    assert!(answer.is_some(), "it ended without an answer");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let orphans = marked(marker.as_str());
    saw(&format!("D2 control: {} orphans", orphans.len()));
    for orphan in &orphans {
        // One may be gone already: the kernel hangs up a stopped process that nobody is left to wake.
        drop(
            Command::new("kill")
                .args(["-KILL", &orphan.pid.to_string()])
                .stderr(Stdio::null())
                .status(),
        );
    }
    assert!(!orphans.is_empty(), "{orphans:?}");
}
