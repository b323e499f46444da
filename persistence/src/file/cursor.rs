//! A place in one segment: takes its batches one after the other, checking each against the chain.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, PoisonError};

use super::layout::{BATCH_HEAD, BATCH_TRAILER, BatchHead, RawRecord, decode_trailer, is_padding};
use super::recover::Batch;
use super::segment::{End, Segment, Step, remember};
use crate::journal::ReadError;

/// How much is read from the disk at once.
const READ_AHEAD: u64 = 256 * 1024;
/// The same for whoever wants a record here and there.
pub(super) const READ_AHEAD_SPARSE: u64 = 16 * 1024;

/// The last remembered place at or before `from`.
pub(super) fn place(segment: &Arc<Segment>, end: End, from: u64) -> Result<Batch, ReadError> {
    let mut guard = segment.index.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match &mut *guard {
        Some(index) => index,
        empty => empty.insert(build_index(segment, end)?),
    };
    let after = index.partition_point(|batch| batch.first <= from);
    Ok(after
        .checked_sub(1)
        .and_then(|at| index.get(at))
        .copied()
        .unwrap_or(segment.begin()))
}

fn build_index(segment: &Arc<Segment>, end: End) -> Result<Vec<Batch>, ReadError> {
    let mut index = Vec::new();
    let mut cursor = Cursor::open(Arc::clone(segment), end, segment.begin())?;
    while let Some(head) = cursor.peek()? {
        remember(&mut index, cursor.batch());
        cursor.skip(&head)?;
    }
    Ok(index)
}

/// Where the batch ends that is followed by record `next`; that record's batch may be there or not.
pub(super) fn end_before(segment: &Arc<Segment>, end: End, next: u64) -> Result<u64, ReadError> {
    let begin = place(segment, end, next.saturating_sub(1))?;
    let mut cursor = Cursor::open(Arc::clone(segment), end, begin)?;
    while cursor.next < next {
        let Some(head) = cursor.peek()? else { break };
        cursor.skip(&head)?;
    }
    if cursor.next == next {
        Ok(cursor.offset)
    } else {
        let detail = format!("no batch ends before record {next}");
        Err(segment.corrupt(cursor.offset, detail))
    }
}

/// A place in one segment, and the batch loaded there.
#[derive(Debug)]
pub(super) struct Cursor {
    segment: Arc<Segment>,
    file: File,
    end: End,
    // Where the next batch begins, the chain value before it, and its first position.
    offset: u64,
    chain: u32,
    next: u64,
    read_ahead: u64,
    // Bytes of the file from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
    loaded: Option<Loaded>,
}

/// The batch that records are taken from: its records' bytes, and how far they were taken.
#[derive(Debug)]
struct Loaded {
    records: Vec<u8>,
    records_at: u64,
    at: usize,
    chain: u32,
    position: u64,
    left: u32,
    after: u32,
}

impl Cursor {
    pub(super) fn open(segment: Arc<Segment>, end: End, begin: Batch) -> Result<Self, ReadError> {
        let file = File::open(&segment.path).map_err(|source| ReadError::Io {
            file: segment.file(),
            source,
        })?;
        Ok(Self {
            segment,
            file,
            end,
            offset: begin.offset as u64,
            chain: begin.chain,
            next: begin.first,
            read_ahead: READ_AHEAD,
            buffer: Vec::new(),
            buffer_at: 0,
            loaded: None,
        })
    }

    /// Reads only so much at once.
    pub(super) fn reading(mut self, bytes: u64) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// Goes on from another place in the segment.
    pub(super) fn jump(&mut self, to: Batch) {
        self.loaded = None;
        (self.offset, self.chain, self.next) = (to.offset as u64, to.chain, to.first);
    }

    /// Whether the next batch is the one at `place`, or a later one.
    pub(super) fn is_beyond(&self, place: &Batch) -> bool {
        self.offset >= place.offset as u64
    }

    /// Goes forward to record `position`, passing whole batches unread; whether it is there.
    pub(super) fn seek(&mut self, position: u64) -> Result<bool, ReadError> {
        let ahead = |loaded: &Loaded| loaded.position + u64::from(loaded.left) > position;
        if !self.loaded.as_ref().is_some_and(ahead) {
            self.loaded = None;
            while let Some(head) = self.peek()? {
                if head.first + u64::from(head.count) > position {
                    break;
                }
                self.skip(&head)?;
            }
        }
        while self.load()?.is_some_and(|next| next < position) {
            self.record()?;
        }
        Ok(self.load()? == Some(position))
    }

    /// Whether `position` is the record that comes next.
    pub(super) fn is_at(&self, position: u64) -> bool {
        self.loaded
            .as_ref()
            .is_some_and(|loaded| loaded.left > 0 && loaded.position == position)
    }

