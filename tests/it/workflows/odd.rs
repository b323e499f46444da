//! Odd workflows: failures within compensations, approvals that expire in loops, conditions that err, times that race.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

use super::{END_MAX, daemon, ended, fleet, outcome, start, step};

fn deployed(home: Home) -> Daemon {
    let daemon = home.start();
    for bundle in fleet() {
        daemon.deploy(&bundle);
    }
    daemon
}

fn run_of(daemon: &Daemon, id: &str) -> Value {
    daemon.client().get(&format!("/v1/workflows/{id}")).ok(200)
}

#[track_caller]
fn seen(daemon: &Daemon, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, END_MAX, || {
        let run = run_of(daemon, id);
        if is(&run) {
            Ok(run)
        } else {
            Err(run.to_string())
        }
    })
}

/// The steps that were taken back in a run, in order, with the items.
fn undone(daemon: &Daemon, id: &str) -> Vec<(String, u64)> {
    let all = daemon.audit("kind=workflow.compensating");
    let mine = all.iter().filter(|record| record["payload"]["run"] == id);
    mine.map(|record| {
        let (step, index) = (&record["payload"]["step"], &record["payload"]["index"]);
        (step.as_str().unwrap().to_owned(), index.as_u64().unwrap())
    })
    .collect()
}

#[test]
fn a_compensation_that_fails_stops_no_other_and_is_named_whenever_it_is_killed() {
    let mut daemon = deployed(Home::new());
    let workflow = json!({"steps": [
        {"id": "a", "requirements": ["echo"], "input": 1, "compensate": {"requirements": ["slow"]}},
        {"id": "b", "requirements": ["echo"], "input": 2, "after": ["a"], "compensate": {"requirements": ["refuse"]}},
        {"id": "c", "requirements": ["echo"], "input": 3, "after": ["b"],
         "compensate": {"requirements": ["echo"], "input": "${steps.c.output.nothing}"}},
        {"id": "d", "requirements": ["echo"], "input": 4, "after": ["c"], "compensate": {"requirements": ["slow"], "timeoutMs": 100}},
        {"id": "bad", "requirements": ["refuse"], "after": ["d"], "onError": "compensate"},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    for undo in ["d", "a"] {
        seen(&daemon, &id, undo, |run| {
            step(run, undo)["compensation"].is_string()
        });
        daemon = daemon.kill9().start();
    }
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "failed");
    let order: Vec<_> = undone(&daemon, &id)
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(order, ["d", "c", "b", "a"]);
    assert_eq!(step(&run, "a")["compensation"], "succeeded", "{run}");
    let message = run["error"]["message"].as_str().unwrap();
    for step in ["b", "c", "d"] {
        let named = format!("the compensation of step {step} failed");
        assert!(message.contains(&named), "{message}");
    }
    assert!(message.starts_with("step bad: "), "{message}");
}

#[test]
fn an_approval_that_expires_in_a_loop_ends_its_round_and_asks_nobody_any_more() {
    let mut daemon = deployed(Home::new());
    let workflow = json!({"steps": [
        {"id": "loop", "repeat": {"until": "${steps.loop.output.answer != null}", "max": 3}, "workflow": {"steps": [
            {"id": "ask", "approval": "well?", "timeoutMs": 700, "onError": "continue"},
            {"id": "note", "requirements": ["echo"], "after": ["ask"], "input": "${steps.ask.state}"},
        ], "output": {"answer": "${steps.ask.output}", "state": "${steps.note.output}"}}},
    ], "output": "${steps.loop.output}"});
    let id = start(&daemon, &workflow, &Value::Null);
    seen(&daemon, &id, "the first round", |run| {
        step(run, "loop")["runs"][0].is_string()
    });
    daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], json!({"answer": null, "state": "failed"}));
    assert_eq!(step(&run, "loop")["round"], 3);
    let asked = daemon.client().get("/v1/inbox").ok(200);
    assert_eq!(asked["items"], json!([]), "{asked}");
    // And one that is answered in time ends the loop.
    let id = start(&daemon, &workflow, &Value::Null);
    let task = eventually("it asks", END_MAX, || {
        let asked = daemon.client().get("/v1/inbox").ok(200);
        let item = asked["items"][0]["id"].as_str().map(str::to_owned);
        let answered = item.as_ref().map(|task| {
            let path = format!("/v1/tasks/{task}/approve");
            daemon
                .client()
                .post(&path, &json!({"approve": true}))
                .status
        });
        if answered == Some(200) {
            Ok(item)
        } else {
            Err(asked.to_string())
        }
    });
    let run = ended(&daemon, &id);
    assert_eq!(run["output"]["answer"]["approved"], true, "{task:?} {run}");
}

