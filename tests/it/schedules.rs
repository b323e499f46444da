//! Schedules over HTTP and with meshctl: what they begin, what is refused, and that `kill -9` around a planned time neither
//! loses nor doubles a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

/// A minute until the next planned time, and what a busy machine needs on top.
const FIRING_MAX: Duration = Duration::from_secs(150);

fn workflow() -> Value {
    json!({"name": "report", "version": "7", "steps": [
        {"id": "a", "requirements": ["echo"], "input": "${input.n}"}], "output": "${steps.a.output}"})
}

fn schedule(id: &str, cron: &str) -> Value {
    json!({"id": id, "cron": cron, "workflow": workflow(), "input": {"n": 3}})
}

/// Seconds until the minute is over.
fn left_of_minute() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    60 - now.as_secs() % 60
}

/// A pattern for the next full minute, in UTC.
fn coming_minute() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let minute = now.as_secs() / 60 + 1;
    format!("{} {} * * *", minute % 60, minute / 60 % 24)
}

/// The runs of a schedule, by the planned time.
#[track_caller]
fn runs_of(daemon: &Daemon, id: &str) -> Vec<(String, Value)> {
    let page = daemon.client().get("/v1/workflows?limit=100").ok(200);
    let runs = page["items"].as_array().unwrap().iter();
    runs.filter(|run| run["scheduled"]["schedule"] == id)
        .map(|run| {
            let planned = run["scheduled"]["planned"].as_str().unwrap();
            (planned.to_owned(), run.clone())
        })
        .collect()
}

