//! Changes that admins sign together: made, signed and handed in with the client, against the real daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ran, eventually};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// Some admins, each with a secret in a file.
struct Admins {
    dir: PathBuf,
    keys: Vec<String>,
}

impl Admins {
    fn new(daemon: &Daemon, count: usize) -> Self {
        let dir = daemon.home().scratch().to_owned();
        let keys = (0..count).map(|n| {
            let made = daemon
                .ctl(&["key", "new", "--out", text(&dir.join(format!("a{n}.key")))])
                .exits(0);
            let words = made.out.split_whitespace();
            words
                .into_iter()
                .find(|word| word.starts_with("did:key:"))
                .unwrap()
                .to_owned()
        });
        let keys = keys.collect();
        Self { dir, keys }
    }

    fn secret(&self, n: usize) -> String {
        text(&self.dir.join(format!("a{n}.key"))).to_owned()
    }

    /// An update in a file, issued by the first of the signers and signed by all of them.
    fn update(&self, daemon: &Daemon, arguments: &[&str], signers: &[usize]) -> PathBuf {
        let out = self.dir.join("update.json");
        let secret = self.secret(signers[0]);
        let mut line = vec!["governance", "new"];
        line.extend(arguments);
        line.extend(["--key", &secret, "--out", text(&out)]);
        daemon.ctl(&line).exits(0);
        for n in &signers[1..] {
            daemon
                .ctl(&["governance", "sign", text(&out), "--key", &self.secret(*n)])
                .exits(0);
        }
        out
    }

    fn submit(&self, daemon: &Daemon, arguments: &[&str], signers: &[usize]) -> Ran {
        let update = self.update(daemon, arguments, signers);
        daemon.ctl(&["governance", "submit", text(&update), "-o", "json"])
    }

