//! The embedded journal: segments in a directory, written by one thread, one sync per group.
//!
//! ```text
//! <dir>/lock                 flock of the process that has it open
//!      /log/<first>.seg      segments: preallocated, append-only; the truth
//!      /log/spare            the next segment, already allocated
//!      /tail                 how far the log was synced (a hint that may be behind)
//!      /erased               positions whose payload was erased
//!      /hashes               the audit tree (derived, checked, rebuilt)
//!      /checkpoint           the last checkpoint that was given out
//!      /successions          the keys that took over from the first one; missing while that one signs
//!      /snapshots/<partition>/<position>.snap
//!      /runs/<first>.run     which records of a segment are whose (derived, checked, rebuilt)
//! ```
//!
//! Opening reads the heads of all segments but the content of the last one only: a head carries the state of the log before
//! it. What lies in older segments is checked whenever it is read. `docs/decisions/0001-journal-format.md` has the
//! bytes and the reasons.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Position};
use tlog_tiles::Hash;
use tokio::sync::watch;

use self::committer::{Inner, Queued, Shared, Spare};
use self::erased::ErasedFile;
use self::layout::{BATCH_OVERHEAD, HEAD_MAX, LogStart, SegmentHead, encode_record};
use self::partition::PartitionWalk;
use crate::backup::{CutError, JournalCut};
use crate::checkpoint::CheckpointClaim;
use crate::clock::Clock;
use crate::fsio;
use crate::journal::{
    AppendError, Appended, CheckpointError, Durability, EraseError, Journal, ProofError, ReadError,
    ReadOnly, RecordReader, SignedCheckpoint, Snapshot, SnapshotError, SucceedError,
};
use crate::seal::{SealedAppend, prepare};
use crate::snapshot::SnapshotDir;
use crate::succession::LogSigner;

mod committer;
mod cursor;
mod erased;
mod head;
mod layout;
mod open;
mod partition;
mod recover;
mod restored;
mod runs;
mod segment;
mod succeed;
mod tail;
mod treefile;

#[cfg(test)]
mod tests;

pub(crate) use succeed::{FILE as SUCCESSIONS_FILE, read as read_keys};

