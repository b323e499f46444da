//! Which ended tasks are kept no longer. Pure: what is there and what the operator wants, to what goes.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mesh_messages::events::RetentionEvent;
use mesh_messages::{Position, RecordHeader, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

/// Most tasks that one decision removes: its event names each of them, and all their records are erased in one go.
pub const BATCH_MAX: usize = 250;

/// What is kept of ended tasks. What is absent has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// So long after their ends.
    pub age: Option<Duration>,
    /// So many.
    pub tasks: Option<u64>,
    /// So many bytes of them, as the read side stores them.
    pub bytes: Option<u64>,
}

impl Limits {
    /// Whether everything is kept.
    #[must_use]
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// All ended tasks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// How many.
    pub tasks: u64,
    /// How large.
    pub bytes: u64,
}

/// An ended task that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: TaskId,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How large it is.
    pub bytes: u64,
    /// Somebody may still ask for it: its parent goes on, or a snapshot of the task machine is older than its end.
    pub needed: bool,
}

/// Which of the candidates, which come oldest end first, go now.
pub fn choose(
    limits: &Limits,
    now: Timestamp,
    totals: Totals,
    candidates: impl IntoIterator<Item = Candidate>,
) -> Vec<TaskId> {
    let mut left = totals;
    let mut gone = Vec::new();
    for candidate in candidates {
        let too_old = limits
            .age
            .is_some_and(|age| now.since(candidate.ended_at) > age);
        let too_many = limits.tasks.is_some_and(|most| left.tasks > most);
        let too_large = limits.bytes.is_some_and(|most| left.bytes > most);
        // Those behind it are younger.
        if !(too_old || too_many || too_large) || gone.len() >= BATCH_MAX {
            break;
        }
        if !candidate.needed {
            left.tasks = left.tasks.saturating_sub(1);
            left.bytes = left.bytes.saturating_sub(candidate.bytes);
            gone.push(candidate.id);
        }
    }
    gone
}

/// The state of the partition `retention`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RetentionState {
    /// How many tasks were ever removed.
    pub removed: u64,
    /// Those whose records have yet to be erased.
    pub unerased: Vec<TaskId>,
    /// Digests of content that goes when nothing refers to it any more.
    #[serde(default)]
    pub doomed: BTreeSet<String>,
    /// Orders that are not carried out yet, oldest first.
    #[serde(default)]
    pub orders: VecDeque<OpenOrder>,
}

/// An order to erase that is not carried out yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// Which task.
    pub task: Option<TaskId>,
    /// Whose tasks and messages.
    pub subject: Option<String>,
    /// Why.
    pub reason: String,
    /// Where it stands in the log.
    pub record: Position,
    /// The request that it came with.
    pub correlation: Option<String>,
}

impl RetentionState {
    /// Takes an event in.
    pub fn apply(&mut self, header: &RecordHeader, event: &RetentionEvent) {
        match event {
            RetentionEvent::Removed { tasks } => {
                self.removed += tasks.len() as u64;
                self.unerased.extend(tasks.iter().cloned());
            }
            RetentionEvent::Erased { .. } => self.unerased.clear(),
            RetentionEvent::Ordered {
                reason,
                task,
                subject,
                open: true,
                ..
            } => self.orders.push_back(OpenOrder {
                task: task.clone(),
                subject: subject.clone(),
                reason: reason.clone(),
                record: header.position,
                correlation: header.correlation.clone(),
            }),
            RetentionEvent::Done { .. } => {
                self.orders.pop_front();
            }
            RetentionEvent::ContentDoomed { digests } => {
                self.doomed.extend(digests.iter().cloned());
            }
            RetentionEvent::ContentRemoved { .. } => self.doomed.clear(),
            // For the audit. What is erased is so when the next one is written.
            RetentionEvent::Ordered { open: false, .. } | RetentionEvent::MessagesErased { .. } => {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(needed: &[u64]) -> Vec<Candidate> {
        (0..10)
            .map(|n| Candidate {
                id: TaskId::new(format!("t{n}")).unwrap(),
                ended_at: Timestamp::from_millis(n * 1000),
                bytes: 100,
                needed: needed.contains(&n),
            })
            .collect()
    }

    fn gone(limits: Limits, needed: &[u64]) -> Vec<String> {
        let totals = Totals {
            tasks: 10,
            bytes: 1000,
        };
        let now = Timestamp::from_millis(10_000);
        let gone = choose(&limits, now, totals, candidates(needed));
        gone.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_beyond_any_limit_goes_oldest_first() {
        assert_eq!(gone(Limits::default(), &[]), [""; 0]);
        let age = Limits {
            age: Some(Duration::from_secs(8)),
            ..Limits::default()
        };
        assert_eq!(gone(age, &[]), ["t0", "t1"]);
        let tasks = Limits {
            tasks: Some(7),
            ..age
        };
        assert_eq!(gone(tasks, &[]), ["t0", "t1", "t2"]);
        let bytes = Limits {
            bytes: Some(599),
            ..tasks
        };
        assert_eq!(gone(bytes, &[]), ["t0", "t1", "t2", "t3", "t4"]);
    }

    #[test]
    fn what_is_needed_stays_and_another_goes_in_its_place() {
        let tasks = Limits {
            tasks: Some(8),
            ..Limits::default()
        };
        assert_eq!(gone(tasks, &[0, 2]), ["t1", "t3"]);
    }

    #[test]
    fn one_decision_removes_no_more_than_a_batch() {
        let many = (0..1000).map(|n| Candidate {
            id: TaskId::new(format!("t{n}")).unwrap(),
            ended_at: Timestamp::ZERO,
            bytes: 1,
            needed: false,
        });
        let none = Limits {
            tasks: Some(0),
            ..Limits::default()
        };
        let totals = Totals {
            tasks: 1000,
            bytes: 1000,
        };
        let gone = choose(&none, Timestamp::ZERO, totals, many);
        assert_eq!(gone.len(), BATCH_MAX);
    }
}
