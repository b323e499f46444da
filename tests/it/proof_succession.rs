//! Another key for the node: everything that rests on the old one goes on or ends as it was said, and every verifier follows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Random, eventually, has_python, meshctl, shim};
use serde_json::{Value, json};

use crate::proof_audit::{judged, lines_of};
use crate::proof_identity::bundle;

/// How long a checkpoint may take to its witness.
const WITNESS_MAX: Duration = Duration::from_secs(30);
/// How many kills in the midst of a change, at whatever moment.
const KILLS: usize = 4;
/// Most lives until a change comes to its end, each with its kill one sync later.
const LIVES_MAX: usize = 150;
/// A change makes so many syncs at least.
const KILLED_MIN: usize = 6;

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn export(daemon: &Daemon, query: &str) -> Vec<String> {
    lines_of(
        &daemon
            .client()
            .get(&format!("/v1/audit/export{query}"))
            .text(),
    )
}

/// The node's name and the key in force.
fn keys(daemon: &Daemon) -> (String, String) {
    let status = daemon.client().get("/status").ok(200);
    (text(&status["node"]), text(&status["key"]))
}

fn rotate(daemon: &Daemon, more: &[&str]) -> Value {
    let arguments = [&["-o", "json", "key", "rotate", "--node"], more].concat();
    daemon.ctl(&arguments).exits(0).json()
}

/// The public half of what is in the data directory.
fn secret_there(data: &Path) -> String {
    let file = data.join("node.key");
    let shown = meshctl(
        data,
        &[
            "-o",
            "json",
            "key",
            "show",
            "--file",
            file.to_str().unwrap(),
        ],
    );
    text(&shown.exits(0).json()["key"])
}

fn token(daemon: &Daemon, body: &Value) -> String {
    text(&daemon.client().post("/v1/tokens", body).ok(201)["token"])
}

fn opens(daemon: &Daemon, token: &str) -> bool {
    let status = daemon
        .client()
        .with_token(Some(token))
        .get("/v1/tasks")
        .status;
    assert!(status == 200 || status == 401, "{status}");
    status == 200
}

#[test]
fn a_node_takes_another_key_and_its_log_verifies_from_the_first_record_to_the_last() {
    let test = "a_node_takes_another_key_and_its_log_verifies_from_the_first_record_to_the_last";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let scratch = daemon.home().scratch().to_owned();
    let (name, first) = keys(&daemon);
    assert_eq!(name, first);
    assert_eq!(daemon.client().get("/v1/audit/successions").text(), "");
    let old_secret = scratch.join("old.key");
    fs::copy(daemon.home().data().join("node.key"), &old_secret).unwrap();
    let before = export(&daemon, "");
    let seen_before = daemon.client().get("/v1/audit/checkpoint").text();
    let narrowable = token(&daemon, &json!({"role": "viewer", "attenuable": true}));

    let second = rotate(&daemon, &["--reason", "once a year"]);
    assert_eq!(text(&second["node"]), name);
    assert_eq!(text(&second["replaces"]), first);
    assert_eq!(second["endedTokens"], 0);
    let second = text(&second["key"]);
    assert_eq!(keys(&daemon), (name.clone(), second.clone()));
    assert_eq!(secret_there(daemon.home().data()), second);
    assert!(!daemon.home().data().join("node.key.next").exists());
    let records = daemon.audit("kind=key.rotated");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["payload"]["new"], second.as_str());
    assert_eq!(records[0]["payload"]["reason"], "once a year");
    assert_eq!(records[0]["actor"], "user:admin");
    assert!(records[0]["cause"].is_u64(), "{records:?}");
    assert!(opens(&daemon, &narrowable), "issued under the first key");
    let newer = token(&daemon, &json!({"role": "viewer", "attenuable": true}));
    assert!(opens(&daemon, &newer));
    daemon.output("echo", &json!(2));
    let third = text(&rotate(&daemon, &[])["key"]);
    daemon.output("echo", &json!(3));

    let daemon = daemon.kill9().start();
    assert_eq!(keys(&daemon), (name.clone(), third.clone()));
    assert!(opens(&daemon, &narrowable) && opens(&daemon, &newer));
    daemon.output("echo", &json!(4));
    let (whole, agent) = (export(&daemon, ""), export(&daemon, "?agent=echo"));
    let witness = scratch.join("seen");
    let notes = daemon.ctl(&["audit", "successions"]).exits(0).out;
    fs::write(&witness, format!("{seen_before}\n{notes}")).unwrap();
    let seen = ["--witness", witness.to_str().unwrap()];
    for key in [&name, &third] {
        let trusted = (scratch.as_path(), key.as_str());
        assert_eq!(judged(trusted, "whole", &whole, &[]), None);
        assert_eq!(judged(trusted, "agent", &agent, &[]), None);
        assert_eq!(judged(trusted, "witnessed", &whole, &seen), None);
    }
    let trusted = (scratch.as_path(), name.as_str());
    assert_eq!(judged(trusted, "an older export", &before, &seen), None);
    let between = (scratch.as_path(), second.as_str());
    assert_eq!(
        judged(between, "a key in between", &whole, &[]),
        Some("succession 2".to_owned())
    );

    forgeries(trusted, &whole, &agent);
    backup(&daemon, &old_secret, &third);
}

