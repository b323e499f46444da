//! Security profiles by their names, and how one differs from what holds for an agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::AgentId;
use crate::manifest::SandboxLevel;

/// A security profile, and which agents have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityProfile {
    /// Its name.
    pub name: SandboxLevel,
    /// Another name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<String>,
    /// Whether a control that falls short keeps an agent from starting.
    pub required: bool,
    /// Controls that may fall short all the same, on this node.
    pub degradable: Vec<String>,
    /// What an agent may execute: `anything` that it can read, or only what is `installed`.
    pub execution: String,
    /// Whether agents have it of which nobody says anything.
    pub configured: bool,
    /// The agents of which it holds.
    pub agents: Vec<AgentId>,
}

/// How a profile differs from what holds for an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileDiff {
    /// The agent.
    pub agent: AgentId,
    /// What holds for it.
    pub effective: SandboxLevel,
    /// What that is compared with.
    pub profile: SandboxLevel,
    /// What would hold if the operator assigned that: more, where the manifest or the mesh demands more.
    pub would_hold: SandboxLevel,
    /// What is not the same in both.
    pub differences: Vec<ProfileDifference>,
    /// Why it could not start here if it were assigned; absent when it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileDifference {
    /// What differs: a key of the policy, or `control.<name>`.
    pub key: String,
    /// As it is.
    pub effective: Value,
    /// As it would be.
    pub profile: Value,
}
