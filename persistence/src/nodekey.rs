//! The files of a node's secret key in its data directory, and how another one takes its place.
//!
//! ```text
//! node.key         the secret of the key in force, hex
//! node.key.next    one that is about to take over, or has: the log says which (its file of successions)
//! ```
//!
//! ```text
//! 1. node.key.next is written                    killed before 2: the old key is in force, and this one goes
//! 2. the log's successions are replaced          from here on the new key is in force
//! 3. node.key.next becomes node.key              killed before 3: the next start does that
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use mesh_messages::identity::{DidKey, SigningKey};
use zeroize::Zeroizing;

use crate::file::{OpenError, read_keys};
use crate::fsio;
use crate::succession::LogKeys;

/// The secret of the key in force.
pub(crate) const FILE: &str = "node.key";
/// The secret that is about to take over.
const NEXT_FILE: &str = "node.key.next";

/// Why a node's key cannot be told or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeKeyError {
    /// The log does not say who signs for it.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// A file is no secret. Restore it from a copy: the log belongs to it.
    #[error(
        "the node's key {file} is not 32 bytes in hex; restore it from a copy, because the log belongs to it"
    )]
    Malformed {
        /// The file.
        file: String,
    },
    /// A file could not be read, written or renamed.
    #[error("cannot use the node's key {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> NodeKeyError {
    move |source| NodeKeyError::Io {
        file: path.display().to_string(),
        source,
    }
}

/// Who signs for the log in the directory `journal`; `None` while its first key does, or when there is no log yet.
///
/// # Errors
/// [`NodeKeyError::Log`].
pub fn log_keys(journal: &Path) -> Result<Option<LogKeys>, NodeKeyError> {
    Ok(read_keys(journal)?)
}

/// The node's secret in the data directory `data`: that of the key in force by `keys`, in whichever of the files it is, else
/// what is in `node.key`. `None` when there is none.
///
/// Changes nothing: another process may be at work here.
///
/// # Errors
/// [`NodeKeyError`].
pub fn node_key(data: &Path, keys: Option<&LogKeys>) -> Result<Option<SigningKey>, NodeKeyError> {
    let current = read(&data.join(FILE))?;
    let Some(expected) = keys.map(LogKeys::current) else {
        return Ok(current);
    };
    let is_expected = |key: &SigningKey| key.public() == *expected;
    if current.as_ref().is_some_and(is_expected) {
        return Ok(current);
    }
    let next = read(&data.join(NEXT_FILE))?.filter(is_expected);
    Ok(next.or(current))
}

fn read(path: &Path) -> Result<Option<SigningKey>, NodeKeyError> {
    let text = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(path)(error)),
    };
    let mut secret = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim(), secret.as_mut_slice()).map_err(|_| {
        let file = path.display().to_string();
        NodeKeyError::Malformed { file }
    })?;
    Ok(Some(SigningKey::from_secret(&secret)))
}

/// Writes the secret that is about to take over, durably and for its owner alone. `current` is the key in force; call it with
/// the log held open, so that nobody else changes keys.
///
/// # Errors
/// [`NodeKeyError`]; the key in force is where it was.
pub fn prepare_next(data: &Path, current: &DidKey, next: &SigningKey) -> Result<(), NodeKeyError> {
    // An earlier one may have come into force whose file could not be renamed.
    settle(data, current)?;
    let path = data.join(NEXT_FILE);
    let write = || -> io::Result<()> {
        let text = Zeroizing::new(format!("{}\n", hex::encode(next.secret_bytes())));
        // Created exclusively, mode 0600.
        let mut aside = tempfile::NamedTempFile::new_in(data)?;
        aside.write_all(text.as_bytes())?;
        aside.as_file().sync_all()?;
        aside.persist(&path).map_err(|error| error.error)?;
        fsio::sync_dir(data)
    };
    write().map_err(io_at(&path))
}

