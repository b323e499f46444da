//! Erasing what the log holds of somebody, or of a task: the order, and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::events::{RetentionEvent, partition};
use crate::ids::{AgentId, Position, TaskId};
use crate::record::RecordHeader;

/// Longest reason of an order, in bytes: it stays in the log for ever.
pub const REASON_MAX: usize = 1024;

/// An order to erase content for ever. One of `task` and `subject` is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErasureOrder {
    /// This task: its input, output, errors and all else of it, and the messages that name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// All tasks that this submitter submitted, and the messages from and to it, such as `user:ada`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Address>,
    /// Why, for the log. It is not erased.
    pub reason: String,
}

/// What an order erased, and what is left of what it meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErasureReport {
    /// Tasks that are gone.
    pub tasks: u64,
    /// Messages of which the content is gone, a record each for those who sent and received them.
    pub messages: u64,
    /// Records whose payload was erased, all together.
    pub records: u64,
    /// Tasks that have not ended, or whose parents have not: they are left as they are. Ask again when they have.
    pub pending_tasks: Vec<TaskId>,
    /// Messages that are left as they are: so young that they still protect from replays, or not delivered yet.
    pub pending_messages: u64,
}

/// What one record of the log says is erased for ever. Nothing else in a log explains why a payload is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    /// What the task machine holds of these tasks, and what agents called for them.
    Tasks(Vec<TaskId>),
    /// These very records.
    Records(Vec<Position>),
    /// Every value that this agent ever stored.
    MemoryOf(AgentId),
    /// Messages, which are not named: an order of a version that did not name them.
    Messages,
}

impl Erasure {
    /// Whether a record of this kind can say that something is erased. Its payload tells what.
    #[must_use]
    pub fn is_told_by(header: &RecordHeader) -> bool {
        let kind = header.kind.as_ref();
        if header.partition == partition::MEMORY {
            return kind == "memory.purged";
        }
        let kinds = ["tasks.removed", "records.doomed", "erasure.ordered"];
        header.partition == partition::RETENTION && kinds.contains(&kind)
    }

    /// What a record says is erased, of what stands before it; `None` if it says nothing of the kind, or its own payload
    /// is not there to say it.
    #[must_use]
    pub fn told_by(header: &RecordHeader, payload: Option<&str>) -> Option<Self> {
        if !Self::is_told_by(header) {
            return None;
        }
        if header.partition == partition::MEMORY {
            // Whoever may not read memory sees the header alone.
            return header.agent.clone().map(Self::MemoryOf);
        }
        match serde_json::from_str(payload?).ok()? {
            RetentionEvent::Removed { tasks } => Some(Self::Tasks(tasks)),
            RetentionEvent::RecordsDoomed { records, .. } => Some(Self::Records(records)),
            RetentionEvent::Ordered { names: false, .. } => Some(Self::Messages),
            _ => None,
        }
    }
}

/// By what else than its position an erased record can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErasedPart {
    /// It is part of this task.
    Task(TaskId),
    /// It is a value that this agent stored.
    MemoryOf(AgentId),
    /// It is a message.
    Message,
    /// It can be named by its position alone.
    Other,
}

impl ErasedPart {
    /// What a record is part of.
    #[must_use]
    pub fn of(header: &RecordHeader) -> Self {
        let of_task = header.partition == partition::TASKS || header.kind.starts_with("call.");
        match (&header.task, &header.agent) {
            (Some(task), _) if of_task => Self::Task(task.clone()),
            (_, Some(agent))
                if header.partition == partition::MEMORY && header.kind == "memory.set" =>
            {
                Self::MemoryOf(agent.clone())
            }
            _ if header.partition == partition::BUS => Self::Message,
            _ => Self::Other,
        }
    }
}
