//! Tokens, as the outside asks for them.

use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::{Failure, FailureClass};

use super::Mesh;
use crate::agents::agent::AgentMessage;

impl Mesh {
    /// Makes a token void. An incarnation whose session token it was is ended, and begun anew as any that was lost: it would
    /// ask for another one, and go on.
    pub(super) async fn token_revoke(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let Some((agent, epoch)) = self.sentinel.revoke(&caller.name, id).await? else {
            return Ok(());
        };
        // Whatever else it was given meanwhile is void, too.
        self.sentinel.revoke_session(&agent, epoch);
        let reason = Failure::new(
            FailureClass::Lost,
            format!("its session token {id} was revoked by {}", caller.name),
        );
        let entry = self.ctx.directory.get(agent.as_str());
        // One that is gone needs no end.
        let _gone = entry.map(|e| e.slot.cast(AgentMessage::EndInstance { epoch, reason }));
        Ok(())
    }
}
