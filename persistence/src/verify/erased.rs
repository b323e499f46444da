//! Payloads that are missing, with and without a record that says why.

use mesh_messages::erasure::{ErasedPart, Erasure};
use mesh_messages::events::{MemoryEvent, RetentionEvent, partition};
use mesh_messages::{AgentId, NewRecord, PartitionId, Position, TaskId};
use serde_json::{Value, json};

use super::{VerifyReport, verify};
use crate::export::{export, export_without};
use crate::file::{FileJournal, FileJournalOptions, SEGMENT_BYTES_MIN};
use crate::journal::Journal;
use crate::memory::MemoryJournal;
use crate::testing::{clock, doom, key, memory_journal, record, say};

const AGENTS: PartitionId = PartitionId::from_static("agents");

fn echo() -> AgentId {
    AgentId::new("echo").unwrap()
}

fn task(n: u64) -> TaskId {
    TaskId::new(format!("t{n}")).unwrap()
}

fn add(journal: &dyn Journal, partition: &PartitionId, record: NewRecord) -> u64 {
    let seq = journal.next_seq(partition);
    journal.append(partition, seq, vec![record]).unwrap().last.0
}

/// Records of tasks, messages, memory and of nothing in particular, six of each.
fn journal() -> MemoryJournal {
    let journal = memory_journal();
    fill(&journal);
    journal
}

fn fill(journal: &dyn Journal) {
    for n in 0..6 {
        let of = |kind: &str| {
            let mut record = record(kind, &format!("{{\"n\":{n}}}"));
            record.agent = Some(echo());
            record
        };
        let mut of_task = of("task.submitted");
        of_task.task = Some(task(n));
        add(journal, &partition::TASKS, of_task);
        add(journal, &partition::BUS, of("message_sent"));
        add(journal, &partition::MEMORY, of("memory.set"));
        add(journal, &AGENTS, of("registered"));
    }
}

