//! `CLAIM`: a named resource that only one attempt may have at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::claim::{ClaimHolder, ClaimMode};
use crate::time::Timestamp;

/// `CLAIM` of an agent, on behalf of the task that the line names, or of the only one in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimOp {
    /// What to do.
    pub op: ClaimOpKind,
    /// The name of the resource: what it means is between the agents that use it.
    pub resource: String,
    /// With `acquire`: alone, or shared with others who share it; alone when absent.
    #[serde(default, skip_serializing_if = "ClaimMode::is_exclusive")]
    pub mode: ClaimMode,
    /// With `acquire` and `renew`: for how long from now, or from when it is granted; one minute when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// With `acquire`: how long to wait in line when another one has it; not at all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// With `renew` and `release`: which claim is meant; the one that is held when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// What to do about a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaimOpKind {
    /// Takes it. What the attempt holds already, it holds under the same token, for longer.
    Acquire,
    /// Holds it for longer.
    Renew,
    /// Gives it back.
    Release,
}

impl ClaimOpKind {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Release => "release",
        }
    }
}

/// Why a claim was not granted, renewed or given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimCode {
    /// Another attempt has it, and there was no wait.
    Held,
    /// It was waited for in vain.
    WaitOver,
    /// The attempt does not hold it: it never did, its time was over, or that token is another's.
    NotHeld,
    /// The same attempt asked again, and gets its answer there.
    Superseded,
    /// A bound is reached; release some, or ask again later.
    TooMany,
    /// A field makes no sense.
    Invalid,
    /// The attempt is over.
    Stale,
    /// meshd cannot tell now; ask again.
    Unavailable,
}

/// `CLAIM` of meshd, in answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimReply {
    /// Whether it was done.
    pub ok: bool,
    /// Which resource.
    pub resource: String,
    /// What was granted, renewed or given back: higher than every token of this resource before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// Until when it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ClaimCode>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who has it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<ClaimHolder>,
}

impl ClaimReply {
    /// That it was done.
    pub fn done(resource: &str, token: u64, until: Option<Timestamp>) -> Self {
        Self {
            ok: true,
            resource: resource.to_owned(),
            token: Some(token),
            until,
            code: None,
            error: None,
            holder: None,
        }
    }

    /// That it was not, and why.
    pub fn refused(resource: &str, code: ClaimCode, error: impl Into<String>) -> Self {
        Self {
            ok: false,
            resource: resource.to_owned(),
            token: None,
            until: None,
            code: Some(code),
            error: Some(error.into()),
            holder: None,
        }
    }
}
