//! What the bus actor does with each message.

use std::time::Duration;

use ractor::{ActorProcessingErr, RpcReplyPort};

use mesh_actors_core::bus::{BusRefusal, Mail, Origin, Posting, Presence, Publishing};
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::SubscriptionOrder;
use mesh_messages::events::BusEvent;
use mesh_messages::klp::{Defaults, Envelope, decode};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{AgentId, Epoch, Position, TaskId};

use super::outside::{Outside, Waiter};
use super::{Effect, Message, Posted, Publication, Reply, State};
use crate::clock;
use crate::operations::Action;
use crate::partition::{Cause, Entry, Led};

/// When mail that an agent could not take although it was up is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(2);

impl State {
    pub(super) async fn post(
        &mut self,
        mail: Box<Mail>,
        by: &Cause,
        answer: Option<Waiter>,
        reply: Reply<Posted>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let state = self.partition.state();
        // What waits already goes first, so a newcomer joins it.
        let presence = match self.presence(&mail.to) {
            Presence::Up if state.held(&mail.to) > 0 => Presence::Away,
            presence => presence,
        };
        let to = mail.to.clone();
        match state.post(&mail, presence) {
            Posting::Deliver(events) => {
                let effect = Effect::Deliver {
                    mail,
                    by: by.clone(),
                    answer,
                    reply: Some(reply),
                };
                self.commit(events, by, vec![effect]).await
            }
            Posting::Hold(events) => {
                self.commit(events, by, vec![Effect::Held { reply: Some(reply) }])
                    .await?;
                self.myself.cast(Message::Back { agent: to })?;
                Ok(())
            }
            Posting::Refuse(events, refusal) => {
                let effect = Effect::Refused {
                    problem: refused(&refusal),
                    reply,
                };
                self.commit(events, by, vec![effect]).await
            }
        }
    }

    /// Tells which topics an agent's manifest does not leave it to subscribe to.
    pub(super) fn barred(&self, agent: &AgentId) -> impl Fn(&TopicPattern) -> bool + use<> {
        let Outside {
            directory,
            delivery,
            ..
        } = &self.handle.outside;
        // While a new version is about to take the place of another, what either has is left to it.
        let newest = delivery.incarnations(agent).into_iter().max();
        let policies = [None, newest].map(|epoch| directory.topics(agent, epoch));
        move |topic: &TopicPattern| !policies.iter().any(|one| one.may_subscribe(topic))
    }

    /// Removes what an agent subscribed to that its manifest does not leave it any more; whether that could be done now. If
    /// not, it comes here again after a pause.
    pub(super) async fn drop_barred(
        &mut self,
        agent: &AgentId,
    ) -> Result<bool, ActorProcessingErr> {
        let barred = self.barred(agent);
        if self.writable().is_err() {
            let mut queues = self.partition.state().queues_of(agent);
            let some = queues.any(|queue| barred(&queue.terms.topic));
            if some {
                self.retry(agent);
            }
            return Ok(!some);
        }
        let reason = "its manifest does not leave it this topic";
        let events = self.partition.state().unsubscribe(agent, reason, barred);
        self.commit(events, &Cause::meshd(), Vec::new()).await?;
        Ok(true)
    }

    /// Whether an owner that is an agent has the topic left now: its manifest may have become another one since it asked.
    pub(super) fn may_make(
        &self,
        (owner, epoch): (&str, Option<Epoch>),
        order: &SubscriptionOrder,
    ) -> Result<(), Problem> {
        let agent = owner.strip_prefix("agent:");
        let Some(agent) = agent.and_then(|agent| AgentId::new(agent).ok()) else {
            return Ok(());
        };
        let action = Action::MessageReceive;
        self.handle
            .check_topic((&agent, epoch), action, &order.topic)
    }

    /// The incarnations of an agent that take messages now and whose manifest leaves them this topic: it may have become another
    /// one since the agent subscribed, and they differ while a new version takes the place of another.
    pub(super) fn listeners(&self, agent: &AgentId, topic: &TopicPattern) -> Vec<Epoch> {
        let Outside {
            directory,
            delivery,
            ..
        } = &self.handle.outside;
        let mut alive = delivery.incarnations(agent);
        alive.retain(|epoch| {
            let policy = directory.topics(agent, Some(*epoch));
            policy.may_subscribe(topic)
        });
        alive
    }

