//! Who signs for a log: the key that is its name, and the keys that took over from it, one after the other.
//!
//! ```text
//! did:key:z6MkA…/key-succession      the log, whose name stays
//! 1                                  which one it is, from 1
//! 4711 PlRNCrwHpqhGrupue0L7gx…=      the last tree that the old key speaks for: its size and root
//! did:key:z6MkA…                     the old key
//! did:key:z6MkB…                     the new one, which signs every larger tree
//! rotated                            or `compromised`: the old key is in wrong hands
//!
//! — did:key:z6MkA… 8Zg2…             by the old key
//! — did:key:z6MkA… a0Qv…             by the new one
//! ```
//!
//! Both signatures bear the log's name, as those of its checkpoints do; the key's id tells them apart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_messages::identity::{DidKey, SigningKey};
use signed_note::Note;
use tlog_tiles::{Checkpoint, Hash};

use crate::checkpoint::{
    CheckpointClaim, CheckpointInvalid, bears, line_of, split_notes, verify_by,
};

/// What such a note is about, for its first line.
pub(crate) const ABOUT: &str = "key-succession";

/// Most keys that take over, one after the other: one a month for eighty years. Each verifier checks all of them.
pub const SUCCESSIONS_MAX: usize = 1000;

/// The last line when the key was changed in good order.
const ROTATED: &str = "rotated";
/// The last line when the old key is in wrong hands.
const COMPROMISED: &str = "compromised";

/// Why a note does not say who signs for a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuccessionInvalid {
    /// Not such a note.
    #[error("it is no succession of a log's key: {0}")]
    Malformed(String),
    /// Of another log.
    #[error("it is of log {found}, not of {expected}")]
    OtherLog {
        /// Whose it should be.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// One of the two keys did not sign it.
    #[error("it does not bear a valid signature by {0}")]
    Signature(String),
    /// It is not the one that follows.
    #[error(
        "it is number {found}, where number {expected} follows: one is missing, doubled or moved"
    )]
    Order {
        /// Which one follows.
        expected: u64,
        /// Which one it is.
        found: u64,
    },
    /// The key that hands over is not the one in force.
    #[error("{found} hands over, but {expected} is the key in force")]
    NotInForce {
        /// The key in force.
        expected: String,
        /// Who hands over.
        found: String,
    },
    /// The key that takes over was the log's before.
    #[error("{0} was a key of this log before; a key is used once")]
    Used(String),
    /// Trees that are not larger are signed by the key before it.
    #[error("it is from {found} records on, but for up to {last} another key has signed")]
    Size {
        /// For how many records another key has signed.
        last: u64,
        /// Where it begins.
        found: u64,
    },
    /// There are too many.
    #[error("a log has at most {SUCCESSIONS_MAX} of them")]
    TooMany,
}

/// One key takes over from another.
#[derive(Debug, Clone, PartialEq)]
pub struct Succession {
    /// Which one it is, from 1.
    pub number: u64,
    /// How many records the last tree has that the old key speaks for.
    pub size: u64,
    /// The root of that tree.
    pub root: Hash,
    /// The old key.
    pub old: DidKey,
    /// The new key: every larger tree is signed by it.
    pub new: DidKey,
    /// Whether the old key is in wrong hands: nothing that it signs is believed any more.
    pub compromised: bool,
    /// The note.
    pub note: String,
}

impl Succession {
    /// Reads a note of the log `log`, and checks that both keys that it names have signed it.
    ///
    /// Whether the old one was in force is for [`LogKeys::add`] to say.
    ///
    /// # Errors
    /// [`SuccessionInvalid`].
    pub fn read(note: &str, log: &DidKey) -> Result<Self, SuccessionInvalid> {
        let malformed = |why: &str| SuccessionInvalid::Malformed(why.to_owned());
        let parsed = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(&e.to_string()))?;
        let text = std::str::from_utf8(parsed.text()).map_err(|_| malformed("it is not UTF-8"))?;
        let lines: Vec<&str> = text.split('\n').collect();
        let &[first, number, tree, old, new, why, ""] = lines.as_slice() else {
            return Err(malformed("it has not six lines"));
        };
        let of = first
            .strip_suffix(ABOUT)
            .and_then(|of| of.strip_suffix('/'))
            .ok_or_else(|| malformed("it is about something else"))?;
        if of != log.to_string() {
            let (expected, found) = (log.to_string(), of.to_owned());
            return Err(SuccessionInvalid::OtherLog { expected, found });
        }
        let key = |text: &str| {
            let key = text
                .parse()
                .ok()
                .filter(|key: &DidKey| key.to_string() == text);
            key.filter(|key| key.ed25519_bytes().is_some())
                .ok_or_else(|| malformed("a line is no ed25519 key"))
        };
        let (old, new) = (key(old)?, key(new)?);
        let (size, root) = tree
            .split_once(' ')
            .ok_or_else(|| malformed("it names no tree"))?;
        let size = canonical(size).ok_or_else(|| malformed("its size is no number"))?;
        let decoded = BASE64.decode(root).ok().and_then(|b| b.try_into().ok());
        let root = Hash(decoded.ok_or_else(|| malformed("its root is no hash"))?);
        let number = canonical(number).ok_or_else(|| malformed("it has no number"))?;
        let compromised = match why {
            ROTATED => false,
            COMPROMISED => true,
            _ => return Err(malformed("it says neither rotated nor compromised")),
        };
        let signatures = note.get(parsed.text().len()..).unwrap_or_default();
        let lines: Vec<&str> = signatures.trim_matches('\n').split('\n').collect();
        let &[by_old, by_new] = lines.as_slice() else {
            return Err(malformed("it has not exactly two signatures"));
        };
        for (line, key) in [(by_old, &old), (by_new, &new)] {
            if !bears(line, parsed.text(), log, key) {
                return Err(SuccessionInvalid::Signature(key.to_string()));
            }
        }
        Ok(Self {
            number,
            size,
            root,
            old,
            new,
            compromised,
            note: note.to_owned(),
        })
    }
}

