//! Bundles: the files of an agent's version, stored by the digest of their contents.
//!
//! `<data>/bundles/<hex>/` holds one bundle each; it is written aside and renamed, so it exists whole or not at all.
//! The digest covers every path, whether it is executable, and every byte: BLAKE3 over the sorted list of entries.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use mesh_messages::identity::DidKey;
use mesh_messages::manifest::{
    BundleFile, MANIFEST_FILES, ManifestFormat, ManifestSignatureError, ParsedManifest,
    bundle_files_digest, parse_manifest, verify_manifest_signature,
};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::FieldError;

use crate::operations::BundleSource;

/// Most files of a bundle: each is hashed and stored on its own.
const ENTRIES_MAX: usize = 10_000;
/// Largest bundle, in bytes of its files.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Longest path within a bundle, in bytes: what tar's oldest form holds.
const PATH_MAX: usize = 255;
/// Where Python's packages are listed.
const REQUIREMENTS: &str = "requirements.txt";
/// Nothing is fetched in an agent's name, least of all what could run while it is installed.
const REQUIREMENTS_NOTICE: &str = "meshd installs no packages; put them into the bundle (`pip install -r requirements.txt --target .`), or \
     install them for the host's python3";
/// Names under which a manifest is looked for, in this order.
const MANIFEST_NAMES: [&str; 3] = MANIFEST_FILES;

/// A bundle that is stored.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its manifest, checked, with remarks.
    pub(crate) manifest: ParsedManifest,
    /// `blake3:` and lower-case hex.
    pub(crate) digest: String,
    /// Who signed it; the signature holds, and covers all of it.
    pub(crate) signer: Option<DidKey>,
}

/// One file of a bundle in memory.
#[derive(Debug)]
struct Entry {
    executable: bool,
    content: Vec<u8>,
}

type Entries = BTreeMap<String, Entry>;

/// Where the bundle of a digest lies.
pub(crate) fn bundle_dir(data: &Path, digest: &str) -> PathBuf {
    data.join("bundles")
        .join(digest.strip_prefix("blake3:").unwrap_or(digest))
}

/// The name of the manifest in a stored bundle.
pub(crate) fn manifest_name(bundle: &Path) -> &'static str {
    let there = |name: &&str| bundle.join(name).is_file();
    MANIFEST_NAMES
        .into_iter()
        .find(there)
        .unwrap_or(MANIFEST_NAMES[0])
}

/// Reads, checks and stores a bundle. Blocks on the disk.
///
/// # Errors
/// A [`Problem`] that names the entry or the manifest's field; nothing was stored.
pub(crate) fn store(data: &Path, source: BundleSource) -> Result<Bundle, Problem> {
    let (mut manifest, entries) = match source {
        BundleSource::Tar(bytes) => {
            let entries = from_tar(&bytes)?;
            (manifest_of(&entries)?, entries)
        }
        BundleSource::Manifest { manifest, path } => from_manifest(&manifest, path.as_deref())?,
    };
    check_entry(&manifest, &entries)?;
    let signer = signer(&manifest, &entries)?;
    if entries.contains_key(REQUIREMENTS) {
        let not_done = FieldError::new(REQUIREMENTS, REQUIREMENTS_NOTICE);
        manifest.notices.push(not_done);
    }
    let digest = digest(&entries);
    write(&bundle_dir(data, &digest), &entries).map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::ReadOnlyFilesystem => {
            Problem::unavailable("read_only", format!("the bundle cannot be stored: {error}"))
        }
        _ => Problem::internal(format!("the bundle cannot be stored: {error}")),
    })?;
    Ok(Bundle {
        manifest,
        digest,
        signer,
    })
}

/// Who signed a bundle. A signature that does not hold is worse than none: somebody changed what was signed.
fn signer(manifest: &ParsedManifest, entries: &Entries) -> Result<Option<DidKey>, Problem> {
    let refused =
        |field: &str, detail: String| Problem::invalid("bad_bundle_signature", field, detail);
    let signature = match verify_manifest_signature(&manifest.source) {
        Ok(signature) => signature,
        Err(ManifestSignatureError::Missing) => return Ok(None),
        Err(error) => return Err(refused("signature", error.to_string())),
    };
    let files = entries.iter().map(|(path, entry)| BundleFile {
        path,
        executable: entry.executable,
        content: &entry.content,
    });
    if signature.bundle != bundle_files_digest(files) {
        let detail =
            "signature.bundle: the files beside the manifest are not those that were signed";
        return Err(refused("signature.bundle", detail.to_owned()));
    }
    Ok(Some(signature.key))
}

