//! What led to each event of a run: the request for it, or what was last on record of it, or of the run it is part of.

use std::collections::BTreeMap;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::{Position, WorkflowRunId};

use super::Shell;
use crate::partition::{Cause, Led};

/// The run of each event, if it is about one, and for which request it is.
pub(super) type Noted = Vec<(Option<WorkflowRunId>, Option<String>)>;

impl Shell {
    /// What led to each of the events of one decision, which `by` led to, and what is to be noted of them.
    pub(super) fn led(&self, events: &[WorkflowEvent], by: &Cause) -> (Vec<Led>, Noted) {
        let mut last: BTreeMap<&WorkflowRunId, (usize, Option<String>)> = BTreeMap::new();
        let (mut all, mut noted) = (Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            let run = event.run();
            let fired = || {
                // A planned time, and the start of a plan, come just before the run that they begin.
                let before = index.checked_sub(1)?;
                let is_fired = matches!(
                    events.get(before)?,
                    WorkflowEvent::ScheduleFired { .. } | WorkflowEvent::PlanStarted { .. }
                );
                let begins = matches!(event, WorkflowEvent::Started { .. });
                (is_fired && begins).then(|| (before, by.correlation.clone()))
            };
            let earlier = run.and_then(|run| last.get(run).cloned());
            let (led, correlation) = match (earlier.or_else(fired), run) {
                (Some((earlier, correlation)), _) => {
                    let by = Cause {
                        correlation: correlation.clone(),
                        ..Cause::meshd()
                    };
                    let led = Led {
                        by: Some(by),
                        after: u32::try_from(earlier).ok(),
                    };
                    (led, correlation)
                }
                (None, Some(run)) => self.first(event, run, by),
                (None, None) => (Led::default(), by.correlation.clone()),
            };
            noted.push((run.cloned(), correlation.clone()));
            if let Some(run) = run {
                last.insert(run, (index, correlation));
            }
            all.push(led);
        }
        (all, noted)
    }

    fn first(
        &self,
        event: &WorkflowEvent,
        run: &WorkflowRunId,
        by: &Cause,
    ) -> (Led, Option<String>) {
        let state = self.partition.state();
        let trail = match event {
            WorkflowEvent::Started { parent, .. } => {
                parent.as_ref().and_then(|parent| state.trail(&parent.run))
            }
            _ => state.trail(run),
        };
        // A request comes first: it is what was asked for just now.
        if by.cause.is_some() || trail.is_none() {
            return (Led::default(), by.correlation.clone());
        }
        let by = Cause::after(&by.actor, trail);
        let correlation = by.correlation.clone();
        let led = Led {
            by: Some(by),
            after: None,
        };
        (led, correlation)
    }

    /// Notes where the events of a commit stand, whose last record this is.
    pub(super) fn note_trail(&mut self, noted: Noted, last: Position) {
        let count = noted.len() as u64;
        for (offset, (run, correlation)) in (0..).zip(noted) {
            let Some(run) = run else { continue };
            let position = Position((last.0 + 1).saturating_sub(count) + offset);
            self.partition
                .state_mut()
                .note(&run, position, correlation.as_deref());
        }
    }
}
