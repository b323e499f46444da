//! The key of a whole directory that the kernel encrypts (fscrypt), from the same sources as the vault's.
//!
//! The source's key never reaches the kernel: what does is derived from it and from a salt of the directory's own, so that
//! two directories under one source have two keys, and closing one leaves the other open.

use std::fmt;

use hkdf::Hkdf;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use crate::VaultError;
use crate::key::{Key, KeyError, KeySource, SALT_BYTES};

/// Bytes of a master key of fscrypt: the most that it takes.
pub const MASTER_BYTES: usize = 64;

/// Bytes by which the kernel names a master key.
pub const IDENTIFIER_BYTES: usize = 16;

/// What the derived key is for; another use of the same source has another label.
const LABEL: &[u8] = b"meshd/1 storage fscrypt master key";

/// What the kernel derives a key's name with: `fscrypt`, zero, and the number of this use (`fs/crypto/fscrypt_private.h`).
const IDENTIFIER_LABEL: &[u8] = b"fscrypt\0\x01";

/// The master key of one directory. Wiped when dropped, and shown by nothing.
pub struct StorageKey {
    master: Zeroizing<[u8; MASTER_BYTES]>,
    salt: [u8; SALT_BYTES],
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey")
    }
}

impl StorageKey {
    /// The key of a directory that is about to be encrypted: under a fresh salt, and with a key file that is made when there
    /// is none.
    ///
    /// # Errors
    /// [`VaultError::Key`] when the source gives none, [`VaultError::Random`].
    pub fn make(source: &KeySource) -> Result<Self, VaultError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| VaultError::Random)?;
        if let KeySource::File(_) = source {
            // Makes the file when it is missing.
            Key::new(source)?;
        }
        Ok(Self::existing(source, salt)?)
    }

    /// The key of a directory that was encrypted with this salt. Whether it is the one is told by [`identifier`].
    ///
    /// [`identifier`]: StorageKey::identifier
    ///
    /// # Errors
    /// [`KeyError`]: the source gives none.
    pub fn existing(source: &KeySource, salt: [u8; SALT_BYTES]) -> Result<Self, KeyError> {
        let key = Key::derived(source, salt)?;
        let mut master = Zeroizing::new([0; MASTER_BYTES]);
        // It fails only for more than 255 digests.
        let _infallible = Hkdf::<Sha256>::new(Some(&salt), &*key.bytes).expand(LABEL, &mut *master);
        Ok(Self { master, salt })
    }

    /// What the kernel is given.
    #[must_use]
    pub fn master(&self) -> &[u8; MASTER_BYTES] {
        &self.master
    }

    /// What has to be kept beside the directory; no secret.
    #[must_use]
    pub fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt
    }

    /// The name that the kernel gives this key; no secret. A directory's policy bears it.
    #[must_use]
    pub fn identifier(&self) -> [u8; IDENTIFIER_BYTES] {
        let mut name = [0; IDENTIFIER_BYTES];
        let _infallible =
            Hkdf::<Sha512>::new(None, &*self.master).expand(IDENTIFIER_LABEL, &mut name);
        name
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn owned(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn one_source_and_salt_give_one_key_and_another_of_either_gives_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeySource::File(owned(&dir, "key", &"ab".repeat(32)));
        let other = KeySource::File(owned(&dir, "other", &"ac".repeat(32)));
        let phrase = KeySource::Passphrase(owned(&dir, "phrase", "correct horse battery"));
        for source in [file.clone(), phrase] {
            let made = StorageKey::make(&source).unwrap();
            let again = StorageKey::existing(&source, made.salt()).unwrap();
            assert_eq!(made.master(), again.master());
            assert_eq!(made.identifier(), again.identifier());
            assert_ne!(made.master(), StorageKey::make(&source).unwrap().master());
            let stranger = StorageKey::existing(&other, made.salt()).unwrap();
            assert_ne!(made.identifier(), stranger.identifier());
        }
    }

    #[test]
    fn the_source_s_key_is_not_what_the_kernel_gets_and_nothing_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::File(owned(&dir, "key", &"ab".repeat(32)));
        let key = StorageKey::existing(&source, [7; SALT_BYTES]).unwrap();
        assert!(key.master().windows(4).all(|bytes| bytes != [0xab; 4]));
        assert_eq!(format!("{key:?}"), "StorageKey");
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_and_a_missing_one_is_told_later() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::File(dir.path().join("keys/storage"));
        let first = StorageKey::make(&source).unwrap();
        let mode = fs::metadata(dir.path().join("keys/storage")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let again = StorageKey::existing(&source, first.salt()).unwrap();
        assert_eq!(first.identifier(), again.identifier());
        fs::remove_file(dir.path().join("keys/storage")).unwrap();
        let missing = StorageKey::existing(&source, first.salt()).unwrap_err();
        assert!(matches!(missing, KeyError::File { .. }), "{missing}");
    }
}
