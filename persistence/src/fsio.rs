//! The few file operations that have to be done right everywhere: owner-only, synced, and named only when complete.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// How much of a file is looked at or zeroed at once.
const CHUNK: usize = 64 * 1024;

/// Makes a directory (and its parents) that only its owner may enter, durably.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    if !parent.as_os_str().is_empty() {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_dir(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Opens a file for reading and writing; creates it, for its owner only, when it is missing.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes creations and renames in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    // The parent of a bare name is the empty path.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

/// Replaces a file durably: after a crash it is the old one or the new one, never part of either.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut aside = tempfile::NamedTempFile::new_in(dir)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

/// A file's bytes; `None` when there is no such file.
pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reserves blocks for `len` zero bytes, so that writing them later cannot fail for want of space.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            // Writing is the only way to reserve on such a file system.
            zero(file, 0, len)
        }
        Err(e) => Err(e.into()),
    }
}

/// Reserves blocks up to `len` for a file that ends at `used`; what is added is zeros.
pub(crate) fn extend(file: &File, used: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => zero(file, used, len),
        done => Ok(done?),
    }
}

/// Writes zeros over a whole new file of `len` bytes, in as few calls as can be: nobody waits for the first of them.
pub(crate) fn fill(file: &File, len: u64) -> io::Result<()> {
    /// The usual size of what is filled.
    const FILL: u64 = 8 * 1024 * 1024;
    let zeros = vec![0; usize::try_from(len.min(FILL)).unwrap_or(CHUNK)];
    let mut at = 0;
    while at < len {
        let size = usize::try_from(len - at).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all_at(&zeros[..size], at)?;
        at += size as u64;
    }
    Ok(())
}

/// Overwrites a range with zeros.
pub(crate) fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
        file.write_all_at(&zeros[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// Overwrites with zeros whatever is not zero, and says whether there was any.
pub(crate) fn zero_what_is_used(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut used) = (0, false);
    while at < len {
        let size = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        file.read_exact_at(&mut buffer[..size], at)?;
        if buffer[..size].iter().any(|&byte| byte != 0) {
            zero(file, at, at + size as u64)?;
            used = true;
        }
        at += size as u64;
    }
    Ok(used)
}
