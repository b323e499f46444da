//! Agents whose results are malformed, stale, or not theirs to give.

use mesh_tests::{Bundle, has_python};
use serde_json::json;

use super::{Fleet, SOON, bounded, classes};

#[test]
fn a_malformed_result_breaks_the_contract_and_is_tried_again() {
    if !has_python("a_malformed_result_breaks_the_contract_and_is_tried_again") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("sloppy", "bad_result"));
    let task = fleet
        .daemon
        .submit(&bounded("sloppy", &json!(1), 3, 30_000));
    let task = fleet.daemon.ended(&task, SOON);
    assert_eq!(task["state"], "dead_lettered", "{task}");
    assert_eq!(
        classes(&task),
        ["contract", "contract", "contract"],
        "{task}"
    );
    assert!(
        task["error"]["message"]
            .as_str()
            .unwrap()
            .contains("TASK_RESULT"),
        "{task}"
    );
    assert_eq!(fleet.daemon.status("sloppy")["fault"]["score"], 0);
    assert_eq!(
        fleet.daemon.audit("kind=activated&agent=sloppy").len(),
        1,
        "nothing was restarted for it"
    );
    fleet.others_are_unaffected();
}

#[test]
fn results_of_other_tasks_attempts_and_epochs_are_refused_and_counted() {
    if !has_python("results_of_other_tasks_attempts_and_epochs_are_refused_and_counted") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("stale", "stale"));
    let before = refused_in_all(&fleet);
    assert_eq!(fleet.daemon.output("stale", &json!("work")), json!("right"));
    assert_eq!(
        fleet.daemon.output("stale", &json!("report")),
        json!(["stale", "stale", "stale", "stale"])
    );
    assert_eq!(fleet.refused(), 4);
    assert!(refused_in_all(&fleet) > before, "the mesh counts them, too");
    let succeeded = fleet.daemon.audit("kind=task.succeeded");
    assert_eq!(succeeded.len(), 2, "one end for each task");
    fleet.others_are_unaffected();
}

#[test]
fn a_result_that_cannot_be_read_fails_the_one_attempt_it_can_mean_at_once() {
    if !has_python("a_result_that_cannot_be_read_fails_the_one_attempt_it_can_mean_at_once") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("odd", "odd_result"));
    let ways = ["nameless", "nan", "twice", "huge", "huge_first"];
    for way in ways {
        // Long before its timeout.
        let task = fleet
            .daemon
            .submit(&bounded("odd", &json!(way), 1, 120_000));
        let task = fleet.daemon.ended(&task, SOON);
        assert_eq!(task["state"], "dead_lettered", "{way}: {task}");
        assert_eq!(classes(&task), ["contract"], "{way}: {task}");
    }
    assert_eq!(
        fleet.daemon.output("odd", &json!("report")),
        json!([
            "missing_field",
            "malformed",
            "malformed",
            "too_large",
            "too_large"
        ])
    );
    assert_eq!(fleet.refused(), 5);
    assert_eq!(fleet.daemon.status("odd")["fault"]["score"], 0);
    fleet.others_are_unaffected();
}

#[test]
fn a_result_that_could_be_of_either_of_two_tasks_ends_neither() {
    if !has_python("a_result_that_could_be_of_either_of_two_tasks_ends_neither") {
        return;
    }
    let rogue = Bundle::rogue("pair", "two_at_once").set("concurrency", json!(2));
    let fleet = Fleet::serving(&rogue);
    let tasks = [1, 2].map(|n| fleet.daemon.ask("pair", &json!(n)));
    for task in &tasks {
        let task = fleet.daemon.ended(task, SOON);
        assert_eq!(task["state"], "succeeded", "{task}");
    }
    assert_eq!(fleet.refused(), 2);
}

