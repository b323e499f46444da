//! Which files of a tree the demo looks at.

use std::path::{Path, PathBuf};

/// Most files of one run: a task has at most a thousand children, and more would not be watched.
pub(super) const FILES_MAX: usize = 800;
/// Largest file that is looked at.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Directories that hold what was made from the sources, or their history.
const SKIPPED: [&str; 6] = [
    "target",
    "node_modules",
    "__pycache__",
    "vendor",
    "dist",
    "build",
];

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files to look at, in order.
    pub(super) files: Vec<PathBuf>,
    /// Files beyond [`FILES_MAX`] or larger than [`FILE_BYTES_MAX`].
    pub(super) left_out: usize,
    /// Directories that may not be read.
    pub(super) closed: Vec<PathBuf>,
    /// What has a name that is not UTF-8, which no task can carry.
    pub(super) nameless: Vec<PathBuf>,
}

/// Lists the files below `root`, hidden and generated ones left out, never following a link.
pub(super) fn walk(root: &Path) -> std::io::Result<Found> {
    let mut found = Found::default();
    let mut open = vec![root.to_path_buf()];
    if root.is_file() {
        found.files.push(root.to_path_buf());
        return Ok(found);
    }
    while let Some(dir) = open.pop() {
        let mut entries: Vec<_> = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.filter_map(Result::ok).collect(),
            Err(error) if dir == root => return Err(error),
            Err(_) => {
                found.closed.push(dir);
                continue;
            }
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut dirs = Vec::new();
        for entry in entries {
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if name.as_encoded_bytes().starts_with(b".") || kind.is_symlink() {
                continue;
            }
            let Some(name) = name.to_str() else {
                found.nameless.push(entry.path());
                continue;
            };
            if kind.is_dir() && !SKIPPED.contains(&name) {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let small = entry.metadata().is_ok_and(|m| m.len() <= FILE_BYTES_MAX);
                if small && found.files.len() < FILES_MAX {
                    found.files.push(entry.path());
                } else {
                    found.left_out += 1;
                }
            }
        }
        // Depth first, in order.
        open.extend(dirs.into_iter().rev());
    }
    found.files.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn hidden_generated_and_linked_files_are_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "a/b.rs",
            "c.md",
            ".git/config",
            "target/debug/x",
            "a/node_modules/y.js",
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!(
            found.files,
            [root.path().join("a/b.rs"), root.path().join("c.md")]
        );
        assert_eq!((found.left_out, found.closed.len()), (0, 0));
    }

    #[test]
    fn a_name_that_no_task_can_carry_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.md");
        std::fs::write(root.path().join(name), "x").unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!((found.files.len(), found.nameless.len()), (0, 1));
    }
}
