//! What people order of a task.

use mesh_actors_core::task::Command;
use mesh_messages::TaskId;
use mesh_messages::problem::Problem;
use mesh_messages::split::SplitPart;
use mesh_messages::task::Task;

use super::OrchestratorHandle;
use crate::partition::Cause;

impl OrchestratorHandle {
    /// Ends a task.
    ///
    /// # Errors
    /// It is unknown, or has ended already.
    pub async fn cancel(&self, by: &str, task: TaskId, reason: &str) -> Result<Task, Problem> {
        let reason = if reason.is_empty() {
            format!("by {by}")
        } else {
            format!("by {by}: {reason}")
        };
        self.task(Command::Cancel { task, reason }, Cause::by(by))
            .await
    }

    /// Gives a failed task another round.
    ///
    /// # Errors
    /// It is unknown, or not failed.
    pub async fn retry(&self, by: &str, task: TaskId) -> Result<Task, Problem> {
        self.task(Command::Retry { task }, Cause::by(by)).await
    }

    /// Has a task done as several.
    ///
    /// # Errors
    /// It is unknown, has been begun, or what is wrong with its parts.
    pub async fn split(
        &self,
        by: &str,
        task: TaskId,
        parts: Vec<SplitPart>,
    ) -> Result<Task, Problem> {
        let command = Command::Split {
            task,
            by: by.to_owned(),
            parts,
        };
        self.task(command, Cause::by(by)).await
    }
}
