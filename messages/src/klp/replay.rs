//! Refuses what was received before.

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Envelope;
use super::error::ErrorCode;
use crate::time::Timestamp;

/// Why an envelope is not taken a second time, or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The same sender, epoch and id came before.
    #[error("already received")]
    Seen,
    /// Sent longer ago, or further ahead, than the clocks may differ.
    #[error("timestamp is outside the clock window")]
    OutsideWindow,
    /// As many as can be remembered came within the window. It may be sent again later.
    #[error("too many messages within the clock window")]
    Full,
}

impl ReplayError {
    /// The code that an `ERROR` names.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Seen | Self::OutsideWindow => ErrorCode::Replayed,
            Self::Full => ErrorCode::Busy,
        }
    }
}

type Key = [u8; 32];

/// Remembers (`from`, `epoch`, `id`) for as long as the clock window lets a copy through.
///
/// It forgets nothing early: at its bound it refuses, since forgetting would let a replay in.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    window: Duration,
    entries_max: usize,
    seen: BTreeSet<Key>,
    by_time: BTreeSet<(Timestamp, Key)>,
    // Until then something may come that could not be remembered.
    closed_until: Option<Timestamp>,
}

impl ReplayWindow {
    /// A window within which clocks may differ by `window` either way, for at most `entries_max` messages.
    pub fn new(window: Duration, entries_max: usize) -> Self {
        Self {
            window,
            entries_max,
            seen: BTreeSet::new(),
            by_time: BTreeSet::new(),
            closed_until: None,
        }
    }

    /// Takes an envelope once.
    ///
    /// # Errors
    /// [`ReplayError`] when it must not be acted upon; nothing is remembered of it then.
    pub fn admit(&mut self, envelope: &Envelope, now: Timestamp) -> Result<(), ReplayError> {
        self.check(envelope, now)?;
        let key = key(envelope);
        self.seen.insert(key);
        self.by_time.insert((envelope.timestamp.at(), key));
        Ok(())
    }

    /// Whether an envelope may be taken; nothing is remembered of it.
    ///
    /// # Errors
    /// [`ReplayError`] when it must not be acted upon.
    pub fn check(&mut self, envelope: &Envelope, now: Timestamp) -> Result<(), ReplayError> {
        self.forget_before(now.minus(self.window));
        let sent = envelope.timestamp.at();
        if sent < now.minus(self.window) || sent > now.plus(self.window) {
            return Err(ReplayError::OutsideWindow);
        }
        let key = key(envelope);
        if self.seen.contains(&key) {
            return Err(ReplayError::Seen);
        }
        let closed = self.closed_until.is_some_and(|until| now <= until);
        if closed || self.seen.len() >= self.entries_max {
            return Err(ReplayError::Full);
        }
        Ok(())
    }

    /// Remembers an envelope that came another way, where it was acted upon whatever its timestamp: it is not taken here
    /// for as long as its timestamp, or now, is within the window. At the bound nothing more is taken for as long.
    pub fn note(&mut self, envelope: &Envelope, now: Timestamp) {
        self.forget_before(now.minus(self.window));
        let (key, until) = (key(envelope), envelope.timestamp.at().max(now));
        if self.seen.contains(&key) {
            return;
        }
        if self.seen.len() >= self.entries_max {
            let until = until.plus(self.window);
            self.closed_until = self.closed_until.max(Some(until));
            return;
        }
        self.seen.insert(key);
        self.by_time.insert((until, key));
    }

    /// Forgets an envelope that was taken and then not acted upon: its sender may send it again.
    pub fn forget(&mut self, envelope: &Envelope) {
        let key = key(envelope);
        if self.seen.remove(&key) {
            self.by_time.remove(&(envelope.timestamp.at(), key));
        }
    }

    /// How many messages are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn forget_before(&mut self, horizon: Timestamp) {
        while let Some(&(sent, key)) = self.by_time.first() {
            if sent >= horizon {
                break;
            }
            self.by_time.pop_first();
            self.seen.remove(&key);
        }
    }
}

