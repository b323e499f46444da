//! What can be asked about security profiles.

use async_trait::async_trait;

use mesh_messages::manifest::SandboxLevel;
use mesh_messages::problem::Problem;
use mesh_messages::profile::{ProfileDiff, SecurityProfile};

/// Security profiles by their names.
#[async_trait]
pub trait ProfileOperations {
    /// All of them, the weakest first.
    async fn security_profiles(&self) -> Result<Vec<SecurityProfile>, Problem>;
    /// How one differs from what holds for an agent.
    ///
    /// # Errors
    /// `agent_not_found`.
    async fn profile_diff(&self, id: &str, profile: SandboxLevel) -> Result<ProfileDiff, Problem>;
}
