//! What is done through meshd is on record: every type of the protocol against one table, every verb of the API that is
//! more than reading.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ended, Home, binary, eventually};
use serde_json::{Value, json};

/// What an agent leaves in the log by saying this: kinds of records that name it, and what stands in one of their payloads.
/// A type without a row fails, and so does a row without a type.
///
/// Types without records change nothing and reach nobody: a question that is answered from what all agents may know, and
/// an error, which goes to the agent's log.
const TABLE: [(&str, &[(&str, &str)]); 15] = [
    ("HANDSHAKE", &[("handshaken", "")]),
    ("TASK_REQUEST", &[("task.submitted", "child")]),
    ("TASK_RESULT", &[("task.succeeded", "done")]),
    (
        "STATUS_UPDATE",
        &[("call.announced", "gpt-x"), ("call.ended", "c1")],
    ),
    ("CAPABILITY_QUERY", &[]),
    ("CAPABILITY_REPLY", &[("request.refused", "unexpected")]),
    (
        "SECURITY_ALERT",
        &[
            ("message_sent", "SECURITY_ALERT"),
            ("security.alert", "looks odd"),
        ],
    ),
    ("MESSAGE", &[("message_sent", "to bob")]),
    ("PUBLISH", &[("message_sent", "PUBLISH")]),
    ("SUBSCRIBE", &[("topic.subscribed", "news")]),
    ("ACK", &[("request.refused", "subscription_not_found")]),
    ("MEMORY", &[("memory.set", "seen")]),
    ("CLAIM", &[("task.claim", "branch:main")]),
    ("CONTROL", &[("request.refused", "unexpected")]),
    ("ERROR", &[]),
];

/// Says one line of each type.
const TALKER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"talker","version":"1.0.0","capabilities":["talker"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo '{"type":"STATUS_UPDATE","task_id":"'$task'","payload":{"call":{"id":"c1","name":"gpt-x","fingerprint":"9f2c","boundMs":60000}}}'
      echo '{"type":"STATUS_UPDATE","task_id":"'$task'","payload":{"callEnded":"c1"}}'
      echo '{"type":"CAPABILITY_QUERY","payload":{"capabilities":["echo"]}}'
      echo '{"type":"CAPABILITY_REPLY","payload":{"agents":[]}}'
      echo '{"type":"SECURITY_ALERT","task_id":"'$task'","payload":{"severity":"low","description":"looks odd","agent":"echo"}}'
      echo '{"type":"MESSAGE","task_id":"'$task'","to":"user:bob","payload":"to bob"}'
      echo '{"type":"PUBLISH","task_id":"'$task'","payload":{"topic":"news","data":1}}'
      echo '{"type":"SUBSCRIBE","payload":{"topic":"news"}}'
      echo '{"type":"ACK","payload":{"subscription":"none","tokens":["1-1"]}}'
      echo '{"type":"MEMORY","id":"m1","task_id":"'$task'","payload":{"op":"set","key":"seen","value":1}}'
      echo '{"type":"CLAIM","id":"k1","task_id":"'$task'","payload":{"op":"acquire","resource":"branch:main","ttlMs":60000}}'
      echo '{"type":"CONTROL","payload":{"verb":"shutdown"}}'
      echo '{"type":"ERROR","payload":{"code":"internal","detail":"mine"}}'
      echo '{"type":"TASK_REQUEST","id":"r1","task_id":"'$task'","payload":{"requirements":["echo"],"input":"child"}}' ;;
    *'"type":"TASK_RESULT"'*) echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":"done"}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

