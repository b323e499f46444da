//! The decisions: pure functions of the durable state, the volatile one, the manifest's rules and the time.

use std::time::Duration;

use serde_json::Value;

use mesh_messages::events::MemoryEvent;
use mesh_messages::manifest::{MemoryConfig, MemoryType};
use mesh_messages::units::ByteCount;
use mesh_messages::{AgentId, Timestamp};

use super::{
    ENTRIES_MAX, Item, KEY_BYTES_MAX, MemoryRefusal, MemoryState, SIZE_DEFAULT_BYTES, TTL_MAX,
    VALUE_BYTES_MAX, Volatile, entry_bytes,
};

/// What is wanted of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To get, list or count.
    Read,
    /// To set or delete.
    Write,
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the journal.
    Journal,
    /// In the working memory alone.
    Working,
}

/// A readable entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The entry.
    pub item: Item,
    /// Where it lies.
    pub place: Place,
}

/// Entries in the order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The entries.
    pub rows: Vec<(String, Read)>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Which entries to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys that come after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A value to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct SetRequest {
    /// Whose memory.
    pub agent: AgentId,
    /// Where.
    pub key: String,
    /// What.
    pub value: Value,
    /// How long it lives; the manifest's `ttl` is the most, and what holds when this is absent.
    pub ttl: Option<Duration>,
}

/// How a value is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The entry as it will be.
    pub item: Item,
    /// Where it is put: with [`Place::Working`] into the working memory, out of which it is taken otherwise.
    pub place: Place,
    /// What is journalled: the write itself, or the deletion of what the key held before.
    pub events: Vec<MemoryEvent>,
}

/// What becomes of a value that is recorded once.
#[derive(Debug, Clone, PartialEq)]
pub enum Once {
    /// It is written.
    First(Write),
    /// Another one was before.
    There(Read),
}

/// An agent's memory in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of readable keys and values.
    pub bytes: u64,
    /// Readable entries.
    pub entries: u64,
    /// When it was last used.
    pub accessed: Option<Timestamp>,
}

/// Whether `agent` may read, or write, the memory of `owner`.
///
/// # Errors
/// [`MemoryRefusal::NotYours`], [`MemoryRefusal::NotShared`].
pub fn check_access(
    agent: &AgentId,
    owner: &AgentId,
    rules: &MemoryConfig,
    access: Access,
) -> Result<(), MemoryRefusal> {
    match access {
        _ if agent == owner => Ok(()),
        Access::Read if rules.shared_access => Ok(()),
        Access::Read => Err(MemoryRefusal::NotShared {
            owner: owner.clone(),
            reader: agent.clone(),
        }),
        Access::Write => Err(MemoryRefusal::NotYours {
            owner: owner.clone(),
            writer: agent.clone(),
        }),
    }
}

/// Checks a key.
///
/// # Errors
/// [`MemoryRefusal::Key`].
pub fn check_key(key: &str) -> Result<(), MemoryRefusal> {
    let ok = (1..=KEY_BYTES_MAX).contains(&key.len())
        && !key.chars().any(char::is_control)
        && key.trim() == key;
    if ok { Ok(()) } else { Err(MemoryRefusal::Key) }
}

