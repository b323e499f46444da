//! The bytes of a segment. Pure: encodes into buffers and decodes from slices.
//!
//! All numbers are little-endian. `docs/decisions/0001-journal-format.md` has the picture.

use std::collections::BTreeMap;

use mesh_messages::{PartitionId, Timestamp};
use serde::{Deserialize, Serialize};
use tlog_tiles::Hash;

use crate::seal::{SALT_LEN, Sealed};
use crate::tree::Frontier;

/// Version of the segment format. A newer one is refused; there is no older one.
pub(crate) const SEGMENT_FORMAT: u32 = 1;

/// Begins a segment.
const SEGMENT_MAGIC: [u8; 8] = *b"MESHLOG\n";
/// Fixed part of a segment's head, before its JSON.
pub(crate) const HEAD_FIXED: usize = 64;
/// Largest head: two hundred thousand partitions with the longest names take less.
pub(crate) const HEAD_MAX: usize = 32 * 1024 * 1024;

/// Begins a batch. Not UTF-8, so no header and no payload can hold it; many bits, so no flipped bit makes it zero.
const BATCH_MAGIC: [u8; 8] = [0xb5, 0xff, b'B', b'A', b'T', b'C', b'H', 0xda];
/// Ends a batch, after the chain value.
const BATCH_END: [u8; 4] = [0xda, b'E', b'N', 0xff];
/// Fills a batch up to a multiple of [`ALIGN`]; not zero, so that zeros always mean "not written".
const PADDING: u8 = 0xa5;
/// Batches begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Bytes of a batch's head.
pub(crate) const BATCH_HEAD: usize = 32;
/// Bytes of a batch's end.
pub(crate) const BATCH_TRAILER: usize = 8;
/// What a batch may take beyond its records.
pub(crate) const BATCH_OVERHEAD: usize = BATCH_HEAD + BATCH_TRAILER + ALIGN;
/// Bytes before a record's header.
const RECORD_HEAD: usize = 12;
/// Bytes of the erasable frame before the payload: its checksum and the salt.
const BODY_HEAD: usize = 4 + SALT_LEN;

/// What a segment says about itself and about the log before it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SegmentHead {
    /// Position of its first record.
    pub(crate) first: u64,
    /// Size of the file.
    pub(crate) segment_len: u64,
    /// First position of the segment before it; `None` for the first segment.
    pub(crate) prev_first: Option<u64>,
    /// Where the last batch of the segment before it ends.
    pub(crate) prev_end: u64,
    /// Chain value of everything before it.
    pub(crate) chain: u32,
    /// The rest.
    pub(crate) start: LogStart,
}

/// The state of the log where a segment begins, so that opening reads one segment only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogStart {
    /// The log's id.
    pub(crate) log: String,
    /// Time of the last record before it.
    pub(crate) time: Timestamp,
    /// Logical counter of that record.
    pub(crate) lc: u32,
    /// Next sequence number of each partition.
    pub(crate) seqs: BTreeMap<PartitionId, u64>,
    /// Hex of the tree's subtrees, largest first.
    tree: Vec<String>,
}

impl LogStart {
    pub(crate) fn new(
        log: String,
        time: Timestamp,
        lc: u32,
        seqs: BTreeMap<PartitionId, u64>,
        frontier: &Frontier,
    ) -> Self {
        let tree = frontier
            .nodes()
            .iter()
            .map(|hash| hex::encode(hash.0))
            .collect();
        Self {
            log,
            time,
            lc,
            seqs,
            tree,
        }
    }

    /// The tree over the `size` records before the segment.
    pub(crate) fn frontier(&self, size: u64) -> Option<Frontier> {
        let mut nodes = Vec::with_capacity(self.tree.len());
        for text in &self.tree {
            let mut hash = [0; 32];
            hex::decode_to_slice(text, &mut hash).ok()?;
            nodes.push(Hash(hash));
        }
        Frontier::from_parts(size, nodes)
    }
}

