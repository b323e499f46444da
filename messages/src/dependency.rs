//! What agents need of each other, as it is shown and ordered.
//!
//! Dependencies of type `agent` and `service` are acted upon; of the others it is shown that they were named.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::AgentId;
use crate::manifest::DependencyType;

/// What an agent waits for before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unmet {
    /// The agent or service that it needs, as its manifest names it.
    pub agent: String,
    /// Which of the two it is.
    #[serde(rename = "type", default = "agent")]
    pub kind: DependencyType,
    /// What that one lacks, in words: `is not registered`.
    pub detail: String,
    /// Whether it comes by itself: it runs, and is not ready yet. Otherwise somebody has to deploy, start or upgrade it.
    pub coming: bool,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            DependencyType::Agent => "agent",
            DependencyType::Service => "service",
            DependencyType::Module => "module",
        };
        write!(f, "{what} {} {}", self.agent, self.detail)
    }
}

/// What was there before services were.
fn agent() -> DependencyType {
    DependencyType::Agent
}

/// One dependency of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NeedView {
    /// Its name: an agent's id, for one.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: DependencyType,
    /// Which versions are taken.
    pub version: String,
    /// Whether the agent waits for it.
    pub required: bool,
    /// Whether it is there and ready; absent where meshd does not look, which is at modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// What it lacks, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An agent among those that it needs and that need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DependencyNode {
    /// Which agent.
    pub id: AgentId,
    /// The version in force.
    pub version: String,
    /// Whether it is to run.
    pub running: bool,
    /// Whether one of its instances serves.
    pub ready: bool,
    /// What it needs, in the order of its manifest.
    pub needs: Vec<NeedView>,
    /// The registered agents that need it.
    pub needed_by: Vec<AgentId>,
    /// What it waits for before it starts; empty when it waits for nothing.
    pub waiting_for: Vec<Unmet>,
}

/// All registered agents and what they need of each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DependencyGraph {
    /// The agents, by id.
    pub agents: Vec<DependencyNode>,
    /// The order in which they start: each needs only agents of the waves before its own. They stop the other way round.
    pub waves: Vec<Vec<AgentId>>,
    /// Circles that an earlier version let in: agents in one do not wait for each other. Each begins with its first id.
    pub cycles: Vec<Vec<AgentId>>,
}

/// What a start does about stopped agents that the agent needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Needed {
    /// Nothing: the agent waits until somebody starts them.
    #[default]
    Wait,
    /// Starts them, too.
    Start,
}

/// What a stop does about running agents that need the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dependents {
    /// It is refused, and names them.
    #[default]
    Refuse,
    /// Stops them first, those that nobody needs before the others.
    Stop,
    /// Lets them run without it. Each start of an instance of theirs waits until it is back.
    Leave,
}

/// The body of `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartOrder {
    /// What becomes of stopped agents that it needs; `wait` when absent.
    #[serde(default)]
    pub needed: Needed,
}

/// The body of `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopOrder {
    /// What becomes of running agents that need it; `refuse` when absent.
    #[serde(default)]
    pub dependents: Dependents,
}
