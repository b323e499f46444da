//! Stored plans: written down, read, edited, and started by a person; kept through `kill -9`.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

fn mesh() -> Daemon {
    let daemon = Home::new().start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon
}

fn document(text: &str) -> Value {
    json!({"name": "greet", "steps": [{"id": "hello", "requirements": ["echo"], "input": {"text": text}}]})
}

fn tasks(daemon: &Daemon) -> usize {
    let page = daemon.client().get("/v1/tasks").ok(200);
    page["items"].as_array().expect("tasks").len()
}

#[test]
fn a_plan_is_read_and_edited_before_it_runs_and_then_runs_as_it_was_read() {
    let daemon = mesh();
    let body = json!({"goal": "say hello", "workflow": document("first")});
    let plan = daemon.client().post("/v1/plans", &body).ok(201);
    let path = format!("/v1/plans/{}", plan["id"].as_str().expect("an id"));
    assert_eq!(
        (&plan["state"], &plan["version"]),
        (&json!("draft"), &json!(1))
    );
    assert_eq!(tasks(&daemon), 0, "nothing of it runs");

    let daemon = daemon.kill9().start();
    let kept = daemon.client().get(&path).ok(200);
    assert_eq!(kept, plan, "it is kept");
    let edit = json!({"goal": "say it better", "workflow": document("second"), "version": 1});
    let edited = daemon.client().put(&path, &edit).ok(200);
    assert_eq!(
        (&edited["version"], &edited["earlier"][0]["goal"]),
        (&json!(2), &json!("say hello"))
    );
    // Whoever read the first version starts nothing, and changes nothing.
    let start = format!("{path}/start");
    let refused = daemon.client().post(&start, &json!({"version": 1})).ok(409);
    assert_eq!(refused["code"], "plan_changed", "{refused}");
    let refused = daemon.client().put(&path, &edit).ok(409);
    assert_eq!(refused["code"], "plan_changed", "{refused}");
    assert_eq!(tasks(&daemon), 0);

    let started = daemon.client().post(&start, &json!({"version": 2})).ok(202);
    let daemon = daemon.kill9().start();
    let again = daemon.client().post(&start, &json!({"version": 2})).ok(200);
    assert_eq!(again["run"], started["run"], "one run");
    let run = format!(
        "/v1/workflows/{}?wait=50s",
        started["run"].as_str().expect("a run")
    );
    let run = daemon.client().get(&run).ok(200);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"]["hello"]["text"], "second", "{run}");
    assert_eq!(tasks(&daemon), 1);
    let refused = daemon
        .client()
        .put(&path, &json!({"workflow": document("third"), "version": 2}));
    assert_eq!(refused.ok(409)["code"], "plan_started");
    let kinds: Vec<_> = ["plan.written", "plan.started"]
        .map(|kind| daemon.audit(&format!("kind={kind}")).len())
        .into();
    assert_eq!(kinds, [2, 1]);
}

