//! The fault policy of one agent: restart window, backoff, circuit breaker, quarantine and recovery.
//!
//! ```text
//!              crash            crash > max in window
//!   Stopped ─► Running ─► Backoff ────────────► Open ─────► HalfOpen ─► Running
//!     start      ▲  timer   │                     ▲  timer     │  task ok, or idle
//!                └──────────┘                     └────────────┘ crash
//!   score ≥ threshold, > 12 an hour, critical, or order
//!   any ─────────────────────────────► Quarantined ─────► Recovering ─► Running
//!                                         ▲    timer k, recover │  up, and task ok or idle
//!                                         └─────────────────────┘ crash: k + 1, exhausted beyond its attempts
//! ```
//!
//! All replicas of an agent share one policy. It knows nothing of agents: it hears of failures, of starts that
//! succeeded and of tasks, and says when to start, what to admit and when to isolate. Its whole memory is the
//! [`FaultRecord`], which the owner keeps before it acts, so that a policy restored after a crash goes on where it was.
//! [`FaultEffect::Start`] is the only way in which an agent is started; each one follows from the due timer of a
//! backoff, cool-down or recovery, from an order, or from [`FaultPolicy::restore`], which brings back what ran.
//!
//! An *episode* lasts from a failure until the agent is stable or recovered; a new configuration waits for its end.

mod config;
mod failures;
mod io;
mod orders;
mod record;
mod trial;

use std::time::Duration;

pub use config::{CRASHES_KEPT_MAX, FaultConfig, FaultConfigError, HOUR, Ladder, recovery};
pub use io::{Admission, Failure, FaultEffect, FaultInput, FaultRefusal, Order, TaskEnd};
pub use record::{
    FaultRecord, FaultState, Permit, QuarantineReason, QuarantineRecord, ReasonKind, Severity,
    Timer, Token,
};

use crate::Timestamp;

/// The fault policy of one agent. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPolicy {
    record: FaultRecord,
    config: FaultConfig,
    /// Waits for the end of the episode.
    config_next: Option<FaultConfig>,
}

/// One call of [`FaultPolicy::step`].
struct Turn<'a> {
    now: Timestamp,
    random: u64,
    effects: &'a mut Vec<FaultEffect>,
}

impl FaultPolicy {
    /// The policy of an agent that has never been started.
    ///
    /// # Errors
    /// When the configuration is [not sound](FaultConfig::check).
    pub fn new(config: FaultConfig, now: Timestamp) -> Result<Self, FaultConfigError> {
        config.check()?;
        Ok(Self {
            record: FaultRecord::new(now),
            config,
            config_next: None,
        })
    }

    /// Goes on from a record, after a restart of the owner in which all instances were lost.
    ///
    /// What ran is started anew, which is nobody's failure; a trial begins anew; timers keep their deadlines, and one
    /// that passed meanwhile is due at once. The configuration is in use at once.
    ///
    /// # Errors
    /// When the configuration is [not sound](FaultConfig::check).
    pub fn restore(
        record: FaultRecord,
        config: FaultConfig,
        now: Timestamp,
        effects: &mut Vec<FaultEffect>,
    ) -> Result<Self, FaultConfigError> {
        config.check()?;
        let mut policy = Self {
            record,
            config,
            config_next: None,
        };
        let turn = &mut Turn {
            now,
            random: 0,
            effects,
        };
        match policy.record.state {
            FaultState::Running => {
                policy.record.timer = None;
                policy.start(turn);
                policy.arm_running(turn);
            }
            FaultState::HalfOpen | FaultState::Recovering => {
                policy.record.timer = None;
                policy.start_trial(turn);
            }
            FaultState::Backoff | FaultState::Open => {
                let fallback = now.plus(policy.config.cool_down.cap);
                let at = policy.record.timer.map_or(fallback, |timer| timer.at);
                policy.arm(at, turn);
            }
            FaultState::Quarantined => {
                policy.isolate(turn);
                if let Some(timer) = policy.record.timer {
                    policy.arm(timer.at, turn);
                }
            }
            FaultState::Stopped | FaultState::Terminated => policy.record.timer = None,
        }
        Ok(policy)
    }

