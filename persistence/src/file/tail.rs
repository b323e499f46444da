//! The tail mark: how far the log was synced, so that a lost end is told from an unfinished one.
//!
//! It is written after every sync of the log and synced only now and then. After `kill -9` it is exact; after a power cut
//! it may be behind, never ahead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::layout::{u32_at, u64_at};
use crate::fsio;

const MAGIC: [u8; 8] = *b"MESHTAIL";
/// Less than a sector, so it is written whole or not at all.
const LEN: usize = 40;

/// What was synced when the mark was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    /// First position of the segment written last.
    pub(crate) segment: u64,
    /// Where its last batch ends.
    pub(crate) end: u64,
    /// Position of the next record.
    pub(crate) next: u64,
}

/// The file of the mark.
#[derive(Debug)]
pub(crate) struct TailFile(File);

impl TailFile {
    /// Opens the file; also gives the mark, if there is an intact one.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<Tail>)> {
        let stored = fsio::read_if_exists(path)?;
        let file = fsio::open_or_create(path)?;
        let mark = stored.as_deref().and_then(decode);
        if mark.is_none() && stored.is_some_and(|stored| !stored.is_empty()) {
            tracing::warn!(
                file = %path.display(),
                "the tail mark is damaged; it is written anew from what the log holds"
            );
        }
        Ok((Self(file), mark))
    }

    /// Writes the mark.
    pub(crate) fn write(&self, tail: Tail) -> io::Result<()> {
        let mut bytes = [0; LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&tail.segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&tail.end.to_le_bytes());
        bytes[24..32].copy_from_slice(&tail.next.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// Makes the mark survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn decode(bytes: &[u8]) -> Option<Tail> {
    if bytes.len() != LEN
        || bytes[..8] != MAGIC
        || crc32c::crc32c(&bytes[..32]) != u32_at(bytes, 32)
    {
        return None;
    }
    Some(Tail {
        segment: u64_at(bytes, 8),
        end: u64_at(bytes, 16),
        next: u64_at(bytes, 24),
    })
}
