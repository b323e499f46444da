//! Restart limits are exact: the table of the fault policy, carried out a second time from what an agent is told.
//!
//! It reads the commands that the agent's machine gets, not the inputs that the machine makes of them for its policy, so
//! it holds both to the table. After every step the two must stand in the same place, with the same count, the same
//! timer and the same permit. Each row that was taken is an edge.

mod failures;
mod orders;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_actors_core::agent::fault::core_time;
use mesh_actors_core::agent::{AgentCommand, AgentEffect, AgentMachine, AgentRefusal, AgentState};
use mesh_messages::agent::Lifecycle;
use mesh_messages::{Epoch, FailureClass, InstanceNo, TaskId, Timestamp as WallTime};
use mesh_supervision_core::Timestamp;
use mesh_supervision_core::fault::{FaultConfig, FaultState, Permit, ReasonKind, Severity};

use orders::wish;

use super::fault_rules::of_class;
use super::{Verdict, ensure};
use crate::edges::Edges;

const PROMISE: &str = "restart limits are exact";
const HOUR: Duration = Duration::from_hours(1);

/// A quarantine.
#[derive(Debug, Clone)]
struct Ward {
    severity: Severity,
    failed: u32,
    attempts: u32,
    counted: bool,
}

/// When the timer has to be due: not before, not after.
type Due = Option<(Timestamp, Timestamp)>;

/// What an agent is entitled to start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Granted {
    #[default]
    Nothing,
    /// All replicas that are down.
    Start,
}

/// What was true of a command before it was decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked {
    /// It concerns an instance that is there.
    pub(crate) current: bool,
    /// That instance was told to stop.
    pub(crate) told: bool,
}

/// Where an agent has to stand.
#[derive(Debug, Clone)]
pub(crate) struct FaultTable {
    config: FaultConfig,
    next_config: Option<FaultConfig>,
    state: FaultState,
    since: Timestamp,
    score: u32,
    crashes: Vec<Timestamp>,
    hour: Vec<Timestamp>,
    attempt: u32,
    worst: Option<Severity>,
    abuses: u32,
    backoffs: u32,
    cool_downs: u32,
    last_delay: Duration,
    due: Due,
    up_since: Option<Timestamp>,
    permit: Option<bool>,
    proven: bool,
    ward: Option<Ward>,
    life: Life,
    step: Step,
}

/// What is of one life of the actor only.
#[derive(Debug, Clone, Default)]
struct Life {
    /// What was told to stop.
    told: BTreeMap<InstanceNo, Epoch>,
    trial: Option<(TaskId, Epoch)>,
    token: Option<u64>,
    replacing: bool,
    closing: bool,
}

/// What the step under way leads to.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    granted: Granted,
    /// Whether the attempt that was offered goes to the agent; nothing when none was.
    admits: Option<bool>,
    isolates: bool,
    escalates: bool,
}

impl FaultTable {
    pub(crate) fn new(config: FaultConfig, wall_ms: u64) -> Self {
        Self {
            config,
            next_config: None,
            state: FaultState::Stopped,
            since: Timestamp::from_millis(wall_ms),
            score: 0,
            crashes: Vec::new(),
            hour: Vec::new(),
            attempt: 0,
            worst: None,
            abuses: 0,
            backoffs: 0,
            cool_downs: 0,
            last_delay: Duration::ZERO,
            due: None,
            up_since: None,
            permit: None,
            proven: false,
            ward: None,
            life: Life::default(),
            step: Step::default(),
        }
    }

    /// What the policy in use says.
    pub(crate) const fn config(&self) -> &FaultConfig {
        &self.config
    }

    /// What the last step entitled to.
    pub(crate) const fn granted(&self) -> Granted {
        self.step.granted
    }

    /// What is true before a command is decided.
    pub(crate) fn look(&self, state: &AgentState, command: &AgentCommand) -> Looked {
        let (AgentCommand::Ended {
            instance, epoch, ..
        }
        | AgentCommand::Up {
            instance, epoch, ..
        }
        | AgentCommand::Ready {
            instance, epoch, ..
        }) = command
        else {
            return Looked {
                current: false,
                told: false,
            };
        };
        Looked {
            current: state
                .instances
                .get(instance)
                .is_some_and(|i| i.epoch == *epoch),
            told: self.life.told.get(instance) == Some(epoch),
        }
    }

    /// The actor starts: with what of the table was on the disk, and nothing of what is of one life only.
    pub(crate) fn reborn(&mut self, config: FaultConfig) {
        (self.config, self.next_config) = (config, None);
        self.life = Life::default();
        // What is stored has whole milliseconds.
        self.last_delay =
            Duration::from_millis(u64::try_from(self.last_delay.as_millis()).unwrap_or(u64::MAX));
        let whole = |at: Timestamp| Timestamp::from_millis(at.as_millis());
        self.due = self.due.map(|(lo, hi)| (whole(lo), whole(hi)));
    }

