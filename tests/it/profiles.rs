//! Security profiles can be listed, assigned, and compared with what holds for an agent.

use std::fs;

use mesh_tests::{Bundle, Daemon};
use serde_json::{Value, json};

fn listed(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.client().get("/v1/profiles").ok(200);
    let items = all["items"].as_array().unwrap();
    let names: Vec<_> = items
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["relaxed", "strict", "maximum"]);
    items
        .iter()
        .find(|one| one["name"] == name)
        .unwrap()
        .clone()
}

fn diff(daemon: &Daemon, against: &str) -> Value {
    let path = format!("/v1/agents/echo/profile?against={against}");
    daemon.client().get(&path).ok(200)
}

fn keys(diff: &Value) -> Vec<&str> {
    let differences = diff["differences"].as_array().unwrap().iter();
    differences
        .map(|one| one["key"].as_str().unwrap())
        .collect()
}

#[test]
fn profiles_are_listed_assigned_and_compared() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let strict = listed(&daemon, "strict");
    assert_eq!(strict["agents"], json!(["echo"]));
    assert_eq!(
        (&strict["configured"], &strict["also"]),
        (&json!(true), &json!("enhanced"))
    );
    assert_eq!(listed(&daemon, "maximum")["execution"], "installed");
    assert_eq!(listed(&daemon, "relaxed")["required"], false);

    assert_eq!(keys(&diff(&daemon, "enhanced")), [""; 0], "it has that");
    let maximum = diff(&daemon, "maximum");
    assert_eq!(
        (&maximum["effective"], &maximum["wouldHold"]),
        (&json!("strict"), &json!("maximum"))
    );
    let differing = keys(&maximum);
    for key in [
        "security.sandbox_level",
        "sandbox.execution",
        "control.execution",
    ] {
        assert!(differing.contains(&key), "{key}: {maximum}");
    }
    // While the sandbox is required, nobody is assigned less.
    let relaxed = diff(&daemon, "basic");
    assert_eq!(
        (&relaxed["profile"], &relaxed["wouldHold"]),
        (&json!("relaxed"), &json!("strict"))
    );
    assert!(
        keys(&relaxed).contains(&"security.sandbox_required"),
        "{relaxed}"
    );

    // Assigned by the operator, it holds from the next start on, also after a crash.
    let file = daemon.home().scratch().join("policy.yaml");
    fs::write(&file, "agents: {echo: {sandbox_level: maximum}}").unwrap();
    daemon
        .ctl(&["policy", "apply", file.to_str().unwrap()])
        .exits(0);
    let daemon = daemon.kill9().start();
    daemon.output("echo", &json!(1));
    assert_eq!(keys(&diff(&daemon, "maximum")), [""; 0]);
    assert_eq!(listed(&daemon, "maximum")["agents"], json!(["echo"]));
    let sandbox = daemon.client().get("/v1/agents/echo/sandbox").ok(200);
    assert_eq!(sandbox["profile"], "maximum", "{sandbox}");
    assert!(sandbox["degraded"].is_array(), "{sandbox}");
    let policy = daemon
        .client()
        .get("/v1/agents/echo/policy?limit=1000")
        .ok(200);
    let level = policy["items"].as_array().unwrap().iter();
    let level = level
        .clone()
        .find(|one| one["key"] == "security.sandbox_level")
        .unwrap();
    assert_eq!(
        (&level["value"], &level["origin"]),
        (&json!("maximum"), &json!("policy:echo"))
    );

    let shown = daemon
        .ctl(&["agent", "policy", "echo", "--diff", "strict"])
        .exits(0);
    assert!(shown.out.contains("sandbox.execution"), "{}", shown.out);
    let shown = daemon.ctl(&["profile", "list"]).exits(0);
    assert!(
        shown.out.contains("maximum") && shown.out.contains("echo"),
        "{}",
        shown.out
    );
    daemon
        .client()
        .get("/v1/agents/nobody/profile")
        .problem(404, "agent_not_found");
    daemon
        .client()
        .get("/v1/agents/echo/profile?against=none")
        .problem(400, "invalid_query");
}

#[test]
fn what_the_configuration_does_not_require_is_its_word_and_not_the_manifests() {
    let config = "orchestrator:\n  security:\n    sandbox_required: false\n";
    let daemon = mesh_tests::Home::new().config(config).start();
    daemon.deploy(
        &Bundle::echo("echo").set("policy", json!({"security": {"sandbox_level": "relaxed"}})),
    );
    let policy = daemon
        .client()
        .get("/v1/agents/echo/policy?limit=200")
        .ok(200);
    let value = |key: &str| {
        let values = policy["items"].as_array().unwrap();
        let found = values.iter().find(|value| value["key"] == key);
        found.unwrap_or_else(|| panic!("{key}: {policy}")).clone()
    };
    let required = value("security.sandbox_required");
    assert_eq!(required["value"], false, "{required}");
    assert_ne!(required["origin"], "manifest", "{required}");
    assert_ne!(required["origin"], "default", "{required}");
    assert_eq!(value("security.sandbox_level")["origin"], "manifest");
    let report = daemon.client().get("/v1/agents/echo/sandbox").ok(200);
    assert_eq!(report["profile"], "relaxed", "{report}");
}
