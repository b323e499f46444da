//! Every small change of an export, at every place: told, and the right position named.

use mesh_messages::{AgentId, PartitionId};
use proptest::prelude::*;
use serde_json::Value;

use super::{VerifyError, verify};
use crate::export::export;
use crate::journal::Journal as _;
use crate::memory::MemoryJournal;
use crate::testing::{key, memory_journal, record};

fn journal(count: u64) -> MemoryJournal {
    let journal = memory_journal();
    for n in 0..count {
        let mut record = record("registered", &format!("{{\"n\":\"ä\\\"{n}\"}}"));
        record.agent = (n % 3 != 1).then(|| AgentId::new("echo").unwrap());
        let partition = PartitionId::from_static(if n % 2 == 0 { "agents" } else { "tasks/0" });
        journal
            .append(&partition, journal.next_seq(&partition), vec![record])
            .unwrap();
    }
    journal
}

fn exported(count: u64, agent: bool) -> Vec<String> {
    let agent = agent.then(|| AgentId::new("echo").unwrap());
    let mut bytes = Vec::new();
    export(&journal(count), agent.as_ref(), &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn check(text: &[u8]) -> Result<(), VerifyError> {
    verify(text, Some(&key().public()), None).map(drop)
}

/// The positions of an export's records, one a line.
fn positions(lines: &[String]) -> Vec<u64> {
    let records = &lines[..lines.len() - 1];
    let header = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        serde_json::from_str::<Value>(line["record"].as_str().unwrap()).unwrap()
    };
    records
        .iter()
        .map(|line| header(line)["position"].as_u64().unwrap())
        .collect()
}

/// Asserts that it is refused, and that what is named is `position`, or with `None` the end of the file.
#[track_caller]
fn named(text: &[u8], position: Option<u64>) -> Result<(), TestCaseError> {
    let shown = String::from_utf8_lossy(text);
    match (check(text), position) {
        (Err(VerifyError::Record { number, .. }), Some(position)) if number == position => Ok(()),
        (Err(VerifyError::Checkpoint(_)), None) => Ok(()),
        (result, _) => Err(TestCaseError::fail(format!(
            "expected {position:?}, got {result:?} of {shown}"
        ))),
    }
}

fn lines_in(text: &[u8]) -> usize {
    text.split(|b| *b == b'\n').count() - 1
}

fn joined(lines: &[String]) -> Vec<u8> {
    (lines.join("\n") + "\n").into_bytes()
}

/// Every place is tried: what a cut line begins with decides what can be said of it.
#[test]
fn an_export_that_is_cut_anywhere_is_told() {
    for agent in [false, true] {
        let text = joined(&exported(4, agent));
        for at in 0..text.len() - 1 {
            let cut = &text[..at];
            assert!(check(cut).is_err(), "cut at {at}");
            if !agent {
                cut_is_named(cut, text[at] == b'\n').unwrap();
            }
        }
    }
}

/// Asserts that what is left of four records and a checkpoint is refused where it ends. A line that lacks nothing but its end
/// (`ends_line`) is whole.
fn cut_is_named(cut: &[u8], ends_line: bool) -> Result<(), TestCaseError> {
    let whole = (lines_in(cut) + usize::from(ends_line)) as u64;
    let rest = cut.rsplit(|byte| *byte == b'\n').next().unwrap();
    // One that begins as a record does is taken for one, until it says that it is the checkpoint.
    let in_checkpoint = whole == 4 && !ends_line && rest.len() > r#"{""#.len();
    named(cut, (!in_checkpoint).then_some(whole))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_changed_byte_is_told_and_its_record_named(
        agent: bool, at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let lines = exported(9, agent);
        let mut text = joined(&lines);
        // The last newline says nothing.
        let at = at.index(text.len() - 1);
        // What ends a record's line belongs to that record.
        let line = lines_in(&text[..at]);
        prop_assume!(text[at] != byte);
        text[at] = byte;
        // White space between the members of an object says nothing either.
        prop_assume!(!(byte.is_ascii_whitespace() && check(&text).is_ok()));
        let position = positions(&lines).get(line).copied();
        if position.is_none() && byte == b'\n' {
            // What was the checkpoint is two lines now, the first of which stands where a further record would.
            prop_assert!(check(&text).is_err());
        } else {
            named(&text, position)?;
        }
    }

    #[test]
    fn a_deleted_a_doubled_and_a_moved_record_is_named(
        agent: bool, at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
    ) {
        let lines = exported(24, agent);
        let places = positions(&lines);
        let (at, other) = (at.index(places.len()), other.index(places.len()));
        let mut deleted = lines.clone();
        deleted.remove(at);
        named(&joined(&deleted), Some(places[at]))?;

        let mut doubled = lines.clone();
        doubled.insert(at, lines[at].clone());
        // The second of the two stands where the next one should; after the last one there is none.
        let place = places.get(at + 1).copied();
        let beyond = if agent { places[at] } else { places[at] + 1 };
        named(&joined(&doubled), Some(place.unwrap_or(beyond)))?;

        let mut swapped = lines.clone();
        swapped.swap(at, other);
        if at != other {
            named(&joined(&swapped), Some(places[at.min(other)]))?;
        }
    }

    /// Somebody who knows the format changes a record and everything in the file that can be made to fit.
    #[test]
    fn a_record_that_was_made_to_fit_is_named_all_the_same(count in 1_u64..600, at: u64) {
        let mut lines = exported(count, false);
        let at = usize::try_from(at % count).unwrap();
        let mut line: Value = serde_json::from_str(&lines[at]).unwrap();
        let header = line["record"].as_str().unwrap().replace("registered", "terminated");
        line["leaf"] = hex::encode(tlog_tiles::record_hash(header.as_bytes()).0).into();
        line["record"] = header.into();
        lines[at] = line.to_string();
        named(&joined(&lines), Some(at as u64))?;
    }
}

/// What is done to a line.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Change(u8),
    Delete,
    Double,
    Swap(prop::sample::Index),
    Insert(prop::sample::Index),
    Truncate(prop::sample::Index),
    Strip,
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        (1_u8..).prop_map(Blow::Change),
        Just(Blow::Delete),
        Just(Blow::Double),
        any::<prop::sample::Index>().prop_map(Blow::Swap),
        any::<prop::sample::Index>().prop_map(Blow::Insert),
        any::<prop::sample::Index>().prop_map(Blow::Truncate),
        Just(Blow::Strip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One to three blows anywhere in a log of several blocks: refused, and nothing before the place that is named was hit.
    #[test]
    fn random_damage_is_refused_and_named_at_the_first_place(
        blows in prop::collection::vec((any::<prop::sample::Index>(), blow()), 1..4),
    ) {
        let good = exported(700, false);
        let mut lines = good.clone();
        for (at, blow) in blows {
            if lines.len() < 2 {
                break;
            }
            let at = at.index(lines.len());
            match blow {
                Blow::Change(by) => {
                    let mut bytes = lines[at].clone().into_bytes();
                    let place = usize::from(by) % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = if *byte == b'7' { b'8' } else { b'7' };
                    }
                    lines[at] = String::from_utf8_lossy(&bytes).into_owned();
                }
                Blow::Delete => drop(lines.remove(at)),
                Blow::Double => lines.insert(at, lines[at].clone()),
                Blow::Swap(other) => {
                    let other = other.index(lines.len());
                    lines.swap(at, other);
                }
                Blow::Insert(which) => lines.insert(at, good[which.index(good.len())].clone()),
                Blow::Truncate(left) => {
                    let left = left.index(lines[at].len() + 1);
                    let cut: String = lines[at].chars().take(left).collect();
                    lines.truncate(at);
                    if !cut.is_empty() {
                        lines.push(cut);
                    }
                }
                Blow::Strip => {
                    if serde_json::from_str::<Value>(&lines[at]).is_ok_and(|line| line.is_object()) {
                        strip(&mut lines[at], "block");
                    }
                }
            }
        }
        let same = |a: &String, b: &String| {
            let value = |line: &String| serde_json::from_str::<Value>(line).ok();
            a == b || (value(a).is_some() && value(a) == value(b))
        };
        let first = good.iter().zip(&lines).position(|(a, b)| !same(a, b));
        let first = first.unwrap_or(good.len().min(lines.len()));
        prop_assume!(first < good.len() || lines.len() > good.len());
        let last = 700;
        match check(&joined(&lines)) {
            Err(VerifyError::Record { number, .. }) => prop_assert_eq!(number, first.min(last) as u64),
            Err(VerifyError::Checkpoint(_)) => prop_assert_eq!(first, 700),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn a_log_without_a_signed_list_is_refused_where_it_should_stand() {
    for (count, gone, place) in [(9, 8, 8), (300, 255, 255), (300, 299, 299), (256, 255, 255)] {
        let mut lines = exported(count, false);
        strip(&mut lines[gone], "block");
        named(&joined(&lines), Some(place)).unwrap();
        // A change somewhere before it is not covered up: the place is never later than the block's end.
        let changed = lines[gone - 3].replace("registered", "terminated");
        lines[gone - 3] = changed;
        strip(&mut lines[gone - 3], "leaf");
        named(&joined(&lines), Some(place)).unwrap();
    }
    let mut lines = exported(600, false);
    for line in &mut lines {
        strip(line, "block");
    }
    named(&joined(&lines), Some(255)).unwrap();
}

fn strip(line: &mut String, member: &str) {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value.as_object_mut().unwrap().remove(member);
    *line = value.to_string();
}

#[test]
fn a_first_record_that_cannot_be_read_has_its_position() {
    let journal = memory_journal();
    for n in 0..9 {
        let mut record = record("registered", "{}");
        record.agent = (n > 4).then(|| AgentId::new("late").unwrap());
        let partition = PartitionId::from_static("agents");
        journal.append(&partition, n, vec![record]).unwrap();
    }
    let late = AgentId::new("late").unwrap();
    for (agent, place) in [(None, 0), (Some(&late), 5)] {
        let mut bytes = Vec::new();
        export(&journal, agent, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("{\"record\"", "{\"recorD\""),
            ("{\"record\"", "x"),
            ("{\\\"v\\\":", "{\\\"w\\\":"),
            ("\\\"position\\\"", "\\\"positioN\\\""),
            ("\"salt\"", "\"Salt\""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            named(changed.as_bytes(), Some(place)).unwrap();
        }
    }
}

#[test]
fn an_agents_export_without_its_signed_list_is_refused() {
    let mut lines = exported(9, true);
    let mut last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    last.as_object_mut().unwrap().remove("agent");
    *lines.last_mut().unwrap() = last.to_string();
    named(&joined(&lines), None).unwrap();
}

#[test]
fn an_agents_signed_list_of_another_time_is_refused() {
    let (mut lines, earlier) = (exported(9, true), exported(6, true));
    let mut last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let old: Value = serde_json::from_str(earlier.last().unwrap()).unwrap();
    last["agent"] = old["agent"].clone();
    *lines.last_mut().unwrap() = last.to_string();
    named(&joined(&lines), None).unwrap();
}
