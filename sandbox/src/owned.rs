//! Whether files of a user lie somewhere. What lies there was made by programs that nobody trusts, so nothing here follows a
//! link or believes a path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// Directories within directories that are looked into; each holds a descriptor open.
const DEPTH_MAX: usize = 128;

/// Entries that are looked at: some seconds' worth.
const ENTRIES_MAX: u64 = 1_000_000;

/// Whether `top`, or anything below it, belongs to this user or to the group of the same number. So it does when that cannot
/// be ruled out: nested too deeply, too many entries, or a link. A path that is not there holds nothing.
///
/// # Errors
/// When something there cannot be looked at.
pub fn owned_below(top: &Path, user: u32) -> io::Result<bool> {
    let meta = match statat(CWD, top, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(meta) => meta,
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    let kind = FileType::from_raw_mode(meta.st_mode);
    if meta.st_uid == user || meta.st_gid == user || kind.is_symlink() {
        return Ok(true);
    }
    if !kind.is_dir() {
        return Ok(false);
    }
    let dir = open_dir(CWD, top)?;
    let mut open = vec![(Dir::read_from(&dir)?, dir)];
    let mut seen = 0_u64;
    while let Some((entries, dir)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        seen += 1;
        let meta = match statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(meta) => meta,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if meta.st_uid == user || meta.st_gid == user || seen > ENTRIES_MAX {
            return Ok(true);
        }
        if !FileType::from_raw_mode(meta.st_mode).is_dir() {
            continue;
        }
        if open.len() >= DEPTH_MAX {
            return Ok(true);
        }
        let (_, dir) = open.last().ok_or(io::ErrorKind::NotFound)?;
        let below = open_dir(dir, name)?;
        open.push((Dir::read_from(&below)?, below));
    }
    Ok(false)
}

fn open_dir(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_cannot_be_ruled_out_counts() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        let me = fs::metadata(&top).unwrap().uid();
        let nobody = 61_079;
        assert!(owned_below(&top, me).unwrap());
        assert!(!owned_below(&top, nobody).unwrap());
        assert!(!owned_below(&top.join("absent"), me).unwrap());
        // A link leads nowhere, and as the path itself it says that something was exchanged.
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        assert!(!owned_below(&top, nobody).unwrap());
        assert!(owned_below(&top.join("link"), nobody).unwrap());
        fs::create_dir_all(top.join("d/".repeat(DEPTH_MAX + 1))).unwrap();
        assert!(owned_below(&top, nobody).unwrap());
        if me == 0 {
            let file = top.join("a/b/file");
            fs::remove_dir_all(top.join("d")).unwrap();
            std::os::unix::fs::chown(&file, Some(nobody), None).unwrap();
            assert!(owned_below(&top, nobody).unwrap());
        }
    }
}