impl MemoryState {
    /// Decides where and how a value is written.
    ///
    /// # Errors
    /// [`MemoryRefusal`].
    pub fn set(
        &self,
        working: &Volatile,
        rules: &MemoryConfig,
        now: Timestamp,
        request: SetRequest,
    ) -> Result<Write, MemoryRefusal> {
        let SetRequest {
            agent,
            key,
            value,
            ttl,
        } = request;
        self.check_open(&agent)?;
        check_key(&key)?;
        if ttl.is_some_and(|ttl| ttl < Duration::from_millis(1) || ttl > TTL_MAX) {
            return Err(MemoryRefusal::Ttl);
        }
        let bytes = entry_bytes(&key, &value);
        let value_bytes = bytes - key.len() as u64;
        if value_bytes > VALUE_BYTES_MAX {
            return Err(MemoryRefusal::Value { bytes: value_bytes });
        }
        self.check_room(working, rules, now, &agent, (&key, bytes))?;
        let longest = rules.ttl.map(Duration::from_secs);
        let life = ttl.into_iter().chain(longest).min();
        let expires_at = life.map(|life| now.plus(life));
        let journalled = match rules.kind {
            MemoryType::Volatile => false,
            MemoryType::Persistent => true,
            MemoryType::Hybrid => ttl.is_none(),
        };
        let item = Item {
            value: value.clone(),
            at: now,
            expires_at,
            bytes,
        };
        if journalled {
            let event = MemoryEvent::Set {
                agent,
                key,
                value,
                expires_at,
                at: now,
            };
            return Ok(Write {
                item,
                place: Place::Journal,
                events: vec![event],
            });
        }
        let replaced = self
            .shelf(&agent)
            .is_some_and(|shelf| shelf.get(&key).is_some());
        let events = replaced
            .then_some(MemoryEvent::Deleted { agent, key })
            .into_iter()
            .collect();
        Ok(Write {
            item,
            place: Place::Working,
            events,
        })
    }

    /// Decides on what is recorded once: the entry that is there already, or else a durable write of this one. It lives for
    /// its own `ttl`, not for that of the manifest.
    ///
    /// # Errors
    /// [`MemoryRefusal`].
    pub fn once(
        &self,
        working: &Volatile,
        rules: &MemoryConfig,
        now: Timestamp,
        request: SetRequest,
    ) -> Result<Once, MemoryRefusal> {
        self.check_open(&request.agent)?;
        check_key(&request.key)?;
        if let Some(there) = self.get(working, now, &request.agent, &request.key)? {
            return Ok(Once::There(there));
        }
        let durable = MemoryConfig {
            kind: MemoryType::Persistent,
            ttl: None,
            ..rules.clone()
        };
        self.set(working, &durable, now, request).map(Once::First)
    }

    fn check_open(&self, agent: &AgentId) -> Result<(), MemoryRefusal> {
        if self.is_sealed(agent) {
            Err(MemoryRefusal::Sealed(agent.clone()))
        } else {
            Ok(())
        }
    }

    /// Whether an entry fits, once what is unreadable or replaced by it is gone.
    fn check_room(
        &self,
        working: &Volatile,
        rules: &MemoryConfig,
        now: Timestamp,
        agent: &AgentId,
        (key, wanted): (&str, u64),
    ) -> Result<(), MemoryRefusal> {
        let (mut held, mut count) = (0, 0);
        for shelf in self.shelf(agent).into_iter().chain(working.shelf(agent)) {
            held += shelf.bytes();
            count += shelf.len();
            // What expired between two sweeps must not stand in the way.
            let unreadable = shelf
                .expired(now)
                .filter(|k| *k != key)
                .filter_map(|k| shelf.get(k));
            for gone in unreadable.chain(shelf.get(key)) {
                held -= gone.bytes;
                count -= 1;
            }
        }
        let limit = rules.max_size.map_or(SIZE_DEFAULT_BYTES, ByteCount::bytes);
        if held.saturating_add(wanted) > limit {
            return Err(MemoryRefusal::Size {
                agent: agent.clone(),
                held,
                limit,
                wanted,
            });
        }
        if count >= ENTRIES_MAX {
            return Err(MemoryRefusal::Count {
                agent: agent.clone(),
            });
        }
        Ok(())
    }

    /// Reads an entry; `None` when there is none, or none any more.
    ///
    /// # Errors
    /// [`MemoryRefusal::Key`], [`MemoryRefusal::Sealed`].
    pub fn get(
        &self,
        working: &Volatile,
        now: Timestamp,
        agent: &AgentId,
        key: &str,
    ) -> Result<Option<Read>, MemoryRefusal> {
        self.check_open(agent)?;
        check_key(key)?;
        Ok(self
            .find(working, agent, key)
            .filter(|read| read.item.is_readable(now)))
    }

