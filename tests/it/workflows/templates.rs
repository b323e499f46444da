//! The workflows that people copy, each on its example agents.

use std::path::{Path, PathBuf};

use mesh_tests::{Daemon, eventually, has_python};
use serde_json::{Value, json};

use super::{END_MAX, ended, step};

fn config(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .join(below)
}

#[track_caller]
fn submitted(agents: &[&str], template: &str, input: &Value) -> (Daemon, String) {
    let daemon = Daemon::start();
    for agent in agents {
        let path = config(&format!("agents/{agent}"));
        let ran = daemon.ctl(&["agent", "deploy", path.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let file = config(&format!("workflows/{template}.yaml"));
    let ran = daemon.ctl(&[
        "workflow",
        "submit",
        file.to_str().unwrap(),
        "--input",
        &input.to_string(),
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let id = ran.out.trim().to_owned();
    (daemon, id)
}

#[test]
fn map_reduce_counts_the_words_of_files() {
    if !has_python("map_reduce_counts_the_words_of_files") {
        return;
    }
    let input =
        json!({"files": [{"name": "a", "text": "tea and tea"}, {"name": "b", "text": "and cake"}]});
    let (daemon, id) = submitted(&["word-counter"], "map-reduce", &input);
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"]["files"], 2);
    assert_eq!(
        run["output"]["words"],
        json!({"and": 2, "cake": 1, "tea": 2})
    );
}

#[test]
fn the_review_loop_ends_with_a_person() {
    if !has_python("the_review_loop_ends_with_a_person") {
        return;
    }
    let (daemon, id) = submitted(&["author"], "review-loop", &json!({"topic": "tides"}));
    let task = eventually("it asks", END_MAX, || {
        let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
        let task = step(&run, "sign-off")["taskIds"][0]
            .as_str()
            .map(str::to_owned);
        task.ok_or_else(|| run.to_string())
    });
    assert_eq!(daemon.ctl(&["task", "approve", &task]).code, 0);
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(
        step(&run, "rounds")["round"],
        3,
        "the critic is content with the third draft"
    );
    assert_eq!(run["output"]["approvedBy"], "user:admin");
}

#[test]
fn the_incident_is_answered_and_what_did_not_help_is_taken_back() {
    if !has_python("the_incident_is_answered_and_what_did_not_help_is_taken_back") {
        return;
    }
    let (daemon, id) = submitted(
        &["responder"],
        "incident-response",
        &json!({"signal": "errors", "helps": true}),
    );
    let run = ended(&daemon, &id);
    assert_eq!(
        (&run["state"], &run["output"]["action"]),
        (&json!("succeeded"), &json!("restart")),
        "{run}"
    );
    let file = config("workflows/incident-response.yaml");
    let input = json!({"signal": "errors", "helps": false}).to_string();
    let ran = daemon.ctl(&[
        "workflow",
        "submit",
        file.to_str().unwrap(),
        "--input",
        &input,
    ]);
    let run = ended(&daemon, ran.out.trim());
    assert_eq!(run["state"], "failed", "{run}");
    assert_eq!(step(&run, "act")["compensation"], "succeeded", "{run}");
    let calm = json!({"signal": "calm"}).to_string();
    let path = file.to_str().unwrap();
    let ran = daemon.ctl(&["workflow", "submit", path, "--input", &calm]);
    let run = ended(&daemon, ran.out.trim());
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"]["incident"], false, "{run}");
    for id in ["decide", "act", "verify"] {
        assert_eq!(step(&run, id)["state"], "skipped", "{run}");
    }
    // Whether the action helps need not be said.
    let errors = json!({"signal": "errors"}).to_string();
    let ran = daemon.ctl(&["workflow", "submit", path, "--input", &errors]);
    let run = ended(&daemon, ran.out.trim());
    assert_eq!(run["output"]["recovered"], true, "{run}");
}
