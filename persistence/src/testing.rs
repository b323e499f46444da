//! What the tests of this crate share.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_messages::events::{RetentionEvent, partition};
use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Position, Timestamp};

use crate::clock::Clock;
use crate::journal::Journal;
use crate::memory::MemoryJournal;

/// A key for tests.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_secret(&[7; 32])
}

/// A clock that moves on by a millisecond with every third look.
pub(crate) fn clock() -> Arc<dyn Clock> {
    let ticks = AtomicU64::new(3_000_000);
    Arc::new(move || Timestamp::from_millis(ticks.fetch_add(1, Ordering::Relaxed) / 3))
}

pub(crate) fn memory_journal() -> MemoryJournal {
    MemoryJournal::new(key(), clock())
}

/// A record without anything optional.
pub(crate) fn record(kind: &str, payload: &str) -> NewRecord {
    NewRecord {
        kind: Cow::Owned(kind.to_owned()),
        kind_version: 1,
        agent: None,
        task: None,
        actor: "meshd".into(),
        cause: None,
        after: None,
        correlation: None,
        payload: payload.as_bytes().to_vec(),
    }
}

/// Puts on record that these records are about to be erased.
pub(crate) fn doom(journal: &dyn Journal, positions: &[u64]) {
    let records = positions.iter().copied().map(Position).collect();
    let event = RetentionEvent::RecordsDoomed {
        records,
        restored: None,
    };
    say(journal, &partition::RETENTION, event.kind(), &event);
}

/// Puts something on record.
pub(crate) fn say(
    journal: &dyn Journal,
    partition: &PartitionId,
    kind: &str,
    event: &impl serde::Serialize,
) -> u64 {
    let said = record(kind, &serde_json::to_string(event).unwrap());
    let seq = journal.next_seq(partition);
    let appended = journal.append(partition, seq, vec![said]).unwrap();
    appended.last.0
}
