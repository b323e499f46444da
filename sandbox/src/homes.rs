//! An agent's home as meshd looks after it: how much lies in it, and its removal. What lies there was made by a program
//! that nobody trusts: links lead anywhere, directories are nested beyond any path, files claim sizes they do not have.
//! Nothing here follows a link, leaves the file system of the home, or believes a size.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use serde::{Deserialize, Serialize};

/// Directories within directories that are looked into; each holds a descriptor open. No program nests deeper by need.
const DEPTH_MAX: usize = 128;

/// Entries that are looked at. More than the largest trees of packages have.
const ENTRIES_MAX: u64 = 2_000_000;

/// The kernel counts blocks of this size, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;

/// What is counted for an entry beside its blocks: the inode as ext4 makes it unless told otherwise. Empty files fill a disk, too.
const INODE_BYTES: u64 = 256;

/// What lies in a home.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HomeUsage {
    /// Bytes on the disk: what is allocated, not what files claim, and 256 for each file, directory and link. One with
    /// several names counts once.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Whether there is more than was looked at: nested too deeply, too many, or closed to meshd, where it is not root.
    pub more: bool,
}

/// Adds up what a home holds. Changes nothing; an entry that vanishes meanwhile is not counted.
///
/// # Errors
/// When the home itself cannot be read.
pub fn home_usage(home: &Path) -> io::Result<HomeUsage> {
    let top = match open_dir(CWD, home) {
        Err(error) if is_closed(&error) => {
            return Ok(HomeUsage {
                more: true,
                ..HomeUsage::default()
            });
        }
        top => top?,
    };
    let device = fstat(&top)?.st_dev;
    let mut usage = HomeUsage::default();
    let mut linked = BTreeSet::new();
    let mut open = vec![(Dir::read_from(&top)?, top)];
    while let Some((entries, dir)) = open.last_mut() {
        let Some(Ok(entry)) = entries.next() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let meta = match statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(meta) => meta,
            // Closed, or vanished.
            Err(errno) => {
                usage.more |= is_closed(&errno.into());
                continue;
            }
        };
        usage.entries += 1;
        if usage.entries > ENTRIES_MAX {
            usage.more = true;
            break;
        }
        let kind = FileType::from_raw_mode(meta.st_mode);
        if meta.st_dev != device {
            continue;
        }
        let counted = kind.is_dir() || meta.st_nlink <= 1 || linked.insert(meta.st_ino);
        if counted {
            usage.bytes += u64::try_from(meta.st_blocks).unwrap_or(0) * BLOCK_BYTES + INODE_BYTES;
        }
        if !kind.is_dir() {
            continue;
        }
        if open.len() >= DEPTH_MAX {
            usage.more = true;
            continue;
        }
        let (_, dir) = open.last().ok_or(io::ErrorKind::NotFound)?;
        // One that has vanished cannot be looked into, nor one that is closed even to meshd.
        match open_dir(dir, name).and_then(|below| Ok((Dir::read_from(&below)?, below))) {
            Ok(opened) => open.push(opened),
            Err(error) => usage.more |= is_closed(&error),
        }
    }
    Ok(usage)
}

