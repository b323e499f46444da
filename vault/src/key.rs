//! The key: from an owner-only file, from the kernel's keyring, or from a passphrase.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::{VaultError, file, keyring};

/// A key of XChaCha20-Poly1305.
pub(crate) const KEY_BYTES: usize = 32;

/// Salt of a passphrase; in the vault, and all zeros where the key is not derived.
pub const SALT_BYTES: usize = 16;

/// Shortest passphrase: below it argon2 cannot help.
pub const PASSPHRASE_BYTES_MIN: usize = 12;

/// Longest file that is read for a key or passphrase.
const SOURCE_BYTES_MAX: usize = 4096;

/// Memory of argon2id in KiB, passes and lanes: RFC 9106's second recommendation, for machines with less memory.
const ARGON2: (u32, u32, u32) = (64 * 1024, 3, 4);

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// 32 random bytes in hexadecimal, in a file that only its owner may read; made when it is first needed.
    File(PathBuf),
    /// A passphrase in a file that only its owner may read, such as a credential of the service manager.
    Passphrase(PathBuf),
    /// 32 random bytes in hexadecimal, as a key of type `user` with this description in the kernel's keyring. It is never made:
    /// the kernel forgets it with the machine's next start, and whoever puts it there has to have it from somewhere.
    Keyring(String),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Passphrase(path) => path.display().fmt(f),
            Self::Keyring(name) => write!(f, "{name} of the kernel's keyring"),
        }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It cannot be read or made.
    #[error("the key {} cannot be {what}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Read or made.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key {} may be read by others: make it its owner's alone (`chmod 600`)", path.display())]
    Open {
        /// Where.
        path: PathBuf,
    },
    /// The kernel does not give it.
    #[error("the key {name} cannot be had from the kernel's keyring: {detail}")]
    Keyring {
        /// Its description.
        name: String,
        /// Why, and what to do.
        detail: String,
    },
    /// It holds something else.
    #[error("{place} does not hold 64 hexadecimal digits, nor anything else that is a key")]
    Form {
        /// Where.
        place: String,
    },
    /// A passphrase that is easily guessed.
    #[error("the passphrase in {} has fewer than {PASSPHRASE_BYTES_MIN} bytes", path.display())]
    Short {
        /// Where.
        path: PathBuf,
    },
}

/// The key and the salt that it was made with. Wiped when dropped.
pub(crate) struct Key {
    pub(crate) bytes: Zeroizing<[u8; KEY_BYTES]>,
    pub(crate) salt: [u8; SALT_BYTES],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of a vault that exists.
    pub(crate) fn existing(
        source: &KeySource,
        salt: &[u8; SALT_BYTES],
        vault: &Path,
    ) -> Result<Self, VaultError> {
        match source.read() {
            Ok(text) => Ok(derive(source, &text, *salt)?),
            Err(KeyError::File { source: error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                Err(VaultError::NoKey {
                    path: vault.to_owned(),
                    key: source.to_string(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The key as the source gives it now; a passphrase is derived with the salt.
    pub(crate) fn derived(source: &KeySource, salt: [u8; SALT_BYTES]) -> Result<Self, KeyError> {
        derive(source, &source.read()?, salt)
    }

    /// The key of a vault that is about to exist; a key file is made when there is none.
    pub(crate) fn new(source: &KeySource) -> Result<Self, VaultError> {
        let mut salt = [0; SALT_BYTES];
        let path = match source {
            KeySource::File(path) => path,
            KeySource::Keyring(_) => return Ok(derive(source, &source.read()?, salt)?),
            KeySource::Passphrase(_) => {
                getrandom::fill(&mut salt).map_err(|_| VaultError::Random)?;
                return Ok(derive(source, &source.read()?, salt)?);
            }
        };
        match read(path) {
            Err(KeyError::File { source: error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                let mut bytes = Zeroizing::new([0; KEY_BYTES]);
                getrandom::fill(&mut *bytes).map_err(|_| VaultError::Random)?;
                let mut text = Zeroizing::new(vec![0; KEY_BYTES * 2]);
                // Twice the length, as it must be.
                hex::encode_to_slice(*bytes, &mut text).map_err(|_| VaultError::Random)?;
                file::write_aside(path, &text).map_err(|source| KeyError::File {
                    path: path.clone(),
                    what: "made",
                    source,
                })?;
                Ok(Self { bytes, salt })
            }
            text => Ok(derive(source, &text?, salt)?),
        }
    }
}

impl KeySource {
    fn read(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match self {
            Self::File(path) | Self::Passphrase(path) => read(path),
            Self::Keyring(name) => keyring::read(name),
        }
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::File {
        path: path.to_owned(),
        what: "read",
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let own = meta.uid() == rustix::process::geteuid().as_raw() || meta.uid() == 0;
    if meta.mode() & 0o077 != 0 || !own {
        return Err(KeyError::Open {
            path: path.to_owned(),
        });
    }
    // Of its full size at once: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(SOURCE_BYTES_MAX + 1));
    file.take(SOURCE_BYTES_MAX as u64)
        .read_to_end(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn derive(source: &KeySource, text: &[u8], salt: [u8; SALT_BYTES]) -> Result<Key, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let text = text.trim_ascii_end();
    match source {
        KeySource::File(_) | KeySource::Keyring(_) => {
            hex::decode_to_slice(text, &mut *bytes).map_err(|_| KeyError::Form {
                place: source.to_string(),
            })?;
        }
        KeySource::Passphrase(path) => {
            if text.len() < PASSPHRASE_BYTES_MIN {
                return Err(KeyError::Short { path: path.clone() });
            }
            let (memory, passes, lanes) = ARGON2;
            let made = Params::new(memory, passes, lanes, Some(KEY_BYTES)).and_then(|params| {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                    text,
                    &salt,
                    &mut *bytes,
                )
            });
            made.map_err(|_| KeyError::Form {
                place: source.to_string(),
            })?;
        }
    }
    Ok(Key { bytes, salt })
}
