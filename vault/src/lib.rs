//! Secrets at rest: one encrypted file, and the key that opens it; and the key of a directory that the kernel encrypts.
//!
//! All secrets lie in one file, as one ciphertext: whoever has the file learns its size, and neither names nor values. It
//! is written aside, synced and renamed, so that after a crash there is either the old file or the new one. Why so, and
//! not as records of the journal, is told in `docs/decisions`.
//!
//! Values are wiped from memory when they are dropped, and nothing of this crate shows them.

mod file;
mod key;
mod keyring;
mod plain;
mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use key::{KeyError, KeySource, PASSPHRASE_BYTES_MIN, SALT_BYTES};
pub use storage::{IDENTIFIER_BYTES, MASTER_BYTES, StorageKey};

use key::Key;

/// Longest name of a secret.
pub const NAME_BYTES_MAX: usize = 128;

/// Largest value: keys, tokens and certificates stay far below.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Most secrets of one vault. It is held in memory and written whole.
pub const SECRETS_MAX: usize = 1024;

/// Most agents or domains that one secret names.
pub const GRANTS_MAX: usize = 256;

/// Who may use a secret, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The agents; none at all when empty, any with `*`.
    pub agents: Vec<String>,
    /// Hosts to which meshd may add it. With any of them it is never given as a file.
    pub domains: Vec<String>,
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Who may use it.
    pub grant: Grant,
    /// When it was last set, in milliseconds since 1970.
    pub updated_ms: u64,
    /// How often it was set.
    pub version: u32,
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    grant: Grant,
    updated_ms: u64,
    version: u32,
    value: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("grant", &self.grant)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

type Secrets = BTreeMap<String, Kept>;

/// Why a vault does not open or change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Its file, or the directory, cannot be read or written.
    #[error("the vault {} cannot be {what}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file is there, and its key is not: without it, the secrets are lost.
    #[error(
        "the vault {} exists, but its key {key} does not; put the key back, or remove the vault and set its secrets anew",
        path.display()
    )]
    NoKey {
        /// The vault.
        path: PathBuf,
        /// Where the key was looked for.
        key: String,
    },
    /// The file is not one of this version's.
    #[error("{} is no vault of a version that this meshd knows", path.display())]
    Format {
        /// Where.
        path: PathBuf,
    },
    /// Wrong key, or a changed file: the two cannot be told apart.
    #[error(
        "the vault {} does not open with this key: the key or passphrase is another one, or the file was changed",
        path.display()
    )]
    Sealed {
        /// Where.
        path: PathBuf,
    },
    /// The name is none.
    #[error(
        "name: expected 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 - _ ., not starting with a full stop"
    )]
    Name,
    /// The value is empty or too long.
    #[error("value: expected 1 to {VALUE_BYTES_MAX} bytes")]
    Value,
    /// Too many agents or domains.
    #[error("at most {GRANTS_MAX} agents and as many domains can be named")]
    Grants,
    /// No more secrets fit.
    #[error("the vault holds {SECRETS_MAX} secrets, which is all it takes; delete some")]
    Full,
    /// There is none of that name.
    #[error("there is no secret {0}")]
    Unknown(String),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// Why a secret is not given to an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Withheld {
    /// There is none.
    #[error("there is no secret {0} in the vault; set it with `meshctl secret set {0} --agent …`")]
    Unknown(String),
    /// It belongs to others.
    #[error(
        "the secret {name} is not granted to {agent}; grant it with `meshctl secret set {name} --agent {agent}`"
    )]
    Agent {
        /// Which.
        name: String,
        /// To whom.
        agent: String,
    },
    /// It is only ever added to requests.
    #[error("the secret {0} is bound to domains, so no agent gets it as a file; use mode brokered")]
    Brokered(String),
    /// It does not go to that host.
    #[error("the secret {name} is not bound to {domain}")]
    Domain {
        /// Which.
        name: String,
        /// Where to.
        domain: String,
    },
}

/// An open vault.
#[derive(Debug)]
pub struct Vault {
    path: PathBuf,
    source: KeySource,
    /// Absent until there is something to encrypt.
    key: Option<Key>,
    secrets: Secrets,
}

impl Vault {
    /// Opens the vault in `path`; one that does not exist is empty, and needs no key yet.
    ///
    /// # Errors
    /// [`VaultError`]: it exists and does not open.
    pub fn open(path: &Path, source: KeySource) -> Result<Self, VaultError> {
        let mut vault = Self {
            path: path.to_owned(),
            source,
            key: None,
            secrets: Secrets::new(),
        };
        if let Some(bytes) = file::read(path)? {
            let header = file::Header::read(&bytes).ok_or_else(|| vault.not_known())?;
            let key = Key::existing(&vault.source, &header.salt, path)?;
            let sealed = VaultError::Sealed {
                path: path.to_owned(),
            };
            let text = file::unseal(&bytes, &key).ok_or(sealed)?;
            vault.secrets = plain::read(&text).ok_or_else(|| vault.not_known())?;
            vault.key = Some(key);
        }
        Ok(vault)
    }

