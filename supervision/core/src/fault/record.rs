//! What a fault policy remembers, as plain data that its owner keeps.

use crate::Timestamp;

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Passing.
    Low,
    /// An ordinary crash.
    Medium,
    /// Repeated abuse or a broken rule.
    High,
    /// Forged identity, tampering: never recovers by itself.
    Critical,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonKind {
    /// It crashed, hung or could not be started.
    Crash,
    /// It used more than its share. The second time since it was last stable counts as [`Severity::High`].
    ResourceAbuse,
    /// It broke the rules.
    SecurityViolation,
    /// Somebody wants it so.
    Manual,
}

/// Where an agent stands with its fault policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultState {
    /// It may run and work; being started is part of it.
    Running,
    /// It is started again when the timer fires.
    Backoff,
    /// The breaker is open: no work, and no start before the timer fires.
    Open,
    /// It was started on trial, for one task at a time.
    HalfOpen,
    /// It executes nothing and receives nothing.
    Quarantined,
    /// It was started on trial, out of quarantine.
    Recovering,
    /// It is not wanted to run.
    Stopped,
    /// It will never run again.
    Terminated,
}

impl FaultState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Quarantined => "quarantined",
            Self::Recovering => "recovering",
            Self::Stopped => "stopped",
            Self::Terminated => "terminated",
        }
    }

    /// Whether it runs or is about to.
    pub const fn is_live(self) -> bool {
        match self {
            Self::Running | Self::Backoff | Self::Open | Self::HalfOpen | Self::Recovering => true,
            Self::Quarantined | Self::Stopped | Self::Terminated => false,
        }
    }

    /// Whether an instance has been ordered to run in this state, rather than left over from an earlier one.
    pub const fn is_started(self) -> bool {
        matches!(self, Self::Running | Self::HalfOpen | Self::Recovering)
    }
}

impl std::fmt::Display for FaultState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names one arming of the timer, or one grant of the permit. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The one timer of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Which arming; an older one that still fires is dropped.
    pub token: Token,
    /// When it is due.
    pub at: Timestamp,
}

/// Whether an agent on trial may be given a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// One.
    Free,
    /// No: this one is under way.
    Taken(Token),
}

/// Why an agent is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineReason {
    /// What kind of thing went wrong.
    pub kind: ReasonKind,
    /// What it was.
    pub description: String,
    /// When.
    pub timestamp: Timestamp,
    /// The worst severity of all that led here.
    pub severity: Severity,
}

/// A quarantine, from its beginning until it is recovered from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRecord {
    /// Since when.
    pub quarantined_at: Timestamp,
    /// Why.
    pub reason: QuarantineReason,
    /// How many recovery attempts are used up.
    pub retry_count: u32,
    /// How many recoveries are tried without force.
    pub max_retries: u32,
    /// It follows from the number of failures alone, so a refund may undo it.
    pub counted: bool,
}

/// Everything that a [`FaultPolicy`](super::FaultPolicy) knows. Keep it before acting on the effects of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRecord {
    /// Where the agent stands.
    pub state: FaultState,
    /// Since when.
    pub since: Timestamp,
    /// How many starts have been ordered; the last one's number.
    pub epoch: u64,
    /// When the last start was reported up, if it was.
    pub up_since: Option<Timestamp>,
    /// Scored failures since the last stable period, less the refunded.
    pub score: u32,
    /// The scored failures in the crash window, ascending.
    pub crashes: Vec<Timestamp>,
    /// The scored failures of the last hour, ascending. Only age removes them.
    pub hour: Vec<Timestamp>,
    /// Which recovery attempt is due, or was the last.
    pub recovery_attempt: u32,
    /// The worst severity since the last stable period.
    pub worst: Option<Severity>,
    /// How often it used more than its share since the last stable period.
    pub resource_failures: u32,
    /// How many backoff delays this episode has had.
    pub backoffs: u32,
    /// How many cool-downs this episode has had.
    pub cool_downs: u32,
    /// The last delay or cool-down of this episode; zero when there was none.
    pub last_delay: std::time::Duration,
    /// The timer that is armed.
    pub timer: Option<Timer>,
    /// The last token given out.
    pub token_last: u64,
    /// On trial only: whether a task may be had.
    pub permit: Option<Permit>,
    /// On trial only: whether a task has ended well.
    pub proven: bool,
    /// The quarantine, until it is recovered from: also while it is on trial, or was stopped in its trial.
    pub quarantine: Option<QuarantineRecord>,
    /// The last scored failure or order that changed something, for people.
    pub reason: Option<QuarantineReason>,
}

impl FaultRecord {
    /// The record of an agent that has never been started.
    pub const fn new(now: Timestamp) -> Self {
        Self {
            state: FaultState::Stopped,
            since: now,
            epoch: 0,
            up_since: None,
            score: 0,
            crashes: Vec::new(),
            hour: Vec::new(),
            recovery_attempt: 0,
            worst: None,
            resource_failures: 0,
            backoffs: 0,
            cool_downs: 0,
            last_delay: std::time::Duration::ZERO,
            timer: None,
            token_last: 0,
            permit: None,
            proven: false,
            quarantine: None,
            reason: None,
        }
    }

    /// When it will be started by itself, if it will.
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        match self.state {
            FaultState::Backoff | FaultState::Open | FaultState::Quarantined => {
                self.timer.map(|timer| timer.at)
            }
            FaultState::Running
            | FaultState::HalfOpen
            | FaultState::Recovering
            | FaultState::Stopped
            | FaultState::Terminated => None,
        }
    }
}