/// Ends a change of keys that was begun: a next secret that is in force gets its place, any other goes. Call it with the log
/// held open.
///
/// # Errors
/// [`NodeKeyError`]; call it again.
pub fn settle(data: &Path, current: &DidKey) -> Result<(), NodeKeyError> {
    let (path, next_path) = (data.join(FILE), data.join(NEXT_FILE));
    let Some(next) = read(&next_path)? else {
        return Ok(());
    };
    if next.public() == *current {
        fs::rename(&next_path, &path)
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(io_at(&path))?;
    } else {
        fs::remove_file(&next_path).map_err(io_at(&next_path))?;
    }
    fsio::sync_dir(data).map_err(io_at(data))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::file::{FileJournal, FileJournalOptions};
    use crate::journal::Journal as _;
    use crate::testing::{clock, key, record};

    fn secret(n: u8) -> SigningKey {
        SigningKey::from_secret(&[n; 32])
    }

    fn open(data: &Path, key: SigningKey) -> FileJournal {
        FileJournal::open(
            &data.join("journal"),
            &FileJournalOptions::default(),
            key,
            clock(),
        )
        .unwrap()
    }

    fn names(data: &Path) -> Vec<String> {
        let entries = fs::read_dir(data).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a start does: who signs, with which secret, and the end of a change that was begun.
    fn start(data: &Path) -> FileJournal {
        let keys = log_keys(&data.join("journal")).unwrap();
        let secret = node_key(data, keys.as_ref()).unwrap().unwrap();
        let journal = open(data, secret.clone());
        settle(data, &secret.public()).unwrap();
        journal
    }

    fn grow(journal: &FileJournal) {
        let partition = mesh_messages::PartitionId::from_static("node");
        let seq = journal.next_seq(&partition);
        let appended = journal.append(&partition, seq, vec![record("node.started", "{}")]);
        let last = appended.unwrap().last;
        while !journal.durable().borrow().covers(last) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn killed_at_any_step_exactly_one_key_is_in_force() {
        for step in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path();
            fs::write(data.join(FILE), hex::encode(key().secret_bytes())).unwrap();
            let journal = start(data);
            grow(&journal);
            let first = journal.checkpoint().unwrap();
            if step >= 1 {
                prepare_next(data, &key().public(), &secret(9)).unwrap();
                let mode = fs::metadata(data.join(NEXT_FILE)).unwrap().permissions();
                assert_eq!(mode.mode() & 0o777, 0o600);
            }
            if step >= 2 {
                journal.succeed(secret(9), false).unwrap();
            }
            if step >= 3 {
                settle(data, &secret(9).public()).unwrap();
            }
            drop(journal);

            let journal = start(data);
            let expected = if step >= 2 { secret(9) } else { key() };
            let signer = journal.signer();
            assert_eq!(*signer.keys().current(), expected.public(), "step {step}");
            assert_eq!(*signer.keys().log(), key().public());
            assert_eq!(journal.log_id(), key().public().to_string());
            assert!(!names(data).contains(&NEXT_FILE.to_owned()), "step {step}");
            let kept = node_key(data, None).unwrap().unwrap();
            assert_eq!(kept.public(), expected.public(), "step {step}");
            grow(&journal);
            let second = journal.checkpoint().unwrap();
            signer.keys().verify_checkpoint(&second.note).unwrap();
            signer.keys().verify_checkpoint(&first.note).unwrap();
        }
    }

    #[test]
    fn a_next_secret_that_is_in_force_is_never_overwritten_nor_lost() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        fs::write(data.join(FILE), hex::encode(key().secret_bytes())).unwrap();
        let journal = start(data);
        grow(&journal);
        prepare_next(data, &key().public(), &secret(9)).unwrap();
        journal.succeed(secret(9), false).unwrap();
        grow(&journal);
        // Its rename had failed; the next change comes at once.
        prepare_next(data, &secret(9).public(), &secret(10)).unwrap();
        assert_eq!(
            node_key(data, None).unwrap().unwrap().public(),
            secret(9).public()
        );
        drop(journal);
        assert_eq!(*start(data).signer().keys().current(), secret(9).public());
    }

    #[test]
    fn damaged_and_missing_secrets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        assert!(node_key(data, None).unwrap().is_none());
        fs::write(data.join(FILE), "rubbish").unwrap();
        assert!(matches!(
            node_key(data, None),
            Err(NodeKeyError::Malformed { .. })
        ));
        fs::write(data.join(FILE), hex::encode(key().secret_bytes())).unwrap();
        let journal = start(data);
        grow(&journal);
        journal.succeed(secret(9), false).unwrap();
        drop(journal);
        // The new secret is nowhere: the old one does not open the log any more.
        let keys = log_keys(&data.join("journal")).unwrap();
        let found = node_key(data, keys.as_ref()).unwrap().unwrap();
        let opened = FileJournal::open(
            &data.join("journal"),
            &FileJournalOptions::default(),
            found,
            clock(),
        );
        assert!(matches!(opened, Err(OpenError::OtherKey { .. })));
        // Without the file that says who signs, the new one is another node's.
        fs::remove_file(data.join("journal/successions")).unwrap();
        let opened = FileJournal::open(
            &data.join("journal"),
            &FileJournalOptions::default(),
            secret(9),
            clock(),
        );
        assert!(opened.is_err());
    }
}
