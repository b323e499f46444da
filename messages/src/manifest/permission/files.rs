//! What permissions leave of files. What is seen is held by mounts, what is done with it by mounts and Landlock.

use std::path::Path;

use super::{Action, Permission, ResourceKind};
use crate::manifest::security::SecurityConfig;

/// The scope that names the agent's home.
pub(super) const HOME: &str = "home";
/// The scope that names its temporary files.
pub(super) const TEMP: &str = "temp";

/// What may be done with files, beside seeing them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRights {
    /// Changing and creating.
    pub write: bool,
    /// Running programs, and loading libraries.
    pub execute: bool,
    /// Removing.
    pub delete: bool,
}

impl FileRights {
    /// All of them.
    pub const ALL: Self = Self {
        write: true,
        execute: true,
        delete: true,
    };

    /// None.
    pub const NONE: Self = Self {
        write: false,
        execute: false,
        delete: false,
    };

    /// Whether the place has to be writable, whatever may be done there.
    pub const fn changes(self) -> bool {
        self.write || self.delete
    }

    const fn and(self, other: Self) -> Self {
        Self {
            write: self.write || other.write,
            execute: self.execute || other.execute,
            delete: self.delete || other.delete,
        }
    }
}

/// A path of the host that the agent sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGrant {
    /// Absolute.
    pub path: String,
    /// What may be done there.
    pub rights: FileRights,
}

/// All files that an agent has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGrants {
    /// In its home, which it always sees.
    pub home: FileRights,
    /// In a `/tmp` of its own; `None` without one.
    pub temp: Option<FileRights>,
    /// On the host.
    pub paths: Vec<FileGrant>,
}

impl FileGrants {
    /// Whether something that is not installed may be executed.
    pub fn execute(&self) -> bool {
        let temp = self.temp.is_some_and(|temp| temp.execute);
        self.home.execute || temp || self.paths.iter().any(|grant| grant.rights.execute)
    }
}

impl Permission {
    fn rights(&self) -> FileRights {
        FileRights {
            write: self.allows(Action::Write),
            execute: self.allows(Action::Execute),
            delete: self.allows(Action::Delete),
        }
    }
}

impl SecurityConfig {
    /// What its file policy gives, and its permissions leave.
    pub fn file_grants(&self) -> FileGrants {
        let policy = &self.file_access;
        let given = FileRights {
            write: !policy.read_only,
            execute: true,
            delete: !policy.read_only,
        };
        if !self.narrows(ResourceKind::File) {
            let whole = |path: &String| FileGrant {
                path: path.clone(),
                rights: given,
            };
            return FileGrants {
                home: FileRights::ALL,
                temp: policy.temp_file_access.then_some(FileRights::ALL),
                paths: policy.allowed_paths.iter().map(whole).collect(),
            };
        }
        let about = || {
            self.permitted()
                .filter(|one| one.is_about(ResourceKind::File))
        };
        let named = |word: &str| {
            let of = about().filter(|one| one.scope.as_deref().is_none_or(|scope| scope == word));
            of.map(Permission::rights).reduce(FileRights::and)
        };
        let mut paths: Vec<FileGrant> = Vec::new();
        for permission in about().filter(|one| one.allows(Action::Read)) {
            for allowed in &policy.allowed_paths {
                let path = match permission.scope.as_deref() {
                    None => allowed,
                    Some(scope) if within(scope, allowed) => allowed,
                    Some(scope) if within(allowed, scope) => scope,
                    Some(_) => continue,
                };
                let asked = permission.rights();
                let rights = FileRights {
                    write: asked.write && given.write,
                    execute: asked.execute,
                    delete: asked.delete && given.delete,
                };
                match paths.iter_mut().find(|grant| grant.path == path) {
                    Some(grant) => grant.rights = grant.rights.and(rights),
                    None => paths.push(FileGrant {
                        path: path.to_owned(),
                        rights,
                    }),
                }
            }
        }
        // What holds for a directory holds for what is granted below it, too.
        let all = paths.clone();
        for grant in &mut paths {
            let above = all.iter().filter(|other| within(&other.path, &grant.path));
            grant.rights = above.fold(grant.rights, |rights, other| rights.and(other.rights));
        }
        let temp = named(TEMP).filter(|rights| rights.write);
        FileGrants {
            home: named(HOME).unwrap_or(FileRights::NONE),
            temp: temp.filter(|_| policy.temp_file_access),
            paths,
        }
    }
}

/// Whether a path is another one, or lies below it.
pub(super) fn within(above: &str, path: &str) -> bool {
    above.starts_with('/') && Path::new(path).starts_with(above)
}
