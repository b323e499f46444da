//! Erasing what the log holds of somebody, or of a task: the order, and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::ids::TaskId;

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
