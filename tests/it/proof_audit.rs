//! The audit log against edits that nobody announced, judged twice: by `meshctl`, and by a verifier in Python.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_tests::{Bundle, Daemon, Ended, Home, eventually, has_python, meshctl};
use serde_json::{Value, json};
use std::time::Duration;

/// Where the second implementations are.
pub(crate) fn interop(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop")
        .join(file)
}

/// How long a run of the verifier in Python may take.
const PYTHON_MAX: Duration = Duration::from_mins(2);
/// How long a checkpoint may take to its witness.
const WITNESS_MAX: Duration = Duration::from_secs(30);

pub(crate) fn lines_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// A daemon that did something, and its two exports.
pub(crate) struct Log {
    daemon: Daemon,
    pub(crate) whole: Vec<String>,
    pub(crate) agent: Vec<String>,
    pub(crate) key: String,
}

impl Log {
    pub(crate) fn new() -> Self {
        let daemon = Daemon::start();
        daemon.deploy(&Bundle::echo("echo"));
        for n in 0..3 {
            daemon.output("echo", &json!({"n": n}));
        }
        let whole = lines_of(&daemon.client().get("/v1/audit/export").text());
        let agent = lines_of(&daemon.client().get("/v1/audit/export?agent=echo").text());
        let last: Value = serde_json::from_str(whole.last().unwrap()).unwrap();
        let key = last["key"].as_str().unwrap().to_owned();
        Self {
            daemon,
            whole,
            agent,
            key,
        }
    }

    /// What both verifiers say of these lines; asserts that they agree. `None` when it verifies.
    pub(crate) fn judged(&self, what: &str, lines: &[String], more: &[&str]) -> Option<String> {
        judged((self.daemon.home().scratch(), &self.key), what, lines, more)
    }
}

/// What both verifiers say of these lines, given this key; asserts that they agree. `None` when it verifies.
pub(crate) fn judged(
    (scratch, key): (&Path, &str),
    what: &str,
    lines: &[String],
    more: &[&str],
) -> Option<String> {
    let path = scratch.join("judged.jsonl");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let nowhere = scratch.join("nowhere");
    let file = path.to_str().unwrap();
    let arguments = [&["audit", "verify", file, "--key", key], more].concat();
    let ours = meshctl(&nowhere, &arguments);
    let mut python = Command::new("python3");
    python
        .arg(interop("verify.py"))
        .args([file, "--key", key])
        .args(more);
    let theirs = Ended::of(python, PYTHON_MAX);
    assert_eq!(
        ours.code, theirs.code,
        "{what}: {} / {}",
        ours.err, theirs.err
    );
    if ours.code == 0 {
        // `verified N records, root …`, the root in either's spelling of base64.
        assert_eq!(ours.out.trim(), theirs.out.trim(), "{what}");
        return None;
    }
    let place = |text: &str| {
        let text = text
            .trim()
            .trim_start_matches("error: ")
            .trim_start_matches("meshctl: ");
        text.split(':').next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        place(&ours.err),
        place(&theirs.err),
        "{what}: {} / {}",
        ours.err,
        theirs.err
    );
    Some(place(&ours.err))
}

fn position(line: &str) -> u64 {
    let line: Value = serde_json::from_str(line).unwrap();
    let header: Value = serde_json::from_str(line["record"].as_str().unwrap()).unwrap();
    header["position"].as_u64().unwrap()
}

/// Changes a record's header, and the leaf hash with it, as somebody would who knows the format.
fn rewritten(line: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let mut value: Value = serde_json::from_str(line).unwrap();
    let header = value["record"]
        .as_str()
        .unwrap()
        .replace("\"actor\":\"", "\"actor\":\"x");
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(&header);
    value["leaf"] = hex::encode(hash.finalize()).into();
    value["record"] = header.into();
    value.to_string()
}

/// Takes a record's payload away, as an erasure does.
pub(crate) fn emptied(line: &str) -> String {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value["salt"] = Value::Null;
    value["payload"] = Value::Null;
    value.to_string()
}

