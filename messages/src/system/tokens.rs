//! Tokens: one that is ordered, one that was made, and how they are listed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Role;
use crate::ids::Epoch;
use crate::time::Timestamp;

/// A token to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOrder {
    /// What its bearer may do.
    pub role: Role,
    /// Its bearer's name in the audit; the role's name when absent.
    pub subject: Option<String>,
    /// How long it is valid; for good when absent.
    pub ttl: Option<std::time::Duration>,
    /// Whether its holder can narrow it without asking.
    pub attenuable: bool,
}

/// A token, given out once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// Its public id, for `revoke`.
    pub id: String,
    /// The secret. Shown now and never again.
    pub token: String,
    /// Its role.
    pub role: Role,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Its public id.
    pub id: String,
    /// Its role.
    pub role: Role,
    /// Its bearer.
    pub subject: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether its holder can narrow it without asking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attenuable: bool,
    /// How it came to be.
    #[serde(default)]
    pub kind: TokenKind,
    /// Of a session token: the incarnation of the agent that it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// How a token came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Somebody issued it.
    #[default]
    Issued,
    /// meshd gave it to an incarnation of an agent with the handshake; it ends with that incarnation, and with meshd.
    Session,
}

impl TokenKind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Session => "session",
        }
    }
}
