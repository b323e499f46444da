//! Reading one partition: only the segments in which it occurs, and in them only the batches that hold its records.

use std::collections::VecDeque;
use std::sync::Arc;

use mesh_messages::{PartitionId, Position, Record};

use super::cursor::{Cursor, READ_AHEAD_SPARSE, place};
use super::runs::{Run, Runs};
use super::segment::{End, Segment, Segments};
use crate::journal::ReadError;

/// Up to so many runs of a partition in a segment are looked up one by one, reading little; more are read through.
const SPARSE_RUNS: usize = 32;

/// Walks over the records of one partition, checking all that it passes.
#[derive(Debug)]
pub(crate) struct PartitionWalk {
    segments: Arc<Segments>,
    partition: PartitionId,
    from: u64,
    // The last one is the active segment; its runs are those of when the walk began.
    parts: VecDeque<(Arc<Segment>, End)>,
    active: Arc<Runs>,
    current: Option<Current>,
}

/// What is left of one segment.
#[derive(Debug)]
struct Current {
    segment: Arc<Segment>,
    end: End,
    cursor: Cursor,
    runs: VecDeque<Run>,
}

impl PartitionWalk {
    pub(crate) fn new(segments: &Arc<Segments>, partition: &PartitionId, from: Position) -> Self {
        let (parts, active) = segments.of_partition(partition, from.0);
        Self {
            segments: Arc::clone(segments),
            partition: partition.clone(),
            from: from.0,
            parts,
            active,
            current: None,
        }
    }

    /// Goes to the next segment with records of the partition; whether there is one.
    fn advance(&mut self) -> Result<bool, ReadError> {
        self.current = None;
        while let Some((segment, end)) = self.parts.pop_front() {
            let runs = if self.parts.is_empty() {
                Arc::clone(&self.active)
            } else {
                self.segments.runs.runs(&segment, end)?
            };
            let mut runs: VecDeque<Run> = runs.of(&self.partition, self.from).to_vec().into();
            if let Some(first) = runs.front_mut().filter(|run| run.first < self.from) {
                *first = Run {
                    first: self.from,
                    count: first.end() - self.from,
                };
            }
            if runs.is_empty() {
                continue;
            }
            let mut cursor = Cursor::open(Arc::clone(&segment), end, segment.begin())?;
            if runs.len() <= SPARSE_RUNS && runs.iter().map(|run| run.count).sum::<u64>() < 256 {
                cursor = cursor.reading(READ_AHEAD_SPARSE);
            }
            self.current = Some(Current {
                segment,
                end,
                cursor,
                runs,
            });
            return Ok(true);
        }
        Ok(false)
    }

    fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        let current = loop {
            match &mut self.current {
                Some(current) if !current.runs.is_empty() => break current,
                _ => {}
            }
            if !self.advance()? {
                return Ok(None);
            }
        };
        let record = current.take(&self.segments)?;
        if record.header.partition != self.partition {
            let detail = format!(
                "record {} is of partition {}, not of {}",
                record.header.position, record.header.partition, self.partition
            );
            return Err(current.segment.corrupt(0, detail));
        }
        Ok(Some(record))
    }
}

impl Current {
    /// The record that the first run begins with.
    fn take(&mut self, segments: &Segments) -> Result<Record, ReadError> {
        let lost = |segment: &Segment| segment.corrupt(0, "a record of a partition is missing");
        let Some(run) = self.runs.front_mut() else {
            return Err(lost(&self.segment));
        };
        let position = run.first;
        (run.first, run.count) = (run.first + 1, run.count - 1);
        if run.count == 0 {
            self.runs.pop_front();
        }
        if !self.cursor.is_at(position) {
            let near = place(&self.segment, self.end, position)?;
            if !self.cursor.is_beyond(&near) {
                self.cursor.jump(near);
            }
            if !self.cursor.seek(position)? {
                return Err(lost(&self.segment));
            }
        }
        self.cursor.record()?.into_record(segments)
    }
}

impl Iterator for PartitionWalk {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}