fn canonical(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

/// The keys of a log, in the order in which they signed for it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogKeys {
    log: DidKey,
    // Invariant: each follows from the one before it.
    successions: Vec<Succession>,
}

impl LogKeys {
    /// Of a log whose first key still signs.
    pub fn of(log: DidKey) -> Self {
        Self {
            log,
            successions: Vec::new(),
        }
    }

    /// Reads all successions of a log, one note after the other. None at all means that its first key still signs.
    ///
    /// # Errors
    /// [`SuccessionInvalid`] of the first one that does not follow.
    pub fn read(log: DidKey, text: &str) -> Result<Self, SuccessionInvalid> {
        let mut keys = Self::of(log);
        for note in split_notes(text) {
            keys.add(&note)?;
        }
        Ok(keys)
    }

    /// The same for whatever log the first of them names; `None` when there is none.
    ///
    /// # Errors
    /// [`SuccessionInvalid`].
    pub(crate) fn read_any(text: &str) -> Result<Option<Self>, SuccessionInvalid> {
        let notes = split_notes(text);
        let Some(first) = notes.first() else {
            return Ok(None);
        };
        let log = log_of(first)
            .ok_or_else(|| SuccessionInvalid::Malformed("it is about something else".to_owned()))?;
        Self::read(log, text).map(Some)
    }

    /// Takes the next succession in, if it follows from what is there.
    ///
    /// # Errors
    /// [`SuccessionInvalid`]; then nothing has changed.
    pub fn add(&mut self, note: &str) -> Result<(), SuccessionInvalid> {
        let next = Succession::read(note, &self.log)?;
        self.check_follows(&next)?;
        self.successions.push(next);
        Ok(())
    }

    fn check_follows(&self, next: &Succession) -> Result<(), SuccessionInvalid> {
        if self.successions.len() >= SUCCESSIONS_MAX {
            return Err(SuccessionInvalid::TooMany);
        }
        let expected = self.successions.len() as u64 + 1;
        if next.number != expected {
            let found = next.number;
            return Err(SuccessionInvalid::Order { expected, found });
        }
        if next.old != *self.current() {
            let (expected, found) = (self.current().to_string(), next.old.to_string());
            return Err(SuccessionInvalid::NotInForce { expected, found });
        }
        if self.knows(&next.new) {
            return Err(SuccessionInvalid::Used(next.new.to_string()));
        }
        let last = self.successions.last().map_or(0, |before| before.size);
        if next.size <= last {
            let found = next.size;
            return Err(SuccessionInvalid::Size { last, found });
        }
        Ok(())
    }

    /// The log's name, which is its first key.
    pub fn log(&self) -> &DidKey {
        &self.log
    }

    /// The key in force.
    pub fn current(&self) -> &DidKey {
        self.successions.last().map_or(&self.log, |last| &last.new)
    }

    /// The key that signs the tree of this size.
    pub fn at(&self, size: u64) -> &DidKey {
        let before = self.successions.partition_point(|one| one.size < size);
        match before.checked_sub(1).and_then(|n| self.successions.get(n)) {
            Some(succession) => &succession.new,
            None => &self.log,
        }
    }

    /// Whether a key is or was the log's.
    pub fn knows(&self, key: &DidKey) -> bool {
        *key == self.log || self.successions.iter().any(|one| one.new == *key)
    }

    /// All successions, in order.
    pub fn successions(&self) -> &[Succession] {
        &self.successions
    }

