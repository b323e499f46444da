//! What was refused is on record with its cause; a flood of it is counted, and fills no disk.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long a record may take to be shown.
const WITHIN: Duration = Duration::from_secs(30);

/// Says things that cannot be taken, each in another way, before it answers.
const CLUMSY: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"clumsy","version":"1.0.0","capabilities":["clumsy"]}}'
while read -r line; do
  case "$line" in
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo 'this is no JSON and holds hunter2'
      echo '{"type":"NONSENSE","payload":{}}'
      echo '{"type":"CONTROL","payload":{"verb":"shutdown"}}'
      echo '{"type":"MESSAGE","to":"user:bob","payload":1,"expires":"2001-01-01T00:00:00Z"}'
      echo '{"type":"MESSAGE","to":"agent:nobody","payload":1}'
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":1}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

fn codes(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["payload"]["code"].as_str().unwrap_or_default())
        .collect()
}

/// The refusal of this code that is the last one on record; who is refused need not wait until it is.
fn on_record(daemon: &Daemon, code: &str) -> Value {
    eventually("the refusal on record", WITHIN, || {
        let mut refused = daemon.audit("kind=request.refused");
        if codes(&refused).last() == Some(&code) {
            refused.pop().ok_or_else(String::new)
        } else {
            Err(format!("{refused:?}"))
        }
    })
}

#[test]
fn whatever_is_refused_is_on_record_by_its_cause_and_without_its_content() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let client = daemon.client();
    let post = |path: &str, body: &str| {
        let headers = [
            ("content-type", "application/json"),
            ("x-request-id", "asked-1"),
        ];
        client
            .send("POST", path, &headers, Some(body.as_bytes()))
            .status
    };
    let large = format!(
        r#"{{"type":"MESSAGE","to":"agent:echo","payload":"{}"}}"#,
        "x".repeat(2 << 20)
    );
    for (path, body, status, code) in [
        (
            "/v1/messages",
            r#"{"type":"MESSAGE","to":"agent:echo","payload":1,"expires":"2001-01-01T00:00:00Z"}"#,
            422,
            "expired",
        ),
        (
            "/v1/messages",
            r#"{"type":"MESSAGE","to":"agent:nobody","payload":1}"#,
            404,
            "unknown_address",
        ),
        ("/v1/messages", &large, 413, "body_too_large"),
        (
            "/v1/messages",
            r#"{"type":"MESSAGE","to":"agent:echo","payload":"hunter2","#,
            400,
            "malformed_json",
        ),
        (
            "/v1/agents",
            r#"{"manifest":{"id":"x"}}"#,
            422,
            "invalid_manifest",
        ),
        ("/v1/tasks/nothing/retry", "", 404, "task_not_found"),
    ] {
        assert_eq!(post(path, body), status, "{path} {code}");
        let last = on_record(&daemon, code);
        assert_eq!(last["payload"]["resource"], path, "{last}");
        // Who, with which request, and after which record.
        assert_eq!(
            (&last["actor"], &last["correlation"]),
            (&json!("user:admin"), &json!("asked-1"))
        );
        let cause = last["cause"].as_u64().unwrap();
        let allowed = daemon.audit("kind=access.allowed");
        assert!(
            allowed.iter().any(|record| record["position"] == cause),
            "{last}"
        );
        assert!(!last.to_string().contains("hunter2"), "{last}");
    }
    // A replay.
    let twice = r#"{"type":"MESSAGE","id":"one","to":"agent:echo","payload":1}"#;
    assert!(post("/v1/messages", twice) < 300);
    assert_eq!(post("/v1/messages", twice), 409);
    on_record(&daemon, "replayed");
}

