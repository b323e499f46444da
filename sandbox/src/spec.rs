//! What one sandbox is asked to be. Pure data with one check; nothing here touches the machine.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Where the agent's bundle appears inside the sandbox, read-only.
pub const BUNDLE_INSIDE: &str = "/agent";

/// Where the agent's home appears inside the sandbox; `HOME` points here.
pub const HOME_INSIDE: &str = "/home/agent";

/// Where the agent's secrets appear inside the sandbox, a read-only file each.
pub const SECRETS_INSIDE: &str = "/run/secrets";

/// Port of the sandbox's own loopback on which the proxy listens; where proxies usually do.
pub const PROXY_PORT: u16 = 3128;

/// Where granted paths are mounted that cannot lie in the private `/tmp` that they are named in.
const GRANTED_INSIDE: &str = "/run/granted";

/// All secrets of one sandbox together. They lie in memory, and keys are small.
pub const SECRETS_BYTES_MAX: usize = 4 << 20;

/// Longest name of a run or an instance. They become file names, and a file name holds 255 bytes.
const NAME_MAX: usize = 100;

/// Trees that the sandbox lays out itself, so no grant may replace, hold or reach into them.
const OWN_TREES: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/run",
    "/boot",
    "/agent",
    "/home/agent",
];

/// Trees of the system that every sandbox sees read-only; a grant inside them may only be read-only.
pub(crate) const SYSTEM_TREES: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];

/// Everything that one sandboxed process is to get. What is not named here, it does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SandboxSpec {
    /// The agent's id, for logs and as the host name inside. Not trusted as a file name.
    pub label: String,
    /// Which run of meshd this belongs to; a later run's sweep ends what an earlier one left.
    pub run_id: String,
    /// Unique among the living sandboxes of the run, e.g. `echo-0-7`. Lower-case letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// What to execute.
    pub program: Program,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The exact environment; nothing is inherited. `HOME`, `PATH` and `TMPDIR` are added unless given.
    pub env: BTreeMap<String, String>,
    /// Working directory inside; [`HOME_INSIDE`] by default.
    pub workdir: Option<PathBuf>,
    /// The agent's bundle on the host, shown read-only as [`BUNDLE_INSIDE`]. Its modes must let the
    /// agent's user read it.
    pub bundle: Option<PathBuf>,
    /// The agent's home on the host, shown writable as [`HOME_INSIDE`]. Created when missing.
    pub home: PathBuf,
    /// What the home is made of.
    #[serde(default)]
    pub home_form: HomeForm,
    /// Directory of meshd's own state. No grant may hold it or reach into it.
    pub state: PathBuf,
    /// Host paths that the agent may use, shown under the same path.
    pub allowed_paths: Vec<AllowedPath>,
    /// Read-only trees that the program needs to run, e.g. from [`crate::interpreter_paths`].
    pub runtime_paths: Vec<PathBuf>,
    /// Whether it gets a private `/tmp`.
    pub temp: TempAccess,
    /// What it may execute.
    pub execution: Execution,
    /// What of its files it may not do, although it sees them.
    #[serde(default)]
    pub narrowed: Narrowed,
    /// Whether it reaches a network.
    pub network: NetworkAccess,
    /// Files that only this sandbox sees, in memory. Never part of what is written out.
    #[serde(skip)]
    pub secrets: Vec<SecretFile>,
    /// Its limits.
    pub limits: Limits,
    /// The unprivileged user to run as. Required when meshd is root, and only usable then.
    pub ids: Option<Ids>,
}

/// What a home is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeForm {
    /// The directory itself, which the kernel bounds by no sum.
    Directory {
        /// Why it is one although an image was asked for; empty when none was.
        note: String,
    },
    /// A file system of its own in a file, made when it is missing, as large as the limit of disk. The directory stays empty and
    /// says whose the home is. Needs root, a user of its own and a limit of disk.
    Image {
        /// The file. No agent may ever reach it.
        path: PathBuf,
    },
}

impl Default for HomeForm {
    fn default() -> Self {
        Self::Directory {
            note: String::new(),
        }
    }
}

/// What is executed inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Program {
    /// An absolute path as seen inside the sandbox.
    Path(PathBuf),
    /// The image that [`crate::Launcher`] was started with: meshd itself, running one of its built-in agents.
    Image,
}