/// Why a segment's head cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// Written by a newer version.
    Newer(u32),
    /// Not what was written.
    Damaged(&'static str),
}

impl SegmentHead {
    /// The head as stored: fixed part, JSON, zeros up to a multiple of [`ALIGN`], checksum.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = vec![0; HEAD_FIXED];
        serde_json::to_writer(&mut bytes, &self.start)?;
        let json_len = bytes.len() - HEAD_FIXED;
        bytes.resize(bytes.len().next_multiple_of(ALIGN) + ALIGN, 0);
        let (len, crc_at) = (bytes.len(), bytes.len() - ALIGN);
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&to_u32(len).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment_len.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.prev_first.unwrap_or(u64::MAX).to_le_bytes());
        bytes[40..48].copy_from_slice(&self.prev_end.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.chain.to_le_bytes());
        bytes[52..56].copy_from_slice(&to_u32(json_len).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// How long the head is, from its fixed part.
    pub(crate) fn len_of(fixed: &[u8; HEAD_FIXED]) -> Result<usize, HeadError> {
        if fixed[..8] != SEGMENT_MAGIC {
            return Err(HeadError::Damaged("it does not begin like a segment"));
        }
        let format = u32_at(fixed, 8);
        if format > SEGMENT_FORMAT {
            return Err(HeadError::Newer(format));
        }
        let len = u32_at(fixed, 12) as usize;
        if format == 0
            || !(HEAD_FIXED + ALIGN..=HEAD_MAX).contains(&len)
            || !len.is_multiple_of(ALIGN)
        {
            return Err(HeadError::Damaged(
                "its head has an impossible format or length",
            ));
        }
        Ok(len)
    }

    /// Decodes a whole head.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let crc_at = bytes.len() - ALIGN;
        if crc32c::crc32c(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
            return Err(HeadError::Damaged("the checksum of its head is wrong"));
        }
        let json = HEAD_FIXED
            .checked_add(u32_at(bytes, 52) as usize)
            .and_then(|end| bytes.get(HEAD_FIXED..end))
            .ok_or(HeadError::Damaged("its head is cut short"))?;
        let start = serde_json::from_slice(json)
            .map_err(|_| HeadError::Damaged("its head does not parse"))?;
        Ok(Self {
            first: u64_at(bytes, 16),
            segment_len: u64_at(bytes, 24),
            prev_first: Some(u64_at(bytes, 32)).filter(|&first| first != u64::MAX),
            prev_end: u64_at(bytes, 40),
            chain: u32_at(bytes, 48),
            start,
        })
    }
}

/// Appends a record's two frames to `buffer`; returns the chain value after it.
pub(crate) fn encode_record(buffer: &mut Vec<u8>, chain: u32, record: &Sealed) -> u32 {
    let at = buffer.len();
    buffer.extend_from_slice(&to_u32(record.header_bytes.len()).to_le_bytes());
    buffer.extend_from_slice(&to_u32(record.payload.len()).to_le_bytes());
    let chain = crc32c::crc32c_append(chain, &buffer[at..at + 8]);
    let chain = crc32c::crc32c_append(chain, &record.header_bytes);
    buffer.extend_from_slice(&chain.to_le_bytes());
    buffer.extend_from_slice(&record.header_bytes);
    let body_crc = crc32c::crc32c_append(crc32c::crc32c(&record.salt), &record.payload);
    buffer.extend_from_slice(&body_crc.to_le_bytes());
    buffer.extend_from_slice(&record.salt);
    buffer.extend_from_slice(&record.payload);
    chain
}

/// The head of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHead {
    /// Position of its first record.
    pub(crate) first: u64,
    /// Bytes of its records with padding.
    pub(crate) body_len: u32,
    /// How many records it holds.
    pub(crate) count: u32,
    /// Chain value before it.
    pub(crate) chain: u32,
}

