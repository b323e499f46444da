//! Cutting a log that is being written, for a backup; and checking one that came from a backup.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;

use mesh_messages::identity::SigningKey;
use mesh_messages::{Position, Timestamp};

use super::erased::ErasedFile;
use super::head::{ReadHeadError, read_head};
use super::open::{FileJournalOptions, SEGMENT_BYTES_MAX};
use super::segment::file_name;
use super::{FileJournal, OpenError};
use crate::backup::{CutError, JournalCut};
use crate::checkpoint::CheckpointClaim;
use crate::clock::Clock;
use crate::fsio;
use crate::journal::{EraseError, Journal as _, ReadError};
use crate::seal::commitment;
use crate::tree::Frontier;

/// How often a cut looks whether the segments have caught up with the checkpoint. They do within a write.
const CUT_TRIES_MAX: u32 = 1000;

/// Why a log from a backup is not one to go on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogCheckError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read to its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A payload is not the one that its record was written with.
    #[error("the payload of record {0} is not the one that was recorded")]
    Payload(Position),
    /// It is not the log that the checkpoint was signed for.
    #[error(
        "it holds {records} records with root {root}, but {signed} with another root were signed"
    )]
    Root {
        /// How many there are.
        records: u64,
        /// Their root.
        root: tlog_tiles::Hash,
        /// How many were signed.
        signed: u64,
    },
    /// What was erased could not be erased again.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// A file could not be prepared.
    #[error("failed to prepare the log's last segment")]
    Io(#[from] io::Error),
}

/// Nothing is appended while a log is checked.
#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        Timestamp::ZERO
    }
}

impl FileJournal {
    /// A fresh checkpoint, and the files that hold exactly what it covers.
    pub(super) fn cut_at_checkpoint(&self) -> Result<JournalCut, CutError> {
        let (checkpoint, signer) = self.signed()?;
        let mut segments = None;
        // The tree grows a moment before the segments tell of it.
        for _ in 0..CUT_TRIES_MAX {
            segments = self.shared.segments.cut(checkpoint.size)?;
            if segments.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let segments = segments.ok_or_else(|| ReadError::Corrupt {
            file: self.dir.display().to_string(),
            offset: 0,
            detail: format!("its segments do not reach record {}", checkpoint.size),
        })?;
        Ok(JournalCut {
            log: self.log_id.clone(),
            checkpoint,
            keys: signer.keys().clone(),
            segments: segments
                .into_iter()
                .map(|(segment, len)| (segment.path.clone(), len))
                .collect(),
            erased: self.dir.join("erased"),
        })
    }

    /// Opens a log that came from a backup, completes its erasures, and checks all of it against what was signed.
    ///
    /// Returns how many payloads are erased.
    ///
    /// # Errors
    /// [`LogCheckError`].
    pub(crate) fn check_restored(
        dir: &Path,
        key: SigningKey,
        claim: CheckpointClaim,
    ) -> Result<u64, LogCheckError> {
        let segment_bytes = fill_last(&dir.join("log"))?;
        keep_erasures(&dir.join("erased"), claim.size)?;
        let options = FileJournalOptions { segment_bytes };
        let journal = Self::open(dir, &options, key, Arc::new(NoClock))?;
        let erased = journal
            .shared
            .segments
            .erased
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        // Their bodies may have been copied before they were overwritten.
        journal.overwrite(&erased)?;
        let mut tree = Frontier::default();
        let mut without = 0;
        for record in journal.read(Position(0))? {
            let record = record?;
            match &record.body {
                Some(body) if commitment(&body.salt, &body.payload) != record.header.payload => {
                    return Err(LogCheckError::Payload(record.header.position));
                }
                Some(_) => {}
                None => without += 1,
            }
            tree.push(tlog_tiles::record_hash(&record.header_bytes), |_| {});
        }
        if (tree.size(), tree.root()) != (claim.size, claim.root) {
            return Err(LogCheckError::Root {
                records: tree.size(),
                root: tree.root(),
                signed: claim.size,
            });
        }
        Ok(without)
    }
}

/// Gives the last segment its full size again, and says what that is.
fn fill_last(log: &Path) -> Result<u64, LogCheckError> {
    let mut last = None;
    for entry in std::fs::read_dir(log)? {
        last = last.max(Some(entry?.file_name()));
    }
    let path = log.join(last.unwrap_or_else(|| file_name(0).into()));
    let (head, _) = read_head(&path).map_err(|error| match error {
        ReadHeadError::Io(error) => error,
        ReadHeadError::Short | ReadHeadError::Head(_) => {
            io::Error::other("the head of the log's last segment is damaged")
        }
    })?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let used = file.metadata()?.len();
    if head.segment_len > SEGMENT_BYTES_MAX || used > head.segment_len {
        return Err(io::Error::other("the log's last segment has an impossible size").into());
    }
    fsio::extend(&file, used, head.segment_len)?;
    Ok(head.segment_len)
}

/// Takes erasures off the list whose records are not in the backup: others will have their positions.
fn keep_erasures(path: &Path, size: u64) -> Result<(), LogCheckError> {
    let open = || ErasedFile::open(path);
    let damaged = |_| io::Error::other("the list of erasures is damaged");
    let (_, list) = open()?.map_err(damaged)?;
    let kept: Vec<u64> = list.positions.range(..size).copied().collect();
    if kept.len() == list.positions.len() {
        return Ok(());
    }
    std::fs::remove_file(path)?;
    let (mut file, _) = open()?.map_err(damaged)?;
    if !kept.is_empty() {
        file.add(&kept)?;
    }
    Ok(())
}
