//! Checkpoints as C2SP signed notes, signed with the node's ed25519 key.
//!
//! Origin and key name are both the log's id, the `did:key` of its first key. Which key must have signed a note follows from
//! the log's [successions](crate::succession); the key's id in the signature tells which one did.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use mesh_messages::identity::{DidKey, SigningKey};
use signed_note::Note;
use tlog_tiles::Hash;

use crate::succession::LogKeys;

/// Algorithm byte of an ed25519 signature in a signed note.
const ALG_ED25519: u8 = 1;
/// What begins a line of signature.
pub(crate) const SIGNATURE_LINE: &str = "\u{2014} ";

/// Why a note is not a checkpoint of the log it should be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointInvalid {
    /// Not a C2SP signed note with a checkpoint in it.
    #[error("it is not a signed checkpoint: {0}")]
    Malformed(String),
    /// Of another log.
    #[error("it is of log {found}, not of {expected}")]
    OtherLog {
        /// Whose it should be.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// The key did not sign it.
    #[error("it does not bear a valid signature by {0}")]
    Signature(String),
}

/// What a valid checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckpointClaim {
    /// How many records it covers.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// The line of a signature over a note's text, in the log's name.
pub(crate) fn line_of(log: &DidKey, key: &SigningKey, text: &[u8]) -> String {
    let name = log.to_string();
    let secret = ed25519_dalek::SigningKey::from_bytes(key.secret_bytes());
    let mut bytes = key_id(&name, &key.public()).to_be_bytes().to_vec();
    bytes.extend_from_slice(&secret.sign(text).to_bytes());
    format!("{SIGNATURE_LINE}{name} {}\n", BASE64.encode(bytes))
}

/// Whether a line is the signature of `key` over a note's text, in the log's name.
pub(crate) fn bears(line: &str, text: &[u8], log: &DidKey, key: &DidKey) -> bool {
    let name = log.to_string();
    let verifier = NodeVerifier {
        id: key_id(&name, key),
        key: *key,
    };
    signed_note::Signature::from_bytes(line.as_bytes()).is_ok_and(|signature| {
        signature.name() == name
            && signature.id() == verifier.id
            && verifier.verify(text, signature.signature())
    })
}

/// Splits notes that follow each other: after the signatures of one begins the text of the next.
pub(crate) fn split_notes(text: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let (mut note, mut signed) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        let is_signature = line.starts_with(SIGNATURE_LINE);
        if signed && !is_signature {
            notes.push(std::mem::take(&mut note));
            signed = false;
            if line.trim().is_empty() {
                continue;
            }
        }
        if note.is_empty() && line.trim().is_empty() {
            continue;
        }
        note.push_str(line);
        signed |= is_signature;
    }
    if !note.is_empty() {
        if !note.ends_with('\n') {
            note.push('\n');
        }
        notes.push(note);
    }
    notes
}

/// What a note says that the key in force signed of the log, without its first line.
pub(crate) fn verify_attested(
    note: &str,
    keys: &LogKeys,
    about: &str,
) -> Result<String, CheckpointInvalid> {
    let malformed = |detail: &str| CheckpointInvalid::Malformed(detail.to_owned());
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(&e.to_string()))?;
    let text = std::str::from_utf8(note.text()).map_err(|_| malformed("it is not UTF-8"))?;
    let statement = text
        .strip_prefix(&format!("{}/{about}\n", keys.log()))
        .ok_or_else(|| malformed("it is about something else"))?;
    verify_by(&note, keys.log(), keys.current())?;
    Ok(statement.trim_end_matches('\n').to_owned())
}

/// Checks that the key signed a note in the log's name. Of several signatures by it each has to hold, though one would do: whoever reads only
/// the first, or only the last, comes to the same end.
pub(crate) fn verify_by(note: &Note, log: &DidKey, key: &DidKey) -> Result<(), CheckpointInvalid> {
    let name = log.to_string();
    let verifier = NodeVerifier {
        id: key_id(&name, key),
        key: *key,
    };
    let written = note.to_bytes();
    let block = written.get(note.text().len()..).unwrap_or_default();
    let mut held = false;
    for line in block.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let signature = signed_note::Signature::from_bytes(line)
            .map_err(|e| CheckpointInvalid::Malformed(e.to_string()))?;
        if signature.name() == name && signature.id() == verifier.id {
            if !verifier.verify(note.text(), signature.signature()) {
                return Err(CheckpointInvalid::Signature(key.to_string()));
            }
            held = true;
        }
    }
    held.then_some(())
        .ok_or_else(|| CheckpointInvalid::Signature(key.to_string()))
}

/// Checks that `note` is a checkpoint of the log whose name is `key`, signed by that key, its first.
///
/// # Errors
/// [`CheckpointInvalid`].
pub fn verify_checkpoint(note: &str, key: &DidKey) -> Result<CheckpointClaim, CheckpointInvalid> {
    LogKeys::of(*key).verify_checkpoint(note)
}

fn key_id(name: &str, key: &DidKey) -> u32 {
    let mut encoded = [ALG_ED25519; 33];
    // A key of another kind has no id here, and no signature holds for it.
    encoded[1..].copy_from_slice(&key.ed25519_bytes().unwrap_or_default());
    signed_note::key_id(name, &encoded)
}

/// Verifies strictly, as everything else here does; the verifier of `signed_note` accepts more.
struct NodeVerifier {
    id: u32,
    key: DidKey,
}

impl NodeVerifier {
    fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        let key = self.key.ed25519_bytes();
        let key = key.map(|bytes| VerifyingKey::from_bytes(&bytes));
        let (Ok(signature), Some(Ok(key))) = (Signature::from_slice(sig), key) else {
            return false;
        };
        key.verify_strict(msg, &signature).is_ok()
    }
}
