//! What the bus actor does about durable subscriptions: hands out, takes back, reads up what came before.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorProcessingErr, RpcReplyPort};

use mesh_actors_core::bus::{BusState, DeadRefusal, Making, Queue, TermsRefusal};
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, DeadLetter, DeadSettlement, Handed, MessageTrace, PastMessage,
    Pulled, Route, RouteKind, SubscriptionOrder, SubscriptionTerms, SubscriptionView,
};
use mesh_messages::events::{BusEvent, partition};
use mesh_messages::klp::{Defaults, Envelope, MessageType, Stamp, decode};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{AgentId, Epoch, Position, Timestamp};

use super::state::{RETRY_PAUSE, answer_to};
use super::{Effect, Message, Publication, Reply, State};
use crate::clock;
use crate::partition::{Cause, payload_of};
use crate::store::OpenStore;

/// Pulls that may wait at once: each is a connection that is held open.
const PULLS_MAX: usize = 256;
/// Publications of the past that are put into a queue by one commit, and records that are looked at for them.
const FILL_BATCH: usize = 64;
const FILL_SCAN: usize = 4096;
/// Shortest time between two looks at what is due: timers have milliseconds.
const TICK_MIN: Duration = Duration::from_millis(1);

/// Somebody who waits for messages.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) subscription: String,
    pub(crate) most: usize,
    pub(crate) until: Timestamp,
    pub(crate) reply: Reply<Pulled>,
}

/// What is to be done about deliveries.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) subscription: String,
    pub(crate) op: AckOp,
    pub(crate) order: AckOrder,
    /// The incarnation, when it speaks on its own channel.
    pub(crate) epoch: Option<Epoch>,
}

/// What can be looked at.
#[derive(Debug)]
pub(crate) enum Look {
    Subscriptions(RpcReplyPort<Vec<SubscriptionView>>),
    Routes(RpcReplyPort<Vec<Route>>),
    Dead(RpcReplyPort<Vec<DeadLetter>>),
    Trace(String, RpcReplyPort<Option<MessageTrace>>),
}

/// A step of reading publications of the past.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) subscription: String,
    pub(crate) read: Result<(Vec<PastMessage>, Option<Position>), String>,
}

impl State {
    pub(super) async fn make(
        &mut self,
        (owner, by): (&str, &Cause),
        order: &SubscriptionOrder,
        push: bool,
        reply: Reply<(SubscriptionView, bool)>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let (events, known) = match self.partition.state().make(owner, order, push) {
            Ok(Making::Make(event)) => (vec![event], false),
            Ok(Making::Known) => (Vec::new(), true),
            Err(refusal) => {
                answer_to(reply, Err(not_made(&refusal)));
                return Ok(());
            }
        };
        let name = order.name.as_deref().unwrap_or(order.topic.as_str());
        let subscription = format!("{owner}:{name}");
        let effect = Effect::Made {
            subscription,
            known,
            reply,
        };
        self.commit(events, by, vec![effect]).await
    }

    pub(super) fn answer_made(
        &self,
        subscription: &str,
        known: bool,
        reply: Reply<(SubscriptionView, bool)>,
    ) {
        let state = self.partition.state();
        let made = state.queue(subscription);
        let made = made.map(|queue| (view(state, queue), known));
        answer_to(reply, made.ok_or_else(|| no_subscription(subscription)));
    }

    pub(super) async fn remove(
        &mut self,
        (subscription, by): (String, &Cause),
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        if self.partition.state().queue(&subscription).is_none() {
            answer_to(reply, Err(no_subscription(&subscription)));
            return Ok(());
        }
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let event = BusEvent::Removed {
            subscription,
            reason: "removed by order".to_owned(),
        };
        self.commit(vec![event], by, vec![Effect::Done { reply }])
            .await
    }

    pub(super) fn pull(&mut self, puller: Puller) {
        if self.partition.state().queue(&puller.subscription).is_none() {
            return answer_to(puller.reply, Err(no_subscription(&puller.subscription)));
        }
        if let Err(problem) = self.writable() {
            return answer_to(puller.reply, Err(problem));
        }
        self.pullers.retain(|puller| !puller.reply.is_closed());
        if self.pullers.len() >= PULLS_MAX {
            let detail = format!("{PULLS_MAX} pulls wait already; try again, or wait for less");
            return answer_to(puller.reply, Err(Problem::unavailable("busy", detail)));
        }
        self.pullers.push(puller);
    }

