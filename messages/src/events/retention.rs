//! What is kept no longer.

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;

/// What is kept no longer. Partition `retention`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionEvent {
    /// These ended tasks are shown no more; their records are about to be erased.
    #[serde(rename = "tasks.removed")]
    Removed {
        /// Which.
        tasks: Vec<TaskId>,
    },
    /// Somebody ordered that content be erased. Written before anything is.
    #[serde(rename = "erasure.ordered")]
    Ordered {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// Which task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<TaskId>,
        /// Whose tasks and messages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
    /// Records of messages were erased by an order; their headers stay.
    #[serde(rename = "messages.erased")]
    MessagesErased {
        /// How many records.
        records: u64,
    },
    /// The records of all tasks removed before are erased; their headers stay.
    #[serde(rename = "tasks.erased")]
    Erased {
        /// How many records.
        records: u64,
    },
}
kinds!(RetentionEvent {
    Removed => "tasks.removed",
    Ordered => "erasure.ordered",
    MessagesErased => "messages.erased",
    Erased => "tasks.erased",
});
