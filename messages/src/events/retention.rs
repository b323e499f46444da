//! What is kept no longer.

use serde::{Deserialize, Serialize};

use crate::ids::{Position, TaskId};

/// Records that one event dooms: their positions then stay below the size from which on a payload lies in the content store,
/// where an export does not have it.
pub const DOOMED_RECORDS_MAX: usize = 1000;

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
        /// Whether it is open until [`Done`](RetentionEvent::Done), and gone on with after a restart. Orders of versions that
        /// wrote no end are not.
        #[serde(default)]
        open: bool,
        /// Whether [`RecordsDoomed`](RetentionEvent::RecordsDoomed) names the records of messages that go by it. Orders of
        /// earlier versions named none.
        #[serde(default)]
        names: bool,
    },
    /// The oldest open order is carried out, as far as it could be.
    #[serde(rename = "erasure.done")]
    Done {
        /// Tasks that are gone.
        tasks: u64,
        /// Records of messages that are erased.
        messages: u64,
    },
    /// These records are about to be erased. Those of tasks are named by [`Removed`](RetentionEvent::Removed), unless they
    /// came after it.
    #[serde(rename = "records.doomed")]
    RecordsDoomed {
        /// Which, at most [`DOOMED_RECORDS_MAX`].
        records: Vec<Position>,
        /// The root of the backup that the log goes on from, when they were erased in it and it did not say so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restored: Option<String>,
    },
    /// Content of records that are about to be erased; it goes when no record that stays refers to it.
    #[serde(rename = "content.doomed")]
    ContentDoomed {
        /// Which, by digest.
        digests: Vec<String>,
    },
    /// Of all content doomed before, what nothing refers to is removed.
    #[serde(rename = "content.removed")]
    ContentRemoved {
        /// How many.
        files: u64,
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
    Done => "erasure.done",
    RecordsDoomed => "records.doomed",
    ContentDoomed => "content.doomed",
    ContentRemoved => "content.removed",
    MessagesErased => "messages.erased",
    Erased => "tasks.erased",
});
