//! The agents' actors: the real machine of each agent, and what its effects do.

mod effects;
mod orders;
mod seat;

use std::collections::VecDeque;
use std::sync::Arc;

use mesh_actors_core::agent::{AgentCommand, AgentEffect, AgentMachine, AgentState, Around};
use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{Command, Delivery, FleetChange};
use mesh_messages::agent::FaultState;
use mesh_messages::events::AgentEvent;
use mesh_messages::{AttemptNo, Epoch, Failure, FailureClass, TaskId, Timestamp};

pub(crate) use seat::{Seat, cast};

use super::forest::Part;
use super::orchestrator::ToOrchestrator;
use super::parts::Owned;
use super::{Event, World};
use crate::checkers::{Verdict, ensure};

/// What they can do; each can do some of it.
pub(crate) const CAPABILITIES: [&str; 5] = ["parse", "plan", "write", "review", "ship"];
/// Deliveries that wait for the policy's word, as in the real shell.
const OFFERS_MAX: usize = 4096;

/// What an agent's actor is told.
#[derive(Debug)]
pub(crate) enum ToAgent {
    /// A command of the machine.
    Command(AgentCommand),
    /// An attempt for one of its instances.
    Deliver(Box<Delivery>),
    /// Make an instance let go of an attempt.
    Cancel {
        key: InstanceKey,
        task: TaskId,
        attempt: AttemptNo,
    },
    /// A delegated task has ended.
    Child { epoch: Epoch, parent: TaskId },
    /// Take a version in.
    Register { version: usize },
}

/// What follows from an agent's events.
#[derive(Debug)]
pub(crate) enum Released {
    Publish(Arc<AgentState>),
    Effect(AgentEffect),
}

/// The actor of an agent.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) machine: AgentMachine,
    pub(crate) owned: Owned<AgentState, Released>,
    /// Which actor of all: timers of another one are not for this one.
    pub(crate) actor: u64,
    pub(crate) offers: VecDeque<Option<Delivery>>,
    pub(crate) timer: Option<(u64, Timestamp)>,
    pub(crate) rest: Option<u64>,
}

impl World {
    /// An agent's actor has its partition.
    pub(crate) fn agent_up(&mut self, agent: usize) -> Verdict {
        let state = self.replica.agents.get(&agent).cloned().unwrap_or_default();
        let owned: Owned<AgentState, Released> = self.owned(Part::Agent(agent), state);
        self.actors += 1;
        let (actor, now, durable) = (self.actors, self.wall(), self.log.durable);
        let Some(seat) = self.seats.get_mut(agent) else {
            return Ok(());
        };
        let Ok(machine) = AgentMachine::new(seat.id.clone(), seat.config.clone(), now) else {
            return ensure(false, "the simulation", || {
                "a policy is not sound".to_owned()
            });
        };
        self.starts.begins_anew(agent);
        seat.actor_no = actor;
        seat.recall(durable);
        seat.shell = Some(Shell {
            machine,
            owned,
            actor,
            offers: VecDeque::new(),
            timer: None,
            rest: None,
        });
        self.agent_step(agent, AgentCommand::Boot)?;
        // Its first publication, also of a state that has not changed.
        if let Some(seat) = self.seats.get_mut(agent)
            && let Some(shell) = &mut seat.shell
        {
            let state = Arc::new(shell.owned.state.clone());
            shell.owned.after_last(vec![Released::Publish(state)]);
        }
        self.release_agent(agent)
    }

    /// An agent's actor has ended: what it ran has ended with it.
    pub(crate) fn agent_gone(&mut self, agent: usize) {
        if let Some(seat) = self.seats.get_mut(agent) {
            seat.shell = None;
            seat.live.clear();
        }
        self.processes.retain(|(of, _), _| *of != agent);
    }

