//! What follows a failed attempt.

use serde::{Deserialize, Serialize};

use crate::escalation::GivenUp;
use crate::task::WaitingFor;
use crate::time::Timestamp;

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// Another attempt, not before `at`.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// A wait for something outside.
    Park {
        /// For what.
        waiting_for: WaitingFor,
    },
    /// The task failed.
    Fail,
    /// The task is dead-lettered.
    DeadLetter,
    /// Somebody is asked to take the task up; who is told by the next event.
    Escalate {
        /// How it ends when nobody does.
        otherwise: GivenUp,
    },
    /// The task had been cancelled; the attempt's end ends it.
    Cancel,
}
