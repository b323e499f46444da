//! Who gets which message: addresses, topics, and the mail of agents that are away, as a fold over [`BusEvent`]s.
//!
//! What the records mean:
//!
//! | record | says |
//! |---|---|
//! | `message_sent` | the bus took a message; if it is for an agent it is *held* until the next row |
//! | `message_received` | the agent is about to get it; it is held no longer |
//! | `message.dead_lettered` | nobody gets it |
//! | `topic.subscribed` | an agent wants a topic |
//!
//! A message of a person to an agent that is up is received at once, without having been held. Topics are not mail:
//! who is away when something is published does not get it later, unless by a durable subscription (`durable.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::RESERVED_TOPICS;
use mesh_messages::events::BusEvent;
use mesh_messages::task::Priority;
use mesh_messages::{AgentId, Epoch, Position, RecordHeader, Timestamp};

mod dead;
mod directory;
mod durable;
mod feed;
mod queue;
mod terms;
mod topics;
mod traces;

use dead::DeadLetters;
use durable::Durables;
use topics::{Topics, Who};
use traces::Traces;

pub use dead::{DEAD_BYTES_MAX, DEAD_MAX, DeadRefusal};
pub use durable::{DURABLE_MAX, HandingOut, Making, OWNED_MAX, Publishing};
pub use feed::FEED_RECORD;
pub use queue::{CAUSES_MAX, Item, Place, QUEUE_BYTES_MAX, Queue};
pub use terms::TermsRefusal;
pub use traces::{HOPS_MAX, TRACES_MAX};

pub use directory::{AddressUnknown, AgentEntry, Destination, FOUND_MAX, Presence, Snapshot};

/// Agents that one publication reaches: each of them is a record of one commit, which has a bound.
pub const SUBSCRIBERS_MAX: usize = 1000;

/// Messages held for one agent; the next one is refused, so that what was accepted is kept and its sender knows.
pub const HELD_MAX: usize = 256;

/// Bytes of messages held for one agent; the same rule. They lie in the working memory, too.
pub const HELD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Held messages that are handed over in one step, so that one commit stays small; the next step follows at once.
pub const RELEASE_MAX: usize = 64;

/// Topics of one agent: each is compared with every publication.
pub const SUBSCRIPTIONS_MAX: usize = 64;

/// Messages whose identity survives a restart, to refuse them a second time: 160 in each second of five minutes.
pub const RECENT_MAX: usize = 50_000;

/// A message on its way to an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// The envelope's id.
    pub message: String,
    /// Its sender, as the envelope says.
    pub from: Address,
    /// The sending agent, if it was one.
    pub sender: Option<AgentId>,
    /// The agent that it is for.
    pub to: AgentId,
    /// Its KLP type.
    pub kind: String,
    /// When it is delivered, among others.
    pub priority: Priority,
    /// The whole, as it will be delivered; without tokens.
    pub envelope: Value,
}

/// A message that waits for its agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The envelope's id.
    pub message: String,
    /// Its sender.
    pub from: Address,
    /// Its KLP type.
    pub kind: String,
    /// The whole.
    pub envelope: Value,
    /// How much it counts.
    pub bytes: u64,
    /// Higher ones go first.
    pub priority: Priority,
    /// From when on it must not be delivered.
    pub expires: Option<Timestamp>,
    /// Where it stands in the log, which is what led to all that becomes of it.
    #[serde(default)]
    pub origin: Origin,
}

/// Where a message that waits stands in the log. Unknown of one that a snapshot of an earlier version holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The record by which it was taken.
    pub record: Option<Position>,
    /// The request that it came with.
    pub correlation: Option<String>,
}

/// What identifies a message that came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When it was taken.
    pub at: Timestamp,
    /// Its sender.
    pub from: String,
    /// The sender's incarnation.
    pub epoch: Option<Epoch>,
    /// Its id.
    pub id: String,
    /// What more is known of it; absent of one that a snapshot of an earlier version holds.
    #[serde(default)]
    pub head: Option<Head>,
}

/// The head of a message that came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The first record of it.
    pub record: Position,
    /// Its addressee.
    pub to: String,
    /// Its KLP type.
    pub kind: String,
    /// What that record is; absent, as a snapshot of an earlier version holds it, `message_sent`.
    #[serde(default)]
    pub step: Option<String>,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
}

