//! Bundles: the files of an agent, checked and packed in memory so that the same files give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mesh_messages::manifest::{
    BundleFile, MANIFEST_BYTES_MAX, MANIFEST_FILES, ManifestErrors, ManifestFormat, ParsedManifest,
    Program, bundle_files_digest, parse_manifest,
};

use crate::exit::{Exit, Failure};

/// What a manifest may be called, within a bundle.
const MANIFEST_NAMES: [&str; 3] = MANIFEST_FILES;
/// Most files of a bundle. An agent with its libraries stays below; a home directory given by mistake does not.
const FILES_MAX: usize = 10_000;
/// Most bytes of a bundle: meshd takes no larger one, as it holds it in memory while it is checked.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deepest directory of a bundle.
const DEPTH_MAX: usize = 32;

/// Why a path is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// The path, or something in it, cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A directory without a manifest.
    #[error("{} holds no manifest.json, manifest.yaml or manifest.yml", .0.display())]
    NoManifest(PathBuf),
    /// Which one counts would be a guess.
    #[error("{} holds several manifests: {}", path.display(), names.join(", "))]
    SeveralManifests {
        path: PathBuf,
        names: Vec<&'static str>,
    },
    /// The manifest is wrong.
    #[error("{} has {}", path.display(), count(errors.errors().len()))]
    Invalid {
        path: PathBuf,
        errors: ManifestErrors,
    },
    /// The program that the manifest names is not in the bundle.
    #[error("{}: entry: {entry:?} is not a file beside the manifest", manifest.display())]
    NoEntry { manifest: PathBuf, entry: String },
    /// Links lead out of bundles, and devices do not travel.
    #[error("{} is {what}; a bundle holds files and directories only", path.display())]
    Irregular { path: PathBuf, what: &'static str },
    /// The name would mean another file elsewhere.
    #[error("{} has a name that is not UTF-8", .0.display())]
    Name(PathBuf),
    /// Beyond a bound.
    #[error("{} has more than {limit} {what}, the most that a bundle may have", path.display())]
    TooLarge {
        path: PathBuf,
        limit: u64,
        what: &'static str,
    },
}

fn count(errors: usize) -> String {
    if errors == 1 {
        "an error".to_owned()
    } else {
        format!("{errors} errors")
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        let failure = Self::new(Exit::Failed, error.to_string());
        match error {
            BundleError::Invalid { errors, .. } => {
                failure.details(errors.errors().iter().map(ToString::to_string).collect())
            }
            BundleError::Unreadable { .. }
            | BundleError::NoManifest(_)
            | BundleError::SeveralManifests { .. }
            | BundleError::NoEntry { .. }
            | BundleError::Irregular { .. }
            | BundleError::Name(_)
            | BundleError::TooLarge { .. } => failure,
        }
    }
}

/// A bundle that was read and whose manifest holds.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The manifest and the remarks on it.
    pub(crate) parsed: ParsedManifest,
    manifest_path: PathBuf,
    files: BTreeMap<String, File>,
}

#[derive(Debug, PartialEq, Eq)]
struct File {
    bytes: Vec<u8>,
    executable: bool,
}

impl Bundle {
    /// Reads the bundle at a path: a directory with a manifest in it, or a manifest, which then brings its entry.
    ///
    /// # Errors
    /// [`BundleError`], naming the file and, in a manifest, everything that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self, BundleError> {
        let is_dir = fs::metadata(path)
            .map_err(|source| unreadable(path, source))?
            .is_dir();
        let manifest_path = if is_dir {
            manifest_in(path)?
        } else {
            path.to_path_buf()
        };
        let parsed = parse(&manifest_path)?;
        let mut files = Files::default();
        if is_dir {
            files.add_dir(path, "", 0)?;
        } else {
            files.add(&manifest_path, manifest_name(&manifest_path))?;
            let root = manifest_path.parent().unwrap_or(Path::new("."));
            for entry in own_files(&parsed) {
                let file = root.join(&entry);
                if !file.is_file() {
                    return Err(BundleError::NoEntry {
                        manifest: manifest_path,
                        entry,
                    });
                }
                files.add(&file, entry)?;
            }
        }
        if let Some(entry) = own_files(&parsed)
            .into_iter()
            .find(|entry| !files.files.contains_key(entry))
        {
            return Err(BundleError::NoEntry {
                manifest: manifest_path,
                entry,
            });
        }
        Ok(Self {
            parsed,
            manifest_path,
            files: files.files,
        })
    }

    /// Where its manifest lies.
    pub(crate) fn manifest_path(&self) -> &Path {
        &self.manifest_path
    }

    /// The digest of all files but the manifest; `None` when there is no other.
    pub(crate) fn files_digest(&self) -> Option<String> {
        bundle_files_digest(self.files.iter().map(|(path, file)| BundleFile {
            path,
            executable: file.executable,
            content: &file.bytes,
        }))
    }

    /// The bundle as a tar archive. Sorted, without owners or times: equal files give equal bytes.
    ///
    /// # Errors
    /// When a name does not fit into an archive.
    pub(crate) fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, file) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(file.bytes.len() as u64);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            archive.append_data(&mut header, name, file.bytes.as_slice())?;
        }
        archive.into_inner()
    }
}

