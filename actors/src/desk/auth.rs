//! How meshd proves to a service who calls.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_messages::service::{ServiceAuth, ServiceDefinition, place_of};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::secrets::replace;

/// What may stand in a query as it is.
pub(super) const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Shorter secrets would blot out half of every answer.
const BLOT_MIN: usize = 6;

/// What a call bears, and how it may look where it must not be seen.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) header: Option<(String, Zeroizing<String>)>,
    pub(super) query: Option<Zeroizing<String>>,
    name: String,
    words: Vec<Zeroizing<Vec<u8>>>,
}

impl Proof {
    /// The proof for a service, with what the vault holds now.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) fn of(
        ctx: &Context,
        definition: &ServiceDefinition,
        url: &str,
    ) -> Result<Self, String> {
        let Some(name) = definition.auth.secret() else {
            return Ok(Self::default());
        };
        let host = place_of(url)?.host;
        let holder = format!("service:{}", definition.id);
        let value = ctx.secrets.brokered(name, &holder, host).ok_or_else(|| {
            format!("secret {name} is not to be had for {holder} at {host}: set it with `meshctl secret set {name} --service {}`", definition.id)
        })?;
        let text = std::str::from_utf8(&value).ok().map(str::trim_end);
        let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
        let text = text.ok_or_else(|| format!("secret {name} is no text of one line"))?;
        let encoded = Zeroizing::new(utf8_percent_encode(text, QUERY).to_string());
        let mut proof = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        match &definition.auth {
            ServiceAuth::None => {}
            ServiceAuth::Bearer { .. } => {
                let value = Zeroizing::new(format!("Bearer {text}"));
                proof.header = Some(("Authorization".to_owned(), value));
            }
            ServiceAuth::Header { name, .. } => {
                proof.header = Some((name.clone(), Zeroizing::new(text.to_owned())));
            }
            ServiceAuth::Basic { username, .. } => {
                let pair = Zeroizing::new(format!("{username}:{text}"));
                let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                let value = Zeroizing::new(format!("Basic {}", *pair));
                proof.words.push(Zeroizing::new(pair.as_bytes().to_vec()));
                proof.header = Some(("Authorization".to_owned(), value));
            }
            ServiceAuth::Query { name, .. } => {
                let name = utf8_percent_encode(name, QUERY);
                proof.query = Some(Zeroizing::new(format!("{name}={}", *encoded)));
            }
        }
        let quoted = Zeroizing::new(serde_json::Value::from(text).to_string());
        let inner = quoted.trim_matches('"');
        for word in [text, &encoded, inner] {
            proof.words.push(Zeroizing::new(word.as_bytes().to_vec()));
        }
        proof
            .words
            .sort_by_key(|word| std::cmp::Reverse(word.len()));
        Ok(proof)
    }

    /// A text without the secret: a service may say again what it was sent.
    pub(super) fn blot(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mark = format!("[secret {}]", self.name);
        let words = self.words.iter().filter(|word| word.len() >= BLOT_MIN);
        words.fold(bytes, |bytes, word| replace(bytes, word, mark.as_bytes()))
    }

    /// The same for a short text.
    pub(super) fn blotted(&self, text: String) -> String {
        if self.words.is_empty() {
            return text;
        }
        String::from_utf8_lossy(&self.blot(text.into_bytes())).into_owned()
    }
}

/// A text that may stand in a query, as it stands there.
pub(super) fn in_query(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}
