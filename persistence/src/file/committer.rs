//! The committer: the one thread that writes the log.
//!
//! ```text
//!  append ──► queue ──► take all that is queued ──► one write ──► one fdatasync ──► publish
//!  (lock)      ▲         (one batch)                                                  │
//!              └── grows while the disk syncs: the group adapts to the disk's speed ◄─┘
//! ```
//!
//! What takes long and can wait, the next segment's file above all, is done by [`Chores`] on a thread of its own.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_messages::PartitionId;
use tlog_tiles::Hash;
use tokio::sync::watch;

use super::layout::{BATCH_HEAD, BATCH_OVERHEAD, SegmentHead, finish_batch};
use super::recover::Batch;
use super::runs::{Run, Runs};
use super::segment::{End, Segment, Segments, file_name};
use super::tail::{Tail, TailFile};
use super::treefile::TreeFile;
use crate::fsio;
use crate::journal::{Durability, Failed, ReadOnly};
use crate::seal::Sequencer;
use crate::tree::Frontier;

/// Most bytes of one write. Syncs of up to 64 KiB cost about the same; beyond a few of those, latency grows with size.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// How soon a full disk is looked at again, at first and at most: soon enough to be unnoticed, seldom enough to cost nothing.
const SPACE_RETRY_MIN: Duration = Duration::from_millis(100);
const SPACE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Name of the preallocated segment that the log continues in.
pub(crate) const SPARE: &str = "spare";

/// An append on its way to the disk.
pub(crate) struct Queued {
    pub(crate) frames: Vec<u8>,
    pub(crate) partition: PartitionId,
    pub(crate) count: u32,
    pub(crate) first: u64,
    pub(crate) leaves: Vec<Hash>,
    /// Chain value before and after it.
    pub(crate) chain: (u32, u32),
    /// A new segment begins with this append.
    pub(crate) rotate: Option<Box<SegmentHead>>,
}

/// The next segment's file.
#[derive(Debug, Clone)]
pub(crate) enum Spare {
    /// Allocated.
    Ready,
    /// What is queued continues in it; the committer has yet to get there.
    Taken,
    /// It is being allocated.
    Pending,
    /// The disk is full.
    Missing(ReadOnly),
}

/// A segment that was sealed, where it ends, and its runs.
pub(crate) type Sealed = (Arc<Segment>, End, Arc<Runs>);

/// What appenders and the committer share under the lock.
pub(crate) struct Inner {
    pub(crate) sequencer: Sequencer,
    pub(crate) frontier: Frontier,
    pub(crate) chain: u32,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) queued_bytes: usize,
    /// Bytes that are left in the segment in which the queue ends.
    pub(crate) room: usize,
    /// First position of that segment.
    pub(crate) segment_first: u64,
    pub(crate) spare: Spare,
    /// Segments that were sealed, whose runs are to be stored.
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) failed: Option<Failed>,
    pub(crate) closing: bool,
}

/// What the journal, its readers and the committer share.
pub(crate) struct Shared {
    pub(crate) inner: Mutex<Inner>,
    /// Wakes the committer.
    pub(crate) wake: Condvar,
    /// Wakes whoever does the chores.
    pub(crate) chores: Condvar,
    pub(crate) durable: watch::Sender<Durability>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) tree: TreeFile,
    pub(crate) tail: TailFile,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// What tests make the disk do.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) fail_sync: std::sync::atomic::AtomicBool,
    pub(crate) fail_overwrite: std::sync::atomic::AtomicBool,
    pub(crate) hold_sync: Mutex<()>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Appenders change it only after everything that could panic, the committer does nothing that could.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The committer's own state.
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: PathBuf,
    pub(crate) file: File,
    pub(crate) segment_first: u64,
    pub(crate) offset: u64,
}

