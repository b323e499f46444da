//! What is asked of workflows and schedules.

use serde_json::Value;

use mesh_messages::ScheduleId;
use mesh_messages::schedule::ScheduleTerms;

/// A workflow to be checked or started.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowOrder {
    /// The document, or the name of one that has run here before.
    pub workflow: Value,
    /// What the run gets.
    pub input: Value,
    /// Two submissions of one caller under one key are one run.
    pub idempotency_key: Option<String>,
    /// Whether agents for its steps may be deployed after it.
    pub deploy_later: bool,
}

/// A schedule to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleOrder {
    /// Its name.
    pub id: ScheduleId,
    /// When and how it fires.
    pub terms: ScheduleTerms,
    /// The document, or the name of one that has run here before.
    pub workflow: Value,
    /// Whether it begins paused.
    pub paused: bool,
    /// Whether agents for its steps may be deployed after it.
    pub deploy_later: bool,
}