/// The types of the protocol, as its schema names them.
fn types(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for value in members.values() {
                types(value, found);
            }
        }
        Value::Array(values) => {
            let names: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            if names.contains(&"HANDSHAKE") && names.len() == values.len() {
                found.extend(names.into_iter().map(str::to_owned));
            }
            for value in values {
                types(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_type_of_the_protocol_leaves_the_records_that_the_table_says() {
    let daemon = Daemon::start();
    let mut schema = Command::new(binary("meshd"));
    schema.args(["schema", "klp"]);
    let schema = Ended::of(schema, Duration::from_secs(30)).exits(0).out;
    let mut named = BTreeSet::new();
    types(&serde_json::from_str(&schema).unwrap(), &mut named);
    let rows: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(rows, named);

    daemon.deploy(&Bundle::echo("echo"));
    let talker = Bundle::shell("talker", TALKER).set("memory", json!({"type": "persistent"}));
    daemon.deploy(&talker);
    let task = daemon.submit(&json!({"requirements": ["talker"], "input": 1}));
    assert_eq!(
        daemon.ended(&task, Duration::from_mins(1))["output"],
        "done"
    );
    for (name, kinds) in TABLE {
        for (kind, holds) in kinds {
            eventually(name, Duration::from_secs(30), || {
                let records = daemon.audit(&format!("kind={kind}"));
                let its_own = |record: &&Value| {
                    let names = record["agent"] == "talker" || record["actor"] == "agent:talker";
                    names && record["payload"].to_string().contains(holds)
                };
                let found = records.iter().find(its_own);
                found
                    .map(|_| ())
                    .ok_or_else(|| format!("{kind}: {records:?}"))
            });
        }
    }
    // A call belongs to its task, and follows from what the task stands on.
    for kind in ["call.announced", "call.ended"] {
        let record = &daemon.audit(&format!("kind={kind}&task={task}"))[0];
        assert_eq!(record["agent"], "talker", "{record}");
        assert!(record["cause"].is_u64(), "{record}");
    }
    assert!(daemon.audit("agent=talker&kind=call.").len() >= 2);
}

#[test]
fn without_audit_all_actions_what_was_allowed_and_called_is_not_told_and_what_was_refused_is() {
    let daemon = Home::new()
        .config("orchestrator:\n  security:\n    audit_all_actions: false\n")
        .start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::shell("talker", TALKER).set("memory", json!({"type": "persistent"})));
    let task = daemon.submit(&json!({"requirements": ["talker"], "input": 1}));
    daemon.ended(&task, Duration::from_mins(1));
    for kind in ["access.allowed", "call.announced", "call.ended"] {
        let records = daemon.audit(&format!("kind={kind}"));
        assert!(records.is_empty(), "{records:?}");
    }
    assert!(!daemon.audit("kind=request.refused").is_empty());
}

#[test]
fn every_verb_that_is_more_than_reading_is_on_record_before_it_is_carried_out() {
    let daemon = Daemon::start();
    let document = daemon.client().get("/openapi.json").ok(200);
    let (mut asked, mut read, mut expected) = (0, 0, BTreeMap::new());
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Some(action) = operation["x-action"].as_str() else {
                continue;
            };
            let parts = path.split('/').map(|part| {
                let given = part.starts_with('{');
                if given { "nobody" } else { part }
            });
            let resource = parts.collect::<Vec<_>>().join("/");
            asked += 1;
            let id = format!("verb-{asked}");
            let headers = [("x-request-id", id.as_str())];
            let body = ["post", "put"]
                .contains(&method.as_str())
                .then_some(&b"{}"[..]);
            // No verb knows this parameter, so none is carried out.
            let target = format!("{resource}?nonsense=1");
            let answer = daemon
                .client()
                .send(&method.to_uppercase(), &target, &headers, body);
            assert!(
                (400..500).contains(&answer.status),
                "{method} {path}: {}",
                answer.status
            );
            if action == "read" {
                read += 1;
            } else {
                expected.insert(id, json!([action, resource]));
            }
        }
    }
    // Who is refused after all need not wait until the record is on the disk.
    eventually("all records", Duration::from_secs(30), || {
        let records = daemon.audit("kind=access.allowed");
        let of_verbs = records.iter().filter_map(|record| {
            let id = record["correlation"].as_str()?;
            let payload = &record["payload"];
            let told = json!([payload["action"], payload["resource"]]);
            id.starts_with("verb-").then(|| (id.to_owned(), told))
        });
        let found: Vec<(String, Value)> = of_verbs.collect();
        let each: BTreeMap<String, Value> = found.iter().cloned().collect();
        let same = each == expected && found.len() == each.len();
        same.then_some(()).ok_or_else(|| format!("{found:?}"))
    });
    assert!(read > 20 && asked - read > 30, "{read} of {asked} read");
}

