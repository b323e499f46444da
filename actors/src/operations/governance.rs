//! What is asked of governance.

use async_trait::async_trait;

use mesh_messages::governance::{GovernanceUpdate, GovernanceView};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;

/// Changes that admins sign together.
#[async_trait]
pub trait GovernanceOperations {
    /// Who may sign, and what they decided.
    async fn governance(&self) -> Result<GovernanceView, Problem>;
    /// Accepts a signed update; answers when it is durable and, for a shutdown, when every agent is isolated.
    async fn govern(
        &self,
        caller: &Caller,
        update: GovernanceUpdate,
    ) -> Result<GovernanceView, Problem>;
}
