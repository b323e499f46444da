//! Tokens as text: `mesh_<id>_<secret>`.
//!
//! The id is public and finds the digest; the secret is 32 random bytes in base64url. A secret of that size needs no
//! slow hash: nobody guesses it, and its SHA-256 is all that is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const PREFIX: &str = "mesh_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// Bytes of a token.
pub(crate) const TOKEN_LEN: usize =
    PREFIX.len() + 2 * ID_BYTES + 1 + (SECRET_BYTES * 4).div_ceil(3);

/// Whether these bytes are a token by their form.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| split(text).is_some())
}

/// SHA-256 of a secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretDigest([u8; 32]);

impl SecretDigest {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// From the hex of a record.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// As a record holds it.
    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Compares without telling by its duration where the first difference is.
    pub(super) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A token that was just made. Its text is shown once and wiped.
pub(super) struct FreshToken {
    /// Its public id.
    pub(super) id: String,
    /// What is kept of the secret.
    pub(super) digest: SecretDigest,
    /// The whole.
    pub(super) text: Zeroizing<String>,
}

/// Makes a token.
pub(super) fn generate() -> Result<FreshToken, getrandom::Error> {
    let (mut id, mut secret) = ([0; ID_BYTES], Zeroizing::new([0; SECRET_BYTES]));
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut *secret)?;
    let id = hex::encode(id);
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
    let text = Zeroizing::new(format!("{PREFIX}{id}_{}", *encoded));
    Ok(FreshToken {
        id,
        digest: SecretDigest::of(&*secret),
        text,
    })
}

/// Splits what a caller presents. The id is its claim; the digest has to be compared.
pub(super) fn split(text: &str) -> Option<(&str, SecretDigest)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id =
        id.len() == 2 * ID_BYTES && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // Room for one byte more than a secret has, to tell one that is too long.
    let mut bytes = Zeroizing::new([0; SECRET_BYTES + 1]);
    let length = URL_SAFE_NO_PAD.decode_slice(secret, &mut *bytes).ok()?;
    (is_id && length == SECRET_BYTES).then(|| (id, SecretDigest::of(&bytes[..SECRET_BYTES])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_token_reads_back_as_its_id_and_digest() {
        let token = generate().unwrap();
        let (id, digest) = split(&token.text).unwrap();
        assert_eq!(id, token.id);
        assert_eq!(token.text.len(), TOKEN_LEN);
        assert!(digest.matches(&token.digest));
        assert!(
            SecretDigest::from_hex(&token.digest.to_hex())
                .unwrap()
                .matches(&digest)
        );
        assert!(!generate().unwrap().digest.matches(&digest));
    }

    #[test]
    fn whatever_is_not_a_token_is_none() {
        let good = generate().unwrap();
        let (head, secret) = good.text.split_at(PREFIX.len() + 2 * ID_BYTES + 1);
        for bad in [
            String::new(),
            "mesh_".to_owned(),
            good.text.to_uppercase(),
            format!("{}=", *good.text),
            format!("{}A", *good.text),
            good.text[..good.text.len() - 1].to_owned(),
            format!("mesh_{secret}"),
            format!("mesh__{secret}"),
            head.to_owned(),
        ] {
            assert!(split(&bad).is_none(), "{bad}");
        }
    }
}