#[test]
fn lines_of_an_agent_that_are_refused_are_in_its_history() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("clumsy", CLUMSY));
    assert_eq!(daemon.output("clumsy", &json!(1)), json!(1));
    let of_it = eventually("all refusals", WITHIN, || {
        let records = daemon.audit("agent=clumsy&kind=request.refused");
        if records.len() >= 5 {
            Ok(records)
        } else {
            Err(format!("{records:?}"))
        }
    });
    let mut found = codes(&of_it);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "expired",
            "malformed",
            "unexpected",
            "unknown_address",
            "unknown_type"
        ],
        "{of_it:?}"
    );
    for record in &of_it {
        assert_eq!(record["actor"], "agent:clumsy");
        assert_eq!(record["payload"]["action"], "klp.line");
        assert!(!record.to_string().contains("hunter2"), "{record}");
    }
}

#[test]
fn a_flood_of_refusals_is_few_records_and_all_of_it_is_counted() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let stranger = client.with_token(Some("nonsense"));
    let flood = 600;
    for _ in 0..flood {
        stranger.get("/v1/health").problem(401, "unauthenticated");
        client
            .post("/v1/tasks/nothing/retry", &json!({}))
            .problem(404, "task_not_found");
    }
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    let daemon = home.start();
    let counted = daemon.audit("kind=audit.counted");
    let times = |user: &str, code: &str| -> u64 {
        let rows = counted
            .iter()
            .flat_map(|record| record["payload"]["counts"].as_array().unwrap());
        rows.filter(|row| row["user"] == user && row["code"] == code)
            .map(|row| row["times"].as_u64().unwrap())
            .sum()
    };
    let single = |kind: &str, user: &str| {
        let records = daemon.audit(&format!("kind={kind}"));
        let of_user = records
            .iter()
            .filter(|record| record["actor"] == user)
            .count();
        assert!(of_user < 400, "{of_user} records of a flood");
        of_user as u64
    };
    assert_eq!(
        single("access.denied", "anonymous") + times("anonymous", "unauthenticated"),
        flood
    );
    assert_eq!(
        single("request.refused", "user:admin") + times("user:admin", "task_not_found"),
        flood
    );
    for record in &counted {
        assert_eq!(record["actor"], "meshd");
        assert!(record["payload"]["since"].as_str() <= record["payload"]["until"].as_str());
    }
    // The report tells it, too.
    let report = daemon.ctl(&["audit", "report"]).exits(0);
    assert!(report.out.contains("task_not_found, "), "{}", report.out);
}

#[test]
fn a_denial_is_one_record_whichever_part_denies_it() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let signature = format!("ed25519:{}", "A".repeat(86));
    let forged = json!({"v": 1, "id": "m-1", "type": "MESSAGE", "from": "user:ada", "to": "agent:echo",
        "timestamp": "2025-06-20T22:04:00Z", "payload": {}});
    let badly_signed = json!({"type": "MESSAGE", "from": "user:eve", "to": "agent:echo", "payload": 1,
        "timestamp": "2026-01-01T00:00:00Z", "auth": {"signature": signature}});
    for (who, role, path, body, code) in [
        (
            "role",
            "viewer",
            "/v1/tasks",
            json!({"requirements": ["echo"]}),
            "forbidden",
        ),
        ("name", "operator", "/v1/messages", forged, "not_allowed"),
        (
            "signature",
            "operator",
            "/v1/messages",
            badly_signed,
            "bad_signature",
        ),
    ] {
        let order = json!({"role": role, "subject": who});
        let issued = daemon.client().post("/v1/tokens", &order).ok(201);
        let caller = daemon.client().with_token(issued["token"].as_str());
        caller.post(path, &body).problem(403, code);
        // A record that follows upon it, so that whatever it led to stands before.
        let _refused = caller.post("/v1/messages", &json!({}));
        let user = format!("user:{who}");
        eventually("the denial on record", WITHIN, || {
            let denied = daemon.audit("kind=access.denied");
            let of_it = denied.iter().filter(|record| record["actor"] == *user);
            let of_it = of_it.count();
            if of_it > 0 {
                Ok(())
            } else {
                Err(format!("{denied:?}"))
            }
        });
        let refused = daemon.audit("kind=request.refused");
        let again = refused
            .iter()
            .find(|record| record["actor"] == *user && record["payload"]["code"] == code);
        assert_eq!(again, None);
    }
}
