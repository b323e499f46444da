//! Signatures of envelopes.

use serde_json::Value;

use super::field::Sent;
use super::{Auth, Envelope};
use crate::identity::{DidKey, SigningKey};
use crate::ids::{AgentId, Epoch};
use crate::json;

/// What every signed text of this protocol begins with, so that no other text can be passed off as an envelope.
const DOMAIN: &[u8] = b"KLP/1\n";

/// What an agent signs to prove at its handshake that it holds a key.
///
/// Everything that meshd told it stands in it, so that a proof is good for one incarnation at one node, once.
pub fn handshake_proof(node: &str, agent: &AgentId, epoch: Epoch, challenge: &str) -> Vec<u8> {
    format!("KLP/1 handshake\n{node}\n{agent}\n{epoch}\n{challenge}").into_bytes()
}

/// What meshd signs with the node's key when an agent challenges it at the handshake.
///
/// Its first line is another than that of an agent's proof: neither side's can be handed back to it as the other's.
pub fn node_proof(node: &str, agent: &AgentId, epoch: Epoch, challenge: &str) -> Vec<u8> {
    format!("KLP/1 handshake of the node\n{node}\n{agent}\n{epoch}\n{challenge}").into_bytes()
}

/// Whether an agent may challenge meshd with this: 16 to 128 letters, digits and `+/=_-`. Shorter ones can be guessed.
pub fn is_challenge(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+/=_-".contains(&b);
    (16..=128).contains(&text.len()) && text.bytes().all(plain)
}

/// Why an envelope's signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It has none.
    #[error("auth.signature: the envelope is not signed")]
    Unsigned,
    /// It is no signature's text.
    #[error(
        "auth.signature: expected ed25519:, secp256k1: or rsa: and the base64url of the signature, without padding"
    )]
    Form,
    /// `auth.key` is no key, or not the sender's.
    #[error("auth.key: not the sender's key")]
    Key,
    /// It does not hold.
    #[error("auth.signature: does not match the envelope and the key")]
    Bad,
}

impl Envelope {
    /// Signs the envelope, with everything that is in it now.
    ///
    /// A form or fields left out by an earlier sender are given up: the signer sends the whole.
    pub fn sign(&mut self, key: &SigningKey) {
        self.sent = Sent::default();
        let auth = self.auth.get_or_insert_with(Auth::default);
        auth.key = Some(key.public().to_string());
        auth.signature = None;
        let signature = key.sign(&self.signing_input()).to_string();
        if let Some(auth) = &mut self.auth {
            auth.signature = Some(signature);
        }
    }

    /// Whether `key`, which the receiver knows to be the sender's, signed this envelope as it was sent.
    ///
    /// # Errors
    /// [`VerifyError`] when it did not.
    pub fn verify(&self, key: &DidKey) -> Result<(), VerifyError> {
        let signature = self.signature().ok_or(VerifyError::Unsigned)?;
        let signature = signature.parse().map_err(|_| VerifyError::Form)?;
        if self.claimed_key()?.is_some_and(|claimed| claimed != *key) {
            return Err(VerifyError::Key);
        }
        key.verify(&self.signing_input(), &signature)
            .map_err(|_| VerifyError::Bad)
    }

    /// The key that the envelope names as its signer's. A claim: whether it is the sender's is for others to know.
    ///
    /// # Errors
    /// [`VerifyError::Key`] when `auth.key` is no key.
    pub fn claimed_key(&self) -> Result<Option<DidKey>, VerifyError> {
        let key = self.auth.as_ref().and_then(|auth| auth.key.as_deref());
        key.map(|key| key.parse().map_err(|_| VerifyError::Key))
            .transpose()
    }

    /// What a signature covers: `KLP/1\n` and the canonical JSON of the envelope as sent, without `auth.signature`.
    pub fn signing_input(&self) -> Vec<u8> {
        let mut sent = self.as_sent();
        if let Some(auth) = sent.get_mut("auth").and_then(Value::as_object_mut) {
            auth.remove("signature");
        }
        let mut input = DOMAIN.to_vec();
        input.extend(json::canonical(&sent));
        input
    }
}