#[test]
fn a_named_workflow_that_is_changed_or_whose_run_is_cancelled_meanwhile() {
    let daemon = deployed(Home::new());
    let inner = |text: &str| {
        json!({"name": "inner", "steps": [
            {"id": "wait", "requirements": ["slow"], "input": text}], "output": "${steps.wait.output}"})
    };
    outcome(&daemon, &inner("old"), &Value::Null);
    let outer = json!({"steps": [
        {"id": "made", "requirements": ["echo"], "input": 1, "compensate": {"requirements": ["echo"]}},
        {"id": "first", "requirements": ["slow"], "after": ["made"]},
        {"id": "in", "workflow": "inner", "after": ["first"], "onError": "compensate"},
    ], "output": "${steps.in.output}"});
    let id = start(&daemon, &outer, &Value::Null);
    outcome(&daemon, &inner("new"), &Value::Null);
    let daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(run["output"], "old", "pinned to what it began with: {run}");
    let id = start(&daemon, &outer, &Value::Null);
    let run = seen(&daemon, &id, "the inner run", |run| {
        step(run, "in")["runs"][0].is_string()
    });
    let inner = step(&run, "in")["runs"][0].as_str().unwrap();
    let path = format!("/v1/workflows/{inner}/cancel");
    daemon
        .client()
        .post(&path, &json!({"reason": "not this one"}))
        .ok(200);
    let run = ended(&daemon, &id);
    assert_eq!(
        (&run["state"], &step(&run, "in")["state"]),
        (&json!("failed"), &json!("cancelled")),
        "{run}"
    );
    assert_eq!(step(&run, "made")["compensation"], "succeeded", "{run}");
}

#[test]
fn a_join_over_skipped_and_failed_branches_sees_null() {
    let daemon = daemon();
    let workflow = json!({"steps": [
        {"id": "no", "requirements": ["echo"], "when": "${false}", "input": 1},
        {"id": "none", "requirements": ["echo"], "when": false, "forEach": [1, 2], "input": "${item}"},
        {"id": "after-no", "requirements": ["echo"], "after": ["no"], "when": "${steps.no.state != 'skipped'}"},
        {"id": "bad", "requirements": ["refuse"], "onError": "continue", "input": 1},
        {"id": "each", "requirements": ["echo"], "forEach": [], "input": "${item}"},
        {"id": "some", "onError": "continue", "forEach": [1, 0, 3], "input": "${item}", "workflow": {"steps": [
            {"id": "div", "requirements": ["echo"], "input": "${6 / input}"}], "output": "${steps.div.output}"}},
        {"id": "join", "requirements": ["echo"], "input": {
            "no": "${steps.no.output}", "none": "${steps.none.output}", "bad": "${steps.bad.output}",
            "after": "${steps.after-no.state}", "each": "${steps.each.output}", "size": "${steps.each.output.size()}",
            "some": "${steps.some.output}"}},
    ], "output": "${steps.join.output}"});
    let run = outcome(&daemon, &workflow, &Value::Null);
    let expected = json!({"no": null, "none": null, "bad": null, "after": "skipped", "each": [], "size": 0,
        "some": [6, null, 2]});
    assert_eq!(run["output"], expected, "{run}");
}