    /// A command was refused.
    pub(crate) fn refused(
        &mut self,
        command: &AgentCommand,
        refusal: &AgentRefusal,
        edges: &mut Edges,
    ) -> Verdict {
        let (AgentRefusal::Policy { .. }, Some(wish)) = (refusal, wish(command)) else {
            return Ok(());
        };
        match self.refusal(&wish) {
            Some(row) => {
                edges.hit("fault table", row);
                Ok(())
            }
            None => super::breach(
                PROMISE,
                format!("{command:?} was refused in {}: {refusal}", self.state),
            ),
        }
    }

    /// Carries a command out, and compares.
    pub(crate) fn decided(
        &mut self,
        now: WallTime,
        (command, looked): (&AgentCommand, Looked),
        effects: &[AgentEffect],
        (machine, state): (&AgentMachine, &AgentState),
        edges: &mut Edges,
    ) -> Verdict {
        let at = core_time(now);
        self.step = Step::default();
        let was_terminated = self.state == FaultState::Terminated;
        if let Some(wish) = wish(command) {
            let nothing_there = state.current.is_none();
            let refusal = self.refusal(&wish);
            ensure(nothing_there || refusal.is_none(), PROMISE, || {
                format!("{command:?} was obeyed, and must be refused: {refusal:?}")
            })?;
            if !nothing_there {
                self.obey(at, &wish, edges);
            }
        } else {
            self.happens(at, (command, looked), effects, state, edges);
        }
        self.note(effects);
        self.compare(command, effects, machine, was_terminated)
    }

    fn happens(
        &mut self,
        at: Timestamp,
        (command, looked): (&AgentCommand, Looked),
        effects: &[AgentEffect],
        state: &AgentState,
        edges: &mut Edges,
    ) {
        match command {
            AgentCommand::Boot if state.fault_record.is_some() => self.boot(at, edges),
            AgentCommand::Ended {
                instance,
                epoch,
                failure,
            } if looked.current => {
                self.life.told.remove(instance);
                let class = failure.as_ref().map(|f| f.class);
                // What was told to stop may end as it likes, but for a broken rule.
                let class = class
                    .filter(|class| !looked.told || *class == FailureClass::Policy)
                    .filter(|_| !self.life.closing);
                self.ended(at, (*epoch, class), edges);
                self.everything_serves(at, state, effects);
            }
            AgentCommand::Ready { .. } | AgentCommand::Up { .. }
                if looked.current && !looked.told =>
            {
                self.everything_serves(at, state, effects);
            }
            AgentCommand::Timer { token } => self.timer(at, *token, edges),
            AgentCommand::Offered { task, epoch } => {
                let there = state
                    .instances
                    .iter()
                    .any(|(no, i)| i.epoch == *epoch && self.life.told.get(no) != Some(epoch));
                self.step.admits = Some(self.offered((task, *epoch), there, edges));
            }
            AgentCommand::AttemptEnded { task, ok } => {
                let trial = self.life.trial.take_if(|(of, _)| of == task);
                if trial.is_some() {
                    self.task_ended(at, *ok, edges);
                }
            }
            AgentCommand::Refund { failures } => self.refund(at, *failures, edges),
            AgentCommand::Configure(config) => {
                self.next_config = Some((**config).clone());
                edges.hit(
                    "fault table",
                    if self.in_episode() {
                        "a new configuration waits for the end of the episode"
                    } else {
                        "a new configuration is in use at once"
                    },
                );
                self.adopt();
            }
            AgentCommand::Close => self.life.closing = true,
            _ => {}
        }
    }

    fn ended(
        &mut self,
        at: Timestamp,
        (epoch, class): (Epoch, Option<FailureClass>),
        edges: &mut Edges,
    ) {
        let trial = self.life.trial.take_if(|(_, of)| *of == epoch);
        let scored = class.filter(|class| of_class(*class).1 && !self.life.replacing);
        if let Some(class) = scored {
            self.life.trial = None;
            let kind = match class {
                FailureClass::Resource => ReasonKind::ResourceAbuse,
                FailureClass::Policy => ReasonKind::SecurityViolation,
                _ => ReasonKind::Crash,
            };
            return self.failure(at, (of_class(class).2, kind), edges);
        }
        if trial.is_some() {
            self.no_verdict(at, edges);
        }
        if class.is_some() && !self.life.replacing && self.is_started() && !self.config.auto_restart
        {
            edges.hit(
                "fault table",
                "an unscored end without auto_restart: stopped",
            );
            // On trial it stays so: whoever starts it begins the trial again.
            self.go(FaultState::Stopped, at);
        }
    }

