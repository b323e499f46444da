//! What the past says of agents, as it is shown.

use serde::{Deserialize, Serialize};

use mesh_messages::quality::Quality;

/// What its past tasks say of an agent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentInsights {
    /// Per task type.
    pub by_type: Vec<TypeInsight>,
    /// Attempts in all.
    pub attempts: u64,
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// How good its results are, by what verified them.
    #[serde(default)]
    pub quality: Quality,
    /// The same for each capability that its tasks needed.
    #[serde(default)]
    pub by_capability: Vec<CapabilityInsight>,
}

/// How good an agent's results are at one capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapabilityInsight {
    /// The capability.
    pub capability: String,
    /// Of the tasks that needed it.
    pub quality: Quality,
}

/// An agent's record with one type of task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TypeInsight {
    /// The task type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Attempts.
    pub attempts: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Mean milliseconds of those that succeeded.
    pub mean_duration_ms: Option<f64>,
    /// How good its results are, by what verified them.
    #[serde(default)]
    pub quality: Quality,
}
