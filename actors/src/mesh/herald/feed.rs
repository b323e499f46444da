//! Reads accepted tasks from the log, for the bus to tell of.

use std::error::Error;

use serde_json::json;

use mesh_messages::bus::TASK_CREATED;
use mesh_messages::events::{TaskEvent, partition};
use mesh_messages::{Position, Record, TaskId};
use mesh_persistence::ContentStore;

use crate::bus::{BusHandle, Created};
use crate::partition::payload_of;
use crate::store::{OpenStore, StoreCell};

/// Tasks that are told of in one go, each an append of the journal, and records that are looked at for them.
const BATCH: usize = 256;
const SCAN: usize = 4096;

/// How far the log was read.
#[derive(Debug, Default)]
pub(super) struct Feed {
    next: Position,
    /// The newest record that was warned of.
    warned: Option<Position>,
}

/// What a part of the log holds.
struct Part {
    /// Accepted tasks.
    created: Vec<Created>,
    /// Records that should be such and cannot be read, and why.
    unreadable: Vec<(Position, String)>,
    /// Where to go on.
    next: Position,
    /// Whether more was there.
    more: bool,
}

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
            let part = match read.await {
                Ok(Ok(part)) => part,
                Ok(Err(error)) => {
                    tracing::warn!(error, "accepted tasks could not be read; trying again");
                    return;
                }
                Err(_) => return,
            };
            self.warn(&part.unreadable);
            if !part.created.is_empty()
                && let Err(problem) = bus.tell_created(part.created).await
            {
                tracing::debug!(%problem, "accepted tasks could not be told of; trying again");
                return;
            }
            self.next = part.next;
            if !part.more {
                return;
            }
        }
    }

    /// Tells of what cannot be told of, once: it stays so, and those behind it do not wait for it.
    fn warn(&mut self, unreadable: &[(Position, String)]) {
        for (position, error) in unreadable {
            if self.warned.is_none_or(|warned| warned < *position) {
                self.warned = Some(*position);
                tracing::warn!(
                    %position,
                    error,
                    "nobody is told of an accepted task: it cannot be read"
                );
            }
        }
    }
}

/// Fails only where the log itself cannot be read.
fn part(store: &OpenStore, from: Position) -> Result<Part, Box<dyn Error + Send + Sync>> {
    let mut part = Part {
        created: Vec::new(),
        unreadable: Vec::new(),
        next: from,
        more: false,
    };
    let records = store.journal.read_partition(&partition::TASKS, from)?;
    for (looked, record) in records.enumerate() {
        if looked >= SCAN || part.created.len() >= BATCH {
            part.more = true;
            break;
        }
        let record = record?;
        let position = record.header.position;
        part.next = Position(position.0 + 1);
        match created(&record, &store.content) {
            Ok(created) => part.created.extend(created),
            Err(error) => part.unreadable.push((position, error.to_string())),
        }
    }
    Ok(part)
}

/// What a record tells of, if it is a submission.
fn created(
    record: &Record,
    content: &ContentStore,
) -> Result<Option<Created>, Box<dyn Error + Send + Sync>> {
    if &*record.header.kind != "task.submitted" {
        return Ok(None);
    }
    // What was erased since is told to nobody.
    let payload = payload_of(record, content)?;
    let (Some(task), Some(payload)) = (&record.header.task, payload) else {
        return Ok(None);
    };
    let event = serde_json::from_slice(&payload)?;
    Ok(told(task, record.header.position, event))
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
