//! What became of it: the supervisor's own end, and what is told to logs and auditors.

use std::{fmt, time::Duration};

use super::{
    io::{ExitReason, Incarnation},
    spec::{ChildId, Restart},
};

/// How a supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Its significant children were done.
    AutoShutdown,
    /// It granted all the restarts that it may. Must reach the parent as an abnormal end.
    Escalated {
        /// Whose restart was one too many.
        child: ChildId,
        /// How that child ended.
        reason: String,
        /// How many restarts are granted.
        intensity: u32,
        /// Within what time.
        period: Duration,
    },
    /// A child of the spec could not be started in the first place.
    BootFailed {
        /// The child.
        child: ChildId,
        /// Why.
        reason: String,
    },
}

impl End {
    /// Whether the parent must take it as a failure.
    pub const fn is_abnormal(&self) -> bool {
        matches!(self, Self::Escalated { .. } | Self::BootFailed { .. })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::AutoShutdown => f.write_str("its significant children are done"),
            Self::Escalated {
                child,
                reason,
                intensity,
                period,
            } => write!(
                f,
                "child {child} needed more than {intensity} restarts within {period:?} ({reason})"
            ),
            Self::BootFailed { child, reason } => {
                write!(f, "child {child} could not be started: {reason}")
            }
        }
    }
}

/// What happened, for logs and auditors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A child was started.
    Started {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// A start failed.
    StartFailed {
        /// The child.
        child: ChildId,
        /// The start.
        incarnation: Incarnation,
        /// Why.
        reason: String,
    },
    /// A child ended by itself.
    Exited {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// Why.
        reason: ExitReason,
        /// Its restart type.
        restart: Restart,
    },
    /// A restart was granted.
    Restarting {
        /// The child that needs it.
        child: ChildId,
        /// How many restarts the window holds now.
        restarts_in_window: u32,
    },
    /// A restart was refused; the supervisor is about to end.
    LimitExceeded {
        /// The child that needed it.
        child: ChildId,
        /// How many restarts are granted.
        intensity: u32,
        /// Within what time.
        period: Duration,
    },
    /// A child did not stop in time and is killed.
    Overdue {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
    },
    /// A child was stopped as ordered.
    Stopped {
        /// The child.
        child: ChildId,
        /// Its start.
        incarnation: Incarnation,
        /// How it ended.
        reason: ExitReason,
        /// Whether that is how a stop should end: as the child was told, or, unless it is permanent, in order by itself.
        clean: bool,
    },
    /// The supervisor has ended.
    Ended(End),
}