    /// All notes, one after the other, as [`LogKeys::read`] takes them; empty while the first key signs.
    pub fn to_text(&self) -> String {
        let notes: Vec<&str> = self
            .successions
            .iter()
            .map(|one| one.note.as_str())
            .collect();
        notes.join("\n")
    }

    /// Checks that `note` is a checkpoint of this log, signed by the key that signs trees of its size.
    ///
    /// # Errors
    /// [`CheckpointInvalid`].
    pub fn verify_checkpoint(&self, note: &str) -> Result<CheckpointClaim, CheckpointInvalid> {
        signed_checkpoint(note, &self.log, |size| self.at(size))
    }
}

/// Checks that `note` is a checkpoint of `log`, signed by the key that signs trees of its size.
pub(crate) fn signed_checkpoint<'a>(
    note: &str,
    log: &DidKey,
    key_at: impl FnOnce(u64) -> &'a DidKey,
) -> Result<CheckpointClaim, CheckpointInvalid> {
    let malformed = |detail: String| CheckpointInvalid::Malformed(detail);
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let claim = Checkpoint::from_bytes(note.text()).map_err(|e| malformed(e.to_string()))?;
    let name = log.to_string();
    if claim.origin() != name {
        return Err(CheckpointInvalid::OtherLog {
            expected: name,
            found: claim.origin().to_owned(),
        });
    }
    verify_by(&note, log, key_at(claim.size()))?;
    Ok(CheckpointClaim {
        size: claim.size(),
        root: *claim.hash(),
    })
}

/// The log that a note claims to be a succession of.
pub(crate) fn log_of(note: &str) -> Option<DidKey> {
    let first = note.split('\n').next()?;
    first.strip_suffix(ABOUT)?.strip_suffix('/')?.parse().ok()
}

/// The keys of a log, and the secret of the one in force.
#[derive(Debug, Clone)]
pub struct LogSigner {
    keys: LogKeys,
    secret: SigningKey,
}

impl LogSigner {
    /// Of a log whose first key is `secret`.
    pub fn new(secret: SigningKey) -> Self {
        Self {
            keys: LogKeys::of(secret.public()),
            secret,
        }
    }

    /// `None` when the secret is not that of the key in force.
    pub fn with_keys(keys: LogKeys, secret: SigningKey) -> Option<Self> {
        (*keys.current() == secret.public()).then_some(Self { keys, secret })
    }

    /// The log's keys.
    pub fn keys(&self) -> &LogKeys {
        &self.keys
    }

    /// The secret of the key in force.
    pub fn secret(&self) -> &SigningKey {
        &self.secret
    }

    /// The signer after this one hands over at a tree, which it has signed as its last.
    ///
    /// # Errors
    /// [`SuccessionInvalid`] when the new key cannot take over there.
    pub fn succeeded(
        &self,
        tree: CheckpointClaim,
        new: SigningKey,
        compromised: bool,
    ) -> Result<Self, SuccessionInvalid> {
        let log = self.keys.log;
        let number = self.keys.successions.len() + 1;
        let (old_key, new_key) = (self.secret.public(), new.public());
        let root = BASE64.encode(tree.root.0);
        let why = if compromised { COMPROMISED } else { ROTATED };
        let text = format!(
            "{log}/{ABOUT}\n{number}\n{} {root}\n{old_key}\n{new_key}\n{why}\n",
            tree.size
        );
        let by_old = line_of(&log, &self.secret, text.as_bytes());
        let by_new = line_of(&log, &new, text.as_bytes());
        let mut keys = self.keys.clone();
        keys.add(&format!("{text}\n{by_old}{by_new}"))?;
        Ok(Self { keys, secret: new })
    }

    /// Makes the signed note for a tree. A tree that an earlier key spoke for is not signed again.
    pub(crate) fn sign(&self, claim: CheckpointClaim) -> Result<String, String> {
        let by = self.keys.at(claim.size);
        if *by != self.secret.public() {
            return Err(format!("{by} signs for trees of {} records", claim.size));
        }
        let log = self.keys.log;
        let text = Checkpoint::new(&log.to_string(), claim.size, claim.root, "")
            .map_err(|e| e.to_string())?
            .to_bytes();
        self.sign_text(&text)
    }

    /// Makes the signed note for something else that is said of the log. Its first line is `<log>/<about>`, which is no
    /// log's origin, so that no such note can be passed off as a checkpoint.
    pub(crate) fn attest(&self, about: &str, statement: &str) -> Result<String, String> {
        self.sign_text(format!("{}/{about}\n{statement}\n", self.keys.log).as_bytes())
    }

    fn sign_text(&self, text: &[u8]) -> Result<String, String> {
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        let line = line_of(&self.keys.log, &self.secret, text.as_bytes());
        let note = format!("{text}\n{line}");
        // Whoever reads it is as strict.
        Note::from_bytes(note.as_bytes()).map_err(|e| e.to_string())?;
        Ok(note)
    }
}
