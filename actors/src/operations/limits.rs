//! What can be asked about limits.

use async_trait::async_trait;

use mesh_messages::limits::{LimitChange, LimitsInForce};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;

/// Limits of single agents, while they run.
#[async_trait]
pub trait LimitOperations {
    /// Changes those limits of an agent that are named; durable when this answers. Changes of several callers are laid one
    /// over the other in the order in which they came.
    async fn change_limits(
        &self,
        caller: &Caller,
        id: &str,
        change: LimitChange,
    ) -> Result<LimitsInForce, Problem>;
}
