//! What those hear who tell others of tasks: that some were accepted, and how much waits.

use tokio::sync::watch;

use mesh_actors_core::task::Load;
use mesh_messages::TaskId;
use mesh_messages::events::TaskEvent;
use mesh_messages::problem::Problem;

use super::handle::CALL_LIMIT;
use super::{Message, OrchestratorHandle, Shell};

/// Whoever is woken when tasks were accepted.
#[derive(Debug, Clone, Default)]
pub(super) struct Listeners(watch::Sender<()>);

/// Whether a decision accepts tasks.
pub(super) fn accepts(events: &[(TaskId, TaskEvent)]) -> bool {
    let mut events = events.iter();
    events.any(|(_, event)| matches!(event, TaskEvent::Submitted { .. }))
}

impl OrchestratorHandle {
    /// Changes when tasks were accepted, durably.
    pub(crate) fn accepted(&self) -> watch::Receiver<()> {
        self.created.0.subscribe()
    }

    pub(super) fn note_accepted(&self) {
        self.created.0.send_replace(());
    }

    /// How much waits now.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub(crate) async fn load(&self) -> Result<Load, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Load { reply })
            .await?)
    }
}

impl Shell {
    pub(super) fn load_now(&self) -> Load {
        self.partition.state().load(&self.live)
    }
}
