//! The journal: the truth of meshd, as a trait.
//!
//! One log of records in which several partitions are interleaved. A partition has one owner, who says with every append
//! which sequence number it expects to write; whoever is stale is [fenced](AppendError::Fenced). Appending does not
//! wait for the disk: the owner applies its events at once and releases replies and effects when
//! [`Journal::durable`] says that they are durable.

use std::fmt;
use std::sync::Arc;

use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Position, Record};
use tlog_tiles::Hash;
use tokio::sync::watch;

use crate::backup::{CutError, JournalCut};
use crate::succession::LogSigner;

mod error;

pub use error::{
    AppendError, CheckpointError, EraseError, Failed, ProofError, ReadError, ReadOnly,
    SnapshotError, SucceedError,
};

/// Largest append, in bytes of its headers and payloads: a submitted array of tasks whose inputs are inline.
///
/// A store with small segments allows less.
pub const APPEND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most records of one append: what an array of 1000 tasks leads to, with room.
pub const APPEND_RECORDS_MAX: usize = 4096;

/// Longest partition name in bytes: it becomes a directory name.
pub const PARTITION_NAME_MAX: usize = 80;

/// An append-only log of records with proofs. Cheap to share as `Arc<dyn Journal>`.
///
/// Reads and proofs block on the disk; call them from a blocking context. [`append`](Journal::append),
/// [`durable`](Journal::durable) and [`admission`](Journal::admission) never do.
pub trait Journal: fmt::Debug + Send + Sync {
    /// The log's id: the `did:key` of the node's first key, whatever key signs now.
    fn log_id(&self) -> &str;

    /// Appends records to a partition, all of them or none, also across a crash.
    ///
    /// `expected_seq` is the sequence number that the first of them shall get. Returns at once; they are durable when
    /// [`Journal::durable`] covers [`Appended::last`].
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was appended.
    fn append(
        &self,
        partition: &PartitionId,
        expected_seq: u64,
        records: Vec<NewRecord>,
    ) -> Result<Appended, AppendError>;

    /// How far the log is durable, and whether it has failed.
    fn durable(&self) -> watch::Receiver<Durability>;

    /// Whether new work may begin.
    ///
    /// While this errs, what is running may still append its progress as long as it fits.
    ///
    /// # Errors
    /// [`ReadOnly`] while the disk is full. It ends by itself.
    fn admission(&self) -> Result<(), ReadOnly>;

    /// The sequence number that the partition's next record gets; 0 for a partition without records.
    fn next_seq(&self, partition: &PartitionId) -> u64;

    /// Reads the durable records from `from` on, of all partitions, in order.
    ///
    /// The reader ends at what is durable now; it does not follow.
    ///
    /// # Errors
    /// [`ReadError`] when the place cannot be found; a `from` beyond the end gives an empty reader.
    fn read(&self, from: Position) -> Result<RecordReader, ReadError>;

    /// Reads the durable records of one partition from position `from` on.
    ///
    /// # Errors
    /// As [`Journal::read`].
    fn read_partition(
        &self,
        partition: &PartitionId,
        from: Position,
    ) -> Result<RecordReader, ReadError> {
        let partition = partition.clone();
        let all = self.read(from)?;
        Ok(RecordReader::new(all.filter(move |record| match record {
            Ok(record) => record.header.partition == partition,
            Err(_) => true,
        })))
    }

    /// One durable record; `None` when there is none (yet) at that position.
    ///
    /// # Errors
    /// [`ReadError`] when it is damaged or cannot be read.
    fn get(&self, position: Position) -> Result<Option<Record>, ReadError> {
        self.read(position)?.next().transpose()
    }

    /// Erases salt and payload of durable records for ever, leaving their headers and so every proof intact.
    ///
    /// Returns when that is durable. Erasing twice is harmless.
    ///
    /// # Errors
    /// [`EraseError`]; an erasure that had begun is completed when the journal is opened again.
    fn erase(&self, positions: &[Position]) -> Result<(), EraseError>;

    /// Stores a partition's state so that replay can begin there. The one before it is kept as a fallback.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshots before it still stand.
    fn save_snapshot(
        &self,
        partition: &PartitionId,
        snapshot: &Snapshot,
    ) -> Result<(), SnapshotError>;

    /// Removes all snapshots of a partition: the next load replays it from its beginning.
    ///
    /// For erasing what they hold, too; and so that nothing is erased that a replay from one of them would miss.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; some may be gone.
    fn drop_snapshots(&self, partition: &PartitionId) -> Result<(), SnapshotError>;

    /// The newest intact snapshot of a partition; `None` means replay from the beginning.
    ///
    /// Damaged ones, and ones that are ahead of the log, are reported in the log output and passed over.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] when the directory cannot be read.
    fn load_snapshot(&self, partition: &PartitionId) -> Result<Option<Snapshot>, SnapshotError>;

    /// Where the oldest snapshot begins that [`Journal::load_snapshot`] may fall back on; `None` when there is none.
    ///
    /// What is erased of a partition must be erased as if it had never been there for a replay from each of its snapshots.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] when the directory cannot be read.
    fn oldest_snapshot(&self, partition: &PartitionId) -> Result<Option<Position>, SnapshotError>;

