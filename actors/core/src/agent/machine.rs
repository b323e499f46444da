//! What an agent's actor does next: orders, starts, ends and timers in; events and effects out. Pure.
//!
//! The durable side is [`AgentState`]; here is only what a restart of the actor may forget: the fault policy (restored
//! from its record), which instances were told to stop, the task on trial, an upgrade under way, and which replicas
//! rest because they ended too often without anybody's fault.
//!
//! An instance is started for one of these reasons only: the fault policy says so (an order, a timer, a boot), a
//! replica was added, it was told to stop for a restart or an upgrade, or it ended as nobody's failure, which has a
//! limit of its own (`machine/instances.rs`).

use std::collections::BTreeMap;

use mesh_messages::agent::{Lifecycle, SandboxView};
use mesh_messages::events::AgentEvent;
use mesh_messages::{AgentId, Epoch, Failure, FailureClass, InstanceNo, TaskId, Timestamp};
use mesh_supervision_core::fault::{
    Admission, FaultConfig, FaultConfigError, FaultEffect, FaultInput, FaultPolicy, FaultRecord,
    FaultRefusal, FaultState, Order, TaskEnd, Timer, Token,
};

use super::AgentState;
use super::command::{AgentCommand, AgentEffect, AgentRefusal, Decision, StopKind};
use super::fault::{self, core_time, kind_in, quarantine_of, severity_in, to_stored, told, view};

mod handover;
mod instances;
mod turn;
mod upgrade;

use instances::Rest;
use turn::Turn;
use upgrade::Upgrade;

/// What the agent's surroundings say when it decides.
pub struct Around<'a> {
    /// What would be enforced around a version.
    pub sandbox: &'a dyn Fn(&str) -> Option<SandboxView>,
    /// Whether an agent that it needs is not there yet: then no instance is started, whatever wants it.
    pub lacks: bool,
}

impl std::fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around")
            .field("lacks", &self.lacks)
            .finish_non_exhaustive()
    }
}

/// The one task of a trial.
#[derive(Debug)]
struct Trial {
    task: TaskId,
    /// The incarnation that has it.
    epoch: Epoch,
    token: Token,
}

/// What of an agent a restart of its actor may forget.
#[derive(Debug)]
pub struct AgentMachine {
    id: AgentId,
    policy: FaultPolicy,
    stopping: BTreeMap<InstanceNo, Epoch>,
    /// Those of them that were asked for their state and have not answered.
    handing: BTreeMap<InstanceNo, Epoch>,
    rests: BTreeMap<InstanceNo, Rest>,
    trial: Option<Trial>,
    upgrade: Option<Upgrade>,
    closing: bool,
}

impl AgentMachine {
    /// The machine of an agent with this durable state. Follow with [`AgentCommand::Boot`].
    ///
    /// # Errors
    /// When the configuration is not sound.
    pub fn new(id: AgentId, config: FaultConfig, now: Timestamp) -> Result<Self, FaultConfigError> {
        let policy = FaultPolicy::new(config, core_time(now))?;
        Ok(Self {
            id,
            policy,
            stopping: BTreeMap::new(),
            handing: BTreeMap::new(),
            rests: BTreeMap::new(),
            trial: None,
            upgrade: None,
            closing: false,
        })
    }

    /// The fault policy.
    pub fn policy(&self) -> &FaultPolicy {
        &self.policy
    }

    /// Decides.
    ///
    /// # Errors
    /// [`AgentRefusal`]; nothing changed.
    pub fn step(
        &mut self,
        state: &AgentState,
        now: Timestamp,
        random: u64,
        around: &Around<'_>,
        command: AgentCommand,
    ) -> Result<Decision, AgentRefusal> {
        let mut turn = Turn {
            state,
            now,
            random,
            around,
            instances: state
                .instances
                .iter()
                .map(|(no, i)| (*no, (i.epoch, i.stage)))
                .collect(),
            replicas: state.replicas,
            epoch: state.epoch,
            inputs: Vec::new(),
            out: Decision::default(),
        };
        let stored = (command == AgentCommand::Boot)
            .then(|| stored(state))
            .flatten();
        let before = stored.unwrap_or_else(|| self.policy.record().clone());
        self.command(&mut turn, command)?;
        if *self.policy.record() != before {
            self.note_policy(&mut turn, &before);
        }
        turn.audit();
        Ok(turn.out)
    }

