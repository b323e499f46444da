//! What the tests of this crate share.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, Timestamp};

use crate::clock::Clock;
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
