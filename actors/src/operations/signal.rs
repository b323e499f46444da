//! What can be asked about signals.

use async_trait::async_trait;

use mesh_messages::problem::Problem;
use mesh_messages::signal::{SignalOrder, SignalSent};
use mesh_messages::system::Caller;

/// Signals to agents.
#[async_trait]
pub trait SignalOperations {
    /// Sends a signal to the agent's own process of one or all instances that run. On record before it is sent.
    ///
    /// # Errors
    /// `agent_not_found`, `agent_not_running`, `agent_paused`: frozen processes take none.
    async fn signal_agent(
        &self,
        caller: &Caller,
        id: &str,
        order: SignalOrder,
    ) -> Result<SignalSent, Problem>;
}
