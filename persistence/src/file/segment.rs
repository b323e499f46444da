//! The segments of a log, and walking through their records while the log grows.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mesh_messages::record::RECORD_FORMAT;
use mesh_messages::{PartitionId, Position, Record, RecordBody, RecordHeader};

use super::cursor::{Cursor, end_before, place};
use super::layout::{RawRecord, SegmentHead};
use super::recover::Batch;
use super::runs::{Run, Runs, RunsIndex};
use crate::journal::ReadError;

/// A place in every so many bytes of a segment is remembered, so that finding a record walks over no more than that.
const INDEX_EVERY: u64 = 64 * 1024;

/// Name of the file of the segment that begins at `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Position of its first record.
    pub(crate) first: u64,
    /// Where its first batch begins.
    pub(crate) head_len: u64,
    /// Chain value before its first batch.
    pub(crate) chain: u32,
    /// Places in it, ascending; `None` until somebody needed them.
    pub(super) index: Mutex<Option<Vec<Batch>>>,
}

impl Segment {
    pub(crate) fn new(
        path: PathBuf,
        head: &SegmentHead,
        head_len: u64,
        index: Option<Vec<Batch>>,
    ) -> Arc<Self> {
        let (first, chain) = (head.first, head.chain);
        Arc::new(Self {
            path,
            first,
            head_len,
            chain,
            index: Mutex::new(index),
        })
    }

    /// Remembers where a batch begins, if it is far enough from the last place.
    pub(crate) fn remember(&self, batch: Batch) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = index.as_mut() {
            remember(index, batch);
        }
    }

    /// Places in it, as far as they are known.
    pub(super) fn places(&self) -> Vec<Batch> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.clone().unwrap_or_default()
    }

    /// Takes over places that were found or stored, if none are known yet.
    pub(super) fn know_places(&self, places: impl Iterator<Item = Batch>) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if index.is_none() {
            *index = Some(places.collect());
        }
    }

    /// The first batch of the segment.
    pub(super) fn begin(&self) -> Batch {
        let offset = usize::try_from(self.head_len).unwrap_or(usize::MAX);
        Batch {
            offset,
            chain: self.chain,
            first: self.first,
        }
    }

    pub(crate) fn file(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn corrupt(&self, offset: u64, detail: impl Into<String>) -> ReadError {
        ReadError::Corrupt {
            file: self.file(),
            offset,
            detail: detail.into(),
        }
    }
}

/// Adds a place to an index unless it is close to the last one.
pub(crate) fn remember(index: &mut Vec<Batch>, batch: Batch) {
    let far = index
        .last()
        .is_none_or(|last| batch.offset as u64 >= last.offset as u64 + INDEX_EVERY);
    if far {
        index.push(batch);
    }
}

/// Where the readable part of a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Where its last batch ends.
    pub(crate) offset: u64,
    /// Position of the record after it.
    pub(crate) next: u64,
    /// Chain value there.
    pub(crate) chain: u32,
}

/// Segments, each with where what counts of it ends.
pub(crate) type Parts = Vec<(Arc<Segment>, u64)>;

/// All segments, shared between the committer (which adds to them) and readers.
#[derive(Debug)]
pub(crate) struct Segments {
    state: RwLock<State>,
    /// Positions whose salt and payload were erased.
    pub(crate) erased: RwLock<BTreeSet<u64>>,
    /// Where the records of each partition are.
    pub(super) runs: RunsIndex,
}

#[derive(Debug, Clone)]
struct State {
    // Invariant: ascending, never empty; each but the last with its end.
    sealed: Vec<(Arc<Segment>, End)>,
    active: Arc<Segment>,
    end: End,
}

impl Segments {
    pub(crate) fn new(
        sealed: Vec<(Arc<Segment>, End)>,
        active: Arc<Segment>,
        end: End,
        erased: BTreeSet<u64>,
        runs: RunsIndex,
    ) -> Self {
        let state = RwLock::new(State {
            sealed,
            active,
            end,
        });
        Self {
            state,
            erased: RwLock::new(erased),
            runs,
        }
    }

    /// A batch of the active segment is durable.
    pub(crate) fn extend(&self, batch: Batch, end: End, runs: &[(PartitionId, Run)]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.runs.extend(runs);
        state.active.remember(batch);
        state.end = end;
    }

    /// A new segment follows the active one. Returns the old one, where it ends, and its runs.
    pub(crate) fn rotate(&self, active: Arc<Segment>) -> (Arc<Segment>, End, Arc<Runs>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (offset, end) = (active.head_len, state.end);
        let old = std::mem::replace(&mut state.active, active);
        let runs = self.runs.rotate(old.first);
        state.sealed.push((Arc::clone(&old), end));
        state.end = End { offset, ..end };
        (old, end, runs)
    }

    /// Stores the runs of a sealed segment.
    pub(crate) fn store_runs(&self, segment: &Arc<Segment>, end: End, runs: &Runs) {
        self.runs.store(segment, end, runs);
    }

    /// The segments from `from` on in which a partition occurs, and its runs in the active one.
    pub(super) fn of_partition(
        &self,
        partition: &PartitionId,
        from: u64,
    ) -> (VecDeque<(Arc<Segment>, End)>, Arc<Runs>) {
        // Under one lock: between sealing a segment and noting its runs nobody may look.
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let occurs = self.runs.segments_of(partition);
        let sealed = state.sealed.iter();
        let mut parts: VecDeque<_> = sealed
            .filter(|(segment, end)| end.next > from && occurs.contains(&segment.first))
            .cloned()
            .collect();
        parts.push_back((Arc::clone(&state.active), state.end));
        (parts, self.runs.active())
    }

