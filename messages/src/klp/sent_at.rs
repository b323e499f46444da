//! A moment as its sender wrote it.

use crate::time::Timestamp;

/// A moment that keeps the sender's spelling, which a signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentAt {
    at: Timestamp,
    /// The text, where it is not the one that we would write.
    text: Option<Box<str>>,
}

impl SentAt {
    /// Reads RFC 3339 text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let at: Timestamp = text.parse().ok()?;
        let ours = at.to_string() == text;
        Some(Self {
            at,
            text: (!ours).then(|| text.into()),
        })
    }

    /// The moment.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The sender's text.
    pub fn text(&self) -> String {
        self.text
            .as_deref()
            .map_or_else(|| self.at.to_string(), str::to_owned)
    }
}

impl From<Timestamp> for SentAt {
    fn from(at: Timestamp) -> Self {
        Self { at, text: None }
    }
}
