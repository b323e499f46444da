//! Homes, users, and the files of the host that agents are granted.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{
    Answer, Bundle, Daemon, Ended, Home, deny, eventually, has_python, is_root, skip,
};
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

fn home_of(daemon: &Daemon, agent: &str) -> PathBuf {
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

/// A directory of the host with these modes, and its plain path.
fn directory(home: &Home, name: &str, mode: u32) -> PathBuf {
    let path = std::fs::canonicalize(home.scratch()).unwrap().join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// An agent that does with the files of these paths what its task says.
fn using(id: &str, paths: &[&Path]) -> Bundle {
    Bundle::rogue(id, "view").set(
        "security",
        json!({"fileAccess": {"allowedPaths": paths, "readOnly": false}}),
    )
}

fn tries(daemon: &Daemon, agent: &str, act: &str, path: &Path) -> Value {
    daemon.output(agent, &json!({"it": [act, path]}))["it"].clone()
}

/// AU2, daemon-12.
#[test]
fn a_user_is_not_given_again_while_its_files_lie_where_it_could_write() {
    let test = "a_user_is_not_given_again_while_its_files_lie_where_it_could_write";
    if !has_python(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root gives agents users of their own");
    }
    let home = Home::new().config(TWO_USERS);
    let shared = directory(&home, "shared", 0o1777);
    let daemon = home.start();
    let uid = |daemon: &Daemon, agent: &str| daemon.status(agent)["instances"][0]["uid"].clone();
    daemon.deploy(&using("ua", &[&shared]));
    let first = uid(&daemon, "ua");
    assert_eq!(tries(&daemon, "ua", "write", &shared.join("a"))["ok"], true);
    daemon.client().delete("/v1/agents/ua").ok(200);
    daemon.deploy(&using("ub", &[&shared]));
    daemon.client().delete("/v1/agents/ub").ok(200);
    // What is known of them outlives meshd.
    let daemon = daemon.kill9().start();
    // The second one left nothing; the first one's turn does not come.
    for agent in ["uc", "ud"] {
        daemon.deploy(&using(agent, &[&shared]));
        assert_ne!(uid(&daemon, agent), first, "{agent}");
        let seen = tries(&daemon, agent, "read", &shared.join("a"));
        assert_eq!(seen["ok"], false, "{seen}");
        daemon
            .client()
            .delete(&format!("/v1/agents/{agent}"))
            .ok(200);
    }
    daemon.deploy(&using("ue", &[&shared]));
    let none = try_deploy(&daemon, &using("uf", &[&shared]));
    assert!(
        none.problem(422, "start_refused")["detail"]
            .to_string()
            .contains("no user id is free")
    );
    // Once its file is gone, so is the reason.
    std::fs::remove_file(shared.join("a")).unwrap();
    daemon.deploy(&using("uf", &[&shared]));
    assert_eq!(uid(&daemon, "uf"), first);
}

#[test]
fn an_agent_writes_as_the_owner_where_the_operator_lets_it_and_is_told_where_it_cannot() {
    const OWNER: u32 = 61_077;
    let test =
        "an_agent_writes_as_the_owner_where_the_operator_lets_it_and_is_told_where_it_cannot";
    if !has_python(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root has agents stand for other users");
    }
    let home = Home::new();
    let (owned, closed, roots) = (
        directory(&home, "owned", 0o700),
        directory(&home, "closed", 0o755),
        directory(&home, "roots", 0o755),
    );
    for path in [&owned, &closed] {
        chown(path, Some(OWNER), Some(OWNER)).unwrap();
    }
    let config = format!(
        "sandbox:\n  files:\n    as_owner: [{}, {}]\n",
        owned.display(),
        roots.display()
    );
    let daemon = home.config(&config).start();
    let answer = try_deploy(&daemon, &using("writer", &[&owned, &closed])).ok(201);
    let notices = answer["notices"].to_string();
    assert!(
        notices.contains("allowedPaths[1]") && notices.contains("cannot write"),
        "{notices}"
    );
    daemon.fault_state("writer", "running", Duration::from_secs(20));
    let file = owned.join("made");
    let made = tries(&daemon, "writer", "write", &file);
    assert_eq!(made["ok"], true, "{made}");
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER));
    assert_eq!(
        tries(&daemon, "writer", "write", &closed.join("made"))["ok"],
        false
    );
    let report = daemon.client().get("/v1/agents/writer/sandbox").ok(200);
    let detail = report["controls"][0]["detail"].to_string();
    assert!(detail.contains(closed.to_str().unwrap()), "{report}");
    assert_eq!(report["profile"], "strict", "{report}");
    // For root nobody stands.
    let refused = try_deploy(&daemon, &using("root", &[&roots]));
    assert!(
        refused.problem(422, "start_refused")["detail"]
            .to_string()
            .contains("group 0")
    );
}