    pub(crate) fn is_erased(&self, position: u64) -> bool {
        self.erased
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&position)
    }

    /// The segments that hold the first `size` records, each with where the last of them ends; `None` while there are fewer.
    pub(crate) fn cut(&self, size: u64) -> Result<Option<Parts>, ReadError> {
        let state = self
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if state.end.next < size {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let all = state.sealed.into_iter();
        for (segment, end) in all.chain([(state.active, state.end)]) {
            if segment.first > 0 && segment.first >= size {
                break;
            }
            let len = if end.next <= size {
                end.offset
            } else {
                end_before(&segment, end, size)?
            };
            parts.push((segment, len));
        }
        Ok(Some(parts))
    }

    /// Walks from `from` to what is durable now.
    pub(crate) fn walk(self: &Arc<Self>, from: Position) -> Result<Walk, ReadError> {
        let state = self
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut parts: VecDeque<_> = state.sealed.into();
        parts.push_back((state.active, state.end));
        while parts.front().is_some_and(|(_, end)| end.next <= from.0) {
            parts.pop_front();
        }
        let mut walk = Walk {
            segments: Arc::clone(self),
            parts,
            current: None,
        };
        walk.skip_to(from.0)?;
        Ok(walk)
    }
}

/// A record's place and content while walking.
pub(crate) struct Step<'a> {
    pub(crate) position: u64,
    pub(crate) raw: RawRecord<'a>,
    pub(crate) segment: &'a Arc<Segment>,
    /// Where the erasable frame lies in the file.
    pub(crate) body_offset: u64,
}

impl Step<'_> {
    /// The record, checked and copied.
    pub(super) fn into_record(self, segments: &Segments) -> Result<Record, ReadError> {
        let body = match self.raw.body() {
            // The erasure may have begun since these bytes were read; what counts is that it was ordered.
            _ if segments.is_erased(self.position) => None,
            Some((salt, payload)) => Some(RecordBody {
                salt,
                payload: payload.to_vec(),
            }),
            None => {
                let detail = format!(
                    "the checksum of the payload of record {} is wrong",
                    self.position
                );
                return Err(self.segment.corrupt(self.body_offset, detail));
            }
        };
        let header = parse_header(self.raw.header, self.position)
            .map_err(|e| e.into_read_error(self.segment, self.body_offset))?;
        Ok(Record {
            header,
            header_bytes: self.raw.header.to_vec(),
            body,
        })
    }
}

/// Walks over stored records, checking all that it passes.
#[derive(Debug)]
pub(crate) struct Walk {
    segments: Arc<Segments>,
    parts: VecDeque<(Arc<Segment>, End)>,
    current: Option<Cursor>,
}

impl Walk {
    /// Finds the batch that holds `from` and passes the records before it.
    fn skip_to(&mut self, from: u64) -> Result<(), ReadError> {
        let Some((segment, end)) = self.parts.pop_front() else {
            return Ok(());
        };
        let begin = place(&segment, end, from)?;
        let mut cursor = Cursor::open(segment, end, begin)?;
        while let Some(head) = cursor.peek()? {
            if head.first + u64::from(head.count) > from {
                break;
            }
            cursor.skip(&head)?;
        }
        self.current = Some(cursor);
        while self
            .peek_position()?
            .is_some_and(|position| position < from)
        {
            self.step()?;
        }
        Ok(())
    }

    fn peek_position(&mut self) -> Result<Option<u64>, ReadError> {
        let Some(cursor) = &mut self.current else {
            return Ok(None);
        };
        cursor.load()
    }

    /// The next record as it is stored.
    pub(crate) fn step(&mut self) -> Result<Option<Step<'_>>, ReadError> {
        while self.peek_position()?.is_none() {
            let Some((segment, end)) = self.parts.pop_front() else {
                return Ok(None);
            };
            let begin = segment.begin();
            self.current = Some(Cursor::open(segment, end, begin)?);
        }
        let Some(cursor) = &mut self.current else {
            return Ok(None);
        };
        cursor.record().map(Some)
    }

    fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        let segments = Arc::clone(&self.segments);
        let Some(step) = self.step()? else {
            return Ok(None);
        };
        step.into_record(&segments).map(Some)
    }
}

impl Iterator for Walk {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

/// Why a header whose checksum is right is not usable.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Newer { position: u64, found: u16 },
    Malformed(String),
}

impl HeaderError {
    pub(super) fn into_read_error(self, segment: &Segment, offset: u64) -> ReadError {
        match self {
            Self::Newer { position, found } => ReadError::Newer {
                position: Position(position),
                found,
                supported: RECORD_FORMAT,
            },
            Self::Malformed(detail) => segment.corrupt(offset, detail),
        }
    }
}

/// Parses a stored header and checks that it is the one of `position`.
pub(crate) fn parse_header(bytes: &[u8], position: u64) -> Result<RecordHeader, HeaderError> {
    let malformed = |e: String| HeaderError::Malformed(format!("header of record {position}: {e}"));
    let header: RecordHeader =
        serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    if header.v > RECORD_FORMAT {
        return Err(HeaderError::Newer {
            position,
            found: header.v,
        });
    }
    if header.position.0 != position {
        return Err(malformed(format!("it says position {}", header.position)));
    }
    Ok(header)
}