/// A digest, so that what is remembered has a fixed size whatever the names are.
fn key(envelope: &Envelope) -> Key {
    let mut hash = Sha256::new();
    let from = envelope.from.to_string();
    hash.update(u64::try_from(from.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(from.as_bytes());
    hash.update(envelope.epoch.map_or(0, |epoch| epoch.0).to_be_bytes());
    hash.update(envelope.id.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{MessageType, Stamp};
    use super::*;
    use crate::ids::Epoch;

    fn message(id: &str, epoch: u64, at: u64) -> Envelope {
        let stamp = Stamp {
            id: id.to_owned(),
            timestamp: Timestamp::from_millis(at),
            epoch: Some(Epoch(epoch)),
        };
        let (from, to) = ("agent:a".parse().unwrap(), "agent:b".parse().unwrap());
        Envelope::new(MessageType::Message, from, to, json!({}), stamp)
    }

    #[test]
    fn same_sender_epoch_and_id_is_taken_once() {
        let mut window = ReplayWindow::new(Duration::from_secs(30), 10);
        let now = Timestamp::from_millis(100_000);
        assert_eq!(window.admit(&message("1", 1, 100_000), now), Ok(()));
        assert_eq!(
            window.admit(&message("1", 1, 100_001), now),
            Err(ReplayError::Seen)
        );
        assert_eq!(window.admit(&message("1", 2, 100_000), now), Ok(()));
        assert_eq!(window.admit(&message("2", 1, 100_000), now), Ok(()));
        let later = Timestamp::from_millis(130_001);
        assert_eq!(
            window.admit(&message("1", 1, 100_000), later),
            Err(ReplayError::OutsideWindow)
        );
        assert_eq!(
            window.admit(&message("3", 1, 160_002), later),
            Err(ReplayError::OutsideWindow)
        );
    }

    #[test]
    fn what_came_another_way_is_not_taken_and_does_not_open_the_window_at_its_bound() {
        let mut window = ReplayWindow::new(Duration::from_secs(30), 2);
        let now = Timestamp::from_millis(100_000);
        // Too old and too far ahead to be taken, they are remembered for as long as they could be.
        window.note(&message("ahead", 1, 200_000), now);
        window.note(&message("1", 1, 100_000), now);
        let said = message("1", 1, 100_000);
        assert_eq!(window.check(&said, now), Err(ReplayError::Seen));
        assert_eq!(window.len(), 2);
        // One too many: until it could not come any more, nothing is taken.
        window.note(&message("2", 1, 100_000), now);
        let soon = Timestamp::from_millis(130_000);
        assert_eq!(
            window.check(&message("2", 1, 100_000), soon),
            Err(ReplayError::Full)
        );
        let later = Timestamp::from_millis(170_001);
        assert_eq!(window.check(&message("3", 1, 170_000), later), Ok(()));
        let ahead = message("ahead", 1, 200_000);
        assert_eq!(window.check(&ahead, later), Err(ReplayError::Seen));
    }

    proptest! {
        #[test]
        fn never_twice_and_never_more_than_the_bound(
            sends in prop::collection::vec((0_u8..6, 0_u64..3, 0_u64..40, 0_u64..4), 0..200)
        ) {
            let mut window = ReplayWindow::new(Duration::from_millis(10), 5);
            let mut taken = std::collections::HashSet::new();
            let mut now = 100;
            for (id, epoch, offset, step) in sends {
                now += step;
                let envelope = message(&id.to_string(), epoch, now + offset - 20);
                if window.admit(&envelope, Timestamp::from_millis(now)).is_ok() {
                    // The very same message, by id and time, may come through only once, ever.
                    prop_assert!(taken.insert((id, epoch, now + offset - 20)));
                }
                prop_assert!(window.len() <= 5);
            }
        }
    }
}
