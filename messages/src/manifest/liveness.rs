//! What an agent's policy changes of the limits within which it has to get somewhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::liveness::FindingAction;
use crate::schema::FieldError;
use crate::units::Span;

/// When an agent that lives counts as getting nowhere, and what is done then. What is left out is as the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LivenessPolicy {
    /// It has a task in hand, waits for nothing, and says nothing. Not looked for without a limit.
    #[serde(default, skip_serializing_if = "TimeRule::is_empty")]
    pub silence: TimeRule,
    /// It goes on talking, and the progress of its task does not move.
    #[serde(default, skip_serializing_if = "TimeRule::is_empty")]
    pub stall: TimeRule,
    /// It makes the same calls again and again, and nothing new.
    #[serde(default, skip_serializing_if = "RepetitionRule::is_empty")]
    pub repetition: RepetitionRule,
    /// A call takes longer than the bound with which it was announced.
    #[serde(default, skip_serializing_if = "OverrunRule::is_empty")]
    pub overrun: OverrunRule,
}

/// A time, and what follows when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeRule {
    /// How long it may last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Span>,
    /// What is done then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<FindingAction>,
}

/// A number of identical calls, the least time that they take, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepetitionRule {
    /// How many identical calls are a finding, from 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1_000_000))]
    pub limit: Option<u32>,
    /// Least time from the first of them to the last: what is quicker is only quick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// What is done then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<FindingAction>,
}

/// The longest bound that an announced call may have, and what follows when a call outlasts its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrunRule {
    /// Longer bounds are cut to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Span>,
    /// What is done then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<FindingAction>,
}

impl TimeRule {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RepetitionRule {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl OverrunRule {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl LivenessPolicy {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Limits of nothing, and what would do nothing.
    pub(super) fn check(&self, errors: &mut Vec<FieldError>) {
        let spans = [
            ("silence.limit", self.silence.limit),
            ("stall.limit", self.stall.limit),
            ("overrun.max", self.overrun.max),
        ];
        for (key, _) in spans
            .iter()
            .filter(|(_, span)| span.is_some_and(|span| span.as_millis() == 0))
        {
            let path = format!("policy.liveness.{key}");
            errors.push(FieldError::new(path, "must be longer than nothing"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ManifestFormat, parse_manifest};
    use serde_json::{Value, json};

    fn parsed(liveness: &Value) -> Result<LivenessPolicy, String> {
        let manifest = json!({
            "id": "a", "version": "1.0.0", "entry": "main.py", "capabilities": ["x"],
            "policy": { "liveness": liveness },
        });
        parse_manifest(manifest.to_string().as_bytes(), ManifestFormat::Json)
            .map(|parsed| parsed.manifest.policy.liveness)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn every_limit_and_action_can_be_set_and_none_must_be() {
        assert_eq!(parsed(&json!({})), Ok(LivenessPolicy::default()));
        let all = json!({
            "silence": { "limit": "90s", "action": "end" },
            "stall": { "limit": "10m", "action": "cancel" },
            "repetition": { "limit": 50, "over": "30s", "action": "alert" },
            "overrun": { "max": "15m", "action": "off" },
        });
        let policy = parsed(&all).unwrap();
        assert_eq!(policy.stall.limit, Some(Span::from_secs(600)));
        assert_eq!(policy.repetition.action, Some(FindingAction::Alert));
        assert_eq!(parsed(&serde_json::to_value(policy).unwrap()), Ok(policy));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_path() {
        for (wrong, path) in [
            (
                json!({ "silence": { "limit": "0s" } }),
                "policy.liveness.silence.limit: ",
            ),
            (
                json!({ "stall": { "limit": 0 } }),
                "policy.liveness.stall.limit: ",
            ),
            (
                json!({ "overrun": { "max": "0ms" } }),
                "policy.liveness.overrun.max: ",
            ),
            (
                json!({ "repetition": { "limit": 1 } }),
                "policy.liveness.repetition.limit: ",
            ),
            (
                json!({ "stall": { "action": "kill" } }),
                "policy.liveness.stall.action: ",
            ),
            (
                json!({ "silence": { "over": "1s" } }),
                "policy.liveness.silence.over: ",
            ),
        ] {
            let refused = parsed(&wrong).unwrap_err();
            assert!(refused.contains(path), "{wrong}: {refused}");
        }
    }
}