fn bad(field: impl Into<String>, detail: impl Into<String>) -> Problem {
    Problem::invalid("invalid_bundle", field, detail)
}

fn from_tar(bytes: &[u8]) -> Result<Entries, Problem> {
    let malformed = |error: std::io::Error| {
        Problem::new(
            ProblemKind::Malformed,
            "malformed_bundle",
            format!("not a readable tar archive: {error}"),
        )
    };
    let mut entries = Entries::new();
    let mut total = 0_u64;
    for entry in tar::Archive::new(bytes).entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let path = entry.path().map_err(malformed)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        let name = plain(&path)?;
        if !kind.is_file() {
            return Err(bad(
                name,
                "is neither a file nor a directory; links and devices are not taken",
            ));
        }
        total = total.saturating_add(entry.size());
        limits(entries.len() + 1, total)?;
        let executable = entry.header().mode().map_err(malformed)? & 0o111 != 0;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(malformed)?;
        if entries
            .insert(
                name.clone(),
                Entry {
                    executable,
                    content,
                },
            )
            .is_some()
        {
            return Err(bad(name, "is there twice"));
        }
    }
    Ok(entries)
}

fn from_manifest(
    manifest: &Value,
    path: Option<&Path>,
) -> Result<(ParsedManifest, Entries), Problem> {
    let text = manifest.to_string();
    let parsed = parse(text.as_bytes(), ManifestFormat::Json)?;
    let mut entries = Entries::new();
    if let Some(path) = path {
        if !path.is_absolute() {
            return Err(bad(
                "path",
                "must be absolute: it names a directory of meshd's host",
            ));
        }
        read_dir(path, path, &mut entries, &mut 0)?;
        for name in MANIFEST_NAMES {
            entries.remove(name);
        }
    }
    entries.insert(
        MANIFEST_NAMES[0].to_owned(),
        Entry {
            executable: false,
            content: text.into_bytes(),
        },
    );
    Ok((parsed, entries))
}

fn read_dir(
    root: &Path,
    dir: &Path,
    entries: &mut Entries,
    total: &mut u64,
) -> Result<(), Problem> {
    let failed =
        |path: &Path, error: std::io::Error| bad("path", format!("{}: {error}", path.display()));
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let meta = std::fs::symlink_metadata(&path).map_err(|e| failed(&path, e))?;
        if meta.is_dir() {
            read_dir(root, &path, entries, total)?;
            continue;
        }
        if !meta.is_file() {
            return Err(failed(
                &path,
                std::io::Error::other("is neither a file nor a directory"),
            ));
        }
        *total = total.saturating_add(meta.len());
        limits(entries.len() + 1, *total)?;
        let name = plain(path.strip_prefix(root).unwrap_or(&path))?;
        let content = std::fs::read(&path).map_err(|e| failed(&path, e))?;
        entries.insert(
            name,
            Entry {
                executable: meta.permissions().mode() & 0o111 != 0,
                content,
            },
        );
    }
    Ok(())
}