/// Why the bus does not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusRefusal {
    /// The agent is away and too much waits for it. Try again when it is back.
    #[error("agent {0} is away and its mailbox is full; try again when it is back")]
    MailboxFull(AgentId),
    /// The agent was terminated. The message is a dead letter.
    #[error("agent {0} was terminated and receives nothing")]
    Gone(AgentId),
    /// The agent has all the subscriptions that it may have.
    #[error("agent {0} has {SUBSCRIPTIONS_MAX} subscriptions, the most there may be")]
    Subscriptions(AgentId),
    /// A durable subscription that refuses what it has no room for is full. Try again when its owner has caught up.
    #[error("subscription {0} is full; try again when its owner has caught up")]
    QueueFull(String),
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Posting {
    /// Journal this, then hand the message over.
    Deliver(Vec<BusEvent>),
    /// Journal this; it is handed over when the agent is back.
    Hold(Vec<BusEvent>),
    /// Journal this and tell the sender.
    Refuse(Vec<BusEvent>, BusRefusal),
}

/// The mail of an agent that is back: what is journalled, and what is handed over then, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Release {
    /// To be journalled, each with what led to it.
    pub events: Vec<(BusEvent, Origin)>,
    /// To be handed over, with the same.
    pub mail: Vec<(Mail, Origin)>,
    /// Whether there is more.
    pub more: bool,
}

/// Everything durable about messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Loaded")]
pub struct BusState {
    subscriptions: BTreeMap<AgentId, BTreeSet<TopicPattern>>,
    // In the order of arrival.
    held: BTreeMap<AgentId, VecDeque<Held>>,
    recent: VecDeque<Seen>,
    durable: Durables,
    dead: DeadLetters,
    traces: Traces,
    /// The newest record of a task of which `task.created` told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Position>,
    // Everybody in `subscriptions` and `durable`, by topic.
    #[serde(skip)]
    topics: Topics,
    // Sender, incarnation and id of everything in `recent`.
    #[serde(skip)]
    published: BTreeSet<Identity>,
}

/// Sender, its incarnation, id: the same twice is one message.
type Identity = (String, Option<Epoch>, String);

/// What a snapshot holds; those of earlier versions hold less.
#[derive(Debug, Deserialize)]
struct Loaded {
    subscriptions: BTreeMap<AgentId, BTreeSet<TopicPattern>>,
    held: BTreeMap<AgentId, VecDeque<Held>>,
    recent: VecDeque<Seen>,
    #[serde(default)]
    durable: Durables,
    #[serde(default)]
    dead: DeadLetters,
    #[serde(default)]
    traces: Traces,
    #[serde(default)]
    told: Option<Position>,
}

impl From<Loaded> for BusState {
    fn from(loaded: Loaded) -> Self {
        let mut topics = Topics::default();
        for (agent, patterns) in &loaded.subscriptions {
            for pattern in patterns {
                topics.insert(pattern, Who::Live(agent.clone()));
            }
        }
        for (id, queue) in &loaded.durable.queues {
            topics.insert(&queue.terms.topic, Who::Durable(id.clone()));
        }
        Self {
            told: loaded
                .told
                .or_else(|| feed::newest_told(loaded.recent.iter())),
            published: loaded.recent.iter().map(Seen::identity).collect(),
            subscriptions: loaded.subscriptions,
            held: loaded.held,
            recent: loaded.recent,
            durable: loaded.durable,
            dead: loaded.dead,
            traces: loaded.traces,
            topics,
        }
    }
}

impl BusState {
    /// Decides what becomes of a message for an agent.
    pub fn post(&self, mail: &Mail, presence: Presence) -> Posting {
        match presence {
            Presence::Up => {
                let sent = mail.sender.is_some().then(|| mail.sent());
                Posting::Deliver(sent.into_iter().chain([mail.received()]).collect())
            }
            Presence::Away if self.has_room(mail) => Posting::Hold(vec![mail.sent()]),
            Presence::Away => {
                let refusal = BusRefusal::MailboxFull(mail.to.clone());
                Posting::Refuse(vec![mail.dead("mailbox full")], refusal)
            }
            Presence::Gone => {
                let refusal = BusRefusal::Gone(mail.to.clone());
                Posting::Refuse(vec![mail.dead("terminated")], refusal)
            }
        }
    }

    fn has_room(&self, mail: &Mail) -> bool {
        let Some(held) = self.held.get(&mail.to) else {
            return true;
        };
        let bytes: u64 = held.iter().map(|h| h.bytes).sum();
        held.len() < HELD_MAX && bytes + size(&mail.envelope) <= HELD_BYTES_MAX
    }

    /// Takes up mail that could not be handed over after all: the agent went away in between.
    pub fn hold_again(&self, mail: &Mail) -> Posting {
        self.post(mail, Presence::Away)
    }

    /// Whose mail is held.
    pub fn holding(&self) -> impl Iterator<Item = &AgentId> {
        self.held.keys()
    }

    /// How many messages wait for an agent.
    pub fn held(&self, agent: &AgentId) -> usize {
        self.held.get(agent).map_or(0, VecDeque::len)
    }

