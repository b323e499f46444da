//! Keys of foreign agents on the curve secp256k1: ECDSA over SHA-256, verified only.

use k256::ecdsa::signature::Verifier as _;
use k256::ecdsa::{Signature, VerifyingKey};

use super::{BadSignature, InvalidKey};

/// Bytes of a compressed point.
const KEY_LEN: usize = 33;

/// A point of the curve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Secp256k1Key(VerifyingKey);

impl Secp256k1Key {
    /// From a compressed point; there is no other spelling of a key.
    pub(super) fn from_bytes(bytes: &[u8; KEY_LEN]) -> Result<Self, InvalidKey> {
        let key = VerifyingKey::from_sec1_bytes(bytes).map_err(|_| InvalidKey::Point)?;
        let key = Self(key);
        // SEC 1 has a form without the sign, too, which would be a second spelling.
        if key.to_bytes() == bytes {
            Ok(key)
        } else {
            Err(InvalidKey::Point)
        }
    }

    /// The compressed point.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        self.0.to_sec1_point(true).as_bytes().to_vec()
    }

    /// Checks a signature, which is `r` and `s`, 32 bytes each. Of the two values of `s` that hold, only the lower is taken:
    /// one message, one key, and nobody makes another signature out of one.
    pub(super) fn verify(&self, message: &[u8], bytes: &[u8; 64]) -> Result<(), BadSignature> {
        let signature = Signature::from_slice(bytes).map_err(|_| BadSignature)?;
        if signature.normalize_s() != signature {
            return Err(BadSignature);
        }
        self.0.verify(message, &signature).map_err(|_| BadSignature)
    }
}

#[cfg(test)]
mod tests;
