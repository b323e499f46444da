//! Credentials that meshd adds on the way out, so that the agent never has them.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::host::{Host, Pattern};
use crate::request::{PathPattern, RequestRule};

/// What stands for the secret in a template.
const PLACE: &str = "{secret}";

/// Longest template; the secret comes on top.
const TEMPLATE_BYTES_MAX: usize = 512;

/// Headers that frame or route a message; a credential in one of them would be something else.
const FRAMING: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
];

/// A header with a place for the secret, such as `Authorization: Bearer {secret}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTemplate {
    name: String,
    before: String,
    after: String,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No name and value.
    #[error("expected a header such as `Authorization: Bearer {PLACE}`")]
    Form,
    /// No place for the secret, or several.
    #[error("the value names {PLACE} exactly once")]
    Place,
    /// A header that frames the message.
    #[error("that header frames or routes the message")]
    Framing,
}

impl HeaderTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (name, value) = text.split_once(':').ok_or(TemplateError::Form)?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let visible = |b: u8| b.is_ascii_graphic() || b == b' ';
        if text.len() > TEMPLATE_BYTES_MAX
            || name.is_empty()
            || !name.bytes().all(token)
            || !value.bytes().all(visible)
        {
            return Err(TemplateError::Form);
        }
        let name = name.to_ascii_lowercase();
        if FRAMING.contains(&name.as_str()) {
            return Err(TemplateError::Framing);
        }
        let (before, after) = value.trim().split_once(PLACE).ok_or(TemplateError::Place)?;
        if after.contains(PLACE) {
            return Err(TemplateError::Place);
        }
        Ok(Self {
            name,
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }

    /// The header's name, in lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value with the secret in its place. It is wiped when dropped.
    #[must_use]
    pub fn value(&self, secret: &[u8]) -> Zeroizing<Vec<u8>> {
        let length = self.before.len() + secret.len() + self.after.len();
        // Of its full size at once: growing would leave copies behind.
        let mut value = Zeroizing::new(Vec::with_capacity(length));
        value.extend_from_slice(self.before.as_bytes());
        value.extend_from_slice(secret);
        value.extend_from_slice(self.after.as_bytes());
        value
    }
}

/// A credential and the requests it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The secret's name, for [`crate::Credentials`].
    pub secret: String,
    /// The requests that get it.
    pub requests: RequestRule,
    /// The header that carries it.
    pub header: HeaderTemplate,
    /// Whether the proxy speaks TLS to the host. Without it the credential travels in the open.
    pub tls: bool,
}

impl Binding {
    /// Whether it is about this host at all.
    #[must_use]
    pub fn concerns(&self, host: &Host) -> bool {
        self.requests
            .hosts
            .iter()
            .any(|pattern| pattern.matches(host))
    }

    /// Whether it is for some methods or paths alone.
    #[must_use]
    pub const fn is_narrowed(&self) -> bool {
        self.requests.methods.is_some() || self.requests.paths.is_some()
    }

    /// The hosts, for messages.
    #[must_use]
    pub fn hosts(&self) -> &[Pattern] {
        &self.requests.hosts
    }

    /// The methods, when not all.
    #[must_use]
    pub const fn methods(&self) -> Option<&BTreeSet<String>> {
        self.requests.methods.as_ref()
    }

    /// The paths, when not all.
    #[must_use]
    pub fn paths(&self) -> Option<&[PathPattern]> {
        self.requests.paths.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_place_and_frames_nothing() {
        let bearer = HeaderTemplate::parse("Authorization: Bearer {secret}").unwrap();
        assert_eq!(bearer.name(), "authorization");
        assert_eq!(&bearer.value(b"abc")[..], b"Bearer abc");
        let key = HeaderTemplate::parse("x-api-key:{secret}").unwrap();
        assert_eq!(&key.value(b"k")[..], b"k");
        for (text, error) in [
            ("Authorization", TemplateError::Form),
            (": {secret}", TemplateError::Form),
            ("a b: {secret}", TemplateError::Form),
            ("a: {secret}\r\nb: c", TemplateError::Form),
            ("Authorization: Bearer", TemplateError::Place),
            ("a: {secret}{secret}", TemplateError::Place),
            ("Host: {secret}", TemplateError::Framing),
            ("Transfer-Encoding: {secret}", TemplateError::Framing),
        ] {
            assert_eq!(HeaderTemplate::parse(text), Err(error), "{text}");
        }
    }
}
