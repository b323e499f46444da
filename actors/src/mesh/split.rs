//! Splitting tasks, as the outside asks for it.

use async_trait::async_trait;
use mesh_messages::problem::Problem;
use mesh_messages::split::{SplitOrder, SplitPart};
use mesh_messages::system::Caller;
use mesh_messages::task::{Task, TaskSpec};

use super::Mesh;
use super::tasks::task_id;
use crate::operations::SplitOperations;

#[async_trait]
impl SplitOperations for Mesh {
    async fn split_task(
        &self,
        caller: &Caller,
        id: &str,
        SplitOrder { mut parts }: SplitOrder,
    ) -> Result<Task, Problem> {
        let task = task_id(id)?;
        let below = |part: &SplitPart| TaskSpec {
            parent: Some(task.clone()),
            ..part.task.clone()
        };
        let specs: Vec<_> = parts.iter().map(below).collect();
        let specs = self.permitted(caller, specs).await?;
        for (part, spec) in parts.iter_mut().zip(specs) {
            part.task.within = spec.within;
        }
        let split = self.orchestrator.split(&caller.name, task, parts).await;
        split.inspect_err(|problem| {
            let resource = format!("/v1/tasks/{id}/split");
            self.sentinel.note_confined(caller, &resource, problem);
        })
    }
}