#[test]
fn where_no_agent_can_stand_for_an_owner_the_doctor_and_the_registration_say_so() {
    const OWNER: u32 = 61_077;
    let test = "where_no_agent_can_stand_for_an_owner_the_doctor_and_the_registration_say_so";
    let Some(program) = deny(test) else {
        return;
    };
    let home = Home::new();
    let owned = directory(&home, "owned", 0o700);
    chown(&owned, Some(OWNER), Some(OWNER)).unwrap();
    let config = format!("sandbox: {{files: {{as_owner: [{}]}}}}\n", owned.display());
    let doctor = |daemon: &Daemon| {
        let mut command = daemon.home().command();
        command.args(["doctor", "-o", "json", "--config"]);
        command.arg(daemon.home().scratch().join("meshd.yaml"));
        let examined = Ended::of(command, Duration::from_mins(1)).out;
        let examined: Value = serde_json::from_str(&examined).unwrap();
        let findings = examined["findings"].as_array().unwrap();
        let finding = findings.iter().find(|one| one["name"] == "as_owner");
        finding.unwrap_or_else(|| panic!("{examined}")).clone()
    };
    // The map of owners is a user namespace; all else of a sandbox does without.
    let words = [program.to_str().unwrap(), "user-namespaces", "--"];
    let daemon = home.config(&config).through(&words).start();
    let said = doctor(&daemon);
    assert_eq!(said["verdict"], "weak", "{said}");
    let refused = try_deploy(&daemon, &granting("writer", json!([owned])));
    let refused = refused.problem(422, "start_refused");
    assert_eq!(refused["field"], "security.fileAccess.allowedPaths[0]");
    for text in [&refused["detail"], &said["detail"]] {
        let text = text.to_string();
        assert!(
            text.contains("no agent can stand for its owner")
                && text.contains("sandbox.files.as_owner"),
            "{text}"
        );
    }
    assert!(!home_of(&daemon, "writer").exists());
    // The control: what needs no owner runs there, and elsewhere so does this.
    daemon.deploy(&Bundle::echo("plain"));
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    let daemon = home.through(&[]).start();
    let said = doctor(&daemon);
    assert_eq!(said["verdict"], "good", "{said}");
    daemon.deploy(&granting("writer", json!([owned])));
}

#[test]
fn what_is_not_there_or_a_link_is_refused_and_a_later_loss_is_no_fault_of_the_agents() {
    let home = Home::new();
    let real = directory(&home, "real", 0o755);
    let link = real.with_file_name("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let daemon = home.start();
    for (path, word) in [
        (real.with_file_name("absent"), "cannot be granted"),
        (link, "symbolic link"),
    ] {
        let refused = try_deploy(&daemon, &granting("view", json!([real, path])));
        let refused = refused.problem(422, "start_refused");
        assert_eq!(
            refused["field"], "security.fileAccess.allowedPaths[1]",
            "{refused}"
        );
        assert!(refused["detail"].to_string().contains(word), "{refused}");
    }
    daemon.deploy(&granting("view", json!([real])));
    let aside = real.with_file_name("aside");
    std::fs::rename(&real, &aside).unwrap();
    daemon
        .client()
        .post("/v1/agents/view/restart", &json!({}))
        .ok(200);
    let said = eventually(
        "it is said why it does not start",
        Duration::from_secs(20),
        || {
            let status = daemon.status("view");
            let error = &status["health"]["errors"][0];
            let told = error["message"].to_string().contains("cannot be granted");
            if told && error["type"] == "unavailable" {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        },
    );
    assert_eq!(said["fault"]["score"].as_f64(), Some(0.0), "{said}");
    assert_eq!(said["fault"]["state"], "running", "{said}");
    std::fs::rename(&aside, &real).unwrap();
    daemon
        .client()
        .post("/v1/agents/view/restart", &json!({}))
        .ok(200);
    daemon.output("echo", &json!({"still": "there"}));
}

#[test]
fn the_operator_says_what_may_be_granted_and_by_whom() {
    let home = Home::new();
    let open = directory(&home, "open", 0o755);
    let ada = directory(&home, "ada", 0o755);
    std::fs::create_dir(ada.join(".ssh")).unwrap();
    let daemon = home.start();
    for path in [&ada, &ada.join(".ssh")] {
        let refused = try_deploy(&daemon, &granting("view", json!([path])));
        let refused = refused.problem(422, "policy_refused");
        assert!(
            refused["detail"]
                .to_string()
                .contains("sandbox.files.blocked_paths"),
            "{refused}"
        );
    }
    let publisher = daemon.of_role("publisher", "pat");
    let headers = [("content-type", "application/x-tar")];
    let by_publisher = |client: &mesh_tests::Client| {
        let tar = granting("view", json!([open])).tar();
        client.send("POST", "/v1/agents", &headers, Some(&tar))
    };
    by_publisher(&publisher).problem(422, "policy_refused");
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    let config = format!(
        "sandbox:\n  files:\n    allowed_paths: [{}]\n",
        open.display()
    );
    let daemon = home.config(&config).start();
    by_publisher(&daemon.of_role("publisher", "pat")).ok(201);
    let refused = try_deploy(&daemon, &granting("other", json!(["/srv"])));
    refused.problem(422, "policy_refused");
    let own = Bundle::echo("own").set(
        "runtime",
        json!({"command": "true", "env": {"MESH_AGENT": "admin"}}),
    );
    let refused = try_deploy(&daemon, &own);
    assert!(
        refused.status == 422 && refused.text().contains("runtime.env.MESH_AGENT"),
        "{}",
        refused.text()
    );
}