impl BatchHead {
    fn encode(self) -> [u8; BATCH_HEAD] {
        let mut bytes = [0; BATCH_HEAD];
        bytes[0..8].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a head that bears its own checksum; `None` when these bytes are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<BATCH_HEAD>()?;
        if bytes[..8] != BATCH_MAGIC || crc32c::crc32c(&bytes[..28]) != u32_at(bytes, 28) {
            return None;
        }
        Some(Self {
            first: u64_at(bytes, 8),
            body_len: u32_at(bytes, 16),
            count: u32_at(bytes, 20),
            chain: u32_at(bytes, 24),
        })
    }

    /// Bytes of the whole batch.
    pub(crate) fn total_len(&self) -> usize {
        BATCH_HEAD + self.body_len as usize + BATCH_TRAILER
    }
}

/// Completes a batch: `buffer` begins with [`BATCH_HEAD`] bytes of room, followed by the records.
pub(crate) fn finish_batch(buffer: &mut Vec<u8>, first: u64, count: u32, chain: u32, after: u32) {
    buffer.resize(buffer.len().next_multiple_of(ALIGN), PADDING);
    let body_len = to_u32(buffer.len() - BATCH_HEAD);
    let head = BatchHead {
        first,
        body_len,
        count,
        chain,
    }
    .encode();
    buffer[..BATCH_HEAD].copy_from_slice(&head);
    buffer.extend_from_slice(&after.to_le_bytes());
    buffer.extend_from_slice(&BATCH_END);
}

/// The chain value that a batch's end states; `None` when these bytes are no end.
pub(crate) fn decode_trailer(bytes: &[u8]) -> Option<u32> {
    (bytes.len() == BATCH_TRAILER && bytes[4..] == BATCH_END).then(|| u32_at(bytes, 0))
}

/// A record's frames within a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub(crate) header: &'a [u8],
    /// Where the erasable frame begins, from the beginning of the batch's records.
    pub(crate) body_at: usize,
    /// The erasable frame: checksum, salt, payload.
    pub(crate) body: &'a [u8],
    /// Where the next record begins.
    pub(crate) end: usize,
    /// Chain value after it.
    pub(crate) chain: u32,
}

impl<'a> RawRecord<'a> {
    /// Decodes the record at `at` of a batch's records and checks its header against the chain.
    pub(crate) fn decode(records: &'a [u8], at: usize, chain: u32) -> Result<Self, &'static str> {
        let short = "a record reaches beyond its batch";
        let head = records
            .get(at..)
            .and_then(|rest| rest.first_chunk::<RECORD_HEAD>())
            .ok_or(short)?;
        let header_at = at + RECORD_HEAD;
        let body_at = header_at
            .checked_add(u32_at(head, 0) as usize)
            .ok_or(short)?;
        let end = body_at
            .checked_add(BODY_HEAD)
            .and_then(|at| at.checked_add(u32_at(head, 4) as usize))
            .ok_or(short)?;
        let body = records.get(body_at..end).ok_or(short)?;
        let header = &records[header_at..body_at];
        let chain = crc32c::crc32c_append(crc32c::crc32c_append(chain, &head[..8]), header);
        if chain != u32_at(head, 8) {
            return Err("the checksum of a record's header is wrong");
        }
        Ok(Self {
            header,
            body_at,
            body,
            end,
            chain,
        })
    }

    /// Salt and payload; `None` when their checksum is wrong.
    pub(crate) fn body(&self) -> Option<([u8; SALT_LEN], &'a [u8])> {
        let content = &self.body[4..];
        let (&salt, payload) = content.split_first_chunk::<SALT_LEN>()?;
        (crc32c::crc32c(content) == u32_at(self.body, 0)).then_some((salt, payload))
    }
}

/// Whether bytes after a batch's last record are its padding.
pub(crate) fn is_padding(bytes: &[u8]) -> bool {
    bytes.len() < ALIGN && bytes.iter().all(|&byte| byte == PADDING)
}

fn to_u32(len: usize) -> u32 {
    // Every length here is bounded by APPEND_BYTES_MAX or the size of a segment, both far below 4 GiB.
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The number at `at`.
///
/// # Panics
/// When the slice is too short: callers have checked its length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The number at `at`; as [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
