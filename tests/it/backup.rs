//! `meshctl backup` of a node at work, and `meshctl restore` onto another one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, Ran, eventually, meshctl};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn take(daemon: &Daemon, name: &str, more: &[&str]) -> PathBuf {
    let file = daemon.home().scratch().join(name);
    let arguments = [&["backup", "--out", file.to_str().unwrap()], more].concat();
    daemon.ctl(&arguments).exits(0);
    file
}

fn restore(file: &Path, data: &Path, more: &[&str]) -> Ran {
    let arguments = [&["restore", file.to_str().unwrap()], more].concat();
    meshctl(data, &arguments)
}

/// The exported log of a daemon.
fn export(daemon: &Daemon) -> PathBuf {
    let file = daemon.home().scratch().join("audit.jsonl");
    daemon
        .ctl(&["audit", "export", "--out", file.to_str().unwrap()])
        .exits(0);
    file
}

fn verify(daemon: &Daemon, key: &str, witness: &Path) -> Ran {
    let file = export(daemon);
    let arguments = ["audit", "verify", file.to_str().unwrap(), "--key", key];
    let witness = ["--witness", witness.to_str().unwrap()];
    meshctl(
        &daemon.home().scratch().join("nowhere"),
        &[&arguments[..], &witness].concat(),
    )
}

/// A checkpoint, kept as a witness keeps it.
fn checkpoint(daemon: &Daemon, name: &str) -> PathBuf {
    let file = daemon.home().scratch().join(name);
    let note = daemon.ctl(&["audit", "checkpoint"]).exits(0).out;
    fs::write(&file, note).unwrap();
    file
}

/// Takes a backup while tasks are submitted without a pause; also the tasks that were there just before it, with their
/// states.
fn back_up_under_load(daemon: &Daemon) -> (BTreeMap<String, String>, PathBuf) {
    let (stop, client) = (AtomicBool::new(false), daemon.client());
    // The load ends by itself if the test fails meanwhile.
    let end = Instant::now() + 4 * SOON;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut acknowledged = 0;
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                let tasks: Vec<Value> = (0..20)
                    .map(|n| json!({ "requirements": ["echo"], "input": { "n": n } }))
                    .collect();
                let receipts = client.post("/v1/tasks", &json!(tasks)).ok(202);
                acknowledged += receipts.as_array().unwrap().len();
            }
            acknowledged
        });
        eventually("tasks succeed", SOON, || {
            match count(daemon, "state=succeeded") {
                n if n > 40 => Ok(()),
                n => Err(format!("{n}")),
            }
        });
        let page = client.get("/v1/tasks?limit=1000").ok(200);
        let rows = page["items"].as_array().unwrap().iter();
        let before: BTreeMap<String, String> = rows
            .map(|task| {
                let text = |field: &str| task[field].as_str().unwrap().to_owned();
                (text("id"), text("state"))
            })
            .collect();
        let file = take(daemon, "mesh.tar", &["--include-key"]);
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 40);
        (before, file)
    })
}

#[test]
fn a_node_backed_up_at_work_goes_on_elsewhere_with_all_that_was_acknowledged() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::command("file", "cat data.txt").file("data.txt", "from the bundle"));
    // Too large for a record: it lies in the content store.
    let large = json!({ "text": "x".repeat(100_000) });
    let large_task = daemon.ask("echo", &large);
    daemon.ended(&large_task, SOON);
    let epoch = daemon.status("echo")["epoch"].as_u64().unwrap();
    let key = daemon.ctl(&["key", "show"]).exits(0).out.trim().to_owned();
    let witness = checkpoint(&daemon, "witness.note");

    let (before, file) = back_up_under_load(&daemon);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let other = Home::new();
    let restored = restore(&file, other.data(), &["-o", "json"]).exits(0);
    assert!(
        restored.err.contains("must not run"),
        "it says what the original may not do: {}",
        restored.err
    );
    let restored = restored.json();
    assert!(restored["contents"].as_u64().unwrap() >= 1);
    assert!(restored["bundleFiles"].as_u64().unwrap() >= 3);
    let again = other.start();
    for (id, state) in &before {
        let task = again.task(id);
        assert_eq!(task["id"], **id);
        if state == "succeeded" {
            assert_eq!(task["state"], "succeeded", "{task}");
        }
    }
    assert_eq!(again.task(&large_task)["output"], large);
    assert_eq!(again.output("echo", &json!({ "n": 1 })), json!({ "n": 1 }));
    assert_eq!(
        again.output("file", &json!({})),
        json!({ "text": "from the bundle" }),
        "the bundle is there"
    );
    assert!(
        again.status("echo")["epoch"].as_u64().unwrap() > epoch,
        "no incarnation of the original comes again"
    );
    // Every task of the load that was in the cut comes to its end there.
    eventually("all restored tasks have ended", SOON, || {
        let open = ["queued", "assigned", "running", "retrying", "parked"];
        match open.map(|state| count(&again, &format!("state={state}"))) {
            [0, 0, 0, 0, 0] => Ok(()),
            waiting => Err(format!("{waiting:?}")),
        }
    });
    verify(&again, &key, &witness).exits(0);
    // The log itself says, once, that it goes on from a backup.
    let (home, _) = again.stop(Signal::TERM);
    let again = home.start();
    let starts = again.audit("kind=node.started");
    let noted: Vec<&Value> = starts
        .iter()
        .map(|start| &start["payload"]["restored"])
        .filter(|restored| !restored.is_null())
        .collect();
    assert_eq!(
        noted,
        [&json!({ "records": restored["records"], "root": restored["root"] })]
    );

    // While the original runs on, too, each contradicts the other, and whoever kept a checkpoint sees it.
    let theirs = checkpoint(&again, "restored.note");
    daemon.output("echo", &json!({ "n": 2 }));
    while export_len(&daemon) < export_len(&again) {
        daemon.output("echo", &json!({ "n": 3 }));
    }
    verify(&daemon, &key, &theirs).exits(1);
}

