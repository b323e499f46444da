//! `--agents DIR`: the bundles of a directory, deployed at start.
//!
//! A bundle is a directory with a manifest in it, or a file `NAME.manifest.json|yaml|yml`, which then brings its entry.
//! Whether its content makes sense is for the registry to say; here it is only read and packed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mesh_actors::Operations;
use mesh_actors::operations::BundleSource;
use mesh_messages::manifest::{ManifestFormat, Program, parse_manifest};
use mesh_messages::system::Caller;

/// What a manifest may be called within a bundle.
const MANIFEST_NAMES: [&str; 3] = ["manifest.json", "manifest.yaml", "manifest.yml"];
/// How a manifest's file ends that stands beside others.
const MANIFEST_ENDS: [&str; 3] = [".manifest.json", ".manifest.yaml", ".manifest.yml"];
/// Largest bundle; the registry takes no larger one.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Deepest directory of a bundle.
const DEPTH_MAX: usize = 32;

/// Why a bundle could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// The operating system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest of a single file is wrong, so that its entry is not known.
    #[error("{}: {errors}", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        errors: mesh_messages::manifest::ManifestErrors,
    },
    /// It would not be taken.
    #[error("{} holds more than {BYTES_MAX} bytes, or directories deeper than {DEPTH_MAX}", .0.display())]
    TooLarge(PathBuf),
}

/// The bundles of a directory, by name.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn find(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_bundle = if path.is_dir() {
            MANIFEST_NAMES.iter().any(|name| path.join(name).exists())
        } else {
            MANIFEST_ENDS.iter().any(|end| name.ends_with(end))
        };
        if is_bundle {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads and packs one. Blocks on the disk.
///
/// # Errors
/// [`BundleError`].
pub(crate) fn pack(path: &Path) -> Result<BundleSource, BundleError> {
    let mut archive = Archive {
        builder: tar::Builder::new(Vec::new()),
        bytes: 0,
    };
    if path.is_dir() {
        archive.add_dir(path, Path::new(""), 0)?;
    } else {
        let text = fs::read(path).map_err(|error| unreadable(path, error))?;
        let parsed = parse_manifest(&text, ManifestFormat::of_path(path)).map_err(|errors| {
            BundleError::Manifest {
                path: path.to_owned(),
                errors,
            }
        })?;
        let json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        archive.add(path, Path::new(MANIFEST_NAMES[usize::from(!json)]))?;
        let runtime = parsed.manifest.resolved_runtime();
        let program = match runtime.program {
            Program::Bundle(path) => Some(path),
            Program::Host(_) | Program::Builtin(_) => None,
        };
        let entry = parsed
            .manifest
            .entry
            .filter(|entry| !entry.starts_with("builtin:"));
        let mut own: Vec<String> = program
            .into_iter()
            .chain(entry)
            .map(|file| file.trim_start_matches("./").to_owned())
            .collect();
        own.sort();
        own.dedup();
        let beside = path.parent().unwrap_or(Path::new("."));
        for file in own {
            archive.add(&beside.join(&file), Path::new(&file))?;
        }
    }
    let bytes = archive
        .builder
        .into_inner()
        .map_err(|error| unreadable(path, error))?;
    Ok(BundleSource::Tar(bytes))
}

/// Deploys one and says what came of it, in the log.
pub(crate) async fn deploy(operations: &dyn Operations, caller: &Caller, path: PathBuf) -> bool {
    let shown = path.display().to_string();
    let packed = tokio::task::spawn_blocking(move || pack(&path)).await;
    let bundle = match packed {
        Ok(Ok(bundle)) => bundle,
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::error!(bundle = shown, "not deployed: {error:#}");
            return false;
        }
        Err(error) => {
            tracing::error!(bundle = shown, "not deployed: {error}");
            return false;
        }
    };
    match operations.register_agent(caller, bundle, true).await {
        Ok(there) => {
            let agent = &there.id;
            let what = if there.changed {
                "deployed"
            } else {
                "deployed already"
            };
            tracing::info!(%agent, version = there.version, "{what}");
            for notice in there.notices {
                tracing::warn!(%agent, "{notice}");
            }
            true
        }
        Err(problem) => {
            tracing::error!(
                bundle = shown,
                code = problem.code,
                "not deployed: {}",
                problem.detail
            );
            false
        }
    }
}

struct Archive {
    builder: tar::Builder<Vec<u8>>,
    bytes: u64,
}

impl Archive {
    fn add_dir(&mut self, dir: &Path, inside: &Path, depth: usize) -> Result<(), BundleError> {
        if depth > DEPTH_MAX {
            return Err(BundleError::TooLarge(dir.to_owned()));
        }
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| unreadable(dir, error))?;
        // The same files give the same bytes.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, inside) = (entry.path(), inside.join(entry.file_name()));
            if entry
                .file_type()
                .map_err(|error| unreadable(&path, error))?
                .is_dir()
            {
                self.add_dir(&path, &inside, depth + 1)?;
            } else {
                self.add(&path, &inside)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, inside: &Path) -> Result<(), BundleError> {
        let failed = |error| unreadable(path, error);
        let about = fs::symlink_metadata(path).map_err(failed)?;
        if !about.is_file() {
            return Err(failed(io::Error::other(
                "not a plain file; bundles hold no links or devices",
            )));
        }
        self.bytes = self.bytes.saturating_add(about.len());
        if self.bytes > BYTES_MAX {
            return Err(BundleError::TooLarge(path.to_owned()));
        }
        let content = fs::read(path).map_err(failed)?;
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(content.len() as u64);
        let executable = about.permissions().mode() & 0o111 != 0;
        header.set_mode(if executable { 0o755 } else { 0o644 });
        self.builder
            .append_data(&mut header, inside, content.as_slice())
            .map_err(failed)
    }
}

fn unreadable(path: &Path, source: io::Error) -> BundleError {
    BundleError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"id":"a","version":"1.0.0","capabilities":["x"],"entry":"run.py"}"#;

    fn names(source: BundleSource) -> Vec<String> {
        let BundleSource::Tar(bytes) = source else {
            panic!("not packed")
        };
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn directories_with_a_manifest_and_single_manifests_are_bundles() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["one/lib", "no-agent"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("one/manifest.json", MANIFEST);
        write("one/run.py", "");
        write("one/lib/x.py", "");
        write("two.manifest.json", MANIFEST);
        write("run.py", "");
        write("README.md", "");
        let found = find(dir.path()).unwrap();
        assert_eq!(
            found,
            [dir.path().join("one"), dir.path().join("two.manifest.json")]
        );
        assert_eq!(
            names(pack(&found[0]).unwrap()),
            ["lib/x.py", "manifest.json", "run.py"]
        );
        assert_eq!(names(pack(&found[1]).unwrap()), ["manifest.json", "run.py"]);
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("manifest.json"), MANIFEST).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("run.py")).unwrap();
        let error = anyhow::Error::new(pack(dir.path()).unwrap_err());
        assert!(format!("{error:#}").contains("run.py"), "{error:#}");
    }
}