/// Whether it is a matter of rights: whoever runs there can close directories to meshd when both have one user.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Removes a home with all that is in it, however deeply it is nested: what lies below a directory is moved up before
/// the directory goes, so two descriptors are enough and no path grows. Nobody may be writing there any more.
///
/// # Errors
/// The first that the kernel gives; what is gone until then stays gone. A home that is not there is no error.
pub fn remove_home(home: &Path) -> io::Result<()> {
    /// Where directories wait for their turn; no entry of the agent's can be in the way, as it is new.
    const WAITING: &str = ".meshd-removing";
    match fs::symlink_metadata(home) {
        Ok(meta) if meta.is_dir() => {}
        // A link, or a file: it goes as what it is.
        Ok(_) => return fs::remove_file(home),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // An agent may have closed its own home to its owner.
    rustix::fs::chmodat(CWD, home, Mode::RWXU, AtFlags::empty()).ok();
    let top = open_dir(CWD, home)?;
    let mut waiting_name = WAITING.to_owned();
    while let Err(errno) = mkdirat(&top, &waiting_name, Mode::RWXU) {
        if errno != rustix::io::Errno::EXIST || waiting_name.len() > 200 {
            return Err(errno.into());
        }
        waiting_name.push('_');
    }
    let waiting = open_dir(&top, waiting_name.as_str())?;
    let mut left = VecDeque::new();
    let mut next = 0_u64;
    empty(&top, &waiting, Some(&waiting_name), &mut left, &mut next)?;
    while let Some(name) = left.pop_front() {
        // An agent may have closed its own directories to their owner.
        rustix::fs::chmodat(&waiting, &name, Mode::RWXU, AtFlags::empty()).ok();
        let dir = open_dir(&waiting, name.as_str())?;
        empty(&dir, &waiting, None, &mut left, &mut next)?;
        unlinkat(&waiting, &name, AtFlags::REMOVEDIR)?;
    }
    unlinkat(&top, &waiting_name, AtFlags::REMOVEDIR)?;
    fs::remove_dir(home)
}

/// Removes the files of a directory and moves its directories to `waiting`.
fn empty(
    dir: &OwnedFd,
    waiting: &OwnedFd,
    except: Option<&str>,
    left: &mut VecDeque<String>,
    next: &mut u64,
) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let own = except.is_some_and(|own| name.to_bytes() == own.as_bytes());
        if name == c"." || name == c".." || own {
            continue;
        }
        let kind = FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        if !kind.is_dir() {
            unlinkat(dir, name, AtFlags::empty())?;
            continue;
        }
        // To move a directory changes its `..`, which needs the right to write in it.
        rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty()).ok();
        let number = next.to_string();
        renameat(dir, name, waiting, &number)?;
        left.push_back(number);
        *next += 1;
    }
    Ok(())
}

fn open_dir(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nest(home: &Path, levels: usize) {
        // By descriptors, as no path is long enough.
        let mut at = open_dir(CWD, home).unwrap();
        for _ in 0..levels {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_dir(&at, "d").unwrap();
        }
    }

    #[test]
    fn a_home_that_was_closed_to_its_owner_goes_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("a/b")).unwrap();
        fs::write(home.join("a/b/c"), "x").unwrap();
        for closed in ["a/b", "a", ""] {
            fs::set_permissions(home.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_home(&home).unwrap();
        assert!(!home.exists());
    }

    /// res-13.
    #[test]
    fn what_is_allocated_counts_and_not_what_files_claim() {
        let dir = tempfile::tempdir().unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        fs::write(dir.path().join("real"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.path().join("real"), dir.path().join("again")).unwrap();
        sparse.sync_all().unwrap();
        let usage = home_usage(dir.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
        assert_eq!((usage.entries, usage.more), (3, false));
    }

    #[test]
    fn empty_files_count_as_what_they_take_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1000 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let usage = home_usage(dir.path()).unwrap();
        assert!(usage.bytes >= 1000 * INODE_BYTES, "{usage:?}");
    }

    /// res-15.
    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), vec![1; 1 << 20]).unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("a/b")).unwrap();
        for (name, to) in [
            ("loop", Path::new(".")),
            ("root", Path::new("/")),
            ("out", outside.path()),
        ] {
            std::os::unix::fs::symlink(to, home.join(name)).unwrap();
        }
        let usage = home_usage(&home).unwrap();
        assert_eq!(usage.entries, 5);
        assert!(usage.bytes < 1 << 20, "{usage:?}");
        remove_home(&home).unwrap();
        assert!(!home.exists() && outside.path().join("kept").exists());
        assert!(Path::new("/usr").exists());
    }

    /// res-14.
    #[test]
    fn what_is_nested_beyond_any_path_is_noticed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        nest(&home, 6_000);
        fs::create_dir(home.join(".meshd-removing")).unwrap();
        assert!(home_usage(&home).unwrap().more);
        remove_home(&home).unwrap();
        assert!(!home.exists());
        remove_home(&home).unwrap();
    }

    #[test]
    fn directories_that_are_closed_to_their_owner_are_removed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("closed/below/more")).unwrap();
        for name in ["closed/below", "closed"] {
            fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_home(&home).unwrap();
        assert!(!home.exists());
    }
}
