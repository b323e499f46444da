//! RSA keys of foreign owners: RSASSA-PKCS1-v1_5 with SHA-256 (RS256 elsewhere), verified only.
//!
//! Nothing private is ever computed here, so what is known of attacks on the timing of RSA decryption and signing, such as
//! Marvin, has nothing to measure. Of the two paddings this one has one signature per key and message, as ed25519 has.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

use super::{BadSignature, InvalidKey};

/// Shortest modulus, in bytes: 2048 bits, below which keys are no longer believed to hold.
pub(super) const MODULUS_MIN: usize = 256;
/// Longest modulus, in bytes: 4096 bits. A verification costs the square of it, and whoever posts a message chooses.
pub(super) const MODULUS_MAX: usize = 512;
/// 65537, the one exponent that is in use. Small ones have a history of forgeries, large ones only cost.
const EXPONENT: [u8; 3] = [1, 0, 1];
/// What follows a modulus in DER: that exponent, as an INTEGER.
const EXPONENT_DER: [u8; 5] = [0x02, 0x03, 1, 0, 1];
/// Bytes of DER around a modulus: two tags with lengths of two bytes, the zero that keeps it positive, the exponent.
pub(super) const DER_OVERHEAD: usize = 14;

/// As many bytes as the longest modulus, and a signature, may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Big {
    bytes: [u8; MODULUS_MAX],
    len: usize,
}

impl Big {
    /// From bytes; `None` when they are too few or too many for any key that is taken.
    pub(super) fn from_slice(from: &[u8]) -> Option<Self> {
        if !(MODULUS_MIN..=MODULUS_MAX).contains(&from.len()) {
            return None;
        }
        let mut bytes = [0; MODULUS_MAX];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self {
            bytes,
            len: from.len(),
        })
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl std::fmt::Debug for Big {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.as_slice()))
    }
}

/// A modulus; the exponent is always the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct RsaKey(Big);

impl RsaKey {
    /// From the DER of an `RSAPublicKey` of PKCS #1, of which each key has exactly one.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, InvalidKey> {
        let len = der
            .len()
            .checked_sub(DER_OVERHEAD)
            .ok_or(InvalidKey::Form)?;
        let modulus = der.get(9..9 + len).ok_or(InvalidKey::Form)?;
        let key = Self(Big::from_slice(modulus).ok_or(InvalidKey::Form)?);
        if key.to_der() != der {
            return Err(InvalidKey::Form);
        }
        let (first, last) = (modulus.first().copied(), modulus.last().copied());
        // Of full length, and odd, as a product of two large primes is.
        if first.is_some_and(|byte| byte >= 0x80) && last.is_some_and(|byte| byte & 1 == 1) {
            Ok(key)
        } else {
            Err(InvalidKey::Point)
        }
    }

    /// The DER.
    pub(super) fn to_der(self) -> Vec<u8> {
        let modulus = self.0.as_slice();
        let header = |tag: u8, len: usize| {
            // Never more than two bytes: a modulus has at most 512.
            let len = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
            [tag, 0x82, len[0], len[1]]
        };
        let body = modulus.len() + DER_OVERHEAD - 4;
        [
            &header(0x30, body)[..],
            &header(0x02, modulus.len() + 1),
            &[0],
            modulus,
            &EXPONENT_DER,
        ]
        .concat()
    }

    /// Checks a signature, which is as long as the modulus.
    pub(super) fn verify(&self, message: &[u8], signature: &Big) -> Result<(), BadSignature> {
        let components = RsaPublicKeyComponents {
            n: self.0.as_slice(),
            e: &EXPONENT[..],
        };
        components
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature.as_slice())
            .map_err(|_| BadSignature)
    }
}

#[cfg(test)]
mod tests;
