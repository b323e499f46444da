//! What led to each event of an agent: the order for it, the decision it follows from, or what was last on record of the
//! incarnation.

use mesh_messages::events::AgentEvent;
use mesh_messages::{Epoch, Position};

use crate::few::Few;
use crate::partition::{Cause, Led};

/// Ends that are remembered: all replicas of an agent may end at once.
const ENDS_MAX: usize = mesh_messages::agent::REPLICAS_MAX as usize;

/// Where the log stands with an agent. Its incarnations end with its actor, so nothing of this needs to be kept.
#[derive(Debug, Default)]
pub(super) struct AgentTrail {
    /// The last record that is no incarnation's: an order, a decision of the fault policy.
    decision: Option<Position>,
    /// The last record of each incarnation that has not ended, and the request that it was started for.
    epochs: Few<Epoch, (Position, Option<String>)>,
    /// The records of ends whose attempts have not been told yet.
    ends: Few<Epoch, Position>,
}

impl AgentTrail {
    /// Of an agent whose partition ends with this record.
    pub(super) fn from_record(newest: Option<Position>) -> Self {
        Self {
            decision: newest,
            ..Self::default()
        }
    }

    /// What led to each of the events of one decision, which `cause` led to.
    pub(super) fn led(&self, events: &[AgentEvent], cause: &Cause) -> Vec<Led> {
        let mut all: Vec<Led> = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let before = &events[..index];
            let earlier = match epoch_of(event) {
                Some(epoch) => same_epoch(before, epoch).or_else(|| {
                    // An end is the incarnation's own, a start is decided on.
                    let decided = !matches!(event, AgentEvent::InstanceFailed { .. });
                    decided.then(|| last_decision(before)).flatten()
                }),
                None => last_decision(before).or(index.checked_sub(1)),
            };
            all.push(match earlier {
                Some(earlier) => Led::after(earlier),
                None if cause.cause.is_some() => Led::default(),
                None => self.by_record(event, cause),
            });
        }
        all
    }

    fn by_record(&self, event: &AgentEvent, cause: &Cause) -> Led {
        let known = epoch_of(event).and_then(|epoch| self.epochs.get(&epoch));
        let (position, correlation) = match (known, event) {
            // It was told to.
            (Some((last, _)), AgentEvent::InstanceStopped { .. }) => {
                (Some(*last).max(self.decision), None)
            }
            (
                Some((last, correlation)),
                AgentEvent::Handshaken { .. } | AgentEvent::Started { .. },
            ) => (Some(*last), correlation.clone()),
            (Some((last, _)), _) => (Some(*last), None),
            (None, _) => (self.decision, None),
        };
        let by = Cause {
            actor: cause.actor.clone(),
            cause: position,
            correlation,
            task: None,
        };
        Led {
            by: Some(by),
            after: None,
        }
    }

    /// Notes where the events of a commit stand, whose last record this is.
    pub(super) fn note(
        &mut self,
        noted: impl ExactSizeIterator<Item = Noted>,
        last: Option<Position>,
    ) {
        let Some(last) = last else { return };
        let first = (last.0 + 1).saturating_sub(noted.len() as u64);
        for (offset, noted) in (0..).zip(noted) {
            let position = Position(first + offset);
            match noted {
                Noted::Decision => self.decision = Some(position),
                Noted::Begun(epoch, correlation) => {
                    self.epochs.insert(epoch, (position, correlation));
                }
                Noted::GoesOn(epoch) => {
                    if let Some((last, _)) = self.epochs.get_mut(&epoch) {
                        *last = position;
                    }
                }
                Noted::Ended(epoch) => {
                    self.epochs.remove(&epoch);
                    self.ends.insert(epoch, position);
                    // What ended as it was told to is asked for by nobody.
                    if self.ends.keys().count() > ENDS_MAX
                        && let Some(oldest) = self.ends.keys().min().copied()
                    {
                        self.ends.remove(&oldest);
                    }
                }
            }
        }
    }

    /// The record of an incarnation's end, for those who had to do with it.
    pub(super) fn end_of(&mut self, epoch: Epoch) -> Option<Position> {
        self.ends.remove(&epoch)
    }
}

/// What is remembered of an event.
#[derive(Debug)]
pub(super) enum Noted {
    Decision,
    Begun(Epoch, Option<String>),
    GoesOn(Epoch),
    Ended(Epoch),
}

impl Noted {
    pub(super) fn of(event: &AgentEvent, cause: &Cause) -> Self {
        match event {
            AgentEvent::Activated { epoch, .. } => Self::Begun(*epoch, cause.correlation.clone()),
            AgentEvent::InstanceStopped { epoch, .. }
            | AgentEvent::InstanceFailed { epoch, .. } => Self::Ended(*epoch),
            event => epoch_of(event).map_or(Self::Decision, Self::GoesOn),
        }
    }
}

fn epoch_of(event: &AgentEvent) -> Option<Epoch> {
    match event {
        AgentEvent::Activated { epoch, .. }
        | AgentEvent::Handshaken { epoch, .. }
        | AgentEvent::Started { epoch, .. }
        | AgentEvent::InstanceStopped { epoch, .. }
        | AgentEvent::InstanceFailed { epoch, .. }
        | AgentEvent::Finding { epoch, .. }
        | AgentEvent::LimitsChanged { epoch, .. }
        | AgentEvent::LimitBreached { epoch, .. }
        | AgentEvent::InstanceFrozen { epoch, .. }
        | AgentEvent::StateSaved { epoch, .. }
        | AgentEvent::StateRestored { epoch, .. }
        | AgentEvent::StateLost { epoch, .. }
        | AgentEvent::InstanceHealth { epoch, .. } => Some(*epoch),
        AgentEvent::Created { .. }
        | AgentEvent::Registered { .. }
        | AgentEvent::FaultChanged { .. }
        | AgentEvent::Quarantined { .. }
        | AgentEvent::Recovered { .. }
        | AgentEvent::ProbationPassed { .. }
        | AgentEvent::Upgraded { .. }
        | AgentEvent::DesiredChanged { .. }
        | AgentEvent::LifecycleChanged { .. }
        | AgentEvent::Terminated { .. }
        | AgentEvent::Audited { .. } => None,
    }
}

fn same_epoch(before: &[AgentEvent], epoch: Epoch) -> Option<usize> {
    before
        .iter()
        .rposition(|event| epoch_of(event) == Some(epoch))
}

fn last_decision(before: &[AgentEvent]) -> Option<usize> {
    before.iter().rposition(|event| epoch_of(event).is_none())
}