    /// Decides on the mail of an agent that is back: the most urgent first, then the oldest; what has expired is a
    /// dead letter.
    pub fn release(&self, agent: &AgentId, now: Timestamp) -> Release {
        let mut order: Vec<&Held> = self.held.get(agent).into_iter().flatten().collect();
        // Stable: equals stay in the order of arrival.
        order.sort_by_key(|held| std::cmp::Reverse(held.priority));
        let mut release = Release {
            more: order.len() > RELEASE_MAX,
            ..Release::default()
        };
        for held in order.into_iter().take(RELEASE_MAX) {
            if held.expires.is_some_and(|end| end <= now) {
                let dead = held.mail(agent).dead("expired");
                release.events.push((dead, held.origin.clone()));
            } else {
                let received = held.mail(agent).received();
                release.events.push((received, held.origin.clone()));
                release.mail.push((held.mail(agent), held.origin.clone()));
            }
        }
        release
    }

    /// Decides on the mail of an agent that does not come back; each with what led to it.
    pub fn give_up(&self, agent: &AgentId) -> Vec<(BusEvent, Origin)> {
        let held = self.held.get(agent).into_iter().flatten();
        held.map(|held| (held.mail(agent).dead("terminated"), held.origin.clone()))
            .collect()
    }

    /// Decides on a subscription; one that is there already needs no event.
    ///
    /// # Errors
    /// [`BusRefusal::Subscriptions`].
    pub fn subscribe(
        &self,
        agent: &AgentId,
        pattern: &TopicPattern,
    ) -> Result<Option<BusEvent>, BusRefusal> {
        let held = self.subscriptions.get(agent);
        if held.is_some_and(|patterns| patterns.contains(pattern)) {
            return Ok(None);
        }
        if held.is_some_and(|patterns| patterns.len() >= SUBSCRIPTIONS_MAX) {
            return Err(BusRefusal::Subscriptions(agent.clone()));
        }
        let (agent, pattern) = (agent.clone(), pattern.to_string());
        Ok(Some(BusEvent::Subscribed { agent, pattern }))
    }

    /// Who gets what is published on a topic: each once, not the publisher itself, at most [`SUBSCRIBERS_MAX`]. What
    /// happens to the mesh itself is not for agents.
    pub fn subscribers<'a>(
        &'a self,
        topic: &'a TopicPattern,
        publisher: Option<&'a AgentId>,
    ) -> impl Iterator<Item = &'a AgentId> {
        let reserved = is_reserved(topic);
        let live = self.topics.wanting(topic).into_iter();
        live.filter_map(|who| match who {
            Who::Live(agent) => Some(agent),
            Who::Durable(_) => None,
        })
        .filter(move |agent| !reserved && Some(*agent) != publisher)
        .take(SUBSCRIBERS_MAX)
    }

    /// Who wants which topics while it is up.
    pub fn live(&self) -> impl Iterator<Item = (&AgentId, &BTreeSet<TopicPattern>)> {
        self.subscriptions.iter()
    }

    /// What came lately, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Seen> {
        self.recent.iter()
    }

    /// Takes an event in.
    pub fn apply(&mut self, header: &RecordHeader, event: &BusEvent) {
        self.traced(header, event);
        match event {
            BusEvent::Sent {
                message,
                from,
                to,
                kind,
                envelope,
            } => {
                self.saw(header, (message, from, to, kind), envelope);
                if let Ok(Address::Topic(topic)) = to.parse() {
                    self.note_told(&topic, header.position, envelope);
                    self.spread(&topic, header.position, envelope, header.time);
                }
                if let (Ok(Address::Agent { id, .. }), Ok(from)) = (to.parse(), from.parse()) {
                    self.held.entry(id).or_default().push_back(Held {
                        message: message.clone(),
                        from,
                        kind: kind.clone(),
                        bytes: size(envelope),
                        priority: priority_of(envelope),
                        expires: expires_of(envelope),
                        envelope: envelope.clone(),
                        origin: Origin {
                            record: Some(header.position),
                            correlation: header.correlation.as_deref().map(str::to_owned),
                        },
                    });
                }
            }
            BusEvent::Received {
                message,
                from,
                to,
                kind,
                envelope,
            } => {
                self.saw(header, (message, from, to, kind), envelope);
                self.no_longer_held(message, from, to);
            }
            BusEvent::DeadLettered {
                message, from, to, ..
            } => {
                let held = self.no_longer_held(message, from, to);
                self.keep_dead(header, event, held);
            }
            BusEvent::Made { terms } => self.made(terms, header.time, header.position),
            BusEvent::Removed { subscription, .. } => self.removed(subscription),
            BusEvent::DeadSettled { letters, how } => self.settled_dead(letters, *how),
            BusEvent::Filled { .. }
            | BusEvent::HandedOut { .. }
            | BusEvent::Acked { .. }
            | BusEvent::Extended { .. }
            | BusEvent::Returned { .. } => self.applied(event),
            BusEvent::Taken {
                message,
                from,
                epoch,
                to,
                kind,
                sent,
            } => self.remember(header, (message, from, to, kind), (*epoch, *sent, None)),
            // For people.
            BusEvent::Alerted { .. } => {}
            BusEvent::Subscribed { agent, pattern } => {
                if let Ok(pattern) = pattern.parse() {
                    self.topics.insert(&pattern, Who::Live(agent.clone()));
                    self.subscriptions
                        .entry(agent.clone())
                        .or_default()
                        .insert(pattern);
                }
            }
        }
    }

    fn no_longer_held(&mut self, message: &str, from: &str, to: &str) -> Option<Held> {
        let (Ok(Address::Agent { id, .. }), Ok(from)) = (to.parse(), from.parse::<Address>())
        else {
            return None;
        };
        let held = self.held.get_mut(&id)?;
        let ours = |h: &Held| h.message == message && h.from == from;
        let place = held.iter().position(ours);
        let taken = place.and_then(|place| held.remove(place));
        if held.is_empty() {
            self.held.remove(&id);
        }
        taken
    }

    fn saw(&mut self, header: &RecordHeader, names: (&str, &str, &str, &str), envelope: &Value) {
        let (epoch, (id, from, ..)) = (epoch_of(envelope), names);
        // Sent and received are one message, one after the other; what is received of a publication says no more.
        if self.recent.back().is_some_and(|last| {
            last.id == id && last.from == from && (envelope.is_null() || last.epoch == epoch)
        }) {
            return;
        }
        let claimed = envelope.get("timestamp").and_then(Value::as_str);
        let claimed = claimed.and_then(|text| text.parse().ok());
        let answers = envelope.get("in_reply_to").and_then(Value::as_str);
        let said = (epoch, claimed.unwrap_or_default(), answers);
        self.remember(header, names, said);
    }

    fn remember(
        &mut self,
        header: &RecordHeader,
        (id, from, to, kind): (&str, &str, &str, &str),
        (epoch, claimed, answers): (Option<Epoch>, Timestamp, Option<&str>),
    ) {
        let seen = Seen {
            // A sender whose clock is ahead could repeat it for longer.
            at: header.time.max(claimed),
            from: from.to_owned(),
            epoch,
            id: id.to_owned(),
            head: Some(Head {
                record: header.position,
                to: to.to_owned(),
                kind: kind.to_owned(),
                step: Some(header.kind.to_string()),
                answers: answers.map(str::to_owned),
            }),
        };
        self.published.insert(seen.identity());
        self.recent.push_back(seen);
        if self.recent.len() > RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.published.remove(&oldest.identity());
        }
    }
}

