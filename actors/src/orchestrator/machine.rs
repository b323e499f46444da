//! The task machine as the state of its partition.

use mesh_actors_core::task::Tasks;
use mesh_messages::RecordHeader;
use mesh_messages::events::TaskEvent;

use crate::partition::Machine;

impl Machine for Tasks {
    type Event = TaskEvent;

    fn kind(event: &TaskEvent) -> &'static str {
        event.kind()
    }

    fn apply(&mut self, header: &RecordHeader, event: &TaskEvent) {
        if let TaskEvent::Trust(change) = event {
            return self.apply_trust(change);
        }
        let Some(task) = &header.task else {
            tracing::error!(position = %header.position, "a task's record names no task");
            return;
        };
        if let Err(misfit) = Tasks::apply(self, task, event) {
            tracing::error!(position = %header.position, %task, %misfit, "a record does not fit its task");
        }
        self.note(task, header.position, header.correlation.as_deref());
    }

    fn forget(&mut self, records: u64) {
        self.evict(records);
    }
}
