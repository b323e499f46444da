//! Secrets as files: a small file system in memory, filled, closed and shown read-only.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, openat};
use zeroize::Zeroizing;

use super::mounts::new_memory;
use crate::spec::Ids;
use crate::sys::{self, attr};

/// A page for each file is what a memory file system uses at least.
const PAGE_BYTES: u64 = 4096;

/// What is to be shown, and to whom.
pub(super) struct Secrets<'a> {
    /// Names and lengths, in the order in which they lie in `content`.
    pub(super) files: &'a [(String, u64)],
    /// A memory file.
    pub(super) content: BorrowedFd<'a>,
    /// The agent; nobody else when the sandbox has only one user anyway.
    pub(super) owner: Option<Ids>,
}

impl Secrets<'_> {
    /// A detached file system that holds them, read-only from now on.
    pub(super) fn tree(&self) -> io::Result<OwnedFd> {
        let pages = self
            .files
            .iter()
            .map(|(_, length)| length.div_ceil(PAGE_BYTES) + 1)
            .sum::<u64>();
        let tree = new_memory(
            (pages + 2) * PAGE_BYTES,
            self.files.len() as u64 + 2,
            "0700",
        )?;
        let mut content = File::from(self.content.try_clone_to_owned()?);
        for (name, length) in self.files {
            self.file(&tree, name, &mut content, *length)?;
        }
        // The mount's own descriptor is a mere path, which takes no changes.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(&tree, ".", flags, Mode::empty())?;
        fchmod(&top, Mode::from_raw_mode(0o555))?;
        drop(top);
        sys::mount_setattr(
            tree.as_fd(),
            attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
        )?;
        Ok(tree)
    }

    fn file(&self, tree: &OwnedFd, name: &str, content: &mut File, length: u64) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(openat(tree, name, flags, Mode::RUSR)?);
        let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).map_err(io::Error::other)?]);
        content.read_exact(&mut bytes)?;
        file.write_all(&bytes)?;
        if let Some(ids) = self.owner {
            fchown(
                &file,
                Some(Uid::from_raw(ids.uid)),
                Some(Gid::from_raw(ids.gid)),
            )?;
        }
        Ok(())
    }
}
