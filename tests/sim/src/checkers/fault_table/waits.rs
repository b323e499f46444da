//! The rows of the table in which time passes, something proves itself, or an actor starts again; and what all rows
//! are made of.

use std::time::Duration;

use mesh_supervision_core::Timestamp;
use mesh_supervision_core::fault::{FaultState, Ladder, Severity};

use super::{FaultTable, Granted, HOUR};
use crate::edges::Edges;

impl FaultTable {
    pub(super) fn exhausted(&self) -> bool {
        self.ward
            .as_ref()
            .is_some_and(|ward| ward.severity == Severity::Critical || self.attempt > ward.attempts)
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(
            self.state,
            FaultState::Running | FaultState::HalfOpen | FaultState::Recovering
        )
    }

    pub(super) fn in_episode(&self) -> bool {
        !matches!(self.state, FaultState::Running | FaultState::Stopped)
            || self.score > 0
            || self.worst.is_some()
            || self.backoffs > 0
            || self.cool_downs > 0
    }

    pub(super) fn close_episode(&mut self) {
        (self.score, self.worst, self.abuses) = (0, None, 0);
        (self.backoffs, self.cool_downs) = (0, 0);
        self.last_delay = Duration::ZERO;
        self.adopt();
    }

    pub(super) fn adopt(&mut self) {
        if !self.in_episode()
            && let Some(config) = self.next_config.take()
        {
            self.config = config;
        }
    }

    pub(super) fn go(&mut self, to: FaultState, now: Timestamp) {
        (self.state, self.since, self.due) = (to, now, None);
        (self.permit, self.proven) = (None, false);
    }

    pub(super) fn start(&mut self) {
        self.step.granted = Granted::Start;
        self.up_since = None;
    }

    pub(super) fn start_trial(&mut self) {
        (self.permit, self.proven) = (Some(true), false);
        self.start();
    }

    pub(super) fn at(&mut self, at: Timestamp) {
        self.due = Some((at, at));
    }

    pub(super) fn arm_running(&mut self) {
        let needed = self
            .config
            .stable_min
            .max(self.last_delay.saturating_mul(2));
        let stable = self
            .up_since
            .filter(|_| self.in_episode())
            .map(|up| up.plus(needed));
        let forgiven = (self.attempt > 0).then(|| self.since.plus(HOUR));
        let next = match (stable, forgiven) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.due = next.map(|at| (at, at));
    }

    pub(super) fn over_score(&self) -> bool {
        self.score >= self.config.quarantine_threshold
            || self.hour.len() > self.config.hourly_max as usize
    }

    pub(super) fn over_crashes(&self) -> bool {
        self.crashes.len() > self.config.max_crashes as usize
    }

    pub(super) fn back_off(&mut self, now: Timestamp) {
        let full = delay(self.config.backoff, self.backoffs);
        self.backoffs += 1;
        if self.state != FaultState::Backoff {
            self.go(FaultState::Backoff, now);
        }
        // Equal jitter: at least half of it.
        self.due = Some((now.plus(full / 2), now.plus(full)));
        self.last_delay = full;
    }

    pub(super) fn open(&mut self, now: Timestamp) {
        let pause = delay(self.config.cool_down, self.cool_downs);
        self.cool_downs += 1;
        self.last_delay = pause;
        self.go(FaultState::Open, now);
        self.at(now.plus(pause));
    }

    pub(super) fn stop(&mut self, now: Timestamp) {
        self.go(FaultState::Stopped, now);
    }

    pub(super) fn up(&mut self, now: Timestamp) {
        if self.up_since.is_some() || !self.is_started() {
            return;
        }
        self.up_since = Some(now);
        match self.state {
            FaultState::Running => self.arm_running(),
            FaultState::HalfOpen => self.at(now.plus(self.config.half_open_idle)),
            _ => self.at(now.plus(self.config.recovering)),
        }
    }

