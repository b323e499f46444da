//! What an agent's actor does next: orders, starts, ends and timers in; events and effects out. Pure.
//!
//! The durable side is [`AgentState`]; here is only what a restart of the actor may forget: the fault policy (restored
//! from its record), which instances were told to stop, the task on trial, and an upgrade under way.

use std::collections::BTreeMap;

use mesh_messages::agent::{Lifecycle, QuarantineKind, SandboxView};
use mesh_messages::events::AgentEvent;
use mesh_messages::{
    AgentId, Epoch, Failure, FailureClass, InstanceNo, Severity, TaskId, Timestamp,
};
use mesh_supervision_core::fault::{
    Admission, FaultConfig, FaultConfigError, FaultEffect, FaultInput, FaultPolicy, FaultRefusal,
    Order, TaskEnd, Timer, Token,
};

use super::fault::{core_time, failure_in, kind_in, quarantine_of, severity_in, to_stored, view};
use super::{AgentState, VersionRefusal, fault, pick_rollback, pick_upgrade};

/// Everything that can happen to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentCommand {
    /// The actor has just started: what ran in an earlier life is gone.
    Boot,
    /// Run it.
    Start,
    /// Stop it in order.
    Stop,
    /// Stop and start it.
    Restart,
    /// Give it no work.
    Pause,
    /// Give it work again.
    Resume,
    /// Isolate it.
    Quarantine {
        /// The kind of cause.
        kind: QuarantineKind,
        /// How bad.
        severity: Severity,
        /// In words.
        description: String,
    },
    /// Bring it back from quarantine.
    Recover {
        /// Also when exhausted.
        force: bool,
    },
    /// End it for good.
    Terminate {
        /// Why.
        reason: String,
    },
    /// Change the number of replicas.
    Scale {
        /// How many.
        replicas: u32,
    },
    /// Exchange its version.
    Upgrade {
        /// To which.
        target: Option<String>,
        /// Also to an older one.
        forceful: bool,
        /// Back, rather than on.
        rollback: bool,
        /// How, for the record: `soft`, `hard`, `rollback`.
        kind: String,
    },
    /// An instance shook hands.
    Handshaken {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// Its hooks.
        hooks: Vec<String>,
    },
    /// An instance serves.
    Ready {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
    },
    /// An instance ended.
    Ended {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// How; `None` when it ended as it was told.
        failure: Option<Failure>,
    },
    /// The fault policy's timer is due.
    Timer {
        /// Which arming.
        token: u64,
    },
    /// An attempt is to be delivered while it is on trial.
    Offered {
        /// The task.
        task: TaskId,
    },
    /// An attempt that was delivered to it has ended, not by a scored failure.
    AttemptEnded {
        /// The task.
        task: TaskId,
        /// Whether it succeeded.
        ok: bool,
    },
    /// Scored failures turned out to be the fault of a task.
    Refund {
        /// How many.
        failures: u32,
    },
    /// The policy in force has changed.
    Configure(Box<FaultConfig>),
    /// meshd is about to end: instances stop in order, nothing is started any more, nothing counts.
    Close,
}

/// What must be done once the events are durable.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEffect {
    /// Start an instance.
    Spawn {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// The version to run.
        version: String,
        /// The version before, when this start is an upgrade.
        upgraded_from: Option<String>,
    },
    /// Stop an instance.
    Stop {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// At once, or after its work.
        how: StopKind,
    },
    /// Tell the instances that they get no work for now, or get it again.
    Paused(bool),
    /// Tell the task machine that an incarnation is gone, and why.
    Down {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What its attempts ended with.
        failure: Failure,
    },
    /// Call back at the given time, instead of any earlier call.
    Arm {
        /// Which arming.
        token: u64,
        /// When.
        at: Timestamp,
    },
    /// Forget the call.
    Disarm,
    /// Deliver the offered attempt.
    Deliver,
    /// Refuse the offered attempt.
    Decline {
        /// Why.
        reason: String,
    },
    /// Revoke its tokens, hold its mail.
    Isolate,
    /// Its mail may flow again.
    Release,
    /// Seal its persistent memory, drop the rest.
    Seal,
    /// The parent has failed, too.
    Escalate {
        /// Why.
        reason: String,
    },
    /// An upgrade is over.
    UpgradeDone {
        /// Whether the new version runs.
        error: Option<String>,
    },
}

