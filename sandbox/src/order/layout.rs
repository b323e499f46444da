//! What is where in a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::hostname;
use crate::launch::LaunchError;
use crate::spec::{
    BUNDLE_INSIDE, Execution, HOME_INSIDE, HomeForm, Ids, NetworkAccess, Rights, SECRETS_INSIDE,
    SYSTEM_TREES, SandboxSpec, TempAccess,
};
use crate::wire::{Access, Bind, BindKind, MemoryMount, Root};

/// Size of a private `/tmp` when no limit of memory is asked for; with one, half of that at most.
const TEMP_BYTES: u64 = 256 << 20;

/// Files in a private `/tmp`: enough to unpack a package, too few to fill the kernel's memory.
const TEMP_INODES: u64 = 20_000;

/// Size of the sandbox's own `/dev/shm`.
const SHM_BYTES: u64 = 64 << 20;

/// Files in `/dev/shm`.
const SHM_INODES: u64 = 1_000;

/// Device nodes that every program expects and that reach nothing.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// What of the host's `/etc` is shown as it is: how to find libraries, certificates and the time.
const ETC_SHOWN: [&str; 8] = [
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls",
    "/etc/pki/ca-trust",
    "/etc/alternatives",
    "/etc/localtime",
];

/// What has node do without the list of interfaces, and versions that know nothing of proxies use the one there is; where it
/// lies inside, and what loads it.
const NODE_PRELOAD: (&str, &str) = ("/etc/node-proxy.cjs", include_str!("node-proxy.cjs"));
pub(super) const NODE_OPTIONS: &str = "--require=/etc/node-proxy.cjs";

/// A file system being laid out.
#[derive(Debug, Default)]
pub(super) struct Layout {
    root: Root,
    rules: BTreeMap<PathBuf, Access>,
}

impl Layout {
    /// Lays out everything that `spec` is to see.
    pub(super) fn of(spec: &SandboxSpec) -> Result<Self, LaunchError> {
        let mut layout = Self::default();
        layout.system()?;
        layout.devices()?;
        layout.etc(spec)?;
        layout.grants(spec)?;
        layout.memory(spec);
        if !spec.secrets.is_empty() {
            layout.root.directories.push(SECRETS_INSIDE.into());
            layout.rules.insert(SECRETS_INSIDE.into(), Access::Read);
        }
        Ok(layout)
    }

    /// The host's programs and libraries, whether directories or links into `/usr`.
    fn system(&mut self) -> Result<(), LaunchError> {
        for tree in SYSTEM_TREES {
            let Ok(meta) = fs::symlink_metadata(tree) else {
                continue;
            };
            if meta.is_symlink() {
                let says = fs::read_link(tree).map_err(|source| path_error(tree, source))?;
                self.root.links.push((tree.into(), says));
            } else {
                self.bind(tree, tree, BindKind::ReadOnly, Access::ReadExecute)?;
            }
        }
        self.rules.insert("/".into(), Access::List);
        self.root.directories.push("/proc".into());
        self.rules.insert("/proc".into(), Access::Read);
        Ok(())
    }

    fn devices(&mut self) -> Result<(), LaunchError> {
        for device in DEVICES {
            self.bind(device, device, BindKind::Device, Access::Device)?;
        }
        let links = [
            ("fd", "/proc/self/fd"),
            ("stdin", "fd/0"),
            ("stdout", "fd/1"),
            ("stderr", "fd/2"),
        ];
        self.root
            .links
            .extend(links.map(|(name, says)| (Path::new("/dev").join(name), says.into())));
        Ok(())
    }

