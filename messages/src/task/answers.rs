//! What is told of a task: by its agent, to who submits it, to who asks why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CandidateReport, TaskAssignment, TaskState, WaitingFor};
use crate::ids::TaskId;
use crate::team::Teamwork;
use crate::time::Timestamp;

/// What an agent last said of its work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f64,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it said so.
    pub at: Timestamp,
}

/// A message about a task, without what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskMessage {
    /// Its id; `GET /v1/messages/{id}/trace` tells more of it.
    pub id: String,
    /// When it was said.
    pub at: Timestamp,
    /// Who said it.
    pub from: String,
    /// To whom, or to which topic.
    pub to: String,
    /// Its KLP type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether an agent has got it.
    pub received: bool,
}

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskReceipt {
    /// The task's id.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// Who has it, if someone.
    pub assignment: Option<TaskAssignment>,
    /// Why it waits, if it does.
    pub waiting_for: Option<WaitingFor>,
}

/// The answer to "why": every candidate and every reason, and why it waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskExplanation {
    /// The task.
    pub task_id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// What it needs.
    pub requirements: Vec<String>,
    /// Why it does not move.
    pub waiting_for: Option<WaitingFor>,
    /// The latest assignment.
    pub assignment: Option<TaskAssignment>,
    /// Every agent that was looked at: as of the assignment when there is one, else as of now.
    pub candidates: Vec<CandidateReport>,
    /// The team that does it, or the last one that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teamwork: Option<Box<Teamwork>>,
    /// The latest messages about it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<TaskMessage>,
}
