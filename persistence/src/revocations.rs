//! Tokens that are to be void from the next start on: ordered in a data directory while no daemon runs on it.
//!
//! The order lies in one file, an id a line. It is complete or not there, survives a crash, and is taken away only when all
//! of it is on record. Whoever may write the data directory may order it, as they may read the admin's token there.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::fsio;

/// The order's name in the data directory.
const ORDER_FILE: &str = "revoke";
/// The file that a running daemon holds locked.
const LOCK_FILE: &str = "journal/lock";
/// Ids in one order: more than tokens can be in force.
const IDS_MAX: usize = 10_000;
/// Bytes of a file of so many ids, with room for those of blocks.
const FILE_BYTES_MAX: u64 = 64 * IDS_MAX as u64;
/// Hexadecimal digits of a token's id, and of a block's.
const ID_DIGITS: usize = 16;

/// Why a revocation was not ordered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It is no id. Take it from the list of tokens.
    #[error("{0} is no token's id, nor a block's: 16 hexadecimal digits, or twice 16 with a dot")]
    NoId(String),
    /// There is nothing of meshd. Name its data directory.
    #[error("{} is no data directory of meshd", .0.display())]
    NoData(PathBuf),
    /// A daemon runs there. Ask it.
    #[error("meshd runs on {}", .0.display())]
    InUse(PathBuf),
    /// Start meshd, so that it carries out what was ordered.
    #[error("{IDS_MAX} revocations wait for the next start already")]
    Full,
    /// It cannot be read or written.
    #[error("failed to access {}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RevocationError {
    let path = path.to_owned();
    move |source| RevocationError::File { path, source }
}

fn is_id(text: &str) -> bool {
    let digits = |part: &str| {
        part.len() == ID_DIGITS && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    match text.split_once('.') {
        Some((root, block)) => digits(root) && digits(block),
        None => digits(text),
    }
}

/// Orders that a token, or what was derived from a block of one, is void from the next start on. Ordered twice it is ordered
/// once.
///
/// # Errors
/// [`RevocationError`].
pub fn order_revocation(data: &Path, id: &str) -> Result<(), RevocationError> {
    if !is_id(id) {
        return Err(RevocationError::NoId(id.to_owned()));
    }
    let lock = data.join(LOCK_FILE);
    let held = match File::open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RevocationError::NoData(data.to_owned()));
        }
        Err(error) => return Err(at(&lock)(error)),
    };
    // Held until the order is there: no daemon starts in between and misses it.
    match flock(&held, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RevocationError::InUse(data.to_owned())),
        Err(errno) => return Err(at(&lock)(errno.into())),
    }
    let mut ids = ordered_revocations(data)?;
    if ids.iter().any(|known| known == id) {
        return Ok(());
    }
    if ids.len() >= IDS_MAX {
        return Err(RevocationError::Full);
    }
    ids.push(id.to_owned());
    let path = data.join(ORDER_FILE);
    write(data, &path, &ids).map_err(at(&path))
}

/// Writes it aside and renames it: half an order is none.
fn write(data: &Path, path: &Path, ids: &[String]) -> io::Result<()> {
    let owner = fs::metadata(data)?;
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    // Whoever runs meshd has to be able to read it, also where an administrator ordered it.
    let mine = file.metadata()?;
    if (mine.uid(), mine.gid()) != (owner.uid(), owner.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    for id in ids {
        writeln!(file, "{id}")?;
    }
    file.sync_all()?;
    fs::rename(&aside, path)?;
    fsio::sync_dir(data)
}

/// The ids that were ordered to be void, in order; none when nothing was.
///
/// # Errors
/// [`RevocationError::File`]: then it must not be taken for nothing.
pub fn ordered_revocations(data: &Path) -> Result<Vec<String>, RevocationError> {
    let path = data.join(ORDER_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(&path)(error)),
    };
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(at(&path))?;
    let ids: Vec<String> = text.lines().map(str::to_owned).collect();
    if text.len() as u64 > FILE_BYTES_MAX || !ids.iter().all(|id| is_id(id)) {
        let why = "it holds something else than tokens' ids, one a line";
        return Err(at(&path)(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    Ok(ids)
}

/// Takes the order away: all of it is on record.
///
/// # Errors
/// [`RevocationError::File`].
pub fn revocations_done(data: &Path) -> Result<(), RevocationError> {
    let path = data.join(ORDER_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| fsio::sync_dir(data))
            .map_err(at(&path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    fn stopped() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("journal")).unwrap();
        fs::write(data.path().join(LOCK_FILE), "1\n").unwrap();
        data
    }

    #[test]
    fn an_order_is_kept_once_until_it_is_done() {
        let data = stopped();
        assert_eq!(
            ordered_revocations(data.path()).unwrap(),
            Vec::<String>::new()
        );
        let block = format!("{ID}.{ID}");
        for id in [ID, &block, ID] {
            order_revocation(data.path(), id).unwrap();
        }
        assert_eq!(ordered_revocations(data.path()).unwrap(), [ID, &block]);
        let mode = fs::metadata(data.path().join(ORDER_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        for _ in 0..2 {
            revocations_done(data.path()).unwrap();
        }
        assert_eq!(
            ordered_revocations(data.path()).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_no_id_and_where_nobody_waits_for_it_is_refused() {
        let data = stopped();
        let long = format!("{ID}0");
        for bad in [
            "",
            "x",
            &ID.to_uppercase(),
            &long,
            "../../etc/passwd",
            "0123456789abcdef\n",
        ] {
            let refused = order_revocation(data.path(), bad);
            assert!(matches!(refused, Err(RevocationError::NoId(_))), "{bad:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        let refused = order_revocation(empty.path(), ID);
        assert!(matches!(refused, Err(RevocationError::NoData(_))));
        let held = File::open(data.path().join(LOCK_FILE)).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let refused = order_revocation(data.path(), ID);
        assert!(matches!(refused, Err(RevocationError::InUse(_))));
        drop(held);
        fs::write(data.path().join(ORDER_FILE), "something else\n").unwrap();
        assert!(ordered_revocations(data.path()).is_err());
        assert!(order_revocation(data.path(), ID).is_err());
    }
}
