//! Teams as steps: drafted over the agents that there are when the step begins.

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

use super::{END_MAX, ended, outcome, start, step};

fn deploy(daemon: &Daemon) {
    daemon.deploy(&Bundle::echo("echo"));
    for name in ["write", "draw"] {
        let script = format!("sleep 0.3; printf '\"{name}\"'");
        daemon.deploy(&Bundle::command(name, &script));
    }
}

fn workflow(needs: &[&str]) -> Value {
    json!({"steps": [
        {"id": "topic", "requirements": ["echo"], "input": "tides"},
        {"id": "team", "input": "${steps.topic.output}",
         "team": {"pattern": "cross_functional", "requirements": needs}},
        {"id": "last", "requirements": ["echo"], "input": "${steps.team.output}"},
    ], "output": "${steps.last.output}"})
}

#[test]
fn a_team_is_drafted_in_the_midst_of_a_run_and_outlives_kills() {
    let mut daemon = Home::new().start();
    deploy(&daemon);
    let id = start(&daemon, &workflow(&["write", "draw"]), &Value::Null);
    // Killed while nothing, then while the team is known.
    daemon = daemon.kill9().start();
    let run = eventually("the team is drafted", END_MAX, || {
        let run = daemon.client().get(&format!("/v1/workflows/{id}")).ok(200);
        match step(&run, "team")["runs"][0].as_str() {
            Some(_) => Ok(run),
            None => Err(run["steps"].to_string()),
        }
    });
    assert_eq!(step(&run, "team")["kind"], "team");
    let inner = step(&run, "team")["runs"][0].as_str().unwrap().to_owned();
    daemon = daemon.kill9().start();
    let run = ended(&daemon, &id);
    assert_eq!(
        run["output"],
        json!({"write": "write", "draw": "draw"}),
        "{run}"
    );
    assert_eq!(
        step(&run, "team")["runs"],
        json!([inner]),
        "it was drafted once"
    );
    let team = daemon
        .client()
        .get(&format!("/v1/workflows/{inner}"))
        .ok(200);
    assert_eq!(team["name"], "cross-functional-team");
    assert_eq!(team["parent"]["run"], id.as_str());
}

#[test]
fn a_team_that_nobody_can_make_up_is_refused_with_the_document_or_when_its_turn_comes() {
    let daemon = Daemon::start();
    deploy(&daemon);
    let missing = workflow(&["write", "sing"]);
    let body = json!({"workflow": missing});
    let problem = daemon
        .client()
        .post("/v1/workflows", &body)
        .problem(422, "invalid_workflow");
    assert_eq!(
        problem["field"], "workflow.steps[1].team.requirements[1]",
        "{problem}"
    );
    let body = json!({"workflow": missing, "input": null});
    let run = daemon
        .client()
        .post("/v1/workflows?deployLater=true", &body)
        .ok(202);
    let run = ended(&daemon, run["id"].as_str().unwrap());
    assert_eq!(run["state"], "failed");
    let message = run["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("no registered agent has sing"),
        "{message}"
    );
    // What comes after it may go on without.
    let mut without = missing;
    without["steps"][1]["onError"] = json!("continue");
    let body = json!({"workflow": without});
    let run = daemon
        .client()
        .post("/v1/workflows?deployLater=true", &body)
        .ok(202);
    let run = ended(&daemon, run["id"].as_str().unwrap());
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &Value::Null)
    );
}

#[test]
fn every_pattern_is_a_step() {
    let daemon = Daemon::start();
    for name in ["one", "two", "three"] {
        let agent = Bundle::command(name, "cat >/dev/null; printf '{\"score\": 3}'");
        daemon.deploy(&agent.set("capabilities", json!(["think", "lead"])));
    }
    let team = |order: Value| {
        let document = json!({"steps": [{"id": "t", "team": order, "input": 1}], "output": "${steps.t.output}"});
        outcome(&daemon, &document, &Value::Null)
    };
    for order in [
        json!({"pattern": "hierarchical", "requirements": ["think"], "lead": "lead", "goal": "a text"}),
        json!({"pattern": "peer", "requirements": ["think"], "agreement": "unanimous"}),
        json!({"pattern": "swarm", "requirements": ["think"], "size": 2, "rounds": 2}),
    ] {
        let run = team(order);
        assert_eq!(run["output"], json!({"score": 3}), "{run}");
    }
}

