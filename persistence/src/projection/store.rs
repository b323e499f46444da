//! The store of projections, over sled.
//!
//! One sled tree, keys prefixed with the name of their tree: so a batch with its position is one atomic write. sled
//! loses data silently when its files are damaged, so the store keeps the number of its entries and the sum of their hashes, and
//! compares them with what is there whenever it was not closed in order: before it shows anything, but after it is opened, because
//! that takes the longer the more there is.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::generation::{
    mark_clean, mark_remake, newest_generation, open_sled, removed_for_remake, set_aside,
};
use super::meta::{Meta, entry_hash};
use crate::fsio;

/// Free bytes below which nothing is projected: several times what one batch and sled's next segments take.
const ROOM_MIN: u64 = 4 * 1024 * 1024;

/// Most entries of one page.
pub const PAGE_MAX: usize = 1000;

/// Where the store keeps what it knows about itself. No tree has an empty name.
pub(super) const META_KEY: &[u8] = b"\0meta";
/// Ends a tree's name within a key.
const SEPARATOR: u8 = 0;
/// Why the store did not answer. It is being rebuilt, or will be; retry.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// sled failed.
    #[error("the store of the projections failed: {0}")]
    Store(String),
    /// It was not closed in order, and its entries are still being compared with what was noted of them.
    #[error("the entries of the store of the projections are being checked")]
    Unchecked,
    /// It was begun anew, and does not show yet what it showed before.
    #[error("the projections are being rebuilt from the log")]
    Rebuilding,
    /// What is stored makes no sense.
    #[error("the store of the projections is damaged: {0}")]
    Damaged(String),
    /// The directory cannot be used.
    #[error("failed to access {path}: {reason}")]
    Io {
        /// The directory.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Why waiting for a position ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed. Retry, or answer that it is not known yet.
    #[error("the projections have not got there in time")]
    Timeout,
}

impl From<sled::Error> for ProjectionError {
    fn from(error: sled::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Some entries in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys (without the tree's name) and values.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the next page begins; `None` when this is the last.
    pub cursor: Option<Vec<u8>>,
}

/// Named trees of keys and values, and the position of the log that they reflect.
pub struct ProjectionStore {
    dir: PathBuf,
    empty: Meta,
    // `None` while it could not be opened.
    open: RwLock<Option<Open>>,
    // Taken by the one batch that is being made.
    pub(super) writer: Mutex<()>,
    // Nothing is shown before the entries are checked.
    unchecked: AtomicBool,
    // Whoever found the store there may read it a moment later: it is never shown with less than it once showed.
    shown: AtomicU64,
    pub(super) next: watch::Sender<u64>,
    // How many records somebody waits for.
    wanted: watch::Sender<u64>,
}

struct Open {
    generation: u64,
    db: sled::Db,
}

impl ProjectionStore {
    /// Opens the store in `dir` for a log of `journal_size` records. One that was not closed in order shows nothing before
    /// [`ProjectionStore::check_entries`].
    ///
    /// A store that is damaged, of another `version` or log, or ahead of the log, is set aside and begun anew. So is one that
    /// cannot be opened; when not even a new one can be made (a full disk), the store answers with errors until
    /// [`ProjectionStore::reset`] succeeds.
    ///
    /// # Errors
    /// [`ProjectionError::Io`] when `dir` cannot be made.
    pub fn open(
        dir: &Path,
        version: u32,
        log_id: &str,
        journal_size: u64,
    ) -> Result<Self, ProjectionError> {
        fsio::create_dir(dir).map_err(|e| io_error(dir, &e))?;
        let mut log = [0; 16];
        log.copy_from_slice(&blake3::hash(log_id.as_bytes()).as_bytes()[..16]);
        let empty = Meta {
            version,
            log,
            next: 0,
            entries: 0,
            sum: 0,
        };
        let store = Self {
            dir: dir.to_owned(),
            empty,
            open: RwLock::new(None),
            writer: Mutex::new(()),
            unchecked: AtomicBool::new(false),
            shown: AtomicU64::new(0),
            next: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
        };
        let (generation, clean) = newest_generation(dir).map_err(|e| io_error(dir, &e))?;
        if removed_for_remake(dir, generation).map_err(|e| io_error(dir, &e))? {
            tracing::info!(
                "the projections are rebuilt from the log without what was erased by order"
            );
            store.begin_anew(generation);
            return Ok(store);
        }
        match store.open_claimed(generation, journal_size) {
            Ok((db, meta)) => {
                let sound = clean || is_unused(&db, meta);
                *store.open.write().unwrap_or_else(PoisonError::into_inner) =
                    Some(Open { generation, db });
                if sound {
                    store.next.send_replace(meta.next);
                } else {
                    store.unchecked.store(true, Ordering::Release);
                }
            }
            Err(error) => store.give_up(generation, &error),
        }
        Ok(store)
    }

    /// Compares the entries with what was noted of them, unless the store was closed in order; one that is damaged is begun anew.
    /// Reads everything.
    pub fn check_entries(&self) {
        if !self.unchecked.load(Ordering::Acquire) {
            return;
        }
        let _no_batch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match self.with_open(whole) {
            Ok(next) => {
                self.unchecked.store(false, Ordering::Release);
                self.next.send_replace(next);
            }
            Err(error) => {
                let generation = self.generation().unwrap_or_default();
                self.give_up(generation, &error);
                self.unchecked.store(false, Ordering::Release);
            }
        }
    }

    /// How many records of the log the store reflects. Waits for nothing: sled lets nobody read while it writes a batch.
    ///
    /// # Errors
    /// [`ProjectionError`], when the store is not open or not checked yet.
    pub fn next_position(&self) -> Result<u64, ProjectionError> {
        self.with(|_| Ok(*self.next.borrow()))
    }

    /// How many records of the log the store says that it reflects, whether or not its entries have been checked.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn claimed_position(&self) -> Result<u64, ProjectionError> {
        self.with_open(read_meta).map(|meta| meta.next)
    }

    /// Waits until the store reflects the first `size` records.
    ///
    /// # Errors
    /// [`WaitError::Timeout`] after `timeout`.
    pub async fn wait_for(&self, size: u64, timeout: Duration) -> Result<(), WaitError> {
        let mut next = self.next.subscribe();
        self.wanted.send_if_modified(|wanted| {
            let more = size > *wanted;
            *wanted = size.max(*wanted);
            more
        });
        let waited = tokio::time::timeout(timeout, next.wait_for(|&next| next >= size)).await;
        // The sender lives as long as `self`.
        waited.map(|_| ()).map_err(|_| WaitError::Timeout)
    }

    /// Waits until somebody waits for more than the first `projected` records.
    pub(super) async fn wanted(&self, projected: u64) {
        let mut wanted = self.wanted.subscribe();
        // The sender lives as long as `self`.
        let _wanted = wanted.wait_for(|&wanted| wanted > projected).await.is_ok();
    }

    /// A value.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError> {
        self.read(|db| value_of(db, tree, key))
    }

