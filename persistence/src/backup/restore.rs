//! From a backup to a data directory: everything is unpacked aside and checked as a whole, and only then gets its place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use mesh_messages::events::Restoration;
use mesh_messages::identity::{DidKey, SigningKey};

use super::archive::{ABOUT_BYTES_MAX, BLOCK, Behind, is_zeros};
use super::{
    ABOUT, AboutBackup, BACKUP_FORMAT, BUNDLES_DIR, CONTENT_DIR, JOURNAL_DIR, KEY, MODE,
    RESTORED_FILE, SUM, VAULT_DIR, VAULT_FILE,
};
use crate::checkpoint::CheckpointClaim;
use crate::file::{FileJournal, LogCheckError, SUCCESSIONS_FILE, read_keys};
use crate::fsio;
use crate::succession::LogKeys;

/// Bytes copied at once.
const CHUNK: usize = 64 * 1024;
/// Longest text of a key's file.
const KEY_BYTES_MAX: u64 = 1024;
/// Bundles are read by agents that run as other users, below a directory that only meshd's user may enter.
const BUNDLE_DIR_MODE: u32 = 0o755;

/// What was restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The log's id.
    pub log: String,
    /// The key in force.
    pub key: DidKey,
    /// Its records.
    pub records: u64,
    /// The root of the tree over them, as it was signed.
    pub root: tlog_tiles::Hash,
    /// Records whose payload was erased.
    pub erased: u64,
    /// Files of the content store.
    pub contents: u64,
    /// Files of bundles.
    pub bundle_files: u64,
    /// Whether the vault was in it. It opens with its key, which was not.
    pub vault: bool,
}

