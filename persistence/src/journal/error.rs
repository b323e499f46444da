//! Why an operation of the journal did not happen, one enum per operation.

use std::io;
use std::sync::Arc;

use mesh_messages::{PartitionId, Position};

use crate::succession::SuccessionInvalid;

/// New work is refused because the disk is full.
///
/// What is running may still record its progress. The journal recovers by itself once there is space: try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal takes no new work: {reason}")]
pub struct ReadOnly {
    /// What the operating system said, for the operator.
    pub reason: Arc<str>,
}

/// The journal stopped after a failed write or sync.
///
/// Nothing that was not yet durable may be believed. Discard the state in memory and open the journal again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal has failed: {reason}")]
pub struct Failed {
    /// What failed, for the operator.
    pub reason: Arc<str>,
}

/// Why records were not appended. Nothing of the append was taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Somebody else appended to the partition: the caller's state is stale. Stop; do not retry.
    #[error("partition {partition} is at {current}, not at {expected}")]
    Fenced {
        /// The partition.
        partition: PartitionId,
        /// The sequence number that the caller expected to write.
        expected: u64,
        /// The sequence number that is next.
        current: u64,
    },
    /// The queue to the disk is full. Retry with backoff, or refuse the command.
    #[error("the journal is busy: {queued_bytes} bytes wait for the disk")]
    Busy {
        /// How much waits for the disk.
        queued_bytes: usize,
    },
    /// The disk is full, and this append does not fit what is left. Refuse the command; a later one may succeed.
    #[error(transparent)]
    ReadOnly(#[from] ReadOnly),
    /// The journal has failed. Discard the state in memory and open it again.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// Part of the append is larger than its bound. Refuse the command; large content belongs in the content store.
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The append holds no record. A bug of the caller.
    #[error("nothing to append")]
    Empty,
    /// A payload is not UTF-8. A bug of the caller.
    #[error("payload of record {index} of the append is not UTF-8")]
    NotUtf8 {
        /// Index of the record within the append.
        index: usize,
    },
    /// The operating system gave no random bytes for a salt. Retry.
    #[error("no random bytes for a salt: {0}")]
    Random(String),
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Stored bytes are not what was written. Stop; restore the file from a copy.
    #[error("{file} is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A record of a newer meshd. Use that version.
    #[error("record {position} has format {found}, this version reads up to {supported}")]
    Newer {
        /// Which record.
        position: Position,
        /// Its format.
        found: u16,
        /// The newest format that can be read.
        supported: u16,
    },
    /// The operating system refused. Retry, or report.
    #[error("failed to read {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Why payloads were not erased.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// The record is not durable yet, or does not exist. Wait for it.
    #[error("record {0} is not durable")]
    NotDurable(Position),
    /// The record cannot be found because the log is damaged.
    #[error("failed to find a record to erase")]
    Read(#[from] ReadError),
    /// The journal has failed. Open it again; an erasure that had begun is completed then.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The operating system refused. An erasure that had begun is completed when the journal is opened again.
    #[error("failed to erase in {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Why a snapshot was not saved or could not be looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It reflects records that are not durable yet. Save it when they are.
    #[error(
        "snapshot of {partition} reflects records up to {next}, but only {durable} are durable"
    )]
    NotDurable {
        /// The partition.
        partition: PartitionId,
        /// See [`Snapshot::next`](crate::Snapshot::next).
        next: Position,
        /// How many records are durable.
        durable: u64,
    },
    /// The operating system refused. The snapshots before it still stand; retry later.
    #[error("failed to access {path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Asks for a size or an index that the log does not have. A bad request.
    #[error("no proof for index or size {asked}: the tree has {size} leaves")]
    OutOfRange {
        /// What was asked for.
        asked: u64,
        /// The limit.
        size: u64,
    },
    /// The tree's stored hashes are damaged and the log could not be read to rebuild them.
    #[error("failed to read the log for a proof")]
    Read(#[from] ReadError),
    /// The tree's stored hashes cannot be read or written. Retry, or report.
    #[error("failed to access the hashes of the tree in {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The hashes do not add up to the root, even after they were rebuilt from the log. Stop and report.
    #[error("hashes of the tree do not add up: {detail}")]
    Inconsistent {
        /// What does not add up.
        detail: String,
    },
}

/// Why no checkpoint was given out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A larger checkpoint was given out before. The log has lost records: stop and investigate.
    #[error("a checkpoint over {last} records was given out, the log holds {size}")]
    Smaller {
        /// Size of the last one given out.
        last: u64,
        /// Size of the log.
        size: u64,
    },
    /// The log is not a continuation of what was last signed. Stop and investigate.
    #[error("the log's first {last} records are not those of the last checkpoint")]
    Inconsistent {
        /// Size of the last one given out.
        last: u64,
    },
    /// The root could not be computed.
    #[error("failed to compute the root")]
    Proof(#[from] ProofError),
    /// The journal has failed. Open it again.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The note could not be made: the log's id is no valid key name.
    #[error("failed to make a signed note: {0}")]
    Note(String),
    /// It could not be remembered, so it was not given out. Retry.
    #[error("failed to store the checkpoint in {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Why no other key signs for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SucceedError {
    /// The key in force could not sign its last checkpoint.
    #[error("the key in force could not sign its last checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The new key cannot take over here: it was the log's before, there is no record since the last time, or there were too
    /// many.
    #[error("the new key cannot take over: {0}")]
    Refused(#[from] SuccessionInvalid),
    /// The file that says so could not be written. The journal has failed unless the file is certainly as it was.
    #[error("failed to store the succession in {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}