    fn command(&mut self, turn: &mut Turn<'_>, command: AgentCommand) -> Result<(), AgentRefusal> {
        match command {
            AgentCommand::Boot => self.boot(turn),
            AgentCommand::Start => {
                self.order(turn, Order::Start)?;
                turn.desire(true, turn.state.paused);
            }
            // What has no version yet has nothing to stop and nothing to end.
            AgentCommand::Stop | AgentCommand::Terminate { .. } if turn.state.current.is_none() => {
            }
            AgentCommand::Stop => {
                self.order(turn, Order::Stop)?;
                self.abandon_upgrade(turn, "it was stopped");
                turn.desire(false, turn.state.paused);
            }
            AgentCommand::Restart => self.order(turn, Order::Restart)?,
            AgentCommand::Pause => {
                self.not_in_quarantine("pause")?;
                turn.must_be_executing(&self.id, Lifecycle::Executing)?;
                turn.desire(turn.state.running, true);
                turn.out.effects.push(AgentEffect::Paused(true));
            }
            AgentCommand::Resume => {
                self.order(turn, Order::Resume)?;
                turn.desire(turn.state.running, false);
                turn.out.effects.push(AgentEffect::Paused(false));
            }
            AgentCommand::Quarantine {
                kind,
                severity,
                description,
            } => {
                let order = Order::Quarantine {
                    kind: kind_in(kind),
                    severity: severity_in(severity),
                    description,
                };
                self.order(turn, order)?;
            }
            AgentCommand::Recover { force } => self.order(turn, Order::Recover { force })?,
            AgentCommand::Terminate { reason } => self.terminate(turn, reason)?,
            AgentCommand::Scale { replicas } => self.scale(turn, replicas)?,
            AgentCommand::Upgrade {
                target,
                forceful,
                rollback,
                kind,
            } => {
                self.begin_upgrade(turn, target.as_deref(), forceful, rollback, kind)?;
            }
            AgentCommand::Handshaken {
                instance,
                epoch,
                hooks,
                proven,
            } => self.handshaken(turn, (instance, epoch), hooks, proven),
            AgentCommand::Ready { instance, epoch } => self.ready(turn, instance, epoch),
            AgentCommand::Up {
                instance,
                epoch,
                hooks,
                proven,
            } => {
                self.handshaken(turn, (instance, epoch), hooks, proven);
                self.ready(turn, instance, epoch);
            }
            AgentCommand::Saved {
                instance,
                epoch,
                answer,
            } => self.saved(turn, (instance, epoch), answer),
            AgentCommand::Ended {
                instance,
                epoch,
                failure,
            } => self.ended(turn, instance, epoch, failure),
            AgentCommand::Timer { token } => {
                let token = Token(token);
                self.feed(turn, FaultInput::Timer { token });
            }
            AgentCommand::Rested => self.rested(turn),
            AgentCommand::NeedsChanged => {
                if self.policy.record().state.is_started() {
                    self.fill(turn);
                }
            }
            AgentCommand::Offered { task, epoch } => self.offered(turn, task, epoch),
            AgentCommand::AttemptEnded { task, ok } => {
                if let Some(trial) = self.trial.take_if(|trial| trial.task == task) {
                    let end = if ok { TaskEnd::Ok } else { TaskEnd::Unscored };
                    let token = trial.token;
                    self.feed(turn, FaultInput::TaskEnded { token, end });
                }
            }
            AgentCommand::Refund { failures } => self.feed(turn, FaultInput::Refund { failures }),
            AgentCommand::Configure(config) => self.feed(turn, FaultInput::Configure(*config)),
            AgentCommand::Close => {
                self.closing = true;
                self.stop_all(turn, StopKind::Drain);
            }
        }
        Ok(())
    }

