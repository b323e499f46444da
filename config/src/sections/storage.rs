//! The data directory at rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The data directory at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Whether the kernel encrypts the data directory.
    pub encryption: StorageEncryption,
    /// A file with the key that its key is derived from, outside of the data directory; made with the directory when it is
    /// missing.
    pub key_file: Option<String>,
    /// A file with a passphrase, from which it is derived instead.
    pub passphrase_file: Option<String>,
    /// The description of a key of type `user` in the kernel's keyring that holds it as 64 hexadecimal digits. It is on no
    /// disk, and has to be put there after each start of the machine.
    #[schemars(length(min = 1, max = 255))]
    pub keyring: Option<String>,
}

/// Whether the kernel encrypts the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageEncryption {
    /// No: it is as readable as the disk below it.
    #[default]
    Off,
    /// Yes, by fscrypt; meshd does not start where that cannot be had, or where the directory holds plain data.
    Required,
}
