//! Schedules: runs of workflows that begin at planned times.
//!
//! These are the forms alone; which times a pattern stands for is decided where time zones can be read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{ScheduleId, WorkflowRunId};
use crate::time::Timestamp;
use crate::workflow::{SubWorkflow, WorkflowDocument};

/// Longest pattern, in bytes: five fields with a list each are far below.
pub const CRON_BYTES_MAX: usize = 256;
/// Next times that a schedule shows.
pub const UPCOMING_SHOWN: usize = 5;
/// Past firings that a schedule shows; all of them are in the audit log.
pub const FIRINGS_KEPT_MAX: usize = 20;

/// What becomes of planned times at which meshd did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None of them is made up for.
    Skip,
    /// One run makes up for all of them: that of the latest.
    #[default]
    Once,
    /// Each is made up for, oldest first; of very many only the latest 50. Needs `overlap` to be `queue` or `allow`.
    All,
}

impl Missed {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

/// What becomes of a planned time while an earlier run of the schedule has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// Its run begins when those before it have ended.
    Queue,
    /// Its run begins at once.
    Allow,
    /// The earlier run is cancelled; once that has ended, the new one begins.
    CancelPrevious,
}

impl Overlap {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Allow => "allow",
            Self::CancelPrevious => "cancel_previous",
        }
    }
}

/// When a schedule fires and how: all but what its runs do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleTerms {
    /// Minute, hour, day of month, month, day of week; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// The IANA time zone in which the pattern is read.
    pub time_zone: String,
    /// What each run gets.
    #[serde(default)]
    pub input: Value,
    /// What becomes of planned times at which meshd did not run.
    #[serde(default)]
    pub missed: Missed,
    /// What becomes of a planned time while an earlier run has not ended.
    #[serde(default)]
    pub overlap: Overlap,
}

/// `POST /v1/schedules`: a schedule as its author writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleSubmission {
    /// Its name.
    pub id: ScheduleId,
    /// Minute, hour, day of month, month, day of week; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// The IANA time zone in which the pattern is read; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What each run does: the document, or the name of one that has run here before, as it is now.
    pub workflow: SubWorkflow,
    /// What each run gets.
    #[serde(default)]
    pub input: Value,
    /// What becomes of planned times at which meshd did not run.
    #[serde(default)]
    pub missed: Missed,
    /// What becomes of a planned time while an earlier run has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// Whether it begins paused.
    #[serde(default)]
    pub paused: bool,
}

/// Which schedule began a run, and for when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// Which.
    pub schedule: ScheduleId,
    /// The planned time; the run may begin later.
    pub planned: Timestamp,
}

/// What became of a planned time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FiringOutcome {
    /// Its run began.
    Started,
    /// Its run begins when those before it have ended.
    Waiting,
    /// It was left out.
    Skipped,
    /// Its time passed while meshd did not run, and it is not made up for.
    Missed,
}

impl FiringOutcome {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}

/// A planned time that has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firing {
    /// The planned time; of several that were missed together, the latest.
    pub planned: Timestamp,
    /// When this was decided.
    pub at: Timestamp,
    /// What became of it.
    pub outcome: FiringOutcome,
    /// The run that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<WorkflowRunId>,
    /// How many planned times this stands for, where it is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A time at which a schedule will fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upcoming {
    /// When.
    pub at: Timestamp,
    /// The same as the clocks of its time zone show it.
    pub local: String,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Its name.
    pub id: ScheduleId,
    /// Its pattern.
    pub cron: String,
    /// The time zone in which the pattern is read.
    pub time_zone: String,
    /// What becomes of planned times at which meshd did not run.
    pub missed: Missed,
    /// What becomes of a planned time while an earlier run has not ended.
    pub overlap: Overlap,
    /// Whether it is paused.
    pub paused: bool,
    /// The name of the workflow.
    pub name: String,
    /// The version of the workflow.
    pub version: String,
    /// Digest of the document to which its runs are pinned.
    pub digest: String,
    /// What each run gets.
    pub input: Value,
    /// When it fires next; empty while it is paused.
    pub upcoming: Vec<Upcoming>,
    /// Its runs that have not ended.
    pub running: Vec<WorkflowRunId>,
    /// Planned times whose runs begin when those before them have ended.
    pub waiting: Vec<Timestamp>,
    /// The latest firings, newest first.
    pub recent: Vec<Firing>,
    /// Who made it; its runs are in this name.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// The document. Left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Box<WorkflowDocument>>,
}
