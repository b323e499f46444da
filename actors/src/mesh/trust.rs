//! Trust, as the outside asks for it.

use async_trait::async_trait;
use mesh_messages::AgentId;
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::trust::{AgentTrust, TRUST_REASON_MAX, TrustReset};

use super::Mesh;
use crate::operations::TrustOperations;

#[async_trait]
impl TrustOperations for Mesh {
    async fn trust(&self) -> Result<Vec<AgentTrust>, Problem> {
        self.orchestrator.trust(None).await
    }

    async fn agent_trust(&self, id: &str) -> Result<AgentTrust, Problem> {
        let unknown = || Problem::agent_not_found(id);
        let agent = AgentId::new(id).map_err(|_| unknown())?;
        let found = self.orchestrator.trust(Some(agent)).await?;
        found.into_iter().next().ok_or_else(unknown)
    }

    async fn reset_trust(
        &self,
        caller: &Caller,
        id: &str,
        reset: TrustReset,
    ) -> Result<AgentTrust, Problem> {
        let known = self.agent_trust(id).await?;
        let reason = reset.reason.trim();
        if reason.is_empty() || reset.reason.len() > TRUST_REASON_MAX {
            let detail = format!("reason: must say why, in 1 to {TRUST_REASON_MAX} bytes");
            return Err(Problem::invalid("invalid_reason", "reason", detail));
        }
        if let Some(named) = &reset.capability
            && !known.capabilities.iter().any(|c| c.capability == *named)
        {
            let detail = format!("capability: {id} has no {named}");
            return Err(Problem::invalid("unknown_capability", "capability", detail));
        }
        self.orchestrator
            .reset_trust(&caller.name, known.agent_id, reset)
            .await?;
        self.agent_trust(id).await
    }
}
