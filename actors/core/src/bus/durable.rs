//! Durable subscriptions: at least once, by a queue each.
//!
//! | record | says |
//! |---|---|
//! | `subscription.made` | what is published from here on is in its queue |
//! | `message_sent` to a topic | it stands in the queue of every subscription that matches |
//! | `subscription.delivered` | these are about to be handed out, for the how manieth time, and until when |
//! | `subscription.acked` | these are done |
//! | `subscription.returned` | these were not acknowledged, and stand in the queue again |
//! | `message.dead_lettered` | this one is out of the queue: handed out too often, expired, or pushed out |
//!
//! The queues are a fold over these, so that a publication is one record, whoever gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::{
    AckOp, AckOutcome, BATCH_MAX, DeadDetail, DeliveryCause, HandOut, Handed, Holder, Overflow,
    Return, SubscriptionOrder, SubscriptionTerms,
};
use mesh_messages::events::BusEvent;
use mesh_messages::{AgentId, Epoch, Position, Timestamp};

use super::queue::{Item, Place, Queue};
use super::terms::{self, TermsRefusal};
use super::topics::Who;
use super::{BusRefusal, BusState, size};

mod applied;

/// Durable subscriptions of one owner.
pub const OWNED_MAX: usize = 64;
/// Durable subscriptions of all: each full one may make a publication one record longer.
pub const DURABLE_MAX: usize = 500;

/// A publication that some subscription still needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// The whole.
    pub envelope: Value,
    /// When it was published.
    pub at: Timestamp,
    /// From when on it must not be delivered.
    pub expires: Option<Timestamp>,
    /// Subscriptions that have it in their queue.
    pub wanted: u32,
}

/// All durable subscriptions and what is in them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Durables {
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) messages: BTreeMap<Position, Stored>,
}

/// What happens on a pull or a push: what is journalled, and what is handed out then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HandingOut {
    /// To be journalled first.
    pub events: Vec<BusEvent>,
    /// To be handed out then, in this order.
    pub messages: Vec<Handed>,
}

/// What becomes of a publication.
#[derive(Debug, Clone, PartialEq)]
pub enum Publishing {
    /// Journal these, after the publication itself.
    Accept(Vec<BusEvent>),
    /// It was published before.
    Known,
    /// A subscription that refuses what it has no room for is full.
    Refuse(BusRefusal),
}

/// What becomes of an order for a subscription.
#[derive(Debug, Clone, PartialEq)]
pub enum Making {
    /// Journal this.
    Make(BusEvent),
    /// It is there already, as it is asked for.
    Known,
}

impl Durables {
    fn enqueue(&mut self, id: &str, record: Position, envelope: &Value, at: Timestamp) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        if queue.item(record).is_some() {
            return;
        }
        let item = Item::new(super::priority_of(envelope), size(envelope));
        queue.push(record, item);
        let stored = self.messages.entry(record).or_insert_with(|| Stored {
            envelope: envelope.clone(),
            at,
            expires: super::expires_of(envelope),
            wanted: 0,
        });
        stored.wanted += 1;
    }

    fn unwant(&mut self, record: Position) {
        if let Some(stored) = self.messages.get_mut(&record) {
            stored.wanted = stored.wanted.saturating_sub(1);
            if stored.wanted == 0 {
                self.messages.remove(&record);
            }
        }
    }

    fn owned(&self, owner: &str) -> usize {
        let queues = self.queues.values();
        queues.filter(|queue| queue.terms.owner == owner).count()
    }
}

fn is_agents(owner: &str) -> bool {
    owner.starts_with("agent:")
}

/// What acknowledges a delivery: which message, the how manieth time.
fn token(record: Position, delivery: u32) -> String {
    format!("{record}-{delivery}")
}

fn read_token(token: &str) -> Option<(Position, u32)> {
    let (record, delivery) = token.split_once('-')?;
    Some((Position(record.parse().ok()?), delivery.parse().ok()?))
}

impl BusState {
    /// A durable subscription.
    pub fn queue(&self, id: &str) -> Option<&Queue> {
        self.durable.queues.get(id)
    }

