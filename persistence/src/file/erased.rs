//! The list of erased records.
//!
//! A record counts as erased when it is on this list, not when its bytes are zeros: so a lost sector is never taken for an
//! erasure. The list is extended and synced before anything is overwritten, so it is also the intent that completes
//! an interrupted erasure.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::layout::{u32_at, u64_at};
use crate::fsio;

const MAGIC: [u8; 8] = *b"MESHERA\n";
/// Count and checksum before the positions of an entry.
const ENTRY_HEAD: usize = 8;

/// The file of the list.
#[derive(Debug)]
pub(crate) struct ErasedFile {
    file: File,
    len: u64,
}

/// What the file held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ErasedList {
    /// All erased positions.
    pub(crate) positions: BTreeSet<u64>,
    /// Those whose overwriting may not have been completed.
    pub(crate) last: Vec<u64>,
}

impl ErasedFile {
    /// Opens the list. An incomplete last entry was never acknowledged and is cut.
    ///
    /// # Errors
    /// `Ok(Err(offset))` when the list is damaged there.
    pub(crate) fn open(path: &Path) -> io::Result<Result<(Self, ErasedList), u64>> {
        let stored = fsio::read_if_exists(path)?.unwrap_or_default();
        let file = fsio::open_or_create(path)?;
        if stored.len() < MAGIC.len() {
            // The first thing ever written here was interrupted, or is yet to be written.
            if !MAGIC.starts_with(&stored) && stored.iter().any(|&byte| byte != 0) {
                return Ok(Err(0));
            }
            file.write_all_at(&MAGIC, 0)?;
            file.sync_all()?;
            let len = MAGIC.len() as u64;
            file.set_len(len)?;
            return Ok(Ok((Self { file, len }, ErasedList::default())));
        }
        match decode(&stored) {
            Ok((list, len)) => {
                if len < stored.len() {
                    file.set_len(len as u64)?;
                    file.sync_all()?;
                }
                Ok(Ok((
                    Self {
                        file,
                        len: len as u64,
                    },
                    list,
                )))
            }
            Err(offset) => Ok(Err(offset as u64)),
        }
    }

    /// Adds positions durably.
    pub(crate) fn add(&mut self, positions: &[u64]) -> io::Result<()> {
        let mut entry = vec![0; ENTRY_HEAD];
        for position in positions {
            entry.extend_from_slice(&position.to_le_bytes());
        }
        let count = u32::try_from(positions.len()).unwrap_or(u32::MAX);
        entry[..4].copy_from_slice(&count.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&entry[..4]), &entry[ENTRY_HEAD..]);
        entry[4..8].copy_from_slice(&crc.to_le_bytes());
        let written = self
            .file
            .write_all_at(&entry, self.len)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is left of a failed entry must not stand behind the next one, which may be shorter.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += entry.len() as u64;
        Ok(())
    }
}

/// The list, and how many bytes of it are complete.
fn decode(bytes: &[u8]) -> Result<(ErasedList, usize), usize> {
    if !bytes.starts_with(&MAGIC) {
        return Err(0);
    }
    let mut list = ErasedList::default();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.len() < ENTRY_HEAD {
            break;
        }
        let len = (u32_at(rest, 0) as usize).checked_mul(8).ok_or(at)?;
        let Some(content) = rest.get(ENTRY_HEAD..ENTRY_HEAD + len) else {
            break;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&rest[..4]), content);
        if crc != u32_at(rest, 4) || len == 0 {
            // Only the very last entry can be half written.
            if at + ENTRY_HEAD + len == bytes.len() {
                break;
            }
            return Err(at);
        }
        list.last = content
            .chunks_exact(8)
            .map(|position| u64_at(position, 0))
            .collect();
        list.positions.extend(&list.last);
        at += ENTRY_HEAD + len;
    }
    Ok((list, at))
}