    pub(super) async fn settle(
        &mut self,
        settling: Settling,
        by: &Cause,
        reply: Reply<AckOutcome>,
    ) -> Result<(), ActorProcessingErr> {
        let Settling {
            subscription,
            op,
            order,
            epoch,
        } = settling;
        if self.partition.state().queue(&subscription).is_none() {
            answer_to(reply, Err(no_subscription(&subscription)));
            return Ok(());
        }
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let delay = order.delay_ms.map(Duration::from_millis);
        let reason = order.reason.as_deref().unwrap_or_default();
        let said = (&*order.tokens, delay, reason);
        let state = self.partition.state();
        let (events, outcome) = state.settle(&subscription, op, said, epoch, clock::now());
        let effect = Effect::Settled { outcome, reply };
        self.commit(events, by, vec![effect]).await
    }

    pub(super) async fn settle_dead(
        &mut self,
        (id, how): (Position, DeadSettlement),
        by: &Cause,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let state = self.partition.state();
        let event = match how {
            DeadSettlement::Retried => state.retry_dead(id, clock::now()),
            DeadSettlement::Dropped => state.drop_dead(id),
        };
        match event {
            Ok(event) => {
                self.commit(vec![event], by, vec![Effect::Done { reply }])
                    .await
            }
            Err(refusal) => {
                answer_to(reply, Err(not_settled(refusal, id)));
                Ok(())
            }
        }
    }

    /// Publishes in the name of the node what somebody wants to know.
    pub(super) async fn announce(
        &mut self,
        topic: TopicPattern,
        id: String,
        data: serde_json::Value,
    ) -> Result<(), ActorProcessingErr> {
        if !self.partition.state().is_wanted(&topic) || self.writable().is_err() {
            return Ok(());
        }
        let stamp = Stamp {
            id,
            timestamp: clock::now(),
            epoch: None,
        };
        let payload = serde_json::json!({ "topic": topic, "data": data });
        let node = &self.handle.node;
        let (from, to) = (node.address.clone(), Address::Topic(topic.clone()));
        let mut envelope = Envelope::new(MessageType::Publish, from, to, payload, stamp);
        envelope.sign(&node.key);
        let publication = Publication {
            topic,
            publisher: None,
            named: true,
            envelope,
        };
        self.publish(publication, &Cause::meshd(), None).await
    }

    /// Incarnations of an agent may be over: what they had in hand comes again.
    pub(super) async fn take_back(&mut self, agent: &AgentId) -> Result<(), ActorProcessingErr> {
        if self.writable().is_err() {
            return Ok(()); // The time to acknowledge ends, too.
        }
        let alive = self.handle.outside.delivery.incarnations(agent);
        let over = |epoch: Epoch| !alive.contains(&epoch);
        let events = self.partition.state().orphaned(agent, over, clock::now());
        self.commit(events, &Cause::meshd(), Vec::new()).await
    }

    /// Everything that follows from time or room: what is overdue comes again, what waits is handed out.
    pub(super) async fn work_queues(&mut self) -> Result<(), ActorProcessingErr> {
        if self.writable().is_ok() {
            let overdue = self.partition.state().overdue(clock::now());
            if !overdue.is_empty() {
                self.commit(overdue, &Cause::meshd(), Vec::new()).await?;
            }
            self.push().await?;
            self.serve_pulls().await?;
            self.read_past();
        }
        self.arm();
        Ok(())
    }

