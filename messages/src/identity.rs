//! Who signs: keys, written as `did:key`, and signatures as text.
//!
//! Every identity of ours is an ed25519 key. Foreign agents and publishers may have a secp256k1 or an RSA key, whose
//! signatures are verified and never made here. Other kinds are refused.
//!
//! Making a key needs randomness and keeping one needs a file; both are their owner's business. This module turns
//! bytes into keys and texts, and decides whether a signature holds.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

mod rsa;
mod secp256k1;

use rsa::RsaKey;
use secp256k1::Secp256k1Key;

/// What multicodec calls an ed25519 public key, a secp256k1 one, and an RSA one.
const MULTICODEC_ED25519: [u8; 2] = [0xed, 0x01];
const MULTICODEC_SECP256K1: [u8; 2] = [0xe7, 0x01];
const MULTICODEC_RSA: [u8; 2] = [0x85, 0x24];
const DID_PREFIX: &str = "did:key:z";
const ED25519_NAME: &str = "ed25519";
const SECP256K1_NAME: &str = "secp256k1";
const RSA_NAME: &str = "rsa";
/// A `did:key` of an RSA key of 4096 bits has 731 characters, others 56 or 57; more is not worth decoding, which costs the
/// square of the length.
const DID_LEN_MAX: usize = 736;

/// Why a text is not a `did:key` that is taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Another method, another encoding, or no DID at all.
    #[error(
        "expected did:key:z6Mk… (an ed25519 key in base58btc), did:key:zQ3s… (a secp256k1 key) or did:key:z4MX… (an RSA key of 2048 to 4096 bits)"
    )]
    Form,
    /// It decodes, but to no point of the curve, to no modulus, or to one that anybody can forge for.
    #[error("not a usable public key")]
    Point,
}

/// How an agent proved at its handshake that it holds a key. Anybody can check it, with the agent's name and its
/// incarnation: the proof is the key's signature over [`handshake_proof`](crate::klp::handshake_proof).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyProof {
    /// The key, which was registered as the agent's own then.
    pub key: DidKey,
    /// What meshd called itself then.
    pub node: String,
    /// What it challenged the agent with.
    pub challenge: String,
    /// The agent's answer.
    pub proof: SignatureText,
}

/// A public key: the identity of a node, an agent, a user or a publisher.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DidKey(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "few keys are ever held, and each is passed on by value as the small thing it is to its users"
)]
enum Kind {
    Ed25519(ed25519_dalek::VerifyingKey),
    Secp256k1(Secp256k1Key),
    Rsa(RsaKey),
}

impl DidKey {
    /// From the 32 bytes of an ed25519 key.
    ///
    /// # Errors
    /// [`InvalidKey::Point`] when they are no key, or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey::Point)?;
        if key.is_weak() {
            Err(InvalidKey::Point)
        } else {
            Ok(Self(Kind::Ed25519(key)))
        }
    }

    /// What kind of key it is: `ed25519`, `secp256k1` or `rsa`.
    pub const fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::Ed25519(_) => ED25519_NAME,
            Kind::Secp256k1(_) => SECP256K1_NAME,
            Kind::Rsa(_) => RSA_NAME,
        }
    }

    /// The 32 bytes of an ed25519 key; `None` for one of another kind, which signs no log.
    pub fn ed25519_bytes(&self) -> Option<[u8; 32]> {
        match &self.0 {
            Kind::Ed25519(key) => Some(key.to_bytes()),
            Kind::Secp256k1(_) | Kind::Rsa(_) => None,
        }
    }

    /// Whether `signature` is this key's over `message`, by the strict rules: one message, one key, one signature.
    ///
    /// # Errors
    /// [`BadSignature`] when it is not.
    pub fn verify(&self, message: &[u8], signature: &SignatureText) -> Result<(), BadSignature> {
        match (&self.0, &signature.0) {
            (Kind::Ed25519(key), SignatureKind::Ed25519(bytes)) => key
                .verify_strict(message, &ed25519_dalek::Signature::from_bytes(bytes))
                .map_err(|_| BadSignature),
            (Kind::Secp256k1(key), SignatureKind::Secp256k1(bytes)) => key.verify(message, bytes),
            (Kind::Rsa(key), SignatureKind::Rsa(big)) => key.verify(message, big),
            (Kind::Ed25519(_), SignatureKind::Secp256k1(_) | SignatureKind::Rsa(_))
            | (Kind::Secp256k1(_), SignatureKind::Ed25519(_) | SignatureKind::Rsa(_))
            | (Kind::Rsa(_), SignatureKind::Ed25519(_) | SignatureKind::Secp256k1(_)) => {
                Err(BadSignature)
            }
        }
    }
}

