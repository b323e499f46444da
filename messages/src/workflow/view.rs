//! A run as it is shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ParentStep, WorkflowDocument};
use crate::Failure;
use crate::ids::{TaskId, WorkflowRunId};
use crate::schedule::Scheduled;
use crate::task::TaskState;
use crate::time::Timestamp;

/// Where a step stands: the states of tasks, and `skipped`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It has begun, and waits for a free agent.
    Queued,
    /// An agent was chosen.
    Assigned,
    /// It is worked on.
    Running,
    /// It waits for other steps, or for a person.
    Blocked,
    /// It waits for an agent, a breaker or a quota.
    Parked,
    /// It failed, and will be tried again.
    Retrying,
    /// It ended well.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled, or the run ended before it could begin.
    Cancelled,
    /// It used up its attempts or its time.
    DeadLettered,
    /// Its condition did not hold.
    Skipped,
}

impl StepState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Parked => "parked",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::DeadLettered => "dead_lettered",
            Self::Skipped => "skipped",
        }
    }
    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::DeadLettered | Self::Skipped
        )
    }
}

impl std::fmt::Display for StepState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<TaskState> for StepState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Queued => Self::Queued,
            TaskState::Assigned => Self::Assigned,
            TaskState::Running => Self::Running,
            TaskState::Blocked => Self::Blocked,
            TaskState::Parked => Self::Parked,
            TaskState::Retrying => Self::Retrying,
            TaskState::Succeeded => Self::Succeeded,
            TaskState::Failed => Self::Failed,
            TaskState::Cancelled => Self::Cancelled,
            TaskState::DeadLettered => Self::DeadLettered,
        }
    }
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A task for an agent.
    Task,
    /// A call of a plain service.
    Service,
    /// Another workflow.
    Workflow,
    /// A team, which is a workflow that is drafted.
    Team,
    /// A person's approval.
    Approval,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// Its id in the document.
    pub id: String,
    /// What it is.
    pub kind: StepKind,
    /// Where it stands.
    pub state: StepState,
    /// The tasks of its latest round, in the order of the items; empty for services and workflows.
    pub task_ids: Vec<TaskId>,
    /// The runs of its latest round, where it is a workflow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<WorkflowRunId>,
    /// The steps that it waits for, or waited for.
    pub after: Vec<String>,
    /// Which round of its `repeat` this is, from 1; 0 before it has begun.
    pub round: u32,
    /// How many items it has, and how many of them have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<(u32, u32)>,
    /// What it made.
    #[serde(default)]
    pub output: Option<Value>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<Failure>,
    /// Why it does not move, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How its compensation stands, once it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<StepState>,
    /// The tasks of its compensation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compensation_task_ids: Vec<TaskId>,
}

/// A run of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowRun {
    /// Its id.
    pub id: WorkflowRunId,
    /// Where it stands: `queued`, `running`, `blocked` (only a person can bring it on), `succeeded`, `failed`, `cancelled`.
    pub state: TaskState,
    /// The document's name.
    pub name: String,
    /// The document's version.
    pub version: String,
    /// Digest of the document to which the run is pinned.
    pub digest: String,
    /// The steps, in the order of the document.
    pub steps: Vec<StepView>,
    /// What it answers, once it succeeded.
    #[serde(default)]
    pub output: Option<Value>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<Failure>,
    /// What it was started with.
    pub input: Value,
    /// Who submitted it.
    pub submitted_by: String,
    /// When.
    pub submitted_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// The step that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentStep>,
    /// The schedule that began it, and for when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Scheduled>,
    /// The document to which it is pinned. Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Box<WorkflowDocument>>,
}

/// The answer to `POST /v1/workflows?check=true`: the document makes sense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowCheck {
    /// Always true; what is wrong is answered with a problem.
    pub valid: bool,
    /// The document's name.
    pub name: String,
    /// The document's version.
    pub version: String,
    /// How many steps it has.
    pub steps: usize,
    /// The graph, for Mermaid.
    pub mermaid: String,
}