/// What somebody may do to the notes of an export without any key.
fn forgeries(trusted: (&Path, &str), whole: &[String], agent: &[String]) {
    for good in [whole, agent] {
        let edited = |what: &str, change: &dyn Fn(&mut Vec<String>)| {
            let mut lines = good.to_vec();
            change(&mut lines);
            judged(trusted, what, &lines, &[]).unwrap_or_else(|| panic!("{what} is taken"))
        };
        let first = edited("the first gone", &|lines| drop(lines.remove(0)));
        assert_eq!(first, "succession 1");
        let swapped = edited("swapped", &|lines| lines.swap(0, 1));
        assert_eq!(swapped, "succession 1");
        let doubled = edited("doubled", &|lines| lines.insert(0, lines[0].clone()));
        assert_eq!(doubled, "succession 2");
        edited("the last gone", &|lines| drop(lines.remove(1)));
        edited("both gone", &|lines| drop(lines.drain(..2)));
        let worse = edited("said to be stolen", &|lines| {
            lines[0] = lines[0].replace("rotated", "compromised");
        });
        assert_eq!(worse, "succession 1");
        let one = edited("by one key", &|lines| {
            let mut line: Value = serde_json::from_str(&lines[1]).unwrap();
            let note = text(&line["succession"]);
            let short = note.trim_end().rsplit_once('\n').unwrap().0.to_owned();
            line["succession"] = json!(short + "\n");
            lines[1] = line.to_string();
        });
        assert_eq!(one, "succession 2");
    }
}

/// A backup goes on under the key in force, and under no other.
fn backup(daemon: &Daemon, old_secret: &Path, current: &str) {
    let scratch = daemon.home().scratch();
    let place = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let (with, without) = (place("with.tar"), place("without.tar"));
    daemon
        .ctl(&["backup", "--out", &with, "--include-key"])
        .exits(0);
    daemon.ctl(&["backup", "--out", &without]).exits(0);
    let old = old_secret.to_str().unwrap();
    let refused = meshctl(
        &scratch.join("refused"),
        &["restore", &without, "--node-key", old],
    );
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(!scratch.join("refused").exists());
    let data = scratch.join("restored");
    let restored = meshctl(&data, &["-o", "json", "restore", &with]);
    assert_eq!(text(&restored.exits(0).json()["key"]), current);
    let again = Home::new().data_at(&data).start();
    assert_eq!(keys(&again).1, current);
    again.output("echo", &json!("restored"));
    assert_eq!(again.audit("kind=key.rotated").len(), 2);
}

#[test]
fn a_stolen_key_ends_what_rests_on_it_and_nothing_else() {
    let daemon = Daemon::start();
    let (name, _) = keys(&daemon);
    let narrowable = token(&daemon, &json!({"role": "viewer", "attenuable": true}));
    let plain = token(&daemon, &json!({"role": "viewer"}));
    let scratch = daemon.home().scratch().to_owned();
    let before = export(&daemon, "");
    let refused = daemon.ctl(&["key", "rotate", "--node", "--reason", &"x".repeat(300)]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert_eq!(keys(&daemon), (name.clone(), name.clone()));
    let answer = rotate(&daemon, &["--compromised", "--reason", "copied"]);
    assert_eq!(answer["endedTokens"], 1);
    assert!(!opens(&daemon, &narrowable) && opens(&daemon, &plain));
    let newer = token(&daemon, &json!({"role": "viewer", "attenuable": true}));
    assert!(opens(&daemon, &newer));
    let daemon = daemon.kill9().start();
    assert!(!opens(&daemon, &narrowable) && opens(&daemon, &plain) && opens(&daemon, &newer));
    if !has_python("a_stolen_key_ends_what_rests_on_it_and_nothing_else") {
        return;
    }
    let witness = scratch.join("seen");
    fs::write(&witness, daemon.ctl(&["audit", "successions"]).exits(0).out).unwrap();
    let seen = ["--witness", witness.to_str().unwrap()];
    let trusted = (scratch.as_path(), name.as_str());
    assert_eq!(
        judged(trusted, "the whole", &export(&daemon, ""), &seen),
        None
    );
    // What the stolen key alone has signed is nobody's word any more: it could have been signed today.
    assert_eq!(judged(trusted, "an older export", &before, &[]), None);
    let told = judged(trusted, "an older export", &before, &seen);
    assert_eq!(told, Some("witness".to_owned()));
}

#[test]
fn agents_that_run_are_told_of_the_new_key() {
    if !has_python("agents_that_run_are_told_of_the_new_key") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&bundle("interop", None, false));
    daemon.deploy(&Bundle::echo("echo"));
    let asked = json!("node key");
    assert_eq!(daemon.output("interop", &asked), keys(&daemon).0);
    let new = rotate(&daemon, &[])["key"].clone();
    eventually("it knows", WITNESS_MAX, || {
        let known = daemon.output("interop", &asked);
        (known == new).then_some(()).ok_or(known.to_string())
    });
    assert_eq!(keys(&daemon).1, new);
    // Who did not ask is left alone.
    assert_eq!(daemon.output("echo", &json!(1)), json!(1));
    assert_eq!(daemon.audit("agent=echo&kind=error"), Vec::<Value>::new());
}

