//! Homes, users, and the files of the host that agents are granted.

use mesh_tests::{Answer, Bundle, Daemon, Home};
use serde_json::{Value, json};

/// Two users, which is as few as shows who gets whose.
const TWO_USERS: &str = "sandbox:\n  uid_range: {first: 731000, count: 2}\n";

fn granting(id: &str, paths: Value) -> Bundle {
    Bundle::echo(id).set(
        "security",
        json!({"fileAccess": {"allowedPaths": paths, "readOnly": false}}),
    )
}

fn try_deploy(daemon: &Daemon, bundle: &Bundle) -> Answer {
    let headers = [("content-type", "application/x-tar")];
    daemon
        .client()
        .send("POST", "/v1/agents", &headers, Some(&bundle.tar()))
}

fn home_of(daemon: &Daemon, agent: &str) -> std::path::PathBuf {
    daemon.home().data().join("home/agents/utility").join(agent)
}

#[test]
fn what_is_refused_keeps_no_home_and_no_user() {
    let daemon = Home::new().config(TWO_USERS).start();
    for (id, path) in [("p1", "/"), ("p2", "/proc"), ("p3", "/")] {
        let refused = try_deploy(&daemon, &granting(id, json!([path])));
        refused.problem(422, "start_refused");
        assert!(!home_of(&daemon, id).exists(), "{id}");
    }
    for id in ["good", "other"] {
        daemon.deploy(&Bundle::echo(id));
    }
    // What an earlier version left is gone at the next start; what holds files is not judged.
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    let homes = home.data().join("home/agents/utility");
    std::fs::create_dir(homes.join("unknown")).unwrap();
    std::fs::create_dir(homes.join("unknown#1")).unwrap();
    std::fs::write(homes.join("unknown#1/note"), "kept").unwrap();
    let daemon = home.start();
    let left = ["good", "other", "unknown", "unknown#1"].map(|id| home_of(&daemon, id).exists());
    assert_eq!(left, [true, true, false, true]);
}
