//! Opening a journal: lock, read the heads, recover the last segment, refuse what is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use mesh_messages::PartitionId;
use mesh_messages::identity::SigningKey;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use super::committer::{Chores, Committer, Inner, SPARE, Shared, Spare, allocate_spare};
use super::erased::ErasedFile;
use super::head::{ReadHeadError, read_head};
use super::layout::{LogStart, SEGMENT_FORMAT, SegmentHead};
use super::runs::{Runs, RunsIndex};
use super::segment::{End, Segment, Segments, file_name};
use super::tail::{Tail, TailFile};
use super::treefile::TreeFile;
use super::{FileJournal, Signing};
use crate::checkpoint::CheckpointInvalid;
use crate::clock::Clock;
use crate::fsio;
use crate::journal::{Durability, Failed, ReadOnly, SignedCheckpoint};
use crate::seal::Sequencer;
use crate::snapshot::SnapshotDir;
use crate::succession::LogKeys;
use crate::tree::Frontier;

mod error;
mod last;

pub use error::OpenError;
pub(super) use error::{corrupt, io_at};
use last::{Recovered, check_against, recover_last};

/// Smallest segment: two of the largest records fit.
pub const SEGMENT_BYTES_MIN: u64 = 128 * 1024;
/// Largest segment: the last one is read into memory when the journal is opened.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How a journal is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileJournalOptions {
    /// Size of the log's files, allocated ahead. Two are kept allocated, so a small disk wants a small one; an append is never
    /// larger than one. 8 MiB unless set.
    pub segment_bytes: u64,
}

impl Default for FileJournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 8 * 1024 * 1024,
        }
    }
}

/// A segment whose head was read.
struct Found {
    path: PathBuf,
    /// Without its sequence numbers, unless it is the last one.
    head: SegmentHead,
    head_len: u64,
    /// The partitions of which it holds records; unknown of the last one.
    partitions: Vec<PartitionId>,
}

