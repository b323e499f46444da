//! How far accepted tasks were told as `task.created`: what was not, is told from the log of tasks.

use serde_json::Value;

use mesh_messages::Position;
use mesh_messages::address::TopicPattern;
use mesh_messages::bus::TASK_CREATED;

use super::{BusState, Seen};

/// Where the envelope of what is told names the record of the task that it tells of.
pub const FEED_RECORD: &str = "record";

impl BusState {
    /// From which record on accepted tasks are to be told; `None` when nobody would get them.
    ///
    /// Whoever subscribed is told of each task that was accepted after that, and of none twice as long as the newest one
    /// that was told is known.
    pub fn feed_from(&self) -> Option<Position> {
        let topic: TopicPattern = TASK_CREATED.parse().ok()?;
        let since = self.durably_wanting(&topic).map(|queue| queue.made).min()?;
        let next = self.told.map(|told| Position(told.0 + 1));
        Some(next.map_or(since, |next| next.max(since)))
    }

    /// Takes note of what was told.
    pub(super) fn note_told(&mut self, topic: &TopicPattern, record: Position, envelope: &Value) {
        if topic.as_str() != TASK_CREATED {
            return;
        }
        // Earlier versions did not say of which record it tells; that lies before its own.
        let named = envelope.get("context").and_then(|c| c.get(FEED_RECORD));
        let named = named.and_then(Value::as_u64).map_or(record, Position);
        self.told = self.told.max(Some(named));
    }
}

/// The newest record by which anything was told, for snapshots of versions that did not keep it.
pub(super) fn newest_told<'a>(
    recent: impl DoubleEndedIterator<Item = &'a Seen>,
) -> Option<Position> {
    let to = format!("topic://{TASK_CREATED}");
    let heads = recent.rev().filter_map(|seen| seen.head.as_ref());
    heads
        .filter(|head| head.to == to)
        .map(|head| head.record)
        .next()
}