    /// A message arrives at an agent's actor; nobody hears it when there is none.
    pub(crate) fn agent_hears(&mut self, agent: usize, message: ToAgent) -> Verdict {
        let Some(seat) = self.seats.get_mut(agent) else {
            return Ok(());
        };
        let Some(shell) = &mut seat.shell else {
            // What cannot be told to it has lost its instance.
            let key = match &message {
                ToAgent::Deliver(delivery) => Some(delivery.key.clone()),
                ToAgent::Cancel { key, .. } => Some(key.clone()),
                _ => None,
            };
            if let Some(key) = key {
                let failure = Failure::new(FailureClass::Lost, "its agent's actor is gone");
                self.tell_orchestrator(Command::InstanceDown { key, failure });
            }
            return Ok(());
        };
        match message {
            ToAgent::Command(command) => {
                match &command {
                    AgentCommand::Ended {
                        instance, epoch, ..
                    } => {
                        if seat.live.get(instance) == Some(epoch) {
                            seat.live.remove(instance);
                        }
                        seat.stopping.remove(epoch);
                    }
                    AgentCommand::Configure(config) => seat.config = (**config).clone(),
                    _ => {}
                }
                self.agent_step(agent, command)
            }
            ToAgent::Deliver(delivery) => {
                let full = shell.offers.len() >= OFFERS_MAX;
                ensure(!full, "every queue is bounded: offers", || {
                    format!("{} attempts wait for agent {agent}", shell.offers.len())
                })?;
                let command = AgentCommand::Offered {
                    task: delivery.task.clone(),
                    epoch: delivery.key.2,
                };
                shell.offers.push_back(Some(*delivery));
                self.agent_step(agent, command)
            }
            ToAgent::Cancel { key, task, attempt } => {
                let epoch = key.2;
                let offered = shell.offers.iter_mut().find(|offer| {
                    offer
                        .as_ref()
                        .is_some_and(|d| (d.key.2, &d.task, d.attempt) == (epoch, &task, attempt))
                });
                if let Some(delivery) = offered.and_then(Option::take) {
                    self.decline(&delivery, FailureClass::Cancelled);
                    return Ok(());
                }
                self.process_cancel(agent, &key, &task, attempt);
                Ok(())
            }
            ToAgent::Child { epoch, parent } => {
                self.process_child(agent, epoch, &parent);
                Ok(())
            }
            ToAgent::Register { version } => self.register(agent, version),
        }
    }

    /// Sends an agent's actor a message.
    pub(crate) fn tell_agent(&mut self, agent: usize, message: ToAgent) {
        let at = self.now + self.random.between(0, 3);
        let lane = (1 << 40, agent as u64);
        self.queue
            .in_lane(lane, at, Event::Agent { agent, message });
    }