#[test]
fn a_witness_follows_to_the_new_key_and_refuses_the_old_one() {
    let witness = Daemon::start();
    let pass = token(&witness, &json!({"role": "operator", "subject": "log"}));
    let home = Home::new();
    let (file, secret) = (
        home.scratch().join("kept"),
        home.scratch().join("witness.token"),
    );
    fs::write(&secret, pass).unwrap();
    let config = format!(
        "audit:\n  witness:\n    file: {}\n    url: {}/v1/audit/witness\n    token_file: {}\n    interval: 200ms\n",
        file.display(),
        witness.url(),
        secret.display()
    );
    let daemon = home.config(&config).start();
    let (name, first) = keys(&daemon);
    witness
        .ctl(&["key", "register", &name, "--owner", "kai://node.first"])
        .exits(0);
    daemon.deploy(&Bundle::echo("echo"));
    let witnessed = |daemon: &Daemon, beyond: u64| {
        eventually("a co-signature", WITNESS_MAX, || {
            daemon.output("echo", &json!("more"));
            let seen = witness.audit("kind=checkpoint.witnessed");
            let last = seen
                .last()
                .and_then(|seen| seen["payload"]["size"].as_u64());
            last.filter(|last| *last > beyond)
                .ok_or_else(|| format!("{last:?}"))
        })
    };
    witnessed(&daemon, 0);
    let rotated = rotate(&daemon, &[]);
    let second = text(&rotated["key"]);
    witnessed(&daemon, rotated["size"].as_u64().unwrap());
    let seen = witness.audit("kind=succession.witnessed");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["payload"]["new"], second.as_str());
    // The node's owner has the new key there now, and the old one never holds again.
    let registered = witness.client().get("/v1/keys").ok(200);
    let of = |key: &str| {
        let all = registered["items"].as_array().unwrap();
        all.iter().find(|info| info["key"] == key).cloned().unwrap()
    };
    assert_eq!(of(&second)["owner"], "kai://node.first");
    assert_eq!(of(&first)["reason"], "succeeded");
    let kept = fs::read_to_string(&file).unwrap();
    assert_eq!(kept.matches("/key-succession\n").count(), 1, "{kept}");

    let note = text(&rotated["succession"]);
    let post = |verb: &str, body: &str| {
        let path = format!("/v1/audit/witness/{verb}");
        witness
            .client()
            .send("POST", &path, &[], Some(body.as_bytes()))
    };
    // Once more is no harm; changed, it is refused.
    assert_eq!(
        post("add-succession", &format!("old 0\n\n{note}")).status,
        200
    );
    let changed = note.replacen("rotated", "compromised", 1);
    let told = post("add-succession", &format!("old 0\n\n{changed}"));
    told.problem(403, "bad_succession");
    let later = note.replacen("succession\n1\n", "succession\n2\n", 1);
    let told = post("add-succession", &format!("old 0\n\n{later}"));
    told.problem(403, "bad_succession");
    post("add-succession", "old 0\n\nnothing").problem(404, "log_not_found");
}

