//! A log that was cut, or changed keys, while no daemon ran.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ended, Home, eventually, has_python, meshctl};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::proof_audit::{judged, lines_of};

/// How long a checkpoint may take to its file, and a verb on the data directory.
const SOON: Duration = Duration::from_secs(30);
const ACCEPT: &str = "--accept-cut-log";

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    Ended::of(command, SOON).exits(0);
}

/// What the log says of its start number `count`, the last one. It is put on record beside the first answers.
fn started(daemon: &Daemon, count: usize) -> Value {
    eventually("the record of the start", SOON, || {
        let all = daemon.audit("kind=node.started");
        match all.last() {
            Some(last) if all.len() == count => Ok(last["payload"].clone()),
            _ => Err(format!("{} of {count} starts", all.len())),
        }
    })
}

fn filed(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let sizes = text.split("\n\n").filter_map(|note| note.lines().nth(1));
    sizes
        .filter_map(|size| size.parse().ok())
        .max()
        .unwrap_or(0)
}

#[test]
fn a_log_that_was_cut_while_nobody_looked_is_refused_and_taken_only_on_record() {
    let home = Home::new();
    let file = home.scratch().join("kept");
    let config = format!(
        "audit:\n  witness:\n    file: {}\n    interval: 200ms\n",
        file.display()
    );
    let daemon = home.config(&config).start();
    daemon.deploy(&Bundle::echo("echo"));
    let (home, _) = daemon.stop(Signal::TERM);
    let old = home.scratch().join("old");
    copy(home.data(), &old);
    let left = filed(&file);

    let daemon = home.start();
    daemon.output("echo", &json!("what is to be forgotten"));
    eventually("a larger checkpoint", SOON, || {
        let size = filed(&file);
        (size > left)
            .then_some(())
            .ok_or_else(|| format!("{size} records"))
    });
    let home = daemon.kill9();
    let seen = filed(&file);
    let whole = home.scratch().join("whole");
    copy(home.data(), &whole);

    // The whole log starts; one that is put back to an earlier state does not, however often it is tried.
    copy(&old, home.data());
    for _ in 0..2 {
        let ended = home.run_to_end().exits(64);
        let told = format!("this node signed that it had {seen}");
        assert!(ended.err.contains("the log was cut"), "{}", ended.err);
        assert!(ended.err.contains(&told), "{}", ended.err);
        assert!(ended.err.contains(ACCEPT), "{}", ended.err);
    }
    copy(&whole, home.data());
    let daemon = home.start();
    assert_eq!(started(&daemon, 3).get("cut"), None);
    let home = daemon.kill9();

    // Who wants it all the same says so, once; the log says it, too.
    copy(&old, home.data());
    let daemon = home.arguments(&[ACCEPT]).start();
    let cut = started(&daemon, 2)["cut"].clone();
    assert!(cut["seen"].as_u64().unwrap() >= seen, "{cut}");
    assert!(cut["left"].as_u64().unwrap() < seen, "{cut}");
    assert_eq!(cut["from"], file.display().to_string());
    daemon.output("echo", &json!("it goes on"));
    let daemon = daemon.kill9().arguments(&[]).start();
    assert_eq!(started(&daemon, 3).get("cut"), None);
    daemon.output("echo", &json!("and on"));

    // Whoever kept the checkpoint still sees it.
    let export = home_file(&daemon, "export");
    fs::write(&export, daemon.client().get("/v1/audit/export").body).unwrap();
    let nowhere = daemon.home().scratch().join("nowhere");
    let path = export.to_str().unwrap();
    meshctl(&nowhere, &["audit", "verify", path]).exits(0);
    let kept = file.to_str().unwrap();
    meshctl(&nowhere, &["audit", "verify", path, "--witness", kept]).exits(1);

    // What was accepted was that cut, and not the next one.
    let home = daemon.kill9();
    copy(&old, home.data());
    home.run_to_end().exits(64);
}

#[test]
fn a_log_that_is_cut_to_before_its_key_took_over_is_refused() {
    let home = Home::new();
    let daemon = home.start();
    daemon.deploy(&Bundle::echo("echo"));
    let (home, _) = daemon.stop(Signal::TERM);
    let old = home.scratch().join("old");
    copy(home.data(), &old);
    let daemon = home.start();
    let rotated = daemon.client().post("/v1/keys/node/rotate", &json!({}));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    daemon.output("echo", &json!("under the new key"));
    let (home, _) = daemon.stop(Signal::TERM);
    // The records are those of before; who signs is known as of after.
    let after = home.scratch().join("after");
    copy(home.data(), &after);
    copy(&old, home.data());
    for file in ["node.key", "journal/successions"] {
        copy_file(&after.join(file), &home.data().join(file));
    }
    let mut home = home;
    for more in [&[][..], &[ACCEPT]] {
        home = home.arguments(more);
        let ended = home.run_to_end().exits(64);
        assert!(
            ended.err.contains("before its key took over"),
            "{}",
            ended.err
        );
    }
    copy(&after, home.data());
    home.arguments(&[]).start().output("echo", &json!("whole"));
}

fn copy_file(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-p").arg(from).arg(to);
    Ended::of(command, SOON).exits(0);
}

fn home_file(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    daemon.home().scratch().join(name)
}

#[test]
fn a_node_takes_another_key_while_it_does_not_run() {
    let test = "a_node_takes_another_key_while_it_does_not_run";
    let daemon = Daemon::start();
    let keys = |daemon: &Daemon| {
        let status = daemon.client().get("/status").ok(200);
        (status["node"].clone(), status["key"].clone())
    };
    let rotate = |home: &Home, more: &[&str]| {
        let mut command = home.command();
        command.args(["key", "rotate", "--data"]).arg(home.data());
        command.args(more);
        Ended::of(command, SOON)
    };
    daemon.deploy(&Bundle::echo("echo"));
    let (name, first) = keys(&daemon);
    // It is another meshd's while one runs.
    rotate(daemon.home(), &[]).exits(5);
    assert_eq!(keys(&daemon).1, first);
    let home = daemon.kill9();
    let told = rotate(&home, &[]).exits(0);
    assert!(told.out.contains(name.as_str().unwrap()), "{}", told.out);
    let daemon = home.start();
    let (same, second) = keys(&daemon);
    assert_eq!(same, name);
    assert_ne!(second, first);
    assert_eq!(daemon.audit("kind=key.rotated").len(), 1);
    daemon.output("echo", &json!("on"));
    let (home, _) = daemon.stop(Signal::TERM);
    rotate(&home, &["--compromised"]).exits(0);
    let daemon = home.start();
    assert_eq!(daemon.audit("kind=key.rotated").len(), 2);
    if has_python(test) {
        let whole = lines_of(&daemon.client().get("/v1/audit/export").text());
        let by = (daemon.home().scratch(), name.as_str().unwrap());
        assert_eq!(judged(by, "two changes", &whole, &[]), None);
    }
    let empty = Home::new();
    let none = rotate(&empty, &[]).exits(64);
    assert!(none.err.contains("there is no log"), "{}", none.err);
}