    /// Whether an attempt may go to the agent.
    fn offered(&mut self, (task, epoch): (&TaskId, Epoch), there: bool, edges: &mut Edges) -> bool {
        let (row, admits) = match self.state {
            FaultState::Quarantined | FaultState::Stopped | FaultState::Terminated => {
                ("quarantined or stopped, task: refused", false)
            }
            _ if !there => ("any, task for what is gone or going: refused", false),
            FaultState::Open => ("open, task: parked", false),
            FaultState::Running | FaultState::Backoff => {
                ("running or backoff, task: granted", true)
            }
            FaultState::HalfOpen | FaultState::Recovering => {
                if self.up_since.is_some() && self.permit == Some(true) {
                    self.permit = Some(false);
                    self.life.trial = Some((task.clone(), epoch));
                    ("on trial, one task: permit taken", true)
                } else {
                    ("on trial, no permit: parked", false)
                }
            }
        };
        edges.hit("fault table", row);
        admits
    }

    /// A start has succeeded once everything that is to stay serves.
    fn everything_serves(&mut self, at: Timestamp, state: &AgentState, effects: &[AgentEffect]) {
        let spawns = effects
            .iter()
            .any(|effect| matches!(effect, AgentEffect::Spawn { .. }));
        // What this very step told to stop was asked before or is isolated by it.
        let stays = |no: &InstanceNo, epoch: Epoch| {
            self.life.told.get(no) != Some(&epoch)
                && !effects.iter().any(
                    |e| matches!(e, AgentEffect::Stop { epoch: stopped, .. } if *stopped == epoch),
                )
        };
        let mut staying = state
            .instances
            .iter()
            .filter(|(no, i)| stays(no, i.epoch))
            .peekable();
        let serves =
            staying.peek().is_some() && staying.all(|(_, i)| i.stage == Lifecycle::Executing);
        if serves && !spawns {
            self.up(at);
        }
    }

    /// Takes note of what the machine does, as far as later commands depend on it.
    fn note(&mut self, effects: &[AgentEffect]) {
        for effect in effects {
            match effect {
                AgentEffect::Spawn {
                    instance,
                    upgraded_from,
                    ..
                } => {
                    self.life.told.remove(instance);
                    self.life.replacing |= upgraded_from.is_some();
                }
                AgentEffect::Stop {
                    instance, epoch, ..
                } => {
                    self.life.told.insert(*instance, *epoch);
                }
                AgentEffect::UpgradeDone { .. } => self.life.replacing = false,
                AgentEffect::Arm { token, .. } => self.life.token = Some(*token),
                AgentEffect::Disarm => self.life.token = None,
                AgentEffect::Isolate => self.life.trial = None,
                _ => {}
            }
        }
    }

    fn compare(
        &mut self,
        command: &AgentCommand,
        effects: &[AgentEffect],
        machine: &AgentMachine,
        was_terminated: bool,
    ) -> Verdict {
        let record = machine.policy().record();
        let context = || format!("after {command:?}: {record:?}\nby the table {self:?}");
        let same = record.state == self.state
            && record.score == self.score
            && record.recovery_attempt == self.attempt
            && record.crashes == self.crashes
            && record.hour == self.hour;
        ensure(same, PROMISE, context)?;
        let in_time = match (record.timer, self.due) {
            (None, None) => true,
            (Some(timer), Some((lo, hi))) => lo <= timer.at && timer.at <= hi,
            _ => false,
        };
        ensure(in_time, PROMISE, context)?;
        let permit = record.permit.map(|permit| permit == Permit::Free);
        ensure(permit == self.permit, PROMISE, context)?;
        let wards = (record.quarantine.as_ref(), self.ward.as_ref());
        let same = match wards {
            (None, None) => true,
            (Some(theirs), Some(ours)) => {
                theirs.max_retries == ours.attempts
                    && theirs.retry_count == ours.failed
                    && theirs.reason.severity == ours.severity
            }
            _ => false,
        };
        ensure(
            same,
            "quarantine: the record says what it follows from",
            context,
        )?;
        ensure(
            machine.policy().is_exhausted() == self.exhausted(),
            PROMISE,
            context,
        )?;
        let admitted = effects.iter().find_map(|effect| match effect {
            AgentEffect::Deliver => Some(true),
            AgentEffect::Decline { .. } => Some(false),
            _ => None,
        });
        ensure(
            admitted == self.step.admits,
            "an agent gets the tasks that its policy lets it have",
            context,
        )?;
        let isolated = effects.iter().any(|e| matches!(e, AgentEffect::Isolate));
        ensure(
            isolated == (self.step.isolates && !was_terminated),
            "a quarantined agent is isolated",
            context,
        )?;
        let escalated = effects
            .iter()
            .any(|e| matches!(e, AgentEffect::Escalate { .. }));
        ensure(
            escalated == self.step.escalates,
            "an essential agent escalates when it is exhausted",
            context,
        )?;
        // The jitter is its own; from here on it is what it drew.
        self.due = record.timer.map(|timer| (timer.at, timer.at));
        self.last_delay = record.last_delay;
        Ok(())
    }
}
