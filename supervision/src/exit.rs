//! What ractor says of an actor's end, in the terms of supervision.

use mesh_supervision_core::supervisor::{End, ExitReason};
use ractor::ActorProcessingErr;

/// The stop reason that a supervisor gives to its children, and leaves with itself when it ended in order.
pub const SHUTDOWN: &str = "shutdown";

/// What ractor says of an actor that was killed.
const KILLED: &str = "killed";
/// What ractor says of an actor whose task was aborted.
const CANCELLED: &str = "actor_task_cancelled";
/// What ractor says of an actor that was drained.
const DRAINED: &str = "Drained";

/// The error with which a supervisor leaves that gave up, so that any parent takes it as a failure.
///
/// It reaches the parent as `SupervisionEvent::ActorFailed`, whose error downcasts to this type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("supervisor {supervisor} gave up: {end}")]
pub struct Escalation {
    /// The supervisor's name.
    pub supervisor: String,
    /// Why it ended.
    pub end: End,
}

/// What a stop reason means: none, `normal` and a drained mailbox are normal; `shutdown` and `shutdown: …` are in
/// order; any other text is a failure, as in OTP, because a transient child must not vanish unnoticed.
///
/// ```
/// use mesh_supervision::{ExitReason, classify_stop};
/// assert_eq!(classify_stop(None), ExitReason::Normal);
/// assert_eq!(classify_stop(Some("shutdown: idle")), ExitReason::Shutdown(Some("idle".to_owned())));
/// assert_eq!(classify_stop(Some("killed")), ExitReason::Killed);
/// assert!(classify_stop(Some("disk on fire")).is_abnormal());
/// ```
pub fn classify_stop(reason: Option<&str>) -> ExitReason {
    match reason {
        None | Some("normal" | DRAINED) => ExitReason::Normal,
        Some(SHUTDOWN) => ExitReason::Shutdown(None),
        Some(KILLED | CANCELLED) => ExitReason::Killed,
        Some(text) => match text.strip_prefix("shutdown:") {
            Some(remark) => ExitReason::Shutdown(Some(remark.trim().to_owned())),
            None => ExitReason::Failed(text.to_owned()),
        },
    }
}

/// What a panic or an error means.
pub(crate) fn classify_failure(error: &ActorProcessingErr) -> ExitReason {
    match error.downcast_ref::<Escalation>() {
        Some(escalation) => ExitReason::Escalated(escalation.to_string()),
        None => ExitReason::Failed(error.to_string()),
    }
}
