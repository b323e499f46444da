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
