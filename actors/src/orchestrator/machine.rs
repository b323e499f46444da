//! The task machine as the state of its partition.

use mesh_actors_core::task::{RetryPolicy, TaskConfig, Tasks};
use mesh_messages::RecordHeader;
use mesh_messages::events::TaskEvent;

use crate::context::Context;
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
        if let (TaskEvent::Budget { at, step }, None) = (event, &header.task) {
            return self.apply_account(*at, step);
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

/// What of the settings the machine decides by.
pub(super) fn config_of(ctx: &Context) -> TaskConfig {
    let settings = &ctx.settings;
    TaskConfig {
        retry: RetryPolicy::default().completed(Some(&settings.retry)),
        max_parallel_tasks: settings.max_parallel_tasks,
        fallback_on_error: settings.fallback_on_error,
        trust_threshold: settings.trust_threshold,
        allow_cross_agent: settings.allow_cross_agent,
        policy: ctx.policy.load_full(),
    }
}
