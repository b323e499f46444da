//! The audit log: exported, it proves itself to anybody who has the key, and shows every kind of tampering.

use std::fs;
use std::path::PathBuf;

use mesh_tests::{Bundle, Daemon, Ran, meshctl};
use serde_json::{Value, json};

/// What somebody does to the lines of an export.
type Tampering<'a> = &'a dyn Fn(&mut Vec<String>);

/// A daemon that has done something, and its exported log.
struct Exported {
    daemon: Daemon,
    lines: Vec<String>,
    key: String,
}

impl Exported {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.deploy(&Bundle::echo("echo"));
        for n in 0..5 {
            daemon.output("echo", &json!({"n": n}));
        }
        let file = daemon.home().scratch().join("audit.jsonl");
        daemon
            .ctl(&["audit", "export", "--out", file.to_str().unwrap()])
            .exits(0);
        let lines: Vec<String> = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert!(last["checkpoint"].is_string(), "{last}");
        let key = last["key"].as_str().unwrap().to_owned();
        Self { daemon, lines, key }
    }

    fn write(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.daemon.home().scratch().join(name);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }

    /// Verifies lines as a file, with the node's key known from elsewhere.
    fn verify(&self, lines: &[String], more: &[&str]) -> Ran {
        let path = self.write("verified.jsonl", lines);
        // No daemon is asked: the data directory named here does not exist.
        let nowhere = self.daemon.home().scratch().join("nowhere");
        let arguments = [&["audit", "verify", path.to_str().unwrap()], more].concat();
        meshctl(&nowhere, &arguments)
    }
}

#[test]
fn an_export_verifies_offline_and_names_what_happened() {
    let exported = Exported::new();
    let records = exported.lines.len() - 1;
    let verified = exported
        .verify(&exported.lines, &["--key", &exported.key])
        .exits(0);
    assert!(
        verified
            .out
            .starts_with(&format!("verified {records} records, root ")),
        "{}",
        verified.out
    );
    let unsure = exported.verify(&exported.lines, &[]).exits(0);
    assert!(
        unsure.err.contains("key"),
        "without --key it warns that the key is the file's own: {}",
        unsure.err
    );

    let mut kinds = Vec::new();
    for line in &exported.lines[..records] {
        let record: Value = serde_json::from_str(line).unwrap();
        let header: Value = serde_json::from_str(record["record"].as_str().unwrap()).unwrap();
        for member in ["position", "time", "kind", "actor", "cause", "payload"] {
            assert!(header.get(member).is_some(), "{member}: {header}");
        }
        assert!(
            record["salt"].is_string() && record["payload"].is_string(),
            "{record}"
        );
        kinds.push(header["kind"].as_str().unwrap().to_owned());
    }
    for kind in [
        "node.started",
        "created",
        "registered",
        "activated",
        "handshaken",
        "started",
        "task.submitted",
        "task.succeeded",
    ] {
        assert!(
            kinds.iter().any(|known| known == kind),
            "{kind} in {kinds:?}"
        );
    }
}