/// Announces three hundred calls as fast as it can write.
const CALLER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"caller","version":"1.0.0","capabilities":["caller"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      n=0
      while [ $n -lt 300 ]; do
        echo '{"type":"STATUS_UPDATE","task_id":"'$task'","payload":{"call":{"id":"c'$n'","name":"gpt-x","boundMs":60000}}}'
        echo '{"type":"STATUS_UPDATE","task_id":"'$task'","payload":{"callEnded":"c'$n'"}}'
        n=$((n+1))
      done
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":"done"}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

/// Calls of the agent that have a record each, and those that are counted, each of which needs a digest.
fn calls(daemon: &Daemon, kind: &str) -> (u64, u64) {
    let single = daemon.audit(&format!("kind={kind}")).len() as u64;
    let mut counted = 0;
    for record in daemon.audit("kind=audit.counted") {
        for row in record["payload"]["counts"].as_array().unwrap() {
            if row["user"] == "agent:caller" && row["action"] == kind {
                counted += row["times"].as_u64().unwrap();
                let digest = row["digest"].as_str().unwrap();
                assert!(digest.starts_with("sha256:") && digest.len() == 71, "{row}");
            }
        }
    }
    (single, counted)
}

#[test]
fn every_call_has_a_record_or_is_counted_with_a_digest_also_when_meshd_is_killed() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("caller", CALLER));
    let task = daemon.submit(&json!({"requirements": ["caller"], "input": 1}));
    assert_eq!(
        daemon.ended(&task, Duration::from_mins(1))["output"],
        "done"
    );
    let kinds = ["call.announced", "call.ended"];
    for kind in kinds {
        eventually("all of them are on record", Duration::from_secs(30), || {
            let (single, counted) = calls(&daemon, kind);
            if single + counted == 300 {
                Ok(())
            } else {
                Err(format!("{single} + {counted} of {kind}"))
            }
        });
        let (single, counted) = calls(&daemon, kind);
        assert!(single >= 50 && counted > 0, "{single} and {counted}");
    }
    let daemon = daemon.kill9().start();
    for kind in kinds {
        let (single, counted) = calls(&daemon, kind);
        assert_eq!(single + counted, 300, "{kind}");
    }
}

/// What was looked at, by its records: whose, by which verb, how often, and what exactly where that is told.
fn looked_at(daemon: &Daemon) -> Vec<(String, String, u64, String)> {
    let records = daemon.audit("kind=access.granted");
    let rows = records.iter().flat_map(|record| {
        let rows = record["payload"]["counts"].as_array().unwrap();
        rows.iter().map(|row| {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let times = row["times"].as_u64().unwrap();
            (text("user"), text("verb"), times, text("resource"))
        })
    });
    rows.collect()
}

#[test]
fn who_looked_at_what_is_on_record_and_polling_costs_one_record() {
    let daemon = Daemon::start();
    let viewer = daemon.of_role("viewer", "eve");
    for _ in 0..50 {
        viewer.get("/v1/tasks").ok(200);
    }
    viewer
        .get("/v1/tasks/nothing")
        .problem(404, "task_not_found");
    viewer.get("/v1/inbox").ok(200);
    viewer.get("/v1/secrets").problem(403, "forbidden");
    daemon.client().get("/v1/secrets").ok(200);
    assert_eq!(looked_at(&daemon), [], "a minute is not over");
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    let daemon = home.start();
    let rows = looked_at(&daemon);
    let of = |verb: &str| {
        let mut of_eve = rows.iter().filter(|row| row.0 == "user:eve");
        of_eve.find(|row| row.1 == verb).cloned()
    };
    let row = |verb: &str, times, resource: &str| {
        let text = |text: &str| text.to_owned();
        Some((text("user:eve"), text(verb), times, text(resource)))
    };
    assert_eq!(of("listTasks"), row("listTasks", 50, ""), "{rows:?}");
    assert_eq!(of("getTask"), row("getTask", 1, ""), "{rows:?}");
    assert_eq!(
        of("listInbox"),
        row("listInbox", 1, "/v1/inbox"),
        "{rows:?}"
    );
    // What has an action of its own has a record of its own, and is not counted once more.
    assert!(!rows.iter().any(|row| row.1 == "listSecrets"), "{rows:?}");
    let allowed = daemon.audit("kind=access.allowed");
    assert!(allowed.iter().any(|r| r["payload"]["action"] == "secrets"));
    assert_eq!(daemon.audit("kind=access.granted").len(), 1);
}

#[test]
fn without_audit_all_actions_looks_at_what_people_said_and_did_are_told_and_no_others() {
    let daemon = Home::new()
        .config("orchestrator:\n  security:\n    audit_all_actions: false\n")
        .start();
    let viewer = daemon.of_role("viewer", "eve");
    viewer.get("/v1/tasks").ok(200);
    viewer.get("/v1/inbox").ok(200);
    viewer.get("/v1/audit").ok(200);
    daemon.client().get("/v1/secrets").ok(200);
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    let daemon = home.start();
    let rows = looked_at(&daemon);
    let told = |verb: &str| rows.iter().any(|row| row.1 == verb);
    assert!(!told("listTasks"), "{rows:?}");
    for verb in ["listInbox", "listAudit", "listSecrets"] {
        assert!(told(verb), "{verb}: {rows:?}");
    }
}
