//! Durable subscriptions, dead letters and traces, as they are asked for through the handle.

use std::collections::BTreeSet;
use std::time::Duration;

use ractor::RpcReplyPort;
use serde_json::Value;

use mesh_messages::bus::{
    ACK_TIMEOUT_MS, AckOp, AckOrder, AckOutcome, BATCH_MAX, DeadLetter, DeadSettlement,
    MessageTrace, NACK_DELAY_MS_MAX, NACK_REASON_MAX, Overflow, Pulled, Route, SubscriptionOrder,
    SubscriptionView,
};
use mesh_messages::klp::{Ack, Envelope, ErrorCode, Subscribe};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role};
use mesh_messages::{AgentId, Epoch, Position};

use super::check::{refusal, unreadable};
use super::durable::{Look, Puller, Settling, no_subscription};
use super::route::CALL_LIMIT;
use super::{BusHandle, Message};
use crate::clock;
use crate::operations::Action;
use crate::partition::Cause;

impl BusHandle {
    /// Makes a durable subscription of the caller's; answers with it, and whether it was there before.
    ///
    /// # Errors
    /// `invalid_subscription`, `subscription_exists`, `too_many_subscriptions`.
    pub async fn make_subscription(
        &self,
        caller: &Caller,
        order: SubscriptionOrder,
    ) -> Result<(SubscriptionView, bool), Problem> {
        // On a pattern, it would stop publishers that its owner does not know of.
        if order.overflow == Overflow::Reject
            && !order.topic.is_concrete()
            && let Err(refused) =
                self.sentinel
                    .decide(caller, Action::BusControl, "/v1/subscriptions")
        {
            let detail = "overflow: reject on a topic with wildcards needs bus.control; name one topic, or leave it out";
            let problem = Problem::invalid("invalid_subscription", "overflow", detail);
            return Err(problem.errors(refused.errors));
        }
        let agent = caller.name.strip_prefix("agent:");
        if let Some(agent) = agent.and_then(|agent| AgentId::new(agent).ok()) {
            self.check_topic((&agent, None), Action::MessageReceive, &order.topic)?;
        }
        self.make_for(&caller.name, Box::new(order), None).await
    }

    async fn make_for(
        &self,
        owner: &str,
        order: Box<SubscriptionOrder>,
        epoch: Option<Epoch>,
    ) -> Result<(SubscriptionView, bool), Problem> {
        let (by, owner) = (Cause::by(owner), owner.to_owned());
        self.slot
            .call(CALL_LIMIT, |reply| Message::Make {
                owner,
                order,
                epoch,
                by,
                reply,
            })
            .await?
    }

    /// A `SUBSCRIBE` with `durable`.
    pub(super) async fn subscribe_durably(
        &self,
        (agent, epoch): (&AgentId, Epoch),
        asked: Subscribe,
    ) -> Result<(), Problem> {
        self.check_topic((agent, Some(epoch)), Action::MessageReceive, &asked.topic)?;
        let order = SubscriptionOrder {
            name: asked.name,
            topic: asked.topic,
            from: asked.from.unwrap_or_default(),
            ack_timeout_ms: asked.ack_timeout_ms,
            max_unacked: asked.max_unacked,
            max_deliver: asked.max_deliver,
            max_queue: asked.max_queue,
            overflow: Overflow::DropOldest,
        };
        let owner = format!("agent:{agent}");
        self.make_for(&owner, Box::new(order), Some(epoch))
            .await
            .map(|_made| ())
    }

