//! The record: the unit of truth.
//!
//! A record is a *header* and a *payload*. The header is one JSON object; its bytes, exactly as stored, are the
//! leaf of the audit tree (SHA-256 of `0x00 ‖ header`). It holds the payload only as a salted commitment, so a
//! payload can be erased without touching the proof.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, Position, TaskId};
use crate::time::Timestamp;

/// Version of the header's own format. A reader refuses a header with a larger one.
pub const RECORD_FORMAT: u16 = 1;

/// Largest payload carried inside a record; larger content goes to the content store, by digest.
pub const PAYLOAD_INLINE_MAX: usize = 32 * 1024;

/// The header of a record, in the order its fields are written.
///
/// An old reader refuses a newer `v`; within one `v` fields are only ever added, and an old reader ignores them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHeader {
    /// Format version, [`RECORD_FORMAT`].
    pub v: u16,
    /// Namespace; `default` until there are several.
    pub ns: Cow<'static, str>,
    /// The log this record belongs to: the `did:key` of the node that appended it.
    pub log: String,
    /// Index of this record in its log, from 0; also its leaf index.
    pub position: Position,
    /// The partition whose state this record changes.
    pub partition: PartitionId,
    /// Index of this record within its partition, from 0.
    pub seq: u64,
    /// Hybrid logical time: wall clock, never going back.
    pub time: Timestamp,
    /// Logical counter that orders records of one millisecond.
    pub lc: u32,
    /// What happened, for example `registered` or `task.submitted`.
    pub kind: Cow<'static, str>,
    /// Version of this kind's payload. Older ones are upcast on read, newer ones refused.
    pub kv: u16,
    /// The agent it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The task it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Who caused it: `user:<name>`, `agent:<id>`, `meshd`.
    pub actor: String,
    /// Position of the record that led to this one.
    #[serde(default)]
    pub cause: Option<Position>,
    /// Ties together everything that one request led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// `sha256:` + lower-case hex of SHA-256(salt ‖ payload).
    pub payload: String,
}

/// What an owner asks the journal to append; the journal fills in the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// See [`RecordHeader::kind`].
    pub kind: Cow<'static, str>,
    /// See [`RecordHeader::kv`].
    pub kind_version: u16,
    /// See [`RecordHeader::agent`].
    pub agent: Option<AgentId>,
    /// See [`RecordHeader::task`].
    pub task: Option<TaskId>,
    /// See [`RecordHeader::actor`].
    pub actor: String,
    /// See [`RecordHeader::cause`].
    pub cause: Option<Position>,
    /// The record that led to this one where that is an earlier one of the same append, by its index there: its position is
    /// not known before. It takes the place of `cause`.
    pub after: Option<u32>,
    /// See [`RecordHeader::correlation`].
    pub correlation: Option<String>,
    /// UTF-8 JSON, at most [`PAYLOAD_INLINE_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The parsed header.
    pub header: RecordHeader,
    /// The header's very bytes (the leaf's content).
    pub header_bytes: Vec<u8>,
    /// Salt and payload; `None` once erased.
    pub body: Option<RecordBody>,
}

/// The erasable half of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBody {
    /// Random bytes that keep a short payload from being guessed from its commitment.
    pub salt: [u8; 16],
    /// UTF-8 JSON.
    pub payload: Vec<u8>,
}

/// Name of a partition, for example `agents` or `tasks/0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub Cow<'static, str>);

impl PartitionId {
    /// A partition known at compile time.
    pub const fn from_static(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
