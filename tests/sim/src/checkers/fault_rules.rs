//! The numbers and words of `docs/semantics.md`, written down a second time.

use std::time::Duration;

use mesh_messages::FailureClass;
use mesh_supervision_core::fault::Severity;

/// What a failure means for its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is tried again.
    Retry,
    /// It is tried again and uses up no attempt.
    Free,
    /// It waits for the provider.
    Park,
    /// Another agent is asked.
    Elsewhere,
    /// It ends.
    Final,
}

/// Times that a task may be lost and be tried again.
pub(crate) const LOST_MAX: u32 = 20;

/// The table "what a failure leads to": for the task, for the agent's score, and how bad it is.
pub(crate) const fn of_class(class: FailureClass) -> (Meaning, bool, Severity) {
    match class {
        FailureClass::Crash | FailureClass::Start | FailureClass::Hang | FailureClass::Resource => {
            (Meaning::Retry, true, Severity::Medium)
        }
        FailureClass::Timeout | FailureClass::Unavailable | FailureClass::Contract => {
            (Meaning::Retry, false, Severity::Low)
        }
        FailureClass::Declined => (Meaning::Elsewhere, false, Severity::Low),
        FailureClass::Quota => (Meaning::Park, false, Severity::Low),
        FailureClass::Lost => (Meaning::Free, false, Severity::Low),
        FailureClass::Refusal | FailureClass::Auth | FailureClass::Cancelled => {
            (Meaning::Final, false, Severity::Low)
        }
        FailureClass::Policy => (Meaning::Final, true, Severity::High),
    }
}

/// Automatic recoveries by the worst severity, and the pause before the first.
pub(crate) const fn recoveries(worst: Severity) -> (u32, Duration) {
    match worst {
        Severity::Low => (5, Duration::from_secs(30)),
        Severity::Medium => (3, Duration::from_mins(1)),
        Severity::High => (1, Duration::from_mins(5)),
        Severity::Critical => (0, Duration::MAX),
    }
}
