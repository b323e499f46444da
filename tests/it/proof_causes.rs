//! What led to what: every record names it, from the request of a submitter to the last effect; and what was the case when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually, meshctl};
use serde_json::{Value, json};

/// How long something may take that a process of an agent does.
const WITHIN: Duration = Duration::from_secs(30);

/// An agent that remembers, writes to another and delegates before it answers, and crashes when it is asked to.
const BUSY: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"busy","version":"1.0.0","capabilities":["busy"]}}'
while read -r line; do
  case "$line" in
    *TASK_REQUEST*crash*|*crash*TASK_REQUEST*) exit 9 ;;
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo '{"type":"MEMORY","id":"m1","task_id":"'$task'","payload":{"op":"set","key":"seen","value":1}}'
      echo '{"type":"PUBLISH","id":"p1","task_id":"'$task'","to":"topic://news","payload":{"topic":"news","data":1}}'
      echo '{"type":"TASK_REQUEST","id":"r1","task_id":"'$task'","payload":{"requirements":["echo"],"input":"child"}}' ;;
    *'"type":"TASK_RESULT"'*) echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":"done"}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

/// Kinds of records that begin something: nothing before them led to them.
const BEGINNINGS: [&str; 10] = [
    "access.allowed",
    "access.denied",
    // Of a line of an agent.
    "request.refused",
    "access.granted",
    "audit.counted",
    "node.started",
    "node.stopped",
    "token.issued",
    "health.changed",
    "health.alert",
];

fn by_position(records: &[Value]) -> BTreeMap<u64, &Value> {
    let of = |record: &Value| record["position"].as_u64().unwrap();
    records.iter().map(|record| (of(record), record)).collect()
}

fn kind(record: &Value) -> &str {
    record["kind"].as_str().unwrap()
}

/// The kinds on the way from a record to what it all began with.
fn way<'a>(all: &BTreeMap<u64, &'a Value>, from: &'a Value) -> Vec<&'a str> {
    let mut way = vec![kind(from)];
    let mut next = from["cause"].as_u64();
    while let Some(position) = next {
        let record = all[&position];
        assert!(record["position"].as_u64() < Some(way.len() as u64 + 1_000_000));
        way.push(kind(record));
        next = record["cause"].as_u64();
        assert!(way.len() < 100, "a way has no circles: {way:?}");
    }
    way
}

fn each_has_a_cause(all: &[Value]) {
    for record in all {
        let cause = record["cause"].as_u64();
        assert!(cause < record["position"].as_u64(), "{record}");
        let begins = BEGINNINGS.contains(&kind(record)) || kind(record).ends_with(".witnessed");
        assert!(cause.is_some() || begins, "nothing led to it: {record}");
    }
}

