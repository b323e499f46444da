//! Finds the real interpreter behind a name, and the tree that must be shown with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::spec::SYSTEM_TREES;

/// An interpreter that can run inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// What to execute: an absolute path that is the same inside.
    pub program: PathBuf,
    /// Trees outside the system's own that it needs, for [`crate::SandboxSpec::runtime_paths`].
    pub paths: Vec<PathBuf>,
}

/// Why no interpreter was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpreterError {
    /// Install it, or name it by its path.
    #[error("`{program}` is in no directory of PATH")]
    NotFound {
        /// What was looked for.
        program: String,
    },
    /// A version manager's script stands for it; name the real one by its path.
    #[error("`{}` is a script that stands for `{program}`, and the real one was not found", path.display())]
    Script {
        /// What was looked for.
        program: String,
        /// The script.
        path: PathBuf,
    },
    /// Showing its installation would show more than it.
    #[error("`{}` lies directly in `{}`, which cannot be shown to agents", path.display(), prefix.display())]
    TooBroad {
        /// The program.
        path: PathBuf,
        /// The tree that would have to be shown.
        prefix: PathBuf,
    },
}

/// Finds `program` (a name looked up in `search`, the form of `PATH`, or an absolute path).
///
/// A script in front of the real program, as version managers install, is passed over: for a real program
/// further along, else for the newest version that lies beside the script.
///
/// # Errors
/// [`InterpreterError`] when nothing usable was found.
pub fn interpreter_paths(program: &str, search: &OsStr) -> Result<Interpreter, InterpreterError> {
    let candidates: Vec<PathBuf> = if program.starts_with('/') {
        vec![program.into()]
    } else {
        std::env::split_paths(search)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(program))
            .collect()
    };
    let runnable: Vec<&PathBuf> = candidates
        .iter()
        .filter(|path| is_executable(path))
        .collect();
    if let Some(real) = runnable.iter().find(|path| is_elf(path)) {
        return installation(real);
    }
    let Some(script) = runnable.first() else {
        return Err(InterpreterError::NotFound {
            program: program.to_owned(),
        });
    };
    match beside(script).as_deref() {
        Some(real) => installation(real),
        None => Err(InterpreterError::Script {
            program: program.to_owned(),
            path: (*script).clone(),
        }),
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

/// The newest real program that a version manager keeps for a script of its own: `<root>/shims/x` stands
/// for `<root>/versions/*/bin/x`.
fn beside(script: &Path) -> Option<PathBuf> {
    let name = script.file_name()?;
    let versions = script.parent()?.parent()?.join("versions");
    let mut found: Vec<(Vec<u64>, PathBuf)> = fs::read_dir(versions)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| {
            (
                numbers(&entry.file_name()),
                entry.path().join("bin").join(name),
            )
        })
        .filter(|(_, path)| is_executable(path) && is_elf(path))
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path)
}

