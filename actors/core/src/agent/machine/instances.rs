//! Instances: their starts, stops and ends.
//!
//! The fault policy limits restarts after scored failures. An end that is nobody's failure (a process that did not let
//! go of a cancelled attempt and had to be ended, for instance) is followed by a restart, but it can be
//! provoked, so it has limits too: the replica *rests* for the delays that crashes have, and there are as many such
//! restarts for each replica as crashes are answered by one, within the same window. They never quarantine. An agent that
//! is not to be restarted is stopped, as after a crash.

use std::collections::VecDeque;

use mesh_messages::agent::Lifecycle;
use mesh_messages::events::AgentEvent;
use mesh_messages::identity::KeyProof;
use mesh_messages::{Epoch, Failure, FailureClass, InstanceNo, Timestamp};
use mesh_supervision_core::fault::{FaultInput, Order, TaskEnd};

use super::{AgentEffect, AgentMachine, AgentRefusal, StopKind, Turn, turn::over};
use crate::agent::fault::failure_in;

/// The restarts of one replica after ends that were nobody's failure.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The latest ones, oldest first. Invariant: at most as many as the limit.
    starts: VecDeque<Timestamp>,
    /// It is not started before then, but by the policy.
    until: Option<Timestamp>,
}

impl AgentMachine {
    /// Whether this incarnation was told to stop.
    pub fn is_stopping(&self, instance: InstanceNo, epoch: Epoch) -> bool {
        self.stopping.get(&instance) == Some(&epoch)
    }