    fn not_known(&self) -> VaultError {
        VaultError::Format {
            path: self.path.clone(),
        }
    }

    /// All secrets, without their values.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let listed = |(name, kept): (&String, &Kept)| Listed {
            name: name.clone(),
            grant: kept.grant.clone(),
            updated_ms: kept.updated_ms,
            version: kept.version,
        };
        self.secrets.iter().map(listed).collect()
    }

    /// Sets a secret; when it returns, that is durable. On an error the vault is as before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set(
        &mut self,
        name: &str,
        value: Zeroizing<Vec<u8>>,
        grant: Grant,
        now_ms: u64,
    ) -> Result<Listed, VaultError> {
        check_name(name)?;
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(VaultError::Value);
        }
        let fits =
            |list: &[String]| list.len() <= GRANTS_MAX && list.iter().all(|text| text.len() <= 253);
        if !fits(&grant.agents) || !fits(&grant.domains) {
            return Err(VaultError::Grants);
        }
        let before = self.secrets.get(name);
        if before.is_none() && self.secrets.len() >= SECRETS_MAX {
            return Err(VaultError::Full);
        }
        let version = before.map_or(1, |kept| kept.version.saturating_add(1));
        let kept = Kept {
            grant: grant.clone(),
            updated_ms: now_ms,
            version,
            value,
        };
        let mut changed = self.secrets.clone();
        changed.insert(name.to_owned(), kept);
        self.write(changed)?;
        Ok(Listed {
            name: name.to_owned(),
            grant,
            updated_ms: now_ms,
            version,
        })
    }

    /// Deletes a secret; when it returns, that is durable.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn delete(&mut self, name: &str) -> Result<(), VaultError> {
        let mut changed = self.secrets.clone();
        if changed.remove(name).is_none() {
            return Err(VaultError::Unknown(name.to_owned()));
        }
        self.write(changed)
    }

    fn write(&mut self, changed: Secrets) -> Result<(), VaultError> {
        let key = match self.key.take() {
            Some(key) => key,
            None => Key::new(&self.source)?,
        };
        let sealed = file::seal(&plain::write(&changed), &key);
        let written = sealed.and_then(|bytes| file::write(&self.path, &bytes));
        self.key = Some(key);
        written?;
        self.secrets = changed;
        Ok(())
    }

    /// The value for an agent to have as a file.
    ///
    /// # Errors
    /// [`Withheld`].
    pub fn mounted(&self, name: &str, agent: &str) -> Result<Zeroizing<Vec<u8>>, Withheld> {
        let kept = self.granted(name, agent)?;
        if !kept.grant.domains.is_empty() {
            return Err(Withheld::Brokered(name.to_owned()));
        }
        Ok(kept.value.clone())
    }

    /// The value for a request of an agent to a host. `covers` says whether a domain of the grant covers the host.
    ///
    /// # Errors
    /// [`Withheld`].
    pub fn brokered(
        &self,
        name: &str,
        agent: &str,
        host: &str,
        covers: impl Fn(&str) -> bool,
    ) -> Result<Zeroizing<Vec<u8>>, Withheld> {
        let kept = self.granted(name, agent)?;
        let domains = &kept.grant.domains;
        if !domains.is_empty() && !domains.iter().any(|domain| covers(domain)) {
            return Err(Withheld::Domain {
                name: name.to_owned(),
                domain: host.to_owned(),
            });
        }
        Ok(kept.value.clone())
    }

    /// Whether an agent may use a secret at all.
    ///
    /// # Errors
    /// [`Withheld`].
    pub fn permits(&self, name: &str, agent: &str) -> Result<(), Withheld> {
        self.granted(name, agent).map(drop)
    }

    fn granted(&self, name: &str, agent: &str) -> Result<&Kept, Withheld> {
        let kept = self
            .secrets
            .get(name)
            .ok_or_else(|| Withheld::Unknown(name.to_owned()))?;
        if kept
            .grant
            .agents
            .iter()
            .any(|granted| granted == "*" || granted == agent)
        {
            return Ok(kept);
        }
        Err(Withheld::Agent {
            name: name.to_owned(),
            agent: agent.to_owned(),
        })
    }
}

fn check_name(name: &str) -> Result<(), VaultError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let good = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(legal);
    if good { Ok(()) } else { Err(VaultError::Name) }
}

#[cfg(test)]
mod tests;
