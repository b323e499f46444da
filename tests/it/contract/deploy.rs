//! Sections 2 and 5: bundles, manifests, and what `meshctl` says of them.

use mesh_tests::{Bundle, Daemon, Home, meshctl};
use serde_json::json;

#[test]
fn deploying_says_so_and_again_is_nothing_to_do_and_other_content_is_a_conflict() {
    let daemon = Daemon::start();
    let dir = daemon.home().scratch().join("bundles");
    let path = Bundle::echo("echo").write(&dir);
    let path = path.to_str().unwrap();
    let first = daemon.ctl(&["agent", "deploy", path]).exits(0);
    assert_eq!(first.out, "echo 1.0.0 registered, 1 instance ready\n");
    let epoch = daemon.status("echo")["epoch"].clone();

    daemon.ctl(&["agent", "deploy", path]).exits(0);
    assert_eq!(
        daemon.status("echo")["epoch"],
        epoch,
        "nothing to do means that nothing is restarted"
    );

    Bundle::echo("echo")
        .file("note.txt", "other content")
        .write(&dir);
    let other = daemon.ctl(&["agent", "deploy", path]).exits(5);
    assert!(other.err.contains("1.0.0"), "{}", other.err);
    assert_eq!(
        daemon.output("echo", &json!(1)),
        json!(1),
        "the conflict changed nothing"
    );

    Bundle::echo("echo")
        .set("version", json!("1.1.0"))
        .write(&dir);
    daemon.ctl(&["agent", "deploy", path]).exits(0);
    assert_eq!(
        daemon.status("echo")["version"],
        "1.0.0",
        "a later version waits for an upgrade"
    );
    daemon.ctl(&["agent", "upgrade", "echo"]).exits(0);
    assert_eq!(daemon.status("echo")["version"], "1.1.0");
    daemon.ctl(&["agent", "rollback", "echo"]).exits(0);
    assert_eq!(daemon.status("echo")["version"], "1.0.0");
    assert_eq!(daemon.output("echo", &json!(2)), json!(2));
}

#[test]
fn a_bundle_that_is_not_to_start_does_not() {
    let daemon = Daemon::start();
    let path = Bundle::echo("echo").write(daemon.home().scratch());
    daemon
        .ctl(&["agent", "deploy", path.to_str().unwrap(), "--no-start"])
        .exits(0);
    let status = daemon.status("echo");
    assert_eq!(
        (&status["lifecycle"], &status["activity"]),
        (&json!("registered"), &json!("offline"))
    );
    daemon.ctl(&["agent", "start", "echo"]).exits(0);
    assert_eq!(daemon.output("echo", &json!("up")), json!("up"));
}

#[test]
fn everything_that_is_wrong_with_a_manifest_is_named_at_once_and_changes_nothing() {
    let daemon = Daemon::start();
    let bad = Bundle::new("echo")
        .set("version", json!("one"))
        .set("entry", json!("../escape.py"))
        .set("capabilities", json!("echo"))
        .set("surprise", json!(1))
        .set("security", json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["a.example", "b.example", "not a domain"]}}));
    let places = [
        "version",
        "capabilities",
        "surprise",
        "security.networkAccess.allowedDomains[2]",
        "entry",
    ];

    let path = bad.write(daemon.home().scratch());
    let path = path.to_str().unwrap();
    let deployed = daemon.ctl(&["agent", "deploy", path]).exits(1);
    let validated = daemon.ctl(&["agent", "validate", path]).exits(1);
    let answer = daemon
        .client()
        .post("/v1/agents", &json!({"manifest": bad.manifest()}));
    let problem = answer.problem(422, "invalid_manifest").to_string();
    for place in places {
        for told in [&deployed.err, &validated.err, &problem] {
            assert!(told.contains(place), "{place} is not named in {told}");
        }
    }
    let agents = daemon.client().get("/v1/agents").ok(200);
    assert_eq!(agents["items"], json!([]));
    assert_eq!(daemon.audit("kind=created").len(), 0);
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let home = Home::new();
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../config/agents/calendarAgent"
    );
    meshctl(home.data(), &["agent", "validate", example]).exits(0);
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let daemon = Daemon::start();
    daemon.ctl(&["agent", "show", "nobody"]).exits(3);
    daemon.ctl(&["task", "show", "nothing"]).exits(3);
    daemon.ctl(&["agent", "frobnicate"]).exits(2);
    daemon.ctl(&["agent", "deploy", "/nowhere"]).exits(1);
    daemon.ctl(&["agent", "status", "nobody"]).exits(0);
    let nowhere = Home::new();
    let unreachable = meshctl(nowhere.data(), &["--url", "http://127.0.0.1:1", "status"]).exits(6);
    assert!(
        unreachable.err.contains("127.0.0.1:1"),
        "{}",
        unreachable.err
    );
}

#[test]
fn every_command_answers_with_the_json_of_http() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    for (command, path) in [
        (&["agent", "list"][..], "/v1/agents"),
        (&["agent", "policy", "echo"], "/v1/agents/echo/policy"),
        (&["node", "list"], "/v1/nodes"),
        (&["agent", "sandbox", "echo"], "/v1/agents/echo/sandbox"),
    ] {
        let told = daemon
            .ctl(&[command, &["-o", "json"]].concat())
            .exits(0)
            .json();
        assert_eq!(told, daemon.client().get(path).ok(200), "{command:?}");
    }
    let issued = daemon
        .ctl(&["token", "issue", "--role", "viewer", "-o", "json"])
        .exits(0)
        .json();
    for member in ["token", "role", "expires"] {
        assert!(issued.get(member).is_some(), "{member}: {issued}");
    }
}
