//! The board: where every task stands, and who has how much to do.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ids::{AgentId, InstanceNo, TaskId};
use crate::quality::Quality;
use crate::task::TaskMessage;
use crate::time::Timestamp;

/// One column of the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoardColumn {
    /// Its name.
    pub name: String,
    /// Its work-in-progress limit, if it has one.
    pub wip: Option<u64>,
    /// Its cards, newest last.
    pub cards: Vec<BoardCard>,
    /// How many cards there are, shown or not.
    pub total: u64,
}

/// One card of the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoardCard {
    /// The task.
    pub id: TaskId,
    /// What kind of work.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it stands.
    pub state: crate::task::TaskState,
    /// Who has it.
    pub agent: Option<AgentId>,
    /// Which replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceNo>,
    /// When it was submitted.
    #[serde(default)]
    pub submitted_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Which try this is, from 1; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// What its agent last said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Its labels; `workflow` and `step` say of which run it is a part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why it waits.
    pub waiting_for: Option<crate::task::WaitingFor>,
    /// 0 to 1.
    pub progress: Option<f64>,
    /// When its agent last said how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_at: Option<Timestamp>,
    /// The latest messages about it, oldest first, while it has not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<TaskMessage>,
}

/// `GET /v1/board`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Board {
    /// Backlog, Ready, In progress, Review, Blocked, Done.
    pub columns: Vec<BoardColumn>,
    /// What each agent has in hand and may have, and how its work went.
    #[serde(default)]
    pub agents: Vec<BoardAgent>,
    /// What was done in the last hour.
    #[serde(default)]
    pub flow: BoardFlow,
}

/// An agent on the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoardAgent {
    /// Who.
    pub agent_id: AgentId,
    /// Its replicas.
    pub instances: Vec<BoardInstance>,
    /// Attempts that ended by its own doing, since it was registered.
    pub attempts: u64,
    /// Share of them that failed, 0 to 1; none before the first.
    pub failure_rate: Option<f64>,
    /// Mean milliseconds from assignment to result, of those that succeeded.
    pub cycle_time_ms: Option<f64>,
    /// How good its results are, by what verified them.
    #[serde(default)]
    pub quality: Quality,
    /// What it did lately: the tasks that it had last when they ended.
    pub flow: BoardFlow,
}

/// A replica on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoardInstance {
    /// Which.
    pub instance: InstanceNo,
    /// How many tasks it may have in hand: its manifest's `concurrency`.
    pub wip: u32,
    /// What it has in hand.
    pub tasks: Vec<TaskId>,
}

/// What was done in a span of time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoardFlow {
    /// The span, in milliseconds, up to now.
    pub window_ms: u64,
    /// Tasks that ended in it; at most the latest 10 000 are counted.
    pub ended: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Share of those that failed or were dead-lettered, 0 to 1; none when nothing ended.
    pub failure_rate: Option<f64>,
    /// Milliseconds from submission to success: of half of those that succeeded no more than this.
    pub cycle_time_p50_ms: Option<u64>,
    /// The same of 95 in a hundred.
    pub cycle_time_p95_ms: Option<u64>,
}