/// Reads and checks a manifest, given by itself or by its bundle's directory.
///
/// # Errors
/// [`BundleError`].
pub(crate) fn manifest_in(dir: &Path) -> Result<PathBuf, BundleError> {
    let names: Vec<&'static str> = MANIFEST_NAMES
        .into_iter()
        .filter(|name| dir.join(name).symlink_metadata().is_ok())
        .collect();
    match names.as_slice() {
        [] => Err(BundleError::NoManifest(dir.to_path_buf())),
        [name] => Ok(dir.join(name)),
        _ => Err(BundleError::SeveralManifests {
            path: dir.to_path_buf(),
            names,
        }),
    }
}

fn parse(path: &Path) -> Result<ParsedManifest, BundleError> {
    let mut bytes = Vec::new();
    let limit = MANIFEST_BYTES_MAX as u64 + 1;
    fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| unreadable(path, source))?;
    parse_manifest(&bytes, ManifestFormat::of_path(path)).map_err(|errors| BundleError::Invalid {
        path: path.to_path_buf(),
        errors,
    })
}

/// What meshd calls the manifest; a manifest file may have been called otherwise.
fn manifest_name(path: &Path) -> String {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => MANIFEST_NAMES[0].to_owned(),
        // JSON is YAML too, so a manifest without a telling name is read rightly either way.
        _ => MANIFEST_NAMES[1].to_owned(),
    }
}

/// The files that the manifest itself names: its program and its entry, where they lie in the bundle.
fn own_files(parsed: &ParsedManifest) -> Vec<String> {
    let manifest = &parsed.manifest;
    let mut own = Vec::new();
    if let Program::Bundle(path) = manifest.resolved_runtime().program {
        own.push(normal(&path));
    }
    if let Some(entry) = manifest
        .entry
        .as_deref()
        .filter(|entry| !entry.starts_with("builtin:"))
    {
        own.push(normal(entry));
    }
    own.sort();
    own.dedup();
    own
}

/// `./a//b` is `a/b`. That nothing leaves the bundle was checked with the manifest.
fn normal(path: &str) -> String {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<String, File>,
    bytes: u64,
}