    pub(super) fn timer(&mut self, now: Timestamp, token: u64, edges: &mut Edges) {
        if self.life.token != Some(token) {
            return edges.hit("fault table", "a stale timer is dropped");
        }
        let Some((at, _)) = self.due else { return };
        if now < at {
            // The clock was set back: it is armed again.
            return edges.hit("fault table", "a timer that is early is armed again");
        }
        self.due = None;
        match self.state {
            FaultState::Running => {
                let needed = self
                    .config
                    .stable_min
                    .max(self.last_delay.saturating_mul(2));
                let stable = self.up_since.filter(|_| self.in_episode());
                if stable.is_some_and(|up| up.plus(needed) <= now) {
                    edges.hit("fault table", "running, stable: score forgotten");
                    self.close_episode();
                }
                if now.since(self.since) >= HOUR {
                    edges.hit("fault table", "running for an hour: attempts forgotten");
                    self.attempt = 0;
                }
                self.arm_running();
            }
            FaultState::Backoff => {
                edges.hit("fault table", "backoff, timer: running");
                self.go(FaultState::Running, now);
                self.start();
                self.arm_running();
            }
            FaultState::Open => {
                edges.hit("fault table", "open, timer: half_open");
                self.go(FaultState::HalfOpen, now);
                self.start_trial();
            }
            FaultState::HalfOpen if self.permit == Some(true) => {
                edges.hit("fault table", "half_open, idle: running");
                self.trust(now);
            }
            FaultState::Recovering if self.permit == Some(true) || self.proven => {
                edges.hit("fault table", "recovering, long enough up: running");
                self.recovered(now);
            }
            FaultState::Quarantined => {
                if !self.exhausted() {
                    edges.hit("fault table", "quarantined, timer: recovering");
                    self.go(FaultState::Recovering, now);
                    self.start_trial();
                }
            }
            FaultState::HalfOpen
            | FaultState::Recovering
            | FaultState::Stopped
            | FaultState::Terminated => {}
        }
    }

    pub(super) fn trust(&mut self, now: Timestamp) {
        self.go(FaultState::Running, now);
        self.arm_running();
    }

    pub(super) fn recovered(&mut self, now: Timestamp) {
        self.go(FaultState::Running, now);
        self.ward = None;
        self.close_episode();
        self.arm_running();
    }

    /// The task of a trial is over and proves nothing.
    pub(super) fn no_verdict(&mut self, now: Timestamp, edges: &mut Edges) {
        if self.permit != Some(false) {
            return;
        }
        edges.hit(
            "fault table",
            "on trial, task ended unscored: permit returned",
        );
        self.permit = Some(true);
        let idle = now.plus(self.config.half_open_idle);
        if self.due.is_none_or(|(at, _)| at < idle) {
            self.at(idle);
        }
    }

    pub(super) fn task_ended(&mut self, now: Timestamp, ok: bool, edges: &mut Edges) {
        if !ok {
            return self.no_verdict(now, edges);
        }
        if self.permit != Some(false) {
            return;
        }
        (self.permit, self.proven) = (Some(true), true);
        let long = self
            .up_since
            .is_some_and(|up| now.since(up) >= self.config.recovering);
        if self.state == FaultState::HalfOpen {
            edges.hit("fault table", "half_open, task ok: running");
            self.trust(now);
        } else if long {
            edges.hit("fault table", "recovering, late task ok: running");
            self.recovered(now);
        }
    }

    pub(super) fn boot(&mut self, now: Timestamp, edges: &mut Edges) {
        match self.state {
            FaultState::Running => {
                edges.hit("fault table", "boot: running starts again");
                self.due = None;
                self.start();
                self.arm_running();
            }
            FaultState::HalfOpen | FaultState::Recovering => {
                edges.hit("fault table", "boot: a trial begins again");
                self.due = None;
                self.start_trial();
            }
            FaultState::Backoff | FaultState::Open => {
                edges.hit("fault table", "boot: a wait keeps its end");
                if self.due.is_none() {
                    self.at(now.plus(self.config.cool_down.cap));
                }
            }
            FaultState::Quarantined => {
                edges.hit("fault table", "boot: a quarantine goes on");
                self.step.isolates = true;
            }
            FaultState::Stopped | FaultState::Terminated => self.due = None,
        }
    }
}

/// A delay after so many earlier ones.
fn delay(ladder: Ladder, earlier: u32) -> Duration {
    let mut delay = ladder.base;
    for _ in 0..earlier {
        delay = delay.saturating_mul(2);
        if delay >= ladder.cap {
            return ladder.cap;
        }
    }
    delay.min(ladder.cap)
}
