//! What a publisher's signature covers of a bundle beside the manifest.

/// One file of a bundle, for its digest.
#[derive(Debug, Clone, Copy)]
pub struct BundleFile<'a> {
    /// Its path within the bundle, its parts joined by `/`.
    pub path: &'a str,
    /// Whether it may be executed.
    pub executable: bool,
    /// Its content.
    pub content: &'a [u8],
}

/// What a manifest may be called, within a bundle.
pub const MANIFEST_FILES: [&str; 3] = ["manifest.json", "manifest.yaml", "manifest.yml"];

/// The digest of all files but the manifest, which must come sorted by path: `signature.bundle` of a signed manifest.
///
/// BLAKE3 over each file's path after its length, whether it is executable, and its content after its length; lengths in
/// eight bytes, little-endian. `None` when there is no other file.
pub fn bundle_files_digest<'a>(files: impl Iterator<Item = BundleFile<'a>>) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    let mut any = false;
    for file in files.filter(|file| !MANIFEST_FILES.contains(&file.path)) {
        any = true;
        hasher.update(&(file.path.len() as u64).to_le_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(&[u8::from(file.executable)]);
        hasher.update(&(file.content.len() as u64).to_le_bytes());
        hasher.update(file.content);
    }
    any.then(|| format!("blake3:{}", hasher.finalize().to_hex()))
}
