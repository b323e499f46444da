//! Publications of before, which are read up for subscriptions that begin earlier than they were made.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use mesh_actors_core::bus::BusState;
use mesh_messages::Position;
use mesh_messages::address::Address;
use mesh_messages::bus::{PastMessage, SubscriptionTerms};
use mesh_messages::events::{BusEvent, partition};

use super::state::RETRY_PAUSE;
use super::{Message, State};
use crate::partition::{Cause, payload_of};
use crate::store::OpenStore;

/// Publications of the past that are put into a queue by one commit, and records that are looked at for them.
const FILL_BATCH: usize = 64;
const FILL_SCAN: usize = 4096;

/// A step of reading publications of the past.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) subscription: String,
    /// The record by which the subscription was made that it was read for.
    pub(crate) made: Position,
    pub(crate) read: Result<(Vec<PastMessage>, Option<Position>), String>,
}

impl State {
    /// Goes on reading publications of before for subscriptions that have room for them.
    pub(super) fn read_past(&mut self) {
        for queue in self.partition.state().queues() {
            let half = usize::try_from(queue.terms.max_queue / 2).unwrap_or_default();
            let reading = (queue.terms.id.clone(), queue.made);
            let (Some(from), false) = (queue.fill, self.reading.contains(&reading)) else {
                continue;
            };
            // What stands before it in the log is read from the disk, where it must have arrived.
            if queue.len() > half || self.durable.is_none_or(|durable| durable < queue.made) {
                continue;
            }
            let Ok(store) = self.store.get() else {
                return;
            };
            self.reading.insert(reading);
            let room = (half + 1).min(FILL_BATCH);
            let (terms, until, me) = (queue.terms.clone(), queue.made, self.myself.clone());
            ractor::concurrency::spawn(async move {
                let subscription = terms.id.clone();
                let read = tokio::task::spawn_blocking(move || {
                    past(&store, &terms, (from, until), room).map_err(|error| error.to_string())
                });
                let read = read.await.map_err(|error| error.to_string()).flatten();
                let past = Past {
                    subscription,
                    made: until,
                    read,
                };
                let _gone = me.cast(Message::Past(past));
            });
        }
    }

    pub(super) async fn filled(&mut self, past: Past) -> Result<(), ActorProcessingErr> {
        let Past {
            subscription,
            made,
            read,
        } = past;
        let queue = self.partition.state().queue(&subscription);
        let is_its = queue.is_some_and(|queue| queue.made == made);
        let from = queue.and_then(|queue| queue.fill);
        match read {
            Ok((messages, next)) => {
                self.reading.remove(&(subscription.clone(), made));
                // Another one may have the name by now.
                if !is_its || self.writable().is_err() {
                    return Ok(());
                }
                // One record each, so that one can be erased without the others; where to go on is said by the last.
                let one = |past: PastMessage| BusEvent::Filled {
                    subscription: subscription.clone(),
                    messages: vec![past],
                    next: from,
                };
                let mut events: Vec<BusEvent> = messages.into_iter().map(one).collect();
                events.push(BusEvent::Filled {
                    subscription,
                    messages: Vec::new(),
                    next,
                });
                self.commit(events, &Cause::meshd(), Vec::new()).await
            }
            // The log cannot be read; its owner finds out, too. It is tried again after a pause.
            Err(why) => {
                tracing::error!(subscription, why, "past publications could not be read");
                let again = move || Message::Reread { subscription, made };
                drop(self.myself.send_after(RETRY_PAUSE, again));
                Ok(())
            }
        }
    }
}

/// Publications on a subscription's topics in a part of the log, and where to go on.
fn past(
    store: &Arc<OpenStore>,
    terms: &SubscriptionTerms,
    (from, until): (Position, Position),
    room: usize,
) -> Result<(Vec<PastMessage>, Option<Position>), Box<dyn std::error::Error + Send + Sync>> {
    let mut found = Vec::new();
    let records = store.journal.read_partition(&partition::BUS, from)?;
    for (looked, record) in records.enumerate() {
        let record = record?;
        let position = record.header.position;
        if position >= until {
            return Ok((found, None));
        }
        if found.len() >= room || looked >= FILL_SCAN {
            return Ok((found, Some(position)));
        }
        if &*record.header.kind != "message_sent" {
            continue;
        }
        let Some(payload) = payload_of(&record, &store.content)? else {
            continue;
        };
        let BusEvent::Sent { to, envelope, .. } = serde_json::from_slice(&payload)? else {
            continue;
        };
        if let Ok(Address::Topic(topic)) = to.parse()
            && terms.topic.matches(&topic)
            && BusState::may_have(terms, &topic)
        {
            found.push(PastMessage {
                record: position,
                at: record.header.time,
                envelope,
            });
        }
    }
    Ok((found, None))
}
