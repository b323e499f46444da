//! Agents that die, and agents that leave something behind.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Marker, Process, eventually, has_python, marked, skip};
use serde_json::{Value, json};

use super::{Fleet, SOON, bounded, classes};

/// Agents that end right behind their result, one after the other.
const LAST_WORDS: u64 = 200;

#[test]
fn one_that_is_killed_is_restarted_and_its_task_done_again() {
    if !has_python("one_that_is_killed_is_restarted_and_its_task_done_again") {
        return;
    }
    let marker = Marker::new();
    let fleet = Fleet::serving(&Bundle::marked_rogue("worker", "slow", &marker));
    let daemon = &fleet.daemon;
    let task = daemon.ask("worker", &json!({"ms": 2000}));
    let pid = eventually("the task runs", SOON, || {
        let (task, status) = (daemon.task(&task), daemon.status("worker"));
        match (
            task["state"].as_str(),
            status["instances"][0]["pid"].as_u64(),
        ) {
            (Some("running"), Some(pid)) => Ok(pid),
            _ => Err(task.to_string()),
        }
    });
    let ran = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(ran.success());
    let task = daemon.ended(&task, Duration::from_mins(1));
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(classes(&task), ["crash"], "{task}");
    assert_eq!(task["attempts"].as_array().unwrap().len(), 2);
    fleet.fails_as("crash", "signal 9");
    let (first, second) = (&task["attempts"][0]["epoch"], &task["attempts"][1]["epoch"]);
    assert!(second.as_u64() > first.as_u64(), "{task}");
    assert_eq!(daemon.status("worker")["fault"]["score"], 1);
    fleet.others_are_unaffected();
}

#[test]
fn a_task_that_kills_whoever_takes_it_is_dead_lettered_after_two_and_the_agent_is_not_blamed() {
    if !has_python(
        "a_task_that_kills_whoever_takes_it_is_dead_lettered_after_two_and_the_agent_is_not_blamed",
    ) {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("victim", "killed"));
    let task = fleet
        .daemon
        .submit(&bounded("victim", &json!("die"), 10, 30_000));
    let task = fleet.daemon.ended(&task, Duration::from_mins(1));
    assert_eq!(task["state"], "dead_lettered", "{task}");
    assert_eq!(classes(&task), ["crash", "crash"], "{task}");
    assert_eq!(fleet.errors().len(), 2);
    assert_eq!(fleet.daemon.output("victim", &json!("live")), json!("live"));
    assert_eq!(
        fleet.daemon.status("victim")["fault"]["score"],
        0,
        "its score is refunded"
    );
    fleet.others_are_unaffected();
}

/// A home whose agents may end as often as they like: each of these ends is a scored failure.
fn hardened() -> Home {
    Home::new().config(
        "default_policy:\n  lifecycle:\n    max_crashes: 900\n    quarantine_threshold: 900\n\
         supervision:\n  hourly_max: 900\n  backoff_base: 1ms\n  backoff_max: 2ms\n",
    )
}

#[test]
fn a_result_written_right_before_the_end_is_never_lost() {
    if !has_python("a_result_written_right_before_the_end_is_never_lost") {
        return;
    }
    let daemon = hardened().start();
    daemon.deploy(&Bundle::rogue("brief", "last_words"));
    for n in 1..=LAST_WORDS {
        let task = daemon.submit(&bounded("brief", &json!(n), 1, 60_000));
        let task = daemon.ended(&task, Duration::from_mins(1));
        assert_eq!(
            (&task["state"], &task["output"]),
            (&json!("succeeded"), &json!(n)),
            "{task}"
        );
        // An instance that ends may be given the next task before its end is known; it never had that in hand.
        let attempts = task["attempts"].as_array().unwrap();
        let untouched = |attempt: &Value| {
            let message = attempt["error"]["message"].as_str();
            message.is_some_and(|text| text.contains("before it took the task in hand"))
        };
        let (_, earlier) = attempts.split_last().unwrap();
        assert!(earlier.iter().all(untouched), "{task}");
        eventually(
            "its end is seen",
            SOON,
            || match daemon.status("brief")["fault"]["score"].as_u64() {
                Some(score) if score == n => Ok(()),
                other => Err(format!("{other:?} after {n}")),
            },
        );
    }
}

