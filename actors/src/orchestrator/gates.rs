//! The gates before providers' accounts: what is shown, counted and told of them.

use mesh_actors_core::task::{Answer, Command};
use mesh_messages::gate::ProviderGate;
use mesh_messages::problem::Problem;
use ractor::{ActorProcessingErr, RpcReplyPort};

use super::handle::{CALL_LIMIT, OrchestratorHandle, unexpected};
use super::{Message, Released, Shell};
use crate::partition::Cause;

impl Shell {
    /// Waits until what it says can no longer be lost.
    pub(super) async fn show_gates(
        &mut self,
        reply: RpcReplyPort<Vec<ProviderGate>>,
    ) -> Result<(), ActorProcessingErr> {
        let gates = self.partition.state().gates().all().cloned().collect();
        self.reply_when_durable(Released::Gates(gates, reply)).await
    }

    pub(super) fn gate_moved(&self, gate: &ProviderGate) {
        self.args.ctx.metrics.gate_moved(gate.state.name());
        tracing::info!(
            account = %gate.account,
            state = %gate.state,
            until = %gate.until,
            permits = gate.permits,
            strikes = gate.strikes,
            agent = %gate.agent,
            task = %gate.task,
            "the gate before a provider's account moved"
        );
    }
}

impl OrchestratorHandle {
    /// The gates that are not open, by account.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn gates(&self) -> Result<Vec<ProviderGate>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Gates { reply })
            .await?)
    }

    /// Has an account tried now.
    ///
    /// # Errors
    /// Its gate is not closed.
    pub async fn try_gate(&self, by: &str, account: &str) -> Result<ProviderGate, Problem> {
        let account = account.to_owned();
        match self
            .ask(Command::TryGate { account }, Cause::by(by))
            .await?
        {
            Answer::Gate(gate) => Ok(*gate),
            other => Err(unexpected(&other)),
        }
    }
}