    fn find(&self, working: &Volatile, agent: &AgentId, key: &str) -> Option<Read> {
        let find = |shelf: Option<&super::Shelf>, place| {
            shelf.and_then(|s| s.get(key)).map(|item| Read {
                item: item.clone(),
                place,
            })
        };
        find(working.shelf(agent), Place::Working)
            .or_else(|| find(self.shelf(agent), Place::Journal))
    }

    /// Decides what is journalled when an entry is deleted, from the working memory, too; `None` when there is none that
    /// could be read.
    ///
    /// # Errors
    /// [`MemoryRefusal::Key`], [`MemoryRefusal::Sealed`].
    pub fn delete(
        &self,
        working: &Volatile,
        now: Timestamp,
        agent: &AgentId,
        key: &str,
    ) -> Result<Option<Vec<MemoryEvent>>, MemoryRefusal> {
        let Some(read) = self.get(working, now, agent, key)? else {
            return Ok(None);
        };
        let event = MemoryEvent::Deleted {
            agent: agent.clone(),
            key: key.to_owned(),
        };
        Ok(Some(match read.place {
            Place::Journal => vec![event],
            Place::Working => Vec::new(),
        }))
    }

    /// Lists readable entries in the order of their keys.
    ///
    /// # Errors
    /// [`MemoryRefusal::Sealed`].
    pub fn list(
        &self,
        working: &Volatile,
        now: Timestamp,
        agent: &AgentId,
        range: &Range,
    ) -> Result<Listing, MemoryRefusal> {
        self.check_open(agent)?;
        let limit = range.limit;
        // One more than asked for from each place says whether there is more.
        let of = |shelf: Option<&super::Shelf>, place| -> Vec<(String, Read)> {
            shelf
                .into_iter()
                .flat_map(|shelf| shelf.after(range.after.as_deref()))
                .filter(|(key, item)| key.starts_with(&range.prefix) && item.is_readable(now))
                .take(limit.saturating_add(1))
                .map(|(key, item)| {
                    (
                        key.to_owned(),
                        Read {
                            item: item.clone(),
                            place,
                        },
                    )
                })
                .collect()
        };
        let mut rows = of(working.shelf(agent), Place::Working);
        rows.extend(of(self.shelf(agent), Place::Journal));
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        // After a failure of the journal a key can be left in both places; the working one is the later write.
        rows.dedup_by(|later, first| later.0 == first.0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Listing { rows, more })
    }

    /// An agent's memory in numbers. A sealed one can be counted, too.
    pub fn stats(&self, working: &Volatile, now: Timestamp, agent: &AgentId) -> Stats {
        let (mut bytes, mut entries) = (0, 0);
        for shelf in self.shelf(agent).into_iter().chain(working.shelf(agent)) {
            let readable = shelf.after(None).filter(|(_, item)| item.is_readable(now));
            for (_, item) in readable {
                bytes += item.bytes;
                entries += 1;
            }
        }
        Stats {
            bytes,
            entries,
            accessed: working.accessed.get(agent).copied(),
        }
    }

    /// Decides on closing or opening an agent's memory; no event when it is so already.
    pub fn seal(&self, agent: &AgentId, sealed: bool) -> Option<MemoryEvent> {
        (self.is_sealed(agent) != sealed).then(|| MemoryEvent::Sealed {
            agent: agent.clone(),
            sealed,
        })
    }

    /// Decides on forgetting all of an agent's values; no event when there are none.
    pub fn purge(&self, agent: &AgentId) -> Option<MemoryEvent> {
        self.shelf(agent)
            .is_some_and(|shelf| !shelf.is_empty())
            .then(|| MemoryEvent::Purged {
                agent: agent.clone(),
            })
    }
}
