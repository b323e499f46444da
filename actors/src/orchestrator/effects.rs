//! What the orchestrator does once its decisions are durable: deliveries, cancellations, replies, and forgetting.

use std::sync::Arc;

use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{AttemptOutcome, Command, Effect};
use mesh_messages::{Failure, FailureClass};

use super::{Message, Released, Shell, answer};
use crate::agents::agent::AgentMessage;
use crate::agents::delivery::{ChildOutcome, ClaimAnswer, Delivery};
use crate::partition::Cause;

impl Shell {
    pub(super) fn release(&mut self) {
        for released in self.partition.released(self.durable) {
            match released {
                Released::Answer(value, reply) => answer(Some(reply), Ok(value)),
                Released::Taken(reply) => {
                    let _reporter_gone = reply.send(());
                }
                Released::Accepted => self.args.handle.note_accepted(),
                Released::Retired(goes_on, reply) => {
                    let _caller_gone = reply.send(goes_on);
                }
                Released::Views(views, reply) => {
                    let _caller_gone = reply.send(views);
                }
                Released::Claims(claims, reply) => {
                    let _caller_gone = reply.send(claims);
                }
                Released::Trust(shown, reply) => {
                    let _caller_gone = reply.send(shown);
                }
                Released::Gates(gates, reply) => {
                    let _caller_gone = reply.send(gates);
                }
                Released::Budgets(budgets, reply) => {
                    let _caller_gone = reply.send(budgets);
                }
                Released::Why(why, reply) => {
                    let _caller_gone = reply.send(why.map(|why| *why));
                }
                Released::Effect(effect) => self.perform(*effect),
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver(delivery) => self.deliver(*delivery),
            Effect::CancelAttempt {
                key,
                task,
                attempt,
                reason,
            } => {
                let class = FailureClass::Cancelled;
                let reason = Failure::new(class, reason);
                let message = AgentMessage::CancelAttempt {
                    epoch: key.2,
                    task,
                    attempt,
                    reason,
                };
                self.tell(&key, message);
            }
            Effect::TaskEnded(task) => self.args.handle.ended(&task, || self.view(&task)),
            Effect::ChildEnded { asker, child } => {
                let result = match (child.state, child.output, child.error) {
                    (mesh_messages::task::TaskState::Succeeded, output, _) => {
                        Ok(output.unwrap_or_default())
                    }
                    (_, _, Some(error)) => Err(error),
                    (state, _, None) => Err(Failure::new(
                        FailureClass::Cancelled,
                        format!("the delegated task ended {state}"),
                    )),
                };
                let outcome = Box::new(ChildOutcome {
                    parent: asker.parent.task,
                    request: asker.request,
                    child: child.id,
                    by: child.assignment.map(|assignment| assignment.agent_id),
                    result,
                });
                self.tell(
                    &asker.key,
                    AgentMessage::Child {
                        epoch: asker.key.2,
                        outcome,
                    },
                );
            }
            Effect::ClaimAnswered { asker, reply } => {
                let answer = Box::new(ClaimAnswer {
                    task: asker.parent.task,
                    request: asker.request,
                    reply: *reply,
                });
                let epoch = asker.key.2;
                self.tell(&asker.key, AgentMessage::Claim { epoch, answer });
            }
            Effect::ReportToAgent { key, task, outcome } => {
                let ok = outcome == AttemptOutcome::Succeeded;
                self.tell(&key, AgentMessage::AttemptEnded { task, ok });
            }
            Effect::RefundScore { agent, failures } => {
                if let Some(entry) = self.args.ctx.directory.get(agent.as_str()) {
                    let _restarting = entry.slot.cast(AgentMessage::Refund { failures });
                }
            }
            Effect::Escalate(task) => {
                tracing::warn!(%task, "dead-lettered: somebody has to look at it (meshctl task show, task retry)");
            }
        }
    }

    fn deliver(&mut self, delivery: mesh_actors_core::task::Delivery) {
        if let Some(entry) = self.args.ctx.directory.get(delivery.key.0.as_str()) {
            entry.give_out(delivery.key.2, delivery.task.clone(), delivery.attempt);
        }
        let trail = self.partition.state().trail(&delivery.task);
        let led = Cause::after(format!("agent:{}", delivery.key.0), trail);
        let message = AgentMessage::Deliver(Box::new(Delivery {
            led,
            action: delivery.spec.action().to_owned(),
            needs: delivery.spec.needs(),
            input: Arc::new(delivery.spec.input),
            contract: delivery.spec.contract.map(Arc::new),
            priority: delivery.spec.priority,
            claims: delivery.claims,
            task: delivery.task,
            attempt: delivery.attempt,
            agent: delivery.key.0.clone(),
            instance: delivery.key.1,
            epoch: delivery.key.2,
            attempt_until: delivery.ends_at,
        }));
        self.tell(&delivery.key, message);
    }

    /// Tells an agent's actor. One that is not there has lost its instances, and what they had in hand.
    fn tell(&self, key: &InstanceKey, message: AgentMessage) {
        let entry = self.args.ctx.directory.get(key.0.as_str());
        let told = entry.is_some_and(|entry| entry.slot.cast(message).is_ok());
        if !told {
            let failure = Failure::new(FailureClass::Lost, "its agent's actor is gone");
            let command = Box::new(Command::InstanceDown {
                key: key.clone(),
                failure,
            });
            let _we_are_here = self.me.cast(Message::Command {
                command,
                cause: Cause::meshd(),
                reply: None,
            });
        }
    }

    /// Forgets ended tasks that the read side shows by now.
    pub(super) fn forget(&mut self) {
        let Ok(shown) = self.store.projections.next_position() else {
            return;
        };
        let mut events = None;
        while self.written.front().is_some_and(|(last, _)| last.0 < shown) {
            if let Some((last, count)) = self.written.pop_front() {
                self.forgotten = self.forgotten.max(last.0 + 1);
                events = Some(count);
            }
        }
        if let Some(events) = events {
            self.partition.state_mut().evict(events);
        }
    }
}
