//! Section 1: the daemon's start, its one line, its files, its ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ended, Home, eventually};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn it_says_where_it_is_once_and_keeps_its_address_and_token_for_clients() {
    let daemon = Daemon::start();
    let data = daemon.home().data().to_owned();
    assert!(
        daemon.url().starts_with("http://127.0.0.1:"),
        "{}",
        daemon.url()
    );
    let endpoint = fs::read_to_string(data.join("endpoint")).unwrap();
    assert_eq!(endpoint.trim(), daemon.url());
    let token = fs::metadata(data.join("token")).unwrap();
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    daemon.ctl(&["status"]).exits(0);
    assert_eq!(daemon.further_output(), [] as [String; 0]);
}

#[test]
fn an_orderly_end_exits_with_0_and_the_next_life_goes_on_with_the_same_token() {
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start();
        daemon.deploy(&Bundle::echo("echo"));
        let before = daemon.output("echo", &json!({"text": "before"}));
        let token = fs::read_to_string(daemon.home().data().join("token")).unwrap();
        let (home, code) = daemon.stop(signal);
        assert_eq!(code, 0, "{}", home.log());
        let daemon = home.start();
        assert_eq!(
            fs::read_to_string(daemon.home().data().join("token")).unwrap(),
            token
        );
        assert_eq!(before, json!({"text": "before"}));
        // The agent was to run, so it runs again.
        assert_eq!(
            daemon.output("echo", &json!({"text": "after"})),
            json!({"text": "after"})
        );
    }
}

#[test]
fn bundles_of_a_directory_are_deployed_at_start_and_again_without_a_change() {
    let home = Home::new();
    let agents = home.scratch().join("agents");
    Bundle::echo("first").write(&agents);
    Bundle::command("second", "cat").write(&agents);
    let daemon = home.agents(&agents).start();
    let ready = |daemon: &Daemon| {
        eventually("both are ready", Duration::from_secs(30), || {
            let list = daemon.client().get("/v1/agents").ok(200);
            let items = list["items"].as_array().unwrap();
            let all = items
                .iter()
                .filter(|agent| agent["instancesReady"] == 1)
                .count();
            if all == 2 {
                Ok(())
            } else {
                Err(list.to_string())
            }
        });
    };
    ready(&daemon);
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    let daemon = home.start();
    ready(&daemon);
    assert_eq!(daemon.audit("kind=registered").len(), 2);
}

#[test]
fn once_it_says_that_it_is_ready_it_knows_all_it_knew_before() {
    let daemon = Daemon::start();
    for n in 0..12 {
        daemon.register(&Bundle::echo(&format!("agent{n}")));
    }
    let known = |daemon: &Daemon| {
        let list = daemon.client().get("/v1/agents").ok(200);
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(known(&daemon), 12);
    let daemon = daemon.kill9().start();
    assert_eq!(daemon.status("agent9")["status"], "active");
    assert_eq!(
        known(&daemon),
        12,
        "reads see every acknowledged write, in this life and the next"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::new().config("api:\n  drain_timeout: 5m\nsupervision:\n  stop_timeout: 5m\n");
    let daemon = home.start();
    daemon.deploy(&Bundle::shell(
        "sleeper",
        r#"echo '{"type":"HANDSHAKE","payload":{"name":"sleeper","version":"1.0.0","capabilities":["sleeper"]}}'
           while true; do sleep 1000; done"#,
    ));
    let task = daemon.ask("sleeper", &json!(null));
    eventually("the task runs", Duration::from_secs(10), || {
        let task = daemon.task(&task);
        if task["state"] == "running" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    daemon.signal(Signal::TERM);
    eventually("it drains", Duration::from_secs(10), || {
        // Draining, it takes no new work; whether it still answers at all is its own affair.
        match daemon.client().try_send(
            "POST",
            "/v1/tasks",
            &[("content-type", "application/json")],
            Some(b"{\"type\":\"x\"}"),
        ) {
            Ok(answer) if answer.status == 202 => Err("it still takes tasks".to_owned()),
            Ok(_) | Err(_) => Ok(()),
        }
    });
    daemon.signal(Signal::TERM);
    daemon.wait_end(Duration::from_secs(10));
}

#[test]
fn it_explains_itself_without_running() {
    let home = Home::new();
    let run = |arguments: &[&str]| {
        let mut command = home.command();
        command.args(arguments);
        Ended::of(command, Duration::from_secs(30))
    };
    for schema in ["manifest", "task", "klp", "config"] {
        let told = run(&["schema", schema]).exits(0);
        let schema: serde_json::Value = serde_json::from_str(&told.out).expect("a JSON Schema");
        assert!(
            schema["$schema"].is_string() || schema["type"].is_string(),
            "{schema}"
        );
    }
    let origin = run(&["config", "--origin"]).exits(0);
    assert!(
        origin.out.contains("max_crashes") && origin.out.contains("default"),
        "{}",
        origin.out
    );
    let doctor = run(&["doctor"]);
    assert!(
        doctor.out.contains("seccomp") || doctor.out.contains("Landlock"),
        "{doctor:?}"
    );
    // Whatever it finds, it shows to people, too.
    let told = run(&["doctor", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    for finding in told["findings"].as_array().unwrap() {
        let name = finding["name"].as_str().unwrap();
        assert!(
            doctor.out.contains(&format!(" {name} ")),
            "{finding} {doctor:?}"
        );
    }
    run(&["--help"]).exits(0);
    run(&["frobnicate"]).exits(2);
    assert!(
        !home.data().exists(),
        "looking must not make a data directory"
    );
}
