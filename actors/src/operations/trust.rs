//! What is asked about trust.

use async_trait::async_trait;

use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::trust::{AgentTrust, TrustReset};

/// How far agents are trusted.
#[async_trait]
pub trait TrustOperations {
    /// All agents, by id, without their histories.
    async fn trust(&self) -> Result<Vec<AgentTrust>, Problem>;
    /// One agent, with its history.
    async fn agent_trust(&self, id: &str) -> Result<AgentTrust, Problem>;
    /// Sets the trust in an agent; durable when this answers.
    async fn reset_trust(
        &self,
        caller: &Caller,
        id: &str,
        reset: TrustReset,
    ) -> Result<AgentTrust, Problem>;
}
