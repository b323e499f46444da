//! Why memory is not read or written.

use mesh_messages::AgentId;

use super::{ENTRIES_MAX, KEY_BYTES_MAX, TTL_MAX, VALUE_BYTES_MAX};

/// Why memory is not read or written. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryRefusal {
    /// Not a key. Choose another.
    #[error(
        "key must be 1 to {KEY_BYTES_MAX} bytes, without control characters, not beginning or ending with a space"
    )]
    Key,
    /// Too large for memory. Store a file or a task's result, and remember its name.
    #[error("the value has {bytes} bytes; {VALUE_BYTES_MAX} are allowed")]
    Value {
        /// Its size.
        bytes: u64,
    },
    /// No time to live.
    #[error("ttl must be more than 0 and at most {} seconds", TTL_MAX.as_secs())]
    Ttl,
    /// The agent's `maxSize` is reached. Delete something first.
    #[error(
        "memory of {agent} holds {held} of {limit} bytes; {wanted} more do not fit; delete something first"
    )]
    Size {
        /// Whose.
        agent: AgentId,
        /// What it holds.
        held: u64,
        /// What it may hold.
        limit: u64,
        /// What was to be added.
        wanted: u64,
    },
    /// There are too many keys. Delete some first.
    #[error(
        "memory of {agent} holds {ENTRIES_MAX} entries, the most there may be; delete some first"
    )]
    Count {
        /// Whose.
        agent: AgentId,
    },
    /// The agent was terminated; its memory is kept but closed.
    #[error("memory of {0} is sealed because the agent was terminated")]
    Sealed(AgentId),
    /// Other agents may not read it. Its manifest would have to say `sharedAccess`.
    #[error("{owner} does not share its memory; {reader} may not read it")]
    NotShared {
        /// Whose.
        owner: AgentId,
        /// Who asked.
        reader: AgentId,
    },
    /// Nobody but its agent writes an agent's memory, shared or not.
    #[error("{writer} may not write the memory of {owner}")]
    NotYours {
        /// Whose.
        owner: AgentId,
        /// Who tried.
        writer: AgentId,
    },
}