    /// Signs a checkpoint over everything that is durable: a C2SP signed note.
    ///
    /// # Errors
    /// [`CheckpointError`], above all when the log is behind or beside the last one that was given out.
    fn checkpoint(&self) -> Result<SignedCheckpoint, CheckpointError> {
        self.signed().map(|(checkpoint, _)| checkpoint)
    }

    /// The same, and who signs at this moment, to sign what is said beside it.
    ///
    /// # Errors
    /// As [`Journal::checkpoint`].
    fn signed(&self) -> Result<(SignedCheckpoint, Arc<LogSigner>), CheckpointError>;

    /// Who signs for the log.
    fn signer(&self) -> Arc<LogSigner>;

    /// Another key signs from here on: the one in force signs a last checkpoint, and both sign that the new one takes over.
    ///
    /// When this returns, it is durable. `compromised` says that the old key is in wrong hands.
    ///
    /// # Errors
    /// [`SucceedError`]; the old key is in force then, unless the journal has failed: opened again, it knows which one is.
    fn succeed(&self, new: SigningKey, compromised: bool) -> Result<Arc<LogSigner>, SucceedError>;

    /// Signs a checkpoint and says which files hold exactly what it covers, for a [backup](crate::backup()).
    ///
    /// # Errors
    /// [`CutError`]; a journal without files cannot be backed up.
    fn cut(&self) -> Result<JournalCut, CutError> {
        Err(CutError::NoFiles)
    }

    /// The RFC 6962 root over the first `size` records.
    ///
    /// # Errors
    /// [`ProofError`].
    fn root(&self, size: u64) -> Result<Hash, ProofError>;

    /// The RFC 6962 audit path of record `index` in the tree over the first `size` records.
    ///
    /// # Errors
    /// [`ProofError`].
    fn inclusion_proof(&self, index: Position, size: u64) -> Result<Vec<Hash>, ProofError>;

    /// The hashes of `count` neighbouring subtrees of `level` levels each, from the `first` on: what a tile holds.
    ///
    /// # Errors
    /// [`ProofError::OutOfRange`] when the last of them is not complete.
    fn subtrees(&self, level: u8, first: u64, count: u64) -> Result<Vec<Hash>, ProofError>;

    /// The RFC 6962 proof that the tree over `new` records continues the one over `old`.
    ///
    /// # Errors
    /// [`ProofError`].
    fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError>;
}

/// What an append got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Position of its first record.
    pub first: Position,
    /// Position of its last record. Release replies and effects when this is durable.
    pub last: Position,
    /// What to expect in the partition's next append.
    pub next_seq: u64,
}

/// How far the log is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durability {
    /// The last durable record; `None` while there is none.
    pub upto: Option<Position>,
    /// Set for ever when a write or sync failed. What is beyond `upto` must be discarded.
    pub failed: Option<Failed>,
}

impl Durability {
    /// Whether the record at `position` is durable.
    pub fn covers(&self, position: Position) -> bool {
        self.upto.is_some_and(|upto| upto >= position)
    }

    /// How many records are durable.
    pub fn size(&self) -> u64 {
        self.upto.map_or(0, |upto| upto.0 + 1)
    }

    /// The state of a log whose first `size` records are durable.
    pub(crate) fn of_size(size: u64) -> Self {
        Self {
            upto: size.checked_sub(1).map(Position),
            failed: None,
        }
    }
}

/// Waits until `position` is durable.
///
/// # Errors
/// [`Failed`] when the journal failed first or was closed: the record may be lost.
pub async fn wait_durable(
    durable: &mut watch::Receiver<Durability>,
    position: Position,
) -> Result<(), Failed> {
    let seen = durable
        .wait_for(|state| state.covers(position) || state.failed.is_some())
        .await
        .map_err(|_| Failed {
            reason: Arc::from("it was closed"),
        })?;
    match (&seen.failed, seen.covers(position)) {
        (_, true) => Ok(()),
        (Some(failed), false) => Err(failed.clone()),
        (None, false) => Err(Failed {
            reason: Arc::from("it was closed"),
        }),
    }
}

/// Records in the order of the log.
///
/// After an error it yields nothing more.
pub struct RecordReader {
    records: Box<dyn Iterator<Item = Result<Record, ReadError>> + Send>,
    failed: bool,
}

impl RecordReader {
    pub(crate) fn new(
        records: impl Iterator<Item = Result<Record, ReadError>> + Send + 'static,
    ) -> Self {
        Self {
            records: Box::new(records),
            failed: false,
        }
    }
}

impl Iterator for RecordReader {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.records.next();
        self.failed = matches!(record, Some(Err(_)));
        record
    }
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// A partition's state at a point of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Replay begins at this position of the log: the state reflects all records of the partition before it.
    pub next: Position,
    /// Sequence number of the first record of the partition that the state does not reflect.
    pub next_seq: u64,
    /// The state, in whatever form (and with whatever version in it) its owner chose.
    pub state: Vec<u8>,
}

/// A checkpoint as it is given out.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedCheckpoint {
    /// How many records it covers.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// The C2SP signed note, which says the same and bears the signature.
    pub note: String,
}
