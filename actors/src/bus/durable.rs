//! What the bus actor does about durable subscriptions: hands out, takes back, reads up what came before.

use std::collections::BTreeSet;
use std::time::Duration;

use ractor::{ActorProcessingErr, RpcReplyPort};

use mesh_actors_core::bus::{BusState, DeadRefusal, Making, Presence, Queue, TermsRefusal};
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, DeadLetter, DeadSettlement, Handed, MessageTrace, Pulled, Route,
    RouteKind, SubscriptionOrder, SubscriptionView,
};
use mesh_messages::events::BusEvent;
use mesh_messages::klp::{Defaults, Envelope, MessageType, Stamp, decode};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{AgentId, Epoch, Position, Timestamp};

use super::state::{RETRY_PAUSE, answer_to};
use super::{Effect, Message, Publication, Reply, State};
use crate::agents::lines::LINES_OUT_MAX;
use crate::clock;
use crate::partition::Cause;

/// Pulls that may wait at once: each is a connection that is held open.
const PULLS_MAX: usize = 256;
/// Messages that one agent has in hand over all of its subscriptions: half of what may wait in its channel, which would
/// end it if it were full.
const IN_HAND_MAX: usize = LINES_OUT_MAX / 2;
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
    Wanted(&'static [&'static str], RpcReplyPort<bool>),
    Feed(RpcReplyPort<Option<Position>>),
    Records(RpcReplyPort<BTreeSet<Position>>),
}