    /// Decides, commits, and checks what was decided.
    pub(crate) fn agent_step(&mut self, agent: usize, command: AgentCommand) -> Verdict {
        let (now, random, durable) = (self.wall(), self.random.bits(), self.log.durable);
        let Some(seat) = self.seats.get_mut(agent) else {
            return Ok(());
        };
        let Some(mut shell) = seat.shell.take() else {
            return Ok(());
        };
        if let AgentCommand::Timer { token } = &command {
            shell.timer.take_if(|(armed, _)| armed == token);
        }
        let before = shell.machine.policy().record().clone();
        let looked = seat.table.look(&shell.owned.state, &command);
        let decided = shell.machine.step(
            &shell.owned.state,
            now,
            random,
            &Around {
                sandbox: &|_| None,
                lacks: false,
            },
            command.clone(),
        );
        match &decided {
            Ok(decision) => self.trace.note(
                self.now,
                format_args!("agent {agent} <- {command:?} -> {:?}", decision.effects),
            ),
            Err(refusal) => self.trace.note(
                self.now,
                format_args!("agent {agent} <- {command:?} refused: {refusal}"),
            ),
        }
        let verdict = match decided {
            Err(refusal) => {
                let after = shell.machine.policy().record();
                let verdict = ensure(before == *after, "bad input changes nothing", || {
                    format!("{command:?} was refused ({refusal}) and changed the policy")
                });
                verdict.and_then(|()| {
                    let seat = &mut self.seats[agent];
                    seat.table.refused(&command, &refusal, &mut self.edges)
                })
            }
            Ok(decision) => {
                let events: Vec<_> = decision
                    .events
                    .into_iter()
                    .map(|event| (event, Some(self.ids[agent].clone()), None))
                    .collect();
                let changed = !events.is_empty();
                let mut headers = Vec::new();
                if changed {
                    let kept = self.append(Part::Agent(agent), &mut shell.owned, &events)?;
                    let Some(kept) = kept else {
                        return Ok(());
                    };
                    headers = kept;
                }
                for (header, (event, ..)) in headers.iter().zip(&events) {
                    self.apply_agent_event(&mut shell, header, event)?;
                }
                let seat = &mut self.seats[agent];
                let verdict = seat.table.decided(
                    now,
                    (&command, looked),
                    &decision.effects,
                    (&shell.machine, &shell.owned.state),
                    &mut self.edges,
                );
                let verdict = verdict.and_then(|()| {
                    self.starts.decided(
                        (agent, now),
                        (&command, looked),
                        &decision.effects,
                        &shell.machine,
                        (&shell.owned.state, &seat.table),
                    )
                });
                if changed {
                    seat.remember(shell.owned.last(), durable);
                }
                let mut effects = Vec::new();
                if changed {
                    effects.push(Released::Publish(Arc::new(shell.owned.state.clone())));
                }
                effects.extend(decision.effects.into_iter().map(Released::Effect));
                shell.owned.after_last(effects);
                verdict
            }
        };
        self.seats[agent].shell = Some(shell);
        verdict?;
        self.release_agent(agent)
    }

    fn apply_agent_event(
        &mut self,
        shell: &mut Shell,
        header: &mesh_messages::RecordHeader,
        event: &AgentEvent,
    ) -> Verdict {
        let state = &mut shell.owned.state;
        let (from, alone) = (state.stage(), state.instances.len() <= 1);
        state.apply(header, event);
        let to = state.stage();
        crate::checkers::instances::check_stage((from, to), event, alone, &mut self.edges)
    }

    /// Does what is on the disk.
    pub(crate) fn release_agent(&mut self, agent: usize) -> Verdict {
        let durable = self.log.durable;
        let Some(shell) = self.seats.get_mut(agent).and_then(|s| s.shell.as_mut()) else {
            return Ok(());
        };
        for released in shell.owned.released(durable) {
            match released {
                Released::Publish(state) => self.publish(agent, state),
                Released::Effect(effect) => self.agent_effect(agent, effect)?,
            }
        }
        Ok(())
    }

    fn publish(&mut self, agent: usize, state: Arc<AgentState>) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(agent) else {
            return;
        };
        let isolated = state.fault_state() == FaultState::Quarantined;
        seat.isolated_since = isolated.then(|| seat.isolated_since.unwrap_or(now));
        seat.published = state;
        self.announce(agent);
    }

    /// Tells the task machine how an agent is.
    pub(crate) fn announce(&mut self, agent: usize) {
        let seat = &self.seats[agent];
        let change = FleetChange::Agent(seat.id.clone(), Box::new(seat.fleet()));
        let message = ToOrchestrator::Fleet { agent, change };
        self.send_orchestrator(agent as u64, message);
    }

    /// What holds for every agent at any time.
    pub(crate) fn audit_agents(&mut self) -> Verdict {
        for (agent, seat) in self.seats.iter().enumerate() {
            let Some(shell) = &seat.shell else { continue };
            crate::checkers::instances::check_waits(agent, shell, seat)?;
            ensure(
                shell.owned.waiting() < 2000,
                "every queue is bounded: effects that wait for the disk",
                || format!("{} of agent {agent}", shell.owned.waiting()),
            )?;
        }
        Ok(())
    }
}