use open::io_at;
pub use open::{FileJournalOptions, OpenError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use restored::LogCheckError;

/// Most bytes that wait for the disk: what a slow disk writes in a second or two. More would only hide latency.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most appends that wait for the disk.
const QUEUE_APPENDS_MAX: usize = 8192;

/// A journal in a directory. One process has it open at a time.
///
/// Dropping it writes what is queued, then closes it.
pub struct FileJournal {
    dir: PathBuf,
    log_id: String,
    clock: Arc<dyn Clock>,
    /// Size of the segments that are to come.
    segment_len: usize,
    shared: Arc<Shared>,
    /// The committer, then whoever does its chores.
    threads: Vec<JoinHandle<()>>,
    snapshots: SnapshotDir,
    erased: Mutex<ErasedFile>,
    signing: Mutex<Signing>,
    // Released when the journal is dropped, after the committer has ended.
    _lock: File,
}

/// Who signs for the log, and the last checkpoint that was given out.
struct Signing {
    signer: Arc<LogSigner>,
    last: Option<SignedCheckpoint>,
}

impl FileJournal {
    /// Queues a sealed append, or refuses it; changes nothing when it refuses.
    fn enqueue(&self, inner: &mut Inner, sealed: &SealedAppend) -> Result<(), AppendError> {
        let mut frames = Vec::new();
        let mut after = inner.chain;
        for record in &sealed.records {
            after = encode_record(&mut frames, after, record);
        }
        let need = frames.len() + BATCH_OVERHEAD;
        let queued_bytes = inner.queued_bytes;
        if inner.queue.len() >= QUEUE_APPENDS_MAX
            || (queued_bytes > 0 && queued_bytes + frames.len() > QUEUE_BYTES_MAX)
        {
            return Err(AppendError::Busy { queued_bytes });
        }
        let mut rotate = None;
        if need > inner.room {
            let (head, room) = self.next_segment(inner, need)?;
            match &inner.spare {
                Spare::Ready => {}
                Spare::Taken | Spare::Pending => return Err(AppendError::Busy { queued_bytes }),
                Spare::Missing(full) => return Err(full.clone().into()),
            }
            inner.spare = Spare::Taken;
            inner.room = room;
            inner.segment_first = head.first;
            rotate = Some(Box::new(head));
        }
        inner.room -= need;
        inner.queued_bytes += frames.len();
        let mut leaves = Vec::with_capacity(sealed.records.len());
        for record in &sealed.records {
            leaves.push(record.leaf);
            inner.frontier.push(record.leaf, |_| {});
        }
        let chain = (std::mem::replace(&mut inner.chain, after), after);
        let count = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        let first = sealed.appended.first.0;
        inner.queue.push_back(Queued {
            frames,
            partition: sealed.partition.clone(),
            count,
            first,
            leaves,
            chain,
            rotate,
        });
        Ok(())
    }

    /// The head of a segment that begins here, and the room in it.
    fn next_segment(
        &self,
        inner: &Inner,
        need: usize,
    ) -> Result<(SegmentHead, usize), AppendError> {
        let sequencer = &inner.sequencer;
        let head = SegmentHead {
            first: sequencer.next,
            segment_len: self.segment_len as u64,
            prev_first: Some(inner.segment_first),
            // The committer knows it when it gets there.
            prev_end: 0,
            chain: inner.chain,
            start: LogStart::new(
                sequencer.log.clone(),
                sequencer.time,
                sequencer.lc,
                sequencer.seqs.clone(),
                &inner.frontier,
            ),
        };
        let head_len = head
            .encode()
            .map_err(|e| crate::journal::Failed {
                reason: e.to_string().into(),
            })?
            .len();
        // A longer head could not be read back.
        let room = if head_len > HEAD_MAX {
            0
        } else {
            self.segment_len.saturating_sub(head_len)
        };
        if need > room {
            return Err(AppendError::TooLarge {
                what: "append",
                size: need,
                limit: room,
            });
        }
        Ok((head, room))
    }

    fn durable_size(&self) -> u64 {
        self.shared.durable.borrow().size()
    }

    /// Overwrites the bodies of records that are already on the list of erased ones.
    fn overwrite(&self, positions: &BTreeSet<u64>) -> Result<(), EraseError> {
        let mut open: Option<(PathBuf, File)> = None;
        let io = |path: &Path, source: io::Error| EraseError::Io {
            file: path.display().to_string(),
            source,
        };
        #[cfg(test)]
        if self
            .shared
            .faults
            .fail_overwrite
            .load(std::sync::atomic::Ordering::SeqCst)
            && !positions.is_empty()
        {
            let error = io::Error::other("injected failure of an overwrite");
            return Err(io(&self.dir, error));
        }
        for &position in positions {
            let mut walk = self.shared.segments.walk(Position(position))?;
            let Some(step) = walk.step()? else { continue };
            let path = step.segment.path.clone();
            let (from, to) = (
                step.body_offset,
                step.body_offset + step.raw.body.len() as u64,
            );
            if open.as_ref().is_none_or(|(current, _)| *current != path) {
                if let Some((path, file)) = open.take() {
                    file.sync_data().map_err(|e| io(&path, e))?;
                }
                let file = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(|e| io(&path, e))?;
                open = Some((path, file));
            }
            if let Some((path, file)) = &open {
                fsio::zero(file, from, to).map_err(|e| io(path, e))?;
            }
        }
        open.map_or(Ok(()), |(path, file)| {
            file.sync_data().map_err(|e| io(&path, e))
        })
    }

    /// Checks that the log continues what was last given out.
    fn check_continues(&self, last: CheckpointClaim) -> Result<(), CheckpointError> {
        let size = self.shared.tree.frontier().size();
        if size < last.size {
            return Err(CheckpointError::Smaller {
                last: last.size,
                size,
            });
        }
        if self.root(last.size)? != last.root {
            return Err(CheckpointError::Inconsistent { last: last.size });
        }
        Ok(())
    }

    fn signing(&self) -> MutexGuard<'_, Signing> {
        // What a panic elsewhere left is whole: it is changed in one assignment.
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The checkpoint of the log as it is now, remembered on the disk.
    fn sign_checkpoint(&self, signing: &mut Signing) -> Result<SignedCheckpoint, CheckpointError> {
        if let Some(failed) = self.shared.durable.borrow().failed.clone() {
            return Err(failed.into());
        }
        let tree = self.shared.tree.frontier();
        let claim = CheckpointClaim {
            size: tree.size(),
            root: tree.root(),
        };
        if let Some(last) = &signing.last {
            self.check_continues(CheckpointClaim {
                size: last.size,
                root: last.root,
            })?;
            if last.size == claim.size {
                return Ok(last.clone());
            }
        }
        let note = signing.signer.sign(claim).map_err(CheckpointError::Note)?;
        let path = self.checkpoint_path();
        fsio::replace(&path, note.as_bytes()).map_err(|source| CheckpointError::Io {
            file: path.display().to_string(),
            source,
        })?;
        let signed = SignedCheckpoint {
            size: claim.size,
            root: claim.root,
            note,
        };
        signing.last = Some(signed.clone());
        Ok(signed)
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }
}

impl Journal for FileJournal {
    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn append(
        &self,
        partition: &PartitionId,
        expected_seq: u64,
        records: Vec<NewRecord>,
    ) -> Result<Appended, AppendError> {
        let prepared = prepare(partition, records)?;
        let appended = {
            let mut inner = self.shared.lock();
            if let Some(failed) = &inner.failed {
                return Err(failed.clone().into());
            }
            let sealed =
                inner
                    .sequencer
                    .seal(partition, expected_seq, prepared, self.clock.now())?;
            self.enqueue(&mut inner, &sealed)?;
            inner.sequencer.commit(&sealed);
            sealed.appended
        };
        self.shared.wake.notify_one();
        Ok(appended)
    }

    fn durable(&self) -> watch::Receiver<Durability> {
        self.shared.durable.subscribe()
    }

    fn admission(&self) -> Result<(), ReadOnly> {
        match &self.shared.lock().spare {
            Spare::Ready | Spare::Taken | Spare::Pending => Ok(()),
            Spare::Missing(full) => Err(full.clone()),
        }
    }

    fn next_seq(&self, partition: &PartitionId) -> u64 {
        self.shared.lock().sequencer.next_seq(partition)
    }

    fn read(&self, from: Position) -> Result<RecordReader, ReadError> {
        self.shared.segments.walk(from).map(RecordReader::new)
    }

    fn read_partition(
        &self,
        partition: &PartitionId,
        from: Position,
    ) -> Result<RecordReader, ReadError> {
        let walk = PartitionWalk::new(&self.shared.segments, partition, from);
        Ok(RecordReader::new(walk))
    }

    fn erase(&self, positions: &[Position]) -> Result<(), EraseError> {
        let durable = self.shared.durable.borrow().clone();
        if let Some(failed) = durable.failed {
            return Err(failed.into());
        }
        if let Some(&position) = positions
            .iter()
            .find(|position| position.0 >= self.durable_size())
        {
            return Err(EraseError::NotDurable(position));
        }
        let mut list = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        // Only what the last entry of the list names is overwritten again when the journal is opened.
        let unfinished = std::mem::take(&mut list.unfinished);
        if let Err(error) = self.overwrite(&unfinished) {
            list.unfinished = unfinished;
            return Err(error);
        }
        let new: BTreeSet<u64> = positions
            .iter()
            .map(|position| position.0)
            .filter(|&position| !self.shared.segments.is_erased(position))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let io = |file: PathBuf, source| EraseError::Io {
            file: file.display().to_string(),
            source,
        };
        // An erased body is all zeros, so only the tail mark tells it from a sector that was never written.
        self.shared
            .tail
            .sync()
            .map_err(|e| io(self.dir.join("tail"), e))?;
        let entry: Vec<u64> = new.iter().copied().collect();
        list.add(&entry)
            .map_err(|e| io(self.dir.join("erased"), e))?;
        self.shared
            .segments
            .erased
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(&new);
        self.overwrite(&new).inspect_err(|_| list.unfinished = new)
    }

    fn save_snapshot(
        &self,
        partition: &PartitionId,
        snapshot: &Snapshot,
    ) -> Result<(), SnapshotError> {
        self.snapshots
            .save(partition, snapshot, self.durable_size())
    }

    fn oldest_snapshot(&self, partition: &PartitionId) -> Result<Option<Position>, SnapshotError> {
        self.snapshots.oldest(partition)
    }

    fn drop_snapshots(&self, partition: &PartitionId) -> Result<(), SnapshotError> {
        self.snapshots.drop_all(partition)
    }

    fn load_snapshot(&self, partition: &PartitionId) -> Result<Option<Snapshot>, SnapshotError> {
        self.snapshots.load(partition, self.durable_size())
    }

    fn signed(&self) -> Result<(SignedCheckpoint, Arc<LogSigner>), CheckpointError> {
        let mut signing = self.signing();
        let checkpoint = self.sign_checkpoint(&mut signing)?;
        Ok((checkpoint, Arc::clone(&signing.signer)))
    }

    fn signer(&self) -> Arc<LogSigner> {
        Arc::clone(&self.signing().signer)
    }

    fn succeed(&self, new: SigningKey, compromised: bool) -> Result<Arc<LogSigner>, SucceedError> {
        self.hand_over(new, compromised)
    }

    fn cut(&self) -> Result<JournalCut, CutError> {
        self.cut_at_checkpoint()
    }

    fn root(&self, size: u64) -> Result<Hash, ProofError> {
        self.shared.tree.root(&self.shared.segments, size)
    }

    fn inclusion_proof(&self, index: Position, size: u64) -> Result<Vec<Hash>, ProofError> {
        self.shared
            .tree
            .inclusion(&self.shared.segments, index.0, size)
    }

    fn subtrees(&self, level: u8, first: u64, count: u64) -> Result<Vec<Hash>, ProofError> {
        self.shared
            .tree
            .subtrees(&self.shared.segments, level, first, count)
    }

    fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
        self.shared
            .tree
            .consistency(&self.shared.segments, old, new)
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        self.shared.chores.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }
}

impl std::fmt::Debug for FileJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileJournal")
            .field("dir", &self.dir)
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}
