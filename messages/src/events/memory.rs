//! What is written into persistent memory.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::AgentId;
use crate::time::Timestamp;

/// Persistent memory. Partition `memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MemoryEvent {
    /// A value was written.
    #[serde(rename = "memory.set")]
    Set {
        /// Whose.
        agent: AgentId,
        /// Where.
        key: String,
        /// What.
        value: Value,
        /// Until when it can be read.
        expires_at: Option<Timestamp>,
        /// When it was written.
        at: Timestamp,
    },
    /// A value was deleted, or expired.
    #[serde(rename = "memory.deleted")]
    Deleted {
        /// Whose.
        agent: AgentId,
        /// Where.
        key: String,
    },
    /// All of an agent's values became unreadable (it was terminated), or readable again.
    #[serde(rename = "memory.sealed")]
    Sealed {
        /// Whose.
        agent: AgentId,
        /// Whether they are sealed.
        sealed: bool,
    },
    /// All of an agent's values are gone.
    #[serde(rename = "memory.purged")]
    Purged {
        /// Whose.
        agent: AgentId,
    },
}

kinds!(MemoryEvent {
    Set => "memory.set",
    Deleted => "memory.deleted",
    Sealed => "memory.sealed",
    Purged => "memory.purged",
});
