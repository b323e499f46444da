//! Where the log stands with each run.

use mesh_messages::{Position, TaskId, WorkflowRunId};

use super::Workflows;
use crate::trail::Trail;

impl Workflows {
    /// Notes where in the log the last event of a run stands, and for which request the first one was.
    pub fn note(&mut self, id: &WorkflowRunId, position: Position, correlation: Option<&str>) {
        if let Some(run) = self.runs.get_mut(id) {
            Trail::advance(&mut run.trail, position, correlation);
        }
    }

    /// Where the log stands with a run that is held.
    pub fn trail(&self, id: &WorkflowRunId) -> Option<&Trail> {
        self.runs.get(id)?.trail.as_ref()
    }

    /// Where the log stands with the run that an open task is part of.
    pub fn trail_of_task(&self, task: &TaskId) -> Option<&Trail> {
        self.trail(&self.index.open.get(task)?.run)
    }
}
