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
    /// Where the log began to name them; what it holds of them beyond that is named by its position.
    #[serde(default)]
    pub removed_at: Position,
    /// The root of the last backup whose erasures were looked through.
    #[serde(default)]
    pub restored: Option<String>,
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
                if self.unerased.is_empty() {
                    self.removed_at = header.position;
                }
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
            RetentionEvent::RecordsDoomed { restored, .. } => {
                if restored.is_some() {
                    self.restored.clone_from(restored);
                }
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

    fn header(position: u64) -> RecordHeader {
        RecordHeader {
            v: 1,
            ns: "default".into(),
            log: String::new(),
            position: Position(position),
            partition: mesh_messages::events::partition::RETENTION,
            seq: 0,
            time: Timestamp::ZERO,
            lc: 0,
            kind: "".into(),
            kv: 1,
            agent: None,
            task: None,
            actor: "meshd".into(),
            cause: None,
            correlation: None,
            payload: String::new(),
        }
    }

    #[test]
    fn an_order_is_open_from_its_record_to_its_end_and_old_ones_never_are() {
        let order = |task: &str, open| RetentionEvent::Ordered {
            by: "user:admin".into(),
            reason: "r".into(),
            task: Some(TaskId::new(task).unwrap()),
            subject: None,
            open,
            names: true,
        };
        let mut state = RetentionState::default();
        state.apply(&header(1), &order("old", false));
        assert!(state.orders.is_empty());
        state.apply(&header(2), &order("a", true));
        state.apply(&header(3), &order("b", true));
        let open: Vec<_> = state.orders.iter().map(|order| order.record.0).collect();
        assert_eq!(open, [2, 3]);
        let done = RetentionEvent::Done {
            tasks: 1,
            messages: 0,
        };
        state.apply(&header(4), &done);
        assert_eq!(state.orders.front().map(|order| order.record.0), Some(3));
        // A record of a version that wrote no end reads as one that is not open.
        let old: RetentionEvent = serde_json::from_value(serde_json::json!({
            "erasure.ordered": {"by": "user:admin", "reason": "r", "task": "a"}
        }))
        .unwrap();
        let RetentionEvent::Ordered { open, names, .. } = old else {
            panic!("{old:?}");
        };
        assert!(!open && !names);
    }

    #[test]
    fn what_is_doomed_stays_so_until_it_is_removed() {
        let mut state = RetentionState::default();
        for digest in ["x", "y", "x"] {
            let digests = vec![digest.to_owned()];
            state.apply(&header(1), &RetentionEvent::ContentDoomed { digests });
        }
        assert_eq!(state.doomed.len(), 2);
        state.apply(&header(2), &RetentionEvent::ContentRemoved { files: 1 });
        assert!(state.doomed.is_empty());
    }
}
