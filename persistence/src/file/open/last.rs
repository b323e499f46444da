//! Recovers the last segment: the state of the log, and whether its end is whole.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tlog_tiles::Hash;

use super::error::{corrupt, io_at};
use super::{Found, OpenError};
use crate::file::erased::ErasedList;
use crate::file::layout::LogStart;
use crate::file::recover::{Batch, Begin, Sound, recover};
use crate::file::runs::{Run, Runs};
use crate::file::segment::{HeaderError, parse_header, remember};
use crate::file::tail::Tail;
use crate::fsio;
use crate::journal::SignedCheckpoint;
use crate::seal::Sequencer;
use crate::tree::Frontier;

/// What the last segment gave.
pub(super) struct Recovered {
    pub(super) sound: Sound,
    pub(super) sequencer: Sequencer,
    pub(super) at_segment: Frontier,
    pub(super) leaves: Vec<Hash>,
    pub(super) index: Vec<Batch>,
    pub(super) runs: Runs,
}

/// Reads the last segment, cuts an unfinished write, and rebuilds the log's state.
pub(super) fn recover_last(
    last: &Found,
    tail: Option<Tail>,
    erased: &ErasedList,
) -> Result<Recovered, OpenError> {
    let Found {
        path,
        head,
        head_len,
        ..
    } = last;
    let acknowledged = match tail {
        Some(tail) if tail.segment == head.first => tail.end,
        Some(tail) if tail.segment > head.first => {
            return Err(corrupt(path, 0, "the segments after it are missing"));
        }
        Some(_) => 0,
        None => {
            tracing::debug!("the log has no tail mark");
            0
        }
    };
    let data = fs::read(path).map_err(io_at(path))?;
    let damaged_head = || corrupt(path, 0, "its head does not hold together");
    let at_segment = head.start.frontier(head.first).ok_or_else(damaged_head)?;
    let offset = usize::try_from(*head_len).map_err(|_| damaged_head())?;
    let begin = Begin {
        offset,
        chain: head.chain,
        position: head.first,
        acknowledged: usize::try_from(acknowledged).map_err(|_| damaged_head())?,
    };
    let LogStart {
        log,
        time,
        lc,
        seqs,
        ..
    } = head.start.clone();
    let mut sequencer = Sequencer {
        log,
        next: head.first,
        time,
        lc,
        seqs,
    };
    let (mut leaves, mut index) = (Vec::new(), Vec::new());
    let mut runs = Runs::default();
    let mut newer = None;
    let result = recover(
        &data,
        begin,
        &erased.positions,
        |batch, position, record| {
            remember(&mut index, *batch);
            let header = parse_header(record.header, position).map_err(|error| match error {
                HeaderError::Newer { found, .. } => {
                    newer = Some(found);
                    format!("record {position} has format {found}")
                }
                HeaderError::Malformed(detail) => detail,
            })?;
            if header.log != sequencer.log || header.seq != sequencer.next_seq(&header.partition) {
                return Err(format!("record {position} does not continue its partition"));
            }
            leaves.push(tlog_tiles::record_hash(record.header));
            let run = Run {
                first: position,
                count: 1,
            };
            runs.add(&header.partition, run);
            sequencer.observe(&header);
            Ok(())
        },
    );
    if let Some(found) = newer {
        let supported = mesh_messages::record::RECORD_FORMAT.into();
        return Err(OpenError::Newer {
            file: path.display().to_string(),
            found: found.into(),
            supported,
        });
    }
    let sound = result.map_err(|damage| corrupt(path, damage.offset as u64, damage.detail))?;
    repair(path, head.segment_len, data.len() as u64, &sound).map_err(io_at(path))?;
    make_durable(path, &data, begin.acknowledged.max(offset), &sound).map_err(io_at(path))?;
    Ok(Recovered {
        sound,
        sequencer,
        at_segment,
        leaves,
        index,
        runs,
    })
}

/// Zeros what an unfinished write left, so that it is never taken for anything.
fn repair(path: &Path, segment_len: u64, len: u64, sound: &Sound) -> io::Result<()> {
    if !sound.torn && len == segment_len {
        return Ok(());
    }
    tracing::warn!(
        file = %path.display(), offset = sound.end,
        "cut an unfinished write from the end of the log; it was never acknowledged"
    );
    let file = fs::File::options().read(true).write(true).open(path)?;
    fsio::zero(&file, sound.end as u64, len)?;
    if len < segment_len {
        fsio::allocate(&file, segment_len)?;
    }
    file.sync_all()
}

/// Writes once more, and syncs, what is not known to have been synced.
///
/// It may be in the kernel's memory alone: meshd was killed before its sync, or the sync failed, after which the kernel goes
/// on showing pages that it will never write. From now on somebody relies on it.
fn make_durable(path: &Path, data: &[u8], synced: usize, sound: &Sound) -> io::Result<()> {
    let Some(unsure) = data
        .get(synced..sound.end)
        .filter(|bytes| !bytes.is_empty())
    else {
        return Ok(());
    };
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(unsure, synced as u64)?;
    file.sync_data()
}

/// Checks that the log is not behind what was signed.
pub(super) fn check_against(
    last: &Found,
    checkpoint: Option<&SignedCheckpoint>,
    recovered: &Recovered,
) -> Result<(), OpenError> {
    let Some(checkpoint) = checkpoint else {
        return Ok(());
    };
    let size = recovered.sound.next;
    if size < checkpoint.size {
        return Err(OpenError::BehindCheckpoint {
            checkpoint: checkpoint.size,
            size,
        });
    }
    let mut tree = recovered.at_segment.clone();
    let mut leaves = recovered.leaves.iter();
    while tree.size() < checkpoint.size
        && let Some(&leaf) = leaves.next()
    {
        tree.push(leaf, |_| {});
    }
    // A checkpoint of before this segment is checked when the next one is signed.
    if tree.size() == checkpoint.size && tree.root() != checkpoint.root {
        let detail = "its records are not those of the last checkpoint";
        return Err(corrupt(&last.path, last.head_len, detail));
    }
    Ok(())
}