    /// Hands a publication to one incarnation that may have it; whether one took it.
    fn tell(&self, agent: &AgentId, topic: &TopicPattern, envelope: Envelope) -> bool {
        let delivery = &self.handle.outside.delivery;
        let listeners = self.listeners(agent, topic);
        let told = if listeners.len() == delivery.incarnations(agent).len() {
            delivery.deliver(agent, envelope, None)
        } else if let Some(one) = listeners.last() {
            delivery.deliver_to(agent, *one, envelope)
        } else {
            return false;
        };
        told.is_ok()
    }

    pub(super) async fn publish(
        &mut self,
        publication: Publication,
        by: &Cause,
        reply: Option<Reply<usize>>,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(problem) = self.writable() {
            if let Some(reply) = reply {
                answer_to(reply, Err(problem));
            }
            return Ok(());
        }
        let Publication {
            topic,
            publisher,
            named,
            own,
            envelope,
        } = publication;
        let state = self.partition.state();
        let whole = envelope.to_value();
        let sent = (&envelope.from, &*envelope.id, named);
        let decided = if own {
            state.announce(&topic, sent, &whole)
        } else {
            state.publish(&topic, sent, &whole)
        };
        let pushed_out = match decided {
            Publishing::Accept(pushed_out) => pushed_out,
            Publishing::Known => {
                let effect = Effect::Published {
                    topic,
                    envelope: Box::new(envelope),
                    to: Vec::new(),
                    durable: 0,
                    reply,
                };
                return self.commit(Vec::new(), by, vec![effect]).await;
            }
            Publishing::Refuse(refusal) => {
                if let Some(reply) = reply {
                    answer_to(reply, Err(refused(&refusal)));
                }
                return Ok(());
            }
        };
        let durable = state.durable_receivers(&topic);
        let up = |agent: &&AgentId| {
            self.presence(agent) == Presence::Up && !self.listeners(agent, &topic).is_empty()
        };
        let wanted = self
            .partition
            .state()
            .subscribers(&topic, publisher.as_ref());
        let to: Vec<AgentId> = wanted.filter(up).cloned().collect();
        let sent = BusEvent::Sent {
            message: envelope.id.clone(),
            from: envelope.from.to_string(),
            to: Address::Topic(topic.clone()).to_string(),
            kind: envelope.kind.name().to_owned(),
            envelope: whole,
        };
        let received = to.iter().map(|agent| BusEvent::Received {
            message: envelope.id.clone(),
            from: envelope.from.to_string(),
            to: Address::agent(agent.clone()).to_string(),
            kind: envelope.kind.name().to_owned(),
            // Once is enough: what was sent stands before it.
            envelope: serde_json::Value::Null,
        });
        let first = std::iter::once(sent).chain(pushed_out);
        let events = first.chain(received).collect();
        let effect = Effect::Published {
            topic,
            envelope: Box::new(envelope),
            to,
            durable,
            reply,
        };
        self.commit(events, by, vec![effect]).await
    }

    pub(super) async fn subscribe(
        &mut self,
        (agent, by): (&AgentId, &Cause),
        pattern: &TopicPattern,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        match self.partition.state().subscribe(agent, pattern) {
            Ok(event) => {
                let events: Vec<_> = event.into_iter().collect();
                if !events.is_empty()
                    && let Err(problem) = self.writable()
                {
                    answer_to(reply, Err(problem));
                    return Ok(());
                }
                self.commit(events, by, vec![Effect::Done { reply }]).await
            }
            Err(refusal) => {
                answer_to(reply, Err(refused(&refusal)));
                Ok(())
            }
        }
    }

    pub(super) async fn back(&mut self, agent: &AgentId) -> Result<(), ActorProcessingErr> {
        if self.presence(agent) != Presence::Up || self.partition.state().held(agent) == 0 {
            return Ok(());
        }
        if self.writable().is_err() {
            self.retry(agent);
            return Ok(());
        }
        let release = self.partition.state().release(agent, clock::now());
        let deliver = |(mail, origin)| Effect::Deliver {
            mail: Box::new(mail),
            by: led_by(origin),
            answer: None,
            reply: None,
        };
        let effects = release.mail.into_iter().map(deliver).collect();
        self.commit_held(release.events, effects).await?;
        if release.more {
            self.myself.cast(Message::Back {
                agent: agent.clone(),
            })?;
        }
        Ok(())
    }

    pub(super) fn presence(&self, agent: &AgentId) -> Presence {
        self.handle.outside.directory.presence(agent)
    }