fn lines(journal: &dyn Journal, agent: Option<&AgentId>) -> Vec<String> {
    let mut bytes = Vec::new();
    export(journal, agent, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn check(lines: &[String]) -> Result<VerifyReport, String> {
    let text = lines.join("\n") + "\n";
    verify(text.as_bytes(), Some(&key().public()), None).map_err(|e| e.to_string())
}

/// Takes a payload away as an erasure does.
fn erased(line: &str) -> String {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value["salt"] = Value::Null;
    value["payload"] = Value::Null;
    value.to_string()
}

fn purge(journal: &dyn Journal) -> u64 {
    let purged = MemoryEvent::Purged { agent: echo() };
    let mut said = record(purged.kind(), &serde_json::to_string(&purged).unwrap());
    said.agent = Some(echo());
    add(journal, &partition::MEMORY, said)
}

fn remove(journal: &dyn Journal, tasks: &[u64]) -> u64 {
    let tasks = tasks.iter().copied().map(task).collect();
    let removed = RetentionEvent::Removed { tasks };
    say(journal, &partition::RETENTION, removed.kind(), &removed)
}

fn order(journal: &dyn Journal, names: bool) {
    let mut order = json!({"erasure.ordered": {"by": "user:a", "reason": "r", "open": true}});
    if names {
        order["erasure.ordered"]["names"] = true.into();
    }
    say(journal, &partition::RETENTION, "erasure.ordered", &order);
}

#[test]
fn a_payload_that_somebody_took_away_is_named_in_every_export() {
    let journal = journal();
    remove(&journal, &[0]);
    order(&journal, true);
    for agent in [None, Some(echo())] {
        let good = lines(&journal, agent.as_ref());
        check(&good).unwrap();
        for at in 1..24 {
            let mut forged = good.clone();
            forged[at] = erased(&good[at]);
            let error = check(&forged).unwrap_err();
            let expected = format!("record {at}: its payload is gone");
            assert!(error.starts_with(&expected), "{at}: {error}");
        }
        // What the log does say was to be erased may be gone already, or not yet.
        let mut early = good.clone();
        if agent.is_none() {
            early[0] = erased(&good[0]);
            assert_eq!(check(&early).unwrap().erased, 1);
        }
    }
}

#[test]
fn each_way_of_erasing_is_told_by_its_record() {
    let journal = journal();
    remove(&journal, &[1, 2]);
    doom(&journal, &[5, 21]);
    purge(&journal);
    let gone = [4, 8, 5, 21, 2, 6, 10, 14, 18, 22];
    journal.erase(&gone.map(Position)).unwrap();
    let whole = lines(&journal, None);
    let report = check(&whole).unwrap();
    assert_eq!((report.erased, report.withheld), (10, 0));
    // What says so has to be there, whole.
    for at in [24, 25] {
        let mut forged = whole.clone();
        forged[at] = erased(&whole[at]);
        let error = check(&forged).unwrap_err();
        assert!(error.contains(": its payload is gone"), "{error}");
    }
    // One agent's export has them with proofs; the purge is among its own records.
    let agent = lines(&journal, Some(&echo()));
    assert_eq!(check(&agent).unwrap().erased, 10);
    let told: Vec<usize> = (0..agent.len())
        .filter(|at| agent[*at].starts_with("{\"erasure\""))
        .collect();
    assert_eq!(told.len(), 2);
    for (at, first) in [(told[0], 4), (told[1], 5)] {
        let mut without = agent.clone();
        without.remove(at);
        let error = check(&without).unwrap_err();
        let expected = format!("record {first}: its payload is gone");
        assert!(error.starts_with(&expected), "{error}");
        let mut twice = agent.clone();
        twice.insert(at, agent[at].clone());
        assert!(check(&twice).is_err());
        let mut moved = agent.clone();
        let line = moved.remove(at);
        moved.insert(3, line);
        assert!(check(&moved).is_err());
        for change in 0..agent[at].len() {
            let mut bytes = agent[at].clone().into_bytes();
            bytes[change] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            let mut changed = agent.clone();
            changed[at] = text;
            assert!(check(&changed).is_err(), "byte {change}");
        }
    }
}

#[test]
fn a_purge_explains_nothing_that_came_after_it() {
    let journal = journal();
    purge(&journal);
    let mut later = record("memory.set", "{}");
    later.agent = Some(echo());
    let later = add(&journal, &partition::MEMORY, later);
    journal.erase(&[Position(2), Position(later)]).unwrap();
    for agent in [None, Some(echo())] {
        let error = check(&lines(&journal, agent.as_ref())).unwrap_err();
        assert!(
            error.starts_with(&format!("record {later}: its")),
            "{error}"
        );
    }
}

#[test]
fn orders_of_earlier_versions_explain_messages_before_them_and_nothing_else() {
    let journal = journal();
    order(&journal, false);
    journal.erase(&[Position(1), Position(9)]).unwrap();
    for agent in [None, Some(echo())] {
        assert_eq!(check(&lines(&journal, agent.as_ref())).unwrap().erased, 2);
    }
    journal.erase(&[Position(3)]).unwrap();
    let error = check(&lines(&journal, None)).unwrap_err();
    assert!(error.starts_with("record 3: its payload"), "{error}");
}

#[test]
fn what_is_erased_during_an_export_is_told_beyond_its_checkpoint() {
    let durable = |journal: &FileJournal, size: u64| {
        let durable = journal.durable();
        while durable.borrow().size() < size {
            std::thread::yield_now();
        }
    };
    let options = FileJournalOptions {
        segment_bytes: 4 * SEGMENT_BYTES_MIN,
    };
    for agent in [None, Some(echo())] {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(dir.path(), &options, key(), clock()).unwrap();
        // More than is read at once stands before what is erased.
        for n in 0..40 {
            let mut large = record("registered", &format!("\"{}\"", "x".repeat(16 * 1024)));
            large.agent = Some(echo());
            add(&journal, &AGENTS, large);
            durable(&journal, n + 1);
        }
        fill(&journal);
        durable(&journal, 64);
        let mut bytes = Vec::new();
        let done = std::cell::Cell::new(false);
        let hidden = |header: &mesh_messages::RecordHeader| {
            if header.position.0 == 2 && !done.replace(true) {
                doom(&journal, &[49]);
                remove(&journal, &[3]);
                durable(&journal, 66);
                journal.erase(&[Position(49), Position(52)]).unwrap();
            }
            false
        };
        export_without(
            &journal,
            agent.as_ref().map(|agent| (agent, None)),
            &hidden,
            &mut bytes,
        )
        .unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let report = check(&lines).unwrap();
        assert_eq!((report.size, report.erased), (64, 2));
        let last = lines.last().unwrap();
        let mut line: Value = serde_json::from_str(last).unwrap();
        for member in ["note", "path"] {
            let mut forged = lines.clone();
            let mut changed = line.clone();
            changed["later"][member] = if member == "note" {
                json!("x\n")
            } else {
                json!([])
            };
            *forged.last_mut().unwrap() = changed.to_string();
            assert!(check(&forged).unwrap_err().starts_with("checkpoint: "));
        }
        line.as_object_mut().unwrap().remove("later");
        let mut forged = lines.clone();
        *forged.last_mut().unwrap() = line.to_string();
        assert!(check(&forged).is_err());
    }
}

#[test]
fn what_is_withheld_is_signed() {
    let journal = journal();
    let of_memory = |header: &mesh_messages::RecordHeader| header.partition == partition::MEMORY;
    for agent in [None, Some(echo())] {
        let mut bytes = Vec::new();
        export_without(
            &journal,
            agent.as_ref().map(|agent| (agent, None)),
            &of_memory,
            &mut bytes,
        )
        .unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let report = check(&lines).unwrap();
        assert_eq!((report.erased, report.withheld), (0, 6));
        let mut more = lines.clone();
        more[3] = erased(&lines[3]);
        assert!(check(&more).unwrap_err().starts_with("record 3: its"));
        let last = lines.last().unwrap();
        let mut forged = lines.clone();
        *forged.last_mut().unwrap() = last.replace("\"2,6,10", "\"2-3,6,10");
        assert!(check(&forged).unwrap_err().starts_with("checkpoint: "));
        let mut value: Value = serde_json::from_str(last).unwrap();
        value.as_object_mut().unwrap().remove("withheld");
        *forged.last_mut().unwrap() = value.to_string();
        assert!(check(&forged).unwrap_err().starts_with("record 2: its"));
    }
}

#[test]
fn only_its_own_partition_can_say_that_something_is_erased() {
    let journal = journal();
    let removed = RetentionEvent::Removed {
        tasks: vec![task(0)],
    };
    say(&journal, &AGENTS, removed.kind(), &removed);
    journal.erase(&[Position(0)]).unwrap();
    let error = check(&lines(&journal, None)).unwrap_err();
    assert!(error.starts_with("record 0: its payload"), "{error}");
    let header = journal.get(Position(0)).unwrap().unwrap().header;
    assert_eq!(ErasedPart::of(&header), ErasedPart::Task(task(0)));
    assert!(!Erasure::is_told_by(&header));
}