    fn terminate(&mut self, turn: &mut Turn<'_>, reason: String) -> Result<(), AgentRefusal> {
        self.order(turn, Order::Terminate)?;
        self.abandon_upgrade(turn, "it was terminated");
        if turn.state.stage() < Lifecycle::Terminated {
            turn.out.events.push(AgentEvent::Terminated { reason });
            turn.out.effects.push(AgentEffect::Isolate);
        }
        Ok(())
    }

    /// What ran in an earlier life was lost with it; the policy says what runs now.
    fn boot(&mut self, turn: &mut Turn<'_>) {
        for (instance, (epoch, _)) in std::mem::take(&mut turn.instances) {
            let failure = Failure::new(FailureClass::Lost, "meshd ended under it");
            turn.out.events.push(AgentEvent::InstanceFailed {
                instance,
                epoch,
                failure: failure.clone(),
            });
            turn.out.effects.push(AgentEffect::Down {
                instance,
                epoch,
                failure,
            });
        }
        if turn.state.stage() == Lifecycle::Upgrading {
            turn.lifecycle(Lifecycle::Upgrading, Lifecycle::Registered);
            let error =
                Some("its actor was restarted meanwhile; the old version is back".to_owned());
            turn.out.effects.push(AgentEffect::UpgradeDone { error });
        }
        let Some(record) = stored(turn.state) else {
            return;
        };
        let mut effects = Vec::new();
        let config = self.policy.config().clone();
        turn.inputs.push("restore".to_owned());
        // The configuration was sound when this machine was made.
        if let Ok(policy) = FaultPolicy::restore(record, config, core_time(turn.now), &mut effects)
        {
            self.policy = policy;
            self.perform(turn, effects);
        }
    }

    fn order(&mut self, turn: &mut Turn<'_>, order: Order) -> Result<(), AgentRefusal> {
        turn.version(&self.id)?;
        let name = order.name();
        let mut effects = Vec::new();
        turn.inputs.push(told(&FaultInput::Order(order.clone())));
        self.policy
            .step(
                core_time(turn.now),
                turn.random,
                FaultInput::Order(order),
                &mut effects,
            )
            .map_err(|source| AgentRefusal::Policy {
                agent: self.id.clone(),
                order: name,
                source,
            })?;
        self.perform(turn, effects);
        Ok(())
    }

    /// Only recovery leads out of quarantine, whatever else is wanted.
    fn not_in_quarantine(&self, order: &'static str) -> Result<(), AgentRefusal> {
        if self.policy.record().state == FaultState::Quarantined {
            let (agent, source) = (self.id.clone(), FaultRefusal::Quarantined);
            return Err(AgentRefusal::Policy {
                agent,
                order,
                source,
            });
        }
        Ok(())
    }

    fn feed(&mut self, turn: &mut Turn<'_>, input: FaultInput) {
        let mut effects = Vec::new();
        turn.inputs.push(told(&input));
        // Only orders and unsound configurations are refused; nothing changes then.
        if let Ok(()) = self
            .policy
            .step(core_time(turn.now), turn.random, input, &mut effects)
        {
            self.perform(turn, effects);
        }
    }