    /// The entries whose keys begin with `prefix`, at most `limit` (and [`PAGE_MAX`]) of them, from `cursor` on.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn scan(
        &self,
        tree: &str,
        prefix: &[u8],
        cursor: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, ProjectionError> {
        let from = cursor.map_or(prefix, |cursor| cursor.max(prefix));
        self.page(tree, from, limit, |key| key.starts_with(prefix))
    }

    /// The entries from key `from` up to but without key `to`, at most `limit` (and [`PAGE_MAX`]) of them.
    ///
    /// The next page is the range from the page's cursor.
    ///
    /// # Errors
    /// [`ProjectionError`].
    pub fn range(
        &self,
        tree: &str,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Page, ProjectionError> {
        self.page(tree, from, limit, |key| key < to)
    }

    /// Has the store made anew when it is opened next: what is removed from it may stay in its files until then.
    ///
    /// # Errors
    /// [`ProjectionError::Io`].
    pub fn remake_when_opened(&self) -> Result<(), ProjectionError> {
        mark_remake(&self.dir).map_err(|e| io_error(&self.dir, &e))
    }

    /// Sets the store aside and begins an empty one.
    pub fn reset(&self) {
        let newest = newest_generation(&self.dir).map_or(0, |(generation, _)| generation);
        self.begin_anew(self.generation().unwrap_or(newest).max(newest));
    }

    fn generation(&self) -> Option<u64> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| open.generation)
    }

    fn give_up(&self, generation: u64, error: &ProjectionError) {
        tracing::warn!(%error, "the projections cannot be used; they are rebuilt from the log");
        self.begin_anew(generation);
    }

    fn begin_anew(&self, generation: u64) {
        let old = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(old) = old {
            // Ends sled's threads; after a failed write it may wait for them for ever, which must hold up nobody.
            let closing = std::thread::Builder::new().name("projections-close".into());
            if let Err(error) = closing.spawn(move || drop(old)) {
                tracing::warn!(%error, "the old projections were not closed");
            }
        }
        self.shown.fetch_max(*self.next.borrow(), Ordering::AcqRel);
        self.next.send_replace(0);
        if !self.has_room() {
            // It stays closed; whoever follows the log comes back.
            return;
        }
        if let Err(error) = set_aside(&self.dir, generation) {
            tracing::warn!(%error, "the old projections were not set aside");
        }
        let generation = generation + 1;
        match self.create(generation) {
            Ok(db) => {
                let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
                *open = Some(Open { generation, db });
            }
            Err(error) => tracing::error!(%error, "no store for the projections can be made"),
        }
    }

    /// Whether the disk has room for what a batch writes. sled does not survive a disk that is full.
    pub(super) fn has_room(&self) -> bool {
        rustix::fs::statvfs(&self.dir)
            .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM_MIN)
    }

    fn create(&self, generation: u64) -> Result<sled::Db, ProjectionError> {
        let db = open_sled(&self.dir, generation)?;
        db.insert(META_KEY, self.empty.encode())?;
        Ok(db)
    }

    /// Opens a generation and checks everything but its entries.
    fn open_claimed(
        &self,
        generation: u64,
        journal_size: u64,
    ) -> Result<(sled::Db, Meta), ProjectionError> {
        let db = open_sled(&self.dir, generation)?;
        if db.is_empty() && generation == 0 {
            db.insert(META_KEY, self.empty.encode())?;
            return Ok((db, self.empty));
        }
        let meta = guarded(|| read_meta(&db))?;
        let useless = |detail: &str| Err(ProjectionError::Damaged(detail.to_owned()));
        if (meta.version, meta.log) != (self.empty.version, self.empty.log) {
            return useless("it is of another version or of another log");
        }
        if meta.next > journal_size {
            return useless("it is ahead of the log");
        }
        Ok((db, meta))
    }

    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&sled::Db) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        if self.unchecked.load(Ordering::Acquire) {
            return Err(ProjectionError::Unchecked);
        }
        self.with_open(read)
    }

    /// What others see: nothing that is less than what they may have seen before.
    fn read<T>(
        &self,
        read: impl FnOnce(&sled::Db) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        self.with(|db| {
            if *self.next.borrow() < self.shown.load(Ordering::Acquire) {
                return Err(ProjectionError::Rebuilding);
            }
            read(db)
        })
    }

    fn with_open<T>(
        &self,
        read: impl FnOnce(&sled::Db) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(open) => read(&open.db),
            None => Err(ProjectionError::Store("it is not open".into())),
        }
    }

    fn page(
        &self,
        tree: &str,
        from: &[u8],
        limit: usize,
        belongs: impl Fn(&[u8]) -> bool,
    ) -> Result<Page, ProjectionError> {
        let limit = limit.min(PAGE_MAX);
        let name = full_key(tree, b"");
        self.read(|db| {
            let mut page = Page::default();
            for entry in db.range(full_key(tree, from)..) {
                let (key, value) = entry?;
                let Some(key) = key.strip_prefix(name.as_slice()).filter(|key| belongs(key)) else {
                    break;
                };
                if page.entries.len() == limit {
                    page.cursor = Some(key.to_vec());
                    break;
                }
                page.entries.push((key.to_vec(), value.to_vec()));
            }
            Ok(page)
        })
    }
}

