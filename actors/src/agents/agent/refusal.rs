//! Refusals as the outside sees them.

use mesh_actors_core::agent::AgentRefusal;
use mesh_messages::AgentId;
use mesh_messages::problem::{Problem, ProblemKind};

/// A refusal as the outside sees it.
pub(super) fn refused(agent: &AgentId, refusal: &AgentRefusal) -> Problem {
    use mesh_supervision_core::fault::FaultRefusal as F;
    let conflict = |code, text: String| Problem::new(ProblemKind::Conflict, code, text);
    match refusal {
        AgentRefusal::Policy {
            source: F::NotQuarantined,
            ..
        } => conflict(
            "not_in_quarantine",
            format!("Agent {agent} not in quarantine"),
        ),
        AgentRefusal::Policy {
            order,
            source: F::Quarantined,
            ..
        } => conflict(
            "quarantined",
            format!("agent {agent} is in quarantine and cannot be ordered to {order}; use recover"),
        ),
        AgentRefusal::Policy {
            source: F::MaxRetriesExceeded,
            ..
        } => conflict("max_retries_exceeded", "max_retries_exceeded".to_owned()),
        AgentRefusal::Policy {
            order,
            source: F::NextAttemptAt { state, at },
            ..
        } => conflict(
            "will_start_by_itself",
            format!(
                "agent {agent} is in {state} and cannot be ordered to {order}; nextAttemptAt: {}",
                mesh_actors_core::agent::fault::mesh_time(*at)
            ),
        ),
        AgentRefusal::Policy {
            source: F::AlreadyRunning,
            ..
        } => conflict("already_running", refusal.to_string()),
        AgentRefusal::Policy {
            source: F::Terminated,
            ..
        } => conflict("terminated", refusal.to_string()),
        AgentRefusal::Policy { .. } => conflict("illegal_order", refusal.to_string()),
        AgentRefusal::Illegal { .. } => conflict("illegal_step", refusal.to_string()),
        AgentRefusal::Upgrading(_) => conflict("upgrading", refusal.to_string()),
        AgentRefusal::NoVersion(_) => conflict("no_version", refusal.to_string()),
        AgentRefusal::Version(_) => conflict("version_refused", refusal.to_string()),
    }
}