#[test]
fn two_verifiers_name_the_same_bad_record_in_whole_logs_and_in_one_agents() {
    let test = "two_verifiers_name_the_same_bad_record_in_whole_logs_and_in_one_agents";
    if !has_python(test) {
        return;
    }
    let log = Log::new();
    for (which, lines) in [("whole", &log.whole), ("agent", &log.agent)] {
        assert_eq!(log.judged(which, lines, &[]), None);
        let records = lines.len() - 1;
        for at in [0, records / 2, records - 1] {
            let named = |what: &str, change: &dyn Fn(&mut Vec<String>), expected: u64| {
                let mut changed = lines.clone();
                change(&mut changed);
                assert_ne!(&changed, lines, "{what} must bite");
                let place = log.judged(&format!("{which}: {what} at {at}"), &changed, &[]);
                assert_eq!(
                    place,
                    Some(format!("record {expected}")),
                    "{which}: {what} at {at}"
                );
            };
            let here = position(&lines[at]);
            named(
                "a changed header",
                &|l| l[at] = l[at].replace("\\\"kind\\\":\\\"", "\\\"kind\\\":\\\"x"),
                here,
            );
            named("a header made to fit", &|l| l[at] = rewritten(&l[at]), here);
            named(
                "a changed salt",
                &|l| {
                    let salt = l[at].find("\"salt\":\"").unwrap() + 8;
                    let other = if &l[at][salt..=salt] == "0" { "1" } else { "0" };
                    l[at].replace_range(salt..=salt, other);
                },
                here,
            );
            named("a deletion", &|l| drop(l.remove(at)), here);
            named("garbage", &|l| "garbage".clone_into(&mut l[at]), here);
            named("a faked erasure", &|l| l[at] = emptied(&l[at]), here);
            if at + 1 < records {
                named("a swap", &|l| l.swap(at, at + 1), here);
                named(
                    "a doubled record",
                    &|l| l.insert(at, lines[at].clone()),
                    position(&lines[at + 1]),
                );
            }
        }
    }
    let mut unlisted = log.whole.clone();
    let end = unlisted.len() - 2;
    let mut value: Value = serde_json::from_str(&unlisted[end]).unwrap();
    value.as_object_mut().unwrap().remove("block");
    unlisted[end] = value.to_string();
    assert_eq!(
        log.judged("no signed list of leaves", &unlisted, &[]),
        Some(format!("record {end}"))
    );
    let mut stranger = log.agent.clone();
    let foreign = log
        .whole
        .iter()
        .find(|line| !line.contains("\\\"agent\\\":"))
        .unwrap();
    stranger.insert(1, foreign.clone());
    assert!(
        log.judged("a record without proof", &stranger, &[])
            .is_some()
    );
    let mut stripped = log.agent.clone();
    let mut last: Value = serde_json::from_str(stripped.last().unwrap()).unwrap();
    last.as_object_mut().unwrap().remove("agent");
    *stripped.last_mut().unwrap() = last.to_string();
    assert_eq!(
        log.judged("no list", &stripped, &[]).as_deref(),
        Some("checkpoint")
    );
}

#[test]
fn checkpoints_go_to_a_file_and_to_a_witness_which_tell_a_cut_tail() {
    let test = "checkpoints_go_to_a_file_and_to_a_witness_which_tell_a_cut_tail";
    if !has_python(test) {
        return;
    }
    let witness = Daemon::start();
    let token = witness.client().send(
        "POST",
        "/v1/tokens",
        &[],
        Some(br#"{"role":"operator","subject":"log"}"#),
    );
    let token = token.ok(201)["token"].as_str().unwrap().to_owned();
    let home = Home::new();
    let (file, secret) = (
        home.scratch().join("kept"),
        home.scratch().join("witness.token"),
    );
    fs::write(&secret, token).unwrap();
    let config = format!(
        "audit:\n  witness:\n    file: {}\n    url: {}/v1/audit/witness\n    token_file: {}\n    interval: 200ms\n",
        file.display(),
        witness.url(),
        secret.display()
    );
    let daemon = home.config(&config).start();
    let status = daemon.client().get("/status").ok(200);
    let key = status["node"].as_str().unwrap().to_owned();
    // Until its key is known there, nothing is co-signed; the file has what there is.
    eventually("a checkpoint in the file", WITNESS_MAX, || {
        fs::read_to_string(&file)
            .ok()
            .filter(|t| t.contains(&key))
            .ok_or_else(|| "nothing of this log".to_owned())
    });
    witness
        .ctl(&["key", "register", &key, "--owner", "kai://node.first"])
        .exits(0);
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!("x"));
    let witness_key = witness.client().get("/status").ok(200)["node"]
        .as_str()
        .unwrap()
        .to_owned();
    eventually("a co-signature", WITNESS_MAX, || {
        daemon.output("echo", &json!("again"));
        fs::read_to_string(&file)
            .ok()
            .filter(|text| text.contains(&format!("\u{2014} {witness_key} ")))
            .ok_or_else(|| "no line of the witness".to_owned())
    });
    let seen = witness.audit("kind=checkpoint.witnessed");
    assert!(!seen.is_empty());
    assert_eq!(seen[0]["payload"]["origin"], key.as_str());

    let before = lines_of(&daemon.client().get("/v1/audit/export").text());
    daemon.output("echo", &json!("the end"));
    let (home, code) = daemon.stop(rustix::process::Signal::TERM);
    assert_eq!(code, 0);
    let log = Log {
        daemon: home.start(),
        whole: before,
        agent: Vec::new(),
        key,
    };
    let kept = file.to_str().unwrap();
    let cut = log.judged("a cut tail", &log.whole, &["--witness", kept]);
    let records = log.whole.len() - 1;
    assert_eq!(cut, Some(format!("record {records}")));
    let whole = lines_of(&log.daemon.client().get("/v1/audit/export").text());
    assert_eq!(log.judged("the whole", &whole, &["--witness", kept]), None);
    agents_part_and_its_witness(&log, &file, &whole);
}

