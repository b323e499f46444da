//! The entries of one agent in one place: what is there, how large it is, what expires next.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::Timestamp;

/// A value that was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// What.
    pub value: Value,
    /// When it was written.
    pub at: Timestamp,
    /// From when on it cannot be read.
    pub expires_at: Option<Timestamp>,
    /// What it counts: the bytes of its key and of its value as JSON.
    pub bytes: u64,
}

impl Item {
    /// Whether it can be read at `now`.
    pub fn is_readable(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// Entries by key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shelf {
    items: BTreeMap<String, Item>,
    // Invariant: one element for each item that expires.
    expiries: BTreeSet<(Timestamp, String)>,
    // Invariant: the sum of the items' bytes.
    bytes: u64,
}

impl Shelf {
    /// The entry of a key, expired or not.
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// Entries in the order of their keys, those after `after` if it is given.
    pub fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&str, &Item)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.items
            .range::<str, _>((from, Unbounded))
            .map(|(key, item)| (key.as_str(), item))
    }

    /// Puts an entry; what was under the key is gone.
    pub fn put(&mut self, key: String, item: Item) {
        self.remove(&key);
        self.bytes += item.bytes;
        if let Some(end) = item.expires_at {
            self.expiries.insert((end, key.clone()));
        }
        self.items.insert(key, item);
    }

    /// Takes an entry away.
    pub fn remove(&mut self, key: &str) -> Option<Item> {
        let item = self.items.remove(key)?;
        self.bytes -= item.bytes;
        if let Some(end) = item.expires_at {
            self.expiries.remove(&(end, key.to_owned()));
        }
        Some(item)
    }

    /// Keys that cannot be read any more, those that expired first first.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        self.expiries
            .iter()
            .take_while(move |(end, _)| *end <= now)
            .map(|(_, key)| key.as_str())
    }

    /// When the next entry expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(end, _)| *end)
    }

    /// Bytes, of keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
