//! Snapshots of partitions: checksummed files, written aside and renamed.
//!
//! Each partition has a directory; the newest two snapshots are kept, so that a damaged one costs a longer replay and
//! nothing else. A file is magic, format, `next`, `next_seq`, length, state, and BLAKE3 over all of it and the partition's
//! name. A snapshot of another format is passed over: the log is the truth.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_messages::{PartitionId, Position};

use crate::fsio;
use crate::journal::{Snapshot, SnapshotError};

const MAGIC: [u8; 8] = *b"MESHSNP\x01";
const HEAD: usize = 32;
const CHECKSUM: usize = 32;

/// How many snapshots of a partition are kept: the newest, and one to fall back on.
const KEPT: usize = 2;

/// The directory of all snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotDir(PathBuf);

impl SnapshotDir {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Stores a snapshot of a log of which `durable` records are durable.
    pub(crate) fn save(
        &self,
        partition: &PartitionId,
        snapshot: &Snapshot,
        durable: u64,
    ) -> Result<(), SnapshotError> {
        let next = snapshot.next;
        if next.0 > durable {
            return Err(SnapshotError::NotDurable {
                partition: partition.clone(),
                next,
                durable,
            });
        }
        let dir = self.of(partition);
        let path = dir.join(format!("{:020}.snap", next.0));
        let save = || -> io::Result<()> {
            fsio::create_dir(&dir)?;
            fsio::replace(&path, &encode(partition, snapshot))?;
            // Those after it are of a log that was longer once; they may not push this one out.
            for old in list(&dir)?
                .into_iter()
                .filter(|old| *old <= path)
                .skip(KEPT)
            {
                fs::remove_file(old)?;
            }
            Ok(())
        };
        save().map_err(|source| SnapshotError::Io {
            path: path.display().to_string(),
            source,
        })
    }

    /// The newest intact snapshot that is not ahead of the log.
    pub(crate) fn load(
        &self,
        partition: &PartitionId,
        durable: u64,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        let dir = self.of(partition);
        let failed = |source| SnapshotError::Io {
            path: dir.display().to_string(),
            source,
        };
        for path in list(&dir).map_err(failed)? {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "snapshot not readable; trying an older one");
                    continue;
                }
            };
            match decode(partition, &bytes) {
                Some(snapshot) if snapshot.next.0 <= durable => return Ok(Some(snapshot)),
                Some(_) => {
                    tracing::warn!(path = %path.display(), "snapshot is ahead of the log; trying an older one");
                }
                None => {
                    tracing::warn!(path = %path.display(), "snapshot is damaged; trying an older one");
                }
            }
        }
        Ok(None)
    }

    /// Where the oldest one begins, damaged or not.
    pub(crate) fn oldest(
        &self,
        partition: &PartitionId,
    ) -> Result<Option<Position>, SnapshotError> {
        let dir = self.of(partition);
        let paths = list(&dir).map_err(|source| SnapshotError::Io {
            path: dir.display().to_string(),
            source,
        })?;
        Ok(paths.last().map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str());
            // What bears no number is none of ours, and the safe answer is that it is as old as can be.
            Position(name.and_then(|name| name.parse().ok()).unwrap_or(0))
        }))
    }

    /// Removes all of a partition's; answers when that is durable.
    pub(crate) fn drop_all(&self, partition: &PartitionId) -> Result<(), SnapshotError> {
        let dir = self.of(partition);
        let remove = || -> io::Result<()> {
            let paths = list(&dir)?;
            for path in &paths {
                fs::remove_file(path)?;
            }
            if paths.is_empty() {
                return Ok(());
            }
            fs::File::open(&dir)?.sync_all()
        };
        remove().map_err(|source| SnapshotError::Io {
            path: dir.display().to_string(),
            source,
        })
    }

    /// The partition's directory, named so that any partition name is one plain file name.
    fn of(&self, partition: &PartitionId) -> PathBuf {
        let mut name = String::new();
        for byte in partition.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                name.push(char::from(byte));
            } else {
                name.push('%');
                name.push_str(&hex::encode([byte]));
            }
        }
        self.0.join(name)
    }
}

/// Snapshot files, newest first.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "snap")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths.reverse();
    Ok(paths)
}

fn checksum(partition: &PartitionId, content: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(content).update(partition.as_str().as_bytes());
    *hasher.finalize().as_bytes()
}

fn encode(partition: &PartitionId, snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + snapshot.state.len() + CHECKSUM);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&snapshot.next.0.to_le_bytes());
    bytes.extend_from_slice(&snapshot.next_seq.to_le_bytes());
    bytes.extend_from_slice(&(snapshot.state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&snapshot.state);
    let checksum = checksum(partition, &bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

fn decode(partition: &PartitionId, bytes: &[u8]) -> Option<Snapshot> {
    let (content, stored) = bytes.split_last_chunk::<CHECKSUM>()?;
    if checksum(partition, content) != *stored {
        return None;
    }
    let rest = content.strip_prefix(&MAGIC)?;
    let (next, rest) = rest.split_first_chunk::<8>()?;
    let (next_seq, rest) = rest.split_first_chunk::<8>()?;
    let (len, state) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*len) != state.len() as u64 {
        return None;
    }
    Some(Snapshot {
        next: Position(u64::from_le_bytes(*next)),
        next_seq: u64::from_le_bytes(*next_seq),
        state: state.to_vec(),
    })
}