impl Files {
    fn add_dir(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), BundleError> {
        if depth > DEPTH_MAX {
            return Err(too_large(dir, DEPTH_MAX as u64, "levels of directories"));
        }
        for entry in fs::read_dir(dir).map_err(|source| unreadable(dir, source))? {
            let entry = entry.map_err(|source| unreadable(dir, source))?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| BundleError::Name(path.clone()))?;
            let kind = entry
                .file_type()
                .map_err(|source| unreadable(&path, source))?;
            let name = format!("{prefix}{name}");
            if kind.is_dir() {
                self.add_dir(&path, &format!("{name}/"), depth + 1)?;
            } else {
                self.add(&path, name)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: String) -> Result<(), BundleError> {
        let about = fs::symlink_metadata(path).map_err(|source| unreadable(path, source))?;
        if about.is_symlink() {
            return Err(BundleError::Irregular {
                path: path.to_path_buf(),
                what: "a symbolic link",
            });
        }
        if !about.is_file() {
            return Err(BundleError::Irregular {
                path: path.to_path_buf(),
                what: "neither file nor directory",
            });
        }
        if self.files.len() >= FILES_MAX {
            return Err(too_large(path, FILES_MAX as u64, "files before it"));
        }
        let mut bytes = Vec::new();
        let rest = BYTES_MAX - self.bytes;
        fs::File::open(path)
            .and_then(|file| file.take(rest + 1).read_to_end(&mut bytes))
            .map_err(|source| unreadable(path, source))?;
        let length = bytes.len() as u64;
        if length > rest {
            return Err(too_large(
                path,
                BYTES_MAX,
                "bytes, together with the files before it",
            ));
        }
        self.bytes += length;
        let executable = about.permissions().mode() & 0o111 != 0;
        self.files.insert(name, File { bytes, executable });
        Ok(())
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> BundleError {
    BundleError::Unreadable {
        path: path.to_path_buf(),
        source,
    }
}

fn too_large(path: &Path, limit: u64, what: &'static str) -> BundleError {
    BundleError::TooLarge {
        path: path.to_path_buf(),
        limit,
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MANIFEST: &str =
        r#"{"id":"echo","version":"1.0.0","capabilities":["echo"],"entry":"main.py"}"#;

    fn bundle(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn entries(archive: &[u8]) -> Vec<(String, u32, u64)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            (
                name,
                entry.header().mode().unwrap(),
                entry.header().mtime().unwrap(),
            )
        });
        entries.collect()
    }

    #[test]
    fn equal_files_give_equal_archives() {
        let files = [
            ("manifest.json", MANIFEST),
            ("main.py", "print(1)"),
            ("lib/a.py", ""),
        ];
        let (one, two) = (bundle(&files), bundle(&files));
        fs::set_permissions(
            two.path().join("main.py"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let pack = |dir: &tempfile::TempDir| Bundle::read(dir.path()).unwrap().pack().unwrap();
        assert_eq!(pack(&one), pack(&two));
        fs::set_permissions(
            two.path().join("main.py"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        let expected = [
            ("lib/a.py", 0o644, 0),
            ("main.py", 0o755, 0),
            ("manifest.json", 0o644, 0),
        ];
        assert_eq!(
            entries(&pack(&two)),
            expected.map(|(name, mode, time)| (name.to_owned(), mode, time))
        );
    }

    #[test]
    fn a_manifest_brings_its_entry_and_nothing_else() {
        let dir = bundle(&[("echo.json", MANIFEST), ("main.py", ""), ("secret", "")]);
        let bundle = Bundle::read(&dir.path().join("echo.json")).unwrap();
        let names: Vec<_> = bundle.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["main.py", "manifest.json"]);
    }

    #[track_caller]
    fn refused(path: &Path, expected: &str) {
        let told = Bundle::read(path).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_reason() {
        refused(Path::new("/nowhere"), "/nowhere: No such file");
        refused(bundle(&[]).path(), "holds no manifest.json");
        refused(
            bundle(&[("manifest.json", MANIFEST), ("manifest.yml", "")]).path(),
            "several manifests",
        );
        refused(
            bundle(&[("manifest.json", MANIFEST)]).path(),
            "\"main.py\" is not a file",
        );
        let alone = bundle(&[("echo.json", MANIFEST)]);
        refused(&alone.path().join("echo.json"), "\"main.py\" is not a file");
        let linked = bundle(&[("manifest.json", MANIFEST)]);
        symlink("/etc/passwd", linked.path().join("main.py")).unwrap();
        refused(linked.path(), "is a symbolic link");
    }

    #[test]
    fn all_errors_of_a_manifest_are_told_at_once() {
        let dir = bundle(&[(
            "manifest.yaml",
            "id: 7\nversion: x\ncapabilities: []\nentry: main.py\n",
        )]);
        let failure = Failure::from(Bundle::read(dir.path()).unwrap_err());
        assert_eq!(failure.exit, Exit::Failed);
        let named = |path: &str| failure.details.iter().any(|error| error.starts_with(path));
        assert!(named("id: ") && named("version: "), "{failure:?}");
    }

    #[test]
    fn bounds_are_named() {
        let dir = bundle(&[("manifest.json", MANIFEST), ("main.py", "")]);
        let large = fs::File::create(dir.path().join("large")).unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        refused(dir.path(), "large has more than 67108864 bytes");
    }
}