/// A host path that the agent may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedPath {
    /// Absolute and without symbolic links.
    pub path: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Whether the agent's user stands for the owner of the path, in it and below: what is the owner's it may use as the
    /// owner may, and what it makes there is the owner's. Needs root, and a path whose owner and group are not 0.
    #[serde(default)]
    pub as_owner: bool,
    /// What the report has to say about it, such as that the agent's user cannot use it.
    #[serde(default)]
    pub note: String,
}

/// What may be done with files that are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rights {
    /// Changing and creating them.
    pub write: bool,
    /// Executing them, where [`Execution`] lets it.
    pub execute: bool,
    /// Removing them, and moving them away.
    pub delete: bool,
}

impl Rights {
    /// All of them.
    pub const ALL: Self = Self {
        write: true,
        execute: true,
        delete: true,
    };

    /// Whether the place has to be mounted writable.
    #[must_use]
    pub const fn changes(self) -> bool {
        self.write || self.delete
    }

    /// Whether `other` holds a change that these do not: of these alone only Landlock knows.
    const fn widened_by(self, other: Self) -> bool {
        (other.write && !self.write) || (other.delete && !self.delete)
    }
}

impl Default for Rights {
    fn default() -> Self {
        Self::ALL
    }
}

/// What is left of the rights on files; everything unless it is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Narrowed {
    /// In its home.
    #[serde(default)]
    pub home: Rights,
    /// In a private `/tmp`; of `/dev/shm`, which holds what its processes share, only whether it executes.
    #[serde(default)]
    pub temp: Rights,
    /// In allowed paths, by their path.
    #[serde(default)]
    pub paths: BTreeMap<PathBuf, Rights>,
}

/// Whether the agent may use temporary files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TempAccess {
    /// An own `/tmp` in memory that vanishes with the sandbox.
    Private,
    /// No `/tmp` to write to.
    None,
}

/// What the agent may execute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Execution {
    /// Whatever it may read, also what it wrote itself.
    #[default]
    Anything,
    /// Only what was put there for it: the system, its bundle, what it is shown read-only. Nothing that it can write.
    Installed,
    /// The same, because nothing else was granted to it; what of its controls may degrade is another matter.
    Withheld,
}

impl Execution {
    /// Whether it may execute what it can write.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Anything)
    }
}

/// Whether the agent reaches a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkAccess {
    /// Only its own loopback.
    None,
    /// Only its own loopback, on which one listener is the launcher's: [`crate::Child::listener`].
    Proxy,
    /// The host's network, unfiltered, because the operator granted it.
    Open,
}

/// A secret as a file. Wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The file's name below [`SECRETS_INSIDE`].
    pub name: String,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Upper bounds; `None` asks for no bound of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millicores: Option<u32>,
    /// Memory of all its processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads together.
    pub pids: Option<u32>,
    /// Open descriptors of one process.
    pub nofile: Option<u32>,
    /// Bytes on disk.
    pub disk_bytes: Option<u64>,
    /// Bytes a second read from disks, and as many written.
    #[serde(default)]
    pub io_bytes_per_second: Option<u64>,
}

/// An unprivileged user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ids {
    /// User id; never 0.
    pub uid: u32,
    /// Group id; never 0.
    pub gid: u32,
}

