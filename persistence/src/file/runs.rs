//! Which records of a segment belong to which partition, so that reading one partition passes over all others.
//!
//! Everything here is derived from the log. The active segment's runs are in memory; a sealed segment's lie in a file
//! beside the log (`<dir>/runs/<first>.run`), which bears a checksum and the chain value at the segment's end. One that is
//! missing, damaged or of another log is made anew by reading the segment, and is never needed for anything but speed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_messages::PartitionId;
use serde::{Deserialize, Serialize};

use super::cursor::Cursor;
use super::layout::{u32_at, u64_at};
use super::recover::Batch;
use super::segment::{End, Segment, parse_header, remember};
use crate::fsio;
use crate::journal::ReadError;

/// Begins a file of runs; its last byte is the format.
const MAGIC: [u8; 8] = *b"MESHRUN\x01";
/// Magic, and the chain value, offset and next position at which the segment ends.
const HEAD: usize = 32;
/// BLAKE3 over everything before it.
const CHECKSUM: usize = 32;

/// How many segments' runs are held: a start in which thousands of agents read theirs finds most of them here. A segment's
/// runs take some ten kilobytes.
const HELD_MAX: usize = 64;

/// Records of one partition that follow each other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Position of the first.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
}

impl Run {
    /// Position after the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// The runs of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runs(BTreeMap<PartitionId, Vec<Run>>);

impl Runs {
    /// Adds records that follow all those added before.
    pub(crate) fn add(&mut self, partition: &PartitionId, run: Run) {
        let Some(runs) = self.0.get_mut(partition) else {
            self.0.insert(partition.clone(), vec![run]);
            return;
        };
        match runs.last_mut() {
            Some(last) if last.end() == run.first => last.count += run.count,
            _ => runs.push(run),
        }
    }

    /// The runs of a partition that do not lie before `from` as a whole.
    pub(crate) fn of(&self, partition: &PartitionId, from: u64) -> &[Run] {
        let all = self.0.get(partition).map_or(&[][..], Vec::as_slice);
        &all[all.partition_point(|run| run.end() <= from)..]
    }

    /// The partitions that occur.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &PartitionId> {
        self.0.keys()
    }
}

/// What a file of runs holds beside its head.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    runs: Runs,
    /// Places in the segment: offset, chain value, first position.
    places: Vec<(u64, u32, u64)>,
}

/// The runs of all segments.
#[derive(Debug)]
pub(crate) struct RunsIndex {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The segments, by their first position, in which a partition occurs; without the active one.
    sealed: BTreeMap<PartitionId, Vec<u64>>,
    /// The active segment's runs.
    active: Arc<Runs>,
    /// Runs of sealed segments that were asked for, the latest last.
    held: VecDeque<(u64, Arc<Runs>)>,
}

impl RunsIndex {
    /// An index in `dir` for a log whose partitions occur in these sealed segments, and with these runs in the active one.
    pub(crate) fn new(dir: PathBuf, sealed: BTreeMap<PartitionId, Vec<u64>>, active: Runs) -> Self {
        let state = State {
            sealed,
            active: Arc::new(active),
            held: VecDeque::new(),
        };
        Self {
            dir,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records of the active segment are durable.
    pub(crate) fn extend(&self, added: &[(PartitionId, Run)]) {
        let mut state = self.lock();
        let active = Arc::make_mut(&mut state.active);
        for (partition, run) in added {
            active.add(partition, *run);
        }
    }

    /// The active segment, which began at `first`, is sealed; another one begins. Returns its runs, for their file.
    pub(crate) fn rotate(&self, first: u64) -> Arc<Runs> {
        let mut state = self.lock();
        let runs = std::mem::take(&mut state.active);
        for partition in runs.partitions() {
            match state.sealed.get_mut(partition) {
                Some(segments) => segments.push(first),
                None => {
                    state.sealed.insert(partition.clone(), vec![first]);
                }
            }
        }
        hold(&mut state.held, first, &runs);
        runs
    }

    /// The active segment's runs.
    pub(crate) fn active(&self) -> Arc<Runs> {
        Arc::clone(&self.lock().active)
    }

    /// The sealed segments in which a partition occurs.
    pub(crate) fn segments_of(&self, partition: &PartitionId) -> BTreeSet<u64> {
        let state = self.lock();
        let segments = state.sealed.get(partition);
        segments.into_iter().flatten().copied().collect()
    }

    /// The runs of a sealed segment: held, stored, or made from the segment.
    pub(crate) fn runs(&self, segment: &Arc<Segment>, end: End) -> Result<Arc<Runs>, ReadError> {
        let held = {
            let state = self.lock();
            let mut held = state.held.iter();
            held.find(|(first, _)| *first == segment.first)
                .map(|(_, runs)| Arc::clone(runs))
        };
        if let Some(runs) = held {
            return Ok(runs);
        }
        let runs = if let Some(runs) = self.load(segment, end) {
            runs
        } else {
            let runs = Arc::new(scan(segment, end)?);
            self.store(segment, end, &runs);
            runs
        };
        hold(&mut self.lock().held, segment.first, &runs);
        Ok(runs)
    }

    fn path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}.run"))
    }

