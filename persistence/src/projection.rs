//! Projections: views derived from the log, for lists and look-ups. Disposable: damaged, foreign or outdated, they are
//! rebuilt from the log and never trusted.
//!
//! What a view holds is a [`Projector`]'s business; this module knows nothing about events.

use std::sync::Arc;
use std::time::Duration;

use mesh_messages::{Position, Record};

use crate::journal::{Failed, Journal, ReadError};

mod batch;
mod generation;
mod meta;
mod store;
#[cfg(test)]
mod tests;

pub use batch::ProjectionBatch;
pub use store::{PAGE_MAX, Page, ProjectionError, ProjectionStore, WaitError};

/// Records that are projected in one batch, and about how much they may hold or change: so many that most of what a busy mesh
/// does within [`GATHER_MAX`] is one batch, so few that readers see them soon and that the memory they take is small.
const BATCH_RECORDS_MAX: u64 = 4096;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long records wait for those that follow, unless somebody wants to read them: much of what is written lives shorter, so that
/// a row is written once and not at each of its states.
const GATHER_MAX: Duration = Duration::from_millis(250);

/// How soon a full disk is looked at again.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// How soon a store that failed is rebuilt, at first and at most: the usual reason is a full disk, which takes a while.
const REBUILD_DELAY_MIN: Duration = Duration::from_secs(1);
const REBUILD_DELAY_MAX: Duration = Duration::from_secs(30);

/// Turns records into changes of a view. Must depend on nothing but the record and the view.
pub trait Projector: Send + Sync {
    /// Version of what it makes. A store of another version is rebuilt.
    fn version(&self) -> u32;

    /// Begins with records that follow each other and become visible together.
    fn pass(&self) -> Box<dyn Pass + '_>;
}

/// Records that are projected together.
pub trait Pass {
    /// Applies one record, at the latest when the pass is finished. Returns how many bytes of payload it took in.
    ///
    /// # Errors
    /// [`ProjectError::View`] is passed on from `view`; [`ProjectError::Record`] when the record cannot be understood.
    fn project(&mut self, record: &Record, view: &mut dyn View) -> Result<usize, ProjectError>;
    /// Makes what was put off.
    ///
    /// # Errors
    /// As [`Pass::project`].
    fn finish(self: Box<Self>, view: &mut dyn View) -> Result<(), ProjectError>;
}

/// What a projector sees: named trees of keys and values, with its own changes in them.
pub trait View {
    /// A value.
    ///
    /// # Errors
    /// [`ProjectionError`], to be passed on.
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError>;
    /// Sets a value.
    fn put(&mut self, tree: &str, key: &[u8], value: Vec<u8>);
    /// Removes a key; nothing happens when it is not there.
    fn delete(&mut self, tree: &str, key: &[u8]);
    /// Puts bytes behind a value, an empty one if there is none.
    ///
    /// # Errors
    /// [`ProjectionError`], to be passed on.
    fn append(&mut self, tree: &str, key: &[u8], more: &[u8]) -> Result<(), ProjectionError>;
}

/// Why a record was not projected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The store failed. It is rebuilt.
    #[error(transparent)]
    View(#[from] ProjectionError),
    /// The record cannot be understood: a bug, or a log of a newer version. Following stops.
    #[error("record {position} cannot be projected: {detail}")]
    Record {
        /// Which.
        position: Position,
        /// Why.
        detail: String,
    },
}

/// Why following a log ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The journal failed. Open it again, then follow that.
    #[error(transparent)]
    Journal(#[from] Failed),
    /// The log cannot be read.
    #[error("failed to read the log for the projections")]
    Read(#[from] ReadError),
    /// A record cannot be projected. A bug, or a log of a newer version.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Shutdown,
}

/// Keeps a store up with a journal: until the journal fails or closes, or the future is dropped.
///
/// When the store fails (a full disk, damage) it is emptied and built anew, with a growing delay; waiters wait meanwhile.
///
/// # Errors
/// [`FollowError`] says why it ended.
pub async fn follow(
    store: Arc<ProjectionStore>,
    journal: Arc<dyn Journal>,
    projector: Arc<dyn Projector>,
) -> Result<(), FollowError> {
    let mut durable = journal.durable();
    let mut delay = REBUILD_DELAY_MIN;
    let unchecked = Arc::clone(&store);
    tokio::task::spawn_blocking(move || unchecked.check_entries())
        .await
        .map_err(|_| FollowError::Shutdown)?;
    loop {
        if !store.has_room() {
            tokio::time::sleep(ROOM_PAUSE).await;
            if let Some(failed) = durable.borrow().failed.clone() {
                return Err(failed.into());
            }
            continue;
        }
        let size = durable.borrow_and_update().size();
        let (work_store, work_journal, work_projector) = (
            Arc::clone(&store),
            Arc::clone(&journal),
            Arc::clone(&projector),
        );
        let work = move || catch_up(&work_store, &*work_journal, &*work_projector, size);
        // A shutdown of the runtime cancels blocking work that has not begun.
        match tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| FollowError::Shutdown)?
        {
            Ok(()) => delay = REBUILD_DELAY_MIN,
            Err(FollowError::Project(ProjectError::View(error))) => {
                tracing::warn!(%error, ?delay, "the projections failed; they are rebuilt from the log");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(REBUILD_DELAY_MAX);
                let reset = Arc::clone(&store);
                tokio::task::spawn_blocking(move || reset.reset())
                    .await
                    .map_err(|_| FollowError::Shutdown)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        if let Some(failed) = durable.borrow().failed.clone() {
            return Err(failed.into());
        }
        if durable.borrow().size() == size && durable.changed().await.is_err() {
            return Ok(());
        }
        let gathered = durable.wait_for(|durable| {
            durable.failed.is_some() || durable.size() >= size.saturating_add(BATCH_RECORDS_MAX)
        });
        tokio::select! {
            () = store.wanted(size) => {}
            () = tokio::time::sleep(GATHER_MAX) => {}
            gathered = gathered => if gathered.is_err() { return Ok(()) },
        }
    }
}

/// Projects what lies between the store's position and `size`. Blocks on the disk.
///
/// # Errors
/// [`FollowError`].
pub fn catch_up(
    store: &ProjectionStore,
    journal: &dyn Journal,
    projector: &dyn Projector,
    size: u64,
) -> Result<(), FollowError> {
    store.check_entries();
    let from = store.next_position().map_err(ProjectError::from)?;
    if from >= size {
        return Ok(());
    }
    let mut records = journal.read(Position(from))?;
    let mut next = from;
    while next < size {
        let mut batch = store.begin();
        let full = batch.next() + BATCH_RECORDS_MAX;
        let mut pass = projector.pass();
        // What a pass puts off is about as much as it was given.
        let mut taken = 0;
        while next < full && taken + batch.bytes() < BATCH_BYTES_MAX {
            let Some(record) = records.next() else { break };
            let record = record?;
            taken += pass.project(&record, &mut batch)?;
            next = record.header.position.0 + 1;
        }
        pass.finish(&mut batch)?;
        let before = batch.next();
        if next == before {
            // The journal ends here after all, because it was opened again.
            return Ok(());
        }
        batch.commit(next).map_err(ProjectError::from)?;
    }
    Ok(())
}