/// One agent's export holds against what a witness saw of a smaller log; with a proof it is compared.
fn agents_part_and_its_witness(log: &Log, file: &Path, whole: &[String]) {
    let kept = file.to_str().unwrap();
    let path = log.daemon.home().scratch().join("echo.jsonl");
    let out = path.to_str().unwrap();
    let export = |more: &[&str]| {
        let arguments = ["audit", "export", "--agent", "echo", "--out", out];
        log.daemon.ctl(&[&arguments, more].concat()).exits(0);
        lines_of(&fs::read_to_string(&path).unwrap())
    };
    let witnessed = |path: &str, by: &str| {
        let arguments = ["audit", "verify", path, "--witness", by, "-o", "json"];
        let nowhere = log.daemon.home().scratch().join("nowhere");
        meshctl(&nowhere, &arguments).exits(0).json()["witnessed"].clone()
    };
    // What was kept goes on: only what is there now is looked at.
    let seen = log.daemon.home().scratch().join("seen");
    fs::copy(file, &seen).unwrap();
    let by = seen.to_str().unwrap();
    let size = whole.len() as u64 - 1;
    log.daemon.output("echo", &json!("beyond it"));
    let plain = export(&[]);
    assert_eq!(log.judged("not compared", &plain, &["--witness", by]), None);
    assert_eq!(witnessed(out, by), Value::Null);
    let proven = export(&["--witness", by]);
    assert_eq!(log.judged("compared", &proven, &["--witness", by]), None);
    assert!(witnessed(out, by).as_u64().unwrap() >= size, "{kept}");
    // A proof that leads elsewhere, and a log that the same key wrote anew.
    let mut forged = proven.clone();
    let mut last: Value = serde_json::from_str(forged.last().unwrap()).unwrap();
    let hash = last["consistency"]["path"][0].as_str().unwrap().to_owned();
    let other = if hash.starts_with('0') { "1" } else { "0" };
    last["consistency"]["path"][0] = format!("{other}{}", &hash[1..]).into();
    *forged.last_mut().unwrap() = last.to_string();
    let told = log.judged("another path", &forged, &["--witness", by]);
    assert_eq!(told, Some("witness".to_owned()));
    last["consistency"]["note"] = "".into();
    *forged.last_mut().unwrap() = last.to_string();
    let told = log.judged("another member", &forged, &[]);
    assert_eq!(told, Some("checkpoint".to_owned()));
    // Nothing is left but the last line.
    let first = position(&proven[0]);
    let empty = [proven.last().unwrap().clone()];
    let told = log.judged("without records", &empty, &[]);
    assert_eq!(told, Some(format!("record {first}")));
}

