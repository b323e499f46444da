//! What can be asked of, and is answered to, an exchange of versions.

use mesh_messages::AgentId;
use serde::{Deserialize, Serialize};

/// How a version is exchanged.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeType {
    /// In place, when the agent has the `upgrade` hook; else hard.
    #[default]
    Soft,
    /// Stop the old version, start the new one.
    Hard,
    /// Back to an earlier version.
    Rollback,
}

/// How to exchange a version; the agent is named by the path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradeRequest {
    /// May repeat the path's id; another id is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The version to run; the newest registered one (for `rollback`: the previous one) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// How.
    #[serde(rename = "type", default)]
    pub kind: UpgradeType,
    /// Also to an older version.
    #[serde(default)]
    pub forceful: bool,
    /// Old versions are always kept, so this changes nothing; accepted so that nobody has to leave it out.
    #[serde(default)]
    pub backup_current: bool,
}

/// What an exchange of versions led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeResult {
    /// Whether the new version runs.
    pub success: bool,
    /// How it was done.
    #[serde(rename = "type")]
    pub kind: UpgradeType,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether an earlier version is there.
    pub rollback_available: bool,
}
