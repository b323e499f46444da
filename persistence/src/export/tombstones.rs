//! Erased records for which no record has said yet that they are.
//!
//! Whoever edits an export can take a payload out of it as well; that it was erased is believed when the log says so. What
//! says it is on the disk before anything is erased, so it stands behind what it names.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use mesh_messages::erasure::{ErasedPart, Erasure};
use mesh_messages::{AgentId, Position, RecordHeader, TaskId};

use crate::journal::{Journal, ReadError};

/// The erased records of a log that it does not say are erased: in a backup are those whose erasure came after its end.
///
/// Reads the whole log.
///
/// # Errors
/// [`ReadError`].
pub fn unexplained_erasures(journal: &dyn Journal) -> Result<Vec<Position>, ReadError> {
    let mut tombstones = Tombstones::default();
    for record in journal.read(Position(0))? {
        let record = record?;
        let payload = record.body.as_ref();
        let payload = payload.and_then(|body| std::str::from_utf8(&body.payload).ok());
        if payload.is_none() {
            tombstones.add(&record.header);
        }
        tombstones.settle(&record.header, payload);
    }
    Ok(tombstones.open.into_iter().map(Position).collect())
}

/// Grows with what is erased and not yet said to be: about as much as the tasks that the operator keeps.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    // Invariant: the lists below name all of these, save those that only their position can name.
    open: BTreeSet<u64>,
    of_tasks: HashMap<TaskId, Vec<u64>>,
    of_memory: HashMap<AgentId, Vec<u64>>,
    messages: Vec<u64>,
}

impl Tombstones {
    /// A record has no payload any more.
    pub(crate) fn add(&mut self, header: &RecordHeader) {
        let position = header.position.0;
        self.open.insert(position);
        match ErasedPart::of(header) {
            ErasedPart::Task(task) => self.of_tasks.entry(task).or_default().push(position),
            ErasedPart::MemoryOf(agent) => self.of_memory.entry(agent).or_default().push(position),
            ErasedPart::Message => self.messages.push(position),
            ErasedPart::Other => {}
        }
    }

    /// Takes in what a record says; whether it settled anything that was open.
    pub(crate) fn settle(&mut self, header: &RecordHeader, payload: Option<&str>) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let Some(erasure) = Erasure::told_by(header, payload) else {
            return false;
        };
        let before = self.open.len();
        let end = header.position.0;
        match erasure {
            Erasure::Tasks(tasks) => {
                for task in tasks {
                    close_all(&mut self.open, &mut self.of_tasks, &task, end);
                }
            }
            Erasure::MemoryOf(agent) => {
                close_all(&mut self.open, &mut self.of_memory, &agent, end);
            }
            Erasure::Messages => close(&mut self.open, &mut self.messages, end),
            Erasure::Records(records) => {
                for record in records.iter().filter(|record| record.0 < end) {
                    self.open.remove(&record.0);
                }
            }
        }
        self.open.len() < before
    }

    /// The first one that nothing explains.
    pub(crate) fn first(&self) -> Option<u64> {
        self.open.first().copied()
    }

    /// The first one that nothing explains, but for those that are explained otherwise.
    pub(crate) fn first_but(&self, explained: impl Fn(u64) -> bool) -> Option<u64> {
        self.open.iter().copied().find(|one| !explained(*one))
    }
}

/// Closes those of one task, or agent, that stand before `end`.
fn close_all<K: Eq + Hash>(
    open: &mut BTreeSet<u64>,
    all: &mut HashMap<K, Vec<u64>>,
    of: &K,
    end: u64,
) {
    if let Some(some) = all.get_mut(of) {
        close(open, some, end);
        if some.is_empty() {
            all.remove(of);
        }
    }
}

/// Closes those that stand before `end`.
fn close(open: &mut BTreeSet<u64>, some: &mut Vec<u64>, end: u64) {
    some.retain(|position| {
        let stays = *position >= end;
        if !stays {
            open.remove(position);
        }
        stays
    });
}
