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
use super::recover::has_zero_sector;
use crate::fsio;

const MAGIC: [u8; 8] = *b"MESHERA\n";
/// Count and checksum before the positions of an entry.
const ENTRY_HEAD: usize = 8;
/// Bytes of a position.
const POSITION: usize = 8;

/// The file of the list.
#[derive(Debug)]
pub(crate) struct ErasedFile {
    file: File,
    len: u64,
    /// What the last entry names, if overwriting it has failed. Another entry may follow only when that is made up for.
    pub(crate) unfinished: BTreeSet<u64>,
}

impl ErasedFile {
    fn new(file: File, len: u64) -> Self {
        Self {
            file,
            len,
            unfinished: BTreeSet::new(),
        }
    }
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
            return Ok(Ok((Self::new(file, len), ErasedList::default())));
        }
        let (list, len) = match decode(&stored) {
            Ok(decoded) => decoded,
            Err(offset) => return Ok(Err(offset as u64)),
        };
        if len < stored.len() {
            tracing::warn!(
                file = %path.display(), offset = len,
                "cut an unfinished entry from the end of the list of erasures; it was never acknowledged"
            );
            file.set_len(len as u64)?;
            file.sync_all()?;
        } else if !list.last.is_empty() {
            // The last entry may be in the kernel's memory alone, and what it names is about to be overwritten.
            file.sync_data()?;
        }
        let len = len as u64;
        Ok(Ok((Self::new(file, len), list)))
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

/// The list, and how many bytes of it are complete; or where it is damaged.
fn decode(bytes: &[u8]) -> Result<(ErasedList, usize), usize> {
    if !bytes.starts_with(&MAGIC) {
        return Err(0);
    }
    let mut list = ErasedList::default();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let Some(content) = entry(&bytes[at..]) else {
            if is_unfinished(bytes, at) {
                break;
            }
            return Err(at);
        };
        list.last = content
            .chunks_exact(POSITION)
            .map(|position| u64_at(position, 0))
            .collect();
        list.positions.extend(&list.last);
        at += ENTRY_HEAD + content.len();
    }
    Ok((list, at))
}

/// The positions of the intact entry that `rest` begins with.
fn entry(rest: &[u8]) -> Option<&[u8]> {
    let (head, content) = rest.split_at_checked(ENTRY_HEAD)?;
    let content = content.get(..(u32_at(head, 0) as usize).checked_mul(POSITION)?)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..4]), content);
    (!content.is_empty() && crc == u32_at(head, 4)).then_some(content)
}

/// Whether the bad entry at `at` was never completely written. Only the last one can be, and then the file ends before it
/// does, or a sector of it reads as zeros: a flipped bit does neither.
fn is_unfinished(bytes: &[u8], at: usize) -> bool {
    let Some((head, content)) = bytes[at..].split_at_checked(ENTRY_HEAD) else {
        return true;
    };
    let count = u32_at(head, 0) as usize;
    let end = (at + ENTRY_HEAD).saturating_add(count.saturating_mul(POSITION));
    let is_last = count == 0 || end >= bytes.len();
    is_last
        && !has_whole_entry(u32_at(head, 4), content)
        && (end > bytes.len() || has_zero_sector(bytes, at, bytes.len()))
}

/// Whether some number of the positions has this checksum: then they are an entry whose count is damaged.
fn has_whole_entry(crc: u32, content: &[u8]) -> bool {
    let mut of_content = 0;
    (1_u32..)
        .zip(content.chunks_exact(POSITION))
        .any(|(count, position)| {
            of_content = crc32c::crc32c_append(of_content, position);
            let of_count = crc32c::crc32c(&count.to_le_bytes());
            let len = count as usize * POSITION;
            crc32c::crc32c_combine(of_count, of_content, len) == crc
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of three entries, and where each begins.
    fn list() -> (tempfile::TempDir, Vec<u8>, [usize; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("erased");
        let (mut file, _) = ErasedFile::open(&path).unwrap().unwrap();
        file.add(&[3, 5]).unwrap();
        file.add(&[(1 << 40) + 7]).unwrap();
        file.add(&(100..180).collect::<Vec<_>>()).unwrap();
        (dir, std::fs::read(path).unwrap(), [8, 32, 48])
    }

    #[test]
    fn an_entry_that_was_cut_off_anywhere_is_cut_and_the_others_stay() {
        let (_dir, bytes, begins) = list();
        for len in MAGIC.len()..bytes.len() {
            let (list, kept) = decode(&bytes[..len]).unwrap();
            let whole = begins.into_iter().rfind(|&begin| begin <= len).unwrap();
            assert_eq!(kept, whole, "of {len} bytes");
            assert_eq!(
                list.positions.len(),
                [0, 2, 3][begins.iter().position(|&b| b == whole).unwrap()]
            );
        }
        // A sector that never got there.
        let mut torn = bytes.clone();
        torn[512..].fill(0);
        assert_eq!(decode(&torn).unwrap().1, 48);
    }

    #[test]
    fn a_flipped_bit_is_damage_and_nothing_is_cut() {
        let (_dir, bytes, begins) = list();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let at = begins.into_iter().rfind(|&begin| begin <= bit / 8);
            assert_eq!(decode(&damaged), Err(at.unwrap_or(0)), "bit {bit}");
        }
    }
}
