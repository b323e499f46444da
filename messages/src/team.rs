//! Teams: agents that do together what none does alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::escalation::GivenUp;
use crate::failure::Failure;
use crate::ids::{AgentId, TaskId};
use crate::time::Timestamp;

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
    /// Several agents argue in rounds, each knowing what all said before; then a judge decides.
    Debate,
    /// Several agents say what the work would take; whoever bids lowest does it.
    Auction,
}

impl TeamPattern {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hierarchical => "hierarchical",
            Self::Peer => "peer",
            Self::CrossFunctional => "cross_functional",
            Self::Swarm => "swarm",
            Self::Debate => "debate",
            Self::Auction => "auction",
        }
    }
}

/// Whether several agents may do a task between them when no registered one has all of its requirements.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TeamWish {
    /// Yes: under a lead where an agent has the capability [`LEAD`], else side by side.
    #[default]
    Auto,
    /// Yes, and only under an agent that has the capability [`LEAD`].
    Hierarchical,
    /// Yes, side by side, whoever there is to lead.
    #[serde(alias = "cross-functional")]
    CrossFunctional,
    /// No: it waits for one agent that has all.
    Never,
}

/// The capability of those who lead the teams that form by themselves.
pub const LEAD: &str = "lead";

/// Most members of a team that forms by itself: each part holds the task's input, and all begin in one group of records.
pub const MEMBERS_MAX: usize = 16;

/// How far a team is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeamPhase {
    /// The lead writes what each is to do.
    Brief,
    /// The members do their parts.
    Parts,
    /// The lead decides over what they made.
    Decide,
}

/// A part of a team's work. Each is a task below the team's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamPart {
    /// `brief`, `part-1` and so on, `decide`.
    pub name: String,
    /// Who was taken for it. Another agent that can do the same may do it in the end. Nobody in particular where the task was
    /// split by order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// What it takes.
    pub capabilities: Vec<String>,
    /// The task; it is there once its phase has begun.
    pub task: TaskId,
}

/// What became of a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeamEnd {
    /// What it made is the task's output.
    Done,
    /// A part of it failed for good, or what it made could not be accepted.
    Failed,
    /// It was given up before any part had begun.
    Disbanded,
}

/// The team that does a task, or the last one that did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Teamwork {
    /// The how manieth team of this task it is, from 1.
    pub number: u32,
    /// How they work together: `hierarchical` or `cross_functional`.
    pub pattern: TeamPattern,
    /// Whether somebody split the task into these parts: then nobody was chosen, and whoever can does them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub split: bool,
    /// Who leads. Where the pattern has no lead of its own, the member that has most of what is needed; nobody where it was
    /// split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<AgentId>,
    /// All parts, in order.
    pub parts: Vec<TeamPart>,
    /// Why these members: what was measured of each.
    pub reasons: String,
    /// How far it is.
    pub phase: TeamPhase,
    /// When it was formed.
    pub formed_at: Timestamp,
    /// When the first part was handed to an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// What became of it; absent while it is at work, and where the task was ended meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TeamEnd>,
}

impl Teamwork {
    /// The parts of the phase that it is in.
    pub fn current(&self) -> impl Iterator<Item = &TeamPart> {
        self.parts
            .iter()
            .filter(|part| self.phase_of(part) == self.phase)
    }

    /// In which phase a part is done.
    pub fn phase_of(&self, part: &TeamPart) -> TeamPhase {
        match part.name.as_str() {
            _ if self.split => TeamPhase::Parts,
            "brief" => TeamPhase::Brief,
            "decide" => TeamPhase::Decide,
            _ => TeamPhase::Parts,
        }
    }
}

/// What happens to a task that is a team's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeamStep {
    /// A team has it. Its first parts are submitted in the same group of records.
    Formed(Box<Teamwork>),
    /// The first part was handed to an agent.
    Began,
    /// The next parts are submitted.
    Phase(TeamPhase),
    /// It ended well.
    Done {
        /// What they made.
        output: Value,
    },
    /// The team did not do it.
    Failed {
        /// Why.
        failure: Failure,
        /// How the task ends.
        otherwise: GivenUp,
        /// Whether somebody is asked to take it up first.
        escalates: bool,
    },
    /// It was given up before any part had begun; the task stands in its line again.
    Disbanded {
        /// Why.
        why: String,
    },
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
    /// The capabilities that the team must have between its members; each of its members, with `peer`, `swarm`, `debate` and
    /// `auction`.
    #[schemars(length(min = 1, max = 64))]
    pub requirements: Vec<String>,
    /// What it is for, which the lead and the members of a hierarchical team are told; of no other pattern. In a plan, the
    /// plan's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The capability of the lead, who gets `{phase: "brief" | "decide", …}`, or of a debate's judge, who gets
    /// `{phase: "decide", …}`; needed by `hierarchical` and `debate` and by no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<String>,
    /// Peers, or tries of a swarm at once, 3 when absent; sides of a debate, 2 when absent; who is asked for a bid, when absent
    /// as many as there are, 3 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 9))]
    pub size: Option<u32>,
    /// Most rounds of peers (1 when absent) or of a swarm (5 when absent); rounds of a debate (2 when absent).
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