    /// All of them, by id.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.durable.queues.values()
    }

    /// When the oldest message of a queue was published.
    pub fn oldest(&self, queue: &Queue) -> Option<Timestamp> {
        let (record, _) = queue.items().next()?;
        self.durable.messages.get(&record).map(|stored| stored.at)
    }

    /// The durable subscriptions of an agent.
    pub fn queues_of<'a>(&'a self, agent: &AgentId) -> impl Iterator<Item = &'a Queue> + use<'a> {
        let owner = format!("agent:{agent}");
        let own = format!("{owner}:");
        let from = self.durable.queues.range(own.clone()..);
        from.take_while(move |(id, _)| id.starts_with(&own))
            .map(|(_, queue)| queue)
            .filter(move |queue| queue.terms.owner == owner)
    }

    /// Decides on an order for a durable subscription, whose messages are brought or pulled.
    ///
    /// # Errors
    /// [`TermsRefusal`] names what makes no sense, or that another one has the name.
    pub fn make(
        &self,
        owner: &str,
        order: &SubscriptionOrder,
        push: bool,
    ) -> Result<Making, TermsRefusal> {
        let terms = terms::read(owner, order, push)?;
        if let Some(known) = self.queue(&terms.id) {
            return if known.terms == terms {
                Ok(Making::Known)
            } else {
                Err(TermsRefusal::Exists(terms.id))
            };
        }
        if self.durable.owned(owner) >= OWNED_MAX || self.durable.queues.len() >= DURABLE_MAX {
            return Err(TermsRefusal::TooMany);
        }
        let terms = Box::new(terms);
        Ok(Making::Make(BusEvent::Made { terms }))
    }

    /// Decides on a publication: whether it is taken, and what it pushes out.
    ///
    /// `from` and `id` say who sent which message; one of the same incarnation that came lately is known. Without an id
    /// of its own, as `named` says, two messages of the same content are two.
    pub fn publish(
        &self,
        topic: &TopicPattern,
        sent: (&Address, &str, bool),
        envelope: &Value,
    ) -> Publishing {
        self.publish_unless_refused(topic, sent, envelope, true)
    }

    /// The same, of what happened to the mesh itself: no subscription refuses it, what is full lets its oldest go.
    pub fn announce(
        &self,
        topic: &TopicPattern,
        sent: (&Address, &str, bool),
        envelope: &Value,
    ) -> Publishing {
        self.publish_unless_refused(topic, sent, envelope, false)
    }

    fn publish_unless_refused(
        &self,
        topic: &TopicPattern,
        (from, id, named): (&Address, &str, bool),
        envelope: &Value,
        refusable: bool,
    ) -> Publishing {
        let (bytes, priority) = (size(envelope), super::priority_of(envelope));
        let from = from.to_string();
        let identity = (from.clone(), super::epoch_of(envelope), id.to_owned());
        if named && self.published.contains(&identity) {
            return Publishing::Known;
        }
        let mut pushed = Vec::new();
        for queue in self.durably_wanting(topic) {
            if !queue.is_full_for(bytes) {
                continue;
            }
            if refusable && queue.terms.overflow == Overflow::Reject {
                return Publishing::Refuse(BusRefusal::QueueFull(queue.terms.id.clone()));
            }
            for victim in queue.victims(bytes, priority) {
                pushed.push(match victim {
                    Some(record) => self.dead(queue, record, "queue full", None),
                    None => BusEvent::DeadLettered {
                        message: id.to_owned(),
                        from: from.clone(),
                        to: Address::Topic(topic.clone()).to_string(),
                        reason: "queue full".to_owned(),
                        detail: Some(Box::new(DeadDetail {
                            subscription: queue.terms.id.clone(),
                            ..DeadDetail::default()
                        })),
                    },
                });
            }
        }
        Publishing::Accept(pushed)
    }

    pub(super) fn durably_wanting(&self, topic: &TopicPattern) -> impl Iterator<Item = &Queue> {
        let reserved = super::is_reserved(topic);
        let wanting = self.topics.wanting(topic).into_iter();
        wanting
            .filter_map(|who| match who {
                Who::Durable(id) => self.queue(id),
                Who::Live(_) => None,
            })
            .filter(move |queue| !reserved || !is_agents(&queue.terms.owner))
    }

    /// Whether anybody gets what is published on a topic.
    pub fn is_wanted(&self, topic: &TopicPattern) -> bool {
        self.durably_wanting(topic).next().is_some()
            || self.subscribers(topic, None).next().is_some()
    }

    /// Whether a subscription gets what is published on a topic, when its pattern matches.
    pub fn may_have(terms: &SubscriptionTerms, topic: &TopicPattern) -> bool {
        !super::is_reserved(topic) || !is_agents(&terms.owner)
    }

    /// The records of publications that still stand in a durable subscription.
    pub fn wanted_records(&self) -> BTreeSet<Position> {
        self.durable.messages.keys().copied().collect()
    }

    /// How many durable subscriptions a publication stands in.
    pub fn durable_receivers(&self, topic: &TopicPattern) -> usize {
        self.durably_wanting(topic).count()
    }

    /// Decides what a subscription hands out now, at most `most`; what has expired becomes a dead letter.
    pub fn hand_out(
        &self,
        id: &str,
        most: usize,
        epoch: Option<Epoch>,
        now: Timestamp,
    ) -> HandingOut {
        let mut out = HandingOut::default();
        let Some(queue) = self.queue(id) else {
            return out;
        };
        let until = now.plus(Duration::from_millis(queue.terms.ack_timeout_ms));
        let mut given: Vec<HandOut> = Vec::new();
        for next in queue.next(now, most.min(BATCH_MAX)) {
            let Some(stored) = self.durable.messages.get(&next.record) else {
                continue;
            };
            if stored.expires.is_some_and(|end| end <= now) {
                out.events
                    .push(self.dead(queue, next.record, "expired", None));
                continue;
            }
            given.push(next);
            out.messages.push(Handed {
                token: token(next.record, next.delivery),
                position: next.record,
                delivery: next.delivery,
                until,
                envelope: stored.envelope.clone(),
            });
        }
        if !given.is_empty() {
            out.events.push(BusEvent::HandedOut {
                subscription: id.to_owned(),
                holder: Holder { epoch, until },
                messages: given,
            });
        }
        out
    }

    /// Decides on an acknowledgement of one kind or another. Only who has a delivery in hand can settle it: a token of an
    /// earlier delivery, and what another incarnation got, are stale.
    pub fn settle(
        &self,
        id: &str,
        op: AckOp,
        (tokens, delay, reason): (&[String], Option<Duration>, &str),
        epoch: Option<Epoch>,
        now: Timestamp,
    ) -> (Vec<BusEvent>, AckOutcome) {
        let mut outcome = AckOutcome::default();
        let Some(queue) = self.queue(id) else {
            outcome.stale = tokens.to_vec();
            return (Vec::new(), outcome);
        };
        let mut records = Vec::new();
        let mut seen = BTreeSet::new();
        for text in tokens {
            let held = read_token(text).filter(|(record, delivery)| {
                queue.item(*record).is_some_and(|item| {
                    let ours = matches!(item.place, Place::Out(holder) if holder.epoch == epoch);
                    ours && item.deliveries == *delivery
                })
            });
            match held {
                Some((record, _)) if seen.insert(record) => {
                    records.push(record);
                    outcome.done.push(text.clone());
                }
                Some(_) => {}
                None => outcome.stale.push(text.clone()),
            }
        }
        if records.is_empty() {
            return (Vec::new(), outcome);
        }
        let subscription = id.to_owned();
        let events = match op {
            AckOp::Ack => vec![BusEvent::Acked {
                subscription,
                records,
            }],
            AckOp::Nack => {
                let why = if reason.is_empty() {
                    "refused".to_owned()
                } else {
                    format!("refused: {reason}")
                };
                let at = now.plus(delay.unwrap_or_default());
                self.back(queue, &records, &why, (now, at))
            }
            AckOp::Extend => {
                let usual = Duration::from_millis(queue.terms.ack_timeout_ms);
                let until = now.plus(delay.unwrap_or(usual));
                vec![BusEvent::Extended {
                    subscription,
                    records,
                    until,
                }]
            }
        };
        (events, outcome)
    }

    /// What becomes of deliveries that end without an acknowledgement: they come again, unless it was the last one.
    fn back(
        &self,
        queue: &Queue,
        records: &[Position],
        why: &str,
        (now, not_before): (Timestamp, Timestamp),
    ) -> Vec<BusEvent> {
        let (mut events, mut messages) = (Vec::new(), Vec::new());
        for &record in records {
            let Some(item) = queue.item(record) else {
                continue;
            };
            let cause = DeliveryCause {
                delivery: item.deliveries,
                at: now,
                why: why.to_owned(),
            };
            if item.is_spent(&queue.terms) {
                events.push(self.dead(queue, record, "delivered too often", Some(cause)));
            } else {
                messages.push(Return {
                    record,
                    cause,
                    not_before,
                });
            }
        }
        if !messages.is_empty() {
            events.push(BusEvent::Returned {
                subscription: queue.terms.id.clone(),
                messages,
            });
        }
        events
    }

    /// Decides on deliveries whose time to be acknowledged is over.
    pub fn overdue(&self, now: Timestamp) -> Vec<BusEvent> {
        let late = |queue: &Queue| {
            let records = queue.overdue(now);
            self.back(queue, &records, "not acknowledged in time", (now, now))
        };
        self.queues().flat_map(late).collect()
    }

    /// Decides on deliveries to incarnations of an agent that are over.
    pub fn orphaned(
        &self,
        agent: &AgentId,
        over: impl Fn(Epoch) -> bool,
        now: Timestamp,
    ) -> Vec<BusEvent> {
        let lost = |queue: &Queue| {
            let records = queue.orphans(&over);
            self.back(queue, &records, "its incarnation ended", (now, now))
        };
        self.queues_of(agent).flat_map(lost).collect()
    }

    /// Decides on what could not be handed over after all, and why.
    pub fn undelivered(
        &self,
        id: &str,
        records: &[Position],
        why: &str,
        now: Timestamp,
    ) -> Vec<BusEvent> {
        let Some(queue) = self.queue(id) else {
            return Vec::new();
        };
        self.back(queue, records, why, (now, now))
    }

    /// When something is due after now in any subscription.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.queues().filter_map(|queue| queue.next_due(now)).min()
    }

    /// Decides to remove what an agent that does not come back subscribed to.
    pub fn unsubscribe_all(&self, agent: &AgentId) -> Vec<BusEvent> {
        self.unsubscribe(agent, "terminated", |_| true)
    }

    /// Decides to remove what an agent subscribed to and may not have any more.
    pub fn unsubscribe(
        &self,
        agent: &AgentId,
        reason: &str,
        is_over: impl Fn(&TopicPattern) -> bool,
    ) -> Vec<BusEvent> {
        let over = self.queues_of(agent);
        let over = over.filter(|queue| is_over(&queue.terms.topic));
        over.map(|queue| BusEvent::Removed {
            subscription: queue.terms.id.clone(),
            reason: reason.to_owned(),
        })
        .collect()
    }

    fn dead(
        &self,
        queue: &Queue,
        record: Position,
        reason: &str,
        last: Option<DeliveryCause>,
    ) -> BusEvent {
        let envelope = self.durable.messages.get(&record).map(|s| &s.envelope);
        let text = |field: &str| {
            let value = envelope.and_then(|envelope| envelope.get(field)?.as_str());
            value.unwrap_or_default().to_owned()
        };
        let item = queue.item(record);
        let mut causes = item.map(|item| item.causes.clone()).unwrap_or_default();
        causes.extend(last);
        BusEvent::DeadLettered {
            message: text("id"),
            from: text("from"),
            to: text("to"),
            reason: reason.to_owned(),
            detail: Some(Box::new(DeadDetail {
                subscription: queue.terms.id.clone(),
                record: Some(record),
                deliveries: item.map_or(0, |item| item.deliveries),
                causes,
            })),
        }
    }
}

#[cfg(test)]
mod tests;
