//! Tasks that are about to be removed: none of them gets another round.
//!
//! Retention decides by the read side, which may be a moment behind. Between its decision and its record somebody could
//! give a failed task another round, whose records would then be erased with the others. So it asks here first.

use std::collections::BTreeSet;

use mesh_actors_core::task::Command;
use mesh_messages::TaskId;
use mesh_messages::problem::{Problem, ProblemKind};

use super::Shell;

/// The tasks that stay ended.
#[derive(Debug, Default)]
pub(super) struct Retired(BTreeSet<TaskId>);

impl Shell {
    /// Has these tasks stay ended, from here on; those that have not ended, and so go on.
    pub(super) fn retire(&mut self, tasks: Vec<TaskId>) -> BTreeSet<TaskId> {
        let machine = self.partition.state();
        // Those of earlier times that are not held here are not found by whoever asks for them.
        self.retired.0.retain(|task| machine.record(task).is_some());
        let (goes_on, stays): (BTreeSet<_>, BTreeSet<_>) = tasks.into_iter().partition(|task| {
            let held = machine.record(task);
            held.is_some_and(|record| !record.task.state.is_terminal())
        });
        self.retired.0.extend(stays);
        goes_on
    }

    /// Whether a command would have a retired task go on.
    ///
    /// # Errors
    /// `task_removed`.
    pub(super) fn check_retired(&self, command: &Command) -> Result<(), Problem> {
        match command {
            Command::Retry { task } if self.retired.0.contains(task) => {
                let detail = format!("task {task} is being removed, and gets no other round");
                Err(Problem::new(ProblemKind::NotFound, "task_removed", detail))
            }
            _ => Ok(()),
        }
    }
}