/// Exactly one key is in force, its secret is in its place and nothing else, what is on record agrees, and the log verifies.
#[track_caller]
fn one_key_is_in_force(daemon: &Daemon, name: &str, what: &str) -> usize {
    let (node, current) = keys(daemon);
    assert_eq!(node, name, "{what}");
    let data = daemon.home().data();
    assert_eq!(secret_there(data), current, "{what}");
    assert!(!data.join("node.key.next").exists(), "{what}");
    let notes = daemon.client().get("/v1/audit/successions").text();
    let takeovers = notes.matches("/key-succession\n").count();
    let records = daemon.audit("kind=key.rotated");
    assert_eq!(records.len(), takeovers, "{what}");
    let last = records.last().map(|last| text(&last["payload"]["new"]));
    assert_eq!(last.unwrap_or(node), current, "{what}");
    let file: PathBuf = daemon.home().scratch().join("log");
    fs::write(&file, daemon.client().get("/v1/audit/export").text()).unwrap();
    let verified = meshctl(
        &daemon.home().scratch().join("nowhere"),
        &["audit", "verify", file.to_str().unwrap(), "--key", name],
    );
    assert_eq!(verified.code, 0, "{what}: {}", verified.err);
    takeovers
}

#[test]
fn killed_in_the_midst_of_it_exactly_one_key_is_in_force() {
    let mut random = Random::new(7);
    let mut daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let (name, _) = keys(&daemon);
    for round in 0..KILLS {
        let url = daemon.url().to_owned();
        let data = daemon.home().data().to_owned();
        let wait = Duration::from_millis(random.between(10, 60));
        let home = std::thread::scope(|scope| {
            scope.spawn(|| meshctl(&data, &["--url", &url, "key", "rotate", "--node"]));
            // From when it is asked for, or about that.
            std::thread::sleep(wait);
            daemon.kill9()
        });
        daemon = home.start();
        one_key_is_in_force(&daemon, &name, &format!("round {round}"));
    }
    // What a kill between two steps leaves, in each order; the secrets are real.
    let current = keys(&daemon).1;
    let stray = daemon.home().scratch().join("stray.key");
    daemon
        .ctl(&["key", "new", "--out", stray.to_str().unwrap()])
        .exits(0);
    let home = daemon.kill9();
    let (key, next) = (
        home.data().join("node.key"),
        home.data().join("node.key.next"),
    );
    fs::copy(&stray, &next).unwrap();
    let daemon = home.start();
    one_key_is_in_force(&daemon, &name, "one that never came into force");
    let home = daemon.kill9();
    fs::rename(&key, &next).unwrap();
    fs::copy(&stray, &key).unwrap();
    let daemon = home.start();
    one_key_is_in_force(&daemon, &name, "one whose secret is not in its place");
    assert_eq!(keys(&daemon).1, current);
}

#[test]
fn killed_at_any_sync_of_it_exactly_one_key_is_in_force() {
    let test = "killed_at_any_sync_of_it_exactly_one_key_is_in_force";
    let Some(library) = shim(test).and_then(Path::to_str) else {
        return;
    };
    let mut home = Home::new();
    let log = home.scratch().join("disk.log");
    let daemon = home.start();
    let (name, _) = keys(&daemon);
    home = daemon.kill9();
    let (mut nth, mut lives, mut killed, mut takeovers) = (1, 0, 0, Vec::new());
    loop {
        lives += 1;
        assert!(
            lives < LIVES_MAX,
            "it never comes to its end; {killed} kills"
        );
        drop(fs::remove_file(&log));
        let (data, fault) = (home.data().to_owned(), format!("sync:die:{nth}"));
        let env = [
            ("LD_PRELOAD", library),
            ("DISK_DIR", data.to_str().unwrap()),
            ("DISK_FAULT", &fault),
            ("DISK_LOG", log.to_str().unwrap()),
        ];
        let started = home.only_env(&env).try_start();
        let (mut order, mut start) = (None, true);
        home = match started {
            Ok(daemon) => {
                order = Some(daemon.ctl(&["key", "rotate", "--node"]).code);
                daemon.kill9()
            }
            Err((home, _)) => {
                start = false;
                home
            }
        };
        let fired = fs::read_to_string(&log).is_ok_and(|log| log.contains("fired "));
        let daemon = home.only_env(&[]).start();
        takeovers.push(one_key_is_in_force(&daemon, &name, &fault));
        home = daemon.kill9();
        killed += usize::from(fired && start);
        if order == Some(0) && !fired {
            break;
        }
        // The syncs of a start are passed over quickly; those of the change are not.
        nth += if start || nth == 1 { 1 } else { 2 };
    }
    assert!(killed >= KILLED_MIN, "{killed} kills in {lives} lives");
    // Some kills came before it was in force, and some after.
    let stays = takeovers
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .count();
    assert!(stays > 0 && *takeovers.last().unwrap() > 1, "{takeovers:?}");
}
