//! A backup: what a node cannot make anew, as one tar stream taken while it works, and the way back.
//!
//! ```text
//! backup.json                format, log, signed checkpoint, how many bytes follow
//! journal/log/<first>.seg    the part of each segment that the checkpoint covers
//! journal/checkpoint         the signed note
//! journal/successions        where another key took over from the log's first one: the notes that say so (format 3)
//! journal/erased             after the segments: what was overwritten while they were copied is on it
//! content/ab/cdef…           listed after the cut, so whatever a record names is there
//! bundles/<digest>/…
//! secrets/vault              only when asked for, encrypted as it lies there (format 2)
//! blake3                     the digest of every byte before this entry
//! ```
//!
//! Nothing that the checkpoint's signature does not lead to is in it: snapshots, projections and hashes are made anew from the
//! log. Neither is the node's key, nor the vault's: whoever may take a backup need not be able to sign in the node's name.
//! `docs/decisions/0008-backup-and-restore.md` has the reasons.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mesh_messages::identity::DidKey;
use serde::{Deserialize, Serialize};

use crate::file::SUCCESSIONS_FILE;
use crate::journal::{CheckpointError, ReadError, SignedCheckpoint};
use crate::succession::LogKeys;

mod archive;
mod restore;
#[cfg(test)]
mod tests;

pub use restore::{RestoreError, Restored, restore};

/// Version of the archive. A newer one is refused.
pub const BACKUP_FORMAT: u32 = 3;
/// Version of an archive with a vault whose log has its first key, which older readers know.
const FORMAT_VAULT: u32 = 2;
/// The same without a vault.
const FORMAT_PLAIN: u32 = 1;

/// The entries that are not copies of files.
const ABOUT: &str = "backup.json";
const SUM: &str = "blake3";
/// Put before the rest by whoever has the key's file; not covered by the digest, and checked against the log's id.
const KEY: &str = crate::nodekey::FILE;

/// Says, in a data directory, which backup its log goes on from: a `Restoration` as JSON. meshd records it once.
pub const RESTORED_FILE: &str = "restored.json";

/// The directories below a data directory.
const JOURNAL_DIR: &str = "journal";
const CONTENT_DIR: &str = "content";
const BUNDLES_DIR: &str = "bundles";
/// The vault, encrypted as it lies there, below a data directory.
const VAULT_DIR: &str = "secrets";
const VAULT_FILE: &str = "vault";

/// Everything in it is its owner's alone.
const MODE: u32 = 0o600;

/// Where a log can be cut: the records that a signed checkpoint covers, and the files that hold them.
#[derive(Debug)]
pub struct JournalCut {
    /// The log's id.
    pub(crate) log: String,
    /// The checkpoint.
    pub(crate) checkpoint: SignedCheckpoint,
    /// Who signed it.
    pub(crate) keys: LogKeys,
    /// The segments, each with how much of it counts.
    pub(crate) segments: Vec<(PathBuf, u64)>,
    /// The list of erased records.
    pub(crate) erased: PathBuf,
}

