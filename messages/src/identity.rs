//! Who signs: ed25519 keys, written as `did:key`, and signatures as text.
//!
//! Making a key needs randomness and keeping one needs a file; both are their owner's business. This module turns
//! bytes into keys and texts, and decides whether a signature holds.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

/// What multicodec calls an ed25519 public key.
const MULTICODEC_ED25519: [u8; 2] = [0xed, 0x01];
const DID_PREFIX: &str = "did:key:z";
const SIGNATURE_PREFIX: &str = "ed25519:";
/// A valid `did:key` of ours has 56 characters; more is not worth decoding, which costs the square of the length.
const DID_LEN_MAX: usize = 64;

/// Why a text is not an ed25519 `did:key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Another method, another encoding, or no DID at all.
    #[error("expected did:key:z6Mk… (an ed25519 key in base58btc)")]
    Form,
    /// It decodes, but to no point of the curve, or to one that anybody can forge for.
    #[error("not a usable ed25519 public key")]
    Point,
}

/// An ed25519 public key: the identity of a node, an agent or a publisher.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DidKey(ed25519_dalek::VerifyingKey);

impl DidKey {
    /// From the key's 32 bytes.
    ///
    /// # Errors
    /// [`InvalidKey::Point`] when they are no key, or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey::Point)?;
        if key.is_weak() {
            Err(InvalidKey::Point)
        } else {
            Ok(Self(key))
        }
    }

    /// The key's 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether `signature` is this key's over `message`, by the strict rules: one message, one key, one signature.
    ///
    /// # Errors
    /// [`BadSignature`] when it is not.
    pub fn verify(&self, message: &[u8], signature: &SignatureText) -> Result<(), BadSignature> {
        self.0
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| BadSignature)
    }
}

impl fmt::Display for DidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&MULTICODEC_ED25519);
        bytes[2..].copy_from_slice(&self.to_bytes());
        write!(f, "{DID_PREFIX}{}", bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for DidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DidKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text
            .strip_prefix(DID_PREFIX)
            .filter(|_| text.len() <= DID_LEN_MAX)
            .ok_or(InvalidKey::Form)?;
        let bytes = bs58::decode(encoded)
            .into_vec()
            .map_err(|_| InvalidKey::Form)?;
        let key = bytes
            .strip_prefix(&MULTICODEC_ED25519[..])
            .ok_or(InvalidKey::Form)?;
        Self::from_bytes(key.try_into().map_err(|_| InvalidKey::Form)?)
    }
}

/// Implements serde and schema for a type that is its text.
macro_rules! as_text {
    ($name:ident, $pattern:expr, $expected:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "x-expected": $expected })
            }
        }
    };
}
as_text!(
    DidKey,
    "^did:key:z6Mk[1-9A-HJ-NP-Za-km-z]{44}$",
    "an ed25519 key did:key:z6Mk…"
);
as_text!(
    SignatureText,
    "^ed25519:[A-Za-z0-9_-]{86}$",
    "ed25519: and the base64url of 64 bytes, without padding"
);

/// The signature does not hold: other content, another key, or a form that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the content and the key")]
pub struct BadSignature;

/// The text is not `ed25519:` and the base64url, without padding, of 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected ed25519: and the base64url, without padding, of 64 bytes")]
pub struct InvalidSignatureText;

/// An ed25519 signature; `ed25519:` + base64url without padding as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureText([u8; 64]);

impl fmt::Display for SignatureText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SIGNATURE_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for SignatureText {
    type Err = InvalidSignatureText;
    fn from_str(text: &str) -> Result<Self, InvalidSignatureText> {
        let encoded = text
            .strip_prefix(SIGNATURE_PREFIX)
            .ok_or(InvalidSignatureText)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| InvalidSignatureText)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidSignatureText)?))
    }
}

/// A private key. Its `Debug` shows the public half only, and it is wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From 32 secret bytes, which must come from the system's randomness or from a file that only its owner reads.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// The secret bytes, for the owner to store.
    pub fn secret_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public half.
    pub fn public(&self) -> DidKey {
        DidKey(self.0.verifying_key())
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> SignatureText {
        SignatureText(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_secret(&[7; 32])
    }

    #[test]
    fn did_key_matches_the_published_vector() {
        // The example of the did:key method specification.
        let text = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
        let key: DidKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
    }

    #[test]
    fn other_keys_and_weak_points_are_refused() {
        let mut weak = MULTICODEC_ED25519.to_vec();
        weak.extend([0; 32]);
        let weak = format!("{DID_PREFIX}{}", bs58::encode(weak).into_string());
        assert_eq!(weak.parse::<DidKey>(), Err(InvalidKey::Point));
        for text in [
            "",
            "did:web:example.com",
            "did:key:z6Mk",
            "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
        ] {
            assert_eq!(text.parse::<DidKey>(), Err(InvalidKey::Form), "{text}");
        }
    }

    #[test]
    fn signature_holds_for_its_message_and_key_only() {
        let signature = key().sign(b"hello");
        assert_eq!(key().public().verify(b"hello", &signature), Ok(()));
        assert_eq!(
            key().public().verify(b"hellp", &signature),
            Err(BadSignature)
        );
        assert_eq!(
            SigningKey::from_secret(&[8; 32])
                .public()
                .verify(b"hello", &signature),
            Err(BadSignature)
        );
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }

    #[test]
    fn signature_text_has_one_spelling() {
        let text = key().sign(b"x").to_string();
        assert_eq!(
            format!("{text}=").parse::<SignatureText>(),
            Err(InvalidSignatureText)
        );
        assert_eq!(
            text[8..].parse::<SignatureText>(),
            Err(InvalidSignatureText)
        );
        // The last character carries four bits that must be zero.
        let changed = format!(
            "{}{}",
            &text[..text.len() - 1],
            if text.ends_with('A') { 'B' } else { 'x' }
        );
        assert_ne!(changed.parse::<SignatureText>().ok(), text.parse().ok());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", key());
        assert!(shown.contains("did:key:"));
        assert!(!shown.contains("7, 7"));
    }
}