    fn perform(&mut self, turn: &mut Turn<'_>, effects: Vec<FaultEffect>) {
        for effect in effects {
            match effect {
                FaultEffect::Start { .. } => {
                    self.wake();
                    self.fill(turn);
                }
                // What is told to stop comes back when it has ended, because the policy still wants it.
                FaultEffect::Restart { .. } => {
                    self.hand_over_all(turn);
                    self.wake();
                    self.fill(turn);
                }
                FaultEffect::Stop => self.stop_all(turn, StopKind::Drain),
                FaultEffect::Isolate { .. } => {
                    self.trial = None;
                    self.abandon_upgrade(turn, "it was quarantined");
                    self.stop_all(turn, StopKind::Kill);
                    turn.out.effects.push(AgentEffect::Isolate);
                }
                FaultEffect::Arm(Timer { token, at }) => {
                    turn.out.effects.push(AgentEffect::Arm {
                        token: token.0,
                        at: fault::mesh_time(at),
                    });
                }
                FaultEffect::Disarm => turn.out.effects.push(AgentEffect::Disarm),
                FaultEffect::Recovered { .. } => {
                    turn.out.events.push(AgentEvent::ProbationPassed {
                        score: turn.state.fault.as_ref().map_or(0, |f| f.score),
                    });
                    turn.out.effects.push(AgentEffect::Release);
                }
                // The record before says that it was a refund; the way out is the same.
                FaultEffect::Acquitted => {
                    let score = self.policy.record().score;
                    turn.out.events.push(AgentEvent::Recovered {
                        score,
                        on_trial: false,
                    });
                    turn.out.effects.push(AgentEffect::Release);
                }
                FaultEffect::Escalate { reason } => {
                    turn.out.effects.push(AgentEffect::Escalate {
                        reason: reason.description,
                    });
                }
                // The events say it all.
                FaultEffect::Transition { .. }
                | FaultEffect::Resume
                | FaultEffect::Settled
                | FaultEffect::Admission(_) => {}
            }
        }
    }

    /// Asks the policy about an attempt. One whose incarnation is gone or going is none of the policy's business.
    fn offered(&mut self, turn: &mut Turn<'_>, task: TaskId, epoch: Epoch) {
        let decline = |reason: String| AgentEffect::Decline { reason };
        let there = turn
            .instances
            .iter()
            .any(|(no, (e, _))| *e == epoch && !self.is_stopping(*no, epoch));
        if !there {
            let reason = "the instance is gone, or about to be".to_owned();
            return turn.out.effects.push(decline(reason));
        }
        let mut effects = Vec::new();
        let now = core_time(turn.now);
        turn.inputs.push(told(&FaultInput::TaskOffered));
        // Offers are answered, never refused.
        let _never_refused =
            self.policy
                .step(now, turn.random, FaultInput::TaskOffered, &mut effects);
        let mut answer = decline("its fault policy gave no answer".to_owned());
        for effect in &effects {
            if let FaultEffect::Admission(admission) = effect {
                answer = match *admission {
                    Admission::Granted => AgentEffect::Deliver,
                    Admission::Probe { token } => {
                        let task = task.clone();
                        self.trial = Some(Trial { task, epoch, token });
                        AgentEffect::Deliver
                    }
                    Admission::Parked { .. } => decline("the agent takes no task now".to_owned()),
                    Admission::Refused { state } => decline(format!("the agent is {state}")),
                };
            }
        }
        self.perform(turn, effects);
        turn.out.effects.push(answer);
    }

    /// Journals where the policy stands now, and that it entered quarantine, or left it, if it did.
    fn note_policy(&self, turn: &mut Turn<'_>, before: &FaultRecord) {
        let record = self.policy.record();
        let digest = turn.state.version().map_or("", |v| v.digest.as_str());
        if record.state == FaultState::Quarantined
            && (before.state != FaultState::Quarantined || before.quarantine != record.quarantine)
            && let Some(record) = quarantine_of(&self.id, record, digest)
        {
            turn.out.events.push(AgentEvent::Quarantined { record });
        }
        if (before.state, record.state) == (FaultState::Quarantined, FaultState::Recovering) {
            // Before what it starts.
            let recovered = AgentEvent::Recovered {
                score: record.score,
                on_trial: true,
            };
            turn.out.events.insert(0, recovered);
        }
        // First of all: whoever replays must know where the policy stood before what it led to.
        turn.out.events.insert(
            0,
            AgentEvent::FaultChanged {
                view: view(&self.id, record, self.policy.config(), digest, turn.now),
                record: to_stored(record),
                decision: Some(Box::new(fault::decision(
                    (before.state, record.state),
                    std::mem::take(&mut turn.inputs),
                    self.policy.config(),
                    (turn.now, turn.random),
                ))),
            },
        );
    }
}

/// Where the policy stood when the state was last written.
fn stored(state: &AgentState) -> Option<FaultRecord> {
    state.fault_record.as_ref().and_then(fault::from_stored)
}
