//! What was seen from outside before, during and after: all that a verdict rests on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::agent::FaultState;
use mesh_messages::chaos::{ChaosAnswer, ChaosBlow, ChaosOrder};
use mesh_messages::events::{AgentEvent, SentinelEvent, TaskEvent};
use mesh_messages::system::AuditEntry;
use mesh_messages::task::TaskState;
use mesh_messages::{AgentId, Position, TaskId, Timestamp};
use serde_json::json;

/// One audit record, as far as a verdict needs it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) position: Position,
    pub(super) time: Timestamp,
    pub(super) agent: Option<AgentId>,
    pub(super) task: Option<TaskId>,
    /// Who caused it.
    pub(super) actor: String,
    pub(super) what: What,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Agent(Box<AgentEvent>),
    Task(Box<TaskEvent>),
    Struck {
        user: String,
        blow: Box<ChaosBlow>,
    },
    /// Something that no invariant is about, or whose payload was erased.
    Other,
}

impl From<AuditEntry> for Fact {
    fn from(entry: AuditEntry) -> Self {
        let what = entry.payload.map_or(What::Other, |payload| {
            let tagged = json!({ entry.kind.as_str(): payload });
            if entry.kind.starts_with("task.") {
                read(tagged).map_or(What::Other, What::Task)
            } else if entry.kind.starts_with("chaos.") {
                match serde_json::from_value(tagged) {
                    Ok(SentinelEvent::ChaosStruck { user, blow }) => What::Struck { user, blow },
                    _ => What::Other,
                }
            } else {
                read(tagged).map_or(What::Other, What::Agent)
            }
        });
        Self {
            position: entry.position,
            time: entry.time,
            agent: entry.agent,
            task: entry.task,
            actor: entry.actor,
            what,
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(tagged: serde_json::Value) -> Option<Box<T>> {
    serde_json::from_value(tagged).ok().map(Box::new)
}

/// A blow as it was ordered, and what meshd answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dealt {
    /// Milliseconds from the beginning.
    pub(super) at_ms: u64,
    pub(super) order: ChaosOrder,
    pub(super) outcome: Outcome,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// It fell.
    Struck(Box<ChaosAnswer>),
    /// meshd refused: there was nothing to strike, or it would have been too much.
    Refused { code: String, detail: String },
    /// The answer got lost: it may have fallen.
    Unknown(String),
}

/// How often the policy lets an agent be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Failures within `window` that are answered by a restart.
    pub(super) max_crashes: u32,
    pub(super) window: Duration,
    /// Failures within an hour that do not lead to quarantine.
    pub(super) per_hour: u32,
}

/// An agent, as it was before the first blow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Before {
    pub(super) state: FaultState,
    /// When it was to be started next.
    pub(super) due: Option<Timestamp>,
    pub(super) policy: Policy,
    /// When it failed in the hour before, as far as that counts.
    pub(super) failures: Vec<Timestamp>,
}

/// A task that had been acknowledged and not ended, as it stood when everything was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    /// `None` when the mesh did not know it.
    pub(super) state: Option<TaskState>,
    pub(super) deadline: Timestamp,
}

/// Processes of incarnations that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Processes {
    /// So many trees were seen to begin and end; these processes of theirs are still there.
    Looked { ended: usize, left: Vec<String> },
    /// They could not be looked at.
    NotHere(String),
}

/// What became of verifying the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Log {
    Verified {
        records: u64,
        root: String,
        /// Size of the checkpoint that was taken before the first blow and that the log continues.
        witnessed: Option<u64>,
    },
    Wrong(String),
    NotRead(String),
}

/// How quickly the mesh answered about what was not in scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answers {
    /// Microseconds.
    pub(super) before: Vec<u64>,
    pub(super) during: Vec<u64>,
    /// Questions without an answer while blows fell.
    pub(super) failed: usize,
    /// Whether it answers, and takes work, after it all; else why not.
    pub(super) after: Option<Result<(), String>>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evidence {
    pub(super) scope: BTreeSet<AgentId>,
    pub(super) parts: BTreeSet<String>,
    pub(super) ended: Timestamp,
    pub(super) dealt: Vec<Dealt>,
    /// The audit from the first blow on, in its order.
    pub(super) facts: Vec<Fact>,
    pub(super) agents: BTreeMap<AgentId, Before>,
    pub(super) tasks: BTreeMap<TaskId, Watched>,
    pub(super) processes: Processes,
    pub(super) log: Log,
    pub(super) answers: Answers,
    /// Agents that had not come to rest when patience ran out, and how they stood.
    pub(super) unsettled: Vec<String>,
}

impl Evidence {
    /// The records about one agent's life.
    pub(super) fn life<'e>(
        &'e self,
        agent: &'e AgentId,
    ) -> impl Iterator<Item = (&'e Fact, &'e AgentEvent)> {
        self.facts.iter().filter_map(move |fact| match &fact.what {
            What::Agent(event) if fact.agent.as_ref() == Some(agent) => Some((fact, &**event)),
            What::Agent(_) | What::Task(_) | What::Struck { .. } | What::Other => None,
        })
    }

    /// The records about tasks.
    pub(super) fn work(&self) -> impl Iterator<Item = (&Fact, &TaskId, &TaskEvent)> {
        self.facts.iter().filter_map(|fact| match &fact.what {
            What::Task(event) => fact.task.as_ref().map(|task| (fact, task, &**event)),
            What::Agent(_) | What::Struck { .. } | What::Other => None,
        })
    }

    /// The blows that fell.
    pub(super) fn struck(&self) -> impl Iterator<Item = &ChaosAnswer> {
        self.dealt.iter().filter_map(|dealt| match &dealt.outcome {
            Outcome::Struck(answer) => Some(&**answer),
            Outcome::Refused { .. } | Outcome::Unknown(_) => None,
        })
    }
}
