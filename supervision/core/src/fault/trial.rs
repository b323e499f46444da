//! Starts that succeed, timers that fire, and tasks on trial.

use super::{Admission, FaultEffect, FaultPolicy, FaultState, HOUR, Permit, TaskEnd, Token, Turn};
use crate::Timestamp;

impl FaultPolicy {
    pub(super) fn up(&mut self, epoch: u64, turn: &mut Turn<'_>) {
        let record = &mut self.record;
        if epoch != record.epoch || record.up_since.is_some() || !record.state.is_started() {
            return;
        }
        record.up_since = Some(turn.now);
        match record.state {
            FaultState::Running => self.arm_running(turn),
            FaultState::HalfOpen => self.arm(turn.now.plus(self.config.half_open_idle), turn),
            FaultState::Recovering => self.arm(turn.now.plus(self.config.recovering), turn),
            FaultState::Backoff
            | FaultState::Open
            | FaultState::Quarantined
            | FaultState::Stopped
            | FaultState::Terminated => {}
        }
    }

    pub(super) fn timer(&mut self, token: Token, turn: &mut Turn<'_>) {
        let Some(timer) = self.record.timer.filter(|timer| timer.token == token) else {
            return;
        };
        self.record.timer = None;
        if turn.now < timer.at {
            // A clock that was set back must not let an agent start early.
            return self.arm(timer.at, turn);
        }
        match self.record.state {
            FaultState::Running => self.running_for_a_while(turn),
            FaultState::Backoff => {
                self.go(FaultState::Running, turn);
                self.start(turn);
                self.arm_running(turn);
            }
            FaultState::Open => {
                self.go(FaultState::HalfOpen, turn);
                self.start_trial(turn);
            }
            FaultState::HalfOpen => {
                if self.is_idle() {
                    self.trust_again(turn);
                }
            }
            FaultState::Recovering => {
                if self.record.proven || self.is_idle() {
                    self.recovered(turn);
                }
            }
            FaultState::Quarantined => {
                if !self.is_exhausted() {
                    self.try_to_recover(turn);
                }
            }
            FaultState::Stopped | FaultState::Terminated => {}
        }
    }

    pub(super) fn task_offered(&mut self, turn: &mut Turn<'_>) {
        let state = self.record.state;
        let admission = match state {
            // In backoff, a replica that still works may well take it.
            FaultState::Running | FaultState::Backoff => Admission::Granted,
            FaultState::Open => Admission::Parked {
                until: self.record.timer.map(|timer| timer.at),
            },
            FaultState::HalfOpen | FaultState::Recovering => {
                if self.record.up_since.is_some() && self.is_idle() {
                    let token = self.next_token();
                    self.record.permit = Some(Permit::Taken(token));
                    Admission::Probe { token }
                } else {
                    Admission::Parked { until: None }
                }
            }
            FaultState::Quarantined | FaultState::Stopped | FaultState::Terminated => {
                Admission::Refused { state }
            }
        };
        turn.effects.push(FaultEffect::Admission(admission));
    }

    pub(super) fn task_ended(&mut self, token: Token, end: TaskEnd, turn: &mut Turn<'_>) {
        if self.record.permit != Some(Permit::Taken(token)) {
            return;
        }
        match end {
            TaskEnd::Unscored => self.ended_without_verdict(turn),
            TaskEnd::Ok => {
                self.record.permit = Some(Permit::Free);
                self.record.proven = true;
                if self.record.state == FaultState::HalfOpen {
                    self.trust_again(turn);
                } else if self.has_been_up_for_recovery(turn.now) {
                    self.recovered(turn);
                }
            }
        }
    }

    pub(super) fn try_to_recover(&mut self, turn: &mut Turn<'_>) {
        self.go(FaultState::Recovering, turn);
        self.start_trial(turn);
    }

    fn is_idle(&self) -> bool {
        self.record.permit == Some(Permit::Free)
    }

    fn has_been_up_for_recovery(&self, now: Timestamp) -> bool {
        self.record
            .up_since
            .is_some_and(|up| now.since(up) >= self.config.recovering)
    }

    fn trust_again(&mut self, turn: &mut Turn<'_>) {
        self.go(FaultState::Running, turn);
        self.arm_running(turn);
    }

    fn recovered(&mut self, turn: &mut Turn<'_>) {
        self.go(FaultState::Running, turn);
        self.record.quarantine = None;
        self.close_episode();
        turn.effects.push(FaultEffect::Recovered {
            attempt: self.record.recovery_attempt,
        });
        self.arm_running(turn);
    }

    fn running_for_a_while(&mut self, turn: &mut Turn<'_>) {
        if self.stable_at().is_some_and(|at| at <= turn.now) {
            self.close_episode();
            turn.effects.push(FaultEffect::Settled);
        }
        if turn.now.since(self.record.since) >= HOUR {
            self.record.recovery_attempt = 0;
        }
        self.arm_running(turn);
    }

    /// When its score is forgotten, if there is anything to forget and it is up.
    fn stable_at(&self) -> Option<Timestamp> {
        let needed = self
            .config
            .stable_min
            .max(self.record.last_delay.saturating_mul(2));
        self.record
            .up_since
            .filter(|_| self.in_episode())
            .map(|up| up.plus(needed))
    }

    /// Arms whichever of the two waits of a running agent ends first.
    pub(super) fn arm_running(&mut self, turn: &mut Turn<'_>) {
        let forgiven_at = (self.record.recovery_attempt > 0).then(|| self.record.since.plus(HOUR));
        let next = match (self.stable_at(), forgiven_at) {
            (Some(stable), Some(forgiven)) => Some(stable.min(forgiven)),
            (stable, forgiven) => stable.or(forgiven),
        };
        if self.record.timer.map(|timer| timer.at) != next {
            self.disarm(turn);
            if let Some(at) = next {
                self.arm(at, turn);
            }
        }
    }
}
