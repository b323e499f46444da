//! A batch of changes to the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{MutexGuard, PoisonError};

use super::View;
use super::meta::{Meta, entry_hash};
use super::store::{META_KEY, ProjectionError, ProjectionStore, full_key, read_meta, value_of};

impl ProjectionStore {
    /// Begins a batch. There is one at a time.
    pub fn begin(&self) -> ProjectionBatch<'_> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        ProjectionBatch {
            next: *self.next.borrow(),
            store: self,
            changes: BTreeMap::new(),
            bytes: 0,
            _writer: writer,
        }
    }
}

/// Changes that become visible together.
pub struct ProjectionBatch<'a> {
    store: &'a ProjectionStore,
    next: u64,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    // Of everything that was put, also where something else took its place.
    bytes: usize,
    _writer: MutexGuard<'a, ()>,
}

impl ProjectionBatch<'_> {
    /// How many records the store reflected when the batch began.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How much was put so far, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the changes and the position that they reflect visible, all at once.
    ///
    /// # Errors
    /// [`ProjectionError`]; then nothing changed, and the store should be reset.
    pub fn commit(self, next: u64) -> Result<(), ProjectionError> {
        self.store.with(|db| {
            let mut meta = Meta {
                next,
                ..read_meta(db)?
            };
            let mut batch = sled::Batch::default();
            for (key, value) in self.changes {
                if let Some(old) = db.get(&key)? {
                    meta.remove(entry_hash(&key, &old));
                }
                match value {
                    Some(value) => {
                        meta.add(entry_hash(&key, &value));
                        batch.insert(key, value);
                    }
                    None => batch.remove(key),
                }
            }
            batch.insert(META_KEY, meta.encode());
            db.apply_batch(batch)?;
            Ok(())
        })?;
        self.store.next.send_replace(next);
        Ok(())
    }
}

impl View for ProjectionBatch<'_> {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError> {
        match self.changes.get(&full_key(tree, key)) {
            Some(changed) => Ok(changed.clone()),
            None => self.store.with(|db| value_of(db, tree, key)),
        }
    }

    fn put(&mut self, tree: &str, key: &[u8], value: Vec<u8>) {
        self.bytes += value.len();
        self.changes.insert(full_key(tree, key), Some(value));
    }

    fn delete(&mut self, tree: &str, key: &[u8]) {
        self.changes.insert(full_key(tree, key), None);
    }

    fn append(&mut self, tree: &str, key: &[u8], more: &[u8]) -> Result<(), ProjectionError> {
        self.bytes += more.len();
        let held = match self.changes.entry(full_key(tree, key)) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => place.insert(self.store.with(|db| value_of(db, tree, key))?),
        };
        held.get_or_insert_default().extend_from_slice(more);
        Ok(())
    }
}

impl std::fmt::Debug for ProjectionBatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProjectionBatch")
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}
