//! Teams: agents that do together what none does alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most peers, or tries of a swarm at once.
pub const SIZE_MAX: u32 = 9;

/// Most rounds of peers or of a swarm.
pub const ROUNDS_MAX: u32 = 20;

/// How the members of a team work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeamPattern {
    /// A lead writes a brief, the members do their parts by it, and the lead decides over what they made.
    Hierarchical,
    /// Several agents answer the same, each alone; then, round by round, knowing each other's answers, until they agree.
    Peer,
    /// The fewest agents that have all requirements between them; each does its part at the same time.
    #[serde(alias = "cross-functional")]
    CrossFunctional,
    /// Many tries at once, each from the best that is known; the best of all goes into the next round.
    Swarm,
}

impl TeamPattern {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hierarchical => "hierarchical",
            Self::Peer => "peer",
            Self::CrossFunctional => "cross_functional",
            Self::Swarm => "swarm",
        }
    }
}

/// When peers agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// More than half of all peers give the same answer; who failed counts against.
    #[default]
    Majority,
    /// All give the same answer.
    Unanimous,
}

/// A team to be drafted: what follows is a workflow, which is read, edited and started like any other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TeamOrder {
    /// How they work together.
    pub pattern: TeamPattern,
    /// The capabilities that the team must have between its members; each of its members, with `peer` and `swarm`.
    #[schemars(length(min = 1, max = 64))]
    pub requirements: Vec<String>,
    /// What it is for, which the lead and the members of a hierarchical team are told; of no other pattern. In a plan, the
    /// plan's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The capability of the lead, who gets `{phase: "brief" | "decide", …}`; needed by `hierarchical` and by no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<String>,
    /// Peers, or tries of a swarm at once; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 9))]
    pub size: Option<u32>,
    /// Most rounds of peers (1 when absent) or of a swarm (5 when absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub rounds: Option<u32>,
    /// When peers agree; `majority` when absent. Of no other pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// A swarm ends as soon as its best has this score; without it, after its last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
}
