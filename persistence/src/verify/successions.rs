//! Exports of logs whose key was changed, and every forgery of that which we could think of.

use mesh_messages::events::KEY_ROTATED;
use mesh_messages::identity::SigningKey;
use mesh_messages::{AgentId, PartitionId};
use serde_json::{Value, json};

use super::{VerifyError, VerifyReport, verify};
use crate::checkpoint::{CheckpointClaim, line_of};
use crate::export::{block, export};
use crate::journal::{Journal as _, SucceedError};
use crate::memory::MemoryJournal;
use crate::succession::{LogKeys, LogSigner, SuccessionInvalid};
use crate::testing::{key, memory_journal, record};

fn secret(n: u8) -> SigningKey {
    SigningKey::from_secret(&[n; 32])
}

fn grow(journal: &MemoryJournal, count: u64) {
    for n in 0..count {
        let mut record = record("registered", &format!("{{\"n\":{n}}}"));
        record.agent = (n % 3 != 1).then(|| AgentId::new("echo").unwrap());
        let partition = PartitionId::from_static(if n % 2 == 0 { "agents" } else { "tasks/0" });
        let seq = journal.next_seq(&partition);
        journal.append(&partition, seq, vec![record]).unwrap();
    }
}

fn rotate(journal: &MemoryJournal, to: u8, compromised: bool) -> String {
    let signer = journal.succeed(secret(to), compromised).unwrap();
    let partition = PartitionId::from_static("sentinel");
    let seq = journal.next_seq(&partition);
    let rotated = record(KEY_ROTATED, "{}");
    journal.append(&partition, seq, vec![rotated]).unwrap();
    signer.keys().successions().last().unwrap().note.clone()
}

/// Three keys, and enough records for blocks under each.
fn journal() -> MemoryJournal {
    let journal = memory_journal();
    grow(&journal, 300);
    rotate(&journal, 8, false);
    grow(&journal, 10);
    rotate(&journal, 9, true);
    grow(&journal, 300);
    journal
}