#[test]
fn every_effect_of_a_request_leads_back_to_it() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let busy = Bundle::shell("busy", BUSY).set("memory", json!({"type": "persistent"}));
    daemon.deploy(&busy);
    let body = json!({"requirements": ["busy"], "input": 1}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("x-request-id", "chain-1"),
    ];
    let posted = daemon
        .client()
        .send("POST", "/v1/tasks", &headers, Some(body.as_bytes()));
    let id = posted.ok(202)["id"].as_str().unwrap().to_owned();
    assert_eq!(daemon.ended(&id, WITHIN)["output"], "done");
    // What an agent publishes goes another way than its result.
    eventually("its message", WITHIN, || {
        let sent = daemon.audit("kind=message_sent");
        let first = sent.first().map(drop);
        first.ok_or_else(|| "none yet".to_owned())
    });

    let all = daemon.audit("");
    let places = by_position(&all);
    each_has_a_cause(&all);
    let request = daemon.audit("correlation=chain-1");
    assert_eq!(kind(&request[0]), "access.allowed", "{request:?}");
    let kinds: BTreeSet<&str> = request.iter().map(kind).collect();
    for expected in [
        "task.submitted",
        "task.assigned",
        "task.started",
        "task.succeeded",
        "memory.set",
        "message_sent",
    ] {
        assert!(kinds.contains(expected), "{expected} in {kinds:?}");
    }
    let submitted: Vec<_> = request
        .iter()
        .filter(|r| kind(r) == "task.submitted")
        .collect();
    assert_eq!(submitted.len(), 2, "the task and what it delegated");
    for record in &request[1..] {
        assert_eq!(
            way(&places, record).last(),
            Some(&"access.allowed"),
            "{record}"
        );
    }
    let child = submitted[1];
    assert_eq!(child["actor"], "agent:busy");
    assert_eq!(
        way(&places, child),
        [
            "task.submitted",
            "task.assigned",
            "task.submitted",
            "access.allowed"
        ]
    );
    let done = request
        .iter()
        .find(|r| kind(r) == "task.succeeded" && r["task"] == id.as_str());
    assert_eq!(
        done.unwrap()["actor"],
        "agent:busy",
        "the result is the agent's word"
    );

    // The same from the other end: all effects of the task's first record, in order, each once.
    let trace = daemon
        .ctl(&["audit", "trace", "--task", &id, "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(kind(&trace["causes"][0]), "access.allowed");
    let effects = trace["effects"].as_array().unwrap();
    assert_eq!(effects.len(), request.len() - 2, "{trace}");
    let drawn = daemon
        .ctl(&["audit", "why", &child["position"].to_string()])
        .exits(0)
        .out;
    assert!(drawn.contains("access.allowed by user:admin"), "{drawn}");
    daemon
        .client()
        .get("/v1/audit/trace?position=99999999")
        .problem(404, "record_not_found");
    daemon
        .client()
        .get("/v1/audit/trace")
        .problem(400, "invalid_query");

    // Over kill -9, too: what was decided before is still known to be what led on.
    let daemon = daemon.kill9().start();
    daemon.output("busy", &json!(2));
    let all = daemon.audit("");
    let places = by_position(&all);
    let last = all
        .iter()
        .rfind(|record| kind(record) == "task.succeeded")
        .unwrap();
    assert_eq!(way(&places, last).last(), Some(&"access.allowed"));
    let bare: Vec<_> = all
        .iter()
        .filter(|r| r["cause"].is_null() && !BEGINNINGS.contains(&kind(r)))
        .collect();
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn a_crash_leads_to_a_decision_with_its_inputs_and_to_the_attempts_failure() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("busy", BUSY));
    daemon
        .submit(&json!({"requirements": ["busy"], "input": "crash", "retry": {"maxAttempts": 1}}));
    let second = eventually("the second start", WITHIN, || {
        let starts = daemon.audit("agent=busy&kind=activated");
        starts.get(1).cloned().ok_or_else(|| format!("{starts:?}"))
    });
    // They are told by different actors.
    eventually("the attempt's failure", WITHIN, || {
        let failed = daemon.audit("kind=task.attempt_failed");
        let first = failed.first().map(drop);
        first.ok_or_else(|| "none yet".to_owned())
    });
    let all = daemon.audit("");
    let places = by_position(&all);
    let error = all.iter().find(|record| kind(record) == "error").unwrap();
    assert_eq!(kind(places[&error["cause"].as_u64().unwrap()]), "started");
    let failed = all
        .iter()
        .find(|record| kind(record) == "task.attempt_failed")
        .unwrap();
    assert_eq!(failed["cause"], error["position"], "{failed}");
    // The restart follows from a decision, and the decision says from what it was made.
    assert!(way(&places, &second).contains(&"fault.changed"), "{second}");
    let decided = daemon.audit("agent=busy&kind=fault.changed");
    let crash = decided
        .iter()
        .map(|r| &r["payload"]["decision"])
        .find(|d| d["to"] == "backoff");
    let crash = crash.unwrap_or_else(|| panic!("{decided:?}"));
    assert_eq!(crash["from"], "running");
    assert!(crash["inputs"].to_string().contains("crash"), "{crash}");
    assert_eq!(crash["limits"]["maxCrashes"], 3);
    assert_eq!(crash["random"].as_str().unwrap().len(), 16);
    // So does who got the task.
    let assigned = &daemon.audit("kind=task.assigned")[0]["payload"];
    assert_eq!(assigned["candidates"][0]["agentId"], "busy", "{assigned}");
    assert!(assigned["assignment"]["reasoning"].is_array(), "{assigned}");
}

