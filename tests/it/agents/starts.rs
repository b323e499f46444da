//! Agents that do not get as far as serving.

use std::time::Duration;

use mesh_tests::{Bundle, Home, eventually, has_python};
use serde_json::json;

use super::Fleet;

#[test]
fn one_that_exits_at_once_is_started_exactly_as_often_as_the_policy_allows() {
    let rogue = Bundle::shell("quitter", "echo 'no configuration, giving up' >&2; exit 3");
    let fleet = Fleet::starting(Home::new(), &rogue);
    let daemon = &fleet.daemon;
    let waiting = daemon.ask("quitter", &json!(1));
    fleet.fails_as("start", "code 3");
    // Three restarts after delays, a fourth failure opens the breaker, the trial after it is the fifth.
    let open = daemon.fault_state("quitter", "open", Duration::from_secs(20));
    assert_eq!(open["fault"]["score"], 4, "{open}");
    assert!(open["fault"]["nextAttemptAt"].is_string(), "{open}");
    let refused = daemon
        .client()
        .post("/v1/agents/quitter/restart", &json!({}));
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("nextAttemptAt") || refused.text().contains("20"),
        "{}",
        refused.text()
    );
    let task = daemon.task(&waiting);
    assert_eq!(
        (&task["state"], &task["waitingFor"]["reason"]),
        (&json!("parked"), &json!("breaker")),
        "{task}"
    );

    let quarantined = daemon.fault_state("quitter", "quarantined", Duration::from_secs(30));
    assert_eq!(
        quarantined["fault"]["quarantine"]["reason"]["type"], "crash",
        "{quarantined}"
    );
    assert!(
        quarantined["fault"]["reason"]
            .as_str()
            .unwrap()
            .contains("code 3"),
        "{quarantined}"
    );
    assert_eq!(daemon.audit("kind=activated&agent=quitter").len(), 5);
    assert_eq!(fleet.errors().len(), 5);
    let logs = daemon.client().get("/v1/agents/quitter/logs").text();
    assert!(logs.contains("no configuration, giving up"), "{logs}");
    fleet.others_are_unaffected();

    // What is decided survives the daemon: no further start, and no forgetting.
    let daemon = fleet.daemon.kill9().start();
    let status = daemon.status("quitter");
    assert_eq!(status["fault"]["state"], "quarantined", "{status}");
    assert_eq!(daemon.audit("kind=activated&agent=quitter").len(), 5);
}

#[test]
fn one_whose_program_is_missing_is_refused_or_fails_as_a_start() {
    let rogue =
        Bundle::new("missing").set("runtime", json!({"command": "no-such-program-anywhere"}));
    let fleet = Fleet::new(Home::new());
    let tar = rogue.tar();
    let answer = fleet.daemon.client().send(
        "POST",
        "/v1/agents",
        &[("content-type", "application/x-tar")],
        Some(&tar),
    );
    assert!(
        answer.text().contains("no-such-program-anywhere"),
        "{}",
        answer.text()
    );
    answer.problem(422, "start_refused");
    assert_eq!(fleet.daemon.audit("kind=activated&agent=missing").len(), 0);
    fleet.others_are_unaffected();
}

#[test]
fn one_that_shakes_no_hands_in_time_fails_as_a_start() {
    if !has_python("one_that_shakes_no_hands_in_time_fails_as_a_start") {
        return;
    }
    let home = Home::new().config("supervision:\n  start_timeout: 1s\n  stop_timeout: 1s\n");
    let fleet = Fleet::starting(home, &Bundle::rogue("late", "late"));
    fleet.fails_as("start", "1s");
    fleet.others_are_unaffected();
}

#[test]
fn a_handshake_that_is_malformed_or_contradicts_the_manifest_fails_as_a_start() {
    if !has_python("a_handshake_that_is_malformed_or_contradicts_the_manifest_fails_as_a_start") {
        return;
    }
    for (way, because) in [
        ("bad_handshake", "handshake"),
        ("wide_handshake", "everything"),
    ] {
        let fleet = Fleet::starting(Home::new(), &Bundle::rogue("rogue", way));
        fleet.fails_as("start", because);
        let wide = fleet.daemon.ask("everything", &json!(1));
        assert_eq!(
            fleet.daemon.task(&wide)["waitingFor"]["reason"],
            "no_agent",
            "nothing is gained by claiming more"
        );
        fleet.others_are_unaffected();
    }
}

#[test]
fn one_that_calls_itself_otherwise_or_names_nothing_is_who_its_manifest_says() {
    if !has_python("one_that_calls_itself_otherwise_or_names_nothing_is_who_its_manifest_says") {
        return;
    }
    for (way, logged) in [
        ("empty_handshake", None),
        ("other_name", Some("somebody-else 1.0.0")),
        ("other_version", Some("rogue 9.9.9")),
    ] {
        let fleet = Fleet::serving(&Bundle::rogue("rogue", way));
        assert_eq!(fleet.daemon.output("rogue", &json!(way)), json!(way));
        if let Some(logged) = logged {
            let log = fleet.daemon.home().log();
            assert!(log.contains(logged), "{log}");
        }
        fleet.others_are_unaffected();
    }
}

#[test]
fn one_that_speaks_before_its_handshake_is_told_so_and_may_go_on() {
    if !has_python("one_that_speaks_before_its_handshake_is_told_so_and_may_go_on") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("early", "early"));
    assert_eq!(fleet.daemon.output("early", &json!(1)), json!(1));
    eventually(
        "the early line is counted",
        Duration::from_secs(5),
        || match fleet.refused() {
            1 => Ok(()),
            other => Err(other.to_string()),
        },
    );
    fleet.others_are_unaffected();
}

#[test]
fn packages_come_with_the_bundle_and_a_list_of_them_is_said_to_install_none() {
    let test = "packages_come_with_the_bundle_and_a_list_of_them_is_said_to_install_none";
    if !has_python(test) {
        return;
    }
    let daemon = Home::new().start();
    let main = "import json, sys\nimport packed\n\
        print(json.dumps({'type': 'HANDSHAKE', 'payload': {'name': 'packer', 'version': '1.0.0', 'capabilities': ['packer']}}), flush=True)\n\
        for line in sys.stdin:\n    \
            m = json.loads(line)\n    \
            if m['type'] == 'TASK_REQUEST':\n        \
                print(json.dumps({'type': 'TASK_RESULT', 'task_id': m['task_id'], 'payload': {'ok': True, 'output': packed.WORD}}), flush=True)\n";
    let bundle = Bundle::new("packer")
        .set("version", json!("1.0.0"))
        .set("entry", json!("main.py"))
        .set("capabilities", json!(["packer"]))
        .file("main.py", main)
        .file("requirements.txt", "packed==1.0\n")
        // What `pip install --target .` leaves.
        .file("packed/__init__.py", "WORD = 'installed'\n");
    let headers = [("content-type", "application/x-tar")];
    let answer = daemon
        .client()
        .send("POST", "/v1/agents", &headers, Some(&bundle.tar()))
        .ok(201);
    let notices = answer["notices"].to_string();
    assert!(
        notices.contains("requirements.txt") && notices.contains("installs no packages"),
        "{answer}"
    );
    assert_eq!(daemon.output("packer", &json!(1)), json!("installed"));
}
