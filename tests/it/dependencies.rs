//! Agents that need each other: the order in which they start and stop, waiting that is seen, circles that are refused.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// An agent that needs others.
fn needing(id: &str, needs: &[&str]) -> Bundle {
    let needs: Vec<Value> = needs
        .iter()
        .map(|name| json!({"name": name, "type": "agent"}))
        .collect();
    Bundle::echo(id).set("dependencies", json!(needs))
}

#[track_caller]
fn waits(daemon: &Daemon, agent: &str, expected: &[&str]) -> Value {
    eventually(&format!("{agent} waits for {expected:?}"), PATIENCE, || {
        let status = daemon.status(agent);
        let waits = status["waitingFor"].as_array().into_iter().flatten();
        let waits: Vec<String> = waits
            .map(|unmet| {
                let text = |name: &str| unmet[name].as_str().unwrap().to_owned();
                format!("{} {}", text("agent"), text("detail"))
            })
            .collect();
        if waits == expected {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

#[track_caller]
fn serves(daemon: &Daemon, agent: &str) {
    eventually(&format!("{agent} serves"), PATIENCE, || {
        let status = daemon.status(agent);
        if status["lifecycle"] == "executing" && status.get("waitingFor").is_none() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

/// Positions of an agent's records of a kind, oldest first.
fn records(daemon: &Daemon, agent: &str, kind: &str) -> Vec<u64> {
    let all = daemon.audit(&format!("agent={agent}"));
    let all = all.iter().filter(|record| record["kind"] == kind);
    all.map(|record| record["position"].as_u64().unwrap())
        .collect()
}

/// The newest record of each: that of `before` stands before that of `after`.
#[track_caller]
fn in_order(daemon: &Daemon, before: (&str, &str), after: (&str, &str)) {
    let first = records(daemon, before.0, before.1).pop();
    let second = records(daemon, after.0, after.1).pop();
    assert!(
        first.is_some() && first < second,
        "{before:?} at {first:?}, {after:?} at {second:?}"
    );
}

#[test]
fn agents_start_after_what_they_need_serves_and_stop_before_it() {
    let daemon = Daemon::start();
    // In the worst order: each needs one that is deployed after it.
    let first = daemon.register(&needing("search", &["index"]));
    assert_eq!(
        first["notices"],
        json!(["dependencies[0]: it waits until agent index serves, which is not registered"])
    );
    waits(&daemon, "search", &["index is not registered"]);
    let shown = daemon.ctl(&["agent", "status", "search"]).exits(0).out;
    assert!(shown.contains("agent index is not registered"), "{shown}");
    daemon.register(&needing("index", &["store"]));
    waits(&daemon, "search", &["index is not ready yet"]);
    waits(&daemon, "index", &["store is not registered"]);
    assert!(records(&daemon, "search", "activated").is_empty());
    daemon.register(&needing("store", &[]));
    for agent in ["store", "index", "search"] {
        serves(&daemon, agent);
    }
    in_order(&daemon, ("store", "started"), ("index", "activated"));
    in_order(&daemon, ("index", "started"), ("search", "activated"));

    // After a kill the same order holds, and nothing has to be told anew.
    let before = records(&daemon, "search", "activated").len();
    let daemon = daemon.kill9().start();
    for agent in ["store", "index", "search"] {
        serves(&daemon, agent);
    }
    assert_eq!(records(&daemon, "search", "activated").len(), before + 1);
    in_order(&daemon, ("store", "started"), ("index", "activated"));
    in_order(&daemon, ("index", "started"), ("search", "activated"));

    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    let daemon = home.start();
    for agent in ["store", "index", "search"] {
        serves(&daemon, agent);
    }
    // Of the orderly end before.
    in_order(
        &daemon,
        ("search", "instance.stopped"),
        ("index", "instance.stopped"),
    );
    in_order(
        &daemon,
        ("index", "instance.stopped"),
        ("store", "instance.stopped"),
    );
    in_order(&daemon, ("index", "started"), ("search", "activated"));
}

#[test]
fn a_stop_says_what_it_would_break_and_does_what_it_is_told_about_it() {
    let daemon = Daemon::start();
    for bundle in [
        needing("store", &[]),
        needing("index", &["store"]),
        needing("search", &["index"]),
    ] {
        daemon.deploy(&bundle);
    }
    // Who names it as optional goes on without it.
    let optional = json!([{"name": "search", "type": "agent", "required": false}]);
    daemon.deploy(&Bundle::echo("front").set("dependencies", optional));
    daemon.ctl(&["agent", "stop", "search"]).exits(0);
    daemon.gone("search", PATIENCE);
    assert_eq!(daemon.status("front")["lifecycle"], "executing");
    daemon.ctl(&["agent", "start", "search"]).exits(0);
    serves(&daemon, "search");
    let stop = "/v1/agents/store/stop";
    let refused = daemon.client().post(stop, &json!({}));
    let refused = refused.problem(409, "agent_needed");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("search, index run and need store"),
        "{detail}"
    );
    daemon.ctl(&["agent", "stop", "store"]).exits(5);
    assert_eq!(daemon.status("store")["lifecycle"], "executing");
    daemon
        .client()
        .post(stop, &json!({"dependents": "perhaps"}))
        .problem(422, "invalid_value");

    daemon
        .ctl(&["agent", "stop", "store", "--with-dependents"])
        .exits(0);
    for agent in ["search", "index", "store"] {
        daemon.gone(agent, PATIENCE);
    }
    in_order(
        &daemon,
        ("search", "instance.stopped"),
        ("index", "instance.stopped"),
    );
    in_order(
        &daemon,
        ("index", "instance.stopped"),
        ("store", "instance.stopped"),
    );

    // A start waits for what nobody has started, and says so; or starts it.
    let started = daemon.ctl(&["agent", "start", "search"]).exits(0).out;
    assert!(
        started.contains("it waits: agent index is stopped"),
        "{started}"
    );
    daemon
        .ctl(&["agent", "start", "index", "--with-needed"])
        .exits(0);
    for agent in ["store", "index", "search"] {
        serves(&daemon, agent);
    }
    in_order(&daemon, ("store", "started"), ("index", "activated"));
    in_order(&daemon, ("index", "started"), ("search", "activated"));

    // Left without it, the others run on; what they start anew waits.
    daemon.ctl(&["agent", "stop", "index", "--alone"]).exits(0);
    daemon.gone("index", PATIENCE);
    assert_eq!(daemon.status("search")["lifecycle"], "executing");
    daemon.ctl(&["agent", "restart", "search"]).exits(0);
    waits(&daemon, "search", &["index is stopped"]);
    let daemon = daemon.kill9().start();
    waits(&daemon, "search", &["index is stopped"]);
    daemon.ctl(&["agent", "start", "index"]).exits(0);
    serves(&daemon, "search");
}

#[test]
fn a_circle_is_refused_with_all_that_is_in_it_and_leaves_no_trace() {
    let daemon = Daemon::start();
    daemon.register(&needing("a", &["b"]));
    daemon.register(&needing("b", &["c"]));
    let tar = needing("c", &["d", "a"]).tar();
    let refused = daemon.client().send(
        "POST",
        "/v1/agents",
        &[("content-type", "application/x-tar")],
        Some(&tar),
    );
    let refused = refused.problem(422, "dependency_cycle");
    assert_eq!(refused["field"], "dependencies[1].name", "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("c → a → b → c"), "{detail}");
    assert_eq!(daemon.status("c")["status"], "not_found");
    // Without the way back it is taken.
    daemon.deploy(&needing("c", &[]));
    for agent in ["a", "b"] {
        serves(&daemon, agent);
    }
}

#[test]
fn a_version_that_is_not_taken_holds_back_until_it_is_exchanged() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("store"));
    let picky = |version: &str, taken: &str| {
        let needs = json!([
            {"name": "store", "type": "agent", "version": taken},
            {"name": "extra", "type": "agent", "required": false},
            {"name": "numpy", "type": "module"},
        ]);
        Bundle::echo("picky")
            .set("version", json!(version))
            .set("dependencies", needs)
    };
    let there = daemon.register(&picky("1.0.0", "^2"));
    let notices = there["notices"].as_array().unwrap();
    assert_eq!(notices.len(), 3, "{there}");
    assert_eq!(
        notices[1],
        "dependencies[1]: agent extra is not registered; it starts without it"
    );
    waits(
        &daemon,
        "picky",
        &["store is version 1.0.0, which ^2 does not take"],
    );
    daemon.register(&Bundle::echo("store").set("version", json!("2.0.0")));
    daemon.ctl(&["agent", "upgrade", "store"]).exits(0);
    serves(&daemon, "picky");

    // An upgrade to a version that would wait is refused before anything is stopped.
    daemon.register(&picky("1.1.0", "^3"));
    let refused = daemon.client().post("/v1/agents/picky/upgrade", &json!({}));
    let refused = refused.problem(409, "needs_missing");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("which ^3 does not take"), "{detail}");
    assert_eq!(daemon.status("picky")["version"], "1.0.0");
    assert_eq!(records(&daemon, "picky", "activated").len(), 1);
}

#[test]
fn the_graph_is_shown_as_text_as_json_and_to_be_drawn() {
    let daemon = Daemon::start();
    daemon.deploy(&needing("store", &[]));
    daemon.deploy(&needing("index", &["store"]));
    daemon.register(&needing("search", &["index", "store", "ranker"]));
    waits(&daemon, "search", &["ranker is not registered"]);
    let graph = daemon.client().get("/v1/dependencies").ok(200);
    assert_eq!(
        graph["waves"],
        json!([["store"], ["index"], ["search"]]),
        "{graph}"
    );
    assert_eq!(graph["cycles"], json!([]));
    let search = &graph["agents"][1];
    assert_eq!(search["id"], "search", "{graph}");
    assert_eq!(search["needs"][2]["met"], json!(false));
    assert_eq!(graph["agents"][2]["neededBy"], json!(["index", "search"]));

    let tree = daemon.ctl(&["agent", "graph"]).exits(0).out;
    assert_eq!(
        tree.lines().collect::<Vec<_>>(),
        [
            "search 1.0.0 (waits: agent ranker is not registered)",
            "  index 1.0.0 (ready)",
            "    store 1.0.0 (ready)",
            "  store 1.0.0 (ready)",
            "  ranker (not registered)",
        ]
    );
    let part = daemon.ctl(&["agent", "graph", "index"]).exits(0).out;
    assert_eq!(part.lines().count(), 2, "{part}");
    let mermaid = ["agent", "graph", "--form", "mermaid"];
    let mermaid = daemon.ctl(&mermaid).exits(0).out;
    assert!(mermaid.starts_with("flowchart TD\n"), "{mermaid}");
    assert!(mermaid.contains("n0 --> n3"), "{mermaid}");
    let dot = daemon
        .ctl(&["agent", "graph", "--form", "dot"])
        .exits(0)
        .out;
    assert!(dot.contains("\"index\" -> \"store\";"), "{dot}");
    assert!(dot.contains("\"ranker\" [style=dashed];"), "{dot}");
}

#[test]
fn who_waits_for_long_is_an_issue_and_starts_all_the_same() {
    let daemon = Daemon::start();
    daemon.register(&needing("late", &["missing"]));
    waits(&daemon, "late", &["missing is not registered"]);
    eventually("it is an issue", PATIENCE * 2, || {
        let health = daemon.client().get("/v1/health").ok(200);
        let issues = health["issues"].to_string();
        let said = "agent:late: waits before its start: agent missing is not registered";
        if issues.contains(said) {
            Ok(())
        } else {
            Err(issues)
        }
    });
    assert_eq!(daemon.status("late")["fault"]["score"], 0);
    daemon.deploy(&needing("missing", &[]));
    serves(&daemon, "late");
}

#[test]
fn a_stop_of_many_waves_goes_on_until_all_have_stopped_however_long_one_answer_may_take() {
    let daemon = Home::new()
        .config("api: {answer_timeout: 3s}\nsupervision: {stop_timeout: 2s}\n")
        .start();
    // Each is killed at the end of its time; all of them together take longer than an answer may.
    let stubborn = |id: &str, needs: &[&str]| {
        let needs: Vec<Value> = needs
            .iter()
            .map(|name| json!({"name": name, "type": "agent"}))
            .collect();
        let hello = format!(
            r#"{{"type":"HANDSHAKE","payload":{{"name":"{id}","version":"1.0.0","capabilities":["{id}"],"hooks":["shutdown"]}}}}"#
        );
        let script =
            format!("trap '' TERM\necho '{hello}'\nwhile :; do read -r line || sleep 0.1; done");
        Bundle::shell(id, &script).set("dependencies", json!(needs))
    };
    let chain = ["a", "b", "c", "d"];
    for (nth, id) in chain.into_iter().enumerate() {
        let needs = if nth == 0 {
            vec![]
        } else {
            vec![chain[nth - 1]]
        };
        daemon.deploy(&stubborn(id, &needs));
        serves(&daemon, id);
    }
    let stop = json!({"dependents": "stop"});
    daemon
        .client()
        .post("/v1/agents/a/stop", &stop)
        .problem(504, "timed_out");
    daemon
        .ctl(&["agent", "stop", "a", "--with-dependents"])
        .exits(0);
    for id in chain {
        assert_eq!(daemon.status(id)["instances"], json!([]), "{id}");
    }
}
