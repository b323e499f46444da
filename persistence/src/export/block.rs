//! The signed list of the leaf hashes of a run of records: it tells which of them was changed.
//!
//! ```text
//! <log>/export-block
//! <position of the first record> <how many>
//! <their leaf hashes, one after the other, in hex>
//! ```

use tlog_tiles::Hash;

use crate::checkpoint::verify_attested;
use crate::hash_text::HashText;
use crate::succession::LogKeys;

/// What such a note is about, for its first line.
pub(crate) const ABOUT: &str = "export-block";

/// Records of a block. A signature costs as much as twenty records to verify, and a list of this many is 16 KiB.
pub(crate) const RECORDS: usize = 256;

/// What is signed of a block.
pub(crate) fn statement(first: u64, leaves: &[Hash]) -> String {
    let mut text = format!("{first} {}\n", leaves.len());
    for leaf in leaves {
        text.push_str(HashText::of(&leaf.0).as_str());
    }
    text
}

/// Compares the leaves of a block that were computed with those that were signed: the first position that differs.
///
/// # Errors
/// What is wrong with the note.
pub(crate) fn first_changed(
    note: &str,
    keys: &LogKeys,
    first: u64,
    leaves: &[Hash],
) -> Result<Option<u64>, String> {
    let text = verify_attested(note, keys, ABOUT).map_err(|e| e.to_string())?;
    let (place, hashes) = text.split_once('\n').ok_or("it has no list")?;
    if place != format!("{first} {}", leaves.len()) {
        return Err(format!("it is about other records: {place}"));
    }
    let hashes = faster_hex::hex_decode_vec(hashes.as_bytes())
        .map_err(|_| "its list is not hex".to_owned())?;
    if hashes.len() != leaves.len() * 32 {
        return Err("its list has another length than it says".to_owned());
    }
    let signed = hashes.chunks_exact(32);
    let differs = leaves.iter().zip(signed).position(|(a, b)| a.0 != b);
    Ok(differs.map(|offset| first + offset as u64))
}
