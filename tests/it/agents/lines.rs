//! Agents whose lines are none, too long, or too many.

use mesh_tests::{Bundle, Home, eventually, has_python};
use serde_json::json;

use super::{Fleet, SOON};

#[test]
fn garbage_is_answered_line_by_line_and_counted_and_the_agent_goes_on() {
    if !has_python("garbage_is_answered_line_by_line_and_counted_and_the_agent_goes_on") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("garbage", "garbage"));
    eventually("every line is counted", SOON, || match fleet.refused() {
        12 => Ok(()),
        other => Err(other.to_string()),
    });
    let codes = fleet.daemon.output("garbage", &json!(1));
    let expected = json!([
        "malformed",
        "malformed",
        "malformed",
        "unknown_type",
        "malformed",
        "malformed",
        "unknown_field",
        "missing_field",
        "invalid_payload",
        "malformed",
        "invalid_payload",
        "malformed",
    ]);
    assert_eq!(codes, expected, "one ERROR for each line, in order");
    assert_eq!(
        fleet.daemon.status("garbage")["fault"]["score"],
        0,
        "bad lines are no crash"
    );
    fleet.others_are_unaffected();
}

#[test]
fn a_line_beyond_the_limit_is_passed_over() {
    if !has_python("a_line_beyond_the_limit_is_passed_over") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("big", "big_line"));
    assert_eq!(fleet.daemon.output("big", &json!("write")), json!([]));
    assert_eq!(
        fleet.daemon.output("big", &json!("look")),
        json!(["too_large"])
    );
    assert_eq!(fleet.refused(), 1);
    fleet.others_are_unaffected();
}

#[test]
fn what_the_bus_refuses_counts_too_and_the_count_outlives_the_instance() {
    if !has_python("what_the_bus_refuses_counts_too_and_the_count_outlives_the_instance") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("rude", "rude"));
    fleet.daemon.output("rude", &json!(3));
    let counted = |wanted: u64| {
        eventually("refusals are counted", SOON, || match fleet.refused() {
            count if count == wanted => Ok(()),
            other => Err(other.to_string()),
        });
    };
    counted(3);
    let fatal = fleet
        .daemon
        .submit(&super::bounded("rude", &json!("die"), 1, 30_000));
    fleet.daemon.ended(&fatal, SOON);
    fleet.daemon.output("rude", &json!(2));
    counted(5);
}

#[test]
fn one_that_floods_is_ended_as_resource_abuse_while_others_are_served() {
    if !has_python("one_that_floods_is_ended_as_resource_abuse_while_others_are_served") {
        return;
    }
    let fleet = Fleet::starting(Home::new(), &Bundle::rogue("flood", "flood"));
    for n in 0..5 {
        assert_eq!(fleet.daemon.output("echo", &json!(n)), json!(n));
    }
    fleet.fails_as("resource", "flooded");
    fleet.others_are_unaffected();
}

#[test]
fn one_that_floods_its_log_is_slowed_down_and_its_log_kept_bounded() {
    if !has_python("one_that_floods_its_log_is_slowed_down_and_its_log_kept_bounded") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("chatty", "flood_log"));
    let task = fleet.daemon.ask("chatty", &json!(1));
    fleet.others_are_unaffected();
    assert_eq!(fleet.daemon.ended(&task, SOON)["state"], "succeeded");
    let logs = fleet
        .daemon
        .client()
        .get("/v1/agents/chatty/logs?tail=10")
        .ok(200);
    assert_eq!(logs["items"].as_array().unwrap().len(), 10);
    assert_eq!(fleet.daemon.status("chatty")["fault"]["score"], 0);
}