/// Why nothing was restored. The directory is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is something in the directory. Name another one.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The backup was made by a newer version. Use that version.
    #[error("the backup has format {found}; this version reads up to {BACKUP_FORMAT}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is no backup, or not all of one, or not what was written. Use another copy.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// The log in it does not prove itself. Use another copy.
    #[error("the log in the backup does not hold together")]
    Log(#[source] LogCheckError),
    /// The node's key is neither in it nor given. Give it.
    #[error("the node's key is not in the backup")]
    NoKey,
    /// The key that was given, or the one in the backup, is not the one in force. Give the right one.
    #[error("the key is {found}, but the one in force is {expected}")]
    OtherKey {
        /// The one in force.
        expected: String,
        /// The one there is.
        found: String,
    },
    /// The backup could not be read.
    #[error("failed to read the backup")]
    Read(#[source] io::Error),
    /// A file could not be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Restores a backup into `data`, which must be empty or missing. `key` is the node's secret, unless it is in the backup.
///
/// # Errors
/// [`RestoreError`]; then nothing was put in place.
pub fn restore(
    source: impl Read,
    data: &Path,
    key: Option<SigningKey>,
) -> Result<Restored, RestoreError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    if !is_free(data).map_err(write(data))? {
        return Err(RestoreError::NotEmpty(data.to_owned()));
    }
    let parent = match data.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(write(parent))?;
    // Beside its place, so that taking it is one rename. It removes itself when anything fails.
    let aside = tempfile::Builder::new()
        .prefix(".restoring-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(write(parent))?;
    let unpacked = unpack(source, aside.path())?;
    let (key, restored) = check(&unpacked, key, aside.path())?;
    let key_file = aside.path().join(KEY);
    let secret = format!("{}\n", hex::encode(key.secret_bytes()));
    write_new(&key_file, MODE, &mut secret.as_bytes()).map_err(write(&key_file))?;
    let note = Restoration {
        records: restored.records,
        root: restored.root.to_string(),
    };
    let note_file = aside.path().join(RESTORED_FILE);
    let note = serde_json::to_vec(&note).map_err(|error| RestoreError::Write {
        path: note_file.clone(),
        source: error.into(),
    })?;
    write_new(&note_file, MODE, &mut note.as_slice()).map_err(write(&note_file))?;
    sync_tree(aside.path()).map_err(write(aside.path()))?;
    // Replaces an empty directory, and refuses any other.
    fs::rename(aside.path(), data).map_err(write(data))?;
    // It has its place, and is no longer to be removed.
    let _moved = aside.keep();
    fsio::sync_dir(parent).map_err(write(parent))?;
    Ok(restored)
}

fn is_free(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// What was in the archive.
struct Unpacked {
    about: AboutBackup,
    key: Option<String>,
    contents: u64,
    bundle_files: u64,
    vault: bool,
}

/// Writes the archive's files below `dir`, and checks that it is whole and what was written.
fn unpack(source: impl Read, dir: &Path) -> Result<Unpacked, RestoreError> {
    let source = Behind::new(source);
    let mut archive = tar::Archive::new(source.clone());
    let (mut about, mut key, mut end) = (None, None, None);
    let (mut contents, mut bundle_files, mut vault) = (0, 0, false);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if end.is_some() {
            return Err(damaged("something follows its digest"));
        }
        if !entry.header().entry_type().is_file() {
            return Err(damaged("it holds something that is no file"));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let name = path.to_string_lossy().into_owned();
        match (name.as_str(), &about) {
            (KEY, None) if key.is_none() => {
                key = Some(read_text(&mut entry, KEY_BYTES_MAX)?);
            }
            (ABOUT, None) => {
                source.begin();
                about = Some(read_about(&read_text(&mut entry, ABOUT_BYTES_MAX)?)?);
            }
            (_, None) => return Err(damaged("it does not begin like a backup")),
            (SUM, Some(_)) => {
                let expected = source.sum();
                if entry.size() != expected.len() as u64
                    || read_text(&mut entry, ABOUT_BYTES_MAX)?.as_bytes() != expected
                {
                    return Err(damaged("its digest is not that of its content"));
                }
                // Two blocks of zeros end an archive.
                end = Some(source.position() + 2 * BLOCK as u64);
            }
            (_, Some(_)) => {
                let mode = match place_of(&path) {
                    Place::Private => MODE,
                    Place::Bundle => entry.header().mode().map_err(broken)? & 0o755,
                    Place::Nowhere => return Err(damaged(format!("it holds {name}"))),
                };
                contents += u64::from(path.starts_with(CONTENT_DIR));
                vault |= path.starts_with(VAULT_DIR);
                bundle_files += u64::from(path.starts_with(BUNDLES_DIR));
                let target = dir.join(&path);
                let mut from = Told {
                    inner: &mut entry,
                    failed: false,
                };
                let written =
                    make_parents(dir, &path).and_then(|()| write_new(&target, mode, &mut from));
                if let Err(error) = written {
                    return Err(if from.failed {
                        broken(error)
                    } else {
                        RestoreError::Write {
                            path: target,
                            source: error,
                        }
                    });
                }
                if path.starts_with(CONTENT_DIR) {
                    check_content(&path, &target)?;
                }
            }
        }
    }
    let zeros = is_zeros(source.clone()).map_err(RestoreError::Read)?;
    let Some(about) = about.filter(|_| end.is_some_and(|end| source.position() >= end)) else {
        return Err(damaged("it is cut short"));
    };
    if !zeros || end.is_some_and(|end| source.position() > end) {
        return Err(damaged("something follows its end"));
    }
    Ok(Unpacked {
        about,
        key,
        contents,
        bundle_files,
        vault,
    })
}

fn damaged(detail: impl Into<String>) -> RestoreError {
    RestoreError::Damaged(detail.into())
}

/// What the archive's reader says is about the archive, unless the disk says it.
fn broken(error: io::Error) -> RestoreError {
    if error.raw_os_error().is_some() {
        RestoreError::Read(error)
    } else {
        damaged(error.to_string())
    }
}

fn read_text(entry: impl Read, limit: u64) -> Result<String, RestoreError> {
    let mut text = String::new();
    entry
        .take(limit)
        .read_to_string(&mut text)
        .map_err(broken)?;
    Ok(text)
}

fn read_about(text: &str) -> Result<AboutBackup, RestoreError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let malformed = |error: serde_json::Error| damaged(format!("{ABOUT}: {error}"));
    // Whatever else a newer one holds, its format can be read.
    let Format { format } = serde_json::from_str(text).map_err(malformed)?;
    if format > BACKUP_FORMAT {
        return Err(RestoreError::Newer { found: format });
    }
    serde_json::from_str(text).map_err(malformed)
}

/// Where a file of an archive belongs.
enum Place {
    /// Among what is meshd's alone.
    Private,
    /// In a bundle, whose files keep their mode.
    Bundle,
    /// Not into a data directory.
    Nowhere,
}

fn place_of(path: &Path) -> Place {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            _ => return Place::Nowhere,
        }
    }
    let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
    match parts.as_slice() {
        [JOURNAL_DIR, "log", _] if path.extension().is_some_and(|kind| kind == "seg") => {
            Place::Private
        }
        [JOURNAL_DIR, "checkpoint" | "erased" | SUCCESSIONS_FILE]
        | [CONTENT_DIR, _, _]
        | [VAULT_DIR, VAULT_FILE] => Place::Private,
        [BUNDLES_DIR, _, _, ..] => Place::Bundle,
        _ => Place::Nowhere,
    }
}

