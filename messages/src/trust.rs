//! Trust: how far an agent has earned it, by what meshd or a verifier saw it do.
//!
//! A level is a whole number of millionths, so that equal histories give equal levels on every machine, and a boundary is
//! met exactly. On the wire it is a number from 0 to 1.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{FailureClass, Severity};
use crate::ids::{AgentId, AttemptNo, Position, TaskId};
use crate::time::Timestamp;

/// Longest reason of a reset, in bytes: a sentence or two.
pub const TRUST_REASON_MAX: usize = 1024;

/// A level of trust, from 0 to 1 in steps of a millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct TrustLevel(u32);

impl TrustLevel {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// The most there is.
    pub const FULL: Self = Self(1_000_000);

    /// So many millionths, at most all of them.
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths > Self::FULL.0 {
            Self::FULL
        } else {
            Self(millionths)
        }
    }

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for TrustLevel {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if !(0.0..=1.0).contains(&value) {
            return Err("trust must be a number from 0 to 1");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0 and 1 000 000, as was just checked"
        )]
        Ok(Self((value * f64::from(Self::FULL.0)).round() as u32))
    }
}

impl From<TrustLevel> for f64 {
    fn from(level: TrustLevel) -> Self {
        Self::from(level.0) / Self::from(TrustLevel::FULL.0)
    }
}

impl JsonSchema for TrustLevel {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TrustLevel".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "number", "minimum": 0, "maximum": 1,
            "description": "A level of trust, in steps of a millionth.",
        })
    }
}

impl std::fmt::Display for TrustLevel {
    /// As a decimal fraction, cut after the digits that matter: `0.7`, `0.699999`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / Self::FULL.0, self.0 % Self::FULL.0);
        let digits = format!("{rest:06}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() {
            write!(f, "{whole}")
        } else {
            write!(f, "{whole}.{digits}")
        }
    }
}

/// What trust a task asks of its agent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "trust is true or false, or a number from 0 to 1"
)]
pub enum TrustNeed {
    /// `true`: as much as the configuration's `trust_threshold`; `false`: none.
    Asked(bool),
    /// So much, 0 to 1, whatever the threshold is.
    Least(f64),
}

/// What made a level change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    rename_all_fields = "camelCase",
    tag = "kind"
)]
pub enum TrustCause {
    /// A result passed what its task's contract checks.
    Verified {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptNo,
        /// The strongest check that it passed.
        by: TrustEvidence,
    },
    /// An attempt failed in a way that tells of its agent.
    Failed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptNo,
        /// How.
        class: FailureClass,
    },
    /// It broke rules, or was isolated by its fault policy.
    Violation {
        /// The record that says so.
        record: Position,
        /// What it was.
        what: String,
        /// How bad it was.
        severity: Severity,
    },
    /// Other code is in force: what the former had earned beyond the starting level is not the new one's.
    Version,
    /// An admin set it.
    Reset {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

/// What a result was checked by, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrustEvidence {
    /// Another agent, which its task's submitter named by what it can do.
    Agent,
    /// A command of the submitter's, in the sandbox of the agent.
    Command,
    /// A schema that not every output fits.
    Schema,
}

/// One level that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustMove {
    /// For which capability; absent for the agent's conduct, which bounds them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// What it was at that time, the passing of time included.
    pub from: TrustLevel,
    /// What it is.
    pub to: TrustLevel,
    /// From when on time counts.
    pub since: Timestamp,
}

/// A change of an agent's trust, and its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustChange {
    /// Whose.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Digest of the bundle that was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What led to it.
    pub cause: TrustCause,
    /// The levels that changed; none when the cause is merely on record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<TrustMove>,
}

/// Something that an agent did against the rules, as its own log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Misdeed {
    /// The record that says so.
    pub record: Position,
    /// What it was.
    pub what: String,
    /// How bad it was.
    pub severity: Severity,
}

/// The trust in one agent, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentTrust {
    /// Who.
    pub agent_id: AgentId,
    /// How it keeps to the rules; no capability's trust is higher.
    pub conduct: TrustLevel,
    /// By capability, of those that it has or had results in.
    pub capabilities: Vec<CapabilityTrust>,
    /// What a task needs that asks for trust without a number.
    pub threshold: TrustLevel,
    /// The latest changes with their causes, newest first; all of them are in the audit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<TrustChange>,
}

/// The trust in one agent at one capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapabilityTrust {
    /// Which.
    pub capability: String,
    /// What counts: the lower one of its own score and the agent's conduct.
    pub trust: TrustLevel,
    /// Its own score.
    pub score: TrustLevel,
    /// Whether it is given tasks that ask for trust without a number.
    pub trusted: bool,
}

/// The body of a reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustReset {
    /// Why, for the audit.
    #[schemars(length(min = 1, max = TRUST_REASON_MAX))]
    pub reason: String,
    /// The level to set; what an unknown agent has when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<TrustLevel>,
    /// Only this capability; all of them and the conduct when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_comes_back_from_the_wire_as_it_was() {
        for millionths in (0..=1_000_000)
            .step_by(7)
            .chain([699_999, 700_000, 1_000_000])
        {
            let level = TrustLevel::from_millionths(millionths);
            let text = serde_json::to_string(&level).unwrap();
            assert_eq!(
                serde_json::from_str::<TrustLevel>(&text).unwrap(),
                level,
                "{text}"
            );
        }
        assert_eq!(TrustLevel::try_from(0.7).unwrap().millionths(), 700_000);
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(TrustLevel::try_from(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn levels_are_shown_without_needless_digits() {
        let shown = |millionths| TrustLevel::from_millionths(millionths).to_string();
        assert_eq!(
            [shown(0), shown(700_000), shown(699_999), shown(1_000_000)],
            ["0", "0.7", "0.699999", "1"]
        );
    }

    #[test]
    fn a_need_is_a_yes_a_no_or_a_number() {
        let read = |text| serde_json::from_str::<TrustNeed>(text);
        assert_eq!(read("true").unwrap(), TrustNeed::Asked(true));
        assert_eq!(read("1").unwrap(), TrustNeed::Least(1.0));
        assert_eq!(read("0.5").unwrap(), TrustNeed::Least(0.5));
        assert!(read("\"high\"").is_err());
    }
}
