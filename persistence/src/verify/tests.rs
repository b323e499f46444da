//! Exports that were tampered with in every way we could think of.

use mesh_messages::identity::SigningKey;
use mesh_messages::{AgentId, Position};
use serde_json::Value;

use super::*;
use mesh_messages::PartitionId;

use crate::export::{ExportError, export};
use crate::journal::Journal as _;
use crate::memory::MemoryJournal;
use crate::testing::{doom, key, memory_journal, record};

const A: PartitionId = PartitionId::from_static("agents");
const B: PartitionId = PartitionId::from_static("tasks/0");

fn fill(journal: &MemoryJournal, count: u64) {
    for n in 0..count {
        let mut record = record("registered", &format!("{{\"n\":\"ä\\n{n}\"}}"));
        record.agent = (n % 3 == 0).then(|| AgentId::new("echo").unwrap());
        let partition = if n % 2 == 0 { A } else { B };
        journal
            .append(&partition, journal.next_seq(&partition), vec![record])
            .unwrap();
    }
}

fn journal(count: u64) -> MemoryJournal {
    let journal = memory_journal();
    fill(&journal, count);
    journal
}

fn exported(journal: &MemoryJournal, agent: Option<&str>) -> Vec<String> {
    let agent = agent.map(|id| AgentId::new(id).unwrap());
    let mut bytes = Vec::new();
    export(journal, agent.as_ref(), &mut bytes).unwrap();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn check(lines: &[String], witness: Option<&str>) -> Result<VerifyReport, String> {
    let text = lines.join("\n") + "\n";
    verify(text.as_bytes(), Some(&key().public()), witness).map_err(|e| e.to_string())
}

/// Asserts that a change of an export of 20 records is told, in words that begin like `expected`.
#[track_caller]
fn refused(expected: &str, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines = exported(&journal(20), None);
    change(&mut lines);
    let error = check(&lines, None).unwrap_err();
    assert!(error.starts_with(expected), "{error}");
}

/// Changes the JSON of a line; the leaf hash is dropped, as somebody who tampers would.
fn edit(line: &mut String, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut value: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
    value.remove("leaf");
    value.remove("block");
    change(&mut value);
    *line = serde_json::to_string(&value).unwrap();
}

fn replace_in_header(line: &mut String, from: &str, to: &str) {
    edit(line, |value| {
        let header = value["record"].as_str().unwrap().to_owned();
        assert!(header.contains(from));
        value["record"] = header.replace(from, to).into();
    });
}

#[test]
fn what_was_exported_verifies() {
    let journal = journal(20);
    doom(&journal, &[4]);
    journal.erase(&[Position(4)]).unwrap();
    let lines = exported(&journal, None);
    let report = check(&lines, None).unwrap();
    assert_eq!((report.records, report.erased, report.size), (21, 1, 21));
    assert_eq!(report.root, journal.root(21).unwrap());
    assert_eq!(
        (report.key, report.key_is_from_file),
        (key().public(), false)
    );
    let text = lines.join("\n");
    assert!(
        verify(text.as_bytes(), None, None)
            .unwrap()
            .key_is_from_file
    );
    let line: Value = serde_json::from_str(&lines[4]).unwrap();
    assert!(line["salt"].is_null() && line["payload"].is_null());
    let line: Value = serde_json::from_str(&lines[5]).unwrap();
    assert_eq!(line["payload"], "{\"n\":\"ä\\n5\"}");
    assert_eq!(line["salt"].as_str().unwrap().len(), 32);
}

#[test]
fn an_empty_log_verifies() {
    let report = check(&exported(&memory_journal(), None), None).unwrap();
    assert_eq!((report.records, report.size), (0, 0));
}

#[test]
fn every_changed_byte_of_a_record_is_told() {
    let lines = exported(&journal(3), None);
    for at in 0..lines[1].len() {
        let mut bytes = lines[1].clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        if changed.contains('\n') {
            continue;
        }
        let mut lines = lines.clone();
        lines[1] = changed;
        let error = check(&lines, None).unwrap_err();
        assert!(error.starts_with("record 1: "), "{error}");
    }
}

#[test]
fn changed_records_are_named() {
    refused("record 7: its salt and payload", |lines| {
        edit(&mut lines[7], |line| line["payload"] = "{}".into());
    });
    refused("record 7: of salt and payload", |lines| {
        edit(&mut lines[7], |line| line["payload"] = Value::Null);
    });
    refused("record 7: its header was changed", |lines| {
        let leaf = serde_json::from_str::<Value>(&lines[7]).unwrap()["leaf"].clone();
        replace_in_header(
            &mut lines[7],
            "\"actor\":\"meshd\"",
            "\"actor\":\"agent:x\"",
        );
        edit(&mut lines[7], |line| drop(line.insert("leaf".into(), leaf)));
    });
    // Without the leaf hash the signed list of its block says which record it was.
    refused("record 7: it was changed", |lines| {
        replace_in_header(
            &mut lines[7],
            "\"actor\":\"meshd\"",
            "\"actor\":\"agent:x\"",
        );
    });
    refused("record 7: it has format 2", |lines| {
        replace_in_header(&mut lines[7], "{\"v\":1", "{\"v\":2");
    });
    refused("record 7: it is of another log", |lines| {
        replace_in_header(&mut lines[7], "did:key:z", "did:key:y");
    });
}

#[test]
fn deleted_inserted_and_moved_records_are_told() {
    refused("record 7: it says position 8", |lines| {
        drop(lines.remove(7));
    });
    refused("record 8: it says position 7", |lines| {
        lines.insert(7, lines[7].clone());
    });
    refused("record 3: it says position 9", |lines| lines.swap(3, 9));
    refused("record 19: it is missing", |lines| drop(lines.remove(19)));
    refused("record 20: the file ends", |lines| drop(lines.remove(20)));
    assert_eq!(
        verify(&b""[..], None, None).unwrap_err().to_string(),
        "record 0: the file ends before the checkpoint"
    );
    refused(
        "record 20: the checkpoint covers 20 records only",
        |lines| {
            let longer = journal(21);
            let (mut all, note) = (exported(&longer, None), lines[20].clone());
            // The same key and another log: its records differ in their salts only.
            all[21] = note;
            *lines = all;
        },
    );
}

#[test]
fn lines_are_parsed_strictly() {
    refused("record 2: missing field `salt`", |lines| {
        edit(&mut lines[2], |line| drop(line.remove("salt")));
    });
    refused("record 2: missing field `payload`", |lines| {
        edit(&mut lines[2], |line| drop(line.remove("payload")));
    });
    refused("record 2: invalid type", |lines| {
        edit(&mut lines[2], |line| line["payload"] = 1.into());
    });
    refused("record 2: unknown field", |lines| {
        edit(&mut lines[2], |line| {
            drop(line.insert("more".into(), 1.into()));
        });
    });
    refused("record 2: trailing characters", |lines| {
        lines[2].push_str(" {}");
    });
    refused("record 2: EOF while parsing", |lines| {
        lines.insert(2, String::new());
    });
    refused("record 2: duplicate field `salt`", |lines| {
        lines[2] = lines[2].replacen("\"salt\":", "\"salt\":null,\"salt\":", 1);
    });
    refused(
        "record 2: its header does not parse: duplicate field `kind`",
        |lines| {
            replace_in_header(&mut lines[2], "\"kind\":", "\"kind\":\"x\",\"kind\":");
        },
    );
    refused(
        "record 2: its header does not parse: missing field `actor`",
        |lines| {
            replace_in_header(&mut lines[2], "\"actor\":\"meshd\",", "");
        },
    );
    refused("record 2: its header does not parse: trailing", |lines| {
        edit(&mut lines[2], |line| {
            line["record"] = format!("{} x", line["record"].as_str().unwrap()).into();
        });
    });
    refused("record 2: the line is longer", |lines| {
        lines[2] = "x".repeat(LINE_BYTES_MAX + 1);
    });
    refused("checkpoint: the last line does not parse", |lines| {
        lines[20] = "{}".into();
    });
    refused("record 20: unknown field `checkpoint`", |lines| {
        lines.push("null".into());
    });
}

#[test]
fn checkpoints_of_others_are_told() {
    let lines = exported(&journal(3), None);
    let other = SigningKey::from_secret(&[9; 32]);
    let text = lines.join("\n");
    let error = verify(text.as_bytes(), Some(&other.public()), None).unwrap_err();
    assert!(error.to_string().starts_with("record 0: it is of log"));
    let claim = CheckpointClaim {
        size: 3,
        root: Hash([1; 32]),
    };
    refused("checkpoint: it is of log", |lines| {
        let note = crate::LogSigner::new(other.clone()).sign(claim).unwrap();
        edit(&mut lines[20], |line| line["checkpoint"] = note.into());
    });
    refused("checkpoint: it does not bear a valid signature", |lines| {
        edit(&mut lines[20], |line| {
            let note = line["checkpoint"]
                .as_str()
                .unwrap()
                .replacen("\n20\n", "\n19\n", 1);
            line["checkpoint"] = note.into();
        });
    });
}

#[test]
fn a_witness_tells_a_cut_or_rewritten_log() {
    let journal = journal(10);
    let witness = journal.checkpoint().unwrap().note;
    fill(&journal, 10);
    let report = check(&exported(&journal, None), Some(&witness)).unwrap();
    assert_eq!(report.witnessed, Some(10));
    let later = journal.checkpoint().unwrap().note;

    // The owner of the key cuts the log, or writes another one.
    let cut = exported(&self::journal(8), None);
    let error = check(&cut, Some(&witness)).unwrap_err();
    assert!(
        error.starts_with(
            "record 8: it is missing: the witness saw 10 records, this log ends after 8"
        ),
        "{error}"
    );
    let other = exported(&self::journal(12), None);
    let error = check(&other, Some(&witness)).unwrap_err();
    assert!(
        error.starts_with("record 9: it or one before it is not what the witness saw"),
        "{error}"
    );
    assert!(
        check(&other, Some("nonsense"))
            .unwrap_err()
            .starts_with("witness: ")
    );
    let forged = later.replacen("\n20\n", "\n5\n", 1);
    let error = check(&exported(&journal, None), Some(&forged)).unwrap_err();
    assert!(
        error.starts_with("record 4: ") || error.starts_with("witness: "),
        "{error}"
    );
}

#[test]
fn one_agents_records_verify_by_their_proofs() {
    let journal = journal(20);
    let witness = journal.checkpoint().unwrap().note;
    let lines = exported(&journal, Some("echo"));
    assert_eq!(lines.len(), 8);
    let report = check(&lines, Some(&witness)).unwrap();
    assert_eq!(
        (report.records, report.size, report.of_one_agent),
        (7, 20, true)
    );
    let change = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        check(&lines, None).unwrap_err()
    };
    let error = change(&|lines| replace_in_header(&mut lines[2], "registered", "terminated"));
    assert!(
        error.starts_with("record 6: its proof does not lead"),
        "{error}"
    );
    let error = change(&|lines| edit(&mut lines[2], |line| line["proof"]["index"] = 7.into()));
    assert!(
        error.starts_with("record 6: its proof is for record 7"),
        "{error}"
    );
    let error = change(&|lines| lines.swap(1, 2));
    assert!(error.starts_with("record 3: it is missing"), "{error}");
    let error = change(&|lines| edit(&mut lines[2], |line| drop(line.remove("proof"))));
    assert!(
        error.starts_with("record 6: some records bear a proof"),
        "{error}"
    );
    let nobody = AgentId::new("nobody").unwrap();
    let error = export(&journal, Some(&nobody), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ExportError::NoRecords(_)));
}
