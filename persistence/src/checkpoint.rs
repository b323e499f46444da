//! Checkpoints as C2SP signed notes, signed with the node's ed25519 key.
//!
//! Origin and key name are both the log's id, the node's `did:key`, so a note names the key that must have signed it.

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use mesh_messages::identity::{DidKey, SigningKey};
use signed_note::Note;
use tlog_tiles::{Checkpoint, Hash};

/// Algorithm byte of an ed25519 signature in a signed note.
const ALG_ED25519: u8 = 1;

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

/// Makes the signed note for a tree.
pub(crate) fn sign(key: &SigningKey, claim: CheckpointClaim) -> Result<String, String> {
    let text = Checkpoint::new(&key.public().to_string(), claim.size, claim.root, "")
        .map_err(|e| e.to_string())?
        .to_bytes();
    sign_text(key, &text)
}

/// Makes the signed note for something else that is said of the log. Its first line is `<log>/<about>`, which is no log's
/// origin, so that no such note can be passed off as a checkpoint.
pub(crate) fn attest(key: &SigningKey, about: &str, statement: &str) -> Result<String, String> {
    let text = format!("{}/{about}\n{statement}\n", key.public());
    sign_text(key, text.as_bytes())
}

fn sign_text(key: &SigningKey, text: &[u8]) -> Result<String, String> {
    let public = key.public();
    let name = public.to_string();
    let key = ed25519_dalek::SigningKey::from_bytes(key.secret_bytes());
    let signature = key.sign(text).to_bytes().to_vec();
    let id = key_id(&name, &public);
    let signature = signed_note::Signature::new(name, id, signature).map_err(|e| e.to_string())?;
    let note = Note::new(text, &[signature]).map_err(|e| e.to_string())?;
    String::from_utf8(note.to_bytes()).map_err(|e| e.to_string())
}

/// What a note made by [`attest`] says, without its first line.
pub(crate) fn verify_attested(
    note: &str,
    key: &DidKey,
    about: &str,
) -> Result<String, CheckpointInvalid> {
    let malformed = |detail: &str| CheckpointInvalid::Malformed(detail.to_owned());
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(&e.to_string()))?;
    let text = std::str::from_utf8(note.text()).map_err(|_| malformed("it is not UTF-8"))?;
    let statement = text
        .strip_prefix(&format!("{key}/{about}\n"))
        .ok_or_else(|| malformed("it is about something else"))?;
    verify_by(&note, key)?;
    Ok(statement.trim_end_matches('\n').to_owned())
}

/// Checks that the key signed a note. Of several signatures by it each has to hold, though one would do: whoever reads only
/// the first, or only the last, comes to the same end.
fn verify_by(note: &Note, key: &DidKey) -> Result<(), CheckpointInvalid> {
    let name = key.to_string();
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
                return Err(CheckpointInvalid::Signature(name));
            }
            held = true;
        }
    }
    held.then_some(()).ok_or(CheckpointInvalid::Signature(name))
}

/// Checks that `note` is a checkpoint of the log whose id is `key`, signed by that key.
///
/// # Errors
/// [`CheckpointInvalid`].
pub fn verify_checkpoint(note: &str, key: &DidKey) -> Result<CheckpointClaim, CheckpointInvalid> {
    let malformed = |detail: String| CheckpointInvalid::Malformed(detail);
    let name = key.to_string();
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let claim = Checkpoint::from_bytes(note.text()).map_err(|e| malformed(e.to_string()))?;
    if claim.origin() != name {
        return Err(CheckpointInvalid::OtherLog {
            expected: name,
            found: claim.origin().to_owned(),
        });
    }
    verify_by(&note, key)?;
    Ok(CheckpointClaim {
        size: claim.size(),
        root: *claim.hash(),
    })
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
