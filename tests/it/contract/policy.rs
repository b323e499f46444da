//! Thresholds and limits that are changed while the mesh runs.

use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, Home};
use serde_json::{Value, json};

/// Longer than the few short waits of these tests take together.
const SOON: Duration = Duration::from_secs(30);
const QUICK: &str = "supervision:\n  backoff_base: 20ms\n  cool_down_base: 100ms\n";

/// Shakes hands, and exits.
const DYING: &str = r#"echo '{"type":"HANDSHAKE","payload":{"name":"dying","version":"1.0.0","capabilities":[]}}'
exit 1"#;

fn apply(client: &Client, document: &Value) -> mesh_tests::Answer {
    let body = document.to_string();
    let headers = [("content-type", "application/json")];
    client.send("PUT", "/v1/policies", &headers, Some(body.as_bytes()))
}

/// The value of a key, and where it comes from.
fn value<'a>(values: &'a Value, key: &str) -> (&'a Value, &'a str) {
    let mut rows = values.as_array().expect("rows").iter();
    let row = rows.find(|row| row["key"] == key).expect("the key");
    (&row["value"], row["origin"].as_str().expect("an origin"))
}

fn policy_of(daemon: &Daemon, agent: &str) -> Value {
    let path = format!("/v1/agents/{agent}/policy");
    daemon.client().get(&path).ok(200)["items"].clone()
}

/// How often it was started before it was quarantined.
fn starts(daemon: &Daemon, agent: &str) -> usize {
    daemon.fault_state(agent, "quarantined", SOON);
    daemon.audit(&format!("kind=activated&agent={agent}")).len()
}

#[test]
fn what_is_applied_holds_at_once_for_all_and_above_the_manifest_for_one_and_survives_kill_9() {
    let daemon = Home::new().config(QUICK).start();
    let file = daemon.home().scratch().join("policy.yaml");
    let text = "default: {lifecycle: {quarantine_threshold: 2}}\n";
    std::fs::write(&file, text).unwrap();
    let told = daemon
        .ctl(&["policy", "apply", file.to_str().unwrap()])
        .exits(0);
    assert!(
        told.out.contains("lifecycle.quarantine_threshold"),
        "{}",
        told.out
    );

    daemon.register(&Bundle::shell("two", DYING));
    assert_eq!(starts(&daemon, "two"), 2, "the default of all agents");
    let own = json!({"lifecycle": {"quarantine_threshold": 4}});
    daemon.register(&Bundle::shell("four", DYING).set("policy", own));
    assert_eq!(starts(&daemon, "four"), 4, "its manifest is above that");

    let held = Bundle::shell("three", DYING)
        .set("policy", json!({"lifecycle": {"quarantine_threshold": 9}}));
    let path = held.write(daemon.home().scratch());
    daemon
        .ctl(&["agent", "deploy", path.to_str().unwrap(), "--no-start"])
        .exits(0);
    let for_one = json!({"agents": {"three": {"lifecycle": {"quarantine_threshold": 3}}}});
    apply(daemon.client(), &for_one).ok(200);

    let daemon = daemon.kill9().start();
    let values = policy_of(&daemon, "three");
    let threshold = "lifecycle.quarantine_threshold";
    assert_eq!(value(&values, threshold), (&json!(3), "policy:three"));
    assert_eq!(
        value(&policy_of(&daemon, "four"), threshold),
        (&json!(4), "manifest")
    );
    assert_eq!(
        value(&policy_of(&daemon, "two"), threshold),
        (&json!(2), "policy")
    );
    daemon.ctl(&["agent", "start", "three"]).exits(0);
    assert_eq!(
        starts(&daemon, "three"),
        3,
        "what was applied to it is above its manifest"
    );

    let applied = daemon.client().get("/v1/policies").ok(200);
    assert_eq!(applied["applied"]["agents"], for_one["agents"]);
    assert_eq!(value(&applied["values"], threshold), (&json!(2), "policy"));
    let audited = daemon.audit("kind=policy.applied");
    assert_eq!(audited.len(), 2, "{audited:?}");
    assert!(
        audited.iter().all(|record| record["actor"] == "user:admin"),
        "{audited:?}"
    );

    let back = json!({"default": {}, "agents": {"three": {}}});
    let after = apply(daemon.client(), &back).ok(200);
    assert_eq!(after["applied"], json!({}));
    assert_eq!(value(&after["values"], threshold), (&json!(5), "default"));
}

#[test]
fn an_agent_that_is_failing_is_judged_by_the_thresholds_that_it_began_to_fail_under() {
    let home = Home::new().config("supervision:\n  backoff_base: 2s\n  backoff_max: 2s\n");
    let daemon = home.start();
    daemon.register(&Bundle::shell("dying", DYING));
    daemon.fault_state("dying", "backoff", SOON);
    apply(
        daemon.client(),
        &json!({"default": {"lifecycle": {"quarantine_threshold": 1}}}),
    )
    .ok(200);
    // With the new threshold, the failure that follows would be one too many.
    let again = mesh_tests::eventually("its second failure", SOON, || {
        let status = daemon.status("dying");
        match status["fault"]["score"].as_u64() {
            Some(score) if score > 1 => Ok(status),
            _ => Err(status.to_string()),
        }
    });
    assert_eq!(again["fault"]["state"], "backoff", "{again}");
}

#[test]
fn what_makes_no_sense_and_who_may_not_changes_nothing() {
    let daemon = Daemon::start();
    let limits =
        json!({"default": {"lifecycle": {"quarantine_threshold": 0, "max_crashes": 1000}}});
    let refused = apply(daemon.client(), &limits).problem(422, "invalid_value");
    let text = refused.to_string();
    assert!(
        text.contains("default.lifecycle.quarantine_threshold"),
        "{text}"
    );
    assert!(text.contains("default.lifecycle.max_crashes"), "{text}");
    let unknown = json!({"default": {"essential": true}, "agents": {"nobody": {}}});
    let refused = apply(daemon.client(), &unknown).problem(422, "unknown_agent");
    assert_eq!(refused["field"], "agents.nobody");
    apply(daemon.client(), &json!({"defaults": {}})).problem(422, "unknown_field");

    let body = json!({"role": "operator"});
    let issued = daemon.client().post("/v1/tokens", &body).ok(201);
    let operator = daemon.client().with_token(issued["token"].as_str());
    apply(&operator, &json!({"default": {"essential": true}})).problem(403, "forbidden");
    operator.get("/v1/policies").ok(200);

    let file = daemon.home().scratch().join("policy.yaml");
    std::fs::write(&file, "default: [\n").unwrap();
    let told = daemon
        .ctl(&["policy", "apply", file.to_str().unwrap()])
        .exits(1);
    assert!(told.err.contains("is not YAML"), "{}", told.err);

    let applied = daemon.client().get("/v1/policies").ok(200);
    assert_eq!(applied["applied"], json!({}));
    assert_eq!(daemon.audit("kind=policy.applied").len(), 0);
}