    /// Brings agents what their subscriptions have for them.
    async fn push(&mut self) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        let mut ready = Vec::new();
        for queue in self.partition.state().queues() {
            let owner = queue.terms.owner.strip_prefix("agent:");
            if !queue.terms.push || !queue.has_more(now) {
                continue;
            }
            let Some(agent) = owner.and_then(|id| AgentId::new(id).ok()) else {
                continue;
            };
            let mut alive = self.handle.outside.delivery.incarnations(&agent);
            if alive.is_empty() {
                continue;
            }
            // Replicas take turns.
            self.turn = self.turn.wrapping_add(1);
            let epoch = alive.swap_remove(self.turn % alive.len());
            ready.push((queue.terms.id.clone(), agent, epoch));
        }
        if !ready.is_empty() {
            // What did not fit into one commit follows at once.
            self.myself.cast(Message::Tick)?;
        }
        for (subscription, agent, epoch) in ready {
            let state = self.partition.state();
            let out = state.hand_out(&subscription, usize::MAX, Some(epoch), now);
            let effect = Effect::Brought {
                subscription,
                agent,
                epoch,
                messages: out.messages,
            };
            self.commit(out.events, &Cause::meshd(), vec![effect])
                .await?;
        }
        Ok(())
    }

    /// Gives those who wait what there is, and lets those go whose time is over.
    async fn serve_pulls(&mut self) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        for puller in std::mem::take(&mut self.pullers) {
            if puller.reply.is_closed() {
                continue;
            }
            let state = self.partition.state();
            if state.queue(&puller.subscription).is_none() {
                answer_to(puller.reply, Err(no_subscription(&puller.subscription)));
                continue;
            }
            let out = state.hand_out(&puller.subscription, puller.most, None, now);
            if out.messages.is_empty() && puller.until > now {
                self.pullers.push(puller);
                if out.events.is_empty() {
                    continue;
                }
                self.commit(out.events, &Cause::meshd(), Vec::new()).await?;
                continue;
            }
            let effect = Effect::Pulled {
                messages: out.messages,
                reply: puller.reply,
            };
            self.commit(out.events, &Cause::meshd(), vec![effect])
                .await?;
        }
        Ok(())
    }

    /// Hands messages to an incarnation; what it cannot take comes again.
    pub(super) async fn bring(
        &mut self,
        (subscription, agent, epoch): (&str, &AgentId, Epoch),
        messages: Vec<Handed>,
    ) -> Result<(), ActorProcessingErr> {
        let mut lost = Vec::new();
        for handed in messages {
            let position = handed.position;
            let brought = self.wrapped(subscription, handed).is_some_and(|envelope| {
                let delivery = &self.handle.outside.delivery;
                delivery.deliver_to(agent, epoch, envelope).is_ok()
            });
            if !brought {
                lost.push(position);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        let events = self
            .partition
            .state()
            .undelivered(subscription, &lost, clock::now());
        self.commit(events, &Cause::meshd(), Vec::new()).await
    }

    /// The envelope as an agent gets it: with what it needs to acknowledge it, which is why meshd signs it.
    fn wrapped(&self, subscription: &str, handed: Handed) -> Option<mesh_messages::klp::Envelope> {
        let mut envelope = decode(handed.envelope, &Defaults::default()).ok()?;
        let name = self
            .partition
            .state()
            .queue(subscription)?
            .terms
            .name
            .clone();
        let mut context = match envelope.context.take() {
            Some(serde_json::Value::Object(context)) => context,
            Some(other) => [("context".to_owned(), other)].into_iter().collect(),
            None => serde_json::Map::new(),
        };
        let delivery = serde_json::json!({
            "subscription": name, "token": handed.token, "delivery": handed.delivery, "until": handed.until,
        });
        context.insert("delivery".to_owned(), delivery);
        envelope.context = Some(context.into());
        envelope.sign(&self.handle.node.key);
        Some(envelope)
    }

    /// Goes on reading publications of before for subscriptions that have room for them.
    fn read_past(&mut self) {
        for queue in self.partition.state().queues() {
            let half = usize::try_from(queue.terms.max_queue / 2).unwrap_or_default();
            let id = &queue.terms.id;
            let (Some(from), false) = (queue.fill, self.reading.contains(id)) else {
                continue;
            };
            if queue.len() > half {
                continue;
            }
            let Ok(store) = self.store.get() else {
                return;
            };
            self.reading.insert(id.clone());
            let room = (half + 1).min(FILL_BATCH);
            let (terms, until, me) = (queue.terms.clone(), queue.made, self.myself.clone());
            ractor::concurrency::spawn(async move {
                let subscription = terms.id.clone();
                let read = tokio::task::spawn_blocking(move || {
                    past(&store, &terms, (from, until), room).map_err(|error| error.to_string())
                });
                let read = read.await.map_err(|error| error.to_string()).flatten();
                let _gone = me.cast(Message::Past(Past { subscription, read }));
            });
        }
    }

    pub(super) async fn filled(&mut self, past: Past) -> Result<(), ActorProcessingErr> {
        let Past { subscription, read } = past;
        self.reading.remove(&subscription);
        let state = self.partition.state();
        if state.queue(&subscription).is_none() || self.writable().is_err() {
            return Ok(());
        }
        match read {
            Ok((messages, next)) => {
                let event = BusEvent::Filled {
                    subscription,
                    messages,
                    next,
                };
                self.commit(vec![event], &Cause::meshd(), Vec::new()).await
            }
            // The log cannot be read; its owner finds out, too.
            Err(why) => {
                tracing::error!(subscription, why, "past publications could not be read");
                Ok(())
            }
        }
    }

    /// Looks again when something is due.
    fn arm(&mut self) {
        let now = clock::now();
        let due = self.partition.state().next_due(now);
        // While the disk is full, nothing can be done about what is due.
        let again = self.writable().is_err().then(|| now.plus(RETRY_PAUSE));
        let pulls = self.pullers.iter().map(|puller| puller.until).min();
        let Some(next) = due.into_iter().chain(pulls).chain(again).min() else {
            return;
        };
        if self.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        self.armed = Some(next);
        let wait = next.since(now).max(TICK_MIN);
        drop(self.myself.send_after(wait, || Message::Tick));
    }

    pub(super) fn look(&self, look: Look) {
        let state = self.partition.state();
        match look {
            Look::Subscriptions(reply) => {
                answer_to(reply, state.queues().map(|q| view(state, q)).collect());
            }
            Look::Routes(reply) => answer_to(reply, routes(state)),
            Look::Dead(reply) => answer_to(reply, state.dead_letters().cloned().collect()),
            Look::Trace(message, reply) => answer_to(reply, state.trace(&message)),
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

fn view(state: &BusState, queue: &Queue) -> SubscriptionView {
    let unacked = u64::from(queue.out());
    SubscriptionView {
        terms: queue.terms.clone(),
        created_at: queue.created_at,
        queued: (queue.len() as u64).saturating_sub(unacked),
        unacked,
        oldest: state.oldest(queue),
        delivered: queue.delivered,
        redelivered: queue.redelivered,
        acked: queue.acked,
        dead: queue.dead,
        catching_up: queue.fill.is_some(),
    }
}

fn routes(state: &BusState) -> Vec<Route> {
    let live = state.live().flat_map(|(agent, patterns)| {
        patterns.iter().map(move |pattern| Route {
            pattern: Address::Topic(pattern.clone()).to_string(),
            subscriber: format!("agent:{agent}"),
            kind: RouteKind::Live,
            subscription: None,
            queued: 0,
            unacked: 0,
            oldest: None,
        })
    });
    let durable = state.queues().map(|queue| Route {
        pattern: Address::Topic(queue.terms.topic.clone()).to_string(),
        subscriber: queue.terms.owner.clone(),
        kind: RouteKind::Durable,
        subscription: Some(queue.terms.id.clone()),
        queued: (queue.len() as u64).saturating_sub(u64::from(queue.out())),
        unacked: u64::from(queue.out()),
        oldest: state.oldest(queue),
    });
    let mailboxes = state.holding().map(|agent| Route {
        pattern: Address::agent(agent.clone()).to_string(),
        subscriber: format!("agent:{agent}"),
        kind: RouteKind::Mailbox,
        subscription: None,
        queued: state.held(agent) as u64,
        unacked: 0,
        oldest: None,
    });
    let mut all: Vec<Route> = live.chain(durable).chain(mailboxes).collect();
    all.sort_by(|one, other| {
        (&one.pattern, &one.subscriber).cmp(&(&other.pattern, &other.subscriber))
    });
    all
}

pub(super) fn no_subscription(id: &str) -> Problem {
    let detail = format!("there is no subscription {id}");
    Problem::new(ProblemKind::NotFound, "subscription_not_found", detail)
}

fn not_made(refusal: &TermsRefusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        TermsRefusal::Field { field, .. } => {
            Problem::invalid("invalid_subscription", *field, detail)
        }
        TermsRefusal::Bulkhead => Problem::invalid("invalid_subscription", "overflow", detail),
        TermsRefusal::Exists(_) => {
            Problem::new(ProblemKind::Conflict, "subscription_exists", detail)
        }
        TermsRefusal::TooMany => {
            Problem::new(ProblemKind::Conflict, "too_many_subscriptions", detail)
        }
    }
}

fn not_settled(refusal: DeadRefusal, id: Position) -> Problem {
    let detail = format!("dead letter {id}: {refusal}");
    match refusal {
        DeadRefusal::Unknown => {
            Problem::new(ProblemKind::NotFound, "dead_letter_not_found", detail)
        }
        DeadRefusal::NotRetryable => {
            Problem::new(ProblemKind::Conflict, "dead_letter_not_retryable", detail)
        }
        DeadRefusal::Full => Problem::unavailable("queue_full", detail),
    }
}