impl State {
    pub(super) async fn make(
        &mut self,
        (owner, by): (&str, &Cause),
        order: &SubscriptionOrder,
        epoch: Option<Epoch>,
        reply: Reply<(SubscriptionView, bool)>,
    ) -> Result<(), ActorProcessingErr> {
        let may = |()| self.may_make((owner, epoch), order);
        if let Err(problem) = self.writable().and_then(may) {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let state = self.partition.state();
        let (events, known) = match state.make(owner, order, epoch.is_some()) {
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

    /// Gives up the dead letters of publications that are to be erased.
    pub(super) async fn forget_dead(
        &mut self,
        records: &BTreeSet<Position>,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let event = self.partition.state().drop_dead_of(records);
        let events = event.into_iter().collect();
        self.commit(events, &Cause::meshd(), vec![Effect::Done { reply }])
            .await
    }

    /// Publishes in the name of the node what somebody wants to know.
    pub(super) async fn announce(
        &mut self,
        (topic, id): (TopicPattern, String),
        data: serde_json::Value,
        context: Option<serde_json::Value>,
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
        envelope.context = context;
        node.sign(&mut envelope);
        let publication = Publication {
            topic,
            publisher: None,
            named: true,
            own: true,
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
        // One look at the clock for all: what fell due between two would be seen by neither.
        let now = clock::now();
        if self.writable().is_ok() {
            let overdue = self.partition.state().overdue(now);
            if !overdue.is_empty() {
                self.commit(overdue, &Cause::meshd(), Vec::new()).await?;
            }
            self.push(now).await?;
            self.serve_pulls(now).await?;
            self.read_past();
        } else {
            self.dismiss(now);
        }
        self.arm(now);
        Ok(())
    }

    /// Lets those go who wait and whose time is over; nothing is handed out now.
    fn dismiss(&mut self, now: Timestamp) {
        for puller in std::mem::take(&mut self.pullers) {
            if puller.reply.is_closed() {
                continue;
            }
            if puller.until > now {
                self.pullers.push(puller);
            } else {
                let messages = Vec::new();
                answer_to(puller.reply, Ok(Pulled { messages }));
            }
        }
    }

    /// Answers a pull; what it cannot be told of comes again.
    pub(super) async fn hand_over(
        &mut self,
        subscription: &str,
        messages: Vec<Handed>,
        reply: Reply<Pulled>,
    ) -> Result<(), ActorProcessingErr> {
        let records: Vec<Position> = messages.iter().map(|handed| handed.position).collect();
        if !reply.is_closed() && reply.send(Ok(Pulled { messages })).is_ok() {
            return Ok(());
        }
        self.give_back(subscription, &records, "nobody waited any more")
            .await
    }

    async fn give_back(
        &mut self,
        subscription: &str,
        records: &[Position],
        why: &str,
    ) -> Result<(), ActorProcessingErr> {
        if records.is_empty() || self.writable().is_err() {
            return Ok(()); // The time to acknowledge ends, too.
        }
        let state = self.partition.state();
        let events = state.undelivered(subscription, records, why, clock::now());
        self.commit(events, &Cause::meshd(), Vec::new()).await
    }

    /// Removes what an agent has that does not come back.
    pub(super) async fn give_up(&mut self, agent: &AgentId) -> Result<(), ActorProcessingErr> {
        let events = self.partition.state().give_up(agent);
        self.commit_held(events, Vec::new()).await?;
        let events = self.partition.state().unsubscribe_all(agent);
        self.commit(events, &Cause::meshd(), Vec::new()).await
    }

    /// Agents that have something and are gone.
    pub(super) fn gone(&self) -> BTreeSet<AgentId> {
        let state = self.partition.state();
        let owner = |queue: &Queue| AgentId::new(queue.terms.owner.strip_prefix("agent:")?).ok();
        let with_queues = state.queues().filter_map(owner);
        let all = with_queues.chain(state.holding().cloned());
        all.filter(|agent| self.presence(agent) == Presence::Gone)
            .collect()
    }

    /// Brings agents what their subscriptions have for them.
    async fn push(&mut self, now: Timestamp) -> Result<(), ActorProcessingErr> {
        let mut ready = Vec::new();
        for queue in self.partition.state().queues() {
            let owner = queue.terms.owner.strip_prefix("agent:");
            if !queue.terms.push || queue.is_empty() {
                continue;
            }
            let Some(agent) = owner.and_then(|id| AgentId::new(id).ok()) else {
                continue;
            };
            let mut alive = self.listeners(&agent, &queue.terms.topic);
            if alive.is_empty() || self.room_of(&agent) == 0 || !queue.has_more(now) {
                continue;
            }
            // Replicas take turns.
            self.turn = self.turn.wrapping_add(1);
            let epoch = alive.swap_remove(self.turn % alive.len());
            ready.push((queue.terms.id.clone(), agent, epoch));
        }
        if !ready.is_empty() {
            // What did not fit into one commit follows at once.
            self.myself.cast(Message::More)?;
        }
        for (subscription, agent, epoch) in ready {
            let room = self.room_of(&agent);
            if room == 0 {
                continue;
            }
            let state = self.partition.state();
            let out = state.hand_out(&subscription, room, Some(epoch), now);
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

    /// How many messages an agent may be brought now.
    fn room_of(&self, agent: &AgentId) -> usize {
        let queues = self.partition.state().queues_of(agent);
        let out: u64 = queues.map(|queue| u64::from(queue.out())).sum();
        IN_HAND_MAX.saturating_sub(usize::try_from(out).unwrap_or(usize::MAX))
    }

    /// Gives those who wait what there is, and lets those go whose time is over.
    async fn serve_pulls(&mut self, now: Timestamp) -> Result<(), ActorProcessingErr> {
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
                subscription: puller.subscription,
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
        self.give_back(subscription, &lost, "its incarnation ended")
            .await
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
        self.handle.node.sign(&mut envelope);
        Some(envelope)
    }

    /// Looks again when something is due.
    fn arm(&mut self, now: Timestamp) {
        let due = self.partition.state().next_due(now);
        // While the disk is full, nothing can be done about what is due.
        let again = self.writable().is_err().then(|| now.plus(RETRY_PAUSE));
        let pulls = self.pullers.iter().map(|puller| puller.until).min();
        let Some(next) = due.into_iter().chain(pulls).chain(again).min() else {
            return;
        };
        if self.armed.as_ref().is_some_and(|(armed, _)| *armed <= next) {
            return;
        }
        self.disarm();
        let wait = next.since(now).max(TICK_MIN);
        let timer = self.myself.send_after(wait, || Message::Tick);
        self.armed = Some((next, timer.abort_handle()));
    }

    /// Ends the timer, so that there is never more than one.
    pub(super) fn disarm(&mut self) {
        if let Some((_, timer)) = self.armed.take() {
            timer.abort();
        }
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
            Look::Records(reply) => answer_to(reply, state.wanted_records()),
            Look::Feed(reply) => {
                let _caller_gone = reply.send(self.partition.state().feed_from());
            }
            Look::Wanted(topics, reply) => {
                let wanted = |topic: &&str| topic.parse().is_ok_and(|t| state.is_wanted(&t));
                answer_to(reply, topics.iter().any(wanted));
            }
        }
    }
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
