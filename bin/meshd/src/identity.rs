//! The data directory and the node's key in it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use mesh_messages::identity::{DidKey, SigningKey};
use mesh_persistence::{NodeKeyError, log_keys, node_key};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// The node's private key, hex, readable by its owner alone.
const KEY_FILE: &str = "node.key";
/// The log, below the data directory: it says which key is in force.
pub(crate) const JOURNAL_DIR: &str = "journal";
/// Bytes of the secret.
const SECRET_LEN: usize = 32;

/// Who the node is.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its name, which is its log's: its first key.
    pub(crate) name: DidKey,
    /// The key in force.
    pub(crate) key: SigningKey,
}

/// Makes the data directory when it is missing, for its owner alone, and names it absolutely.
///
/// # Errors
/// A [`Failure`] that names the directory.
pub(crate) fn data_dir(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::io(format!("data: cannot use {}", path.display()), error);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    fs::canonicalize(path).map_err(failed)
}

/// Whether others may look into a data directory that was there before. It is not closed without being asked: every
/// secret in it has its own mode, and it may have been shared on purpose.
pub(crate) fn is_open_to_others(data: &Path) -> bool {
    fs::metadata(data).is_ok_and(|about| about.mode() & 0o077 != 0)
}

/// Reads the node's key that is in force, or makes its first one at the first start.
///
/// # Errors
/// A [`Failure`] that names the file; a key that cannot be read is never replaced, because the log belongs to it.
pub(crate) fn identity(data: &Path) -> Result<Identity, Failure> {
    let keys = log_keys(&data.join(JOURNAL_DIR)).map_err(failure)?;
    let key = match node_key(data, keys.as_ref()).map_err(failure)? {
        Some(key) => key,
        None => first_key(data)?,
    };
    let name = keys.map_or_else(|| key.public(), |keys| *keys.log());
    Ok(Identity { name, key })
}

fn failure(error: NodeKeyError) -> Failure {
    match &error {
        NodeKeyError::Io { source, .. } => {
            let exit = Exit::of_io(source);
            Failure::new(exit, error)
        }
        _ => Failure::new(Exit::Config, error),
    }
}

fn first_key(data: &Path) -> Result<SigningKey, Failure> {
    let path = data.join(KEY_FILE);
    let failed = |error| {
        Failure::io(
            format!("cannot use the node's key {}", path.display()),
            error,
        )
    };
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => parse(&path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(data, &path).map_err(failed)?;
            // Read back: what counts is what is on the disk, be it ours or that of somebody who was first.
            let text = Zeroizing::new(fs::read_to_string(&path).map_err(failed)?);
            parse(&path, &text)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(path: &Path, text: &str) -> Result<SigningKey, Failure> {
    let mut secret = Zeroizing::new([0_u8; SECRET_LEN]);
    hex::decode_to_slice(text.trim(), secret.as_mut_slice()).map_err(|_| {
        let path = path.display();
        let error = anyhow::anyhow!(
            "the node's key {path} is not {SECRET_LEN} bytes in hex; restore it from a copy, because the log belongs to it"
        );
        Failure::new(Exit::Config, error)
    })?;
    Ok(SigningKey::from_secret(&secret))
}

/// Writes a new key aside and gives it its name, unless somebody else was first.
fn make(data: &Path, path: &Path) -> io::Result<()> {
    let mut secret = Zeroizing::new([0_u8; SECRET_LEN]);
    getrandom::fill(secret.as_mut_slice()).map_err(io::Error::other)?;
    let text = Zeroizing::new(hex::encode(secret.as_slice()));
    // Created exclusively, mode 0600.
    let mut aside = tempfile::NamedTempFile::new_in(data)?;
    aside.write_all(text.as_bytes())?;
    aside.write_all(b"\n")?;
    aside.as_file().sync_all()?;
    match aside.persist_noclobber(path) {
        Ok(_file) => fs::File::open(data)?.sync_all(),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(refused) => Err(refused.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let data = data_dir(&root.path().join("a/b")).unwrap();
        assert!(!is_open_to_others(&data) && is_open_to_others(root.path().parent().unwrap()));
        let first = identity(&data).unwrap().key.public();
        assert_eq!(identity(&data).unwrap().key.public(), first);
        assert_eq!(
            fs::metadata(data.join(KEY_FILE)).unwrap().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(&data).unwrap().count(),
            1,
            "nothing is left aside"
        );
    }

    #[test]
    fn starts_at_the_same_time_agree_on_one_key() {
        let data = tempfile::tempdir().unwrap();
        let keys: Vec<String> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| identity(data.path()).unwrap().key.public().to_string()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(KEY_FILE), "rubbish").unwrap();
        let failure = identity(data.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert_eq!(
            fs::read_to_string(data.path().join(KEY_FILE)).unwrap(),
            "rubbish"
        );
    }
}
