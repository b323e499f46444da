//! What happens to workflows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claim::TaskClaim;
use crate::failure::Failure;
use crate::ids::{PlanId, ScheduleId, TaskId, WorkflowRunId};
use crate::plan::PlanVersion;
use crate::schedule::{Firing, ScheduleTerms, Scheduled};
use crate::task::TaskState;
use crate::time::Timestamp;
use crate::workflow::{
    ParentStep, StepState, UnitOutcome, UnitPlan, WorkflowDocument, WorkflowRun,
};

/// The runs of workflows, and the schedules that begin them. Partition `workflows`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WorkflowEvent {
    /// A run was accepted; it is pinned to this document.
    #[serde(rename = "workflow.started")]
    Started {
        /// Which.
        run: WorkflowRunId,
        /// Its document, every named workflow written out.
        document: Box<WorkflowDocument>,
        /// Digest of the document.
        digest: String,
        /// What it works on.
        input: Value,
        /// Who submitted it.
        by: String,
        /// When.
        at: Timestamp,
        /// The submitter's idempotency key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Digest of the submission, to tell a repeated one from another under the same key.
        request: String,
        /// The step that it is part of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<ParentStep>,
        /// The schedule that began it, and for when.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scheduled: Option<Scheduled>,
    },
    /// A step began, or a further round of it. What it gets is written out here, and never computed again.
    #[serde(rename = "workflow.step_started")]
    StepStarted {
        /// Of which run.
        run: WorkflowRunId,
        /// Which.
        step: String,
        /// From 1.
        round: u32,
        /// When.
        at: Timestamp,
        /// When the whole step must have ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends_at: Option<Timestamp>,
        /// What it does, one per item.
        units: Vec<UnitPlan>,
    },
    /// A task, call or run of a step ended.
    #[serde(rename = "workflow.unit_ended")]
    UnitEnded {
        /// Of which run.
        run: WorkflowRunId,
        /// Of which step.
        step: String,
        /// Which, from 0.
        index: u32,
        /// When.
        at: Timestamp,
        /// How.
        outcome: UnitOutcome,
    },
    /// A step cannot succeed any more; what it has under way is being cancelled.
    #[serde(rename = "workflow.step_failing")]
    StepFailing {
        /// Of which run.
        run: WorkflowRunId,
        /// Which.
        step: String,
        /// When.
        at: Timestamp,
        /// Why.
        error: Failure,
    },
    /// A step ended.
    #[serde(rename = "workflow.step_ended")]
    StepEnded {
        /// Of which run.
        run: WorkflowRunId,
        /// Which.
        step: String,
        /// When.
        at: Timestamp,
        /// How.
        state: StepState,
        /// Why, when it did not succeed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// A run begins nothing new and will end like this, once what it has under way has ended.
    #[serde(rename = "workflow.ending")]
    Ending {
        /// Which.
        run: WorkflowRunId,
        /// How.
        to: TaskState,
        /// When this was decided.
        at: Timestamp,
        /// Why.
        error: Failure,
        /// Whether what succeeded is taken back.
        compensate: bool,
    },
    /// What a step did is being taken back.
    #[serde(rename = "workflow.compensating")]
    Compensating {
        /// Of which run.
        run: WorkflowRunId,
        /// Of which step.
        step: String,
        /// Which item of it, from 0.
        index: u32,
        /// When.
        at: Timestamp,
        /// What the compensation gets.
        input: Value,
        /// What its task claims.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        claims: Vec<TaskClaim>,
        /// The task that it is.
        task: TaskId,
    },
    /// A compensation ended.
    #[serde(rename = "workflow.compensated")]
    Compensated {
        /// Of which run.
        run: WorkflowRunId,
        /// Of which step.
        step: String,
        /// Which item of it, from 0.
        index: u32,
        /// When.
        at: Timestamp,
        /// Why it failed, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// A run ended.
    #[serde(rename = "workflow.ended")]
    Ended {
        /// Which.
        run: WorkflowRunId,
        /// How it ended, with all its steps: what is shown from now on.
        view: Box<WorkflowRun>,
        /// The submitter's idempotency key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Digest of the submission.
        request: String,
    },
    /// A schedule was made; it is pinned to this document.
    #[serde(rename = "schedule.created")]
    ScheduleCreated {
        /// Its name.
        schedule: ScheduleId,
        /// When and how it fires.
        terms: Box<ScheduleTerms>,
        /// What each of its runs does, every named workflow written out.
        document: Box<WorkflowDocument>,
        /// By whom; its runs are in this name.
        by: String,
        /// When.
        at: Timestamp,
        /// When it fires first; never while it is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Timestamp>,
        /// Whether it begins paused.
        #[serde(default)]
        paused: bool,
    },
    /// A schedule was paused, or goes on.
    #[serde(rename = "schedule.changed")]
    ScheduleChanged {
        /// Which.
        schedule: ScheduleId,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
        /// Whether it is paused now.
        paused: bool,
        /// When it fires next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Timestamp>,
    },
    /// A planned time of a schedule has come, or was missed; what became of it.
    #[serde(rename = "schedule.fired")]
    ScheduleFired {
        /// Which.
        schedule: ScheduleId,
        /// The planned time and what became of it.
        firing: Box<Firing>,
        /// When it fires next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Timestamp>,
    },
    /// A schedule was removed. Runs that it began go on.
    #[serde(rename = "schedule.removed")]
    ScheduleRemoved {
        /// Which.
        schedule: ScheduleId,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A plan was stored, or edited.
    #[serde(rename = "plan.written")]
    PlanWritten {
        /// Which.
        plan: PlanId,
        /// The version that holds from now on.
        version: Box<PlanVersion>,
    },
    /// A plan was started. The run that it begins is recorded with this.
    #[serde(rename = "plan.started")]
    PlanStarted {
        /// Which.
        plan: PlanId,
        /// Its version.
        version: u32,
        /// The run that it begins.
        run: WorkflowRunId,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A plan was removed. A run that it began goes on.
    #[serde(rename = "plan.removed")]
    PlanRemoved {
        /// Which.
        plan: PlanId,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
}

kinds!(WorkflowEvent {
    Started => "workflow.started",
    StepStarted => "workflow.step_started",
    UnitEnded => "workflow.unit_ended",
    StepFailing => "workflow.step_failing",
    StepEnded => "workflow.step_ended",
    Ending => "workflow.ending",
    Compensating => "workflow.compensating",
    Compensated => "workflow.compensated",
    Ended => "workflow.ended",
    ScheduleCreated => "schedule.created",
    ScheduleChanged => "schedule.changed",
    ScheduleFired => "schedule.fired",
    ScheduleRemoved => "schedule.removed",
    PlanWritten => "plan.written",
    PlanStarted => "plan.started",
    PlanRemoved => "plan.removed",
});

impl WorkflowEvent {
    /// The run that it is about; none where it is about a schedule or a plan.
    pub const fn run(&self) -> Option<&WorkflowRunId> {
        match self {
            Self::Started { run, .. }
            | Self::StepStarted { run, .. }
            | Self::UnitEnded { run, .. }
            | Self::StepFailing { run, .. }
            | Self::StepEnded { run, .. }
            | Self::Ending { run, .. }
            | Self::Compensating { run, .. }
            | Self::Compensated { run, .. }
            | Self::Ended { run, .. } => Some(run),
            Self::ScheduleCreated { .. }
            | Self::ScheduleChanged { .. }
            | Self::ScheduleFired { .. }
            | Self::ScheduleRemoved { .. }
            | Self::PlanWritten { .. }
            | Self::PlanStarted { .. }
            | Self::PlanRemoved { .. } => None,
        }
    }
}