#[test]
fn what_errs_while_it_runs_fails_its_step_and_says_where() {
    let daemon = daemon();
    let with = |step: Value, on_error: &str| {
        let mut step = step;
        step["id"] = json!("odd");
        step["after"] = json!(["made"]);
        step["requirements"] = json!(["echo"]);
        step["onError"] = json!(on_error);
        json!({"steps": [
            {"id": "made", "requirements": ["echo"], "input": {"n": 1}, "compensate": {"requirements": ["echo"]}},
            step,
            {"id": "last", "requirements": ["echo"], "after": ["odd"], "input": "${steps.odd.error.message}"},
        ]})
    };
    for (odd, at) in [
        (json!({"when": "${steps.made.output.absent}"}), "when: "),
        (
            json!({"when": "${steps.made.output.n}"}),
            "when: must be a bool",
        ),
        (
            json!({"forEach": "${steps.made.output}"}),
            "forEach: must be a list",
        ),
        (
            json!({"input": "${1 / (steps.made.output.n - 1)}"}),
            "input: ",
        ),
        (
            json!({"input": "${round}", "repeat": {"until": "${steps.odd.output.x == 1}", "max": 3}}),
            "repeat.until: ",
        ),
        (
            json!({"forEach": "${[0,1,2,3,4,5,6,7,8,9].map(a, [0,1,2,3,4,5,6,7,8,9].map(b, [0,1,2,3,4,5,6,7,8,9].map(c, c)))}",
            "input": "${item[99]}"}),
            "input: ",
        ),
    ] {
        let run = outcome(&daemon, &with(odd.clone(), "continue"), &Value::Null);
        assert_eq!(run["state"], "succeeded", "{odd} {run}");
        let told = run["output"]["last"].as_str().unwrap_or_default();
        assert!(told.starts_with(at), "{at} {run}");
        let run = outcome(&daemon, &with(odd, "compensate"), &Value::Null);
        let message = run["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("step odd: {at}")), "{message}");
        assert_eq!(step(&run, "made")["compensation"], "succeeded", "{run}");
    }
    let output = json!({"steps": [{"id": "a", "requirements": ["echo"], "input": 1}], "output": "${steps.a.output.b.c}"});
    let run = outcome(&daemon, &output, &Value::Null);
    assert_eq!(run["state"], "failed");
    assert!(
        run["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("output: "),
        "{run}"
    );
}

#[test]
fn a_time_that_races_with_a_result_leaves_nothing_half_done() {
    let mut daemon = deployed(Home::new());
    let runs: Vec<(u64, String)> = (0..16)
        .map(|nth| {
            let ms = 380 + nth * 12;
            let workflow = json!({"steps": [
                {"id": "late", "requirements": ["slow"], "input": nth, "timeoutMs": ms, "onError": "compensate",
                 "compensate": {"requirements": ["echo"]}},
            ]});
            (ms, start(&daemon, &workflow, &Value::Null))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    daemon = daemon.kill9().start();
    for (ms, id) in runs {
        let run = ended(&daemon, &id);
        let late = step(&run, "late");
        let task = daemon.task(late["taskIds"][0].as_str().unwrap());
        assert!(task["endedAt"].is_string(), "{ms} {task}");
        if run["state"] == "succeeded" {
            assert_eq!(task["state"], "succeeded", "{ms} {task}");
            assert_eq!(late["compensation"], Value::Null);
        } else {
            // What was done all the same is taken back, and nothing else is.
            let done = task["state"] == "succeeded";
            assert_eq!(late["compensation"].is_string(), done, "{ms} {run} {task}");
        }
    }
}

#[test]
fn a_map_over_nothing_over_many_and_over_too_many() {
    let mut daemon = deployed(Home::new());
    let workflow = json!({"steps": [
        {"id": "map", "requirements": ["echo"], "forEach": "${input.list}", "input": "${item * 2}"},
        {"id": "reduce", "requirements": ["echo"], "input": {"n": "${steps.map.output.size()}", "last":
            "${steps.map.output.size() == 0 ? -1 : steps.map.output[steps.map.output.size() - 1]}"}},
    ], "output": "${steps.reduce.output}"});
    let list = |count: u32| json!({"list": (0..count).collect::<Vec<_>>()});
    let run = outcome(&daemon, &workflow, &list(0));
    assert_eq!(run["output"], json!({"n": 0, "last": -1}), "{run}");
    let id = start(&daemon, &workflow, &list(1000));
    seen(&daemon, &id, "some items are done", |run| {
        step(run, "map")["items"][0]
            .as_u64()
            .is_some_and(|done| done > 20)
    });
    daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(run["output"], json!({"n": 1000, "last": 1998}));
    let body = json!({"workflow": workflow, "input": list(10_000)});
    let run = daemon.client().post("/v1/workflows?wait=30s", &body).json();
    assert_eq!(run["state"], "failed");
    let message = run["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("forEach: 10000 items; at most 1000"),
        "{message}"
    );
}

#[test]
fn items_that_were_done_are_taken_back_each_once_the_last_first() {
    let mut daemon = deployed(Home::new());
    let script = "read n; [ \"$n\" = 3 ] && { sleep 1; exit 3; }; sleep 0.$n; echo $n";
    daemon.deploy(&Bundle::command("picky", script).set("concurrency", json!(4)));
    let workflow = json!({"steps": [
        {"id": "each", "requirements": ["picky"], "forEach": [1, 2, 3, 4], "input": "${item}", "onError": "compensate",
         "compensate": {"requirements": ["slow"], "input": {"item": "${item}", "made": "${steps.each.output}"}}},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    seen(&daemon, &id, "it takes back", |run| {
        step(run, "each")["compensation"].is_string()
    });
    daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(step(&run, "each")["compensation"], "succeeded", "{run}");
    let undone = undone(&daemon, &id);
    assert_eq!(undone.len(), 3, "{undone:?}");
    let mut indexes: Vec<_> = undone.iter().map(|(_, index)| *index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 3], "what failed made nothing");
    let inputs = daemon.audit("kind=workflow.compensating");
    for record in inputs
        .iter()
        .filter(|record| record["payload"]["run"] == id.as_str())
    {
        let input = &record["payload"]["input"];
        assert_eq!(input["item"], input["made"], "its own output: {input}");
    }
}

#[test]
fn an_inner_run_that_is_under_way_takes_back_what_it_did_when_the_outer_one_fails() {
    let mut daemon = deployed(Home::new());
    let workflow = json!({"steps": [
        {"id": "inner", "workflow": {"steps": [
            {"id": "made", "requirements": ["echo"], "input": 1, "compensate": {"requirements": ["slow"]}},
            {"id": "ask", "approval": "well?", "after": ["made"]}]}},
        {"id": "bad", "onError": "compensate", "workflow": {"steps": [
            {"id": "wait", "requirements": ["slow"]},
            {"id": "no", "requirements": ["refuse"], "after": ["wait"]}]}},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    let run = seen(&daemon, &id, "both are under way", |run| {
        step(run, "inner")["runs"][0].is_string()
    });
    let inner = step(&run, "inner")["runs"][0].as_str().unwrap().to_owned();
    seen(&daemon, &inner, "it is taken back", |run| {
        step(run, "made")["compensation"].is_string()
    });
    daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "failed");
    let inner = run_of(&daemon, &inner);
    assert_eq!(
        (&inner["state"], &step(&inner, "made")["compensation"]),
        (&json!("cancelled"), &json!("succeeded")),
        "{inner}"
    );
    assert_eq!(undone(&daemon, inner["id"].as_str().unwrap()).len(), 1);
}

#[test]
fn a_run_that_is_cancelled_while_it_takes_back_goes_on_taking_back() {
    let daemon = deployed(Home::new());
    let undo = json!({"requirements": ["slow"]});
    let workflow = json!({"steps": [
        {"id": "a", "requirements": ["echo"], "input": 1, "compensate": undo},
        {"id": "b", "requirements": ["echo"], "input": 2, "after": ["a"], "compensate": undo},
        {"id": "bad", "requirements": ["refuse"], "after": ["b"], "onError": "compensate"},
    ]});
    let id = start(&daemon, &workflow, &Value::Null);
    seen(&daemon, &id, "it takes back", |run| {
        step(run, "b")["compensation"].is_string()
    });
    let path = format!("/v1/workflows/{id}/cancel");
    for _ in 0..2 {
        daemon.client().post(&path, &json!({})).ok(200);
    }
    let run = ended(&daemon, &id);
    assert_eq!(run["state"], "failed", "{run}");
    assert_eq!(step(&run, "a")["compensation"], "succeeded", "{run}");
}

#[test]
fn what_is_written_out_too_often_fails_its_step_and_meshd_lives_on() {
    let daemon = daemon();
    let numbers: Vec<u32> = (0..1000).collect();
    let input = json!({"list": numbers, "text": "x".repeat(700_000)});
    for odd in [
        json!({"requirements": ["echo"], "input": "${input.list.map(i, input.text)}"}),
        json!({"requirements": ["echo"], "input": "${input.list.map(i, input.list.map(j, input.text))}"}),
        json!({"requirements": ["echo"], "input": vec!["${input.text}"; 500]}),
        json!({"requirements": ["echo"], "input": "${input.text}".repeat(500)}),
        json!({"requirements": ["echo"], "forEach": "${input.list.map(i, input.text)}"}),
        json!({"forEach": "${input.list}", "workflow": {"steps": [
            {"id": "none", "requirements": ["echo"], "when": false}], "output": "${input.t}"},
            "input": {"t": "${input.text}"}}),
        json!({"forEach": "${input.list.filter(i, i < 20)}", "workflow": {"steps": [
            {"id": "none", "requirements": ["echo"], "when": false}], "output": "${[input.t, input.t]}"},
            "input": {"t": "${input.text}"}}),
    ] {
        let mut step = odd;
        step["id"] = json!("odd");
        let body = json!({"workflow": {"steps": [step]}, "input": input});
        let run = daemon.client().post("/v1/workflows?wait=30s", &body).json();
        assert_eq!(run["state"], "failed", "{}", run["steps"]);
        let message = run["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("step odd: "), "{message}");
    }
    // What every item sees is handed over once.
    let body = json!({"workflow": {"steps": [
        {"id": "map", "requirements": ["echo"], "forEach": "${input.list}", "input": "${input.text.size() + item}"}],
        "output": "${steps.map.output[999]}"}, "input": input});
    let run = daemon.client().post("/v1/workflows?wait=60s", &body).json();
    assert_eq!(run["output"], 700_999, "{}", run["error"]);
}