#[test]
fn a_task_is_submitted_as_a_plan_and_handled_on_the_command_line() {
    let daemon = mesh();
    let task = r#"{"requirements": ["echo"], "input": {"n": 7}}"#;
    let id = daemon
        .ctl(&["plan", "create", "--task", task, "-o", "name"])
        .exits(0)
        .out;
    let id = id.trim();
    let list = daemon.ctl(&["plan", "list"]).exits(0).out;
    assert!(list.contains(id) && list.contains("draft"), "{list}");
    let screen = daemon.ctl(&["plan", "show", id]).exits(0).out;
    assert!(screen.contains("flowchart"), "{screen}");
    daemon
        .ctl(&["plan", "start", id, "--version", "2"])
        .exits(5);
    let run = daemon
        .ctl(&["plan", "start", id, "--version", "1", "-o", "json"])
        .exits(0)
        .json();
    let run = run["run"].as_str().expect("a run").to_owned();
    let ended = daemon
        .client()
        .get(&format!("/v1/workflows/{run}?wait=50s"))
        .ok(200);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["output"]["task"]["n"], 7, "{ended}");
    daemon.ctl(&["plan", "delete", id]).exits(0);
    daemon.ctl(&["plan", "show", id]).exits(3);

    let bad = json!({"workflow": {"steps": [{"id": "a", "requirements": ["unheard-of"]}]}});
    let refused = daemon.client().post("/v1/plans", &bad).ok(422);
    assert_eq!(refused["code"], "invalid_workflow", "{refused}");
    let both = json!({"task": {"type": "echo", "idempotencyKey": "k"}});
    let refused = daemon.client().post("/v1/plans", &both).ok(422);
    assert_eq!(refused["field"], "task.idempotencyKey", "{refused}");
    // What would be left out in silence is refused.
    for (field, body) in [
        (
            "input",
            json!({"task": {"type": "echo"}, "input": {"n": 1}}),
        ),
        ("version", json!({"task": {"type": "echo"}, "version": 1})),
    ] {
        let refused = daemon.client().post("/v1/plans", &body).ok(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
}

/// A program that is run once per task, in Python: `answer` is an expression over `it`, what it was given.
fn program(id: &str, capabilities: &[&str], answer: &str) -> Bundle {
    let script =
        format!("import json, sys\nit = json.load(sys.stdin)\nprint(json.dumps({answer}))\n");
    Bundle::new(id)
        .set("capabilities", json!(capabilities))
        .file("main.py", &script)
        .set("entry", json!("main.py"))
        .set(
            "runtime",
            json!({"kind": "command", "command": "python3", "args": ["main.py"]}),
        )
        .set("concurrency", json!(4))
}

/// Drafts a team and lets it work; its run, when that has ended or waits for a person.
fn work(daemon: &Daemon, team: &Value, input: &Value) -> Value {
    let body = json!({"goal": "costs ${nothing}", "team": team, "input": input});
    let plan = daemon.client().post("/v1/plans", &body).ok(201);
    let path = format!("/v1/plans/{}/start", plan["id"].as_str().expect("an id"));
    let started = daemon.client().post(&path, &json!({"version": 1})).ok(202);
    let run = started["run"].as_str().expect("a run").to_owned();
    eventually("the team is done, or asks", Duration::from_mins(1), || {
        let run = daemon
            .client()
            .get(&format!("/v1/workflows/{run}?wait=1s"))
            .ok(200);
        match run["state"].as_str() {
            Some("running" | "queued") => Err(run["steps"].to_string()),
            _ => Ok(run),
        }
    })
}

#[test]
fn a_team_does_what_no_agent_does_alone_or_says_what_is_missing() {
    if !has_python("a_team_does_what_no_agent_does_alone_or_says_what_is_missing") {
        return;
    }
    let daemon = Home::new().start();
    daemon.deploy(&program(
        "scout",
        &["research"],
        "'facts on ' + (it['input'] if 'part' in it else it)",
    ));
    daemon.deploy(&program(
        "scribe",
        &["write", "polish"],
        "'text on ' + (it['brief'] if 'part' in it else it)",
    ));
    let lead = "it['input'] + '!' if it['phase'] == 'brief' else [it['goal'], it['results']]";
    daemon.deploy(&program("boss", &["lead"], lead));

    let needs = json!(["research", "write"]);
    let task = daemon.submit(&json!({"requirements": needs, "input": "tides", "team": "never"}));
    let waiting = daemon.client().get(&format!("/v1/tasks/{task}")).ok(200);
    let detail = waiting["waitingFor"]["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("scout has research, scribe has write"),
        "{waiting}"
    );

    let team = json!({"pattern": "cross_functional", "requirements": needs});
    let run = work(&daemon, &team, &json!("tides"));
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(
        run["output"],
        json!({"research": "facts on tides", "write": "text on tides"})
    );
    let team = json!({"pattern": "hierarchical", "requirements": needs, "lead": "lead"});
    let run = work(&daemon, &team, &json!("tides"));
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(
        run["output"],
        json!(["costs ${nothing}", {"part-1": "facts on tides", "part-2": "text on tides!"}])
    );

    let team = json!({"pattern": "cross_functional", "requirements": ["write", "fly"]});
    let refused = daemon
        .client()
        .post("/v1/plans", &json!({"team": team}))
        .ok(422);
    assert_eq!(
        (&refused["code"], &refused["field"]),
        (&json!("invalid_team"), &json!("team.requirements[1]"))
    );
}

#[test]
fn peers_agree_by_themselves_or_a_person_chooses() {
    if !has_python("peers_agree_by_themselves_or_a_person_chooses") {
        return;
    }
    let daemon = Home::new().start();
    // Two stay with what they think; the third one follows the majority of the others, once it knows them.
    daemon.deploy(&program("ann", &["judge"], "'guilty'"));
    daemon.deploy(&program("bob", &["judge"], "'guilty'"));
    daemon.deploy(&program(
        "cid",
        &["judge"],
        "it['answers']['peer-1'] if isinstance(it, dict) and it['answers'] else 'innocent'",
    ));
    let team = |more: Value| {
        let mut team = json!({"pattern": "peer", "requirements": ["judge"]});
        for (key, value) in more.as_object().expect("an object") {
            team[key] = value.clone();
        }
        team
    };
    let run = work(&daemon, &team(json!({})), &json!("well?"));
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!("guilty")),
        "{run}"
    );
    let all = team(json!({"agreement": "unanimous", "rounds": 3}));
    let run = work(&daemon, &all, &json!("well?"));
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!("guilty")),
        "{run}"
    );

    let once = team(json!({"agreement": "unanimous"}));
    let run = work(&daemon, &once, &json!("well?"));
    assert_eq!(run["state"], "blocked", "{run}");
    let asked = daemon.client().get("/v1/inbox").ok(200);
    let question = asked["items"][0]["id"]
        .as_str()
        .expect("a question")
        .to_owned();
    daemon
        .ctl(&["inbox", "answer", &question, "peer-3"])
        .exits(0);
    let id = run["id"].as_str().expect("a run");
    let run = daemon
        .client()
        .get(&format!("/v1/workflows/{id}?wait=50s"))
        .ok(200);
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!("innocent")),
        "{run}"
    );
}

