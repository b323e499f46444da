//! Small files that are there as a whole or as they were before.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces a file by one that only its owner may read; durable when it returns.
///
/// # Errors
/// The file is as it was, or its directory could not be synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut aside = tempfile::NamedTempFile::new_in(dir)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|refused| refused.error)?;
    File::open(dir)?.sync_all()
}
