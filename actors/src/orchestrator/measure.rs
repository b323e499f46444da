//! What is counted of tasks, for the metrics.

use mesh_messages::events::TaskEvent;
use mesh_messages::{AttemptNo, TaskId, Timestamp};

use super::Shell;

impl Shell {
    /// Tells those who count, and those who show progress, what has happened.
    pub(super) fn measure(&self, events: &[(TaskId, TaskEvent)]) {
        let state = self.partition.state();
        for (id, event) in events {
            if let TaskEvent::Gate { gate, .. } = event {
                self.gate_moved(gate);
                continue;
            }
            if let TaskEvent::Budget { step, .. } = event {
                self.budget_moved(id, step);
                continue;
            }
            if matches!(event, TaskEvent::Started { .. }) {
                self.args.handle.under_way(id);
            }
            let Some(task) = state.get(id) else { continue };
            let since = |at: Timestamp| at.since(task.submitted_at).as_secs_f64();
            match event {
                TaskEvent::Assigned { assignment, .. } if assignment.attempt == AttemptNo(1) => {
                    self.args.ctx.metrics.routed(since(assignment.assigned_at));
                }
                // What came with an event that ended the task has not ended it.
                TaskEvent::Submitted { .. } | TaskEvent::Waiting { .. } => {}
                _ => {
                    if let (true, Some(at)) = (task.state.is_terminal(), task.ended_at) {
                        self.args.ctx.metrics.ended(since(at));
                    }
                }
            }
        }
    }
}