/// Makes the directories of a file below `dir`. Those of bundles can be entered by others.
fn make_parents(dir: &Path, path: &Path) -> io::Result<()> {
    let mut at = dir.to_owned();
    let parents: Vec<_> = path
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .collect();
    for (depth, part) in parents.into_iter().enumerate() {
        at.push(part);
        if at.is_dir() {
            continue;
        }
        fs::create_dir(&at)?;
        let open = depth > 0 && path.starts_with(BUNDLES_DIR);
        let mode = if open { BUNDLE_DIR_MODE } else { 0o700 };
        fs::set_permissions(&at, Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn write_new(path: &Path, mode: u32, from: &mut dyn Read) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => file.write_all(&chunk[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))
}

/// Remembers that an error was the reader's.
struct Told<R> {
    inner: R,
    failed: bool,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.failed |= read.is_err();
        read
    }
}

/// Content is named by its digest: what was damaged before it was backed up is found here.
fn check_content(path: &Path, target: &Path) -> Result<(), RestoreError> {
    let mut digest = blake3::Hasher::new();
    let read = File::open(target).and_then(|file| digest.update_reader(file).map(drop));
    read.map_err(|source| RestoreError::Write {
        path: target.to_owned(),
        source,
    })?;
    let name: String = path
        .components()
        .skip(1)
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    if digest.finalize().to_hex().as_str() != name {
        return Err(damaged(format!("content {name} is not what it was")));
    }
    Ok(())
}

/// Checks the log as a whole: every record against its commitment, all of them against the signed root.
fn check(
    unpacked: &Unpacked,
    given: Option<SigningKey>,
    dir: &Path,
) -> Result<(SigningKey, Restored), RestoreError> {
    let about = &unpacked.about;
    let log: DidKey = about
        .log
        .parse()
        .map_err(|_| damaged("the log's id is no key"))?;
    let found = read_keys(&dir.join(JOURNAL_DIR));
    let found = found.map_err(|error| RestoreError::Log(error.into()))?;
    let keys = found.unwrap_or_else(|| LogKeys::of(log));
    if *keys.log() != log {
        return Err(damaged("its successions are of another log"));
    }
    let claim: CheckpointClaim = keys
        .verify_checkpoint(&about.checkpoint)
        .map_err(|error| damaged(format!("its checkpoint: {error}")))?;
    let packed = unpacked.key.as_deref().map(parse_key).transpose()?;
    let mut secrets = given.into_iter().chain(packed);
    let key = secrets.next().ok_or(RestoreError::NoKey)?;
    for key in std::iter::once(&key).chain(&secrets.collect::<Vec<_>>()) {
        if key.public() != *keys.current() {
            return Err(RestoreError::OtherKey {
                expected: keys.current().to_string(),
                found: key.public().to_string(),
            });
        }
    }
    let checked = FileJournal::check_restored(&dir.join(JOURNAL_DIR), key.clone(), claim)
        .map_err(RestoreError::Log)?;
    let restored = Restored {
        log: about.log.clone(),
        key: key.public(),
        records: claim.size,
        root: claim.root,
        erased: checked,
        contents: unpacked.contents,
        bundle_files: unpacked.bundle_files,
        vault: unpacked.vault,
    };
    Ok((key, restored))
}

fn parse_key(text: &str) -> Result<SigningKey, RestoreError> {
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret)
        .map_err(|_| damaged("the node's key in it is not 32 bytes in hex"))?;
    Ok(SigningKey::from_secret(&secret))
}

/// Makes all files and directories durable.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    fsio::sync_dir(dir)
}