impl Mail {
    fn sent(&self) -> BusEvent {
        BusEvent::Sent {
            message: self.message.clone(),
            from: self.from.to_string(),
            to: Address::agent(self.to.clone()).to_string(),
            kind: self.kind.clone(),
            envelope: self.envelope.clone(),
        }
    }

    fn received(&self) -> BusEvent {
        BusEvent::Received {
            message: self.message.clone(),
            from: self.from.to_string(),
            to: Address::agent(self.to.clone()).to_string(),
            kind: self.kind.clone(),
            envelope: self.envelope.clone(),
        }
    }

    fn dead(&self, reason: &str) -> BusEvent {
        BusEvent::DeadLettered {
            message: self.message.clone(),
            from: self.from.to_string(),
            to: Address::agent(self.to.clone()).to_string(),
            reason: reason.to_owned(),
            detail: None,
        }
    }
}

impl Held {
    fn mail(&self, agent: &AgentId) -> Mail {
        Mail {
            message: self.message.clone(),
            from: self.from.clone(),
            sender: None,
            to: agent.clone(),
            kind: self.kind.clone(),
            priority: self.priority,
            envelope: self.envelope.clone(),
        }
    }
}

impl Seen {
    fn identity(&self) -> Identity {
        (self.from.clone(), self.epoch, self.id.clone())
    }
}

/// Whether meshd tells there what happens to the mesh itself. Agents do not read other people's tasks.
fn is_reserved(topic: &TopicPattern) -> bool {
    RESERVED_TOPICS.contains(&topic.as_str())
}

fn epoch_of(envelope: &Value) -> Option<Epoch> {
    envelope.get("epoch").and_then(Value::as_u64).map(Epoch)
}

fn size(envelope: &Value) -> u64 {
    envelope.to_string().len() as u64
}

fn priority_of(envelope: &Value) -> Priority {
    let read = envelope
        .get("priority")
        .and_then(|p| Priority::deserialize(p).ok());
    read.unwrap_or_default()
}

fn expires_of(envelope: &Value) -> Option<Timestamp> {
    envelope
        .get("expires")
        .and_then(Value::as_str)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