/// How an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// It finishes its work within the drain limit, then its hook, then its end.
    Drain,
    /// Its whole tree is killed now.
    Kill,
}

/// Why a command was not carried out. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentRefusal {
    /// The fault policy says no.
    #[error("agent {agent} cannot be ordered to {order}: {source}")]
    Policy {
        /// Who.
        agent: AgentId,
        /// What was wanted.
        order: &'static str,
        /// Why not.
        source: FaultRefusal,
    },
    /// The version says no.
    #[error(transparent)]
    Version(#[from] VersionRefusal),
    /// An upgrade is under way.
    #[error("agent {0} is being upgraded; wait for the end")]
    Upgrading(AgentId),
    /// No version is registered.
    #[error("agent {0} has no registered version")]
    NoVersion(AgentId),
    /// It is not running, so there is nothing to pause or upgrade in place.
    #[error("agent {agent} is {from}; it cannot become {to}")]
    Illegal {
        /// Who.
        agent: AgentId,
        /// Its stage.
        from: Lifecycle,
        /// The stage asked for.
        to: Lifecycle,
    },
}

/// What a command led to.
#[derive(Debug, Default)]
pub struct Decision {
    /// What happened.
    pub events: Vec<AgentEvent>,
    /// What follows when it is durable.
    pub effects: Vec<AgentEffect>,
}

#[derive(Debug, Clone)]
struct Upgrade {
    from: String,
    to: String,
    kind: String,
    /// The new version has been started; its end decides.
    started: bool,
}

/// What of an agent a restart of its actor may forget.
#[derive(Debug)]
pub struct AgentMachine {
    id: AgentId,
    policy: FaultPolicy,
    stopping: BTreeMap<InstanceNo, Epoch>,
    trial: Option<(TaskId, Token)>,
    upgrade: Option<Upgrade>,
    closing: bool,
}

