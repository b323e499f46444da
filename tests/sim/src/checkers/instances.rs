//! The nine stages of an agent, and that none of its waits is without an end.

use mesh_messages::agent::Lifecycle;
use mesh_messages::events::AgentEvent;
use mesh_supervision_core::fault::FaultState;

use super::{Verdict, ensure};
use crate::edges::Edges;
use crate::world::agents::{Seat, Shell};

const STAGES: &str = "an agent passes its stages as they are drawn";
const WAITS: &str = "nothing waits without a deadline: agents";

/// Whether one stage may follow another, as DESIGN §5 draws it.
const fn may_follow(from: Lifecycle, to: Lifecycle) -> bool {
    use Lifecycle as L;
    match to {
        L::Defined => false,
        L::Registered => matches!(
            from,
            L::Defined
                | L::Registered
                | L::Activated
                | L::Handshaken
                | L::Executing
                | L::Upgrading
                | L::Audited
        ),
        L::Activated => matches!(
            from,
            L::Registered
                | L::Activated
                | L::Handshaken
                | L::Executing
                | L::Upgrading
                | L::Quarantined
        ),
        L::Handshaken => matches!(from, L::Activated),
        L::Executing => matches!(from, L::Handshaken | L::Upgrading),
        L::Upgrading => matches!(from, L::Executing),
        L::Quarantined => matches!(
            from,
            L::Registered | L::Activated | L::Handshaken | L::Executing | L::Upgrading
        ),
        L::Terminated => !matches!(from, L::Defined | L::Terminated | L::Audited),
        L::Audited => matches!(from, L::Terminated),
    }
}

/// Checks the step that one event makes. Of several replicas, the end of the furthest leads back to `Registered` and
/// from there at once to where the next one stands.
pub(crate) fn check_stage(
    (from, to): (Lifecycle, Lifecycle),
    event: &AgentEvent,
    alone: bool,
    edges: &mut Edges,
) -> Verdict {
    if from == to {
        return Ok(());
    }
    let ended = matches!(
        event,
        AgentEvent::InstanceFailed { .. } | AgentEvent::InstanceStopped { .. }
    );
    let climbs = matches!(
        to,
        Lifecycle::Activated | Lifecycle::Handshaken | Lifecycle::Executing
    );
    if !alone && ended && climbs && may_follow(from, Lifecycle::Registered) {
        edges.hit("agent stage", "the next replica is the furthest");
        return Ok(());
    }
    ensure(may_follow(from, to), STAGES, || {
        format!("{from} became {to} by {event:?}")
    })?;
    edges.hit_named("agent stage", format_args!("{from} > {to}"));
    Ok(())
}

/// Whatever an agent waits for, something ends the wait.
pub(crate) fn check_waits(agent: usize, shell: &Shell, seat: &Seat) -> Verdict {
    let record = shell.machine.policy().record();
    let context = |what: &str| format!("agent {agent}: {what}: {record:?}");
    // What is decided and not yet on the disk arms its timer only then.
    if shell.owned.waiting() > 0 {
        return Ok(());
    }
    let armed = shell.timer.map(|(token, _)| token);
    ensure(record.timer.map(|t| t.token.0) == armed, WAITS, || {
        context("the timer of the policy is not the one that is armed")
    })?;
    match record.state {
        FaultState::Backoff | FaultState::Open => {
            ensure(armed.is_some(), WAITS, || context("it waits for no timer"))?;
        }
        FaultState::HalfOpen | FaultState::Recovering | FaultState::Running => {
            let state = &shell.owned.state;
            let wanted = state.replicas > 0 && state.instances.is_empty();
            ensure(!wanted || shell.rest.is_some(), WAITS, || {
                context("it is to run, nothing does, and nothing is due")
            })?;
            let idle = record.permit == Some(mesh_supervision_core::fault::Permit::Free)
                && record.up_since.is_some();
            ensure(!idle || armed.is_some(), WAITS, || {
                context("its trial has no end")
            })?;
        }
        FaultState::Quarantined | FaultState::Stopped | FaultState::Terminated => {}
    }
    ensure(
        record.crashes.len() <= 1000 && record.hour.len() <= 1000,
        "every queue is bounded: failures that are kept",
        || context("too many"),
    )?;
    ensure(
        seat.open.len() < 10_000,
        "every queue is bounded: attempts that are not settled",
        || format!("{} of agent {agent}", seat.open.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_is_left_out_is_noticed() {
        let event = AgentEvent::Created {
            name: "a".to_owned(),
        };
        let step = |from, to| check_stage((from, to), &event, true, &mut Edges::default());
        assert_eq!(step(Lifecycle::Defined, Lifecycle::Registered), Ok(()));
        for (from, to) in [
            (Lifecycle::Registered, Lifecycle::Executing),
            (Lifecycle::Quarantined, Lifecycle::Executing),
            (Lifecycle::Terminated, Lifecycle::Activated),
        ] {
            assert_eq!(step(from, to).unwrap_err().promise, STAGES);
        }
    }
}