#[test]
fn a_swarm_goes_on_from_its_best_until_it_is_good_enough() {
    if !has_python("a_swarm_goes_on_from_its_best_until_it_is_good_enough") {
        return;
    }
    let daemon = Home::new().start();
    // Each seat steps its own way from the best place so far, and sees how high it stands there.
    let climb = "(lambda x: {'x': x, 'score': -abs(x - 7)})((it['best'] or {'x': 0})['x'] + it['seat'] - 1)";
    daemon.deploy(&program("climber", &["climb"], climb));
    let id = daemon
        .ctl(&[
            "plan",
            "create",
            "--team",
            "swarm",
            "--requires",
            "climb",
            "--size",
            "3",
            "--rounds",
            "9",
            "--target",
            "-0.5",
            "-o",
            "name",
        ])
        .exits(0)
        .out;
    let run = daemon
        .ctl(&["plan", "start", id.trim(), "--version", "1", "-o", "json"])
        .exits(0)
        .json();
    let run = run["run"].as_str().expect("a run");
    let run = daemon
        .client()
        .get(&format!("/v1/workflows/{run}?wait=50s"))
        .ok(200);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], json!({"x": 7, "score": 0}), "{run}");
    // Two steps at most in each round: four rounds, of which none is done in vain.
    assert_eq!(tasks(&daemon), 12);
}

#[test]
fn a_try_without_a_score_does_not_end_its_swarm() {
    if !has_python("a_try_without_a_score_does_not_end_its_swarm") {
        return;
    }
    let daemon = Home::new().start();
    let answer = "'lost' if it['seat'] == 2 else {'seat': it['seat'], 'score': it['seat']}";
    daemon.deploy(&program("odd", &["climb"], answer));
    let team = json!({"pattern": "swarm", "requirements": ["climb"], "size": 3, "rounds": 1});
    let run = work(&daemon, &team, &json!(null));
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], json!({"seat": 3, "score": 3}), "{run}");
}

#[test]
fn in_a_debate_everybody_knows_what_was_said_and_a_judge_decides() {
    let test = "in_a_debate_everybody_knows_what_was_said_and_a_judge_decides";
    if !has_python(test) {
        return;
    }
    let daemon = Home::new().start();
    for name in ["for", "against"] {
        let says = format!(
            "{{'i': '{name}', 'round': it['round'], 'heard': sorted(v['i'] for v in it['statements'].values())}}"
        );
        daemon.deploy(&program(name, &["argue"], &says));
    }
    daemon.deploy(&program(
        "judge",
        &["judge"],
        "[it['phase'], it['statements']]",
    ));
    let team =
        json!({"pattern": "debate", "requirements": ["argue"], "lead": "judge", "rounds": 3});
    let run = work(&daemon, &team, &json!("tides"));
    assert_eq!(run["state"], "succeeded", "{run}");
    let side = |name: &str| json!({"i": name, "round": 3, "heard": ["against", "for"]});
    let said = json!({"side-1": side("against"), "side-2": side("for")});
    assert_eq!(run["output"], json!(["decide", said]), "{run}");
    // Three rounds of two, and the judge.
    assert_eq!(tasks(&daemon), 7);
}

#[test]
fn in_an_auction_the_lowest_bid_gets_the_work() {
    if !has_python("in_an_auction_the_lowest_bid_gets_the_work") {
        return;
    }
    let daemon = Home::new().start();
    for (name, bid) in [
        ("ann", "'much'"),
        ("bob", "2"),
        ("cid", "1.5"),
        ("dan", "1.5"),
    ] {
        let answer = format!("{{'bid': {bid}}} if it['phase'] == 'bid' else ['{name}', it['bid']]");
        daemon.deploy(&program(name, &["build"], &answer));
    }
    let team = json!({"pattern": "auction", "requirements": ["build"], "size": 4});
    let run = work(&daemon, &team, &json!("a shed"));
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], json!(["cid", {"bid": 1.5}]), "{run}");
    // Whose bids are no numbers have not bid, and where nobody did nobody works.
    let daemon = Home::new().start();
    for name in ["ann", "eve"] {
        daemon.deploy(&program(name, &["build"], "{'bid': it['phase']}"));
    }
    let team = json!({"pattern": "auction", "requirements": ["build"]});
    let run = work(&daemon, &team, &json!("a shed"));
    assert_eq!(run["state"], "failed", "{run}");
}