impl FileJournal {
    /// Opens the journal in `dir`; makes an empty one when there is none.
    ///
    /// `node_key` is the key in force: it signs its checkpoints. The log's id is the `did:key` of its first key, which it is
    /// unless the log says otherwise.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        dir: &Path,
        options: &FileJournalOptions,
        node_key: SigningKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let segment_len = usize::try_from(options.segment_bytes)
            .ok()
            .filter(|_| (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes))
            .ok_or(OpenError::SegmentBytes(options.segment_bytes))?;
        let log_dir = dir.join("log");
        fsio::create_dir(&log_dir).map_err(io_at(&log_dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io_at(dir))?;
        let lock = lock(dir)?;
        let signer = super::succeed::signer(dir, node_key)?;
        let log_id = signer.keys().log().to_string();

        let erased_path = dir.join("erased");
        let (erased_file, erased) = ErasedFile::open(&erased_path)
            .map_err(io_at(&erased_path))?
            .map_err(|offset| corrupt(&erased_path, offset, "the list of erasures is damaged"))?;
        let (tail_file, tail) =
            TailFile::open(&dir.join("tail")).map_err(io_at(&dir.join("tail")))?;
        let checkpoint = read_checkpoint(&dir.join("checkpoint"), signer.keys())?;
        let mut found = find_segments(&log_dir, &log_id)?;
        if found.is_empty() {
            if tail.is_some_and(|tail| tail.next > 0) || checkpoint.is_some() {
                return Err(corrupt(&log_dir, 0, "all segments of the log are missing"));
            }
            found.push(first_segment(&log_dir, options.segment_bytes, &log_id)?);
        }
        let last = found.len() - 1;
        let recovered = recover_last(&found[last], tail, &erased)?;
        check_against(&found[last], checkpoint.as_ref(), &recovered)?;
        // The last segment may have got its name right before meshd was killed.
        fsio::sync_dir(&log_dir).map_err(io_at(&log_dir))?;

        let tree_path = dir.join("hashes");
        let tree = TreeFile::open(&tree_path, recovered.at_segment.clone(), &recovered.leaves)
            .map_err(io_at(&tree_path))?;
        let runs = (dir.join("runs"), recovered.runs.clone());
        let shared = share(&found, recovered, tree, tail_file, erased.positions, runs)
            .map_err(|e| io_at(dir)(e))?;
        // On a full disk the journal opens without a spare, refuses new work and waits for space.
        if let Err(error) = allocate_spare(&log_dir, options.segment_bytes) {
            let reason = error.to_string().into();
            shared.lock().spare = Spare::Missing(ReadOnly { reason });
        }
        let threads = start_threads(&shared, &found[last], &log_dir, options.segment_bytes)?;
        let journal = Self {
            dir: dir.to_owned(),
            log_id,
            clock,
            segment_len,
            shared,
            threads,
            snapshots: SnapshotDir::new(dir.join("snapshots")),
            erased: Mutex::new(erased_file),
            signing: Mutex::new(Signing {
                signer: Arc::new(signer),
                last: checkpoint,
            }),
            _lock: lock,
        };
        journal.overwrite(&erased.last.into_iter().collect())?;
        Ok(journal)
    }
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<fs::File, OpenError> {
    let path = dir.join("lock");
    let mut file = fsio::open_or_create(&path).map_err(io_at(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Without it, only the message is less helpful.
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse {
                dir: dir.display().to_string(),
                pid,
            });
        }
        Err(e) => return Err(io_at(&path)(e.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).map_err(io_at(&path))?;
    file.write_all_at(pid.as_bytes(), 0).map_err(io_at(&path))?;
    Ok(file)
}

fn read_checkpoint(path: &Path, keys: &LogKeys) -> Result<Option<SignedCheckpoint>, OpenError> {
    let Some(bytes) = fsio::read_if_exists(path).map_err(io_at(path))? else {
        return Ok(None);
    };
    let damaged = |detail: String| corrupt(path, 0, detail);
    let note = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    let claim = keys.verify_checkpoint(&note).map_err(|error| match error {
        CheckpointInvalid::OtherLog { expected, found } => OpenError::OtherLog { expected, found },
        error => damaged(error.to_string()),
    })?;
    Ok(Some(SignedCheckpoint {
        size: claim.size,
        root: claim.root,
        note,
    }))
}

/// Reads the heads of all segments and checks that they follow each other.
fn find_segments(log_dir: &Path, log_id: &str) -> Result<Vec<Found>, OpenError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(log_dir).map_err(io_at(log_dir))? {
        let entry = entry.map_err(io_at(log_dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "seg")
        {
            names.push(name);
        } else if name != SPARE {
            // An allocation that was interrupted.
            fs::remove_file(entry.path()).map_err(io_at(&entry.path()))?;
        }
    }
    names.sort();
    let mut found: Vec<Found> = Vec::with_capacity(names.len());
    for name in names {
        let path = log_dir.join(&name);
        let (head, head_len) = read_head(&path).map_err(|error| match error {
            ReadHeadError::Io(source) => io_at(&path)(source),
            ReadHeadError::Short => corrupt(&path, 0, "the file is cut short"),
            ReadHeadError::Head(super::layout::HeadError::Newer(version)) => OpenError::Newer {
                file: path.display().to_string(),
                found: version,
                supported: SEGMENT_FORMAT,
            },
            ReadHeadError::Head(super::layout::HeadError::Damaged(detail)) => {
                corrupt(&path, 0, detail)
            }
        })?;
        if head.start.log != log_id {
            let (expected, found) = (log_id.to_owned(), head.start.log);
            return Err(OpenError::OtherLog { expected, found });
        }
        let before = found.last().map(|before| before.head.first);
        if name != file_name(head.first) || head.prev_first != before {
            return Err(corrupt(
                &path,
                0,
                "it does not follow the segment before it",
            ));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&head.segment_len) {
            return Err(corrupt(&path, 0, "its head states an impossible size"));
        }
        if let Some(before) = found.last_mut() {
            // In a long log with many partitions, all these numbers together would take more room than everything else.
            let seqs = std::mem::take(&mut before.head.start.seqs);
            let after = head.start.seqs.iter();
            before.partitions = after
                .filter(|(partition, seq)| seqs.get(*partition) != Some(seq))
                .map(|(partition, _)| partition.clone())
                .collect();
        }
        found.push(Found {
            path,
            head,
            head_len,
            partitions: Vec::new(),
        });
    }
    Ok(found)
}

fn first_segment(log_dir: &Path, segment_len: u64, log_id: &str) -> Result<Found, OpenError> {
    let sequencer = Sequencer::new(log_id.to_owned());
    let Sequencer {
        log,
        time,
        lc,
        seqs,
        ..
    } = sequencer;
    let head = SegmentHead {
        first: 0,
        segment_len,
        prev_first: None,
        prev_end: 0,
        chain: 0,
        start: LogStart::new(log, time, lc, seqs, &Frontier::default()),
    };
    let (spare, path) = (log_dir.join(SPARE), log_dir.join(file_name(0)));
    let create = || -> io::Result<u64> {
        let bytes = head.encode()?;
        allocate_spare(log_dir, segment_len)?;
        let file = fs::File::options().write(true).open(&spare)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        fs::rename(&spare, &path)?;
        fsio::sync_dir(log_dir)?;
        Ok(bytes.len() as u64)
    };
    let head_len = create().map_err(io_at(&path))?;
    Ok(Found {
        path,
        head,
        head_len,
        partitions: Vec::new(),
    })
}

fn share(
    found: &[Found],
    recovered: Recovered,
    tree: TreeFile,
    tail: TailFile,
    erased: BTreeSet<u64>,
    (runs_dir, runs): (PathBuf, Runs),
) -> io::Result<Arc<Shared>> {
    let Recovered {
        sound,
        sequencer,
        index,
        ..
    } = recovered;
    let mut sealed = Vec::with_capacity(found.len());
    let mut active = None;
    let mut index = Some(index);
    let mut occurs: BTreeMap<PartitionId, Vec<u64>> = BTreeMap::new();
    for (at, this) in found.iter().enumerate() {
        let next = found.get(at + 1);
        let known = if next.is_none() { index.take() } else { None };
        let segment = Segment::new(this.path.clone(), &this.head, this.head_len, known);
        match next {
            Some(next) => {
                let end = End {
                    offset: next.head.prev_end,
                    next: next.head.first,
                    chain: next.head.chain,
                };
                for partition in &this.partitions {
                    let segments = occurs.entry(partition.clone()).or_default();
                    segments.push(this.head.first);
                }
                sealed.push((segment, end));
            }
            None => active = Some((segment, this)),
        }
    }
    let (active, last) = active.ok_or_else(|| io::Error::other("a log without a segment"))?;
    let end = End {
        offset: sound.end as u64,
        next: sound.next,
        chain: sound.chain,
    };
    tail.write(Tail {
        segment: last.head.first,
        end: end.offset,
        next: end.next,
    })?;
    let room = last.head.segment_len.saturating_sub(end.offset);
    let inner = Inner {
        frontier: tree.frontier(),
        chain: sound.chain,
        queue: std::collections::VecDeque::new(),
        queued_bytes: 0,
        room: usize::try_from(room).unwrap_or(0),
        segment_first: last.head.first,
        spare: Spare::Ready,
        sealed: Vec::new(),
        failed: None,
        closing: false,
        sequencer,
    };
    let (durable, _) = watch::channel(Durability::of_size(sound.next));
    let runs = RunsIndex::new(runs_dir, occurs, runs);
    Ok(Arc::new(Shared {
        inner: Mutex::new(inner),
        wake: Condvar::new(),
        chores: Condvar::new(),
        durable,
        segments: Arc::new(Segments::new(sealed, active, end, erased, runs)),
        tree,
        tail,
        #[cfg(test)]
        faults: super::committer::Faults::default(),
    }))
}

fn start_threads(
    shared: &Arc<Shared>,
    last: &Found,
    log_dir: &Path,
    segment_len: u64,
) -> Result<Vec<std::thread::JoinHandle<()>>, OpenError> {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&last.path)
        .map_err(io_at(&last.path))?;
    let room = shared.lock().room as u64;
    let committer = Committer {
        shared: Arc::clone(shared),
        dir: log_dir.to_owned(),
        file,
        segment_first: last.head.first,
        offset: last.head.segment_len - room,
    };
    let chores = Chores {
        shared: Arc::clone(shared),
        dir: log_dir.to_owned(),
        segment_len,
    };
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let on_panic = Arc::clone(shared);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Nobody would ever learn of a dead thread otherwise.
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    let failed = Failed {
                        reason: "a thread of it panicked".into(),
                    };
                    on_panic.lock().failed = Some(failed.clone());
                    on_panic
                        .durable
                        .send_modify(|durable| durable.failed = Some(failed));
                }
            })
            .map_err(io_at(log_dir))
    };
    let stop = |error| {
        let mut inner = shared.lock();
        inner.closing = true;
        shared.wake.notify_all();
        error
    };
    let committer = spawn("journal", Box::new(|| committer.run()))?;
    let chores = spawn("journal-chores", Box::new(|| chores.run())).map_err(stop)?;
    Ok(vec![committer, chores])
}