#[test]
fn one_that_names_the_error_hook_hears_of_each_failure_once() {
    if !has_python("one_that_names_the_error_hook_hears_of_each_failure_once") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("hooked", "error_hook"));
    let run = |input: &str| {
        let task = fleet
            .daemon
            .submit(&bounded("hooked", &json!(input), 1, 30_000));
        fleet.daemon.ended(&task, SOON)
    };
    let failed = run("fail");
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(run("break")["state"], "dead_lettered");
    assert_eq!(run("garbage")["state"], "succeeded");
    let seen = run("report")["output"].clone();
    let refused = |nth: usize| seen[nth][2]["code"].clone();
    assert_eq!(
        seen[0],
        json!(["error", failed["id"], {"class": "refusal", "message": "cannot"}])
    );
    assert_eq!(
        (refused(1), refused(2)),
        (json!("malformed"), json!("malformed"))
    );
    assert_eq!(seen.as_array().unwrap().len(), 3, "{seen}");
    assert_eq!(fleet.refused(), 2, "its answers to the hook are none");
}

#[test]
fn one_that_forges_its_sender_is_isolated_its_attempt_fails_and_its_result_counts_for_nothing() {
    if !has_python(
        "one_that_forges_its_sender_is_isolated_its_attempt_fails_and_its_result_counts_for_nothing",
    ) {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("forger", "forge"));
    let task = fleet
        .daemon
        .submit(&bounded("forger", &json!(1), 3, 30_000));
    let task = fleet.daemon.ended(&task, SOON);
    assert_eq!(task["state"], "failed", "{task}");
    assert_eq!(classes(&task), ["policy"], "{task}");
    let status = fleet.daemon.fault_state("forger", "quarantined", SOON);
    let reason = &status["fault"]["quarantine"]["reason"];
    assert_eq!(
        (&reason["type"], &reason["severity"]),
        (&json!("security_violation"), &json!("critical")),
        "{status}"
    );
    fleet.fails_as("policy", "kai://agent.healthy");
    assert_eq!(fleet.daemon.audit("kind=quarantined&agent=forger").len(), 1);
    let pause = fleet
        .daemon
        .client()
        .post("/v1/agents/forger/pause", &json!({}));
    assert!(pause.text().contains("recover"), "{}", pause.text());
    pause.problem(409, "quarantined");
    fleet.others_are_unaffected();
    // A restart of meshd isolates it again, but that is no second quarantine.
    let daemon = fleet.daemon.kill9().start();
    daemon.fault_state("forger", "quarantined", SOON);
    assert_eq!(daemon.audit("kind=quarantined&agent=forger").len(), 1);
}

fn refused_in_all(fleet: &Fleet) -> u64 {
    let status = fleet.daemon.client().get("/status").ok(200);
    status["refused"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum()
}

#[test]
fn an_agents_own_word_decides_its_task_but_not_its_record() {
    if !has_python("an_agents_own_word_decides_its_task_but_not_its_record") {
        return;
    }
    let fleet = Fleet::serving(&Bundle::rogue("honest", "own_failure"));
    let run = |class: &str| {
        let input = json!({"class": class, "message": format!("{class} it is"), "retryable": class == "unavailable"});
        let task = fleet.daemon.submit(&bounded("honest", &input, 2, 30_000));
        fleet.daemon.ended(&task, SOON)
    };
    let refused = run("refusal");
    assert_eq!(
        (&refused["state"], classes(&refused)),
        (&json!("failed"), vec!["refusal"]),
        "{refused}"
    );
    assert_eq!(refused["error"]["message"], "refusal it is");
    let unavailable = run("unavailable");
    assert_eq!(unavailable["state"], "dead_lettered", "{unavailable}");
    assert_eq!(classes(&unavailable), ["unavailable", "unavailable"]);
    // Nobody can claim a crash, a lost node or a broken rule for itself.
    for class in ["crash", "lost", "policy"] {
        let task = run(class);
        assert!(!classes(&task).contains(&class), "{task}");
    }
    assert_eq!(fleet.daemon.status("honest")["fault"]["score"], 0);
    assert_eq!(fleet.errors().len(), 0);
    fleet.others_are_unaffected();
}