fn limits(entries: usize, total: u64) -> Result<(), Problem> {
    if entries > ENTRIES_MAX {
        return Err(bad(
            "bundle",
            format!("holds more than {ENTRIES_MAX} files"),
        ));
    }
    if total > BYTES_MAX {
        return Err(bad("bundle", format!("holds more than {BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The path as text, when it stays inside the bundle.
fn plain(path: &Path) -> Result<String, Problem> {
    let shown = path.display().to_string();
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => {
                parts.push(
                    part.to_str()
                        .ok_or_else(|| bad(shown.clone(), "is not UTF-8"))?,
                );
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(bad(shown, "leads out of the bundle"));
            }
        }
    }
    let name = parts.join("/");
    if name.is_empty() || name.len() > PATH_MAX || name.contains('\0') {
        return Err(bad(shown, format!("is no path of 1 to {PATH_MAX} bytes")));
    }
    Ok(name)
}

fn manifest_of(entries: &Entries) -> Result<ParsedManifest, Problem> {
    let mut found = MANIFEST_NAMES
        .iter()
        .filter_map(|name| entries.get_key_value(*name));
    let (name, entry) = found.next().ok_or_else(|| {
        bad(
            "manifest",
            format!("the bundle holds none of {}", MANIFEST_NAMES.join(", ")),
        )
    })?;
    if let Some((second, _)) = found.next() {
        return Err(bad(
            "manifest",
            format!("the bundle holds {name} and {second}; which one counts?"),
        ));
    }
    let format = if name.ends_with("json") {
        ManifestFormat::Json
    } else {
        ManifestFormat::Yaml
    };
    parse(&entry.content, format)
}

fn parse(bytes: &[u8], format: ManifestFormat) -> Result<ParsedManifest, Problem> {
    parse_manifest(bytes, format).map_err(|errors| {
        let all: Vec<String> = errors.errors().iter().map(ToString::to_string).collect();
        let field = errors
            .errors()
            .first()
            .map(|e| e.path.clone())
            .unwrap_or_default();
        Problem::invalid("invalid_manifest", field, all.join("; ")).errors(all)
    })
}

/// What is to run must be in the bundle.
fn check_entry(parsed: &ParsedManifest, entries: &Entries) -> Result<(), Problem> {
    let Some(entry) = parsed.manifest.entry.as_deref() else {
        return Ok(());
    };
    let named = entry.starts_with("builtin:") || parsed.manifest.service().is_some();
    if named || entries.contains_key(entry.trim_start_matches("./")) {
        return Ok(());
    }
    Err(Problem::invalid(
        "invalid_manifest",
        "entry",
        format!("entry: {entry} is not in the bundle"),
    ))
}

fn digest(entries: &Entries) -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, entry) in entries {
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&[u8::from(entry.executable)]);
        hasher.update(&(entry.content.len() as u64).to_le_bytes());
        hasher.update(&entry.content);
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

fn write(target: &Path, entries: &Entries) -> std::io::Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let aside = tempfile::Builder::new()
        .prefix(".incoming-")
        .tempdir_in(parent)?;
    for (path, entry) in entries {
        let path = aside.path().join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Agents run as other users and must be able to read their own bundle; its parent directory is closed.
        let mode = if entry.executable { 0o755 } else { 0o644 };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(&entry.content)?;
        file.sync_data()?;
    }
    open_up(aside.path())?;
    let aside = aside.keep();
    match std::fs::rename(&aside, target) {
        Ok(()) => std::fs::File::open(parent)?.sync_all(),
        // Somebody stored the same bundle meanwhile.
        Err(_) if target.is_dir() => std::fs::remove_dir_all(aside),
        Err(error) => Err(error),
    }
}

/// Directories get the same rights whatever the umask was.
fn open_up(dir: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_up(&entry.path())?;
        } else {
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"id":"a","version":"1.0.0","capabilities":["x"],"entry":"run.sh"}"#;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            // Written raw, because a builder refuses the paths that are to be refused here.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn stored(files: &[(&str, &str)]) -> Result<Bundle, Problem> {
        let data = tempfile::tempdir().unwrap();
        store(data.path(), BundleSource::Tar(archive(files)))
    }

    #[test]
    fn the_digest_is_of_the_contents_and_not_of_their_order() {
        let one = stored(&[("manifest.json", MANIFEST), ("run.sh", "x")]).unwrap();
        let two = stored(&[("./run.sh", "x"), ("manifest.json", MANIFEST)]).unwrap();
        let other = stored(&[("manifest.json", MANIFEST), ("run.sh", "y")]).unwrap();
        assert_eq!(one.digest, two.digest);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../run.sh", "/run.sh", "a/../../b"] {
            let problem = stored(&[("manifest.json", MANIFEST), (path, "x")]).unwrap_err();
            assert_eq!(problem.code, "invalid_bundle", "{path}");
        }
    }

    #[test]
    fn an_entry_that_is_missing_is_named() {
        let problem = stored(&[("manifest.json", MANIFEST)]).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("entry"));
    }

    #[test]
    fn the_manifest_of_a_stored_bundle_is_found_under_its_own_name() {
        let data = tempfile::tempdir().unwrap();
        let yaml = "id: a\nversion: 1.0.0\ncapabilities: [x]\nentry: run.sh\n";
        for (name, text) in [("manifest.json", MANIFEST), ("manifest.yaml", yaml)] {
            let files = [(name, text), ("run.sh", "x")];
            let bundle = store(data.path(), BundleSource::Tar(archive(&files))).unwrap();
            let dir = bundle_dir(data.path(), &bundle.digest);
            assert_eq!(manifest_name(&dir), name);
        }
    }

    #[test]
    fn rubbish_is_no_bundle() {
        let data = tempfile::tempdir().unwrap();
        let problem = store(data.path(), BundleSource::Tar(vec![7; 4096])).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Malformed);
    }
}
