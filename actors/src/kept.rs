//! Looks at the start whether the log is what the node signed elsewhere: `<data>/cosigned`, and the witness's file.
//!
//! ```text
//! notes that the log contradicts ── accepted before, as the log says? ──► go on
//!                                └─ told to go on, or just restored? ───► keep them in cut-accepted; `node.started` says so
//!                                └─ otherwise ──────────────────────────► refuse to start
//! ```

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use mesh_messages::Position;
use mesh_messages::events::{LogCut, NodeEvent, Restoration, partition};
use mesh_persistence::{
    Contradiction, ContradictionKind, Journal, ProofError, RESTORED_FILE, ReadError,
    contradicted_succession, contradictions,
};
use sha2::{Digest as _, Sha256};

/// The last checkpoint that a witness co-signed, in the data directory.
pub const COSIGNED_FILE: &str = "cosigned";
/// The notes that the log contradicts and the operator accepted, in the data directory.
const ACCEPTED_FILE: &str = "cut-accepted";
/// Twice what a witness's file grows to; what is beyond is not looked at.
const KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where to look for what was signed, beside the data directory, and what to do about a log that contradicts it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// A file of checkpoints and successions, such as `audit.witness.file`. One that is not there says nothing.
    pub file: Option<PathBuf>,
    /// Start all the same, and put on record that the operator said so.
    pub accept: bool,
}

/// Why meshd does not start on this log.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The log is not what was signed.
    #[error(
        "{told}. Restore the data directory from where it is whole, or from a backup; \
         or start with --accept-cut-log, which is put on record"
    )]
    Cut {
        /// How it differs.
        told: String,
    },
    /// The log is not the one that the key in force took over. Nothing can be signed for it, so nobody can let that pass.
    #[error(
        "the log was cut or changed before its key took over: that key signs for what follows {size} records, as journal/successions \
         says, and the log has {left}, or begins otherwise. Restore the data directory from where it is whole, or from a backup; \
         or begin another log in an empty data directory"
    )]
    Key {
        /// How many records the log had when the key took over.
        size: u64,
        /// How many it has.
        left: u64,
    },
    /// A file of what was signed could not be read or written.
    #[error("{file}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log could not be read.
    #[error("the log cannot be compared with what was signed of it")]
    Root(#[from] ProofError),
    /// The log could not be read.
    #[error("the log cannot be compared with what was signed of it")]
    Read(#[from] ReadError),
}

/// Compares. What the operator accepts now is to be put on record.
///
/// # Errors
/// [`KeptError`]; then nothing may run on this log.
pub(crate) fn check(
    journal: &dyn Journal,
    data: &Path,
    kept: &Kept,
) -> Result<Option<LogCut>, KeptError> {
    if let Some(succession) = contradicted_succession(journal)? {
        return Err(KeptError::Key {
            size: succession.size,
            left: journal.durable().borrow().size(),
        });
    }
    let mut found: Vec<(PathBuf, Contradiction)> = Vec::new();
    let cosigned = data.join(COSIGNED_FILE);
    for path in [Some(&cosigned), kept.file.as_ref()].into_iter().flatten() {
        let text = match read(path) {
            // Nothing waits for a witness.
            Err(KeptError::File { file, source }) if Some(&file) == kept.file.as_ref() => {
                tracing::warn!(file = %file.display(), error = %source, "the log is not compared with what a witness has");
                continue;
            }
            text => text?,
        };
        let told = contradictions(journal, &text)?;
        found.extend(told.into_iter().map(|one| (path.clone(), one)));
    }
    if found.is_empty() {
        return Ok(None);
    }
    let accepted_file = data.join(ACCEPTED_FILE);
    let accepted = read(&accepted_file)?;
    let history = History::read(journal)?;
    if history.accepted.contains(&digest(&accepted)) {
        let known = contradictions(journal, &accepted)?;
        let is_known = |one: &Contradiction| {
            let same = |known: &Contradiction| known.size == one.size && known.root == one.root;
            known.iter().any(same)
        };
        found.retain(|(_, one)| !is_known(one));
    }
    let Some((from, first)) = found.iter().max_by_key(|(_, one)| one.size) else {
        return Ok(None);
    };
    let left = journal.durable().borrow().size();
    let told = told(first, from, left);
    // A backup is older than what was signed after it. That it was restored is on record, too.
    let restored = restored(data)?.is_some_and(|one| !history.restored.contains(&one));
    if !kept.accept && !restored {
        return Err(KeptError::Cut { told });
    }
    tracing::warn!(restored, "{told}; going on all the same");
    let mut notes = accepted;
    for (_, one) in &found {
        notes.push_str(&one.note);
        notes.push('\n');
    }
    write(&accepted_file, &notes)?;
    Ok(Some(LogCut {
        seen: first.size,
        root: first.root.to_string(),
        left,
        notes: digest(&notes),
        from: from.display().to_string(),
    }))
}

fn told(first: &Contradiction, from: &Path, left: u64) -> String {
    let (size, from) = (first.size, from.display());
    match &first.kind {
        ContradictionKind::Shorter => format!(
            "the log was cut: it ends after {left} records, but this node signed that it had {size}, as {from} says"
        ),
        ContradictionKind::Other => format!(
            "the log is another one: its first {size} records are not those that this node signed, as {from} says"
        ),
        ContradictionKind::Key(key) => format!(
            "the log was cut: it does not know of the key {key} that took over at {size} records, as {from} says"
        ),
    }
}

/// What the log says of earlier starts.
#[derive(Debug, Default)]
struct History {
    accepted: Vec<String>,
    restored: Vec<Restoration>,
}

impl History {
    fn read(journal: &dyn Journal) -> Result<Self, KeptError> {
        let mut history = Self::default();
        for record in journal.read_partition(&partition::NODE, Position(0))? {
            let record = record?;
            if record.header.kind != "node.started" {
                continue;
            }
            let payload = record.body.map(|body| body.payload).unwrap_or_default();
            if let Ok(NodeEvent::Started { cut, restored, .. }) = serde_json::from_slice(&payload) {
                history.accepted.extend(cut.map(|cut| cut.notes));
                history.restored.extend(restored);
            }
        }
        Ok(history)
    }
}

fn digest(notes: &str) -> String {
    hex::encode(Sha256::digest(notes.as_bytes()))
}

fn restored(data: &Path) -> Result<Option<Restoration>, KeptError> {
    let text = read(&data.join(RESTORED_FILE))?;
    Ok(serde_json::from_str(&text).ok())
}

/// The text of a file; of one that is not there, nothing.
fn read(path: &Path) -> Result<String, KeptError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(KEPT_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if gone(&error) => Ok(String::new()),
        Err(source) => Err(failed(path, source)),
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn failed(path: &Path, source: io::Error) -> KeptError {
    KeptError::File {
        file: path.to_owned(),
        source,
    }
}

fn write(path: &Path, text: &str) -> Result<(), KeptError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut aside = tempfile::NamedTempFile::new_in(dir)?;
        aside.write_all(text.as_bytes())?;
        aside.as_file().sync_all()?;
        aside.persist(path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| failed(path, source))
}
