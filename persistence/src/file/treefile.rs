//! The hashes of the audit tree in a file, so that neither opening nor proving reads the log.
//!
//! The file is derived from the log and never trusted: the root comes from the frontier (which the log itself carries), and
//! every proof is checked against it before it is given out. When they do not match, the file is rebuilt.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_messages::Position;
use tlog_tiles::{Hash, HashReader, stored_hash_count};

use super::segment::Segments;
use crate::fsio;
use crate::journal::{ProofError, ReadError};
use crate::tree::{self, Frontier};

const HASH_LEN: u64 = 32;

/// Hashes gathered before they are written, when rebuilding.
const REBUILD_CHUNK: usize = 64 * 1024;

/// The tree over what is durable.
#[derive(Debug)]
pub(crate) struct TreeFile {
    path: PathBuf,
    state: Mutex<TreeState>,
    // Held while rebuilding, so that only one does.
    rebuilding: Mutex<()>,
}

#[derive(Debug, Clone)]
struct TreeState {
    frontier: Frontier,
    file: Arc<File>,
    // Whether the file lacks hashes, so that only a rebuild helps.
    stale: bool,
}

impl TreeFile {
    /// Opens the file for a log whose frontier was `at_segment` and which then got `leaves`.
    pub(crate) fn open(path: &Path, at_segment: Frontier, leaves: &[Hash]) -> io::Result<Self> {
        let file = Arc::new(fsio::open_or_create(path)?);
        let stale = !holds(&file, &at_segment);
        let tree = Self {
            path: path.to_owned(),
            state: Mutex::new(TreeState {
                frontier: at_segment,
                file,
                stale,
            }),
            rebuilding: Mutex::new(()),
        };
        tree.extend(leaves);
        Ok(tree)
    }

    fn lock(&self) -> MutexGuard<'_, TreeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the leaves of durable records.
    pub(crate) fn extend(&self, leaves: &[Hash]) {
        let mut state = self.lock();
        let at = stored_hash_count(state.frontier.size()) * HASH_LEN;
        let mut bytes = Vec::with_capacity(leaves.len() * 64);
        for &leaf in leaves {
            state
                .frontier
                .push(leaf, |hash| bytes.extend_from_slice(&hash.0));
        }
        if state.stale {
            return;
        }
        if let Err(error) = state.file.write_all_at(&bytes, at) {
            tracing::warn!(%error, "hashes of the audit tree not written; they are rebuilt when a proof needs them");
            state.stale = true;
        }
    }

    /// Makes what was written survive a power cut. A failure costs a rebuild, nothing else.
    pub(crate) fn sync(&self) {
        let file = Arc::clone(&self.lock().file);
        if let Err(error) = file.sync_data() {
            tracing::warn!(%error, "hashes of the audit tree not synced");
            self.lock().stale = true;
        }
    }

    /// The tree over everything durable.
    pub(crate) fn frontier(&self) -> Frontier {
        self.lock().frontier.clone()
    }

    /// Computes a proof of the tree; rebuilds the file and tries once more when it does not check.
    pub(crate) fn prove<T>(
        &self,
        segments: &Arc<Segments>,
        prove: impl Fn(&Frontier, &HashFile) -> Result<T, tlog_tiles::Error>,
    ) -> Result<T, ProofError> {
        let state = self.lock().clone();
        if !state.stale {
            match prove(&state.frontier, &HashFile(state.file)) {
                Ok(proof) => return Ok(proof),
                Err(error) => {
                    tracing::warn!(%error, "the stored hashes of the audit tree do not add up; rebuilding them");
                }
            }
        }
        self.rebuild(segments)?;
        let state = self.lock().clone();
        prove(&state.frontier, &HashFile(state.file)).map_err(|e| ProofError::Inconsistent {
            detail: e.to_string(),
        })
    }