#[test]
fn a_life_has_all_eleven_events_under_their_names() {
    let daemon = Home::new()
        .config("supervision:\n  recovering: 10m\n")
        .start();
    let bundle = Bundle::shell("busy", BUSY).set("capabilities", json!(["busy"]));
    daemon.deploy(&bundle);
    let message = br#"{"type":"MESSAGE","to":"agent:busy","payload":"hello"}"#;
    daemon
        .client()
        .send("POST", "/v1/messages?wait=0s", &[], Some(message));
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("busy", &json!(1));
    let next = Bundle::shell("busy", BUSY).set("version", json!("1.1.0"));
    let tar = next.tar();
    let headers = [("content-type", "application/x-tar")];
    daemon
        .client()
        .send("POST", "/v1/agents?start=false", &headers, Some(&tar))
        .ok(201);
    let upgrade = json!({"targetVersion": "1.1.0", "type": "hard"});
    let answer = daemon.client().post("/v1/agents/busy/upgrade", &upgrade);
    assert_eq!(answer.status, 200, "{}", answer.text());
    daemon
        .submit(&json!({"requirements": ["busy"], "input": "crash", "retry": {"maxAttempts": 1}}));
    eventually("the crash", WITHIN, || {
        let failed = daemon.audit("agent=busy&kind=error");
        (!failed.is_empty())
            .then_some(())
            .ok_or_else(|| "no error yet".to_owned())
    });
    let order = json!({"type": "manual", "description": "a look", "severity": "low"});
    daemon
        .client()
        .post("/v1/agents/busy/quarantine", &order)
        .ok(200);
    daemon.fault_state("busy", "quarantined", WITHIN);
    daemon
        .client()
        .post("/v1/agents/busy/recover", &json!({"force": true}))
        .ok(200);
    eventually("the recovery", WITHIN, || {
        let recovered = daemon.audit("agent=busy&kind=recovered");
        (!recovered.is_empty())
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    });
    daemon.ctl(&["agent", "terminate", "busy"]).exits(0);
    let life = eventually("its end", WITHIN, || {
        let life = daemon.audit("agent=busy");
        let over = life.iter().any(|record| kind(record) == "audited");
        over.then_some(life)
            .ok_or_else(|| "not audited yet".to_owned())
    });
    let kinds: BTreeSet<&str> = life.iter().map(kind).collect();
    for name in [
        "created",
        "registered",
        "activated",
        "started",
        "message_received",
        "message_sent",
        "upgraded",
        "quarantined",
        "recovered",
        "terminated",
        "error",
    ] {
        assert!(kinds.contains(name), "{name} in {kinds:?}");
    }
}

