//! The vault as the mesh uses it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_messages::Timestamp;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::secret::{SecretInfo, SecretWrite};
use mesh_vault::{Grant, KeySource, Listed, Vault, VaultError, Withheld};
use zeroize::Zeroizing;

use crate::clock::now;

/// The vault's file, below the data directory.
const VAULT_FILE: &str = "secrets/vault";

/// The key's file, below the data directory, when the operator names no other.
const KEY_FILE: &str = "vault.key";

/// The vault, or why there is none: meshd runs without it, and agents that need a secret do not start.
#[derive(Debug)]
pub struct SecretShelf {
    vault: Result<Mutex<Vault>, String>,
}

impl SecretShelf {
    /// Opens the vault of a data directory. A vault that does not open is told in the log and by every use.
    #[must_use]
    pub fn open(data: &Path, key: Option<&KeySource>) -> Self {
        let opened = open(data, key);
        let shelf = Self {
            vault: opened.map(Mutex::new).map_err(|error| {
                let text = chain(&error);
                tracing::error!(
                    error = text,
                    "the vault does not open; agents that need a secret do not start"
                );
                text
            }),
        };
        if shelf.vault().is_ok_and(|vault| !vault.list().is_empty()) {
            keep_out_of_dumps();
        }
        shelf
    }

    /// How many secrets the vault of a data directory holds, without using it; for the doctor.
    ///
    /// # Errors
    /// Why it does not open.
    pub fn examine(data: &Path, key: Option<&KeySource>) -> Result<usize, String> {
        let vault = open(data, key).map_err(|error| chain(&error))?;
        Ok(vault.list().len())
    }

    fn vault(&self) -> Result<MutexGuard<'_, Vault>, String> {
        match &self.vault {
            // A vault that panicked in the middle has not changed what it holds: it changes last, and at once.
            Ok(vault) => Ok(vault.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(reason) => Err(reason.clone()),
        }
    }

    fn usable(&self) -> Result<MutexGuard<'_, Vault>, Problem> {
        self.vault()
            .map_err(|reason| Problem::unavailable("vault_unavailable", reason))
    }

    /// All secrets, without their values.
    ///
    /// # Errors
    /// `vault_unavailable`.
    pub fn list(&self) -> Result<Vec<SecretInfo>, Problem> {
        Ok(self.usable()?.list().into_iter().map(info).collect())
    }

    /// Sets a secret; when it returns, that is durable. Blocks for the disk.
    ///
    /// # Errors
    /// `invalid_secret`, `vault_full`, `vault_unavailable`.
    pub fn set(&self, name: &str, secret: SecretWrite) -> Result<SecretInfo, Problem> {
        let grant = Grant {
            agents: secret.agents,
            domains: secret.domains,
        };
        for domain in &grant.domains {
            mesh_egress::Pattern::parse(domain).map_err(|error| {
                Problem::invalid("invalid_secret", "domains", format!("{domain:?}: {error}"))
            })?;
        }
        keep_out_of_dumps();
        let set = self
            .usable()?
            .set(name, secret.value.into_bytes(), grant, now().as_millis());
        set.map(info).map_err(problem)
    }

    /// Deletes a secret; when it returns, that is durable. Blocks for the disk.
    ///
    /// # Errors
    /// `secret_not_found`, `vault_unavailable`.
    pub fn delete(&self, name: &str) -> Result<(), Problem> {
        self.usable()?.delete(name).map_err(problem)
    }

    /// The value for an agent to have as a file.
    pub(crate) fn mounted(&self, name: &str, agent: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        self.vault()?
            .mounted(name, agent)
            .map_err(|error| error.to_string())
    }

    /// Whether an agent may use a secret at all.
    pub(crate) fn permits(&self, name: &str, agent: &str) -> Result<(), String> {
        self.vault()?
            .permits(name, agent)
            .map_err(|error| error.to_string())
    }

    /// The value for a request of an agent to a host.
    pub(crate) fn brokered(
        &self,
        name: &str,
        agent: &str,
        host: &str,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let parsed = mesh_egress::Host::parse(host).ok()?;
        let covers = |domain: &str| {
            mesh_egress::Pattern::parse(domain).is_ok_and(|pattern| pattern.matches(&parsed))
        };
        let given: Result<_, Withheld> = self.vault().ok()?.brokered(name, agent, host, covers);
        given.ok()
    }
}

fn open(data: &Path, key: Option<&KeySource>) -> Result<Vault, VaultError> {
    let source = key
        .cloned()
        .unwrap_or_else(|| KeySource::File(data.join(KEY_FILE)));
    Vault::open(&data.join(VAULT_FILE), source)
}

/// From the first secret on, no dump of this process is written and no other process of its user reads its memory.
fn keep_out_of_dumps() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core dump of meshd would hold secrets");
    }
}

fn info(listed: Listed) -> SecretInfo {
    SecretInfo {
        name: listed.name,
        agents: listed.grant.agents,
        domains: listed.grant.domains,
        updated: Timestamp::from_millis(listed.updated_ms),
        version: listed.version,
    }
}

fn chain(error: &VaultError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn problem(error: VaultError) -> Problem {
    let text = chain(&error);
    match error {
        VaultError::Name => Problem::invalid("invalid_secret", "name", text),
        VaultError::Value => Problem::invalid("invalid_secret", "value", text),
        VaultError::Grants => Problem::invalid("invalid_secret", "agents", text),
        VaultError::Full => Problem::new(ProblemKind::Conflict, "vault_full", text),
        VaultError::Unknown(_) => Problem::new(ProblemKind::NotFound, "secret_not_found", text),
        _ => Problem::unavailable("vault_unavailable", text),
    }
}