#[test]
fn a_witness_refuses_a_log_that_it_does_not_know_or_that_does_not_continue() {
    let (witness, log) = (Daemon::start(), Daemon::start());
    let note = |daemon: &Daemon| daemon.client().get("/v1/audit/checkpoint").text();
    let ask = |body: &str| {
        witness.client().send(
            "POST",
            "/v1/audit/witness/add-checkpoint",
            &[("content-type", "text/plain")],
            Some(body.as_bytes()),
        )
    };
    let elsewhere = Daemon::start();
    let first = note(&log);
    assert_eq!(ask(&format!("old 0\n\n{first}")).status, 404);
    let key = first.lines().next().unwrap().to_owned();
    witness
        .ctl(&["key", "register", &key, "--owner", "kai://node.log"])
        .exits(0);
    for (body, status) in [
        ("nonsense".to_owned(), 400),
        (
            format!("old 0\n\n{}", first.replacen("\n\n", "\nextension\n\n", 1)),
            403,
        ),
        (
            format!("old 0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n{first}"),
            422,
        ),
    ] {
        assert_eq!(ask(&body).status, status, "{body}");
    }
    let signed = ask(&format!("old 0\n\n{first}"));
    assert_eq!(signed.status, 200);
    assert!(
        signed.text().starts_with("\u{2014} did:key:"),
        "{}",
        signed.text()
    );
    let size = first.lines().nth(1).unwrap().to_owned();
    let again = ask(&format!("old 0\n\n{first}"));
    assert_eq!((again.status, again.text()), (409, format!("{size}\n")));

    log.deploy(&Bundle::echo("echo"));
    let later = note(&log);
    let proof = log
        .client()
        .get(&format!(
            "/v1/audit/proof?from={size}&to={}",
            later.lines().nth(1).unwrap()
        ))
        .ok(200);
    let hashes: Vec<&str> = proof["path"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h.as_str().unwrap())
        .collect();
    let body = |hashes: &[&str]| format!("old {size}\n{}\n\n{later}", hashes.join("\n"));
    let mut forged = hashes.clone();
    forged[0] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(ask(&body(&forged)).status, 422);
    // What goes back is refused for that before anything else, also when its beginning is not what was co-signed.
    assert_eq!(ask(&format!("old 999999\n\n{first}")).status, 400);
    assert_eq!(ask(&body(&hashes)).status, 200);
    assert_eq!(ask(&format!("old {size}\n\n{first}")).status, 409);
    // Another log that the same key signs, of the same size.
    let (home, code) = log.stop(rustix::process::Signal::TERM);
    assert_eq!(code, 0);
    let stolen = fs::read(home.data().join("node.key")).unwrap();
    let (forger, _) = elsewhere.stop(rustix::process::Signal::TERM);
    fs::remove_dir_all(forger.data()).unwrap();
    fs::create_dir_all(forger.data()).unwrap();
    fs::set_permissions(forger.data(), PermissionsExt::from_mode(0o700)).unwrap();
    let secret = forger.data().join("node.key");
    fs::write(&secret, stolen).unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let forger = forger.start();
    let last: u64 = later.lines().nth(1).unwrap().parse().unwrap();
    let same = eventually("a log of the same size", WITNESS_MAX, || {
        let note = note(&forger);
        let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        if size < last {
            forger.client().get("/v1/secrets");
        }
        (size == last)
            .then_some(note)
            .ok_or_else(|| format!("{size} of {last}"))
    });
    assert_eq!(same.lines().next(), Some(&*key));
    let told = ask(&format!("old {last}\n\n{same}"));
    told.problem(409, "forked_log");
}

#[test]
fn tiles_hold_the_hashes_and_the_headers_of_the_export() {
    let log = Log::new();
    let client = log.daemon.client();
    let header = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        (
            line["record"].as_str().unwrap().to_owned(),
            line["leaf"].as_str().unwrap().to_owned(),
        )
    };
    let records: Vec<_> = log.whole[..4].iter().map(header).collect();
    let hashes = client.get("/v1/audit/tile/0/000.p/4");
    assert_eq!(hashes.status, 200);
    assert_eq!(
        hex::encode(&hashes.body),
        records
            .iter()
            .map(|(_, leaf)| leaf.as_str())
            .collect::<String>()
    );
    let mut entries = Vec::new();
    for (record, _) in &records {
        entries.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        entries.extend(record.as_bytes());
    }
    assert_eq!(client.get("/v1/audit/tile/entries/000.p/4").body, entries);
    for path in [
        "0/x999/000",
        "0/0",
        "9/000",
        "0/000.p/256",
        "entries/x001/000",
        "../checkpoint",
    ] {
        assert_eq!(
            client.get(&format!("/v1/audit/tile/{path}")).status,
            404,
            "{path}"
        );
    }
}

#[test]
fn the_audit_is_asked_by_actor_cause_and_kind_and_reported_for_a_period() {
    let log = Log::new();
    let daemon = &log.daemon;
    let by_admin = daemon.audit("actor=user:admin");
    assert!(
        !by_admin.is_empty()
            && by_admin
                .iter()
                .all(|record| record["actor"] == "user:admin")
    );
    let of_tasks = daemon.audit("kind=task.");
    assert!(
        of_tasks.len() > 6
            && of_tasks
                .iter()
                .all(|r| r["kind"].as_str().unwrap().starts_with("task."))
    );
    daemon
        .client()
        .with_token(Some("nonsense"))
        .get("/v1/tasks");
    eventually("the refusal on record", WITNESS_MAX, || {
        daemon
            .audit("kind=access.denied")
            .first()
            .cloned()
            .ok_or_else(|| "no denial".to_owned())
    });
    let report = daemon
        .ctl(&["audit", "report", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(report["denials"]["total"], 1);
    assert_eq!(report["tasks"]["task.succeeded"], 3);
    assert!(report["actors"]["user:admin"].is_object(), "{report}");
    let text = daemon.ctl(&["audit", "report"]).exits(0).out;
    for part in [
        "# Audit report",
        "## Who did what",
        "## Denials (1)",
        "## Approvals (0)",
        "## Changes (",
        "## Incidents (",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let nothing = daemon
        .ctl(&[
            "audit",
            "report",
            "--until",
            "2001-01-01T00:00:00Z",
            "-o",
            "json",
        ])
        .exits(0)
        .json();
    assert_eq!(nothing["records"], 0);
}
