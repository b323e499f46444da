//! What the task machine wants done, and whom it answers.

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{Answer, AttemptOutcome, Effect, Refusal};
use mesh_messages::Epoch;

use super::{Released, Reply};
use crate::checkers::{Verdict, ensure};
use crate::world::agents::ToAgent;
use crate::world::processes::ProcessEvent;
use crate::world::{Event, World};

impl World {
    pub(super) fn refused(&mut self, reply: Option<Reply>, refusal: &Refusal) {
        match reply {
            // It is answered all the same: it will never be wanted.
            Some(Reply::Report(agent, epoch, serial)) => self.answer_report(agent, epoch, serial),
            Some(Reply::Delegation(agent, epoch, task, attempt)) => {
                self.edges.hit("report", "a delegation is refused");
                let event = ProcessEvent::Refused(task, attempt);
                self.queue.at(
                    self.now + 1,
                    Event::Process {
                        agent,
                        epoch,
                        event,
                    },
                );
            }
            Some(Reply::Alone(agent, attempt)) => {
                let open = (attempt.epoch, attempt.task, attempt.attempt);
                self.seats[agent].open.remove(&open);
            }
            Some(Reply::Client(_)) => {
                self.edges
                    .hit_named("client", format_args!("{}", word(refusal)));
            }
            None => {}
        }
    }

    pub(super) fn answer_report(&mut self, agent: usize, epoch: Epoch, serial: u64) {
        let at = self.now + self.random.between(0, 3);
        let event = ProcessEvent::Answer(serial);
        self.queue.at(
            at,
            Event::Process {
                agent,
                epoch,
                event,
            },
        );
    }

    /// Does what is on the disk.
    pub(crate) fn release_orchestrator(&mut self) -> Verdict {
        let durable = self.log.durable;
        let Some(orchestrator) = &mut self.orchestrator else {
            return Ok(());
        };
        for released in orchestrator.owned.released(durable) {
            match released {
                Released::Effect(effect) => self.task_effect(*effect)?,
                Released::Answer(answer, reply) => self.answer(answer, reply)?,
            }
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, answer: Answer, reply: Reply) -> Verdict {
        match (reply, answer) {
            (Reply::Report(agent, epoch, serial), _) => self.answer_report(agent, epoch, serial),
            (Reply::Alone(agent, attempt), _) => {
                let open = (attempt.epoch, attempt.task, attempt.attempt);
                self.seats[agent].open.remove(&open);
            }
            (Reply::Client(keys), Answer::Receipts { receipts, replayed }) => {
                self.edges.hit(
                    "client",
                    if replayed {
                        "submission replayed"
                    } else {
                        "submission acknowledged"
                    },
                );
                for (receipt, key) in receipts.iter().zip(keys) {
                    self.ledger.acknowledge(&receipt.id)?;
                    let Some(key) = key else { continue };
                    let first = self
                        .clients
                        .keys
                        .entry(key.clone())
                        .or_insert_with(|| receipt.id.clone());
                    ensure(*first == receipt.id, "one key is one task", || {
                        format!("{key} is {} and {first}", receipt.id)
                    })?;
                }
            }
            (Reply::Delegation(..) | Reply::Client(_), _) => {}
        }
        Ok(())
    }

    pub(super) fn number_of(&self, key: &InstanceKey) -> usize {
        self.ids.iter().position(|id| *id == key.0).unwrap_or(0)
    }

    pub(super) fn task_effect(&mut self, effect: Effect) -> Verdict {
        match effect {
            Effect::Deliver(delivery) => {
                let agent = self.number_of(&delivery.key);
                let open = (delivery.key.2, delivery.task.clone(), delivery.attempt);
                self.seats[agent].open.insert(open);
                self.tell_agent(agent, ToAgent::Deliver(delivery));
            }
            Effect::CancelAttempt {
                key, task, attempt, ..
            } => {
                let agent = self.number_of(&key);
                self.tell_agent(agent, ToAgent::Cancel { key, task, attempt });
            }
            Effect::TaskEnded(task) => self.ledger.outcome(&task)?,
            Effect::ChildEnded { asker, .. } => {
                self.edges
                    .hit("report", "a child's outcome reaches its parent");
                let agent = self.number_of(&asker.key);
                let (epoch, parent) = (asker.key.2, asker.parent.task);
                self.tell_agent(agent, ToAgent::Child { epoch, parent });
            }
            Effect::ReportToAgent { key, task, outcome } => {
                let agent = self.number_of(&key);
                let ok = outcome == AttemptOutcome::Succeeded;
                let command = AgentCommand::AttemptEnded { task, ok };
                self.tell_agent(agent, ToAgent::Command(command));
            }
            Effect::RefundScore { agent, failures } => {
                if let Some(agent) = self.ids.iter().position(|id| *id == agent) {
                    let command = AgentCommand::Refund { failures };
                    self.tell_agent(agent, ToAgent::Command(command));
                }
            }
            // Nobody claims anything in the midst of an attempt.
            Effect::ClaimAnswered { .. } => {}
            Effect::Escalate(_) => self.edges.hit("client", "dead-lettered: escalated"),
        }
        Ok(())
    }
}

const fn word(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Invalid { .. } => "refused: it makes no sense",
        Refusal::KeyTaken { .. } => "refused: the key stands for another task",
        Refusal::Ended { .. } => "refused: it has ended",
        Refusal::NotFound(_) => "refused: nobody knows it",
        Refusal::NotAsking { .. } => "refused: nobody is asked",
        Refusal::Unfit(_) => "refused: it is no answer",
        Refusal::NotRetryable { .. } => "refused: it cannot be retried",
        _ => "refused",
    }
}