    /// Whether the loaded batch is this one, and nothing was taken from it.
    pub(super) fn at_begin_of(&self, batch: &Batch) -> bool {
        self.loaded
            .as_ref()
            .is_some_and(|loaded| loaded.at == 0 && loaded.position == batch.first)
    }

    pub(super) fn batch(&self) -> Batch {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        Batch {
            offset,
            chain: self.chain,
            first: self.next,
        }
    }

    /// The head of the batch at the cursor, checked; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<BatchHead>, ReadError> {
        if self.offset == self.end.offset {
            if (self.next, self.chain) != (self.end.next, self.end.chain) {
                return Err(self
                    .segment
                    .corrupt(self.offset, "it ends with other records than it should"));
            }
            return Ok(None);
        }
        let head = BatchHead::decode(self.bytes(self.offset, BATCH_HEAD)?);
        match head {
            Some(head)
                if head.first == self.next
                    && head.chain == self.chain
                    && head.count > 0
                    && self.offset + head.total_len() as u64 <= self.end.offset =>
            {
                Ok(Some(head))
            }
            _ => Err(self
                .segment
                .corrupt(self.offset, "the head of a batch is damaged")),
        }
    }

    /// Passes a batch without looking at its records; the next head must continue what its end states.
    pub(super) fn skip(&mut self, head: &BatchHead) -> Result<(), ReadError> {
        let end = self.offset + head.total_len() as u64;
        let trailer = self.bytes(end - BATCH_TRAILER as u64, BATCH_TRAILER)?;
        let Some(after) = decode_trailer(trailer) else {
            return Err(self.segment.corrupt(end, "the end of a batch is damaged"));
        };
        (self.offset, self.chain, self.next) = (end, after, self.next + u64::from(head.count));
        Ok(())
    }

    /// Makes sure that a batch with records left is loaded; returns the next record's position.
    pub(super) fn load(&mut self) -> Result<Option<u64>, ReadError> {
        if let Some(loaded) = self.loaded.as_ref().filter(|loaded| loaded.left > 0) {
            return Ok(Some(loaded.position));
        }
        self.finish_batch()?;
        let Some(head) = self.peek()? else {
            return Ok(None);
        };
        let records_at = self.offset + BATCH_HEAD as u64;
        let records = self.bytes(records_at, head.body_len as usize)?.to_vec();
        let (chain, position) = (self.chain, self.next);
        self.skip(&head)?;
        let after = self.chain;
        self.loaded = Some(Loaded {
            records,
            records_at,
            at: 0,
            chain,
            position,
            left: head.count,
            after,
        });
        Ok(Some(position))
    }

    /// Checks what follows the last record of the loaded batch.
    fn finish_batch(&mut self) -> Result<(), ReadError> {
        let Some(loaded) = self.loaded.take() else {
            return Ok(());
        };
        if loaded.chain != loaded.after || !is_padding(&loaded.records[loaded.at..]) {
            return Err(self.segment.corrupt(
                loaded.records_at,
                "the end of a batch does not match its records",
            ));
        }
        Ok(())
    }

    /// The next record of the loaded batch.
    pub(super) fn record(&mut self) -> Result<Step<'_>, ReadError> {
        let Some(loaded) = &mut self.loaded else {
            return Err(self.segment.corrupt(self.offset, "no batch is loaded"));
        };
        let raw =
            RawRecord::decode(&loaded.records, loaded.at, loaded.chain).map_err(|detail| {
                self.segment
                    .corrupt(loaded.records_at + loaded.at as u64, detail)
            })?;
        let position = loaded.position;
        let body_offset = loaded.records_at + raw.body_at as u64;
        (loaded.at, loaded.chain) = (raw.end, raw.chain);
        loaded.position += 1;
        loaded.left -= 1;
        Ok(Step {
            position,
            raw,
            segment: &self.segment,
            body_offset,
        })
    }

    /// Bytes of the file, read ahead.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], ReadError> {
        let end = at + len as u64;
        if at < self.buffer_at || end > self.buffer_at + self.buffer.len() as u64 {
            let size = self
                .read_ahead
                .max(len as u64)
                .min(self.end.offset.saturating_sub(at).max(len as u64));
            self.buffer.resize(usize::try_from(size).unwrap_or(len), 0);
            self.buffer_at = at;
            if let Err(source) = self.file.read_exact_at(&mut self.buffer, at) {
                self.buffer.clear();
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    return Err(self.segment.corrupt(at, "the file is cut short"));
                }
                return Err(ReadError::Io {
                    file: self.segment.file(),
                    source,
                });
            }
        }
        let start = usize::try_from(at - self.buffer_at).unwrap_or(usize::MAX);
        Ok(&self.buffer[start..start + len])
    }
}