/// `3.12.1` as numbers, so that 3.9 is older than 3.12.
fn numbers(version: &OsStr) -> Vec<u64> {
    let text = version.to_string_lossy();
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// What must be shown so that `path` runs.
fn installation(path: &Path) -> Result<Interpreter, InterpreterError> {
    let unresolved = |_| InterpreterError::NotFound {
        program: path.display().to_string(),
    };
    let real = fs::canonicalize(path).map_err(unresolved)?;
    let mut paths = Vec::new();
    if let Some(prefix) = prefix(&real)? {
        paths.push(prefix);
    }
    // A virtual environment is found by the path it is called by, so that path must stay.
    let environment = path
        .parent()
        .and_then(Path::parent)
        .filter(|root| root.join("pyvenv.cfg").is_file());
    let Some(environment) = environment else {
        return Ok(Interpreter {
            program: real,
            paths,
        });
    };
    let root = fs::canonicalize(environment).map_err(unresolved)?;
    let name = path.file_name().unwrap_or_default();
    let program = root.join("bin").join(name);
    paths.push(root);
    Ok(Interpreter { program, paths })
}

/// The tree that holds an installed program; `None` when every sandbox shows it anyway.
fn prefix(real: &Path) -> Result<Option<PathBuf>, InterpreterError> {
    if SYSTEM_TREES.iter().any(|tree| real.starts_with(tree)) {
        return Ok(None);
    }
    let directory = real.parent().unwrap_or(Path::new("/"));
    let inside_bin = directory.file_name().is_some_and(|name| name == "bin");
    let prefix = if inside_bin {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    };
    // `/root` and `/home/someone` hold far more than a program.
    let depth = prefix.components().count();
    if depth < 3 && !prefix.starts_with("/opt") && !prefix.starts_with("/nix") {
        return Err(InterpreterError::TooBroad {
            path: real.to_owned(),
            prefix: prefix.to_owned(),
        });
    }
    if depth < 4 && prefix.starts_with("/home") {
        return Err(InterpreterError::TooBroad {
            path: real.to_owned(),
            prefix: prefix.to_owned(),
        });
    }
    Ok(Some(prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with the given content that may be executed.
    fn executable(path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    const ELF: &[u8] = b"\x7fELF rest";
    const SCRIPT: &[u8] = b"#!/bin/sh\n";

    #[test]
    fn a_real_program_further_along_beats_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        executable(&root.join("shims/python3"), SCRIPT);
        executable(&root.join("real/bin/python3"), ELF);
        let search = std::env::join_paths([root.join("shims"), root.join("real/bin")]).unwrap();
        let found = interpreter_paths("python3", &search).unwrap();
        assert_eq!(found.program, root.join("real/bin/python3"));
        assert_eq!(found.paths, [root.join("real")]);
    }

    #[test]
    fn a_script_alone_stands_for_the_newest_version_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        executable(&root.join("shims/python3"), SCRIPT);
        executable(&root.join("versions/3.9.18/bin/python3"), ELF);
        executable(&root.join("versions/3.12.1/bin/python3"), ELF);
        let found = interpreter_paths("python3", root.join("shims").as_os_str()).unwrap();
        assert_eq!(found.program, root.join("versions/3.12.1/bin/python3"));
        assert_eq!(found.paths, [root.join("versions/3.12.1")]);
    }

    #[test]
    fn a_script_with_nothing_behind_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        executable(&dir.path().join("bin/tool"), SCRIPT);
        let answer = interpreter_paths("tool", dir.path().join("bin").as_os_str());
        assert!(
            matches!(answer, Err(InterpreterError::Script { .. })),
            "{answer:?}"
        );
    }

    #[test]
    fn a_name_that_is_nowhere_is_not_found() {
        let answer = interpreter_paths("no-such-program", OsStr::new("/usr/bin:/bin"));
        assert!(
            matches!(answer, Err(InterpreterError::NotFound { .. })),
            "{answer:?}"
        );
    }

    #[test]
    fn the_systems_own_programs_need_nothing_more() {
        let found = interpreter_paths("sh", OsStr::new("/usr/bin:/bin")).unwrap();
        assert!(found.paths.is_empty(), "{found:?}");
    }

    #[test]
    fn a_virtual_environment_keeps_its_own_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        executable(&root.join("base/bin/python3"), ELF);
        fs::create_dir_all(root.join("venv/bin")).unwrap();
        fs::write(root.join("venv/pyvenv.cfg"), "").unwrap();
        std::os::unix::fs::symlink(root.join("base/bin/python3"), root.join("venv/bin/python3"))
            .unwrap();
        let found = interpreter_paths(
            root.join("venv/bin/python3").to_str().unwrap(),
            OsStr::new(""),
        )
        .unwrap();
        assert_eq!(found.program, root.join("venv/bin/python3"));
        assert_eq!(found.paths, [root.join("base"), root.join("venv")]);
    }

    #[test]
    fn a_program_in_somebodys_home_is_not_shown_with_the_home() {
        for (real, broad) in [
            ("/root/python3", true),
            ("/home/me/bin/x", true),
            ("/root/.pyenv/versions/3/bin/p", false),
            ("/opt/node/bin/node", false),
        ] {
            assert_eq!(prefix(Path::new(real)).is_err(), broad, "{real}");
        }
    }
}
