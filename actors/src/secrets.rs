//! The vault as the mesh uses it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_messages::Timestamp;
use mesh_messages::manifest::{AgentManifest, SecretMode};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::secret::{SecretInfo, SecretWrite};
use mesh_vault::{Grant, KeySource, Listed, Vault, VaultError, Withheld};
use zeroize::Zeroizing;

use crate::clock::now;
use crate::sentinel::TOKEN_LEN;

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

/// What an agent may have as a file, and must not be seen in its log, nor in what meshd says and records of it.
#[derive(Default)]
pub(crate) struct Blotter {
    // Name and value, the longest first: one may begin with another.
    words: Vec<(String, Zeroizing<Vec<u8>>)>,
    // Whether it is given tokens of meshd, too; they come one after the other, and are known by their form.
    tokens: bool,
}

/// What stands in a log where a token was.
const TOKEN_MARK: &[u8] = b"[token]";

/// Shorter pieces of a secret are left alone: they would blot out half of every line, and tell by where they do.
const BLOT_MIN: usize = 6;

impl std::fmt::Debug for Blotter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blotter").finish_non_exhaustive()
    }
}

impl Blotter {
    /// For the files that this manifest asks for. What is not to be had now was not given either.
    pub(crate) fn new(shelf: &SecretShelf, manifest: &AgentManifest) -> Self {
        let mut words = Vec::new();
        for spec in &manifest.secrets {
            if spec.mode != SecretMode::Mount {
                continue;
            }
            let Ok(value) = shelf.mounted(spec.vault_name(), manifest.id.as_str()) else {
                continue;
            };
            // A log has lines, and so may a secret.
            for line in value.split(|byte| *byte == b'\n') {
                let line = line.trim_ascii();
                if line.len() >= BLOT_MIN {
                    words.push((spec.name.clone(), Zeroizing::new(line.to_vec())));
                }
            }
        }
        words.sort_by_key(|(_, word)| std::cmp::Reverse(word.len()));
        Self {
            words,
            tokens: manifest.security.session,
        }
    }

    /// Bytes beyond the end of a piece that have to be there before it is known where it may end.
    pub(crate) fn overlap(&self) -> usize {
        let longest = self.words.first().map_or(0, |(_, word)| word.len());
        longest.max(if self.tokens { TOKEN_LEN } else { 0 })
    }

    /// Where a piece of a text may end that should have about `about` bytes: in the midst of none of them. The text goes on
    /// by at least [`Blotter::overlap`].
    pub(crate) fn cut(&self, text: &[u8], about: usize) -> usize {
        let mut at = about;
        while let Some((start, _)) = self.spanning(text, at) {
            at = start;
        }
        if at > 0 {
            return at;
        }
        // It begins with one that is longer than a piece.
        at = about;
        while let Some((_, end)) = self.spanning(text, at) {
            at = end;
        }
        at
    }

    /// The secret that a cut here would cut in two.
    fn spanning(&self, text: &[u8], at: usize) -> Option<(usize, usize)> {
        let found = |(_, word): &(String, Zeroizing<Vec<u8>>)| {
            let beside = word.len() - 1;
            let from = at.saturating_sub(beside);
            let near = text.get(from..(at + beside).min(text.len()))?;
            let start = from + near.windows(word.len()).position(|part| part == **word)?;
            Some((start, start + word.len()))
        };
        let token = || {
            let from = at.saturating_sub(TOKEN_LEN - 1);
            let near = text.get(from..(at + TOKEN_LEN - 1).min(text.len()))?;
            let (start, end) = token_in(near)?;
            let across = from + start < at && at < from + end;
            across.then_some((from + start, from + end))
        };
        let word = self.words.iter().find_map(found);
        word.or_else(|| token().filter(|_| self.tokens))
    }

    /// Takes them out of a text for people, in whatever case: names of hosts are lowered on their way.
    pub(crate) fn text(&self, text: &mut String) {
        for (name, word) in &self.words {
            let same = |part: &[u8]| part.eq_ignore_ascii_case(word);
            let mark = format!("[secret {name}]");
            if let Some(without) = replace_where(text.as_bytes(), word.len(), same, mark.as_bytes())
            {
                *text = String::from_utf8_lossy(&without).into_owned();
            }
        }
        if self.tokens && token_in(text.as_bytes()).is_some() {
            let without = self.blot(std::mem::take(text).into_bytes());
            *text = String::from_utf8_lossy(&without).into_owned();
        }
    }

    /// The line without them.
    pub(crate) fn blot(&self, line: Vec<u8>) -> Vec<u8> {
        let mut line = self.words.iter().fold(line, |line, (name, word)| {
            let mark = format!("[secret {name}]");
            replace(line, word, mark.as_bytes())
        });
        while let Some((start, end)) = token_in(&line).filter(|_| self.tokens) {
            line.splice(start..end, TOKEN_MARK.iter().copied());
        }
        line
    }
}

/// Where a text has a token of meshd.
fn token_in(text: &[u8]) -> Option<(usize, usize)> {
    let at = |part: &[u8]| part.get(..TOKEN_LEN).is_some_and(crate::sentinel::is_token);
    let first = |start: &usize| text[*start..].starts_with(b"mesh_") && at(&text[*start..]);
    let start = (0..text.len()).find(first)?;
    Some((start, start + TOKEN_LEN))
}

/// The text with each occurrence of `word` replaced.
pub(crate) fn replace(line: Vec<u8>, word: &[u8], mark: &[u8]) -> Vec<u8> {
    replace_where(&line, word.len(), |part| part == word, mark).unwrap_or(line)
}

/// The text with each part of this length that is one replaced; `None` when there is none.
fn replace_where(
    text: &[u8],
    length: usize,
    is_one: impl Fn(&[u8]) -> bool,
    mark: &[u8],
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(length).position(&is_one) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(mark);
        rest = &rest[at + length..];
    }
    if rest.len() == text.len() {
        return None;
    }
    out.extend_from_slice(rest);
    Some(out)
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Blotter {
        /// For one secret of one line.
        pub(crate) fn of(name: &str, value: &str) -> Self {
            let word = Zeroizing::new(value.as_bytes().to_vec());
            Self {
                words: vec![(name.to_owned(), word)],
                tokens: true,
            }
        }
    }

    #[test]
    fn a_piece_ends_beside_a_secret_and_never_in_one() {
        let word = |value: &str| ("one".to_owned(), Zeroizing::new(value.as_bytes().to_vec()));
        let blotter = Blotter {
            tokens: false,
            words: vec![word("longer-secret"), word("secret")],
        };
        let text = b"a longer-secret and more";
        for about in 1..=16 {
            let expected = if (3..15).contains(&about) { 2 } else { about };
            assert_eq!(blotter.cut(text, about), expected, "{about}");
        }
        // One that begins the text is not cut either.
        assert_eq!(blotter.cut(b"secretsecret!", 4), 6);
        assert_eq!(Blotter::default().cut(b"anything", 3), 3);
    }

    #[test]
    fn a_line_loses_every_secret_and_nothing_else() {
        let word =
            |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.as_bytes().to_vec()));
        let blotter = Blotter {
            tokens: true,
            words: vec![word("long", "s3cret-word-2"), word("short", "s3cret")],
        };
        for (line, blotted) in [
            ("nothing here", "nothing here"),
            ("s3cret", "[secret short]"),
            (
                "a s3cret-word-2, s3crets3cret.",
                "a [secret long], [secret short][secret short].",
            ),
            ("", ""),
        ] {
            assert_eq!(blotter.blot(line.into()), blotted.as_bytes(), "{line}");
        }
    }
}