    /// An `/etc` of the sandbox's own, which tells nothing of the host's users and services.
    fn etc(&mut self, spec: &SandboxSpec) -> Result<(), LaunchError> {
        let ids = spec.ids.unwrap_or(Ids {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        });
        let host = hostname(&spec.label);
        let open = spec.network == NetworkAccess::Open;
        let resolv = if open {
            fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        } else {
            String::new()
        };
        let hosts = if open { "files dns" } else { "files" };
        let files = [
            (
                "passwd",
                format!(
                    "agent:x:{}:{}:agent:{HOME_INSIDE}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
                    ids.uid, ids.gid
                ),
            ),
            ("group", format!("agent:x:{}:\nnogroup:x:65534:\n", ids.gid)),
            (
                "hosts",
                format!("127.0.0.1 localhost {host}\n::1 localhost {host}\n"),
            ),
            ("hostname", format!("{host}\n")),
            ("resolv.conf", resolv),
            (
                "nsswitch.conf",
                format!(
                    "passwd: files\ngroup: files\nhosts: {hosts}\nservices: files\nprotocols: files\n"
                ),
            ),
        ];
        self.root.directories.push("/etc".into());
        self.root
            .files
            .extend(files.map(|(name, text)| (Path::new("/etc").join(name), text)));
        let (path, text) = NODE_PRELOAD;
        self.root.files.push((path.into(), text.to_owned()));
        self.rules.insert("/etc".into(), Access::Read);
        for path in ETC_SHOWN {
            // `/etc/localtime` and others are often links; what counts is what they lead to.
            let Ok(real) = fs::canonicalize(path) else {
                continue;
            };
            self.bind(&real, path, BindKind::ReadOnly, Access::Read)?;
        }
        Ok(())
    }

    fn grants(&mut self, spec: &SandboxSpec) -> Result<(), LaunchError> {
        let real = |path: &Path| fs::canonicalize(path).map_err(|source| path_error(path, source));
        let (kind, access) = place(spec.narrowed.home, spec.execution);
        self.bind(real(&spec.home)?, HOME_INSIDE, kind, access)?;
        if let (HomeForm::Image { .. }, Some(home)) = (&spec.home_form, self.root.binds.last_mut())
        {
            home.brought = true;
        }
        if let Some(bundle) = &spec.bundle {
            self.bind(
                real(bundle)?,
                BUNDLE_INSIDE,
                BindKind::ReadOnly,
                Access::ReadExecute,
            )?;
        }
        for path in &spec.runtime_paths {
            self.bind(real(path)?, path, BindKind::ReadOnly, Access::ReadExecute)?;
        }
        for allowed in &spec.allowed_paths {
            // Not resolved: a link in a granted path would let whoever owns it choose what is granted.
            let (kind, access) = place(spec.rights_in(allowed), spec.execution);
            self.bind(&allowed.path, spec.mounted_at(&allowed.path), kind, access)?;
            if allowed.as_owner && spec.ids.is_some() {
                self.as_owner(&allowed.path)?;
            }
        }
        for path in spec.apart() {
            self.root
                .directories
                .extend(path.parent().map(Path::to_owned));
            self.root
                .links
                .push((path.to_owned(), spec.mounted_at(path)));
        }
        Ok(())
    }

    /// Has the last bind be used as its owner.
    fn as_owner(&mut self, path: &Path) -> Result<(), LaunchError> {
        let meta = fs::symlink_metadata(path).map_err(|source| path_error(path, source))?;
        let owner = Ids {
            uid: meta.uid(),
            gid: meta.gid(),
        };
        if owner.uid == 0 || owner.gid == 0 {
            let text = "it belongs to user or group 0, for whom no agent stands; give it an owner of its own";
            return Err(path_error(path, io::Error::other(text)));
        }
        if let Some(bind) = self.root.binds.last_mut() {
            bind.owner = Some(owner);
        }
        Ok(())
    }

    fn memory(&mut self, spec: &SandboxSpec) {
        let temp = spec.narrowed.temp;
        let executable = spec.execution.is_open() && temp.execute;
        let access = if executable {
            Access::All
        } else {
            Access::Data
        };
        let half = spec.limits.memory_bytes.map_or(u64::MAX, |bytes| bytes / 2);
        if spec.temp == TempAccess::Private {
            let (bytes, target) = (TEMP_BYTES.min(half), PathBuf::from("/tmp"));
            self.rules
                .insert(target.clone(), place(temp, spec.execution).1);
            self.root.memory.push(MemoryMount {
                target,
                bytes,
                inodes: TEMP_INODES,
                executable,
            });
        } else {
            self.root.directories.push("/tmp".into());
        }
        let (bytes, target) = (SHM_BYTES.min(half), PathBuf::from("/dev/shm"));
        self.rules.insert(target.clone(), access);
        self.root.memory.push(MemoryMount {
            target,
            bytes,
            inodes: SHM_INODES,
            executable,
        });
    }