#[test]
fn the_past_is_shown_as_it_was_by_the_daemon_and_from_an_export_alone() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let id = daemon.submit(&json!({"requirements": ["echo"], "input": {"n": 1}}));
    daemon.ended(&id, WITHIN);
    let records = daemon.audit(&format!("task={id}"));
    let at = |wanted: &str| {
        let found = records.iter().find(|record| kind(record) == wanted);
        found.unwrap_or_else(|| panic!("{wanted} in {records:?}"))["position"]
            .as_u64()
            .unwrap()
    };
    let state = |query: &str| daemon.client().get(&format!("/v1/audit/state?{query}"));
    for (wanted, then) in [
        ("task.submitted", "queued"),
        ("task.assigned", "assigned"),
        ("task.started", "running"),
        ("task.succeeded", "succeeded"),
    ] {
        let past = state(&format!("at={}&task={id}", at(wanted))).ok(200);
        assert_eq!(past["task"]["state"], then, "{past}");
    }
    let before = at("task.submitted") - 1;
    state(&format!("at={before}&task={id}")).problem(404, "not_found_then");
    state("at=99999999&agent=echo").problem(422, "out_of_range");
    state("agent=echo").problem(400, "invalid_query");
    state(&format!("at=yesterday&task={id}")).problem(400, "invalid_query");
    // By the clock: the last record until then.
    let ended = records.iter().find(|one| kind(one) == "task.succeeded");
    let moment = ended.unwrap()["time"].as_str().unwrap();
    let then = state(&format!("at={moment}&task={id}")).ok(200);
    assert_eq!(then["task"]["state"], "succeeded", "{then}");
    assert_eq!(then["time"], moment);
    state("at=2001-01-01T00:00:00Z&agent=echo").problem(422, "out_of_range");
    let shown = daemon.ctl(&["task", "show", &id, "--at", moment]);
    assert!(shown.exits(0).out.contains("succeeded"));
    assert_eq!(state(&format!("at={before}")).ok(200)["items"], json!([]));
    let there = state(&format!("at={}", at("task.started"))).ok(200);
    assert_eq!(there["items"][0]["state"], "running", "{there}");

    let activated = &daemon.audit("agent=echo&kind=activated")[0]["position"];
    let agent = state(&format!("at={activated}&agent=echo")).ok(200);
    assert_eq!(agent["agent"]["lifecycle"], "activated", "{agent}");
    let shown = daemon.ctl(&[
        "agent",
        "show",
        "echo",
        "--at",
        &activated.to_string(),
        "-o",
        "json",
    ]);
    assert_eq!(shown.exits(0).json()["agent"], agent["agent"]);
    let started = at("task.started").to_string();
    let shown = daemon
        .ctl(&["task", "show", &id, "--at", &started, "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(shown["task"]["state"], "running");
    let listed = daemon.ctl(&["task", "list", "--at", &started]).exits(0).out;
    assert!(
        listed.contains(&id) && listed.contains("running"),
        "{listed}"
    );

    // From an export, without a daemon; what does not verify is not shown.
    let file = daemon.home().scratch().join("past.jsonl");
    let path = file.to_str().unwrap();
    daemon.ctl(&["audit", "export", "--out", path]).exits(0);
    let nowhere = daemon.home().scratch().join("nowhere");
    let offline = |more: &[&str]| {
        meshctl(
            &nowhere,
            &[&["audit", "state", path, "-o", "json"], more].concat(),
        )
    };
    let past = offline(&["--at", &started, "--task", &id]).exits(0).json();
    assert_eq!(past["task"], shown["task"]);
    let past = offline(&["--at", &activated.to_string(), "--agent", "echo"])
        .exits(0)
        .json();
    assert_eq!(past["agent"], agent["agent"]);
    assert_eq!(
        offline(&["--at", &before.to_string(), "--task", &id]).code,
        3
    );
    assert_eq!(offline(&["--at", "5"]).code, 2);
    let text = fs::read_to_string(&file)
        .unwrap()
        .replacen("task.started", "task.startet", 1);
    fs::write(&file, text).unwrap();
    let told = offline(&["--at", &started, "--task", &id]);
    assert_eq!(told.code, 1, "{}", told.out);
    assert!(told.err.contains("record "), "{}", told.err);
}

#[test]
fn kinds_that_begin_alike_are_listed_together_in_order_and_in_pages() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    for n in 0..3 {
        daemon.output("echo", &json!(n));
    }
    let one_by_one: Vec<Value> = {
        let mut all = daemon.audit("");
        all.retain(|record| kind(record).starts_with("task."));
        all
    };
    assert_eq!(daemon.audit("kind=task."), one_by_one);
    let (mut cursor, mut paged) = (String::new(), Vec::new());
    loop {
        let page = daemon
            .client()
            .get(&format!("/v1/audit?kind=task.&limit=2{cursor}"))
            .ok(200);
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, one_by_one);
    assert!(daemon.audit("kind=tas.").is_empty());
}