/// Why a log could not be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// This journal has no files. Only tests have such a one.
    #[error("this journal has no files")]
    NoFiles,
    /// No checkpoint could be signed.
    #[error("failed to sign a checkpoint for the backup")]
    Checkpoint(#[from] CheckpointError),
    /// A segment could not be read.
    #[error("failed to find the end of the backup in the log")]
    Read(#[from] ReadError),
}

/// Why a backup failed. What was written so far is none: discard it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log could not be cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// A file could not be read, or is shorter than it was.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The backup could not be written.
    #[error("failed to write the backup")]
    Write(#[from] io::Error),
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AboutBackup {
    /// [`BACKUP_FORMAT`].
    pub format: u32,
    /// The log's id.
    pub log: String,
    /// Records in it.
    pub records: u64,
    /// The signed note over them.
    pub checkpoint: String,
    /// Bytes of all files, for showing progress.
    pub bytes: u64,
    /// Whether the vault is in it, encrypted.
    #[serde(default)]
    pub vault: bool,
    /// The key in force, where that is not the log's first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DidKey>,
}

impl AboutBackup {
    /// The `did:key` of the key that the node's secret has to be of.
    pub fn key_in_force(&self) -> String {
        self.key
            .map_or_else(|| self.log.clone(), |key| key.to_string())
    }
}

/// What else goes into a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VaultCopy {
    /// The vault stays where it is.
    #[default]
    Without,
    /// The vault, encrypted as it is; where there is none, none. Its key never is in a backup.
    With,
}

/// A file on its way into the archive.
struct Source {
    name: String,
    path: PathBuf,
    len: u64,
    mode: u32,
}

/// Writes a backup of the data directory `data` whose open journal gave `cut`. Blocks on the disk.
///
/// # Errors
/// [`BackupError`].
pub fn backup(
    cut: &JournalCut,
    data: &Path,
    vault: VaultCopy,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    let vault = sealed_vault(data, vault)?;
    let mut files = Vec::new();
    for (path, len) in &cut.segments {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push(Source {
            name: format!("{JOURNAL_DIR}/log/{name}"),
            path: path.clone(),
            len: *len,
            mode: MODE,
        });
    }
    // Looked at once for their sizes and once to be copied, so that no more names than a directory's are held.
    let mut others = below(data, CONTENT_DIR, is_shard)?;
    others.extend(below(data, BUNDLES_DIR, is_stored)?);
    let mut bytes: u64 = files.iter().map(|file| file.len).sum();
    for other in &others {
        bytes += list(data, other)?.iter().map(|file| file.len).sum::<u64>();
    }
    bytes += vault.as_ref().map_or(0, |vault| vault.len() as u64);
    let successions = cut.keys.to_text();
    let key = (!successions.is_empty()).then(|| *cut.keys.current());
    let about = AboutBackup {
        format: match (&key, &vault) {
            (Some(_), _) => BACKUP_FORMAT,
            (None, Some(_)) => FORMAT_VAULT,
            (None, None) => FORMAT_PLAIN,
        },
        log: cut.log.clone(),
        records: cut.checkpoint.size,
        checkpoint: cut.checkpoint.note.clone(),
        bytes,
        vault: vault.is_some(),
        key,
    };
    let mut archive = archive::Writer::new(out);
    let about = serde_json::to_vec_pretty(&about).map_err(io::Error::from)?;
    archive.bytes(ABOUT, &about)?;
    for file in &files {
        archive.file(file)?;
    }
    let note = cut.checkpoint.note.as_bytes();
    archive.bytes(&format!("{JOURNAL_DIR}/checkpoint"), note)?;
    if !successions.is_empty() {
        let name = format!("{JOURNAL_DIR}/{SUCCESSIONS_FILE}");
        archive.bytes(&name, successions.as_bytes())?;
    }
    // Read whole, and only now: it grows by an entry at a time, and a segment's body is overwritten after its entry.
    let erased = fs::read(&cut.erased).map_err(|source| BackupError::Read {
        path: cut.erased.clone(),
        source,
    })?;
    archive.bytes(&format!("{JOURNAL_DIR}/erased"), &erased)?;
    for other in &others {
        for file in list(data, other)? {
            archive.file(&file)?;
        }
    }
    if let Some(vault) = vault {
        archive.bytes(&format!("{VAULT_DIR}/{VAULT_FILE}"), &vault)?;
    }
    archive.finish()?;
    Ok(())
}

/// The vault's file, where it is asked for. Read whole: it is replaced as a whole, so this is one of its states.
fn sealed_vault(data: &Path, vault: VaultCopy) -> Result<Option<Vec<u8>>, BackupError> {
    if vault == VaultCopy::Without {
        return Ok(None);
    }
    let path = data.join(VAULT_DIR).join(VAULT_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BackupError::Read { path, source }),
    }
}

/// The directories of the content store that hold content: two hex digits. The others hold what is being written.
fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Bundles that are whole. Those that are being written have other names.
fn is_stored(name: &str) -> bool {
    !name.starts_with('.')
}

/// The names `<top>/<what is taken>` of a data directory.
fn below(data: &Path, top: &str, taken: fn(&str) -> bool) -> Result<Vec<String>, BackupError> {
    let names = names(&data.join(top))?.into_iter();
    let taken = names.filter(|name| taken(name));
    Ok(taken.map(|name| format!("{top}/{name}")).collect())
}

/// All files below one of these names, in order.
fn list(data: &Path, name: &str) -> Result<Vec<Source>, BackupError> {
    let mut files = Vec::new();
    list_all(&data.join(name), name, &mut files)?;
    Ok(files)
}

fn list_all(path: &Path, name: &str, files: &mut Vec<Source>) -> Result<(), BackupError> {
    let about = fs::symlink_metadata(path).map_err(|source| BackupError::Read {
        path: path.to_owned(),
        source,
    })?;
    if about.is_dir() {
        for inner in names(path)? {
            list_all(&path.join(&inner), &format!("{name}/{inner}"), files)?;
        }
    } else if about.is_file() {
        files.push(Source {
            name: name.to_owned(),
            path: path.to_owned(),
            len: about.len(),
            mode: about.permissions().mode() & 0o777,
        });
    }
    Ok(())
}

/// The names in a directory, sorted; none when there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>, BackupError> {
    let failed = |source| BackupError::Read {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        names.push(name.into_string().map_err(|name| {
            failed(io::Error::other(format!(
                "the name {} is not text",
                name.display()
            )))
        })?);
    }
    names.sort();
    Ok(names)
}

/// Reads what a backup says of itself from its beginning, for showing progress; `None` when it does not begin like one.
///
/// `begin` may hold more than that. Checks nothing: [`restore`] does.
pub fn about_backup(begin: &[u8]) -> Option<AboutBackup> {
    let mut archive = tar::Archive::new(begin);
    for entry in archive.entries().ok()?.take(2) {
        let entry = entry.ok()?;
        if entry.path().ok()?.as_os_str() == ABOUT {
            return serde_json::from_reader(entry.take(archive::ABOUT_BYTES_MAX)).ok();
        }
    }
    None
}

/// The entry that a key's file becomes: written before the stream of the backup.
///
/// # Errors
/// What the operating system says.
pub fn write_key_entry(text: &str, out: &mut dyn Write) -> io::Result<()> {
    archive::write_entry(out, KEY, text.as_bytes())
}