    /// Has two of three govern.
    fn appoint(&self, daemon: &Daemon) {
        let mut line = vec!["admin_update", "--threshold", "2"];
        for key in &self.keys[..3] {
            line.extend(["--admin", key]);
        }
        self.submit(daemon, &line, &[0, 1]).exits(0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn policy(daemon: &Daemon, crashes: u32) -> PathBuf {
    let path = daemon.home().scratch().join("policy.yaml");
    std::fs::write(
        &path,
        format!("default: {{lifecycle: {{max_crashes: {crashes}}}}}\n"),
    )
    .unwrap();
    path
}

/// What holds for the number of crashes, and where it comes from.
fn crashes(daemon: &Daemon) -> (Value, String) {
    let shown = daemon.client().get("/v1/policies").ok(200);
    let values = shown["values"].as_array().unwrap();
    let value = values
        .iter()
        .find(|value| value["key"].as_str().unwrap().ends_with("max_crashes"))
        .unwrap();
    (
        value["value"].clone(),
        value["origin"].as_str().unwrap().to_owned(),
    )
}

fn denials(daemon: &Daemon) -> Vec<(String, String)> {
    let records = daemon.audit("kind=access.denied");
    let of_governance = records
        .iter()
        .filter(|record| record["payload"]["action"] == "governance");
    of_governance
        .map(|record| {
            let part = |name: &str| record["payload"][name].as_str().unwrap().to_owned();
            (part("resource"), part("reason"))
        })
        .collect()
}

#[test]
fn a_policy_needs_m_signatures_counts_once_and_says_who_signed_it() {
    let daemon = Daemon::start();
    let admins = Admins::new(&daemon, 4);
    admins.appoint(&daemon);
    let file = policy(&daemon, 7);
    let update = ["policy_update", "--policy", text(&file)];

    let refused = admins.submit(&daemon, &update, &[0]).exits(4);
    assert!(
        refused.err.contains("Insufficient signatures"),
        "{}",
        refused.err
    );
    let refused = admins.submit(&daemon, &update, &[3, 0, 1]).exits(4);
    assert!(
        refused.err.contains("Invalid admin authority"),
        "{}",
        refused.err
    );
    let refused = admins.submit(&daemon, &update, &[0, 3]).exits(4);
    assert!(
        refused.err.contains("Insufficient signatures"),
        "{}",
        refused.err
    );
    // A token alone does not get around it.
    let refused = daemon.ctl(&["policy", "apply", text(&file)]).exits(4);
    assert!(
        refused.err.contains("Insufficient signatures"),
        "{}",
        refused.err
    );
    assert_eq!(
        crashes(&daemon).0,
        3,
        "nothing that was refused has changed anything"
    );

    let good = admins.update(&daemon, &update, &[0, 2]);
    daemon.ctl(&["governance", "verify", text(&good)]).exits(0);
    let taken = std::fs::read_to_string(&good).unwrap();
    daemon.ctl(&["governance", "submit", text(&good)]).exits(0);
    let (value, origin) = crashes(&daemon);
    assert_eq!(value, 7);
    assert!(origin.contains("update 2"), "{origin}");
    assert!(
        origin.contains(&admins.keys[0]) && origin.contains(&admins.keys[2]),
        "{origin}"
    );
    assert!(!origin.contains(&admins.keys[1]), "{origin}");
    daemon.ctl(&["governance", "submit", text(&good)]).exits(5);

    let daemon = daemon.kill9().start();
    assert_eq!(crashes(&daemon), (value, origin));
    daemon.ctl(&["governance", "submit", text(&good)]).exits(5);
    // Of a refusal right before the kill, which changed nothing, the record may be lost.
    eventually("the refusals are in the audit", LONG, || {
        let denials = denials(&daemon);
        let has = |reason: &str| denials.iter().filter(|(_, why)| why == reason).count();
        let counts = (
            has("Insufficient signatures"),
            has("Invalid admin authority"),
        );
        if counts == (2, 1) && denials.len() > 3 {
            Ok(())
        } else {
            Err(format!("{denials:?}"))
        }
    });
    // The record holds the update whole, so that it can be checked with the admins' keys alone.
    let records = daemon.audit("kind=governance.updated");
    let kept = &records.last().unwrap()["payload"]["update"];
    assert_eq!(*kept, serde_json::from_str::<Value>(&taken).unwrap());
    let shown = daemon.ctl(&["governance", "show"]).exits(0);
    assert!(shown.out.contains("2 of 3"), "{}", shown.out);
}

#[test]
fn what_was_changed_after_the_signing_or_is_unknown_is_refused_with_its_field() {
    let daemon = Daemon::start();
    let admins = Admins::new(&daemon, 3);
    let file = policy(&daemon, 7);
    let early = admins
        .submit(
            &daemon,
            &["policy_update", "--policy", text(&file)],
            &[0, 1],
        )
        .exits(1);
    assert!(
        early.err.contains("no admins are named yet"),
        "{}",
        early.err
    );
    admins.appoint(&daemon);
    let path = admins.update(
        &daemon,
        &["policy_update", "--policy", text(&file)],
        &[0, 1],
    );
    let good: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let send = |change: &dyn Fn(&mut Value)| {
        let mut update = good.clone();
        change(&mut update);
        daemon.client().post("/v1/governance", &update)
    };
    send(&|update| update["payload"]["default"]["essential"] = json!(true))
        .problem(403, "insufficient_signatures");
    send(&|update| update["sequence"] = json!(9)).problem(403, "insufficient_signatures");
    let other = |update: &mut Value| update["type"] = json!("node_dance");
    send(&other).problem(403, "insufficient_signatures");
    let mut unknown = good.clone();
    other(&mut unknown);
    unknown["signatures"] = json!([]);
    std::fs::write(&path, unknown.to_string()).unwrap();
    for n in [0, 1] {
        let secret = admins.secret(n);
        daemon
            .ctl(&["governance", "sign", text(&path), "--key", &secret])
            .exits(0);
    }
    let signed: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let refused = daemon.client().post("/v1/governance", &signed);
    assert_eq!(
        refused.problem(422, "invalid_update")["detail"],
        "Unknown governance update type: node_dance"
    );
    let twice = send(&|update| {
        let first = update["signatures"][0].clone();
        update["signatures"] = json!([first, first]);
    });
    assert_eq!(
        twice.problem(403, "insufficient_signatures")["detail"],
        "Insufficient signatures"
    );
    daemon
        .client()
        .post("/v1/governance", &json!({"v": 1}))
        .problem(422, "missing_field");
    assert_eq!(crashes(&daemon).0, 3);
}

#[test]
fn a_shutdown_isolates_every_agent_across_kill_9_until_it_is_lifted_and_they_are_recovered() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::echo("other"));
    let admins = Admins::new(&daemon, 3);
    admins.appoint(&daemon);
    let order = ["emergency_shutdown", "--reason", "leaked key"];
    admins.submit(&daemon, &order, &[1]).exits(4);
    assert_eq!(daemon.status("echo")["status"], "active");
    // Whom time would let out of its quarantine is held, too.
    let low = json!({"type": "manual", "description": "a look", "severity": "low"});
    daemon
        .client()
        .post("/v1/agents/other/quarantine", &low)
        .ok(200);
    admins.submit(&daemon, &order, &[1, 2]).exits(0);
    for agent in ["echo", "other"] {
        let status = daemon.status(agent);
        assert_eq!(status["status"], "quarantined");
        let severity = &status["fault"]["quarantine"]["reason"]["severity"];
        assert_eq!(severity, "critical", "{status}");
    }
    let daemon = daemon.kill9().start();
    let client = daemon.client();
    assert_eq!(daemon.status("echo")["status"], "quarantined");
    let recover = "/v1/agents/echo/recover";
    client
        .post(recover, &json!({"force": true}))
        .problem(409, "emergency_shutdown");
    let tar = Bundle::echo("late").tar();
    let kind = [("content-type", "application/x-tar")];
    client
        .send("POST", "/v1/agents", &kind, Some(&tar))
        .problem(409, "emergency_shutdown");
    let shown = client.get("/v1/governance").ok(200);
    assert_eq!(shown["halted"]["reason"], "leaked key");

    admins
        .submit(
            &daemon,
            &["emergency_lift", "--reason", "key replaced"],
            &[0, 1],
        )
        .exits(0);
    assert_eq!(
        daemon.status("echo")["status"],
        "quarantined",
        "each is recovered by a decision of its own"
    );
    assert_eq!(
        client.post(recover, &json!({"force": true})).ok(200)["success"],
        true
    );
    assert_eq!(daemon.output("echo", &json!("back")), "back");
    assert_eq!(daemon.status("other")["status"], "quarantined");
}

#[test]
fn what_m_admins_signed_no_single_one_undoes_and_every_value_says_who_signed_it() {
    let daemon = Daemon::start();
    let account = json!({"provider": "acme", "calls": 5});
    let echo = || Bundle::echo("echo").set("budget", account.clone());
    daemon.deploy(&echo());
    let admins = Admins::new(&daemon, 3);
    admins.appoint(&daemon);
    let file = daemon.home().scratch().join("policy.yaml");
    let document = json!({
        "default": {
            "approvals": [{"action": "*", "decision": "ask", "role": "admin"}],
            "escalate": [{"person": "operator"}],
        },
        "agents": {"echo": {"lifecycle": {"max_crashes": 9}}},
        "budgets": {"provider:acme": {"perMs": 3_600_000, "attempts": 1}},
    });
    std::fs::write(&file, document.to_string()).unwrap();
    let update = ["policy_update", "--policy", text(&file)];
    admins.submit(&daemon, &update, &[0, 1]).exits(0);

    let in_force = daemon.client().get("/v1/policies").ok(200);
    let values = in_force["values"].as_array().unwrap();
    for key in ["approvals", "escalate", "budgets.provider:acme"] {
        let value = values.iter().find(|value| value["key"] == key);
        let origin = value.unwrap_or_else(|| panic!("{key}: {in_force}"))["origin"].to_string();
        assert!(origin.contains("update 2 signed by"), "{key}: {origin}");
    }
    let shown = daemon.ctl(&["governance", "show"]).exits(0);
    assert!(shown.out.contains("budgets.provider:acme"), "{}", shown.out);

    // Whoever may remove and deploy does not get rid of it by that.
    daemon.client().delete("/v1/agents/echo").ok(200);
    daemon.deploy(&echo());
    let policy = daemon.client().get("/v1/agents/echo/policy").ok(200);
    let values = policy["items"].as_array().unwrap();
    let crashes = values.iter().find(|v| v["key"] == "lifecycle.max_crashes");
    assert_eq!(crashes.unwrap()["value"], 9, "{policy}");

    // Nor does one of them raise what they bounded together.
    assert_eq!(daemon.output("echo", &json!(1)), 1);
    let waits = daemon.ask("echo", &json!(2));
    let item = daemon.asked(LONG);
    let path = format!("/v1/inbox/{}/answer", item["id"].as_str().unwrap());
    let raise = json!({"approve": true, "answer": "1000"});
    let refused = daemon.client().post(&path, &raise);
    let refused = refused.problem(403, "insufficient_signatures");
    assert_eq!(refused["detail"], "Insufficient signatures");
    assert_eq!(daemon.task(&waits)["state"], "parked");
    let denied = denials_of(&daemon, "inbox.answer");
    assert_eq!(denied, ["Insufficient signatures"]);
}

/// The reasons of refusals of an action.
fn denials_of(daemon: &Daemon, action: &str) -> Vec<String> {
    let records = daemon.audit("kind=access.denied");
    let about = records
        .iter()
        .filter(|record| record["payload"]["action"] == action);
    let reason = |record: &Value| record["payload"]["reason"].as_str().unwrap().to_owned();
    about.map(reason).collect()
}

#[test]
fn while_a_shutdown_is_in_force_meshd_calls_no_service_either() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let daemon = Daemon::start();
    let admins = Admins::new(&daemon, 3);
    admins.appoint(&daemon);
    let order = ["emergency_shutdown", "--reason", "leaked key"];
    admins.submit(&daemon, &order, &[1, 2]).exits(0);
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let steps = json!([{"id": "call", "service": {"url": url, "method": "GET"}, "timeoutMs": 700}]);
    let body = json!({"workflow": {"steps": steps}});
    let run = daemon.client().post("/v1/workflows?wait=20s", &body);
    assert_eq!(run.ok(200)["state"], "failed");
    assert!(listener.accept().is_err(), "nobody came");

    let lift = ["emergency_lift", "--reason", "key replaced"];
    admins.submit(&daemon, &lift, &[0, 1]).exits(0);
    let called = std::thread::spawn(move || {
        listener.set_nonblocking(false).unwrap();
        listener.accept().map(drop)
    });
    drop(daemon.client().post("/v1/workflows", &body));
    called.join().unwrap().unwrap();
}