impl Committer {
    /// Runs until the journal is closed or has failed.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.wait() {
            if let Err(error) = self.write(batch) {
                self.fail(&error);
                return;
            }
        }
        if let Err(error) = self.shared.tail.sync() {
            tracing::warn!(%error, "the tail mark was not synced at the end");
        }
        self.shared.tree.sync();
    }

    /// Waits for the next batch; `None` when the journal is closed and nothing is queued.
    fn wait(&self) -> Option<Vec<Queued>> {
        let mut inner = self.shared.lock();
        loop {
            if !inner.queue.is_empty() {
                return Some(take_batch(&mut inner));
            }
            if inner.closing {
                return None;
            }
            let woken = self.shared.wake.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes and syncs one batch, then tells everybody.
    fn write(&mut self, batch: Vec<Queued>) -> io::Result<()> {
        let mut batch = batch;
        let Some(first) = batch.first_mut() else {
            return Ok(());
        };
        if let Some(head) = first.rotate.take() {
            self.rotate(*head)?;
        }
        let (first, chain) = (first.first, first.chain.0);
        let frames: usize = batch.iter().map(|queued| queued.frames.len()).sum();
        let mut buffer = Vec::with_capacity(frames + BATCH_OVERHEAD);
        buffer.resize(BATCH_HEAD, 0);
        let mut leaves = Vec::with_capacity(batch.len());
        let mut runs = Vec::with_capacity(batch.len());
        let (mut count, mut after) = (0, chain);
        for queued in &batch {
            buffer.extend_from_slice(&queued.frames);
            leaves.extend_from_slice(&queued.leaves);
            count += queued.count;
            after = queued.chain.1;
            let run = Run {
                first: queued.first,
                count: u64::from(queued.count),
            };
            runs.push((queued.partition.clone(), run));
        }
        finish_batch(&mut buffer, first, count, chain, after);
        self.file.write_all_at(&buffer, self.offset)?;
        self.sync()?;

        let place = Batch {
            offset: usize::try_from(self.offset).unwrap_or(usize::MAX),
            chain,
            first,
        };
        self.offset += buffer.len() as u64;
        let next = first + u64::from(count);
        let tail = Tail {
            segment: self.segment_first,
            end: self.offset,
            next,
        };
        if let Err(error) = self.shared.tail.write(tail) {
            // It may be behind; only telling damage from an unfinished write gets harder.
            tracing::warn!(%error, "the tail mark was not written");
        }
        self.shared.tree.extend(&leaves);
        self.shared.segments.extend(
            place,
            End {
                offset: self.offset,
                next,
                chain: after,
            },
            &runs,
        );
        self.give_back_room(frames + batch.len() * BATCH_OVERHEAD - buffer.len());
        self.shared
            .durable
            .send_modify(|durable| durable.upto = Durability::of_size(next).upto);
        Ok(())
    }

    /// Every append reserved room for a batch of its own; together they took less.
    fn give_back_room(&self, bytes: usize) {
        let mut inner = self.shared.lock();
        if inner.segment_first == self.segment_first {
            inner.room += bytes;
        }
    }

    /// Continues the log in the spare segment.
    fn rotate(&mut self, mut head: SegmentHead) -> io::Result<()> {
        self.shared.tree.sync();
        self.shared.tail.sync()?;
        head.prev_end = self.offset;
        let bytes = head.encode()?;
        let (spare, path) = (self.dir.join(SPARE), self.dir.join(file_name(head.first)));
        let file = File::options().read(true).write(true).open(&spare)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        fs::rename(&spare, &path)?;
        fsio::sync_dir(&self.dir)?;
        let sealed = self.shared.segments.rotate(Segment::new(
            path,
            &head,
            bytes.len() as u64,
            Some(Vec::new()),
        ));
        (self.file, self.segment_first, self.offset) = (file, head.first, bytes.len() as u64);
        {
            // At once, so that under load the log never has to wait for its next segment.
            let mut inner = self.shared.lock();
            inner.spare = Spare::Pending;
            inner.sealed.push(sealed);
        }
        self.shared.chores.notify_one();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        {
            drop(self.shared.faults.hold_sync.lock());
            if self
                .shared
                .faults
                .fail_sync
                .load(std::sync::atomic::Ordering::SeqCst)
            {
                return Err(io::Error::other("injected failure of a sync"));
            }
        }
        self.file.sync_data()
    }

    /// A failed sync is never retried: the kernel may have dropped the pages, and a second one would lie.
    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "the journal failed; it has to be opened again");
        let failed = Failed {
            reason: error.to_string().into(),
        };
        {
            let mut inner = self.shared.lock();
            inner.failed = Some(failed.clone());
            inner.queue.clear();
            inner.queued_bytes = 0;
        }
        self.shared.chores.notify_one();
        self.shared
            .durable
            .send_modify(|durable| durable.failed = Some(failed));
    }
}

