//! Generations of the store: a directory each, so that a new one never meets the files of one that was given up.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::store::{ProjectionError, io_error};
use crate::fsio;

/// sled's cache. It takes several times that much memory, and what matters is in the operating system's cache anyway.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How often sled flushes by itself. Nothing depends on it.
const FLUSH_EVERY_MS: u64 = 1000;
/// Is there when the store is to be made anew, because its files may still hold what was removed from it.
const REMAKE: &str = "remake";
/// Names the generation that was closed in order.
const CLEAN: &str = "clean";
/// Where the last store that could not be trusted lies, for whoever wants to know why.
const SET_ASIDE: &str = "set-aside";

/// Says that a generation was closed in order, unless it has entries in files of their own: whether those are whole, only
/// reading them tells, and that they were there at all, only the entries' sum.
pub(super) fn mark_clean(dir: &Path, generation: u64) -> io::Result<()> {
    if has_blobs(dir, generation)? {
        return Ok(());
    }
    fsio::replace(&dir.join(CLEAN), generation.to_string().as_bytes())
}

fn generation_name(generation: u64) -> String {
    format!("generation-{generation}")
}

pub(super) fn open_sled(dir: &Path, generation: u64) -> Result<sled::Db, ProjectionError> {
    let path = dir.join(generation_name(generation));
    fsio::create_dir(&path).map_err(|e| io_error(&path, &e))?;
    let open = || {
        sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open()
    };
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        // sled panics on some damage.
        let opened = catch_unwind(AssertUnwindSafe(open))
            .map_err(|_| ProjectionError::Damaged("sled panicked".into()))?;
        match opened {
            Err(error) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL);
            }
            opened => return opened.map_err(ProjectionError::from),
        }
    }
}

/// sled's threads may hold the lock for a moment after the last handle to the store was dropped.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Whether somebody holds the lock of the file. sled says so in words only.
fn is_locked(error: &sled::Error) -> bool {
    let sled::Error::Io(error) = error else {
        return false;
    };
    error.to_string().contains("could not acquire lock")
}

/// The newest generation, and whether it was closed in order. From now on it counts as not closed.
pub(super) fn newest_generation(dir: &Path) -> io::Result<(u64, bool)> {
    let mut newest = 0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("generation-"));
        newest = newest.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
    }
    let path = dir.join(CLEAN);
    let clean = fsio::read_if_exists(&path)?;
    if clean.is_some() {
        fs::remove_file(&path)?;
        fsio::sync_dir(dir)?;
    }
    let clean = clean.is_some_and(|clean| clean == newest.to_string().as_bytes());
    Ok((newest, clean && !has_blobs(dir, newest)?))
}

/// Whether sled keeps large entries in files of their own. It does not notice when one of these is cut or gone.
fn has_blobs(dir: &Path, generation: u64) -> io::Result<bool> {
    let blobs = dir.join(generation_name(generation)).join("blobs");
    Ok(blobs.is_dir() && fs::read_dir(blobs)?.next().is_some())
}

/// Says that the next opening shall make the store anew.
pub(super) fn mark_remake(dir: &Path) -> io::Result<()> {
    fsio::replace(&dir.join(REMAKE), b"")
}

/// Removes a generation, and what was set aside, if the store is to be made anew; whether it is.
pub(super) fn removed_for_remake(dir: &Path, generation: u64) -> io::Result<bool> {
    if !dir.join(REMAKE).exists() {
        return Ok(false);
    }
    for name in [generation_name(generation), SET_ASIDE.to_owned()] {
        match fs::remove_dir_all(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::remove_file(dir.join(REMAKE))?;
    fsio::sync_dir(dir)?;
    Ok(true)
}

/// Moves a generation out of the way, replacing what was set aside before.
pub(super) fn set_aside(dir: &Path, generation: u64) -> io::Result<()> {
    let (from, to) = (dir.join(generation_name(generation)), dir.join(SET_ASIDE));
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    if from.exists() {
        fs::rename(from, to)
    } else {
        Ok(())
    }
}