    /// Applies one input at time `now` and appends what must be done to `effects`.
    ///
    /// Keep [`FaultPolicy::record`] before acting on them. `random` is used for jitter only.
    ///
    /// # Errors
    /// Refused orders and configurations; nothing has changed then and no effect was added.
    pub fn step(
        &mut self,
        now: Timestamp,
        random: u64,
        input: FaultInput,
        effects: &mut Vec<FaultEffect>,
    ) -> Result<(), FaultRefusal> {
        let turn = &mut Turn {
            now,
            random,
            effects,
        };
        match input {
            FaultInput::Failure(failure) => self.failure(failure, turn),
            FaultInput::Up { epoch } => self.up(epoch, turn),
            FaultInput::Timer { token } => self.timer(token, turn),
            FaultInput::TaskOffered => self.task_offered(turn),
            FaultInput::TaskEnded { token, end } => self.task_ended(token, end, turn),
            FaultInput::Refund { failures } => self.refund(failures, turn),
            FaultInput::Order(order) => return self.order(order, turn),
            FaultInput::Configure(config) => {
                config.check()?;
                self.config_next = Some(config);
                self.adopt_config();
            }
        }
        Ok(())
    }

    /// All that it knows.
    pub const fn record(&self) -> &FaultRecord {
        &self.record
    }

    /// The configuration in use; a newer one may wait for the end of the episode.
    pub const fn config(&self) -> &FaultConfig {
        &self.config
    }

    /// The configuration that waits for the end of the episode.
    pub const fn config_next(&self) -> Option<&FaultConfig> {
        self.config_next.as_ref()
    }

    /// Whether only a forced recovery leads out of its quarantine.
    pub fn is_exhausted(&self) -> bool {
        self.record.quarantine.as_ref().is_some_and(|quarantine| {
            quarantine.reason.severity == Severity::Critical
                || self.record.recovery_attempt > quarantine.max_retries
        })
    }

    /// How many scored failures the crash window holds at `now`.
    pub fn crashes_in_window(&self, now: Timestamp) -> usize {
        let window = self.config.crash_window;
        self.record
            .crashes
            .iter()
            .filter(|&&at| now.since(at) <= window)
            .count()
    }

    /// A configuration is taken over only between episodes.
    fn adopt_config(&mut self) {
        if !self.in_episode()
            && let Some(config) = self.config_next.take()
        {
            self.config = config;
        }
    }

    fn in_episode(&self) -> bool {
        let record = &self.record;
        let quiet = match record.state {
            FaultState::Running | FaultState::Stopped => true,
            FaultState::Backoff
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Quarantined
            | FaultState::Recovering
            | FaultState::Terminated => false,
        };
        !quiet
            || record.score > 0
            || record.worst.is_some()
            || record.backoffs > 0
            || record.cool_downs > 0
    }

    fn close_episode(&mut self) {
        let record = &mut self.record;
        record.score = 0;
        record.worst = None;
        record.resource_failures = 0;
        record.backoffs = 0;
        record.cool_downs = 0;
        record.last_delay = Duration::ZERO;
        self.adopt_config();
    }

    /// Leaves the old state with its timer and permit.
    fn go(&mut self, to: FaultState, turn: &mut Turn<'_>) {
        let from = self.record.state;
        self.disarm(turn);
        self.record.permit = None;
        self.record.proven = false;
        self.record.state = to;
        self.record.since = turn.now;
        turn.effects.push(FaultEffect::Transition { from, to });
    }

    fn start(&mut self, turn: &mut Turn<'_>) {
        let epoch = self.next_epoch();
        turn.effects.push(FaultEffect::Start { epoch });
    }

    fn start_trial(&mut self, turn: &mut Turn<'_>) {
        self.record.permit = Some(Permit::Free);
        self.record.proven = false;
        self.start(turn);
    }

    fn next_epoch(&mut self) -> u64 {
        self.record.epoch += 1;
        self.record.up_since = None;
        self.record.epoch
    }

    fn next_token(&mut self) -> Token {
        self.record.token_last += 1;
        Token(self.record.token_last)
    }

    fn arm(&mut self, at: Timestamp, turn: &mut Turn<'_>) {
        let timer = Timer {
            token: self.next_token(),
            at,
        };
        self.record.timer = Some(timer);
        turn.effects.push(FaultEffect::Arm(timer));
    }

    fn disarm(&mut self, turn: &mut Turn<'_>) {
        if self.record.timer.take().is_some() {
            turn.effects.push(FaultEffect::Disarm);
        }
    }
}
