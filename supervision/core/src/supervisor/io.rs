//! What goes into the machine and what comes out of it.

use std::fmt;

use super::{
    report::{End, Report},
    spec::{ChildId, ChildSpec, Flags, SpecError},
};
use crate::Timestamp;

/// One start of one child; unique within a supervisor's life and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub(super) u64);

impl Incarnation {
    /// Its number, counted from 1.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Ties a [`Effect::Reply`] to the request that it answers. The shell numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It was done.
    Normal,
    /// It was told to stop, or ended itself in order; with its remark, if any.
    Shutdown(Option<String>),
    /// It was killed, or its task was cancelled.
    Killed,
    /// It panicked, returned an error or stopped for an unusual reason.
    Failed(String),
    /// It is a supervisor that gave up. Abnormal, so that even a transient one is restarted.
    Escalated(String),
    /// It was killed and did not go away. It may still run.
    Abandoned,
    /// It is gone and nobody told why.
    Unknown,
}

impl ExitReason {
    /// Whether a transient child is restarted after it.
    pub const fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Normal | Self::Shutdown(_))
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown(None) => f.write_str("shutdown"),
            Self::Shutdown(Some(remark)) => write!(f, "shutdown: {remark}"),
            Self::Killed => f.write_str("killed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Escalated(why) => write!(f, "escalated: {why}"),
            Self::Abandoned => f.write_str("killed, but still there"),
            Self::Unknown => f.write_str("gone for an unknown reason"),
        }
    }
}

/// Which wait of a stopping child ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// It was asked to stop and did not.
    Asked,
    /// It was killed and is still there.
    Killed,
}

/// Everything that can happen to a supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Start the children of the spec, in order. The first input, once.
    Boot,
    /// A start succeeded.
    Started {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// A start succeeded, but there is nothing to supervise.
    Ignored {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// A start failed, or was given up.
    StartFailed {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// Why.
        reason: String,
    },
    /// A child ended.
    Exited {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// Why.
        reason: ExitReason,
    },
    /// Try a failed restart again. Only as an answer to [`Effect::RetryStart`].
    RetryStart {
        /// The child.
        child: ChildId,
        /// The start that failed.
        incarnation: Incarnation,
    },
    /// A limit armed by [`Effect::ArmLimit`] has passed.
    LimitReached {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// Which limit.
        limit: Limit,
    },
    /// Somebody wants something; answered by [`Effect::Reply`].
    Request {
        /// Names the answer.
        id: RequestId,
        /// What is wanted.
        request: Request,
    },
    /// Stop all children in order, then end. A second one may only bring the deadline nearer.
    Stop {
        /// When at the latest every child must have been killed.
        deadline: Option<Timestamp>,
    },
}

/// What can be asked of a running supervisor. Looking needs no request, see [`Supervisor::children`].
///
/// A request that concerns a child in transition, or arrives during a restart of the group, waits until that is over.
///
/// [`Supervisor::children`]: super::Supervisor::children
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Add a child and start it. It is forgotten when that first start fails.
    Add {
        /// The child.
        spec: ChildSpec,
    },
    /// Start a child that is down. Not counted as a restart.
    Start {
        /// The child.
        child: ChildId,
    },
    /// Stop a child if it runs, and start it. Not counted as a restart.
    Restart {
        /// The child.
        child: ChildId,
    },
    /// Stop a child and leave it down; a temporary or dynamic one is forgotten.
    Terminate {
        /// The child.
        child: ChildId,
    },
    /// Forget a child that is down.
    Delete {
        /// The child.
        child: ChildId,
    },
    /// Use new flags from now on, and new specs from each child's next start on. Specs that are not known are listed
    /// but not started; children that are not listed stay. From now on the order of starts is that of the list, with
    /// those that are not listed behind it. Refused whole if any of it is wrong.
    Change {
        /// The flags.
        flags: Flags,
        /// The specs.
        specs: Vec<ChildSpec>,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The child runs as this incarnation.
    Started(Incarnation),
    /// The child's start succeeded without leaving anything to supervise.
    Ignored,
    /// The child is down.
    Terminated,
    /// The child is forgotten.
    Deleted,
    /// The new flags and specs are in use.
    Changed,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no child of this id.
    #[error("there is no child {0}")]
    NotFound(ChildId),
    /// It already runs.
    #[error("child {child} already runs as {incarnation}")]
    AlreadyStarted {
        /// The child.
        child: ChildId,
        /// How it runs.
        incarnation: Incarnation,
    },
    /// It is known but down. Start or delete it.
    #[error("child {0} is already present but not running; start or delete it")]
    AlreadyPresent(ChildId),
    /// It runs. Terminate it first.
    #[error("child {0} is running; terminate it first")]
    Running(ChildId),
    /// A restart that failed is about to be tried again. Terminate it first, or wait.
    #[error("child {0} is being restarted; terminate it first")]
    Restarting(ChildId),
    /// Children of a dynamic supervisor can only be added and terminated.
    #[error("children of a dynamic supervisor can only be added and terminated")]
    Pool,
    /// Spec or flags are wrong.
    #[error("the specification is invalid")]
    Spec(#[from] SpecError),
    /// The start was tried and failed; the child is down or, when just added, forgotten.
    #[error("child {child} failed to start: {reason}")]
    StartFailed {
        /// The child.
        child: ChildId,
        /// Why.
        reason: String,
    },
    /// Somebody stopped the child while it was starting.
    #[error("child {0} was terminated while it was starting")]
    Terminated(ChildId),
    /// Too many requests wait already. Try again later.
    #[error("the supervisor is busy; try again later")]
    Busy,
    /// The supervisor is ending.
    #[error("the supervisor is shutting down")]
    ShuttingDown,
}

/// What the shell must do, in the order given.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell whoever watches. Reports precede the effects that they explain.
    Report(Report),
    /// The code that the request brought for this child is to be used from now on.
    Adopt {
        /// The request.
        request: RequestId,
        /// The child.
        child: ChildId,
    },
    /// Start the child; answer with `Started`, `Ignored` or `StartFailed`.
    Start {
        /// The child.
        child: ChildId,
        /// The start.
        incarnation: Incarnation,
    },
    /// Ask the child to stop, or give up its start; answer with `Exited` or `StartFailed`. A second one for the same
    /// start only brings the deadline nearer.
    Stop {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// When it will be killed.
        deadline: Timestamp,
    },
    /// Kill the child, or give up its start; answer with `Exited` or `StartFailed`.
    Kill {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// Send `LimitReached` at the given time, unless the incarnation has ended before.
    ArmLimit {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// Which limit.
        limit: Limit,
        /// When.
        at: Timestamp,
    },
    /// Send `RetryStart` behind the inputs that wait already.
    RetryStart {
        /// The child.
        child: ChildId,
        /// The start that failed.
        incarnation: Incarnation,
    },
    /// Forget the code that starts this child.
    Forget {
        /// The child.
        child: ChildId,
    },
    /// All children of the spec have been started.
    Ready,
    /// Answer a request.
    Reply {
        /// The request.
        id: RequestId,
        /// The answer.
        result: Result<Reply, Refusal>,
    },
    /// Leave. Always last.
    End(End),
}
