//! When a partition's snapshot is worth its cost, and storing it beside the owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::task::JoinHandle;

use mesh_messages::PartitionId;
use mesh_persistence::{Journal, Snapshot, SnapshotError};

/// Records after which a busy partition's snapshot is worth its cost: some tenths of a second of replay.
const EVERY: u64 = 20_000;
/// The same for one that is not busy; there may be thousands of those, and all of them are replayed at a start.
const EVERY_IDLE: u64 = 1024;
/// What makes it one that is not busy: so long since the last one.
const IDLE_AFTER: Duration = Duration::from_mins(1);
/// Records below which an orderly end leaves the replay to the next start.
const AT_END: u64 = 256;

/// What happened since the last snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    records: u64,
    bytes: u64,
    /// Size of the last one. Replaying as many bytes takes about as long as reading it, so writing it anew sooner, for a
    /// state with much in it, costs more than it saves.
    size: u64,
    at: Instant,
    saving: Option<Saving>,
}

/// A snapshot on its way to the disk.
#[derive(Debug)]
struct Saving {
    partition: PartitionId,
    task: JoinHandle<Result<(), SnapshotError>>,
    /// What it saves from being replayed.
    records: u64,
    bytes: u64,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Self {
            records: 0,
            bytes: 0,
            size: 0,
            at: Instant::now(),
            saving: None,
        }
    }

    /// One of this size was loaded.
    pub(super) fn loaded(&mut self, size: u64) {
        self.size = size;
    }

    /// So many records followed, with so many bytes of payloads.
    pub(super) fn note(&mut self, records: usize, bytes: usize) {
        self.records += records as u64;
        self.bytes += bytes as u64;
    }

    /// Whether the next one should be stored now.
    pub(super) fn is_due(&mut self) -> bool {
        self.collect();
        let many = self.records >= EVERY
            || (self.records >= EVERY_IDLE && self.at.elapsed() >= IDLE_AFTER);
        many && self.bytes >= self.size && self.saving.is_none()
    }

    /// Whether one should be stored at the owner's end.
    pub(super) fn is_due_at_end(&self) -> bool {
        self.records >= AT_END
    }

    /// Stores one, not on the owner's thread.
    pub(super) fn save(&mut self, id: PartitionId, journal: Arc<dyn Journal>, snapshot: Snapshot) {
        (self.size, self.at) = (snapshot.state.len() as u64, Instant::now());
        let partition = id.clone();
        let save = move || journal.save_snapshot(&id, &snapshot);
        self.saving = Some(Saving {
            partition,
            task: tokio::task::spawn_blocking(save),
            records: self.records,
            bytes: self.bytes,
        });
    }

    /// Takes note of one that is stored, or could not be.
    fn collect(&mut self) {
        let Some(mut saving) = self.saving.take() else {
            return;
        };
        match (&mut saving.task).now_or_never() {
            None => self.saving = Some(saving),
            Some(Ok(Ok(()))) => {
                self.records = self.records.saturating_sub(saving.records);
                self.bytes = self.bytes.saturating_sub(saving.bytes);
            }
            Some(Ok(Err(error))) => {
                // It is tried again after as much again; the one before it still stands.
                tracing::warn!(partition = %saving.partition, %error, "snapshot not saved; replay stays longer");
                self.records = self.records.min(EVERY / 2);
            }
            // The runtime is ending.
            Some(Err(_)) => {}
        }
    }
}
