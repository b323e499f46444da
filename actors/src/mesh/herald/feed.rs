//! Reads accepted tasks from the log, for the bus to tell of.

use std::error::Error;

use serde_json::json;

use mesh_messages::bus::TASK_CREATED;
use mesh_messages::events::{TaskEvent, partition};
use mesh_messages::{Position, TaskId};

use crate::bus::{BusHandle, Created};
use crate::partition::payload_of;
use crate::store::{OpenStore, StoreCell};

/// Tasks that are told of in one go, and records that are looked at for them: a few appends of the journal.
const BATCH: usize = 256;
const SCAN: usize = 4096;

/// How far the log was read.
#[derive(Debug, Default)]
pub(super) struct Feed {
    next: Position,
}

/// What a part of the log holds: accepted tasks, where to go on, and whether more was there.
type Part = (Vec<Created>, Position, bool);

impl Feed {
    /// Tells of all that is in the log and was not told. What cannot be told now is told the next time.
    pub(super) async fn go_on(&mut self, bus: &BusHandle, store: &StoreCell) {
        loop {
            // Nobody there, or it is being restarted.
            let Ok(Some(from)) = bus.feed_from().await else {
                return;
            };
            let Ok(store) = store.get() else { return };
            let from = self.next.max(from);
            let read = tokio::task::spawn_blocking(move || {
                part(&store, from).map_err(|error| error.to_string())
            });
            let (created, next, more) = match read.await {
                Ok(Ok(part)) => part,
                Ok(Err(error)) => {
                    tracing::warn!(error, "accepted tasks could not be read; trying again");
                    return;
                }
                Err(_) => return,
            };
            if !created.is_empty()
                && let Err(problem) = bus.tell_created(created).await
            {
                tracing::debug!(%problem, "accepted tasks could not be told of; trying again");
                return;
            }
            self.next = next;
            if !more {
                return;
            }
        }
    }
}

fn part(store: &OpenStore, from: Position) -> Result<Part, Box<dyn Error + Send + Sync>> {
    let (mut created, mut next) = (Vec::new(), from);
    let records = store.journal.read_partition(&partition::TASKS, from)?;
    for (looked, record) in records.enumerate() {
        if looked >= SCAN || created.len() >= BATCH {
            return Ok((created, next, true));
        }
        let record = record?;
        next = Position(record.header.position.0 + 1);
        if &*record.header.kind != "task.submitted" {
            continue;
        }
        // What was erased since is told to nobody.
        let payload = payload_of(&record, &store.content)?;
        if let (Some(task), Some(payload)) = (&record.header.task, payload) {
            let event = serde_json::from_slice(&payload)?;
            created.extend(told(task, record.header.position, event));
        }
    }
    Ok((created, next, false))
}

fn told(task: &TaskId, record: Position, event: TaskEvent) -> Option<Created> {
    let TaskEvent::Submitted { spec, .. } = event else {
        return None;
    };
    let data = json!({
        "task": task, "type": spec.kind, "requirements": spec.requirements, "priority": spec.priority,
    });
    Some(Created {
        record,
        id: format!("{TASK_CREATED}:{task}"),
        data,
    })
}