/// One command at work: the state as its events will leave it.
struct Turn<'a> {
    state: &'a AgentState,
    now: Timestamp,
    sandbox: &'a dyn Fn(&str) -> Option<SandboxView>,
    instances: BTreeMap<InstanceNo, (Epoch, Lifecycle)>,
    replicas: u32,
    epoch: Epoch,
    out: Decision,
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
            trial: None,
            upgrade: None,
            closing: false,
        })
    }

    /// The fault policy.
    pub fn policy(&self) -> &FaultPolicy {
        &self.policy
    }

    /// Whether an upgrade is under way.
    pub fn is_upgrading(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Whether this incarnation was told to stop.
    pub fn is_stopping(&self, instance: InstanceNo, epoch: Epoch) -> bool {
        self.stopping.get(&instance) == Some(&epoch)
    }

    /// Decides. `sandbox` tells what would be enforced around a version.
    ///
    /// # Errors
    /// [`AgentRefusal`]; nothing changed.
    pub fn step(
        &mut self,
        state: &AgentState,
        now: Timestamp,
        random: u64,
        sandbox: &dyn Fn(&str) -> Option<SandboxView>,
        command: AgentCommand,
    ) -> Result<Decision, AgentRefusal> {
        let mut turn = Turn {
            state,
            now,
            sandbox,
            instances: state
                .instances
                .iter()
                .map(|(no, i)| (*no, (i.epoch, i.stage)))
                .collect(),
            replicas: state.replicas,
            epoch: state.epoch,
            out: Decision::default(),
        };
        let before = self.policy.record().clone();
        self.command(&mut turn, random, command)?;
        if *self.policy.record() != before {
            self.note_policy(&mut turn, &before);
        }
        Ok(turn.out)
    }

    #[expect(clippy::too_many_lines, reason = "one short arm for each command")]
    fn command(
        &mut self,
        turn: &mut Turn<'_>,
        random: u64,
        command: AgentCommand,
    ) -> Result<(), AgentRefusal> {
        match command {
            AgentCommand::Boot => self.boot(turn),
            AgentCommand::Start => {
                turn.version(&self.id)?;
                self.order(turn, random, Order::Start)?;
                turn.desire(true, turn.state.paused);
            }
            AgentCommand::Stop => {
                self.order(turn, random, Order::Stop)?;
                self.abandon_upgrade(turn, "it was stopped");
                turn.desire(false, turn.state.paused);
            }
            AgentCommand::Restart => self.order(turn, random, Order::Restart)?,
            AgentCommand::Pause => {
                if turn.state.stage() != Lifecycle::Executing {
                    let (from, to) = (turn.state.stage(), Lifecycle::Executing);
                    return Err(AgentRefusal::Illegal {
                        agent: self.id.clone(),
                        from,
                        to,
                    });
                }
                turn.desire(turn.state.running, true);
                turn.out.effects.push(AgentEffect::Paused(true));
            }
            AgentCommand::Resume => {
                self.order(turn, random, Order::Resume)?;
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
                self.order(turn, random, order)?;
            }
            AgentCommand::Recover { force } => {
                self.order(turn, random, Order::Recover { force })?;
            }
            AgentCommand::Terminate { reason } => {
                self.order(turn, random, Order::Terminate)?;
                self.abandon_upgrade(turn, "it was terminated");
                if turn.state.stage() < Lifecycle::Terminated {
                    turn.out.events.push(AgentEvent::Terminated { reason });
                    let records = turn.state.records + turn.out.events.len() as u64 + 1;
                    turn.out.events.push(AgentEvent::Audited { records });
                    turn.out.effects.push(AgentEffect::Isolate);
                    turn.out.effects.push(AgentEffect::Seal);
                }
            }
            AgentCommand::Scale { replicas } => self.scale(turn, replicas),
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
            } => {
                if turn.is_current(instance, epoch) {
                    turn.instances
                        .insert(instance, (epoch, Lifecycle::Handshaken));
                    turn.out.events.push(AgentEvent::Handshaken {
                        instance,
                        epoch,
                        hooks,
                    });
                }
            }
            AgentCommand::Ready { instance, epoch } => self.ready(turn, random, instance, epoch),
            AgentCommand::Ended {
                instance,
                epoch,
                failure,
            } => {
                self.ended(turn, random, instance, epoch, failure);
            }
            AgentCommand::Timer { token } => {
                self.feed(
                    turn,
                    random,
                    FaultInput::Timer {
                        token: Token(token),
                    },
                );
            }
            AgentCommand::Offered { task } => self.offered(turn, random, &task),
            AgentCommand::AttemptEnded { task, ok } => {
                if let Some((_, token)) = self.trial.take_if(|(on_trial, _)| *on_trial == task) {
                    let end = if ok { TaskEnd::Ok } else { TaskEnd::Unscored };
                    self.feed(turn, random, FaultInput::TaskEnded { token, end });
                }
            }
            AgentCommand::Refund { failures } => {
                self.feed(turn, random, FaultInput::Refund { failures });
            }
            AgentCommand::Configure(config) => {
                self.feed(turn, random, FaultInput::Configure(*config));
            }
            AgentCommand::Close => {
                self.closing = true;
                self.stop_all(turn, StopKind::Drain);
            }
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
            turn.out.events.push(AgentEvent::LifecycleChanged {
                from: Lifecycle::Upgrading,
                to: Lifecycle::Registered,
            });
        }
        let stored = turn
            .state
            .fault_record
            .as_ref()
            .and_then(fault::from_stored);
        if let Some(record) = stored {
            let mut effects = Vec::new();
            let config = self.policy.config().clone();
            // The configuration was sound when this machine was made.
            if let Ok(policy) =
                FaultPolicy::restore(record, config, core_time(turn.now), &mut effects)
            {
                self.policy = policy;
                self.perform(turn, effects);
            }
        }
    }

    fn order(
        &mut self,
        turn: &mut Turn<'_>,
        random: u64,
        order: Order,
    ) -> Result<(), AgentRefusal> {
        let name = order.name();
        let mut effects = Vec::new();
        self.policy
            .step(
                core_time(turn.now),
                random,
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

    fn feed(&mut self, turn: &mut Turn<'_>, random: u64, input: FaultInput) {
        let mut effects = Vec::new();
        // Only orders are refused.
        let _never_refused = self
            .policy
            .step(core_time(turn.now), random, input, &mut effects);
        self.perform(turn, effects);
    }

    fn perform(&mut self, turn: &mut Turn<'_>, effects: Vec<FaultEffect>) {
        for effect in effects {
            match effect {
                FaultEffect::Start { .. } => self.fill(turn),
                // What is told to stop comes back when it has ended, because the policy still wants it.
                FaultEffect::Restart { .. } => {
                    self.stop_all(turn, StopKind::Drain);
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
                    turn.out.events.push(AgentEvent::Recovered {
                        score: turn.state.fault.as_ref().map_or(0, |f| f.score),
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

    /// Starts every wanted instance that is not there.
    fn fill(&mut self, turn: &mut Turn<'_>) {
        let Some(current) = turn.state.current.clone() else {
            return;
        };
        let (version, upgraded_from) = match &mut self.upgrade {
            Some(upgrade) => {
                upgrade.started = true;
                (upgrade.to.clone(), Some(upgrade.from.clone()))
            }
            None => (current, None),
        };
        for no in 0..turn.replicas {
            let instance = InstanceNo(no);
            if turn.instances.contains_key(&instance) {
                continue;
            }
            let epoch = turn.epoch.next();
            turn.epoch = epoch;
            turn.instances
                .insert(instance, (epoch, Lifecycle::Activated));
            self.stopping.remove(&instance);
            turn.out.events.push(AgentEvent::Activated {
                instance,
                epoch,
                version: version.clone(),
                sandbox: (turn.sandbox)(&version),
            });
            turn.out.effects.push(AgentEffect::Spawn {
                instance,
                epoch,
                version: version.clone(),
                upgraded_from: upgraded_from.clone(),
            });
        }
    }

    fn stop_all(&mut self, turn: &mut Turn<'_>, how: StopKind) {
        let all: Vec<_> = turn
            .instances
            .iter()
            .map(|(no, (epoch, _))| (*no, *epoch))
            .collect();
        for (instance, epoch) in all {
            self.stop_one(turn, instance, epoch, how);
        }
    }

    fn stop_one(&mut self, turn: &mut Turn<'_>, instance: InstanceNo, epoch: Epoch, how: StopKind) {
        self.stopping.insert(instance, epoch);
        turn.out.effects.push(AgentEffect::Stop {
            instance,
            epoch,
            how,
        });
    }

    fn scale(&mut self, turn: &mut Turn<'_>, replicas: u32) {
        turn.replicas = replicas;
        turn.desire(turn.state.running, turn.state.paused);
        let surplus: Vec<_> = turn
            .instances
            .iter()
            .filter(|(no, _)| no.0 >= replicas)
            .map(|(no, (e, _))| (*no, *e))
            .collect();
        for (instance, epoch) in surplus {
            self.stop_one(turn, instance, epoch, StopKind::Drain);
        }
        if self.policy.record().state.is_started() && self.upgrade.is_none() {
            self.fill(turn);
        }
    }

    fn ready(&mut self, turn: &mut Turn<'_>, random: u64, instance: InstanceNo, epoch: Epoch) {
        if !turn.is_current(instance, epoch) {
            return;
        }
        turn.instances
            .insert(instance, (epoch, Lifecycle::Executing));
        turn.out
            .events
            .push(AgentEvent::Started { instance, epoch });
        if turn
            .instances
            .values()
            .any(|(_, stage)| *stage != Lifecycle::Executing)
        {
            return;
        }
        let start = self.policy.record().epoch;
        self.feed(turn, random, FaultInput::Up { epoch: start });
        if let Some(upgrade) = self.upgrade.take_if(|u| u.started) {
            turn.out.events.push(AgentEvent::Upgraded {
                from: upgrade.from,
                to: upgrade.to,
                kind: upgrade.kind,
                success: true,
                error: None,
            });
            turn.lifecycle(Lifecycle::Upgrading, Lifecycle::Executing);
            turn.out
                .effects
                .push(AgentEffect::UpgradeDone { error: None });
        }
    }

    fn ended(
        &mut self,
        turn: &mut Turn<'_>,
        random: u64,
        instance: InstanceNo,
        epoch: Epoch,
        failure: Option<Failure>,
    ) {
        if !turn.is_current(instance, epoch) {
            return;
        }
        let told = self.stopping.remove(&instance) == Some(epoch);
        turn.instances.remove(&instance);
        // Whatever happens to what was told to stop is the end it was told to have.
        let failure = if told || self.closing { None } else { failure };
        let (event, down) = match &failure {
            None => (
                AgentEvent::InstanceStopped {
                    instance,
                    epoch,
                    reason: "as ordered".to_owned(),
                },
                Failure::new(FailureClass::Lost, "its instance was stopped"),
            ),
            Some(failure) => (
                AgentEvent::InstanceFailed {
                    instance,
                    epoch,
                    failure: failure.clone(),
                },
                failure.clone(),
            ),
        };
        turn.out.events.push(event);
        turn.out.effects.push(AgentEffect::Down {
            instance,
            epoch,
            failure: down,
        });
        match failure {
            Some(failure) if self.upgrade.as_ref().is_some_and(|u| u.started) => {
                self.fail_upgrade(turn, &failure.to_string());
            }
            Some(failure) if failure.class.is_scored() => {
                self.trial = None;
                self.feed(turn, random, FaultInput::Failure(failure_in(&failure)));
            }
            _ => {}
        }
        // Nobody's failure: what the policy wants running is started again at once.
        if !self.closing
            && self.policy.record().state.is_started()
            && (self.upgrade.is_none() || turn.instances.is_empty())
        {
            self.fill(turn);
        }
    }

    fn offered(&mut self, turn: &mut Turn<'_>, random: u64, task: &TaskId) {
        let mut effects = Vec::new();
        // Offers are answered, never refused.
        let _never_refused = self.policy.step(
            core_time(turn.now),
            random,
            FaultInput::TaskOffered,
            &mut effects,
        );
        let mut answer = AgentEffect::Decline {
            reason: "its fault policy gave no answer".to_owned(),
        };
        for effect in &effects {
            if let FaultEffect::Admission(admission) = effect {
                answer = match admission {
                    Admission::Granted => AgentEffect::Deliver,
                    Admission::Probe { token } => {
                        self.trial = Some((task.clone(), *token));
                        AgentEffect::Deliver
                    }
                    Admission::Parked { .. } => AgentEffect::Decline {
                        reason: "the agent takes no task now".to_owned(),
                    },
                    Admission::Refused { state } => AgentEffect::Decline {
                        reason: format!("the agent is {state}"),
                    },
                };
            }
        }
        self.perform(turn, effects);
        turn.out.effects.push(answer);
    }

    fn begin_upgrade(
        &mut self,
        turn: &mut Turn<'_>,
        target: Option<&str>,
        forceful: bool,
        rollback: bool,
        kind: String,
    ) -> Result<(), AgentRefusal> {
        if self.upgrade.is_some() {
            return Err(AgentRefusal::Upgrading(self.id.clone()));
        }
        let from = turn.version(&self.id)?;
        let to = if rollback {
            pick_rollback(turn.state, target)?
        } else {
            pick_upgrade(turn.state, target, forceful)?
        };
        let state = self.policy.record().state;
        if state == mesh_supervision_core::fault::FaultState::Stopped {
            // Nothing runs, so nothing can fail: the next start runs it.
            turn.out.events.push(AgentEvent::Upgraded {
                from,
                to,
                kind,
                success: true,
                error: None,
            });
            turn.out
                .effects
                .push(AgentEffect::UpgradeDone { error: None });
            return Ok(());
        }
        if turn.state.stage() != Lifecycle::Executing {
            let (from, to) = (turn.state.stage(), Lifecycle::Upgrading);
            return Err(AgentRefusal::Illegal {
                agent: self.id.clone(),
                from,
                to,
            });
        }
        turn.lifecycle(Lifecycle::Executing, Lifecycle::Upgrading);
        self.upgrade = Some(Upgrade {
            from,
            to,
            kind,
            started: false,
        });
        self.stop_all(turn, StopKind::Drain);
        Ok(())
    }

    /// The new version failed before all of it was up: the old one comes back.
    fn fail_upgrade(&mut self, turn: &mut Turn<'_>, why: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        turn.out.events.push(AgentEvent::Upgraded {
            from: upgrade.from,
            to: upgrade.to,
            kind: upgrade.kind,
            success: false,
            error: Some(why.to_owned()),
        });
        turn.lifecycle(Lifecycle::Upgrading, Lifecycle::Registered);
        turn.out.effects.push(AgentEffect::UpgradeDone {
            error: Some(why.to_owned()),
        });
        self.stop_all(turn, StopKind::Kill);
    }

    fn abandon_upgrade(&mut self, turn: &mut Turn<'_>, why: &str) {
        if self.upgrade.is_some() {
            self.fail_upgrade(turn, why);
        }
    }

    /// Journals where the policy stands now, and that it entered quarantine if it did.
    fn note_policy(&self, turn: &mut Turn<'_>, before: &mesh_supervision_core::fault::FaultRecord) {
        let record = self.policy.record();
        let digest = turn.state.version().map_or("", |v| v.digest.as_str());
        let quarantined = mesh_supervision_core::fault::FaultState::Quarantined;
        if record.state == quarantined
            && (before.state != quarantined || before.quarantine != record.quarantine)
            && let Some(record) = quarantine_of(&self.id, record, digest)
        {
            turn.out.events.push(AgentEvent::Quarantined { record });
        }
        // First of all: whoever replays must know where the policy stood before what it led to.
        turn.out.events.insert(
            0,
            AgentEvent::FaultChanged {
                view: view(&self.id, record, self.policy.config(), digest, turn.now),
                record: to_stored(record),
            },
        );
    }
}

impl Turn<'_> {
    fn is_current(&self, instance: InstanceNo, epoch: Epoch) -> bool {
        self.instances
            .get(&instance)
            .is_some_and(|(e, _)| *e == epoch)
    }

    fn version(&self, agent: &AgentId) -> Result<String, AgentRefusal> {
        self.state
            .current
            .clone()
            .ok_or_else(|| AgentRefusal::NoVersion(agent.clone()))
    }

    fn desire(&mut self, running: bool, paused: bool) {
        let same = (self.state.running, self.state.paused, self.state.replicas)
            == (running, paused, self.replicas);
        if !same {
            let replicas = self.replicas;
            self.out.events.push(AgentEvent::DesiredChanged {
                running,
                paused,
                replicas,
            });
        }
    }

    fn lifecycle(&mut self, from: Lifecycle, to: Lifecycle) {
        self.out
            .events
            .push(AgentEvent::LifecycleChanged { from, to });
    }
}
