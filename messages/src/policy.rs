//! The operator's policy: what a running mesh was told to do differently from its configuration.
//!
//! It lies between the two other sources of an agent's policy. What holds for one agent is, each over the next: the
//! operator's word for this agent, the agent's manifest, the operator's word for all agents, the configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::{ACCESS_RULES_MAX, AccessRule};
use crate::agent::PolicyValue;
use crate::budget::AccountBudget;
use crate::escalation::{ESCALATION_STEPS_MAX, EscalationStep};
use crate::ids::AgentId;
use crate::inbox::{ApprovalRule, RULES_MAX};
use crate::manifest::{MAX_CRASHES_MAX, ResourceLimits, SandboxLevel};
use crate::units::ByteCount;

/// Longest crash window: an hour, as failures are counted by the hour, too.
pub const CRASH_WINDOW_MS_MAX: u64 = 3_600_000;

/// Thresholds and limits; each that is absent is as it would be without this.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorPolicy {
    /// Restarts and quarantine.
    #[serde(default, skip_serializing_if = "OperatorLifecycle::is_empty")]
    pub lifecycle: OperatorLifecycle,
    /// Limits of what an instance may use: at once where a control group holds them, else from its next start on.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_empty")]
    pub resource_limits: ResourceLimits,
    /// Limits of connections to the outside, at once.
    #[serde(default, skip_serializing_if = "OperatorNetwork::is_empty")]
    pub network_limit: OperatorNetwork,
    /// The security profile of the sandbox, from an instance's next start on. Manifests may ask for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_level: Option<SandboxLevel>,
    /// Whether the mesh can do without it: when it cannot, the agent's exhaustion escalates instead of isolating it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub essential: Option<bool>,
    /// What becomes of what agents ask people: the first rule that matches decides, an agent's own before those for all.
    /// Without one, an operator is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RULES_MAX))]
    pub approvals: Vec<ApprovalRule>,
    /// Who takes up a task that has failed for good and does not say so itself, one after the other; of an agent's own
    /// scope, where that agent had it last. Tasks on behalf of others are left to those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ESCALATION_STEPS_MAX))]
    pub escalate: Vec<EscalationStep>,
    /// Who may do what, beside what roles say; of an agent's own scope, what that agent may do. A rule that denies wins
    /// over all that allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_RULES_MAX))]
    pub access: Vec<AccessRule>,
}

/// When an agent is restarted, paused and quarantined. Changes take effect when the episode under way is over: an agent
/// that is failing is judged by the thresholds that it began to fail under.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorLifecycle {
    /// Crashes within the window after which restarts pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_CRASHES_MAX))]
    pub max_crashes: Option<u32>,
    /// The window, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = CRASH_WINDOW_MS_MAX))]
    pub crash_window_ms: Option<u64>,
    /// Restarts after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_restart: Option<bool>,
    /// Score at which it is quarantined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub quarantine_threshold: Option<u32>,
    /// Failures within an hour that are borne; one more quarantines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_CRASHES_MAX))]
    pub failures_per_hour: Option<u32>,
}

/// How an agent uses the way out. Said of all agents, a manifest may ask for less and never for more; said of one, it is
/// what holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorNetwork {
    /// Connections of an instance at once; none at all with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Bytes a second of an instance, both directions together; a bare number counts megabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteCount>,
}

impl OperatorNetwork {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl OperatorLifecycle {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl OperatorPolicy {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it beyond its form: the field, and why.
    pub fn misfit(&self) -> Option<(String, String)> {
        let mut access = self.access.iter().enumerate();
        let access = access.find_map(|(nth, rule)| {
            let (field, why) = rule.misfit()?;
            Some((format!("access[{nth}].{field}"), why))
        });
        access.or_else(|| {
            let (at, why) = EscalationStep::misfit_of(&self.escalate)?;
            Some((format!("escalate{at}"), why))
        })
    }
}

/// What is applied: each scope that is named is replaced by what is said of it, and `{}` takes it back. Others stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// For all agents, below what their manifests say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<OperatorPolicy>,
    /// For single agents, above what their manifests say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub agents: BTreeMap<AgentId, OperatorPolicy>,
    /// What may be used on accounts that agents share: `provider:<name>` and `team:<name>`, as their manifests name them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<String, Option<AccountBudget>>,
}

/// `GET /v1/policies`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyInForce {
    /// What holds for an agent whose manifest overrides nothing, and where each value comes from.
    pub values: Vec<PolicyValue>,
    /// All that was applied and is in force; applying it to a fresh mesh has the same effect.
    pub applied: PolicyDocument,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_back_as_it_was_written_and_leaves_out_what_it_does_not_say() {
        let text = r#"{"default":{"lifecycle":{"max_crashes":2}},"agents":{"echo":{"essential":true},"old":{}}}"#;
        let document: PolicyDocument = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&document).unwrap(), text);
        assert!(document.agents[&AgentId::new("old").unwrap()].is_empty());
        assert!(!document.default.unwrap().is_empty());
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            r#"{"defaults":{}}"#,
            r#"{"default":{"security":{}}}"#,
            r#"{"agents":{"echo":{"lifecycle":{"maxCrashes":2}}}}"#,
        ] {
            serde_json::from_str::<PolicyDocument>(text).unwrap_err();
        }
    }
}
