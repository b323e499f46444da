//! Tokens, as the outside asks for them.

use std::error::Error as _;
use std::path::Path;

use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::{Failure, FailureClass};
use mesh_persistence::{RevocationError, ordered_revocations, revocations_done};

use super::Mesh;
use crate::agents::agent::AgentMessage;
use crate::operations::Action;

/// Who ordered it, as the audit names them, when no daemon ran to say more: somebody who may write the data directory.
const OFFLINE: &str = "offline";

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

    /// Makes void what was ordered to be while no daemon ran. The order stays where it is until all of it is on record.
    ///
    /// # Errors
    /// Why it is not known to be so, in words; then nobody is to be served.
    pub(super) async fn revoke_as_ordered(&self, data: &Path) -> Result<(), String> {
        let ids = off_thread(data, ordered_revocations).await?;
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            match self.sentinel.revoke(OFFLINE, &id).await {
                Ok(_) => tracing::warn!(id, "the token is void, as ordered offline"),
                Err(problem) if problem.kind == ProblemKind::NotFound => {
                    tracing::warn!(id, "ordered offline to be void, and there is no such token");
                    let (action, resource) = (Action::Tokens.name(), format!("/v1/tokens/{id}"));
                    self.sentinel
                        .record_refused(OFFLINE, action, &resource, problem.code);
                }
                Err(problem) => return Err(format!("token {id}, ordered to be void: {problem}")),
            }
        }
        off_thread(data, revocations_done).await
    }
}

async fn off_thread<T: Send + 'static>(
    data: &Path,
    work: fn(&Path) -> Result<T, RevocationError>,
) -> Result<T, String> {
    let data = data.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&data)).await;
    let done = done.map_err(|_| "tokens ordered to be void: meshd is ending".to_owned())?;
    done.map_err(|error| {
        let source = error.source().map(|source| format!(": {source}"));
        format!(
            "tokens ordered to be void: {error}{}",
            source.unwrap_or_default()
        )
    })
}
