//! What agents remember: who may read and write which entry, where it lies, and when it is gone.
//!
//! | manifest `type` | written without `ttl` | written with `ttl` |
//! |---|---|---|
//! | `volatile` | in memory | in memory |
//! | `persistent` | journalled | journalled |
//! | `hybrid` | journalled | in memory |
//!
//! [`MemoryState`] is the durable half, a fold over [`MemoryEvent`]s. [`Volatile`] is the other; it cannot be serialised,
//! and so cannot reach a snapshot or the journal. A key lies in one of them: writing it to one takes it out of the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::events::MemoryEvent;
use mesh_messages::{AgentId, RecordHeader, Timestamp};

mod decide;
mod refusal;
mod shelf;

pub use decide::{
    Access, Listing, Once, Place, Range, Read, SetRequest, Stats, Write, check_access, check_key,
};
pub use refusal::MemoryRefusal;
pub use shelf::{Item, Shelf};

/// Longest key in bytes: keys are names, not content.
pub const KEY_BYTES_MAX: usize = 256;

/// Largest value in bytes of JSON. Larger things are files or task results, which the content store holds.
pub const VALUE_BYTES_MAX: u64 = 256 * 1024;

/// Most entries of one agent: all keys lie in the working memory of the daemon.
pub const ENTRIES_MAX: usize = 10_000;

/// What an agent may hold when its manifest names no `maxSize`.
pub const SIZE_DEFAULT_BYTES: u64 = 16 * 1000 * 1000;

/// Longest life of an entry, ten years: a longer one is meant to be "for ever", which is no `ttl`.
pub const TTL_MAX: std::time::Duration = std::time::Duration::from_hours(3650 * 24);

/// Expired entries that are cleared in one step, so that one commit stays small; the next step follows at once.
pub const CLEAR_MAX: usize = 500;

/// The durable memory of one agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Context {
    shelf: Shelf,
    sealed: bool,
}

/// Everything durable about agents' memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryState {
    contexts: BTreeMap<AgentId, Context>,
}

impl MemoryState {
    /// Whether an agent's memory is sealed: it was terminated.
    pub fn is_sealed(&self, agent: &AgentId) -> bool {
        self.contexts.get(agent).is_some_and(|c| c.sealed)
    }

    fn shelf(&self, agent: &AgentId) -> Option<&Shelf> {
        self.contexts.get(agent).map(|c| &c.shelf)
    }

    /// Events that clear what has expired, at most [`CLEAR_MAX`].
    pub fn clear_expired(&self, now: Timestamp) -> Vec<(AgentId, MemoryEvent)> {
        self.contexts
            .iter()
            .flat_map(|(agent, context)| context.shelf.expired(now).map(move |key| (agent, key)))
            .take(CLEAR_MAX)
            .map(|(agent, key)| {
                let event = MemoryEvent::Deleted {
                    agent: agent.clone(),
                    key: key.to_owned(),
                };
                (agent.clone(), event)
            })
            .collect()
    }

    /// When the next entry expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.contexts
            .values()
            .filter_map(|c| c.shelf.next_expiry())
            .min()
    }

    /// Takes an event in.
    pub fn apply(&mut self, _header: &RecordHeader, event: &MemoryEvent) {
        match event {
            MemoryEvent::Set {
                agent,
                key,
                value,
                expires_at,
                at,
            } => {
                let item = Item {
                    bytes: entry_bytes(key, value),
                    value: value.clone(),
                    at: *at,
                    expires_at: *expires_at,
                };
                self.context(agent).shelf.put(key.clone(), item);
            }
            MemoryEvent::Deleted { agent, key } => {
                self.context(agent).shelf.remove(key);
                self.forget_if_empty(agent);
            }
            MemoryEvent::Sealed { agent, sealed } => {
                self.context(agent).sealed = *sealed;
                self.forget_if_empty(agent);
            }
            MemoryEvent::Purged { agent } => {
                self.context(agent).shelf = Shelf::default();
                self.forget_if_empty(agent);
            }
        }
    }

    fn context(&mut self, agent: &AgentId) -> &mut Context {
        self.contexts.entry(agent.clone()).or_default()
    }

    fn forget_if_empty(&mut self, agent: &AgentId) {
        if self
            .contexts
            .get(agent)
            .is_some_and(|c| !c.sealed && c.shelf.is_empty())
        {
            self.contexts.remove(agent);
        }
    }
}

/// What lies in the working memory alone and ends with the agent's run.
///
/// Deliberately neither `Serialize` nor part of [`MemoryState`].
#[derive(Debug, Default)]
pub struct Volatile {
    shelves: BTreeMap<AgentId, Shelf>,
    // When each agent's memory was last read or written: of interest to people, not worth a record.
    accessed: BTreeMap<AgentId, Timestamp>,
}

impl Volatile {
    fn shelf(&self, agent: &AgentId) -> Option<&Shelf> {
        self.shelves.get(agent)
    }

    /// Puts an entry that [`MemoryState::set`] decided to keep here.
    pub fn put(&mut self, agent: &AgentId, key: String, item: Item) {
        self.shelves
            .entry(agent.clone())
            .or_default()
            .put(key, item);
    }

    /// Takes an entry away, if it is there.
    pub fn remove(&mut self, agent: &AgentId, key: &str) {
        let Some(shelf) = self.shelves.get_mut(agent) else {
            return;
        };
        shelf.remove(key);
        if shelf.is_empty() {
            self.shelves.remove(agent);
        }
    }

    /// Forgets all of an agent's: its run has ended.
    pub fn clear(&mut self, agent: &AgentId) {
        self.shelves.remove(agent);
        self.accessed.remove(agent);
    }

    /// Notes that an agent's memory was used.
    pub fn touch(&mut self, agent: &AgentId, now: Timestamp) {
        self.accessed.insert(agent.clone(), now);
    }

    /// Takes away what has expired.
    pub fn clear_expired(&mut self, now: Timestamp) {
        self.shelves.retain(|_, shelf| {
            let gone: Vec<String> = shelf.expired(now).map(str::to_owned).collect();
            for key in gone {
                shelf.remove(&key);
            }
            !shelf.is_empty()
        });
    }

    /// When the next entry expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.shelves.values().filter_map(Shelf::next_expiry).min()
    }
}

/// What an entry counts towards its agent's `maxSize`.
fn entry_bytes(key: &str, value: &Value) -> u64 {
    // The length of a JSON text is known only by writing it; writing into nothing costs no memory.
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(key.len() as u64);
    // Neither the value (its keys are texts) nor the writer can fail.
    let _written = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests;
