//! `kill -9` of the daemon after every state that a run can be seen in.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_tests::{Home, eventually};
use serde_json::{Value, json};

use super::{END_MAX, fleet, start, states, step};

/// Lives in one run at most: more than it has states. What never ends is found by this.
const LIVES_MAX: usize = 60;

fn workflow() -> Value {
    json!({"name": "killed", "steps": [
        {"id": "a", "requirements": ["slow"], "input": {"n": "${input.n}"}},
        {"id": "each", "requirements": ["slow"], "forEach": "${[1, 2, 3]}", "input": "${item * steps.a.output.n}"},
        {"id": "loop", "requirements": ["echo"], "after": ["a"], "input": "${round}",
         "repeat": {"until": "${steps.loop.output == 3}", "max": 5}},
        {"id": "skip", "requirements": ["echo"], "after": ["a"], "when": "${input.n == 0}"},
        {"id": "inner", "after": ["each", "loop"], "input": "${steps.each.output}", "workflow": {"steps": [
            {"id": "in", "requirements": ["slow"], "input": "${input[2]}"}], "output": "${steps.in.output + 1}"}},
        {"id": "ask", "approval": "go on?", "after": ["inner"]},
        {"id": "end", "requirements": ["echo"], "after": ["ask", "skip"],
         "input": {"inner": "${steps.inner.output}", "loop": "${steps.loop.output}"}},
    ], "output": "${steps.end.output}"})
}

/// Every unit of a run and the task that it is, once each.
fn expected_tasks() -> usize {
    // a, three items, three rounds, the inner one, the approval, the end.
    1 + 3 + 3 + 1 + 1 + 1
}

#[test]
fn a_run_that_is_killed_after_each_state_ends_once_with_the_right_output() {
    let mut daemon = Home::new().start();
    for bundle in fleet() {
        daemon.deploy(&bundle);
    }
    let id = start(&daemon, &workflow(), &json!({"n": 7}));
    let mut seen = Vec::new();
    let mut lives = 0;
    let run = loop {
        lives += 1;
        assert!(lives < LIVES_MAX, "it goes on for ever: {seen:?}");
        // The next state that no life has ended in yet, or the end.
        let run = eventually("the run gets on", END_MAX, || {
            let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
            let ended =
                ["succeeded", "failed", "cancelled"].contains(&run["state"].as_str().unwrap());
            let task = step(&run, "ask")["taskIds"][0].as_str();
            if let Some(task) = task.filter(|_| !ended && seen.contains(&states(&run))) {
                // Answered once it has been killed while it asked; a later answer is refused.
                let answered = daemon
                    .client()
                    .post(&format!("/v1/tasks/{task}/approve"), &json!({}));
                assert!(
                    [200, 404, 409].contains(&answered.status),
                    "{}",
                    answered.text()
                );
            }
            if ended || !seen.contains(&states(&run)) {
                Ok(run)
            } else {
                Err(run["steps"].to_string())
            }
        });
        if ["succeeded", "failed", "cancelled"].contains(&run["state"].as_str().unwrap()) {
            break run;
        }
        seen.push(states(&run));
        daemon = daemon.kill9().start();
    };
    assert!(lives > 4, "it was hardly killed: {seen:?}");
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], json!({"inner": 22, "loop": 3}), "{run}");
    assert_eq!(step(&run, "skip")["state"], "skipped");

    let mut per_unit: BTreeMap<String, usize> = BTreeMap::new();
    let mine = |record: &Value| {
        let labels = &record["payload"]["spec"]["labels"];
        let run_of = labels["workflow"].as_str().unwrap_or_default();
        run_of == id || Some(run_of) == step(&run, "inner")["runs"][0].as_str()
    };
    for record in daemon
        .audit("kind=task.submitted")
        .iter()
        .filter(|record| mine(record))
    {
        *per_unit
            .entry(record["task"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(
        per_unit.len(),
        expected_tasks(),
        "no unit is lost or doubled: {per_unit:?}"
    );
    assert!(per_unit.values().all(|n| *n == 1), "{per_unit:?}");
    let ends = daemon.audit("kind=workflow.ended");
    let ends = ends
        .iter()
        .filter(|record| record["payload"]["run"] == id.as_str());
    assert_eq!(ends.count(), 1);
}

#[test]
fn compensation_goes_on_after_a_kill_and_does_nothing_twice() {
    let mut daemon = Home::new().start();
    for bundle in fleet() {
        daemon.deploy(&bundle);
    }
    let undo = json!({"requirements": ["slow"]});
    let workflow = json!({"steps": [
        {"id": "a", "requirements": ["echo"], "input": 1, "compensate": undo},
        {"id": "b", "requirements": ["echo"], "input": 2, "after": ["a"], "compensate": undo},
        {"id": "bad", "requirements": ["refuse"], "after": ["b"], "onError": "compensate"},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    for undone in ["b", "a"] {
        eventually(&format!("{undone} is being taken back"), END_MAX, || {
            let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
            if step(&run, undone)["compensation"].is_string() {
                Ok(())
            } else {
                Err(run.to_string())
            }
        });
        daemon = daemon.kill9().start();
    }
    let run = super::ended(&daemon, &id);
    assert_eq!(run["state"], "failed");
    for step_id in ["a", "b"] {
        assert_eq!(step(&run, step_id)["compensation"], "succeeded", "{run}");
    }
    let undone = daemon.audit("kind=workflow.compensating");
    let steps: Vec<_> = undone
        .iter()
        .map(|record| record["payload"]["step"].clone())
        .collect();
    assert_eq!(steps, [json!("b"), json!("a")]);
}

#[test]
fn a_burst_of_runs_outlives_a_kill_in_its_midst() {
    let mut daemon = Home::new().start();
    for bundle in fleet() {
        daemon.deploy(&bundle);
    }
    let workflow = json!({"steps": [
        {"id": "a", "requirements": ["echo"], "input": "${input}"},
        {"id": "b", "requirements": ["echo"], "input": "${steps.a.output + 1}"},
        {"id": "c", "requirements": ["echo"], "input": "${steps.b.output + 1}"},
    ], "output": "${steps.c.output}"});
    let ids: Vec<String> = (0..40)
        .map(|n| start(&daemon, &workflow, &json!(n)))
        .collect();
    for _ in 0..3 {
        // Load at work, not synchronisation: each life ends somewhere in the midst.
        std::thread::sleep(Duration::from_millis(150));
        daemon = daemon.kill9().start();
    }
    for (n, id) in ids.iter().enumerate() {
        let run = super::ended(&daemon, id);
        assert_eq!(
            (&run["state"], &run["output"]),
            (&json!("succeeded"), &json!(n + 2)),
            "{run}"
        );
    }
    let ends = daemon.audit("kind=workflow.ended");
    assert_eq!(ends.len(), ids.len(), "each ends once");
}