    /// Shows `source` as `target`.
    fn bind(
        &mut self,
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
        kind: BindKind,
        access: Access,
    ) -> Result<(), LaunchError> {
        let (source, target) = (source.as_ref(), target.as_ref());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(CWD, source, flags, Mode::empty(), strict)
            .and_then(fstat)
            .map_err(|errno| path_error(source, errno.into()))?;
        let identity = (file.st_dev, file.st_ino);
        self.root.binds.push(Bind {
            source: source.into(),
            target: target.into(),
            kind,
            identity,
            owner: None,
            brought: false,
        });
        let before = self.rules.entry(target.into()).or_insert(access);
        // The same path granted twice: writing wins, as it does in the mounts, where the later one is on top.
        if matches!(access, Access::All | Access::Data | Access::Granted(_)) {
            *before = access;
        }
        Ok(())
    }

    /// The Landlock rules that go with the mounts.
    pub(super) fn rules(&self) -> Vec<(PathBuf, Access)> {
        self.rules
            .iter()
            .map(|(path, access)| (path.clone(), *access))
            .collect()
    }

    /// Sorts parents first and makes a mount point for each bind that no other bind brings along.
    pub(super) fn finish(mut self) -> Root {
        // Stable: of two grants of one path the writable one comes last and lies on top.
        self.root
            .binds
            .sort_by_key(|bind| (bind.target.clone(), is_writable(bind.kind)));
        let targets: Vec<PathBuf> = self
            .root
            .binds
            .iter()
            .map(|bind| bind.target.clone())
            .collect();
        for bind in &self.root.binds {
            let covered = |other: &PathBuf| bind.target.starts_with(other) && bind.target != *other;
            if targets.iter().any(covered) {
                continue;
            }
            if fs::metadata(&bind.source).is_ok_and(|meta| meta.is_dir()) {
                self.root.directories.push(bind.target.clone());
            } else {
                self.root
                    .directories
                    .extend(bind.target.parent().map(Path::to_owned));
                self.root.files.push((bind.target.clone(), String::new()));
            }
        }
        self.root
    }
}

/// How files with these rights are mounted, and what the rule about them says.
const fn place(rights: Rights, execution: Execution) -> (BindKind, Access) {
    if !rights.changes() {
        return if rights.execute {
            (BindKind::ReadOnly, Access::ReadExecute)
        } else {
            (BindKind::ReadOnlyData, Access::Read)
        };
    }
    let execute = rights.execute && execution.is_open();
    let kind = if execute {
        BindKind::Writable
    } else {
        BindKind::Data
    };
    let access = match (rights.write && rights.delete, execute) {
        (true, true) => Access::All,
        (true, false) => Access::Data,
        (false, _) => Access::Granted(Rights { execute, ..rights }),
    };
    (kind, access)
}

const fn is_writable(kind: BindKind) -> bool {
    matches!(kind, BindKind::Writable | BindKind::Data)
}

fn path_error(path: impl AsRef<Path>, source: io::Error) -> LaunchError {
    LaunchError::Path {
        path: path.as_ref().to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_below_another_gets_no_mount_point_of_its_own() {
        let mut layout = Layout::default();
        layout
            .bind("/usr/share", "/usr/share", BindKind::ReadOnly, Access::Read)
            .unwrap();
        layout
            .bind("/usr", "/usr", BindKind::ReadOnly, Access::Read)
            .unwrap();
        let root = layout.finish();
        let targets: Vec<_> = root
            .binds
            .iter()
            .map(|bind| bind.target.to_str().unwrap())
            .collect();
        assert_eq!(targets, ["/usr", "/usr/share"]);
        assert_eq!(root.directories, [PathBuf::from("/usr")]);
    }

    #[test]
    fn a_path_through_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        let answer = Layout::default().bind(&link, &link, BindKind::ReadOnly, Access::Read);
        assert!(
            matches!(answer, Err(LaunchError::Path { .. })),
            "{answer:?}"
        );
    }
}