/// What is done beside the committing: the next segment's file, and the runs of the last one.
pub(crate) struct Chores {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_len: u64,
}

/// The next of the chores.
enum Chore {
    Allocate,
    Store(Sealed),
    Stop,
}

impl Chores {
    /// Runs until the journal is closed or has failed.
    pub(crate) fn run(self) {
        let mut retry = SPACE_RETRY_MIN;
        loop {
            match self.wait(retry) {
                Chore::Stop => return,
                Chore::Store((segment, end, runs)) => {
                    self.shared.segments.store_runs(&segment, end, &runs);
                }
                Chore::Allocate => {
                    retry = if self.allocate_spare() {
                        SPACE_RETRY_MIN
                    } else {
                        (retry * 2).min(SPACE_RETRY_MAX)
                    };
                }
            }
        }
    }

    /// Waits for a chore: appenders may have to wait for the spare segment, so that comes first.
    fn wait(&self, retry: Duration) -> Chore {
        let mut inner = self.shared.lock();
        let mut waited = false;
        loop {
            if inner.closing || inner.failed.is_some() {
                return Chore::Stop;
            }
            let missing = matches!(inner.spare, Spare::Missing(_));
            if matches!(inner.spare, Spare::Pending) || (missing && waited) {
                return Chore::Allocate;
            }
            if let Some(sealed) = inner.sealed.pop() {
                return Chore::Store(sealed);
            }
            inner = if missing {
                let woken = self.shared.chores.wait_timeout(inner, retry);
                let (inner, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
                waited = timeout.timed_out();
                inner
            } else {
                let woken = self.shared.chores.wait(inner);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Allocates the next segment's file; returns whether there is one now.
    fn allocate_spare(&self) -> bool {
        let spare = match allocate_spare(&self.dir, self.segment_len) {
            Ok(()) => Spare::Ready,
            Err(error) => Spare::Missing(ReadOnly {
                reason: error.to_string().into(),
            }),
        };
        let ready = matches!(spare, Spare::Ready);
        let was = std::mem::replace(&mut self.shared.lock().spare, spare.clone());
        match (was, spare) {
            (Spare::Missing(_), Spare::Ready) => {
                tracing::info!("there is space again; taking new work");
            }
            (Spare::Pending, Spare::Missing(ReadOnly { reason })) => {
                tracing::error!(%reason, "no space for the log's next segment; refusing new work");
            }
            _ => {}
        }
        ready
    }
}

/// Takes what fits one write; a new segment begins a batch of its own.
fn take_batch(inner: &mut Inner) -> Vec<Queued> {
    let mut batch: Vec<Queued> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = inner.queue.front() {
        let fits = bytes + next.frames.len() <= BATCH_BYTES_MAX && next.rotate.is_none();
        if !batch.is_empty() && !fits {
            break;
        }
        bytes += next.frames.len();
        batch.extend(inner.queue.pop_front());
    }
    inner.queued_bytes -= bytes;
    batch
}

/// Makes sure that the spare file exists, with all its blocks and nothing but zeros.
///
/// The zeros are written: blocks that are merely reserved would have to be marked as written by the syncs of the log.
pub(crate) fn allocate_spare(dir: &Path, segment_len: u64) -> io::Result<()> {
    let spare = dir.join(SPARE);
    if spare.exists() {
        let file = fsio::open_or_create(&spare)?;
        if file.metadata()?.len() == segment_len {
            if fsio::zero_what_is_used(&file)? {
                file.sync_all()?;
            }
            return Ok(());
        }
        fs::remove_file(&spare)?;
    }
    let aside = tempfile::NamedTempFile::new_in(dir)?;
    fsio::allocate(aside.as_file(), segment_len)?;
    fsio::fill(aside.as_file(), segment_len)?;
    aside.as_file().sync_all()?;
    aside.persist(&spare).map_err(|e| e.error)?;
    fsio::sync_dir(dir)
}