    /// An `ACK` of an agent, by the incarnation that says it.
    pub(super) async fn acknowledge(
        &self,
        (agent, epoch): (&AgentId, Epoch),
        envelope: &Envelope,
    ) -> Result<(), Problem> {
        let ack: Ack = envelope.payload_as().map_err(unreadable)?;
        let order = AckOrder {
            tokens: ack.tokens,
            delay_ms: ack.delay_ms,
            reason: ack.reason,
        };
        check(ack.op, &order)?;
        let owner = format!("agent:{agent}");
        let settling = Settling {
            subscription: format!("{owner}:{}", ack.subscription),
            op: ack.op,
            order,
            epoch: Some(epoch),
        };
        let outcome = self.settle(&owner, settling).await?;
        if outcome.stale.is_empty() {
            return Ok(());
        }
        let detail = format!("not in hand any more: {}", outcome.stale.join(", "));
        Err(refusal(ErrorCode::Stale, "payload.tokens", detail))
    }

    async fn settle(&self, by: &str, settling: Settling) -> Result<AckOutcome, Problem> {
        let (by, settling) = (Cause::by(by), Box::new(settling));
        self.slot
            .call(CALL_LIMIT, |reply| Message::Settle {
                settling,
                by,
                reply,
            })
            .await?
    }

