//! Why a journal was not opened.

use std::io;
use std::path::Path;

use super::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::journal::EraseError;

/// Why a journal was not opened. Nothing was changed, save that an unfinished last write may have been cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open. Stop that one, or use another directory.
    #[error("the journal in {dir} is in use{}", by(*.pid))]
    InUse {
        /// The directory.
        dir: String,
        /// The process, as far as it could be told.
        pid: Option<u32>,
    },
    /// Acknowledged bytes are damaged or missing. Restore the file from a copy; nothing was cut.
    #[error("{segment} is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// The damaged file.
        segment: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer version. Use that version.
    #[error("{file} has format {found}, this version reads up to {supported}")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format that can be read.
        supported: u32,
    },
    /// The log belongs to another node's key, or its file of successions is missing. Use that key, bring that file back, or use
    /// another directory.
    #[error(
        "the log belongs to {found}, not to {expected}; when that is its newer key, its file `successions` is missing"
    )]
    OtherLog {
        /// Our id.
        expected: String,
        /// The log's id.
        found: String,
    },
    /// Another key signs for the log. Use that one.
    #[error("the key in force is {expected}, not {found}")]
    OtherKey {
        /// The key in force.
        expected: String,
        /// The key that was given.
        found: String,
    },
    /// A checkpoint over more records was given out: the log's end is missing. Restore it from a copy.
    #[error("a checkpoint over {checkpoint} records was given out, but the log holds {size}")]
    BehindCheckpoint {
        /// How many records the checkpoint covers.
        checkpoint: u64,
        /// How many there are.
        size: u64,
    },
    /// The segment size is out of bounds.
    #[error("segments of {0} bytes are not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}")]
    SegmentBytes(u64),
    /// The operating system refused.
    #[error("failed to access {path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An interrupted erasure could not be completed.
    #[error("failed to complete an interrupted erasure")]
    Erase(#[from] EraseError),
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

pub(in crate::file) fn io_at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io {
        path: path.display().to_string(),
        source,
    }
}

pub(in crate::file) fn corrupt(path: &Path, offset: u64, detail: impl Into<String>) -> OpenError {
    OpenError::Corrupt {
        segment: path.display().to_string(),
        offset,
        detail: detail.into(),
    }
}
