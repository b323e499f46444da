//! The file: `magic ‖ salt ‖ nonce ‖ ciphertext`, where what stands before the ciphertext is authenticated with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::VaultError;
use crate::key::{Key, SALT_BYTES};

/// What a vault begins with; the digit is its format.
const MAGIC: &[u8; 16] = b"meshd-vault/1\0\0\0";

/// Nonce of XChaCha20-Poly1305: long enough to be drawn at random for each write.
const NONCE_BYTES: usize = 24;

const HEADER_BYTES: usize = MAGIC.len() + SALT_BYTES + NONCE_BYTES;

/// Largest file that is read: all secrets at their largest, and their grants.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What stands before the ciphertext.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) salt: [u8; SALT_BYTES],
}

impl Header {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let salt = *rest.first_chunk()?;
        (bytes.len() > HEADER_BYTES).then_some(Self { salt })
    }
}

/// Encrypts under a fresh nonce.
pub(crate) fn seal(plain: &[u8], key: &Key) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| VaultError::Random)?;
    let mut bytes = [&MAGIC[..], &key.salt, &nonce].concat();
    let cipher = XChaCha20Poly1305::new((&*key.bytes).into());
    let payload = Payload {
        msg: plain,
        aad: &bytes,
    };
    // It fails only beyond 256 GiB.
    let sealed = cipher
        .encrypt(XNonce::from_slice(&nonce), payload)
        .map_err(|_| VaultError::Full)?;
    bytes.extend(sealed);
    Ok(bytes)
}

/// Decrypts; nothing when the key is another one or any byte was changed.
pub(crate) fn unseal(bytes: &[u8], key: &Key) -> Option<Zeroizing<Vec<u8>>> {
    let (header, sealed) = bytes.split_at_checked(HEADER_BYTES)?;
    let nonce = &header[HEADER_BYTES - NONCE_BYTES..];
    let cipher = XChaCha20Poly1305::new((&*key.bytes).into());
    let payload = Payload {
        msg: sealed,
        aad: header,
    };
    cipher
        .decrypt(XNonce::from_slice(nonce), payload)
        .ok()
        .map(Zeroizing::new)
}

/// The file's bytes; nothing when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, VaultError> {
    let failed = |source| VaultError::File {
        path: path.to_owned(),
        what: "read",
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Replaces the file; when it returns, the new one is durable.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    write_aside(path, bytes).map_err(|source| VaultError::File {
        path: path.to_owned(),
        what: "written",
        source,
    })
}

/// Writes beside `path`, syncs, renames, syncs the directory. Only the owner may read it at any moment.
pub(crate) fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(".new");
    let aside = path.with_file_name(name);
    match fs::remove_file(&aside) {
        // What a crash left behind.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(directory)?.sync_all()
}