    /// Writes the file anew from the log.
    fn rebuild(&self, segments: &Arc<Segments>) -> Result<(), ProofError> {
        let _only_one = self
            .rebuilding
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let io = |source| ProofError::Io {
            file: self.path.display().to_string(),
            source,
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let aside = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        let mut frontier = Frontier::default();
        // The long part without the lock, so that commits go on; the short rest with it.
        copy_leaves(segments, &mut frontier, u64::MAX, aside.as_file())
            .map_err(|e| e.into_proof(io))?;
        let mut state = self.lock();
        copy_leaves(
            segments,
            &mut frontier,
            state.frontier.size(),
            aside.as_file(),
        )
        .map_err(|e| e.into_proof(io))?;
        if frontier != state.frontier {
            return Err(ProofError::Inconsistent {
                detail: "the log's records do not give the root that was computed when they were written".into(),
            });
        }
        let file = aside.persist(&self.path).map_err(|e| io(e.error))?;
        (state.file, state.stale) = (Arc::new(file), false);
        Ok(())
    }
}

enum CopyError {
    Read(ReadError),
    Io(io::Error),
}

impl CopyError {
    fn into_proof(self, io: impl Fn(io::Error) -> ProofError) -> ProofError {
        match self {
            Self::Read(error) => error.into(),
            Self::Io(error) => io(error),
        }
    }
}

/// Hashes the records from the frontier's size up to `end` and writes the stored hashes.
fn copy_leaves(
    segments: &Arc<Segments>,
    frontier: &mut Frontier,
    end: u64,
    file: &File,
) -> Result<(), CopyError> {
    let mut bytes = Vec::with_capacity(REBUILD_CHUNK + 4096);
    let mut at = stored_hash_count(frontier.size()) * HASH_LEN;
    let mut walk = segments
        .walk(Position(frontier.size()))
        .map_err(CopyError::Read)?;
    while frontier.size() < end
        && let Some(step) = walk.step().map_err(CopyError::Read)?
    {
        let leaf = tlog_tiles::record_hash(step.raw.header);
        frontier.push(leaf, |hash| bytes.extend_from_slice(&hash.0));
        if bytes.len() >= REBUILD_CHUNK {
            file.write_all_at(&bytes, at).map_err(CopyError::Io)?;
            at += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_all_at(&bytes, at).map_err(CopyError::Io)
}

/// Whether a file holds the hashes of a frontier where they belong.
fn holds(file: &Arc<File>, frontier: &Frontier) -> bool {
    let size = frontier.size();
    let expected = frontier.nodes();
    let mut indexes = Vec::with_capacity(expected.len());
    let mut before = 0;
    for level in (0..64_u8).rev().filter(|level| size >> level & 1 == 1) {
        indexes.push(tlog_tiles::stored_hash_index(level, before >> level));
        before += 1 << level;
    }
    HashFile(Arc::clone(file))
        .read_hashes(&indexes)
        .is_ok_and(|found| found == expected)
}

/// Reads stored hashes.
pub(crate) struct HashFile(Arc<File>);

impl HashReader for HashFile {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        indexes
            .iter()
            .map(|index| {
                let mut hash = [0; 32];
                self.0
                    .read_exact_at(&mut hash, index * HASH_LEN)
                    .map_err(|e| tlog_tiles::Error::InvalidInput(e.to_string()))?;
                Ok(Hash(hash))
            })
            .collect()
    }
}

impl TreeFile {
    /// See [`tree::root`].
    pub(crate) fn root(&self, segments: &Arc<Segments>, size: u64) -> Result<Hash, ProofError> {
        let whole = self.frontier();
        if size == whole.size() {
            return Ok(whole.root());
        }
        self.check_range(size, whole.size())?;
        self.prove(segments, |tree, hashes| tree::root(size, tree, hashes))
    }

    /// See [`tree::inclusion`].
    pub(crate) fn inclusion(
        &self,
        segments: &Arc<Segments>,
        index: u64,
        size: u64,
    ) -> Result<Vec<Hash>, ProofError> {
        self.check_range(size, self.frontier().size())?;
        self.check_range(index.saturating_add(1), size)?;
        self.prove(segments, |tree, hashes| {
            tree::inclusion(index, size, tree, hashes)
        })
    }

    /// See [`tree::subtrees`].
    pub(crate) fn subtrees(
        &self,
        segments: &Arc<Segments>,
        level: u8,
        first: u64,
        count: u64,
    ) -> Result<Vec<Hash>, ProofError> {
        let end = tree::subtrees_end(level, first, count).unwrap_or(u64::MAX);
        self.check_range(end, self.frontier().size())?;
        self.prove(segments, |_, hashes| {
            tree::subtrees(level, first, count, hashes)
        })
    }

    /// See [`tree::consistency`].
    pub(crate) fn consistency(
        &self,
        segments: &Arc<Segments>,
        old: u64,
        new: u64,
    ) -> Result<Vec<Hash>, ProofError> {
        self.check_range(new, self.frontier().size())?;
        self.check_range(old, new)?;
        self.prove(segments, |tree, hashes| {
            tree::consistency(old, new, tree, hashes)
        })
    }

    #[expect(
        clippy::unused_self,
        reason = "reads as part of the three methods above"
    )]
    fn check_range(&self, asked: u64, size: u64) -> Result<(), ProofError> {
        if asked > size {
            Err(ProofError::OutOfRange { asked, size })
        } else {
            Ok(())
        }
    }
}
