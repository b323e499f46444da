//! Server-sent events: live, by topic, and resumed without a gap or a repetition.

use mesh_tests::{Bundle, Daemon, Event};
use serde_json::json;

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id.unwrap()).collect()
}

#[test]
fn a_reader_that_comes_back_gets_exactly_what_it_missed() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let live = daemon.client().events("", None);
    for n in 0..5 {
        daemon.output("echo", &json!(n));
    }
    // Five tasks are at least fifteen records: submitted, assigned, succeeded.
    let seen: Vec<Event> = live.filter(|event| event.id.is_some()).take(12).collect();
    let all = ids(&seen);
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");

    let resumed: Vec<Event> = daemon
        .client()
        .events("", Some(all[3]))
        .filter(|event| event.id.is_some())
        .take(8)
        .collect();
    assert_eq!(resumed, seen[4..], "no gap, no repetition, the same events");

    // Also after the daemon's death.
    let daemon = daemon.kill9().start();
    let resumed: Vec<Event> = daemon
        .client()
        .events("", Some(all[3]))
        .filter(|event| event.id.is_some())
        .take(8)
        .collect();
    assert_eq!(ids(&resumed), all[4..]);
}

#[test]
fn a_topic_shows_its_own_events_only() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let tasks = daemon.client().events("?topic=task.*", None);
    daemon.deploy(&Bundle::echo("other"));
    daemon.output("echo", &json!(1));
    for event in tasks.take(3) {
        let topic = event.data["topic"].as_str().unwrap();
        assert!(topic.starts_with("task."), "{topic}");
        assert!(
            event.data["time"].is_string() && event.data["data"].is_object(),
            "{}",
            event.data
        );
    }
}

#[test]
fn the_client_follows_them_as_lines_of_json() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let told = daemon
        .ctl(&["events", "--since", "0", "--count", "5", "-o", "json"])
        .exits(0);
    let lines: Vec<serde_json::Value> = told
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0]["id"], 1, "after position 0 comes position 1");
}

#[test]
fn an_event_that_is_not_there_yet_is_no_place_to_resume() {
    let daemon = Daemon::start();
    let refused = daemon
        .client()
        .send("GET", "/v1/events", &[("last-event-id", "999999")], None);
    refused.problem(422, "unknown_event");
}
