//! What an agent's machine wants done.

use mesh_actors_core::agent::{AgentCommand, AgentEffect, StopKind};
use mesh_actors_core::task::{AttemptRef, Command, Delivery};
use mesh_messages::{Failure, FailureClass, Timestamp};
use mesh_supervision_core::supervisor::ExitReason;

use crate::checkers::Verdict;
use crate::world::orchestrator::ToOrchestrator;
use crate::world::{Event, World};

impl World {
    pub(super) fn agent_effect(&mut self, agent: usize, effect: AgentEffect) -> Verdict {
        match effect {
            AgentEffect::Spawn {
                instance, epoch, ..
            } => {
                let seat = &mut self.seats[agent];
                seat.live.insert(instance, epoch);
                self.spawn(agent, instance, epoch)
            }
            AgentEffect::Stop { epoch, how, .. } => {
                self.seats[agent].stopping.insert(epoch);
                self.announce(agent);
                self.process_stop(agent, epoch, how == StopKind::Kill);
                Ok(())
            }
            AgentEffect::Down {
                instance,
                epoch,
                failure,
            } => {
                let seat = &mut self.seats[agent];
                seat.stopping.remove(&epoch);
                let key = (seat.id.clone(), instance, epoch);
                let message = ToOrchestrator::Command {
                    command: Box::new(Command::InstanceDown { key, failure }),
                    reply: None,
                };
                self.send_orchestrator(agent as u64, message);
                Ok(())
            }
            AgentEffect::Arm { token, at } => {
                self.arm(agent, token, at);
                Ok(())
            }
            AgentEffect::Disarm => {
                // The timer itself may still fire: it is late, then.
                if let Some(shell) = &mut self.seats[agent].shell {
                    shell.timer = None;
                }
                Ok(())
            }
            AgentEffect::Rest { until } => {
                self.rest(agent, until);
                Ok(())
            }
            AgentEffect::Deliver => {
                let Some(shell) = &mut self.seats[agent].shell else {
                    return Ok(());
                };
                if let Some(delivery) = shell.offers.pop_front().flatten() {
                    return self.process_deliver(agent, delivery);
                }
                Ok(())
            }
            AgentEffect::Decline { .. } => {
                let Some(shell) = &mut self.seats[agent].shell else {
                    return Ok(());
                };
                if let Some(delivery) = shell.offers.pop_front().flatten() {
                    self.decline(&delivery, FailureClass::Lost);
                }
                Ok(())
            }
            AgentEffect::Isolate => {
                self.void_tokens(agent);
                Ok(())
            }
            AgentEffect::Escalate { .. } => {
                self.edges.hit("agent effect", "escalate");
                // The root of the tree ends, and meshd with it.
                if let Some(node) = self.tree.root {
                    let reason = ExitReason::Escalated("an essential agent".to_owned());
                    self.queue.at(self.now, Event::Exit { node, reason });
                }
                Ok(())
            }
            AgentEffect::Paused(_)
            | AgentEffect::Kept { .. }
            | AgentEffect::Release
            | AgentEffect::Seal
            | AgentEffect::UpgradeDone { .. } => Ok(()),
        }
    }

    fn arm(&mut self, agent: usize, token: u64, at: Timestamp) {
        let due = self.moment(at);
        if let Some(shell) = &mut self.seats[agent].shell {
            shell.timer = Some((token, at));
            let actor = shell.actor;
            let event = Event::AgentTimer {
                agent,
                actor,
                token,
            };
            self.queue.at(due, event);
        }
    }

    fn rest(&mut self, agent: usize, until: Timestamp) {
        let due = self.moment(until);
        self.actors += 1;
        let rest = self.actors;
        if let Some(shell) = &mut self.seats[agent].shell {
            shell.rest = Some(rest);
            let actor = shell.actor;
            self.queue
                .at(due, Event::AgentRested { agent, actor, rest });
        }
    }

    /// Reports the end of an attempt that no instance has seen.
    pub(crate) fn decline(&mut self, delivery: &Delivery, class: FailureClass) {
        let attempt = AttemptRef {
            task: delivery.task.clone(),
            attempt: delivery.attempt,
            epoch: delivery.key.2,
        };
        let failure = Failure::new(class, "no instance has seen it");
        self.report_alone(delivery.key.clone(), attempt, failure);
    }

    pub(crate) fn agent_timer(&mut self, agent: usize, actor: u64, token: u64) -> Verdict {
        let Some(shell) = self.seats.get(agent).and_then(|s| s.shell.as_ref()) else {
            return Ok(());
        };
        if shell.actor != actor {
            return Ok(());
        }
        self.agent_step(agent, AgentCommand::Timer { token })
    }

    pub(crate) fn agent_rested(&mut self, agent: usize, actor: u64, rest: u64) -> Verdict {
        let Some(shell) = self.seats.get_mut(agent).and_then(|s| s.shell.as_mut()) else {
            return Ok(());
        };
        if shell.actor != actor {
            return Ok(());
        }
        if shell.rest == Some(rest) {
            shell.rest = None;
        }
        self.agent_step(agent, AgentCommand::Rested)
    }
}