impl fmt::Display for DidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.0 {
            Kind::Ed25519(key) => [&MULTICODEC_ED25519[..], &key.to_bytes()].concat(),
            Kind::Secp256k1(key) => [&MULTICODEC_SECP256K1[..], &key.to_bytes()].concat(),
            Kind::Rsa(key) => [&MULTICODEC_RSA[..], &key.to_der()].concat(),
        };
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
        if let Some(key) = bytes.strip_prefix(&MULTICODEC_ED25519[..]) {
            return Self::from_bytes(key.try_into().map_err(|_| InvalidKey::Form)?);
        }
        if let Some(der) = bytes.strip_prefix(&MULTICODEC_RSA[..]) {
            return Ok(Self(Kind::Rsa(RsaKey::from_der(der)?)));
        }
        let key = bytes
            .strip_prefix(&MULTICODEC_SECP256K1[..])
            .ok_or(InvalidKey::Form)?;
        let key = Secp256k1Key::from_bytes(key.try_into().map_err(|_| InvalidKey::Form)?)?;
        Ok(Self(Kind::Secp256k1(key)))
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
    "^did:key:z(6Mk[1-9A-HJ-NP-Za-km-z]{44}|Q3s[1-9A-HJ-NP-Za-km-z]{45}|[1-9A-HJ-NP-Za-km-z]{360,722})$",
    "an ed25519 key did:key:z6Mk…, a secp256k1 key did:key:zQ3s… or an RSA key of 2048 to 4096 bits"
);
as_text!(
    SignatureText,
    "^((ed25519|secp256k1):[A-Za-z0-9_-]{86}|rsa:[A-Za-z0-9_-]{342,683})$",
    "ed25519:, secp256k1: or rsa: and the base64url of the signature, without padding"
);

/// The signature does not hold: other content, another key, or a form that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the content and the key")]
pub struct BadSignature;

/// The text is not `ed25519:` or `secp256k1:` and the base64url, without padding, of 64 bytes, nor `rsa:` and that of 256 to 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ed25519: or secp256k1: and the base64url, without padding, of 64 bytes, or rsa: and that of 256 to 512"
)]
pub struct InvalidSignatureText;

/// A signature; the kind of its key, a colon, and base64url without padding as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureText(SignatureKind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a signature is read, checked and dropped; none is kept in this form"
)]
enum SignatureKind {
    Ed25519([u8; 64]),
    Secp256k1([u8; 64]),
    Rsa(rsa::Big),
}

impl fmt::Display for SignatureText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match &self.0 {
            SignatureKind::Ed25519(bytes) => (ED25519_NAME, &bytes[..]),
            SignatureKind::Secp256k1(bytes) => (SECP256K1_NAME, &bytes[..]),
            SignatureKind::Rsa(big) => (RSA_NAME, big.as_slice()),
        };
        write!(f, "{name}:{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for SignatureText {
    type Err = InvalidSignatureText;
    fn from_str(text: &str) -> Result<Self, InvalidSignatureText> {
        let (name, encoded) = text.split_once(':').ok_or(InvalidSignatureText)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| InvalidSignatureText)?;
        let of_64 = |bytes: &[u8]| bytes.try_into().map_err(|_| InvalidSignatureText);
        Ok(Self(match name {
            ED25519_NAME => SignatureKind::Ed25519(of_64(&bytes)?),
            SECP256K1_NAME => SignatureKind::Secp256k1(of_64(&bytes)?),
            RSA_NAME => {
                SignatureKind::Rsa(rsa::Big::from_slice(&bytes).ok_or(InvalidSignatureText)?)
            }
            _ => return Err(InvalidSignatureText),
        }))
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
        DidKey(Kind::Ed25519(self.0.verifying_key()))
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> SignatureText {
        SignatureText(SignatureKind::Ed25519(self.0.sign(message).to_bytes()))
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
            // P-256.
            "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169",
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