    /// All durable subscriptions, by id.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, Problem> {
        self.look(Look::Subscriptions).await
    }

    /// One of them, by its id, or by the name of one of the caller's own.
    ///
    /// # Errors
    /// `subscription_not_found`.
    pub async fn subscription(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<SubscriptionView, Problem> {
        let id = full(caller, id);
        let all = self.subscriptions().await?;
        let found = all.into_iter().find(|view| view.terms.id == id);
        found.ok_or_else(|| no_subscription(&id))
    }

    /// Removes one, and what waits in it.
    ///
    /// # Errors
    /// `subscription_not_found`; `forbidden` when it is another's.
    pub async fn remove_subscription(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let subscription = self.own(caller, id)?;
        let by = Cause::by(&caller.name);
        self.slot
            .call(CALL_LIMIT, |reply| Message::Remove {
                subscription,
                by,
                reply,
            })
            .await?
    }

    /// Hands out at most `most` messages; waits for the first when there is none.
    ///
    /// # Errors
    /// `subscription_not_found`; `forbidden` when it is another's; `busy`.
    pub async fn pull(
        &self,
        caller: &Caller,
        id: &str,
        (most, wait): (usize, Duration),
    ) -> Result<Pulled, Problem> {
        let subscription = self.own(caller, id)?;
        let until = clock::now().plus(wait);
        self.slot
            .call(CALL_LIMIT + wait, |reply| {
                Message::Pull(Puller {
                    subscription,
                    most: most.clamp(1, BATCH_MAX),
                    until,
                    reply,
                })
            })
            .await?
    }

    /// Acknowledges deliveries, one way or another.
    ///
    /// # Errors
    /// `invalid_ack`; `subscription_not_found`; `forbidden` when it is another's.
    pub async fn settle_deliveries(
        &self,
        caller: &Caller,
        id: &str,
        (op, order): (AckOp, AckOrder),
    ) -> Result<AckOutcome, Problem> {
        let subscription = self.own(caller, id)?;
        check(op, &order)?;
        let settling = Settling {
            subscription,
            op,
            order,
            epoch: None,
        };
        self.settle(&caller.name, settling).await
    }

    /// Who gets what.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub async fn routes(&self) -> Result<Vec<Route>, Problem> {
        self.look(Look::Routes).await
    }

    /// The dead letters that are kept, oldest first.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Problem> {
        self.look(Look::Dead).await
    }

    /// Puts a dead letter back, or gives it up for good.
    ///
    /// # Errors
    /// `dead_letter_not_found`, `dead_letter_not_retryable`, `queue_full`.
    pub async fn settle_dead(
        &self,
        caller: &Caller,
        id: Position,
        how: DeadSettlement,
    ) -> Result<(), Problem> {
        let by = Cause::by(&caller.name);
        self.slot
            .call(CALL_LIMIT, |reply| Message::SettleDead {
                id,
                how,
                by,
                reply,
            })
            .await?
    }

    /// The way of a message, without payloads.
    ///
    /// # Errors
    /// `message_not_traced`.
    pub async fn trace(&self, message: &str) -> Result<MessageTrace, Problem> {
        let found = self.look(|reply| Look::Trace(message.to_owned(), reply));
        found.await?.ok_or_else(|| {
            let detail = format!("message {message} is neither traced nor one of the latest");
            Problem::new(ProblemKind::NotFound, "message_not_traced", detail)
        })
    }

    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(RpcReplyPort<T>) -> Look,
    ) -> Result<T, Problem> {
        let answer = self
            .slot
            .call(CALL_LIMIT, |reply| Message::Look(look(reply)));
        Ok(answer.await?)
    }

    /// Publishes what happened to the mesh itself, if anybody wants to know. `id` names the happening: told twice, it is
    /// published once.
    pub(crate) fn announce(&self, topic: &str, id: String, data: Value) {
        let Ok(topic) = topic.parse() else {
            return;
        };
        // While the bus is being restarted, nobody hears of it.
        drop(self.slot.cast(Message::Announce { topic, id, data }));
    }

    /// The records of publications that still stand in a durable subscription.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub(crate) async fn wanted_records(&self) -> Result<BTreeSet<Position>, Problem> {
        self.look(Look::Records).await
    }

    /// Gives up the dead letters of publications that are to be erased; when it answers, the bus holds them no more.
    ///
    /// # Errors
    /// That it could not be done now.
    pub(crate) async fn forget_dead(&self, records: BTreeSet<Position>) -> Result<(), Problem> {
        self.slot
            .call(CALL_LIMIT, |reply| Message::ForgetDead { records, reply })
            .await?
    }

    /// Whether anybody gets what is published on one of these topics.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub(crate) async fn is_wanted(&self, topics: &'static [&'static str]) -> Result<bool, Problem> {
        self.look(|reply| Look::Wanted(topics, reply)).await
    }

    /// An incarnation of an agent ended: what it had in hand comes again.
    pub fn instance_down(&self, agent: &AgentId) {
        // A bus that is being restarted finds out by the time that is over.
        drop(self.slot.cast(Message::Down {
            agent: agent.clone(),
        }));
    }

    /// The full id of a subscription that the caller may use: its own, or any as an admin.
    fn own(&self, caller: &Caller, id: &str) -> Result<String, Problem> {
        let id = full(caller, id);
        let own = id.strip_prefix(&*caller.name);
        if caller.role == Role::Admin || own.is_some_and(|rest| rest.starts_with(':')) {
            return Ok(id);
        }
        let resource = format!("/v1/subscriptions/{id}");
        Err(self
            .sentinel
            .refuse(caller, Action::MessageReceive, &resource))
    }
}

fn full(caller: &Caller, id: &str) -> String {
    if id.contains(':') {
        id.to_owned()
    } else {
        format!("{}:{id}", caller.name)
    }
}

fn check(op: AckOp, order: &AckOrder) -> Result<(), Problem> {
    let invalid = |field: &str, detail: String| Err(Problem::invalid("invalid_ack", field, detail));
    if order.tokens.is_empty() || order.tokens.len() > BATCH_MAX {
        return invalid(
            "tokens",
            format!("tokens: expected 1 to {BATCH_MAX} of them"),
        );
    }
    let most = if op == AckOp::Extend {
        ACK_TIMEOUT_MS.1
    } else {
        NACK_DELAY_MS_MAX
    };
    if order.delay_ms.is_some_and(|delay| delay > most) {
        return invalid("delayMs", format!("delayMs: expected at most {most}"));
    }
    let reason = order.reason.as_deref().unwrap_or_default();
    if reason.len() > NACK_REASON_MAX || reason.chars().any(char::is_control) {
        let detail =
            format!("reason: expected at most {NACK_REASON_MAX} bytes without control characters");
        return invalid("reason", detail);
    }
    Ok(())
}