/// Who did the one part of a team that is drafted for a run of this document, and the draft's description.
fn member(daemon: &Daemon, document: &Value) -> (String, String) {
    let run = ended(daemon, &start(daemon, document, &json!("tides")));
    assert_eq!(run["state"], "succeeded", "{run}");
    let inner = step(&run, "team")["runs"][0].as_str().unwrap().to_owned();
    let team = daemon
        .client()
        .get(&format!("/v1/workflows/{inner}"))
        .ok(200);
    let task = step(&team, "part-1")["taskIds"][0].as_str().unwrap();
    let who = daemon.task(task)["attempts"][0]["agentId"].clone();
    let why = team["workflow"]["description"].as_str().unwrap_or_default();
    (who.as_str().unwrap().to_owned(), why.to_owned())
}

#[test]
fn a_repeated_team_changes_its_members_by_what_was_measured_and_says_why() {
    let daemon = Daemon::start();
    for (name, answer) in [("alpha", "draft"), ("beta", "text")] {
        let agent = Bundle::command(name, &format!("cat >/dev/null; printf '\"{answer}\"'"));
        daemon.deploy(&agent.set("capabilities", json!(["write"])));
    }
    let document = json!({
        "name": "weekly",
        "steps": [{"id": "team", "input": "${input}",
                   "team": {"pattern": "cross_functional", "requirements": ["write"]}}],
    });
    // Nothing is known of either.
    assert_eq!(member(&daemon, &document).0, "alpha");
    let verified = |agent: &str| {
        let id = daemon.submit(&json!({
            "requirements": ["write"], "agent": agent, "input": 1, "retry": {"maxAttempts": 1},
            "contract": {"outputSchema": {"const": "text"}},
        }));
        daemon.ended(&id, END_MAX)["state"].clone()
    };
    for _ in 0..2 {
        assert_eq!(verified("alpha"), "dead_lettered");
        assert_eq!(verified("beta"), "succeeded");
    }
    // The same document again: nobody has touched it, and what was measured outlives a kill.
    let daemon = daemon.kill9().start();
    for name in ["alpha", "beta"] {
        eventually(&format!("{name} serves"), END_MAX, || {
            let status = daemon.status(name);
            if status["lifecycle"] == "executing" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }
    let (who, why) = member(&daemon, &document);
    assert_eq!(who, "beta", "{why}");
    let before = "part-1: beta (write: 2 of 2 verified passed, 2 at first, trust 0.7";
    assert!(why.contains(before), "{why}");
    assert!(
        why.contains("before alpha (write: 0 of 2 verified passed"),
        "{why}"
    );
    // A plan says it before it is started.
    let order = json!({"team": document["steps"][0]["team"], "input": 1});
    let plan = daemon.client().post("/v1/plans", &order).ok(201);
    let drafted = &plan["workflow"];
    assert_eq!(drafted["steps"][0]["prefer"], "beta", "{plan}");
    // Preferred, not bound: without it, the other one does it.
    daemon.ctl(&["agent", "stop", "beta"]).exits(0);
    assert_eq!(member(&daemon, &document).0, "alpha");
}

#[test]
fn a_step_that_only_several_can_do_is_accepted_and_is_a_teams() {
    let daemon = Daemon::start();
    for name in ["fetch", "research"] {
        daemon.deploy(&Bundle::command(name, "cat >/dev/null; echo 7"));
    }
    let asks = |needs: Value, more: Value| {
        let mut step = json!({"id": "a", "requirements": needs, "input": "x"});
        for (key, value) in more.as_object().unwrap() {
            step[key] = value.clone();
        }
        json!({"workflow": {"steps": [step, {"id": "b", "requirements": ["fetch"], "input": "${steps.a.output}"}]}})
    };
    let client = daemon.client();
    let run = client
        .post(
            "/v1/workflows",
            &asks(json!(["fetch", "research"]), json!({})),
        )
        .ok(202);
    let run = ended(&daemon, run["id"].as_str().unwrap());
    assert_eq!(run["state"], "succeeded", "{run}");
    // Nobody has one of them, or no team may form.
    for (needs, more, named) in [
        (
            json!(["fetch", "nada"]),
            json!({}),
            "no registered agent has nada (",
        ),
        (json!(["fetch", "research"]), json!({"team": null}), ""),
    ] {
        let answer = client.post("/v1/workflows?check=true", &asks(needs, more));
        if named.is_empty() {
            // What is waited for by an expression is drawn, too.
            let drawn = answer.ok(200)["mermaid"].as_str().unwrap().to_owned();
            assert!(drawn.contains("s0 --> s1"), "{drawn}");
        } else {
            let problem = answer.problem(422, "invalid_workflow");
            assert_eq!(
                problem["field"], "workflow.steps[0].requirements",
                "{problem}"
            );
            assert!(
                problem["detail"].as_str().unwrap().contains(named),
                "{problem}"
            );
        }
    }
}