impl Drop for ProjectionStore {
    fn drop(&mut self) {
        let open = self
            .open
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Open { generation, db }) = open else {
            return;
        };
        if self.unchecked.load(Ordering::Acquire) {
            // Whoever opens it next checks it.
            return;
        }
        match db.flush() {
            Ok(_) => {
                let clean = mark_clean(&self.dir, generation);
                if let Err(error) = clean {
                    tracing::warn!(%error, "the projections are checked at the next start");
                }
            }
            Err(error) => tracing::warn!(%error, "the projections are rebuilt at the next start"),
        }
    }
}

impl std::fmt::Debug for ProjectionStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProjectionStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

pub(super) fn value_of(
    db: &sled::Db,
    tree: &str,
    key: &[u8],
) -> Result<Option<Vec<u8>>, ProjectionError> {
    Ok(db.get(full_key(tree, key))?.map(|value| value.to_vec()))
}

pub(super) fn full_key(tree: &str, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(tree.len() + 1 + key.len());
    full.extend_from_slice(tree.as_bytes());
    full.push(SEPARATOR);
    full.extend_from_slice(key);
    full
}

/// The position that a store reflects, if its entries are those that were noted.
fn whole(db: &sled::Db) -> Result<u64, ProjectionError> {
    let meta = read_meta(db)?;
    let found = guarded(|| {
        let mut found = Meta {
            entries: 0,
            sum: 0,
            ..meta
        };
        for entry in db.iter() {
            let (key, value) = entry?;
            if key.as_ref() != META_KEY {
                found.add(entry_hash(&key, &value));
            }
        }
        Ok(found == meta)
    })?;
    if found {
        Ok(meta.next)
    } else {
        Err(ProjectionError::Damaged(
            "entries are missing or changed".to_owned(),
        ))
    }
}

/// Whether a store is as it was made. Damage can take it back to where it had no entries, and leave some of them.
fn is_unused(db: &sled::Db, meta: Meta) -> bool {
    let only_meta = || Ok(db.iter().nth(1).transpose()?.is_none());
    meta.entries == 0 && guarded(only_meta).is_ok_and(|only| only)
}

/// sled panics on some damage.
fn guarded<T>(read: impl FnOnce() -> Result<T, ProjectionError>) -> Result<T, ProjectionError> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| ProjectionError::Damaged("sled panicked".into()))?
}

pub(super) fn read_meta(db: &sled::Db) -> Result<Meta, ProjectionError> {
    db.get(META_KEY)?
        .as_deref()
        .and_then(Meta::decode)
        .ok_or_else(|| ProjectionError::Damaged("its position is missing".into()))
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> ProjectionError {
    ProjectionError::Io {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