    /// Starts every wanted instance that is not there and need not rest. None while an agent that it needs is not there;
    /// what an upgrade needs was looked at before it began.
    pub(super) fn fill(&mut self, turn: &mut Turn<'_>) {
        let Some(current) = turn.state.current.clone().filter(|_| !self.closing) else {
            return;
        };
        if turn.around.lacks && self.upgrade.is_none() {
            return;
        }
        let (version, upgraded_from) = match &mut self.upgrade {
            // Two versions never run at once: the end of the last old instance comes back here.
            Some(upgrade) if !upgrade.started && !turn.instances.is_empty() => return,
            Some(upgrade) => {
                upgrade.started = true;
                (upgrade.to.clone(), Some(upgrade.from.clone()))
            }
            None => (current, None),
        };
        for no in 0..turn.replicas {
            let instance = InstanceNo(no);
            let rest = self.rests.get(&instance).and_then(|rest| rest.until);
            if turn.instances.contains_key(&instance) || rest.is_some_and(|until| turn.now < until)
            {
                continue;
            }
            if let Some(rest) = self.rests.get_mut(&instance)
                && rest.until.take().is_some()
                && let Some(start) = rest.starts.back_mut()
            {
                // Timers may be late, and the window is one of starts, not of when they were due.
                *start = turn.now;
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
                sandbox: (turn.around.sandbox)(&version),
            });
            turn.out.effects.push(AgentEffect::Spawn {
                instance,
                epoch,
                version: version.clone(),
                upgraded_from: upgraded_from.clone(),
            });
        }
    }

    pub(super) fn stop_all(&mut self, turn: &mut Turn<'_>, how: StopKind) {
        let all: Vec<_> = turn
            .instances
            .iter()
            .map(|(no, (epoch, _))| (*no, *epoch))
            .collect();
        for (instance, epoch) in all {
            self.stop_one(turn, instance, epoch, how);
        }
    }

    pub(super) fn stop_one(
        &mut self,
        turn: &mut Turn<'_>,
        instance: InstanceNo,
        epoch: Epoch,
        how: StopKind,
    ) {
        self.stopping.insert(instance, epoch);
        turn.out.effects.push(AgentEffect::Stop {
            instance,
            epoch,
            how,
        });
    }

    pub(super) fn scale(&mut self, turn: &mut Turn<'_>, replicas: u32) -> Result<(), AgentRefusal> {
        turn.version(&self.id)?;
        if turn.state.stage() >= Lifecycle::Terminated {
            return Err(over(&self.id, "scale"));
        }
        if self.upgrade.is_some() {
            return Err(AgentRefusal::Upgrading(self.id.clone()));
        }
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
        if self.policy.record().state.is_started() {
            self.fill(turn);
        }
        Ok(())
    }

    pub(super) fn handshaken(
        &self,
        turn: &mut Turn<'_>,
        (instance, epoch): (InstanceNo, Epoch),
        hooks: Vec<String>,
        proven: Option<Box<KeyProof>>,
    ) {
        if !turn.is_current(instance, epoch) || self.is_stopping(instance, epoch) {
            return;
        }
        turn.instances
            .insert(instance, (epoch, Lifecycle::Handshaken));
        turn.out.events.push(AgentEvent::Handshaken {
            instance,
            epoch,
            hooks,
            proven,
        });
    }

    pub(super) fn ready(&mut self, turn: &mut Turn<'_>, instance: InstanceNo, epoch: Epoch) {
        // One that was told to stop proves nothing any more.
        if !turn.is_current(instance, epoch) || self.is_stopping(instance, epoch) {
            return;
        }
        turn.instances
            .insert(instance, (epoch, Lifecycle::Executing));
        // While a version is being exchanged it is not settled whose the state is: the old one may come back for it.
        if self.upgrade.is_none() {
            turn.note_restored(instance, epoch);
        }
        turn.out
            .events
            .push(AgentEvent::Started { instance, epoch });
        self.note_up(turn);
    }

    /// The start has succeeded once everything that is to stay serves.
    fn note_up(&mut self, turn: &mut Turn<'_>) {
        let mut staying = turn
            .instances
            .iter()
            .filter(|(no, (epoch, _))| !self.is_stopping(**no, *epoch))
            .peekable();
        if staying.peek().is_none() || staying.any(|(_, (_, s))| *s != Lifecycle::Executing) {
            return;
        }
        let start = self.policy.record().epoch;
        self.feed(turn, FaultInput::Up { epoch: start });
        self.complete_upgrade(turn);
    }

    pub(super) fn ended(
        &mut self,
        turn: &mut Turn<'_>,
        instance: InstanceNo,
        epoch: Epoch,
        failure: Option<Failure>,
    ) {
        if !turn.is_current(instance, epoch) {
            return;
        }
        let told = self.stopping.remove(&instance) == Some(epoch);
        turn.instances.remove(&instance);
        self.ended_in_hand(turn, (instance, epoch));
        // Whatever happens to what was told to stop is the end it was told to have, save a broken rule: that is what it
        // was told to stop for, and what ended its attempts.
        let failure = failure
            .filter(|f| !told || f.class == FailureClass::Policy)
            .filter(|_| !self.closing);
        turn.note_end(instance, epoch, failure.as_ref());
        let trial = self.trial.take_if(|trial| trial.epoch == epoch);
        let replaces = self.upgrade.as_ref().is_some_and(|u| u.started);
        if let Some(failure) = failure.as_ref().filter(|_| !replaces) {
            turn.note_not_restored((instance, epoch), failure);
        }
        match failure {
            Some(failure) if failure.class.is_scored() && !replaces => {
                // It ends any trial, whichever replica had the task.
                self.trial = None;
                self.feed(turn, FaultInput::Failure(failure_in(&failure)));
            }
            failure => {
                if let Some(trial) = trial {
                    let (token, end) = (trial.token, TaskEnd::Unscored);
                    self.feed(turn, FaultInput::TaskEnded { token, end });
                }
                match failure {
                    Some(failure) if replaces => {
                        self.abandon_upgrade(turn, &failure.to_string());
                        self.stop_all(turn, StopKind::Kill);
                    }
                    Some(_) => self.rest(turn, instance),
                    None => {}
                }
            }
        }
        if self.policy.record().state.is_started() {
            self.fill(turn);
        }
        self.note_up(turn);
    }

    /// An instance has ended as nobody's failure: it is started again when it has rested.
    fn rest(&mut self, turn: &mut Turn<'_>, instance: InstanceNo) {
        if !self.policy.record().state.is_started() {
            return;
        }
        let config = self.policy.config();
        if !config.auto_restart {
            // It is started, so there is nothing that could forbid a stop.
            let _never_refused = self.order(turn, Order::Stop);
            return;
        }
        let limit = usize::try_from(config.max_crashes.max(1)).unwrap_or(usize::MAX);
        let window = config.crash_window;
        let rest = self.rests.entry(instance).or_default();
        let recent = rest
            .starts
            .iter()
            .filter(|at| turn.now.since(**at) <= window);
        let delay = config
            .backoff
            .delay(u32::try_from(recent.count()).unwrap_or(u32::MAX));
        let soonest = turn.now.plus(delay);
        let at = match rest.starts.len().checked_sub(limit) {
            // As in the policy, both edges of the window count.
            Some(first) => rest.starts[first]
                .plus(window)
                .plus(std::time::Duration::from_millis(1))
                .max(soonest),
            None => soonest,
        };
        rest.starts.push_back(at);
        while rest.starts.len() > limit {
            rest.starts.pop_front();
        }
        rest.until = Some(at);
        self.arm_rest(turn);
    }

    /// A rest may be over.
    pub(super) fn rested(&mut self, turn: &mut Turn<'_>) {
        if self.policy.record().state.is_started() {
            self.fill(turn);
            self.arm_rest(turn);
        }
    }

    /// The policy starts what is down, rested or not.
    pub(super) fn wake(&mut self) {
        for rest in self.rests.values_mut() {
            rest.until = None;
        }
    }

    fn arm_rest(&self, turn: &mut Turn<'_>) {
        let next = self
            .rests
            .iter()
            .filter(|(no, _)| no.0 < turn.replicas)
            .filter_map(|(_, rest)| rest.until)
            .filter(|until| *until > turn.now)
            .min();
        if let Some(until) = next {
            turn.out.effects.push(AgentEffect::Rest { until });
        }
    }
}

impl Turn<'_> {
    fn note_end(&mut self, instance: InstanceNo, epoch: Epoch, failure: Option<&Failure>) {
        let (event, down) = match failure {
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
        self.out.events.push(event);
        self.out.effects.push(AgentEffect::Down {
            instance,
            epoch,
            failure: down,
        });
    }
}