    /// Tries again later to bring an agent its mail. The timer ends with the actor, whose next incarnation tries anyway.
    pub(super) fn retry(&self, agent: &AgentId) {
        let agent = agent.clone();
        drop(
            self.myself
                .send_after(RETRY_PAUSE, move || Message::Back { agent }),
        );
    }

    pub(super) fn writable(&self) -> Result<(), Problem> {
        let admitted = self.partition.journal().admission();
        admitted.map_err(|error| Problem::unavailable("read_only", error.to_string()))
    }

    pub(super) async fn commit(
        &mut self,
        events: Vec<BusEvent>,
        by: &Cause,
        effects: Vec<Effect>,
    ) -> Result<(), ActorProcessingErr> {
        let entry = |(index, event): (usize, BusEvent)| Entry {
            agent: self.concerned(&event),
            task: about(&event),
            led: match self.origin_of(&event).filter(|_| by.cause.is_none()) {
                Some(cause) => Led {
                    by: Some(Cause {
                        cause: Some(cause),
                        ..by.clone()
                    }),
                    after: None,
                },
                // Who receives does so because it was sent.
                None => Led::in_turn(index),
            },
            event,
        };
        let entries = events.into_iter().enumerate().map(entry).collect();
        self.partition.commit(entries, by, effects).await?;
        Ok(())
    }

    /// The agent whose history a record belongs to: the sender of what was sent, the receiver of what is received.
    fn concerned(&self, event: &BusEvent) -> Option<AgentId> {
        let address = match event {
            BusEvent::Sent { from, .. }
            | BusEvent::Taken { from, .. }
            | BusEvent::Alerted { from, .. } => from,
            BusEvent::DeadLettered {
                detail: Some(detail),
                ..
            } => return owner_of(&detail.subscription),
            BusEvent::Received { to, .. } | BusEvent::DeadLettered { to, .. } => to,
            BusEvent::Subscribed { agent, .. } => return Some(agent.clone()),
            BusEvent::Made { terms } => return owner_of(&terms.id),
            BusEvent::Removed { subscription, .. }
            | BusEvent::Filled { subscription, .. }
            | BusEvent::HandedOut { subscription, .. }
            | BusEvent::Acked { subscription, .. }
            | BusEvent::Extended { subscription, .. }
            | BusEvent::Returned { subscription, .. } => return owner_of(subscription),
            BusEvent::DeadSettled { .. } => return None,
        };
        let address: Address = address.parse().ok()?;
        agent_of(&address).or_else(|| self.agent_by_role(&address))
    }

    /// The agent that an address of another role names by its id.
    fn agent_by_role(&self, address: &Address) -> Option<AgentId> {
        match address {
            Address::Role { role, name } if &**role != "user" => {
                let named = AgentId::new(name).ok()?;
                (self.presence(&named) != Presence::Gone).then_some(named)
            }
            _ => None,
        }
    }

    /// The publication that a record of a durable subscription follows from, when nobody asked for it; and the message that
    /// an answer answers.
    fn origin_of(&self, event: &BusEvent) -> Option<Position> {
        match event {
            BusEvent::HandedOut { messages, .. } => messages.first().map(|handed| handed.record),
            BusEvent::Returned { messages, .. } => messages.first().map(|back| back.record),
            BusEvent::DeadLettered { detail, .. } => detail.as_ref()?.record,
            BusEvent::Sent { envelope, from, .. } => {
                let asked = envelope.get("in_reply_to")?.as_str()?;
                let agent = |text: &str| text.parse().ok().as_ref().and_then(agent_of);
                // Others may have written under the same id, to others.
                let who = agent(from)?;
                let to_them = |to: &str| agent(to).as_ref() == Some(&who);
                self.partition.state().record_of(asked, to_them)
            }
            _ => None,
        }
    }

    /// What becomes of messages that waited: each for its own reason, and not for that of its neighbour.
    pub(super) async fn commit_held(
        &mut self,
        events: Vec<(BusEvent, Origin)>,
        effects: Vec<Effect>,
    ) -> Result<(), ActorProcessingErr> {
        let entry = |(event, origin)| Entry {
            agent: self.concerned(&event),
            task: about(&event),
            event,
            led: Led {
                by: Some(led_by(origin)),
                after: None,
            },
        };
        let entries = events.into_iter().map(entry).collect();
        self.partition
            .commit(entries, &Cause::meshd(), effects)
            .await?;
        Ok(())
    }

