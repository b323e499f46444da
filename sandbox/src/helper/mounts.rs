//! Builds the sandbox's file system beside the host's and then puts it in the host's place.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root, umask};

use super::owners::Owners;
use super::secrets::Secrets;
use super::{At, StepError};
use crate::spec::SECRETS_INSIDE;
use crate::sys::{self, attr};
use crate::wire::{Bind, BindKind, MemoryMount, Root, Stage};

/// Host directories over which the new root is built; what they hold stays reachable through descriptors.
const STAGING: [&str; 4] = ["/tmp", "/run", "/mnt", "/dev"];

/// The root holds only directories, links and a few small files.
const ROOT: (u64, u64) = (1 << 20, 4096);

/// Trees of `/proc` that change or reveal the host and have a use for readers.
const PROC_READ_ONLY: [&str; 3] = ["sys", "irq", "sysrq-trigger"];

/// Files of `/proc` that tell of the host and have no use for an agent.
const PROC_MASKED: [&str; 10] = [
    "keys",
    "key-users",
    "kcore",
    "kmsg",
    "kallsyms",
    "timer_list",
    "sched_debug",
    "latency_stats",
    "kpageflags",
    "kpagecount",
];

/// Directories of `/proc` that tell of the host's hardware and file systems.
const PROC_EMPTIED: [&str; 5] = ["acpi", "scsi", "asound", "bus", "fs"];

/// Builds `root` and makes it the root of this mount namespace.
pub(super) fn build(
    root: &Root,
    secrets: Option<&Secrets<'_>>,
    home: Option<&OwnedFd>,
    owners: &Owners,
) -> Result<(), StepError> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .at(Stage::Mounts, "private mounts")?;
    // Everything of the host is opened before anything covers it.
    let binds = root
        .binds
        .iter()
        .map(|bind| match (bind.brought, home) {
            (true, home) => brought(bind, home),
            (false, _) => detach(bind, owners),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let null = null_device().at(Stage::Mounts, "/dev/null")?;
    let mask = umask(Mode::WGRP | Mode::WOTH);
    let stage = Staging::new()?;
    // First, so that directories for grants below `/tmp` are made in it and not covered by it.
    for memory in &root.memory {
        let shown = memory.target.display().to_string();
        fs::create_dir_all(stage.inside(&memory.target)).at(Stage::Mounts, &*shown)?;
        stage.memory(memory).at(Stage::Mounts, shown)?;
    }
    for path in &root.directories {
        fs::create_dir_all(stage.inside(path)).at(Stage::Mounts, path.display().to_string())?;
    }
    for (path, content) in &root.files {
        fs::write(stage.inside(path), content).at(Stage::Mounts, path.display().to_string())?;
    }
    for (path, says) in &root.links {
        symlink(says, stage.inside(path)).at(Stage::Mounts, path.display().to_string())?;
    }
    for (bind, tree) in root.binds.iter().zip(&binds) {
        stage
            .attach(tree, &bind.target)
            .at(Stage::Mounts, bind.target.display().to_string())?;
    }
    if let Some(secrets) = secrets {
        let tree = secrets.tree().at(Stage::Mounts, SECRETS_INSIDE)?;
        stage
            .attach(&tree, Path::new(SECRETS_INSIDE))
            .at(Stage::Mounts, SECRETS_INSIDE)?;
    }
    stage.proc(&null).at(Stage::Mounts, "/proc")?;
    stage.enter().at(Stage::Mounts, "pivot_root")?;
    umask(mask);
    Ok(())
}

/// Shows `path` with another user in its owner's place, in a mount that is nowhere and ends here.
pub(super) fn try_owner(path: &Path, owners: BorrowedFd<'_>) -> io::Result<()> {
    let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), strict)?;
    let tree = clone_mount(file.as_fd(), attr::NOSUID | attr::NODEV)?;
    sys::mount_owners(tree.as_fd(), owners)
}

/// The mount that came along for `bind`.
fn brought(bind: &Bind, mount: Option<&OwnedFd>) -> Result<OwnedFd, StepError> {
    let attempt = || -> io::Result<OwnedFd> {
        let missing = || io::Error::other("its mount did not come along");
        let mount = mount.ok_or_else(missing)?.try_clone()?;
        sys::mount_setattr(mount.as_fd(), attributes(bind.kind))?;
        Ok(mount)
    };
    attempt().at(Stage::Mounts, bind.source.display().to_string())
}

const fn attributes(kind: BindKind) -> u64 {
    match kind {
        BindKind::ReadOnly => attr::RDONLY | attr::NOSUID | attr::NODEV,
        BindKind::ReadOnlyData => attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
        BindKind::Writable => attr::NOSUID | attr::NODEV,
        BindKind::Data => attr::NOSUID | attr::NODEV | attr::NOEXEC,
        BindKind::Device => attr::NOSUID | attr::NOEXEC,
    }
}

