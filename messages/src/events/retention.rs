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
    /// The records of all tasks removed before are erased; their headers stay.
    #[serde(rename = "tasks.erased")]
    Erased {
        /// How many records.
        records: u64,
    },
}
kinds!(RetentionEvent {
    Removed => "tasks.removed",
    Erased => "tasks.erased",
});
