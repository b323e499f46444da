//! What meshd remembers, and how it proves it.
//!
//! The [`Journal`] is the truth: an append-only log of records with group commit, one fsync per group. Everything else
//! is derived from it or hangs on it: snapshots shorten replay, projections are disposable views, the content store
//! holds what is too large for a record, and checkpoints with proofs let others check the log offline.

mod backup;
mod checkpoint;
mod clock;
mod content;
mod export;
mod file;
mod fsio;
mod hash_text;
mod journal;
mod kept;
mod memory;
mod nodekey;
mod projection;
mod revocations;
mod seal;
mod snapshot;
mod succession;
#[cfg(test)]
mod testing;
mod tree;
mod verify;
mod witness;

pub use backup::{
    AboutBackup, BACKUP_FORMAT, BackupError, CutError, JournalCut, RESTORED_FILE, RestoreError,
    Restored, VaultCopy, about_backup, backup, restore, write_key_entry,
};
pub use checkpoint::{CheckpointClaim, CheckpointInvalid, verify_checkpoint};
pub use clock::Clock;
pub use content::{
    CONTENT_IN_MEMORY_MAX, ContentDigest, ContentError, ContentHold, ContentStore, InvalidDigest,
    Removal,
};
pub use export::tombstones::unexplained_erasures;
pub use export::{ExportError, Exported, export, export_without};
pub use file::{
    FileJournal, FileJournalOptions, LogCheckError, OpenError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
pub use journal::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, AppendError, Appended, CheckpointError, Durability,
    EraseError, Failed, Journal, PARTITION_NAME_MAX, ProofError, ReadError, ReadOnly, RecordReader,
    SignedCheckpoint, Snapshot, SnapshotError, SucceedError, wait_durable,
};
pub use kept::{Contradiction, ContradictionKind, contradicted_succession, contradictions};
pub use memory::MemoryJournal;
pub use nodekey::{NodeKeyError, log_keys, node_key, prepare_next, settle};
pub use projection::{
    FollowError, PAGE_MAX, Page, Pass, ProjectError, ProjectionBatch, ProjectionError,
    ProjectionStore, Projector, View, WaitError, catch_up, follow,
};
pub use revocations::{RevocationError, order_revocation, ordered_revocations, revocations_done};
pub use succession::{LogKeys, LogSigner, SUCCESSIONS_MAX, Succession, SuccessionInvalid};
pub use tlog_tiles::Hash;
pub use verify::{VerifyError, VerifyReport, verify, witnessed_size};
pub use witness::{AddCheckpoint, WitnessError, cosign, verify_cosignature};
