//! What has happened to durable subscriptions, taken in.

use serde_json::Value;

use mesh_messages::address::TopicPattern;
use mesh_messages::bus::{DeadDetail, DeliveryCause, SubscribeFrom, SubscriptionTerms};
use mesh_messages::events::BusEvent;
use mesh_messages::{Position, Timestamp};

use super::super::queue::{Item, Queue};
use super::super::topics::Who;
use super::super::{BusState, expires_of, priority_of, size};
use super::Stored;

impl BusState {
    /// A publication stands in every queue that wants it.
    pub(in crate::bus) fn spread(
        &mut self,
        topic: &TopicPattern,
        record: Position,
        envelope: &Value,
        at: Timestamp,
    ) {
        let wanting = self.durably_wanting(topic);
        let ids: Vec<String> = wanting.map(|queue| queue.terms.id.clone()).collect();
        for id in ids {
            self.durable.enqueue(&id, record, envelope, at);
        }
    }

    pub(in crate::bus) fn made(
        &mut self,
        terms: &SubscriptionTerms,
        at: Timestamp,
        record: Position,
    ) {
        let fill = match terms.from {
            SubscribeFrom::Now => None,
            SubscribeFrom::Earliest => Some(Position(0)),
            SubscribeFrom::Position(position) => Some(position),
        };
        let queue = Queue::new(
            terms.clone(),
            at,
            record,
            fill.filter(|from| *from < record),
        );
        self.topics
            .insert(&terms.topic, Who::Durable(terms.id.clone()));
        self.durable.queues.insert(terms.id.clone(), queue);
    }

    pub(in crate::bus) fn removed(&mut self, id: &str) {
        let Some(queue) = self.durable.queues.remove(id) else {
            return;
        };
        self.topics
            .remove(&queue.terms.topic, &Who::Durable(id.to_owned()));
        for (record, _) in queue.items() {
            self.durable.unwant(record);
        }
    }

    /// Takes in an event of one subscription.
    pub(in crate::bus) fn applied(&mut self, event: &BusEvent) {
        let queues = &mut self.durable.queues;
        match event {
            BusEvent::Filled {
                subscription,
                messages,
                next,
            } => {
                for past in messages {
                    let (record, envelope) = (past.record, &past.envelope);
                    self.durable
                        .enqueue(subscription, record, envelope, past.at);
                }
                if let Some(queue) = self.durable.queues.get_mut(subscription) {
                    queue.fill = *next;
                }
            }
            BusEvent::HandedOut {
                subscription,
                holder,
                messages,
            } => {
                if let Some(queue) = queues.get_mut(subscription) {
                    queue.handed_out(*holder, messages);
                }
            }
            BusEvent::Acked {
                subscription,
                records,
            } => {
                for &record in records {
                    let queue = self.durable.queues.get_mut(subscription);
                    if queue.is_some_and(|queue| queue.acked(record)) {
                        self.durable.unwant(record);
                    }
                }
            }
            BusEvent::Extended {
                subscription,
                records,
                until,
            } => {
                if let Some(queue) = queues.get_mut(subscription) {
                    for &record in records {
                        queue.extended(record, *until);
                    }
                }
            }
            BusEvent::Returned {
                subscription,
                messages,
            } => {
                if let Some(queue) = queues.get_mut(subscription) {
                    for back in messages {
                        queue.returned(back);
                    }
                }
            }
            BusEvent::Received { .. }
            | BusEvent::Sent { .. }
            | BusEvent::Taken { .. }
            | BusEvent::Alerted { .. }
            | BusEvent::DeadLettered { .. }
            | BusEvent::Subscribed { .. }
            | BusEvent::Made { .. }
            | BusEvent::Removed { .. }
            | BusEvent::DeadSettled { .. } => {}
        }
    }

    /// A message is out of a queue for good; answers the record of its publication, and the whole.
    pub(in crate::bus) fn died(
        &mut self,
        detail: &DeadDetail,
        message: &str,
    ) -> Option<(Position, Value)> {
        let queue = self.durable.queues.get_mut(&detail.subscription)?;
        let record = match detail.record {
            Some(record) => record,
            // It stands right before in the log, so it is the newest in the queue.
            None => queue.items().next_back()?.0,
        };
        let envelope = self.durable.messages.get(&record)?.envelope.clone();
        if detail.record.is_none() && envelope.get("id").and_then(Value::as_str) != Some(message) {
            return None;
        }
        queue.remove(record)?;
        queue.dead += 1;
        self.durable.unwant(record);
        Some((record, envelope))
    }

    /// A dead letter stands in its queue again, with all the deliveries that it has still coming.
    pub(in crate::bus) fn put_back(
        &mut self,
        id: &str,
        record: Position,
        letter: (&Value, u32, &[DeliveryCause]),
        at: Timestamp,
    ) {
        let (envelope, deliveries, causes) = letter;
        let Some(queue) = self.durable.queues.get_mut(id) else {
            return;
        };
        if queue.item(record).is_some() {
            return;
        }
        let item = Item {
            deliveries,
            forgiven: deliveries,
            causes: causes.to_vec(),
            ..Item::new(priority_of(envelope), size(envelope))
        };
        queue.push(record, item);
        let stored = self
            .durable
            .messages
            .entry(record)
            .or_insert_with(|| Stored {
                envelope: envelope.clone(),
                at,
                expires: expires_of(envelope),
                wanted: 0,
            });
        stored.wanted += 1;
    }
}