#[test]
fn change_deletion_reordering_and_insertion_are_detected() {
    let exported = Exported::new();
    let key = ["--key", exported.key.as_str()];
    let at = exported
        .lines
        .iter()
        .position(|line| line.contains("task.submitted"))
        .unwrap();
    let tampered = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = exported.lines.clone();
        change(&mut lines);
        assert_ne!(lines, exported.lines, "the tampering must bite");
        exported.verify(&lines, &key)
    };
    let cases: [(&str, Tampering<'_>); 8] = [
        ("a changed payload", &|lines| {
            lines[at] = lines[at].replace(r#"\"n\":"#, r#"\"m\":"#);
        }),
        ("a changed header", &|lines| {
            lines[at] = lines[at].replace("task.submitted", "task.submutted");
        }),
        ("a deleted record", &|lines| drop(lines.remove(at))),
        ("swapped records", &|lines| lines.swap(at, at + 1)),
        ("a doubled record", &|lines| {
            lines.insert(at, lines[at].clone());
        }),
        ("a missing end", &|lines| {
            drop(lines.remove(lines.len() - 2));
        }),
        ("a missing checkpoint", &|lines| drop(lines.pop())),
        ("garbage", &|lines| lines[at] = "garbage".to_owned()),
    ];
    for (what, change) in cases {
        let told = tampered(change);
        assert_eq!(told.code, 1, "{what}: {} {}", told.out, told.err);
        assert!(!told.err.is_empty(), "{what} is explained");
    }
    let changed =
        tampered(&|lines| lines[at] = lines[at].replace("task.submitted", "task.submutted"));
    assert!(
        (changed.out + &changed.err).contains("record"),
        "it says where"
    );
}

#[test]
fn another_key_and_a_cut_tail_are_detected() {
    let exported = Exported::new();
    let node = exported.daemon.client().get("/v1/nodes").ok(200);
    assert_eq!(
        node["items"][0]["id"],
        exported.key.as_str(),
        "the key is the node's"
    );
    let other = "did:key:z6MkehRgf7yJbgaGfYsdoAsKdBPE3dj2CYhowQdcjqSJgvVd";
    exported.verify(&exported.lines, &["--key", other]).exits(1);

    // A witness keeps a checkpoint. Later the log is shown without what came before it.
    exported.daemon.output("echo", &json!("later"));
    let witness = exported.daemon.home().scratch().join("witness");
    let checkpoint = exported.daemon.client().get("/v1/audit/checkpoint");
    assert_eq!(checkpoint.status, 200);
    fs::write(&witness, &checkpoint.body).unwrap();
    let witness = [
        "--key",
        exported.key.as_str(),
        "--witness",
        witness.to_str().unwrap(),
    ];
    let cut = exported.verify(&exported.lines, &witness).exits(1);
    assert!(!cut.err.is_empty());
    let whole = exported.daemon.client().get("/v1/audit/export").text();
    let whole: Vec<String> = whole.lines().map(str::to_owned).collect();
    exported.verify(&whole, &witness).exits(0);
}

#[test]
fn the_records_of_one_agent_verify_by_their_proofs() {
    let exported = Exported::new();
    let daemon = &exported.daemon;
    let all = daemon.client().get("/v1/audit/export?agent=echo").text();
    let lines: Vec<String> = all.lines().map(str::to_owned).collect();
    let records = lines.len() - 1;
    assert!(
        records > 3 && records < exported.lines.len() - 1,
        "{records}"
    );
    for line in &lines[..records] {
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(
            record["proof"]["index"].is_u64() && record["proof"]["path"].is_array(),
            "{line}"
        );
        let header: Value = serde_json::from_str(record["record"].as_str().unwrap()).unwrap();
        assert_eq!(header["agent"], "echo");
    }
    exported.verify(&lines, &["--key", &exported.key]).exits(0);
    let mut forged = lines.clone();
    forged[1] = forged[1].replace("echo", "ecno");
    exported.verify(&forged, &["--key", &exported.key]).exits(1);
}

#[test]
fn the_log_goes_on_over_an_end_of_any_kind() {
    let exported = Exported::new();
    let key = exported.key.clone();
    let before = exported.lines.len() - 1;
    let daemon = exported.daemon.kill9().start();
    daemon.output("echo", &json!("again"));
    let file = daemon.home().scratch().join("later.jsonl");
    daemon
        .ctl(&["audit", "export", "--out", file.to_str().unwrap()])
        .exits(0);
    daemon
        .ctl(&["audit", "verify", file.to_str().unwrap(), "--key", &key])
        .exits(0);
    let text = fs::read_to_string(&file).unwrap();
    // But for the signed list of a block's leaves, which the last record of an export bears, too.
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("block");
        record
    };
    assert_eq!(
        text.lines().take(before).map(record).collect::<Vec<_>>(),
        exported.lines[..before]
            .iter()
            .map(|line| record(line))
            .collect::<Vec<_>>()
    );
    let starts = daemon.audit("kind=node.started");
    assert_eq!(starts.len(), 2);
    assert_eq!(starts[1]["payload"]["clean"], false, "{}", starts[1]);
}

#[test]
fn proofs_are_served_for_records_and_for_growth() {
    let exported = Exported::new();
    let client = exported.daemon.client();
    let proof = client.get("/v1/audit/proof?index=2").ok(200);
    assert_eq!(proof["index"], 2);
    assert!(
        proof["path"].is_array() && proof["root"].is_string() && proof["size"].is_u64(),
        "{proof}"
    );
    let growth = client.get("/v1/audit/proof?from=3").ok(200);
    assert_eq!(growth["from"], 3);
    let beyond = client.get("/v1/audit/proof?index=999999999");
    assert!([404, 422].contains(&beyond.status), "{}", beyond.text());
}