#[test]
fn a_planned_time_begins_one_run_though_meshd_is_killed_before_and_after_it() {
    let daemon = Home::new().start();
    daemon.deploy(&Bundle::echo("echo").set("concurrency", json!(16)));
    let rules = ["skip", "queue", "allow", "cancel_previous"];
    eventually("a few seconds are left", FIRING_MAX, || {
        (10..=57)
            .contains(&left_of_minute())
            .then_some(())
            .ok_or_else(|| "later".to_owned())
    });
    let mut planned = Vec::new();
    for rule in rules {
        // Just the coming minute: the next one would cancel the run of this one.
        let mut new = schedule(rule, &coming_minute());
        new["overlap"] = json!(rule);
        let made = daemon.client().post("/v1/schedules", &new).ok(201);
        planned.push(made["upcoming"][0]["at"].as_str().unwrap().to_owned());
    }
    eventually("the time has nearly come", FIRING_MAX, || {
        (left_of_minute() <= 2)
            .then_some(())
            .ok_or_else(|| "earlier".to_owned())
    });
    let stopped = daemon.kill9();
    eventually("the time has passed", FIRING_MAX, || {
        (left_of_minute() > 50)
            .then_some(())
            .ok_or_else(|| "later".to_owned())
    });
    // Fired a few seconds late, killed at once, and once more with the tasks under way or over.
    let daemon = stopped.start().kill9().start().kill9().start();
    for (rule, planned) in rules.iter().zip(&planned) {
        let run = eventually(&format!("{rule} has run"), FIRING_MAX, || {
            let runs = runs_of(&daemon, rule);
            match runs.iter().find(|(at, _)| at == planned) {
                Some((_, run)) if run["state"] == "succeeded" => Ok(run.clone()),
                _ => Err(format!("{runs:?}")),
            }
        });
        assert_eq!(run["output"], 3, "{run}");
        assert_eq!(run["version"], "7");
        let same = runs_of(&daemon, rule);
        let same = same.iter().filter(|(at, _)| at == planned);
        assert_eq!(same.count(), 1, "{rule}: one run for one planned time");
        let shown = daemon
            .client()
            .get(&format!("/v1/schedules/{rule}"))
            .ok(200);
        let fired = shown["recent"].as_array().unwrap().iter();
        let fired: Vec<_> = fired
            .filter(|firing| firing["planned"] == **planned)
            .collect();
        assert_eq!(fired.len(), 1, "{shown}");
        assert_eq!(
            (&fired[0]["outcome"], &fired[0]["run"]),
            (&json!("started"), &run["id"])
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing_behind() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let refused = |body: &Value, code: &str, field: &str| {
        let answer = daemon
            .client()
            .post("/v1/schedules", body)
            .problem(422, code);
        assert_eq!(answer["field"], field, "{answer}");
    };
    refused(&schedule("a", "61 * * * *"), "invalid_schedule", "cron");
    refused(&schedule("a", "0 0 31 2 *"), "invalid_schedule", "cron");
    refused(&schedule("a", "* * * * * *"), "invalid_schedule", "cron");
    let with = |field: &str, value: Value| {
        let mut body = schedule("a", "@daily");
        body[field] = value;
        body
    };
    refused(
        &with("timeZone", json!("Mars/Base")),
        "invalid_schedule",
        "timeZone",
    );
    refused(&with("missed", json!("all")), "invalid_schedule", "overlap");
    refused(
        &with(
            "workflow",
            json!({"steps": [{"id": "a", "requirements": ["nobody"]}]}),
        ),
        "invalid_workflow",
        "workflow.steps[0].requirements",
    );
    refused(
        &with("workflow", json!("never-seen")),
        "invalid_workflow",
        "workflow",
    );
    let none = daemon.client().get("/v1/schedules").ok(200);
    assert_eq!(none["items"], json!([]));
    for verb in ["pause", "resume"] {
        let path = format!("/v1/schedules/a/{verb}");
        daemon
            .client()
            .post(&path, &json!({}))
            .problem(404, "schedule_not_found");
    }
    daemon
        .client()
        .get("/v1/schedules/a")
        .problem(404, "schedule_not_found");
}

#[test]
fn a_schedule_is_made_shown_paused_resumed_and_deleted_and_survives_kills() {
    let daemon = Home::new().start();
    daemon.deploy(&Bundle::echo("echo"));
    let mut new = schedule("nightly", "30 4 * * *");
    new["timeZone"] = json!("europe/berlin");
    let made = daemon.client().post("/v1/schedules", &new).ok(201);
    assert_eq!(made["upcoming"].as_array().unwrap().len(), 5, "{made}");
    let local = made["upcoming"][0]["local"].as_str().unwrap();
    assert!(
        local.contains("T04:30:00+0") && local.ends_with("[Europe/Berlin]"),
        "{local}"
    );
    daemon.client().post("/v1/schedules", &new).ok(200);
    let other = schedule("nightly", "31 2 * * *");
    daemon
        .client()
        .post("/v1/schedules", &other)
        .problem(409, "schedule_exists");

    let paused = daemon.ctl(&["schedule", "pause", "nightly"]).exits(0).out;
    assert_eq!(paused.trim(), "schedule nightly is paused");
    let daemon = daemon.kill9().start();
    let shown = daemon.client().get("/v1/schedules/nightly").ok(200);
    assert_eq!(
        (&shown["paused"], &shown["upcoming"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(shown["workflow"]["name"], "report");
    let resumed = daemon.ctl(&["schedule", "resume", "nightly"]).exits(0).out;
    assert!(
        resumed.starts_with("schedule nightly fires next at 20"),
        "{resumed}"
    );
    let listed = daemon.ctl(&["schedule", "list"]).exits(0).out;
    assert!(
        listed.contains("report 7") && listed.contains("30 4 * * *"),
        "{listed}"
    );
    let table = daemon.ctl(&["schedule", "show", "nightly"]).exits(0).out;
    assert!(table.contains("30 4 * * * in Europe/Berlin"), "{table}");
    let gone = daemon.ctl(&["schedule", "delete", "nightly"]).exits(0).out;
    assert_eq!(gone.trim(), "schedule nightly deleted");
    let daemon = daemon.kill9().start();
    daemon
        .client()
        .get("/v1/schedules/nightly")
        .problem(404, "schedule_not_found");
}