/// Why a specification is not acceptable on any machine. Correct it; retrying is useless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A name that could not be a file name of ours.
    #[error(
        "{field}: `{value}` must be 1 to {NAME_MAX} of a-z, 0-9, `-`, `_`, `.`, not starting with `.`"
    )]
    Name {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: String,
    },
    /// A path that is not absolute, not plain, or not text.
    #[error("{field}: `{}` must be an absolute path without `.`, `..` or NUL, in UTF-8", path.display())]
    Path {
        /// Which field.
        field: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A path that would open what the sandbox closes.
    #[error("{field}: `{}` cannot be granted: {why}", path.display())]
    Forbidden {
        /// Which field.
        field: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// An argument or variable that `execve` cannot carry.
    #[error("{field}: must not hold a NUL byte, nor a variable's name an `=` or nothing")]
    Text {
        /// Which field.
        field: &'static str,
    },
    /// A secret that cannot be a file.
    #[error("secrets: {name:?}: {why}")]
    Secret {
        /// Which.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// User or group 0.
    #[error("ids: user and group 0 are never given to an agent")]
    Root,
    /// A limit under which nothing can start.
    #[error("limits.{field}: {value} is too small, at least {least} is needed")]
    Limit {
        /// Which limit.
        field: &'static str,
        /// What it was.
        value: u64,
        /// The least accepted.
        least: u64,
    },
}

impl SandboxSpec {
    /// Checks everything that can be judged without looking at the machine.
    ///
    /// # Errors
    /// The first [`SpecError`] found, naming the field.
    pub fn check(&self) -> Result<(), SpecError> {
        name("name", &self.name)?;
        name("runId", &self.run_id)?;
        self.check_paths()?;
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return Err(SpecError::Text { field: "args" });
        }
        let bad = |(key, value): (&String, &String)| {
            key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')
        };
        if self.env.iter().any(bad) {
            return Err(SpecError::Text { field: "env" });
        }
        if self.ids.is_some_and(|ids| ids.uid == 0 || ids.gid == 0) {
            return Err(SpecError::Root);
        }
        self.check_secrets()?;
        self.limits.check()
    }

    fn check_secrets(&self) -> Result<(), SpecError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let mut total = 0_usize;
        for (index, secret) in self.secrets.iter().enumerate() {
            let name = &secret.name;
            let wrong = |why| SpecError::Secret {
                name: name.clone(),
                why,
            };
            if name.is_empty()
                || name.len() > NAME_MAX
                || name.starts_with('.')
                || !name.bytes().all(legal)
            {
                return Err(wrong("no name for a file of A-Z a-z 0-9 - _ ."));
            }
            if self.secrets[..index]
                .iter()
                .any(|other| other.name == *name)
            {
                return Err(wrong("given twice"));
            }
            total = total.saturating_add(secret.content.len());
            if total > SECRETS_BYTES_MAX {
                return Err(wrong("all secrets together are too large"));
            }
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), SpecError> {
        plain("home", &self.home)?;
        plain("state", &self.state)?;
        if let Program::Path(path) = &self.program {
            plain("program", path)?;
        }
        for (field, path) in [("bundle", &self.bundle), ("workdir", &self.workdir)] {
            path.as_deref().map_or(Ok(()), |path| plain(field, path))?;
        }
        for path in &self.runtime_paths {
            grantable("runtimePaths", path)?;
            self.outside_state("runtimePaths", path)?;
        }
        for allowed in &self.allowed_paths {
            grantable("allowedPaths", &allowed.path)?;
            self.outside_state("allowedPaths", &allowed.path)?;
            let system = SYSTEM_TREES
                .iter()
                .any(|tree| allowed.path.starts_with(tree));
            if system && !allowed.read_only {
                let why = "it belongs to the system and is only ever read-only";
                return Err(forbidden("allowedPaths", &allowed.path, why));
            }
            if self.temp_widens(allowed) && !self.stands_alone(&allowed.path) {
                let why = "it would have the rights of the private /tmp, or of the granted path below /tmp that it lies in; leave it \
                           as many, or tempFileAccess out";
                return Err(forbidden("allowedPaths", &allowed.path, why));
            }
            if self.holder_widens(allowed) {
                let why = "it lies in a granted path that has more rights, which would reach it, too; give both the same rights, or \
                           make this one readOnly";
                return Err(forbidden("allowedPaths", &allowed.path, why));
            }
        }
        Ok(())
    }

    /// Where a granted path is mounted. One below a private `/tmp` that may do less than that lies elsewhere, and a link in
    /// `/tmp` leads there: rules add up along the path that a file lies at, and this one does not lead through `/tmp`.
    pub(crate) fn mounted_at(&self, path: &Path) -> PathBuf {
        let apart = self.apart().any(|apart| path.starts_with(apart));
        match path.strip_prefix("/") {
            Ok(below) if apart => Path::new(GRANTED_INSIDE).join(below),
            _ => path.to_owned(),
        }
    }

    /// The granted paths that lie elsewhere than they are named, without those within them.
    pub(crate) fn apart(&self) -> impl Iterator<Item = &Path> {
        let narrower = self.allowed_paths.iter().filter(|it| self.temp_widens(it));
        narrower
            .map(|it| it.path.as_path())
            .filter(|path| self.stands_alone(path))
    }

    /// Whether a path below `/tmp` lies in no other granted one.
    fn stands_alone(&self, path: &Path) -> bool {
        let within = |other: &AllowedPath| path != other.path && path.starts_with(&other.path);
        path != Path::new("/tmp") && !self.allowed_paths.iter().any(within)
    }

    /// Whether the rights in a private `/tmp` reach a grant below it that has fewer: Landlock adds them up along a path, and
    /// mounts only tell apart what is writable and executable.
    fn temp_widens(&self, allowed: &AllowedPath) -> bool {
        let rights = self.rights_in(allowed);
        self.temp == TempAccess::Private
            && allowed.path.starts_with("/tmp")
            && rights.changes()
            && rights.widened_by(self.narrowed.temp)
    }

    /// Whether the rights in another granted path reach this one within it, which has fewer, in the same way.
    fn holder_widens(&self, allowed: &AllowedPath) -> bool {
        let rights = self.rights_in(allowed);
        let widens = |other: &AllowedPath| {
            allowed.path != other.path
                && allowed.path.starts_with(&other.path)
                && rights.widened_by(self.rights_in(other))
        };
        rights.changes() && self.allowed_paths.iter().any(widens)
    }

    /// What may be done in a granted path.
    pub(crate) fn rights_in(&self, allowed: &AllowedPath) -> Rights {
        let rights = self.narrowed.paths.get(&allowed.path).copied();
        let rights = rights.unwrap_or_default();
        let kept = !allowed.read_only;
        Rights {
            write: rights.write && kept,
            delete: rights.delete && kept,
            ..rights
        }
    }

    fn outside_state(&self, field: &'static str, path: &Path) -> Result<(), SpecError> {
        if path.starts_with(&self.state) || self.state.starts_with(path) {
            return Err(forbidden(field, path, "meshd's own state lies there"));
        }
        Ok(())
    }
}

impl Limits {
    fn check(&self) -> Result<(), SpecError> {
        // Below these the helper itself or the loader of any program fails.
        let bounds = [
            ("cpuMillicores", self.cpu_millicores.map(u64::from), 10),
            ("memoryBytes", self.memory_bytes, 4 << 20),
            ("pids", self.pids.map(u64::from), 4),
            ("nofile", self.nofile.map(u64::from), 16),
            ("diskBytes", self.disk_bytes, 4096),
            ("ioBytesPerSecond", self.io_bytes_per_second, 4096),
        ];
        for (field, value, least) in bounds {
            if let Some(value) = value.filter(|value| *value < least) {
                return Err(SpecError::Limit {
                    field,
                    value,
                    least,
                });
            }
        }
        Ok(())
    }
}

fn forbidden(field: &'static str, path: &Path, why: &'static str) -> SpecError {
    SpecError::Forbidden {
        field,
        path: path.to_owned(),
        why,
    }
}

fn name(field: &'static str, value: &str) -> Result<(), SpecError> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if value.is_empty()
        || value.len() > NAME_MAX
        || value.starts_with('.')
        || !value.chars().all(legal)
    {
        return Err(SpecError::Name {
            field,
            value: value.to_owned(),
        });
    }
    Ok(())
}

fn plain(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let text = path.to_str().is_some_and(|text| {
        // `components` hides a `.` in the middle and a doubled slash; comparing the text does not.
        !text.contains('\0') && !text.split('/').any(|part| part == "." || part == "..")
    });
    let normal = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if text && path.is_absolute() && path.components().all(normal) {
        return Ok(());
    }
    Err(SpecError::Path {
        field,
        path: path.to_owned(),
    })
}

fn grantable(field: &'static str, path: &Path) -> Result<(), SpecError> {
    plain(field, path)?;
    if path == Path::new("/") {
        return Err(forbidden(field, path, "it is the whole file system"));
    }
    for tree in OWN_TREES {
        if path.starts_with(tree) || Path::new(tree).starts_with(path) {
            return Err(forbidden(field, path, "the sandbox makes its own there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