/// Opens what `bind` names, makes sure it is what the launcher saw, and detaches a mount of it.
fn detach(bind: &Bind, owners: &Owners) -> Result<OwnedFd, StepError> {
    let attempt = || -> io::Result<OwnedFd> {
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(CWD, &bind.source, flags, Mode::empty(), strict)?;
        let seen = fstat(&file)?;
        if (seen.st_dev, seen.st_ino) != bind.identity {
            return Err(io::Error::other(
                "it was exchanged while the sandbox started",
            ));
        }
        let tree = clone_mount(file.as_fd(), attributes(bind.kind))?;
        if let Some(owner) = bind.owner {
            if (seen.st_uid, seen.st_gid) != (owner.uid, owner.gid) {
                return Err(io::Error::other(
                    "its owner changed while the sandbox started",
                ));
            }
            sys::mount_owners(tree.as_fd(), owners.map(owner)?).map_err(|error| {
                let text = format!(
                    "no agent can stand for its owner there, as its file system or this kernel does not do that: {error}"
                );
                io::Error::other(text)
            })?;
        }
        Ok(tree)
    };
    attempt().at(Stage::Mounts, bind.source.display().to_string())
}

fn clone_mount(file: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(file, c"", flags)?;
    sys::mount_setattr(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// The real null device, by its number and not by its name.
fn null_device() -> io::Result<OwnedFd> {
    let file = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if fstat(&file)?.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(io::Error::other("not the null device"));
    }
    Ok(file)
}

/// A new root under construction.
struct Staging {
    path: PathBuf,
    root: OwnedFd,
}

impl Staging {
    fn new() -> Result<Self, StepError> {
        let tree = new_memory(ROOT.0, ROOT.1, "0755").at(Stage::Mounts, "tmpfs for the root")?;
        let real = |path: &&&str| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        let none = || io::Error::other("none of /tmp, /run, /mnt, /dev is a directory");
        let path = STAGING
            .iter()
            .find(real)
            .ok_or_else(none)
            .at(Stage::Mounts, "the root")?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, c"", CWD, *path, flags).at(Stage::Mounts, *path)?;
        Ok(Self {
            path: path.into(),
            root: tree,
        })
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Mounts a detached tree; no part of `target` may be a link, whoever made it.
    fn attach(&self, tree: &OwnedFd, target: &Path) -> io::Result<()> {
        let target = target.strip_prefix("/").map_err(io::Error::other)?;
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let at = openat2(
            &self.root,
            target,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            strict,
        )?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, c"", &at, c"", flags)?;
        Ok(())
    }

    fn memory(&self, memory: &MemoryMount) -> io::Result<()> {
        let tree = new_memory(memory.bytes, memory.inodes, "1777")?;
        if !memory.executable {
            sys::mount_setattr(tree.as_fd(), attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
        }
        self.attach(&tree, &memory.target)
    }

    /// A fresh `/proc` that shows only the sandbox's processes and hides the host's knobs.
    fn proc(&self, null: &OwnedFd) -> io::Result<()> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "hidepid", "2")?;
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        self.attach(&proc, Path::new("/proc"))?;
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let open = |name: &str| {
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(&self.root, format!("proc/{name}"), flags, Mode::empty())
        };
        for name in PROC_READ_ONLY {
            match open(name) {
                Ok(file) => {
                    self.attach(
                        &clone_mount(file.as_fd(), all)?,
                        &Path::new("/proc").join(name),
                    )?;
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // What cannot be looked at may be there for whoever runs inside.
        let present = |names: &'static [&'static str]| -> io::Result<Vec<&'static str>> {
            let mut found = Vec::new();
            for name in names {
                match open(name) {
                    Ok(_) => found.push(*name),
                    Err(rustix::io::Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Ok(found)
        };
        for name in present(&PROC_MASKED)? {
            self.attach(
                &clone_mount(null.as_fd(), all)?,
                &Path::new("/proc").join(name),
            )?;
        }
        // One empty directory, shown in several places: a file system of its own for each would cost more.
        let mut first = None;
        for name in present(&PROC_EMPTIED)? {
            let empty = if let Some(first) = first {
                clone_mount(open(first)?.as_fd(), all)?
            } else {
                let empty = new_memory(4096, 2, "0555")?;
                sys::mount_setattr(empty.as_fd(), all)?;
                empty
            };
            self.attach(&empty, &Path::new("/proc").join(name))?;
            first.get_or_insert(name);
        }
        Ok(())
    }

    /// Takes the host's place and leaves nothing of it behind.
    fn enter(self) -> io::Result<()> {
        chdir(&self.path)?;
        // Stacked on the same directory, the old root is on top and can be let go without a path to it.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        chdir("/")?;
        let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = open_tree(CWD, "/", flags)?;
        sys::mount_setattr_one(
            root.as_fd(),
            attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
        )
    }
}

/// A new, detached file system in memory.
pub(super) fn new_memory(bytes: u64, inodes: u64, mode: &str) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("size", bytes.to_string()),
        ("nr_inodes", inodes.to_string()),
    ] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_set_string(context.as_fd(), "mode", mode)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}
