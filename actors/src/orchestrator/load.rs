//! What those hear who tell others of tasks: which were accepted, and how much waits.

use tokio::sync::broadcast;

use mesh_actors_core::task::Load;
use mesh_messages::TaskId;
use mesh_messages::events::TaskEvent;
use mesh_messages::problem::Problem;
use mesh_messages::task::Priority;

use super::handle::CALL_LIMIT;
use super::{Message, OrchestratorHandle, Shell};

/// Accepted tasks that a listener may lag behind: more than one submission has.
const CREATED_KEPT: usize = 4096;

/// A task that was accepted, durably.
#[derive(Debug, Clone)]
pub(crate) struct Created {
    pub(crate) id: TaskId,
    pub(crate) kind: Option<String>,
    pub(crate) requirements: Vec<String>,
    pub(crate) priority: Priority,
}

/// Whoever hears of them.
#[derive(Debug, Clone)]
pub(super) struct Listeners(broadcast::Sender<Created>);

impl Default for Listeners {
    fn default() -> Self {
        Self(broadcast::Sender::new(CREATED_KEPT))
    }
}

/// The tasks that a decision accepts.
pub(super) fn created_by(events: &[(TaskId, TaskEvent)]) -> Vec<Created> {
    let created = |(id, event): &(TaskId, TaskEvent)| match event {
        TaskEvent::Submitted { spec, .. } => Some(Created {
            id: id.clone(),
            kind: spec.kind.clone(),
            requirements: spec.requirements.clone(),
            priority: spec.priority,
        }),
        _ => None,
    };
    events.iter().filter_map(created).collect()
}

impl OrchestratorHandle {
    /// Hears of every task that is accepted from now on.
    pub(crate) fn created(&self) -> broadcast::Receiver<Created> {
        self.created.0.subscribe()
    }

    pub(super) fn note_created(&self, created: Vec<Created>) {
        for task in created {
            let _nobody_listens = self.created.0.send(task);
        }
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
