//! Agents that do not read, do not answer, or do not let go.

use std::time::Duration;

use mesh_tests::{Bundle, Marker, eventually, has_python, marked};
use serde_json::json;

use super::{Fleet, SOON, bounded, classes};

#[test]
fn one_that_never_answers_times_out_and_is_not_blamed_for_a_crash() {
    if !has_python("one_that_never_answers_times_out_and_is_not_blamed_for_a_crash") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("mute", "mute"));
    let task = fleet.daemon.submit(&bounded("mute", &json!(1), 2, 500));
    let task = fleet.daemon.ended(&task, Duration::from_mins(1));
    assert_eq!(task["state"], "dead_lettered", "{task}");
    assert_eq!(classes(&task), ["timeout", "timeout"], "{task}");
    assert_eq!(fleet.daemon.status("mute")["fault"]["score"], 0);
    fleet.others_are_unaffected();
}

#[test]
fn one_that_never_reads_blocks_nobody_but_itself() {
    if !has_python("one_that_never_reads_blocks_nobody_but_itself") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("deaf", "deaf"));
    // Far more than a pipe holds.
    let big = "x".repeat(900_000);
    let task = fleet.daemon.submit(&bounded("deaf", &json!(big), 1, 1000));
    fleet.others_are_unaffected();
    let task = fleet.daemon.ended(&task, Duration::from_mins(1));
    assert_eq!(task["state"], "dead_lettered", "{task}");
    assert!(["timeout", "hang"].contains(&classes(&task)[0]), "{task}");
    fleet.others_are_unaffected();
}

#[test]
fn one_that_declares_a_heartbeat_and_is_silent_hangs() {
    if !has_python("one_that_declares_a_heartbeat_and_is_silent_hangs") {
        return;
    }
    let rogue = Bundle::rogue("silent", "silent")
        .set("heartbeat", json!({"interval": "300ms", "ttl": "900ms"}));
    let fleet = Fleet::serving(&rogue);
    fleet.fails_as("hang", "heartbeat");
    fleet.others_are_unaffected();
}

#[test]
fn one_that_does_not_answer_the_health_check_it_asked_for_hangs() {
    if !has_python("one_that_does_not_answer_the_health_check_it_asked_for_hangs") {
        return;
    }
    let rogue = Bundle::rogue("unwell", "no_health")
        .set("heartbeat", json!({"interval": "300ms", "ttl": "900ms"}));
    let fleet = Fleet::serving(&rogue);
    fleet.fails_as("hang", "");
    fleet.others_are_unaffected();
}

#[test]
fn one_that_declares_nothing_may_be_silent_for_as_long_as_it_likes() {
    if !has_python("one_that_declares_nothing_may_be_silent_for_as_long_as_it_likes") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("calm", "echo"));
    let task = fleet
        .daemon
        .submit(&json!({"requirements": ["nobody"], "deadlineMs": 3000}));
    // Three seconds pass on the daemon's own clock.
    fleet.daemon.ended(&task, SOON);
    assert_eq!(fleet.daemon.audit("kind=activated&agent=calm").len(), 1);
    assert_eq!(fleet.daemon.output("calm", &json!(1)), json!(1));
}

#[test]
fn one_that_ignores_cancellation_and_signals_is_ended_and_replaced() {
    if !has_python("one_that_ignores_cancellation_and_signals_is_ended_and_replaced") {
        return;
    }
    let marker = Marker::new();
    let fleet = Fleet::serving(&Bundle::marked_rogue("stubborn", "stubborn", &marker));
    let task = fleet.daemon.ask("stubborn", &json!("work"));
    eventually("it runs", SOON, || {
        let task = fleet.daemon.task(&task);
        if task["state"] == "running" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    let before = marked(marker.as_str());
    assert!(!before.is_empty());
    fleet
        .daemon
        .client()
        .post(&format!("/v1/tasks/{task}/cancel"), &json!({}))
        .ok(200);
    assert_eq!(fleet.daemon.ended(&task, SOON)["state"], "cancelled");
    eventually(
        "the old process is gone",
        SOON,
        || match mesh_tests::survivors(&before) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
    // The next instance serves.
    assert_eq!(
        fleet.daemon.output("stubborn", &json!("echo")),
        json!("echo")
    );
    assert_eq!(
        fleet.daemon.status("stubborn")["fault"]["score"],
        0,
        "a cancellation is nobody's crash"
    );
    // An order to stop is obeyed whether it likes it or not.
    fleet.daemon.ctl(&["agent", "stop", "stubborn"]).exits(0);
    eventually(
        "nothing of it is left",
        Duration::from_secs(5),
        || match marked(marker.as_str()) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
    fleet.others_are_unaffected();
}