/// How many tasks match, up to a page.
fn count(daemon: &Daemon, query: &str) -> usize {
    let page = daemon.client().get(&format!("/v1/tasks?{query}&limit=100"));
    page.ok(200)["items"].as_array().unwrap().len()
}

fn export_len(daemon: &Daemon) -> usize {
    let text = fs::read_to_string(export(daemon)).unwrap();
    text.lines().count()
}

#[test]
fn a_damaged_backup_a_full_directory_and_a_missing_key_restore_nothing() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let file = take(&daemon, "mesh.tar", &[]);
    let key = daemon.home().data().join("node.key");
    let with_key = ["--node-key", key.to_str().unwrap()];
    let place = daemon.home().scratch().join("elsewhere");
    let data = place.join("mesh");
    let whole = fs::read(&file).unwrap();
    let damaged = daemon.home().scratch().join("damaged.tar");

    for at in [100, whole.len() / 3, whole.len() / 2, whole.len() - 700] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(&damaged, bytes).unwrap();
        let refused = restore(&damaged, &data, &with_key).exits(1);
        assert!(
            refused.err.contains("nothing was restored"),
            "{}",
            refused.err
        );
    }
    for len in [0, whole.len() / 2, whole.len() - 1] {
        fs::write(&damaged, &whole[..len]).unwrap();
        restore(&damaged, &data, &with_key).exits(1);
    }
    let refused = restore(&file, &data, &[]).exits(2);
    assert!(refused.err.contains("--node-key"), "{}", refused.err);
    restore(&file, daemon.home().data(), &with_key).exits(5);
    let left: Vec<_> = fs::read_dir(&place).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    restore(&file, &data, &with_key).exits(0);
    restore(&file, &data, &with_key).exits(5);
}

#[test]
fn only_an_admin_takes_a_backup_and_it_is_audited() {
    let daemon = Daemon::start();
    let issued = daemon
        .ctl(&["token", "issue", "--role", "operator"])
        .exits(0);
    let operator = daemon.client().with_token(Some(issued.out.trim()));
    operator.get("/v1/backup").problem(403, "forbidden");
    take(&daemon, "mesh.tar", &[]);
    let allowed = daemon.audit("kind=access.allowed");
    assert!(
        allowed
            .iter()
            .any(|record| record["payload"]["action"] == "backup"),
        "{allowed:?}"
    );
}

/// The vault, too: asked for, it comes back and opens with its key, which no backup holds.
#[test]
fn a_vault_is_restored_when_it_was_asked_for_and_opens_with_its_key_alone() {
    const SECRET: &str = "correct-horse-battery-staple";
    let daemon = Daemon::start();
    let value = json!({"value": SECRET, "agents": ["reader"]});
    daemon.client().put("/v1/secrets/db", &value).ok(200);
    let mount = json!([{"name": "db", "from": "vault://db", "mode": "mount"}]);
    let script = "wc -c < /run/secrets/db";
    daemon.deploy(&Bundle::command("reader", script).set("secrets", mount));
    let length = json!(SECRET.len());
    assert_eq!(daemon.output("reader", &json!({})), length);
    let vault_key = fs::read(daemon.home().data().join("vault.key")).unwrap();

    let without = take(&daemon, "without.tar", &["--include-key"]);
    let with = take(&daemon, "with.tar", &["--include-key", "--with-vault"]);
    let (_home, _) = daemon.stop(Signal::TERM);
    for file in [&without, &with] {
        let bytes = fs::read(file).unwrap();
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|some| some == part);
        assert!(!holds(SECRET.as_bytes()) && !holds(vault_key.trim_ascii_end()));
    }

    let plain = Home::new();
    assert_eq!(
        restore(&without, plain.data(), &["-o", "json"])
            .exits(0)
            .json()["vault"],
        false
    );
    assert!(!plain.data().join("secrets").exists());

    // Without its key, meshd runs, says so, and says no secret.
    let locked = Home::new();
    let restored = restore(&with, locked.data(), &["-o", "json"]).exits(0);
    assert_eq!(restored.json()["vault"], true);
    assert!(restored.err.contains("vault.key"), "{}", restored.err);
    let locked = locked.start();
    let refused = locked.client().get("/v1/secrets").ok(503);
    assert_eq!(refused["code"], "vault_unavailable");
    let task = json!({"requirements": ["reader"], "input": {}, "retry": {"maxAttempts": 1}});
    locked.submit(&task);
    eventually("its start is refused", SOON, || {
        let seen = locked.status("reader").to_string();
        if seen.contains("vault") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    // A new vault in its place would lose the old one.
    let set = locked.client().put("/v1/secrets/other", &value);
    assert_eq!(set.status, 503);
    let (locked, _) = locked.stop(Signal::TERM);
    assert!(!locked.log().contains(SECRET));

    // With its key, everything is as it was, also after a kill.
    let open = Home::new();
    restore(&with, open.data(), &[]).exits(0);
    let key = open.data().join("vault.key");
    fs::write(&key, &vault_key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let open = open.start().kill9().start();
    assert_eq!(open.output("reader", &json!({})), length);
    let listed = open.client().get("/v1/secrets").ok(200).to_string();
    assert!(
        listed.contains("\"db\"") && !listed.contains(SECRET),
        "{listed}"
    );
}
