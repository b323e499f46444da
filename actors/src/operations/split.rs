//! What is asked of a task that turns out to be several.

use async_trait::async_trait;
use mesh_messages::problem::Problem;
use mesh_messages::split::SplitOrder;
use mesh_messages::system::Caller;
use mesh_messages::task::Task;

/// Splitting tasks.
#[async_trait]
pub trait SplitOperations: Send + Sync + 'static {
    /// Has a task that nobody has begun done as several; the task afterwards.
    async fn split_task(
        &self,
        caller: &Caller,
        id: &str,
        order: SplitOrder,
    ) -> Result<Task, Problem>;
}
