//! Stored plans: what is to be done, written down so that it can be read and edited before it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{PlanId, WorkflowRunId};
use crate::task::TaskSpec;
use crate::team::TeamOrder;
use crate::time::Timestamp;
use crate::workflow::{SubWorkflow, WorkflowDocument};

/// Longest statement of what a plan is for, in bytes: a paragraph.
pub const GOAL_BYTES_MAX: usize = 4096;

/// Where a plan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// It can be edited, and does nothing.
    Draft,
    /// Somebody started it; it stays as it was then.
    Started,
}

impl PlanState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Started => "started",
        }
    }
}

/// One version of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanVersion {
    /// From 1.
    pub version: u32,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub goal: String,
    /// What is done: steps, what each follows, and who can do it. Every named workflow is written out.
    pub workflow: Box<WorkflowDocument>,
    /// What it works on.
    #[serde(default)]
    pub input: Value,
    /// Who wrote it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredPlan {
    /// Its id.
    pub id: PlanId,
    /// Where it stands.
    pub state: PlanState,
    /// The version that holds, and that a start begins.
    #[serde(flatten)]
    pub current: PlanVersion,
    /// Earlier versions, newest first, as far as they are kept; without them in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<PlanVersion>,
    /// The run that it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<WorkflowRunId>,
    /// Who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// A plan to be stored, or to take the place of one that was not started: a workflow, a single task, or a team.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanSubmission {
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub goal: String,
    /// The workflow that it is, or the name of one that has run here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<SubWorkflow>,
    /// Instead: the one task that it is, in the form of a submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<TaskSpec>>,
    /// Instead: a team, from which the workflow is drafted over the agents that are registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Box<TeamOrder>>,
    /// What the workflow works on.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// When it takes the place of another: the version that was read. Somebody may have written another one since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanStart {
    /// The version that was read: no other one is started.
    pub version: u32,
}
