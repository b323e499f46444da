//! Decides what the last segment holds after an unclean end. Pure.
//!
//! One batch is in flight at a time, and a batch is acknowledged only when it is synced. So at most one batch, the last,
//! may be incomplete; everything else that does not check is damage and is refused, never cut. The last batch is cut
//! only when it shows that it was never completely written:
//!
//! - the *tail mark* (written after every sync) does not reach beyond its beginning, and
//! - no batch follows it (the next one is written only after it was synced), and
//! - a whole sector of it reads as zeros, or its end does, or what follows its head, or it reaches beyond the end of the
//!   file. Segments are preallocated with zeros, disks write sectors whole or not at all, and a complete batch has zeros in
//!   none of these places.
//!
//! A flipped bit leaves no zero sector behind, so it is told from a torn write even in the very last batch.

use std::collections::BTreeSet;

use super::layout::{
    ALIGN, BATCH_HEAD, BATCH_TRAILER, BatchHead, RawRecord, decode_trailer, is_padding,
};

/// What disks write whole or not at all.
const SECTOR: usize = 512;

/// Damage that is no torn write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: usize,
    pub(crate) detail: String,
}

/// A segment's sound content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sound {
    /// Where the last batch ends.
    pub(crate) end: usize,
    /// Chain value there.
    pub(crate) chain: u32,
    /// Position of the next record.
    pub(crate) next: u64,
    /// Whether what follows must be overwritten with zeros.
    pub(crate) torn: bool,
}

/// Where recovery begins and what is known to have been acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) offset: usize,
    pub(crate) chain: u32,
    pub(crate) position: u64,
    /// Everything before this offset was acknowledged.
    pub(crate) acknowledged: usize,
}

/// Where a batch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Where it begins.
    pub(crate) offset: usize,
    /// Chain value before it.
    pub(crate) chain: u32,
    /// Position of its first record.
    pub(crate) first: u64,
}

/// Walks the batches of a segment's bytes.
///
/// `visit` sees every record of every sound batch, with the offset at which its batch begins; it returns why the record
/// cannot be right. Bodies of `erased` positions are not looked at.
pub(crate) fn recover(
    data: &[u8],
    begin: Begin,
    erased: &BTreeSet<u64>,
    mut visit: impl FnMut(&Batch, u64, &RawRecord<'_>) -> Result<(), String>,
) -> Result<Sound, Damage> {
    let Begin {
        offset: mut at,
        mut chain,
        position: mut next,
        acknowledged,
    } = begin;
    loop {
        match check_batch(data, at, chain, next, erased) {
            Ok((head, after)) => {
                let batch = Batch {
                    offset: at,
                    chain,
                    first: next,
                };
                let records = &data[at + BATCH_HEAD..at + BATCH_HEAD + head.body_len as usize];
                let (mut offset, mut link) = (0, chain);
                for position in next..next + u64::from(head.count) {
                    let damage = |detail: String| Damage { offset: at, detail };
                    let record = RawRecord::decode(records, offset, link)
                        .map_err(|detail| damage(detail.to_owned()))?;
                    visit(&batch, position, &record).map_err(damage)?;
                    (offset, link) = (record.end, record.chain);
                }
                at += head.total_len();
                next += u64::from(head.count);
                chain = after;
            }
            Err(detail) => {
                let rest = &data[at.min(data.len())..];
                let unused = at >= acknowledged && rest.iter().all(|&byte| byte == 0);
                if unused || is_torn(data, at, acknowledged, next) {
                    return Ok(Sound {
                        end: at,
                        chain,
                        next,
                        torn: !unused,
                    });
                }
                return Err(Damage {
                    offset: at,
                    detail: detail.to_owned(),
                });
            }
        }
    }
}

/// Checks a batch; returns its head and the chain value after it.
fn check_batch(
    data: &[u8],
    at: usize,
    chain: u32,
    next: u64,
    erased: &BTreeSet<u64>,
) -> Result<(BatchHead, u32), &'static str> {
    let head = data
        .get(at..)
        .and_then(BatchHead::decode)
        .ok_or("the head of a batch is missing or damaged")?;
    if head.first != next || head.chain != chain || head.count == 0 {
        return Err("a batch does not continue the one before it");
    }
    let end = at + head.total_len();
    let batch = data
        .get(at..end)
        .ok_or("a batch reaches beyond the end of the file")?;
    let records = &batch[BATCH_HEAD..batch.len() - BATCH_TRAILER];
    let after = decode_trailer(&batch[batch.len() - BATCH_TRAILER..])
        .ok_or("the end of a batch is missing or damaged")?;
    let (mut offset, mut link) = (0, chain);
    for position in next..next + u64::from(head.count) {
        let record = RawRecord::decode(records, offset, link)?;
        if record.body().is_none() && !erased.contains(&position) {
            return Err("the checksum of a record's payload is wrong");
        }
        (offset, link) = (record.end, record.chain);
    }
    if link != after {
        return Err("the end of a batch does not match its records");
    }
    if !is_padding(&records[offset..]) {
        return Err("the padding of a batch is damaged");
    }
    Ok((head, after))
}

/// Whether the bad batch at `at` was never completely written.
fn is_torn(data: &[u8], at: usize, acknowledged: usize, next: u64) -> bool {
    if at < acknowledged || followed_by_batch(data, at, next) {
        return false;
    }
    let is_zero = |from: usize, to: usize| data[from..to].iter().all(|&byte| byte == 0);
    if let Some(head) = data.get(at..).and_then(BatchHead::decode) {
        let end = at + head.total_len();
        end > data.len() || has_zero_sector(data, at, end) || is_zero(end - BATCH_TRAILER, end)
    } else {
        // Its length is unknown; but a record begins right behind the head.
        let (end, record) = (at + BATCH_HEAD, at + 2 * BATCH_HEAD);
        record > data.len() || has_zero_sector(data, at, end) || is_zero(end, record)
    }
}

/// Whether a batch with a sound head and a later position begins after `at`.
fn followed_by_batch(data: &[u8], at: usize, next: u64) -> bool {
    (at + ALIGN..data.len())
        .step_by(ALIGN)
        .filter_map(|offset| BatchHead::decode(&data[offset..]))
        .any(|head| head.first > next)
}

/// Whether the part that one sector has in `from..to` is all zeros.
pub(super) fn has_zero_sector(data: &[u8], from: usize, to: usize) -> bool {
    let mut at = from;
    while at < to {
        let end = (at - at % SECTOR + SECTOR).min(to);
        if data[at..end].iter().all(|&byte| byte == 0) {
            return true;
        }
        at = end;
    }
    false
}