    pub(super) async fn release(&mut self) -> Result<(), ActorProcessingErr> {
        for effect in self.partition.released(self.durable) {
            match effect {
                Effect::Deliver {
                    mail,
                    by,
                    answer,
                    reply,
                } => self.deliver((&mail, &by), answer, reply).await?,
                Effect::Held { reply: Some(reply) } => answer_to(reply, Ok(Posted::Held)),
                Effect::Held { reply: None } => {}
                Effect::Refused { problem, reply } => answer_to(reply, Err(problem)),
                Effect::Published {
                    topic,
                    envelope,
                    to,
                    durable,
                    reply,
                } => {
                    let told = |agent: &&AgentId| self.tell(agent, &topic, (*envelope).clone());
                    let reached = to.iter().filter(told).count();
                    if let Some(reply) = reply {
                        answer_to(reply, Ok(reached + durable));
                    }
                }
                Effect::Made {
                    subscription,
                    known,
                    reply,
                } => self.answer_made(&subscription, known, reply),
                Effect::Settled { outcome, reply } => answer_to(reply, Ok(outcome)),
                Effect::Pulled {
                    subscription,
                    messages,
                    reply,
                } => self.hand_over(&subscription, messages, reply).await?,
                Effect::Brought {
                    subscription,
                    agent,
                    epoch,
                    messages,
                } => {
                    self.bring((&subscription, &agent, epoch), messages).await?;
                }
                Effect::Done { reply } => answer_to(reply, Ok(())),
            }
        }
        self.partition.snapshot_when_due(self.durable);
        Ok(())
    }

    pub(super) async fn deliver(
        &mut self,
        (mail, by): (&Mail, &Cause),
        answer: Option<Waiter>,
        reply: Option<Reply<Posted>>,
    ) -> Result<(), ActorProcessingErr> {
        // It was encoded from an envelope that was complete.
        let envelope = decode(mail.envelope.clone(), &Defaults::default())?;
        if self
            .handle
            .outside
            .delivery
            .deliver(&mail.to, envelope, answer)
            .is_ok()
        {
            if let Some(reply) = reply {
                answer_to(reply, Ok(Posted::Delivered));
            }
            return Ok(());
        }
        // It went away between the decision and now.
        match self.partition.state().hold_again(mail) {
            Posting::Deliver(events) | Posting::Hold(events) => {
                self.commit(events, by, vec![Effect::Held { reply }])
                    .await?;
                self.retry(&mail.to);
                Ok(())
            }
            Posting::Refuse(events, refusal) => {
                let refused = |reply| Effect::Refused {
                    problem: refused(&refusal),
                    reply,
                };
                let effects = reply.map(refused).into_iter().collect();
                self.commit(events, by, effects).await
            }
        }
    }
}

/// What led to what becomes of a message that waited.
fn led_by(origin: Origin) -> Cause {
    Cause {
        cause: origin.record,
        correlation: origin.correlation,
        ..Cause::meshd()
    }
}

/// The task that a message is about, as it says itself.
fn about(event: &BusEvent) -> Option<TaskId> {
    let (BusEvent::Sent { envelope, .. } | BusEvent::Received { envelope, .. }) = event else {
        return None;
    };
    TaskId::new(envelope.get("task_id")?.as_str()?).ok()
}

/// The agent whose durable subscription it is.
fn owner_of(subscription: &str) -> Option<AgentId> {
    let (id, _name) = subscription.strip_prefix("agent:")?.split_once(':')?;
    AgentId::new(id).ok()
}

/// The agent that an address names by its own id.
pub(crate) fn agent_of(address: &Address) -> Option<AgentId> {
    match address {
        Address::Agent { id, .. } => Some(id.clone()),
        // A replica, `agent:<id>#<n>`, is its agent.
        Address::Role { role, name } if &**role == "agent" => {
            AgentId::new(name.split('#').next()?).ok()
        }
        Address::Role { .. }
        | Address::Node(_)
        | Address::Kai(_)
        | Address::Topic(_)
        | Address::Policy(_) => None,
    }
}

/// Answers a caller; one that does not wait any more need not be told.
pub(super) fn answer_to<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

fn refused(refusal: &BusRefusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        BusRefusal::MailboxFull(_) => Problem::unavailable("mailbox_full", detail),
        BusRefusal::Gone(_) => Problem::new(ProblemKind::Conflict, "agent_terminated", detail),
        BusRefusal::QueueFull(_) => Problem::unavailable("queue_full", detail),
        BusRefusal::Subscriptions(_) => {
            Problem::new(ProblemKind::Conflict, "too_many_subscriptions", detail)
        }
    }
}