fn lines(journal: &MemoryJournal, agent: bool) -> Vec<String> {
    let agent = agent.then(|| AgentId::new("echo").unwrap());
    let mut bytes = Vec::new();
    export(journal, agent.as_ref(), &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn check(lines: &[String], witness: Option<&str>) -> Result<VerifyReport, VerifyError> {
    verify(lines.join("\n").as_bytes(), Some(&key().public()), witness)
}

#[track_caller]
fn refused(lines: &[String], witness: Option<&str>, begin: &str) {
    let error = check(lines, witness).unwrap_err().to_string();
    assert!(error.starts_with(begin), "{error}");
}

fn succession(note: &str) -> String {
    json!({ "succession": note }).to_string()
}

fn note(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["succession"].as_str().unwrap().to_owned()
}

/// Six lines, signed by whoever.
fn forged(text: &[String], by: &[&SigningKey]) -> String {
    let text = format!("{}\n", text.join("\n"));
    let lines: String = by
        .iter()
        .map(|by| line_of(&key().public(), by, text.as_bytes()))
        .collect();
    format!("{text}\n{lines}")
}

fn text_of(note: &str) -> Vec<String> {
    note.lines().take(6).map(str::to_owned).collect()
}

#[test]
fn a_log_with_three_keys_verifies_whole_and_for_one_agent() {
    let journal = journal();
    for agent in [false, true] {
        let lines = lines(&journal, agent);
        let report = check(&lines, None).unwrap();
        assert_eq!(
            (report.key, report.signer),
            (key().public(), secret(9).public())
        );
        // Its last key has signed all of it, so it may be what is trusted. One in between may not.
        let text = lines.join("\n");
        verify(text.as_bytes(), Some(&secret(9).public()), None).unwrap();
        verify(text.as_bytes(), None, None).unwrap();
        for other in [8, 10] {
            let error = verify(text.as_bytes(), Some(&secret(other).public()), None);
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with("succession 2: "), "{error}");
        }
    }
}

#[test]
fn a_key_takes_over_once_and_only_after_a_record() {
    let journal = memory_journal();
    let refusal = |to: u8| match journal.succeed(secret(to), false) {
        Err(SucceedError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal(8), SuccessionInvalid::Size { .. }));
    grow(&journal, 1);
    assert!(matches!(refusal(7), SuccessionInvalid::Used(_)));
    rotate(&journal, 8, false);
    assert!(matches!(refusal(7), SuccessionInvalid::Used(_)));
    journal.succeed(secret(9), false).unwrap();
    assert!(matches!(refusal(10), SuccessionInvalid::Size { .. }));
    let keys = journal.signer().keys().clone();
    assert_eq!(
        LogKeys::read(key().public(), &keys.to_text()).unwrap(),
        keys
    );
    // At its last size the old key still stands; whoever reopens the log there gives out the same.
    let checkpoint = journal.checkpoint().unwrap();
    keys.verify_checkpoint(&checkpoint.note).unwrap();
    assert_eq!(*keys.at(checkpoint.size), secret(8).public());
}

#[test]
fn successions_that_are_missing_moved_or_changed_are_refused() {
    let whole = lines(&journal(), false);
    for agent in [false, true] {
        let good = lines(&journal(), agent);
        let mut cut = good.clone();
        cut.remove(1);
        assert!(check(&cut, None).is_err());
        let mut without_any = good.clone();
        without_any.drain(..2);
        assert!(check(&without_any, None).is_err());
        let mut first_gone = good.clone();
        first_gone.remove(0);
        refused(&first_gone, None, "succession 1: it is number 2");
        let mut swapped = good.clone();
        swapped.swap(0, 1);
        refused(&swapped, None, "succession 1: it is number 2");
        let mut doubled = good.clone();
        doubled.insert(0, good[0].clone());
        refused(&doubled, None, "succession 2: it is number 1");
        let mut late = good.clone();
        let moved = late.remove(1);
        late.insert(5, moved);
        assert!(check(&late, None).is_err());
        for at in 0..note(&good[0]).len() {
            let mut bytes = note(&good[0]).into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            let mut lines = good.clone();
            lines[0] = succession(&changed);
            assert!(check(&lines, None).is_err(), "byte {at}");
        }
        let mut member = good.clone();
        member[0] = format!("{},\"x\":1}}", member[0].trim_end_matches('}'));
        refused(&member, None, "succession 1: its line does not parse");
    }
    check(&whole, None).unwrap();
}

#[test]
fn forged_successions_are_refused() {
    let journal = journal();
    let good = lines(&journal, false);
    let (first, second) = (note(&good[0]), note(&good[1]));
    let with = |number: usize, note: &str| {
        let mut lines = good.clone();
        lines[number - 1] = succession(note);
        lines
    };
    let (a, b, c, thief) = (key(), secret(8), secret(9), secret(66));
    // One signature is not enough, nor one of somebody else, nor the same twice, nor a third.
    for by in [
        vec![&a],
        vec![&b],
        vec![&a, &a],
        vec![&b, &b],
        vec![&b, &a],
        vec![&a, &thief],
        vec![&thief, &b],
        vec![&a, &b, &thief],
    ] {
        let note = forged(&text_of(&first), &by);
        refused(&with(1, &note), None, "succession 1: ");
    }
    // The thief of the second key, which is said to be in wrong hands, hands over to a key of their own: beside, and after.
    let mut text = text_of(&second);
    text[4] = thief.public().to_string();
    let beside = forged(&text, &[&b, &thief]);
    assert!(check(&with(2, &beside), None).is_err());
    let mut text = text_of(&second);
    text[1] = "3".to_owned();
    text[2] = text[2].replacen("311", "400", 1);
    text[4] = thief.public().to_string();
    let mut after = good.clone();
    after.insert(2, succession(&forged(&text, &[&b, &thief])));
    refused(&after, None, "succession 3: ");
    // A tree that another key has signed already, and one that the log never was.
    let mut text = text_of(&second);
    text[2] = text_of(&first)[2].clone();
    refused(
        &with(2, &forged(&text, &[&b, &c])),
        None,
        "succession 2: it is from 300",
    );
    let mut text = text_of(&second);
    text[2] = text[2].replacen("311 ", "312 ", 1);
    refused(
        &with(2, &forged(&text, &[&b, &c])),
        None,
        "record 311: it or one before it",
    );
    // A key that was the log's before.
    let mut text = text_of(&second);
    text[4] = a.public().to_string();
    refused(&with(2, &forged(&text, &[&b, &a])), None, "succession 2: ");
    // Another log's, signed by the same keys.
    let mut text = text_of(&first);
    text[0] = format!("{}/key-succession", thief.public());
    refused(&with(1, &forged(&text, &[&a, &b])), None, "succession 1: ");
    // What the keys signed of something else.
    let mut text = text_of(&first);
    text[0] = format!("{}/export-block", a.public());
    refused(&with(1, &forged(&text, &[&a, &b])), None, "succession 1: ");
    for (line, value) in [(1, "01"), (1, "+1"), (5, "Rotated"), (5, "")] {
        let mut text = text_of(&first);
        text[line] = value.to_owned();
        refused(&with(1, &forged(&text, &[&a, &b])), None, "succession 1: ");
    }
}

#[test]
fn what_the_old_key_signs_later_is_refused() {
    let journal = journal();
    let good = lines(&journal, false);
    let size = journal.checkpoint().unwrap().size;
    let root = journal.root(size).unwrap();
    let last = good.len() - 1;
    let signed_by = |signer: &LogSigner, size: u64, root| {
        let note = signer.sign(CheckpointClaim { size, root }).unwrap();
        let mut line: Value = serde_json::from_str(&good[last]).unwrap();
        line["checkpoint"] = note.into();
        let mut lines = good.clone();
        lines[last] = line.to_string();
        lines
    };
    // The first key signs the whole log, as if it had never been succeeded.
    let old = LogSigner::new(key());
    let lines = signed_by(&old, size, root);
    refused(
        &lines,
        None,
        "checkpoint: it does not bear a valid signature",
    );
    // Without the successions, the record that names them gives it away, whatever else was signed anew.
    let mut without = lines[2..].to_vec();
    for line in &mut without {
        let mut value: Value = serde_json::from_str(line).unwrap();
        if let Some(note) = value["block"].as_str() {
            let statement: Vec<&str> = note.lines().skip(1).take(2).collect();
            let signed = old.attest(block::ABOUT, &statement.join("\n")).unwrap();
            value["block"] = signed.into();
        }
        *line = value.to_string();
    }
    refused(
        &without,
        None,
        "record 300: it says that another key took over",
    );
    // A file that knows of a later key does not end with an earlier one's word.
    let short = journal.root(200).unwrap();
    let mut lines = signed_by(&old, 200, short);
    lines.drain(202..last);
    refused(&lines, None, "");
}

#[test]
fn what_a_witness_saw_of_the_keys_has_to_agree() {
    let early = memory_journal();
    grow(&early, 300);
    let before = early.checkpoint().unwrap().note;
    let file = lines(&early, false);
    let first = rotate(&early, 8, false);
    let after = early.checkpoint().unwrap().note;
    let both = lines(&early, false);
    // In the order in which they are filed, and in any other.
    let filed = format!("{before}\n{first}\n{after}\n");
    assert_eq!(check(&both, Some(&filed)).unwrap().witnessed, Some(301));
    check(&both, Some(&format!("{first}\n{after}\n{before}\n"))).unwrap();
    check(&both, Some(&first)).unwrap();
    // An export from before the change is as good as it was, unless the key fell into wrong hands.
    check(&file, Some(&first)).unwrap();
    let other = memory_journal();
    grow(&other, 300);
    let stolen = rotate(&other, 8, true);
    refused(&file, Some(&stolen), "witness: it saw");
    // Whoever has the old key goes on with it: the witness knows that another one took over.
    let fork = memory_journal();
    grow(&fork, 400);
    refused(&lines(&fork, false), Some(&first), "witness: it saw");
    refused(&lines(&fork, true), Some(&first), "witness: it saw");
    // Or hands over to a key of their own.
    let fork = memory_journal();
    grow(&fork, 300);
    rotate(&fork, 66, false);
    refused(&lines(&fork, false), Some(&first), "witness: it saw");
    refused(&lines(&fork, false), Some(&after), "");
    // A checkpoint by the old key over what the new one signs.
    let claim = CheckpointClaim {
        size: 301,
        root: early.root(301).unwrap(),
    };
    let late = LogSigner::new(key()).sign(claim).unwrap();
    refused(&both, Some(&late), "witness: its checkpoint is not valid");
    // The witness saw more than one change, and the file ends before them.
    grow(&early, 5);
    let second = rotate(&early, 9, false);
    check(&both, Some(&format!("{first}\n{second}"))).unwrap();
    refused(
        &both,
        Some(&second.replacen("\n2\n", "\n3\n", 1)),
        "witness: ",
    );
}
