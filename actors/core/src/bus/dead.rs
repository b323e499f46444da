//! Dead letters: what nobody got, or nobody acknowledged, kept to be looked at, put back or given up.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::bus::{DeadLetter, DeadSettlement};
use mesh_messages::events::BusEvent;
use mesh_messages::{Position, RecordHeader, Timestamp};

use super::{BusState, Held, size};

/// Dead letters that are kept; beyond them the oldest goes whose content is not kept, then the oldest. All of them stay
/// on record.
pub const DEAD_MAX: usize = 1000;
/// Bytes of their envelopes; beyond them the oldest of those goes that have one.
pub const DEAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a dead letter is not put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeadRefusal {
    /// There is none of this id, or not any more.
    #[error("there is no such dead letter")]
    Unknown,
    /// Its content is not kept, it has expired, or whom it was for is gone.
    #[error("its receiver is gone, it has expired, or its content is not kept")]
    NotRetryable,
    /// Its subscription has no room for it. Try again when it has.
    #[error("its subscription is full")]
    Full,
}

/// A dead letter and what it takes to put it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What is shown.
    pub letter: DeadLetter,
    // The record of its publication.
    record: Option<Position>,
    // The whole, where it can be put back.
    envelope: Option<Value>,
    // When it was published.
    sent: Timestamp,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct DeadLetters {
    letters: BTreeMap<Position, Kept>,
    bytes: u64,
}

impl DeadLetters {
    fn insert(&mut self, kept: Kept) {
        self.bytes += kept.envelope.as_ref().map_or(0, size);
        self.letters.insert(kept.letter.id, kept);
        while self.letters.len() > DEAD_MAX || self.bytes > DEAD_BYTES_MAX {
            // Bytes are freed by those that have an envelope; places first by those that cannot be put back.
            let whole = self.bytes > DEAD_BYTES_MAX;
            let first =
                |(id, kept): (&Position, &Kept)| (kept.envelope.is_some() == whole).then_some(*id);
            let place = self.letters.iter().find_map(first);
            let oldest = || self.letters.keys().next().copied();
            let Some(id) = place.or_else(oldest) else {
                return;
            };
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Position) -> Option<Kept> {
        let kept = self.letters.remove(&id)?;
        self.forgot(&kept);
        Some(kept)
    }

    fn forgot(&mut self, kept: &Kept) {
        let bytes = kept.envelope.as_ref().map_or(0, size);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl BusState {
    /// The dead letters that are kept, oldest first.
    pub fn dead_letters(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.dead.letters.values().map(|kept| &kept.letter)
    }

    /// Decides on putting a dead letter of a subscription back into its queue.
    ///
    /// # Errors
    /// [`DeadRefusal`].
    pub fn retry_dead(&self, id: Position, now: Timestamp) -> Result<BusEvent, DeadRefusal> {
        let kept = self.dead.letters.get(&id).ok_or(DeadRefusal::Unknown)?;
        let queue = kept.letter.subscription.as_ref();
        let queue = queue.and_then(|subscription| self.queue(subscription));
        let (Some(queue), Some(envelope), Some(_)) = (queue, &kept.envelope, kept.record) else {
            return Err(DeadRefusal::NotRetryable);
        };
        if super::expires_of(envelope).is_some_and(|end| end <= now) {
            return Err(DeadRefusal::NotRetryable);
        }
        if queue.is_full_for(size(envelope)) {
            return Err(DeadRefusal::Full);
        }
        Ok(BusEvent::DeadSettled {
            letters: vec![id],
            how: DeadSettlement::Retried,
        })
    }

    /// Decides to give up the dead letters of publications that are erased: they hold them whole.
    pub fn drop_dead_of(&self, records: &BTreeSet<Position>) -> Option<BusEvent> {
        let of = |kept: &&Kept| {
            kept.envelope.is_some() && kept.record.is_some_and(|record| records.contains(&record))
        };
        let meant = self.dead.letters.values().filter(of);
        let letters: Vec<Position> = meant.map(|kept| kept.letter.id).collect();
        (!letters.is_empty()).then_some(BusEvent::DeadSettled {
            letters,
            how: DeadSettlement::Dropped,
        })
    }

    /// Decides on giving a dead letter up for good.
    ///
    /// # Errors
    /// [`DeadRefusal::Unknown`].
    pub fn drop_dead(&self, id: Position) -> Result<BusEvent, DeadRefusal> {
        if !self.dead.letters.contains_key(&id) {
            return Err(DeadRefusal::Unknown);
        }
        Ok(BusEvent::DeadSettled {
            letters: vec![id],
            how: DeadSettlement::Dropped,
        })
    }

    pub(super) fn keep_dead(
        &mut self,
        header: &RecordHeader,
        event: &BusEvent,
        held: Option<Held>,
    ) {
        let BusEvent::DeadLettered {
            message,
            from,
            to,
            reason,
            detail,
        } = event
        else {
            return;
        };
        let found = detail.as_ref().and_then(|detail| {
            let sent = detail
                .record
                .and_then(|record| self.durable.messages.get(&record));
            let sent = sent.map_or(header.time, |stored| stored.at);
            Some((self.died(detail, message)?, sent))
        });
        let (record, envelope, sent) = match (found, held) {
            (Some(((record, envelope), sent)), _) => (Some(record), Some(envelope), sent),
            (None, Some(held)) => (held.origin.record, None, header.time),
            (None, None) => (None, None, header.time),
        };
        let letter = DeadLetter {
            id: header.position,
            at: header.time,
            message: message.clone(),
            from: from.clone(),
            to: to.clone(),
            reason: reason.clone(),
            subscription: detail.as_ref().map(|detail| detail.subscription.clone()),
            deliveries: detail.as_ref().map_or(0, |detail| detail.deliveries),
            causes: detail
                .as_ref()
                .map(|detail| detail.causes.clone())
                .unwrap_or_default(),
            retryable: envelope.is_some() && reason != "expired",
        };
        self.dead.insert(Kept {
            letter,
            record,
            envelope,
            sent,
        });
    }

    pub(super) fn settled_dead(&mut self, letters: &[Position], how: DeadSettlement) {
        for &id in letters {
            let Some(kept) = self.dead.remove(id) else {
                continue;
            };
            if how == DeadSettlement::Retried
                && let (Some(subscription), Some(record), Some(envelope)) =
                    (&kept.letter.subscription, kept.record, &kept.envelope)
            {
                let (deliveries, causes) = (kept.letter.deliveries, &*kept.letter.causes);
                let letter = (envelope, deliveries, causes);
                self.put_back(subscription, record, letter, kept.sent);
            }
        }
    }
}