#[test]
fn tasks_that_wait_behind_an_agent_that_ends_after_each_are_not_blamed_for_its_end() {
    if !has_python(
        "tasks_that_wait_behind_an_agent_that_ends_after_each_are_not_blamed_for_its_end",
    ) {
        return;
    }
    let daemon = hardened().start();
    daemon.deploy(&Bundle::rogue("brief", "last_words"));
    let tasks: Vec<_> = (0..12)
        .map(|n| daemon.submit(&bounded("brief", &json!(n), 1, 60_000)))
        .collect();
    for (n, task) in tasks.iter().enumerate() {
        let task = daemon.ended(task, Duration::from_mins(1));
        assert_eq!(
            (&task["state"], &task["output"]),
            (&json!("succeeded"), &json!(n)),
            "{task}"
        );
        assert!(
            classes(&task).iter().all(|class| *class == "lost"),
            "{task}"
        );
    }
}

#[test]
fn one_that_closes_its_output_is_ended_as_a_crash() {
    if !has_python("one_that_closes_its_output_is_ended_as_a_crash") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("closer", "closes_output"));
    let task = fleet
        .daemon
        .submit(&bounded("closer", &json!(1), 1, 30_000));
    let task = fleet.daemon.ended(&task, SOON);
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["crash"]),
        "{task}"
    );
    fleet.fails_as("crash", "output");
    fleet.others_are_unaffected();
}

#[test]
fn one_that_eats_memory_is_ended_as_resource_abuse() {
    let test = "one_that_eats_memory_is_ended_as_resource_abuse";
    if !has_python(test) {
        return;
    }
    let fleet =
        Fleet::serving(&Bundle::rogue("hog", "hog").set("policy", json!({"memoryLimit": 96})));
    let sandbox = fleet.daemon.client().get("/v1/agents/hog/sandbox").ok(200);
    let memory = sandbox["controls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|control| control["control"] == "memory");
    if memory.unwrap()["level"] != "kernel" {
        return skip(test, "the kernel limits no memory here");
    }
    let task = fleet.daemon.submit(&bounded("hog", &json!(1), 1, 60_000));
    let task = fleet.daemon.ended(&task, Duration::from_secs(90));
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["resource"]),
        "{task}"
    );
    fleet.fails_as("resource", "memory");
    fleet.others_are_unaffected();
}

/// What a double-forking agent left, at least itself and its daemon.
fn left_behind(daemon: &Daemon, marker: &Marker) -> Vec<Process> {
    assert_eq!(daemon.output("leaver", &json!(1)), json!(1));
    let left = marked(marker.as_str());
    assert!(left.len() >= 2, "the stimulus must bite: {left:?}");
    left
}

#[track_caller]
fn nothing_is_left(marker: &Marker) {
    eventually(
        "nothing of it lives",
        Duration::from_secs(5),
        || match marked(marker.as_str()) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
}

#[test]
fn what_forks_and_leaves_ends_with_its_instance_however_that_ends() {
    if !has_python("what_forks_and_leaves_ends_with_its_instance_however_that_ends") {
        return;
    }
    // Somebody else's process with the same look, outside, must survive all of it.
    let marker = Marker::new();
    let mut stranger = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::marked_rogue("leaver", "daemonize", &marker));

    left_behind(&daemon, &marker);
    daemon.ctl(&["agent", "stop", "leaver"]).exits(0);
    nothing_is_left(&marker);

    daemon.ctl(&["agent", "start", "leaver"]).exits(0);
    let before = left_behind(&daemon, &marker);
    daemon.ctl(&["agent", "restart", "leaver"]).exits(0);
    assert_eq!(daemon.output("leaver", &json!(1)), json!(1));
    assert_eq!(mesh_tests::survivors(&before), []);

    // The agent itself is killed; what it left goes with it.
    let before = marked(marker.as_str());
    let pid: Value = daemon.status("leaver")["instances"][0]["pid"].clone();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    eventually(
        "the old ones are gone",
        Duration::from_secs(5),
        || match mesh_tests::survivors(&before) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );

    left_behind(&daemon, &marker);
    let home = daemon.kill9();
    nothing_is_left(&marker);
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "a stranger was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    drop(home);
}
