//! Whole runs of `meshctl chaos`, and their verdicts.

use std::collections::BTreeSet;

use mesh_tests::{Bundle, Home};
use serde_json::{Value, json};

use super::{SHIPPED, lenient, starts};

/// The finding on one invariant.
#[track_caller]
fn finding<'r>(report: &'r Value, name: &str) -> &'r Value {
    let all = report["findings"].as_array().unwrap();
    all.iter()
        .find(|finding| finding["invariant"] == name)
        .unwrap()
}

/// How often something was seen.
fn times(report: &Value, what: &str) -> u64 {
    let seen = report["seen"].as_array().unwrap().iter();
    seen.filter(|seen| seen["what"] == what)
        .filter_map(|seen| seen["times"].as_u64())
        .sum()
}

#[test]
fn a_fleet_that_is_hurt_in_every_way_keeps_every_promise() {
    let daemon = lenient();
    let policy = json!({"resource_limits": {"memory": "64MB"}});
    daemon.deploy(
        &Bundle::echo("one")
            .set("replicas", json!(2))
            .set("policy", policy.clone()),
    );
    daemon.deploy(&Bundle::echo("two").set("policy", policy));
    let line = [
        "chaos",
        "--capability",
        "echo",
        "--seed",
        "7",
        "--rate",
        "4/s",
        "--for",
        "8s",
        "--hold",
        "800ms",
        "--load",
        r#"echo={"n":1}"#,
        "--tasks",
        "60",
        "--settle",
        "60s",
        "--json",
    ];
    let ran = daemon.ctl(&line).exits(0);
    let report = ran.json();
    assert_eq!(report["verdict"], "held", "{report:#}");
    for name in [
        "tasks-end-once",
        "results-are-fenced",
        "epochs-rise",
        "starts-within-policy",
        "blows-are-audited",
        "nothing-survives",
        "log-verifies",
        "mesh-answers",
    ] {
        assert_eq!(finding(&report, name)["verdict"], "held", "{report:#}");
    }
    assert_eq!(report["blows"].as_array().unwrap().len(), 32);
    assert!(times(&report, "running → backoff") > 0, "{report:#}");
    assert!(
        times(&report, "blow: kill") > 0 && times(&report, "blow: pause") > 0,
        "{report:#}"
    );
    let tasks = daemon.client().get("/v1/tasks?limit=1000").ok(200);
    assert_eq!(tasks["items"].as_array().unwrap().len(), 60);
    let again = report["again"].as_str().unwrap();
    assert!(
        again.starts_with("meshctl chaos --seed 7 --every 250ms"),
        "{again}"
    );
}

#[test]
fn an_agent_that_is_killed_until_it_is_quarantined_was_never_started_too_often() {
    let daemon = Home::new().config(SHIPPED).start();
    daemon.deploy(&Bundle::echo("victim"));
    daemon.deploy(&Bundle::command("sibling", "cat"));
    let line = [
        "chaos", "--agent", "victim", "--action", "kill", "--every", "150ms", "--for", "5s",
        "--load", "echo", "--tasks", "10", "--settle", "10s", "--json",
    ];
    let report = daemon.ctl(&line).exits(0).json();
    for name in [
        "starts-within-policy",
        "quarantine-is-complete",
        "tasks-end-once",
    ] {
        assert_eq!(finding(&report, name)["verdict"], "held", "{report:#}");
    }
    for edge in ["running → backoff", "open → half_open"] {
        assert!(times(&report, edge) > 0, "{edge}: {report:#}");
    }
    assert_eq!(daemon.status("victim")["fault"]["state"], "quarantined");
    // Nothing outside the scope was touched.
    assert_eq!(starts(&daemon, "sibling"), 1);
    let struck = daemon.audit("kind=chaos.struck");
    assert!(!struck.is_empty() && struck.iter().all(|record| record["agent"] == "victim"));
}

#[test]
fn parts_of_the_tree_die_under_load_and_every_promise_holds() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let line = [
        "chaos",
        "--tree",
        "work/bus",
        "--tree",
        "work/orchestrator",
        "--tree",
        "core/registry",
        "--tree",
        "memory",
        "--seed",
        "3",
        "--every",
        "700ms",
        "--for",
        "5s",
        "--load",
        "echo",
        "--tasks",
        "30",
        "--settle",
        "60s",
        "--json",
    ];
    let report = daemon.ctl(&line).exits(0).json();
    assert_eq!(report["verdict"], "held", "{report:#}");
    assert!(times(&report, "blow: kill") >= 4, "{report:#}");
    assert_eq!(
        finding(&report, "tasks-end-once")["verdict"],
        "held",
        "{report:#}"
    );
    assert_eq!(starts(&daemon, "echo"), 1, "no agent noticed");
}

#[test]
fn a_dry_run_shows_the_blows_of_its_seed_and_deals_none() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let run = |seed: &str| {
        let line = [
            "chaos",
            "--all",
            "--dry-run",
            "--for",
            "20s",
            "-o",
            "json",
            "--seed",
            seed,
        ];
        daemon.ctl(&line).exits(0).json()
    };
    let planned = run("11");
    assert_eq!(planned, run("11"));
    assert_ne!(planned["blows"], run("12")["blows"]);
    assert_eq!(planned["blows"].as_array().unwrap().len(), 10);
    assert_eq!(daemon.audit("kind=chaos.struck").len(), 0);
    let table = daemon
        .ctl(&["chaos", "--all", "--dry-run", "--for", "4s", "--seed", "1"])
        .exits(0);
    assert!(
        table.out.contains("ACTION") && table.out.contains("nothing was done"),
        "{}",
        table.out
    );
    // What is done is what was shown.
    let line = [
        "chaos", "--all", "--action", "kill", "--every", "300ms", "--for", "1s", "--seed", "11",
    ];
    let shown = daemon
        .ctl(&[&line[..], &["--dry-run", "--json"]].concat())
        .exits(0)
        .json();
    let done = daemon
        .ctl(&[&line[..], &["--json"]].concat())
        .exits(0)
        .json();
    let orders = |report: &Value| {
        let blows = report["blows"].as_array().unwrap().iter();
        blows
            .map(|blow| blow["order"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(orders(&shown), orders(&done));
}

#[test]
fn the_table_names_every_invariant_its_verdict_and_the_command_that_repeats_it() {
    let daemon = lenient();
    daemon.deploy(&Bundle::echo("echo"));
    let line = [
        "chaos", "--agent", "echo", "--action", "kill", "--every", "1s", "--for", "1s",
    ];
    let ran = daemon.ctl(&line).exits(0);
    let names: BTreeSet<&str> = ran
        .out
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    for name in [
        "tasks-end-once",
        "nothing-survives",
        "log-verifies",
        "mesh-answers",
    ] {
        assert!(names.contains(name), "{name}: {}", ran.out);
    }
    for text in [
        "held",
        "not tested",
        "verdict: held",
        "again: meshctl chaos --seed ",
    ] {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
}