    fn load(&self, segment: &Arc<Segment>, end: End) -> Option<Arc<Runs>> {
        let path = self.path(segment.first);
        let bytes = fsio::read_if_exists(&path).ok()??;
        let Some(stored) = decode(&bytes, end) else {
            tracing::debug!(path = %path.display(), "the runs of a segment are not usable; they are made anew");
            return None;
        };
        segment.know_places(stored.places.iter().filter_map(|&(offset, chain, first)| {
            let offset = usize::try_from(offset).ok()?;
            Some(Batch {
                offset,
                chain,
                first,
            })
        }));
        Some(Arc::new(stored.runs))
    }

    /// Writes the runs of a sealed segment into their file. Not synced: a lost or torn one is made anew.
    pub(crate) fn store(&self, segment: &Arc<Segment>, end: End, runs: &Runs) {
        let write = || -> io::Result<()> {
            fsio::create_dir(&self.dir)?;
            let stored = Stored {
                runs: runs.clone(),
                places: segment
                    .places()
                    .iter()
                    .map(|place| (place.offset as u64, place.chain, place.first))
                    .collect(),
            };
            write_aside(&self.path(segment.first), &encode(&stored, end)?)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "the runs of a segment were not stored; they are made anew when needed");
        }
    }
}

fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let aside = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(aside.path(), bytes)?;
    aside.persist(path).map_err(|e| e.error)?;
    Ok(())
}

fn hold(held: &mut VecDeque<(u64, Arc<Runs>)>, first: u64, runs: &Arc<Runs>) {
    held.retain(|(other, _)| *other != first);
    held.push_back((first, Arc::clone(runs)));
    if held.len() > HELD_MAX {
        held.pop_front();
    }
}

/// Reads a whole segment for its runs.
fn scan(segment: &Arc<Segment>, end: End) -> Result<Runs, ReadError> {
    let mut runs = Runs::default();
    let mut places = Vec::new();
    let mut cursor = Cursor::open(Arc::clone(segment), end, segment.begin())?;
    loop {
        let batch = cursor.batch();
        if cursor.load()?.is_none() {
            break;
        }
        if cursor.at_begin_of(&batch) {
            remember(&mut places, batch);
        }
        let step = cursor.record()?;
        let header = parse_header(step.raw.header, step.position)
            .map_err(|e| e.into_read_error(step.segment, step.body_offset))?;
        let run = Run {
            first: step.position,
            count: 1,
        };
        runs.add(&header.partition, run);
    }
    segment.know_places(places.into_iter());
    Ok(runs)
}

fn encode(stored: &Stored, end: End) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&u64::from(end.chain).to_le_bytes());
    bytes.extend_from_slice(&end.offset.to_le_bytes());
    bytes.extend_from_slice(&end.next.to_le_bytes());
    serde_json::to_writer(&mut bytes, stored)?;
    let checksum = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&checksum);
    Ok(bytes)
}

fn decode(bytes: &[u8], end: End) -> Option<Stored> {
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    let json = content.get(HEAD..)?;
    let is_ours = content.starts_with(&MAGIC)
        && *blake3::hash(content).as_bytes() == *checksum
        && u32_at(content, 8) == end.chain
        && u64_at(content, 16) == end.offset
        && u64_at(content, 24) == end.next;
    is_ours.then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PartitionId = PartitionId::from_static("a");
    const B: PartitionId = PartitionId::from_static("b");

    fn runs() -> Runs {
        let mut runs = Runs::default();
        for (partition, first, count) in [(A, 10, 2), (A, 12, 1), (B, 13, 4), (A, 17, 3)] {
            runs.add(&partition, Run { first, count });
        }
        runs
    }

    #[test]
    fn runs_that_touch_are_one_and_those_before_a_place_are_passed() {
        let runs = runs();
        let of = |from| -> Vec<_> {
            let found = runs.of(&A, from);
            found.iter().map(|run| (run.first, run.count)).collect()
        };
        assert_eq!(of(0), [(10, 3), (17, 3)]);
        assert_eq!(of(12), [(10, 3), (17, 3)]);
        assert_eq!(of(13), [(17, 3)]);
        assert_eq!(of(20), []);
    }

    #[test]
    fn a_file_of_runs_is_only_taken_whole_and_for_its_own_segment() {
        let end = End {
            offset: 4096,
            next: 20,
            chain: 7,
        };
        let stored = Stored {
            runs: runs(),
            places: vec![(64, 1, 10)],
        };
        let bytes = encode(&stored, end).unwrap();
        assert_eq!(decode(&bytes, end).unwrap().runs, runs());
        for other in [
            End { chain: 8, ..end },
            End { next: 21, ..end },
            End {
                offset: 4104,
                ..end
            },
        ] {
            assert!(decode(&bytes, other).is_none());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, end).is_none(), "byte {at}");
            assert!(decode(&bytes[..at], end).is_none(), "{at} bytes");
        }
    }
}
