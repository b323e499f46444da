//! What goes into the policy and what comes out of it.

use super::{
    config::{FaultConfig, FaultConfigError},
    record::{FaultState, QuarantineReason, ReasonKind, Severity, Timer, Token},
};
use crate::Timestamp;

/// Everything that can happen to a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultInput {
    /// Something failed.
    Failure(Failure),
    /// The start with this number succeeded: the instance works. Others are dropped as stale.
    Up {
        /// The number that [`FaultEffect::Start`] gave.
        epoch: u64,
    },
    /// The timer with this token is due. Others are dropped as stale.
    Timer {
        /// The token that [`FaultEffect::Arm`] gave.
        token: Token,
    },
    /// There is a task for it; answered by [`FaultEffect::Admission`].
    TaskOffered,
    /// The task that was admitted on trial is over. (Tasks admitted otherwise need not be reported.)
    TaskEnded {
        /// The token that [`Admission::Probe`] gave.
        token: Token,
        /// How it ended.
        end: TaskEnd,
    },
    /// These scored failures were the task's fault, not the agent's. What follows from their number alone, an open
    /// breaker or a quarantine, is undone.
    Refund {
        /// How many.
        failures: u32,
    },
    /// Somebody who may wants something. Who that was is the owner's to audit.
    Order(Order),
    /// A new configuration, in use from the next episode on.
    Configure(FaultConfig),
}

/// Something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing.
    pub kind: ReasonKind,
    /// What it was, for people.
    pub description: String,
    /// Whether it counts against the agent. One that does not only ends a trial's task without a verdict.
    pub scored: bool,
}

/// How a task on trial ended, if not by a scored failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnd {
    /// Well.
    Ok,
    /// Without saying anything about the agent.
    Unscored,
}

/// What somebody may want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Isolate it.
    Quarantine {
        /// Why; [`ReasonKind::Manual`] is not recovered from by itself.
        kind: ReasonKind,
        /// How bad it is.
        severity: Severity,
        /// In words.
        description: String,
    },
    /// Try it again out of quarantine.
    Recover {
        /// Also when its attempts are used up. The owner has checked that an admin says so.
        force: bool,
    },
    /// Run it.
    Start,
    /// Do not run it.
    Stop,
    /// Stop and start it.
    Restart,
    /// Go on after a pause.
    Resume,
    /// Never run it again.
    Terminate,
}

impl Order {
    /// Its name, as in the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Quarantine { .. } => "quarantine",
            Self::Recover { .. } => "recover",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Resume => "resume",
            Self::Terminate => "terminate",
        }
    }
}

/// Why an order or a configuration was not taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultRefusal {
    /// Only `recover` and `terminate` lead out of quarantine.
    #[error("it is in quarantine; use recover")]
    Quarantined,
    /// There is nothing to recover from.
    #[error("not in quarantine")]
    NotQuarantined,
    /// Its recovery attempts are used up; an admin may force one.
    #[error("max_retries_exceeded")]
    MaxRetriesExceeded,
    /// It will be started by itself.
    #[error("it is in {state} and will be started by itself at {} ms", at.as_millis())]
    NextAttemptAt {
        /// Where it stands.
        state: FaultState,
        /// When.
        at: Timestamp,
    },
    /// It was started on trial; wait for the verdict.
    #[error("it is in {state}, on trial; wait for the verdict")]
    OnTrial {
        /// Where it stands.
        state: FaultState,
    },
    /// It is running already.
    #[error("it is running already")]
    AlreadyRunning,
    /// It is stopped; use `start`.
    #[error("it is stopped; use start")]
    Stopped,
    /// It will never run again.
    #[error("it is terminated")]
    Terminated,
    /// The new configuration is not sound.
    #[error("the fault policy's configuration is invalid")]
    Config(#[from] FaultConfigError),
}

/// What is to be done about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The policy has nothing against it.
    Granted,
    /// It is the one task of a trial; report its end with this token.
    Probe {
        /// The permit.
        token: Token,
    },
    /// Not now. Park it, or refuse it with the reason.
    Parked {
        /// When to ask again, if that is known.
        until: Option<Timestamp>,
    },
    /// Not to this agent.
    Refused {
        /// Where it stands.
        state: FaultState,
    },
}

/// What the owner must do, in the order given, after it has kept the record.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultEffect {
    /// It stands elsewhere now.
    Transition {
        /// Where it stood.
        from: FaultState,
        /// Where it stands.
        to: FaultState,
    },
    /// Start the instances that are down. The only way in which an agent may be started.
    Start {
        /// The number of this start.
        epoch: u64,
    },
    /// Stop the instances and start them again, as by [`FaultEffect::Start`].
    Restart {
        /// The number of this start.
        epoch: u64,
    },
    /// Stop the instances.
    Stop,
    /// Let a paused agent go on.
    Resume,
    /// Freeze or stop all instances, revoke tokens, hold mail, take it off the routes.
    Isolate {
        /// Why.
        reason: QuarantineReason,
        /// Whether it stays so until an admin forces a recovery.
        exhausted: bool,
    },
    /// Send [`FaultInput::Timer`] at the given time, instead of any earlier timer.
    Arm(Timer),
    /// Forget the timer.
    Disarm,
    /// The answer to [`FaultInput::TaskOffered`].
    Admission(Admission),
    /// It has recovered from quarantine.
    Recovered {
        /// Which attempt worked.
        attempt: u32,
    },
    /// It is out of quarantine, because what led there was refunded.
    Acquitted,
    /// It was stable long enough; its score is forgotten.
    Settled,
    /// An essential agent is exhausted: its parent has failed.
    Escalate {
        /// Why.
        reason: QuarantineReason,
    },
}
