//! What is said about a task: the messages that name it, by the log's index, without their contents.

use std::sync::Arc;

use mesh_actors_core::projection::{self, AuditIndex, ProjectFailure};
use mesh_messages::events::{BusEvent, partition};
use mesh_messages::problem::Problem;
use mesh_messages::task::TaskMessage;
use mesh_messages::{Position, TaskId};

use crate::partition::payload_of;
use crate::reads::{self, LookupError, StoreReader};
use crate::store::OpenStore;

/// Messages that a single task shows.
pub(super) const OF_TASK: usize = 16;
/// Messages that a card shows.
pub(super) const OF_CARD: usize = 3;
/// Positions that one look into the index takes.
const STEP: usize = 4096;
/// Records that are looked at for them, the latest ones about the task: between two messages lie a few at most.
const RECORDS_MAX: usize = 128;

/// The latest messages about each of these tasks, oldest first.
pub(super) async fn messages_about(
    store: &Arc<OpenStore>,
    tasks: Vec<TaskId>,
    limit: usize,
) -> Result<Vec<Vec<TaskMessage>>, Problem> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    reads::caught_up(store).await?;
    reads::blocking(Arc::clone(store), move |store| {
        let each = tasks.iter().map(|task| about(store, task, limit));
        each.collect::<Result<Vec<_>, LookupError>>()
    })
    .await
}

fn about(store: &OpenStore, task: &TaskId, limit: usize) -> Result<Vec<TaskMessage>, LookupError> {
    let mut latest: Vec<Position> = Vec::new();
    loop {
        let (index, after) = (AuditIndex::Task(task), latest.last().copied());
        let page = projection::audit_page(&StoreReader(store), index, after, STEP);
        let page = page.map_err(ProjectFailure::View)?;
        let is_last = page.len() < STEP;
        latest.extend(page);
        latest.drain(..latest.len().saturating_sub(RECORDS_MAX));
        if is_last {
            break;
        }
    }
    let mut said: Vec<TaskMessage> = Vec::new();
    for position in latest {
        let Some(record) = store.journal.get(position)? else {
            continue;
        };
        if record.header.partition != partition::BUS {
            continue;
        }
        let Ok(Some(payload)) = payload_of(&record, &store.content) else {
            continue;
        };
        let event = serde_json::from_slice::<BusEvent>(&payload);
        let received = matches!(event, Ok(BusEvent::Received { .. }));
        let Ok(
            BusEvent::Sent {
                message,
                from,
                to,
                kind,
                ..
            }
            | BusEvent::Received {
                message,
                from,
                to,
                kind,
                ..
            },
        ) = event
        else {
            continue;
        };
        let known = said
            .iter_mut()
            .rev()
            .find(|one| one.id == message && one.from == from);
        match known {
            Some(known) => known.received |= received,
            None => said.push(TaskMessage {
                id: message,
                at: record.header.time,
                from,
                to,
                kind,
                received,
            }),
        }
    }
    said.drain(..said.len().saturating_sub(limit));
    Ok(said)
}
