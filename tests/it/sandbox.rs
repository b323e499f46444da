//! What an agent sees of its host, and that what is said of its sandbox agrees with it.

use std::net::TcpListener;

use mesh_tests::{Bundle, Daemon, Home, has_python, skip};
use serde_json::{Map, Value, json};

/// Has an agent try things; `{name: [act, argument]}` gives `{name: {ok, value | error}}`.
#[track_caller]
fn tries(daemon: &Daemon, agent: &str, attempts: Value) -> Map<String, Value> {
    daemon.output(agent, &attempts).as_object().unwrap().clone()
}

#[track_caller]
fn all_fail(seen: &Map<String, Value>) {
    let got: Vec<String> = seen
        .iter()
        .filter(|(_, attempt)| attempt["ok"] == true)
        .map(|(name, attempt)| format!("{name}: {attempt}"))
        .collect();
    assert!(
        got.is_empty(),
        "the agent succeeded where it must not:\n{}",
        got.join("\n")
    );
}

#[test]
fn an_agent_without_grants_sees_nothing_of_the_host() {
    if !has_python("an_agent_without_grants_sees_nothing_of_the_host") {
        return;
    }
    let home = Home::new().env("HOST_SECRET", "from-the-daemons-environment");
    let secret = home.scratch().join("secret");
    std::fs::write(&secret, "not for agents").unwrap();
    let daemon = home.start();
    daemon.deploy(&Bundle::rogue("view", "view"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let data = daemon.home().data();
    let token = std::fs::read_to_string(data.join("token")).unwrap();

    all_fail(&tries(
        &daemon,
        "view",
        json!({
            "a file of the host": ["read", secret],
            "the admin's token": ["read", data.join("token")],
            "the data directory": ["list", data],
            "the shadow file": ["read", "/etc/shadow"],
            "another process's memory": ["read", format!("/proc/{}/mem", daemon.pid())],
            "writing beside the bundle": ["write", "own.txt"],
            "writing to the system": ["write", "/etc/mesh"],
            "a directory in the root": ["mount", null],
            "a listener of the host": ["connect", format!("127.0.0.1:{port}")],
            "the daemon itself": ["connect", daemon.url().strip_prefix("http://").unwrap()],
            "an address elsewhere": ["connect", "192.0.2.1:80"],
            "becoming root": ["become_root", null],
            "a signal to the daemon": ["signal", daemon.pid()],
        }),
    ));

    let seen = tries(
        &daemon,
        "view",
        json!({
            "uid": ["uid", null], "gids": ["gids", null], "env": ["env", null], "pids": ["pids", null], "home": ["home", null],
        }),
    );
    assert_ne!(seen["uid"]["value"], 0, "{seen:?}");
    assert!(
        !seen["gids"]["value"]
            .as_array()
            .unwrap()
            .contains(&json!(0)),
        "{seen:?}"
    );
    let env = seen["env"]["value"].to_string();
    for hidden in ["HOST_SECRET", "from-the-daemons-environment", token.trim()] {
        assert!(!env.contains(hidden), "{env}");
    }
    assert!(
        seen["pids"]["value"].as_array().unwrap().len() <= 4,
        "{seen:?}"
    );
    // Its home is its own.
    let home = seen["home"]["value"].as_str().unwrap();
    let own = tries(
        &daemon,
        "view",
        json!({"write": ["write", format!("{home}/note")]}),
    );
    assert_eq!(own["write"]["ok"], true, "{own:?}");
    let own = tries(
        &daemon,
        "view",
        json!({"read": ["read", format!("{home}/note")]}),
    );
    assert_eq!(own["read"]["value"], "written by an agent");
}

#[test]
fn what_is_granted_is_there_and_no_wider() {
    if !has_python("what_is_granted_is_there_and_no_wider") {
        return;
    }
    let home = Home::new();
    let granted = home.scratch().join("granted");
    std::fs::create_dir(&granted).unwrap();
    std::fs::write(granted.join("open"), "for this agent").unwrap();
    std::fs::write(home.scratch().join("beside"), "not for it").unwrap();
    let scratch = home.scratch().to_owned();
    // The temporary directory is closed to others; the grant has to lead through.
    let daemon = home.start();
    daemon.deploy(&Bundle::rogue("view", "view").set(
        "security",
        json!({"fileAccess": {"allowedPaths": [granted], "readOnly": true, "tempFileAccess": true}}),
    ));
    std::fs::set_permissions(
        &granted,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let seen = tries(
        &daemon,
        "view",
        json!({
            "read": ["read", granted.join("open")],
            "temp": ["write", "/tmp/mine"],
        }),
    );
    assert_eq!(seen["read"]["value"], "for this agent", "{seen:?}");
    assert_eq!(seen["temp"]["ok"], true, "{seen:?}");
    assert!(
        !std::path::Path::new("/tmp/mine").exists(),
        "its temporary directory is its own"
    );
    all_fail(&tries(
        &daemon,
        "view",
        json!({
            "write": ["write", granted.join("new")],
            "beside": ["read", scratch.join("beside")],
            "upwards": ["read", granted.join("../beside")],
        }),
    ));
}

#[test]
fn agents_run_as_users_of_their_own_and_cannot_see_each_other() {
    let test = "agents_run_as_users_of_their_own_and_cannot_see_each_other";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::rogue("one", "view"));
    daemon.deploy(&Bundle::rogue("two", "view"));
    let uid = |agent: &str| daemon.status(agent)["instances"][0]["uid"].clone();
    if uid("one").is_null() {
        mesh_tests::skip(test, "meshd may not switch users here");
    } else {
        assert_ne!(uid("one"), uid("two"));
    }
    let pid = |agent: &str| daemon.status(agent)["instances"][0]["pid"].clone();
    all_fail(&tries(
        &daemon,
        "one",
        json!({
            "a signal to the other": ["signal", pid("two")],
            "the other's environment": ["read", format!("/proc/{}/environ", pid("two"))],
            "the other's home": ["list", daemon.home().data().join("home/agents/utility/two")],
        }),
    ));
}

#[test]
fn what_is_said_of_the_sandbox_is_what_is_enforced() {
    if !has_python("what_is_said_of_the_sandbox_is_what_is_enforced") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(
        &Bundle::rogue("view", "view").set("policy", json!({"resource_limits": {"pids": 20}})),
    );
    let sandbox = daemon.client().get("/v1/agents/view/sandbox").ok(200);
    assert!(sandbox["profile"].is_string(), "{sandbox}");
    let controls = sandbox["controls"].as_array().unwrap();
    let level = |name: &str| {
        let found = controls.iter().find(|control| control["control"] == name);
        found.unwrap_or_else(|| panic!("no control {name} in {sandbox}"))["level"].clone()
    };
    for control in controls {
        for member in ["control", "requested", "mechanism", "detail"] {
            assert!(control[member].is_string(), "{control}");
        }
        assert!(
            ["kernel", "advisory", "none"]
                .iter()
                .any(|level| control["level"] == *level),
            "{control}"
        );
    }
    // These never degrade.
    for name in ["filesystem", "network", "processes", "privileges"] {
        assert_eq!(level(name), "kernel", "{name}");
    }
    let bomb = tries(&daemon, "view", json!({"spawn": ["spawn", 100]}));
    if level("pids") == "kernel" {
        assert_eq!(
            bomb["spawn"]["ok"], false,
            "the limit is said to hold: {bomb:?}"
        );
    }
    let recorded = daemon.audit("kind=activated&agent=view");
    assert_eq!(
        recorded[0]["payload"]["sandbox"]["controls"], sandbox["controls"],
        "as it was at the start"
    );
}

#[test]
fn what_asks_for_more_than_is_granted_does_not_start_and_is_told_why() {
    let daemon = Daemon::start();
    for (bundle, field) in [
        (
            Bundle::echo("net").set(
                "security",
                json!({"networkAccess": {"allowOutbound": true, "requests": [{"domains": ["a.example"], "paths": ["/../b"]}]}}),
            ),
            "security.networkAccess.requests[0]",
        ),
        (
            Bundle::echo("bare").set("security", json!({"sandbox": false})),
            "sandbox",
        ),
        (
            Bundle::echo("vault").set(
                "secrets",
                json!([{"name": "key", "from": "vault://key", "domains": ["a.example"]}]),
            ),
            "secrets",
        ),
    ] {
        let tar = bundle.tar();
        let answer = daemon.client().send(
            "POST",
            "/v1/agents",
            &[("content-type", "application/x-tar")],
            Some(&tar),
        );
        assert_eq!(answer.status, 422, "{}: {}", bundle.id(), answer.text());
        assert!(
            answer.text().contains(field),
            "{}: {}",
            bundle.id(),
            answer.text()
        );
        assert_eq!(
            daemon
                .audit(&format!("kind=activated&agent={}", bundle.id()))
                .len(),
            0
        );
    }
    // The operator may grant the network to an agent by name; then status says so.
    let (home, code) = daemon.stop(rustix::process::Signal::TERM);
    assert_eq!(code, 0);
    let daemon = home.config("sandbox:\n  open_network: [net]\n").start();
    daemon.deploy(&Bundle::echo("net").set(
        "security",
        json!({"networkAccess": {"allowOutbound": true}}),
    ));
    let status = daemon.client().get("/status").ok(200);
    assert!(status["warnings"].to_string().contains("net"), "{status}");
    let sandbox = daemon.client().get("/v1/agents/net/sandbox").ok(200);
    let network = sandbox["controls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|control| control["control"] == "network");
    assert_eq!(
        network.unwrap()["level"],
        "none",
        "as it is, not as it was wished: {sandbox}"
    );
}

#[test]
fn daemons_of_one_host_give_no_user_twice() {
    let range = "sandbox:\n  uid_range: {first: 741000, count: 60}\n";
    let daemons = [(); 3].map(|()| Home::new().config(range).start());
    let mut users = Vec::new();
    for daemon in &daemons {
        for agent in ["a", "b", "c"] {
            daemon.deploy(&Bundle::echo(agent));
            users.push(daemon.status(agent)["instances"][0]["uid"].as_u64());
        }
    }
    if users.contains(&None) {
        skip(
            "daemons_of_one_host_give_no_user_twice",
            "only root has users to give",
        );
        return;
    }
    let different: std::collections::BTreeSet<_> = users.iter().collect();
    assert_eq!(different.len(), users.len(), "{users:?}");
}
