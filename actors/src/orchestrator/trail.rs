//! What led to each event of a task: the request for it, the end of the instance that had it, or what was last on record of it.

use std::collections::BTreeMap;

use mesh_actors_core::task::Command;
use mesh_messages::budget::BudgetStep;
use mesh_messages::events::TaskEvent;
use mesh_messages::{AgentId, Epoch, Position, TaskId};

use super::Shell;
use crate::partition::{Cause, Led};

/// Which tasks a command is about; what happens to others follows from it only by what becomes free.
#[derive(Debug)]
pub(super) enum About {
    /// All that it submits.
    Submitted,
    /// One.
    Task(TaskId),
    /// The gate before a provider's account.
    Gate,
    /// None in particular.
    None,
}

impl About {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Submit { .. } | Command::Delegate { .. } => Self::Submitted,
            Command::Cancel { task, .. }
            | Command::Retry { task }
            | Command::Split { task, .. }
            | Command::Approve { task, .. } => Self::Task(task.clone()),
            Command::AttemptStarted { attempt, .. }
            | Command::AttemptChecking { attempt, .. }
            | Command::AttemptChecked { attempt, .. }
            | Command::AttemptUsed { attempt, .. }
            | Command::AttemptEnded { attempt, .. } => Self::Task(attempt.task.clone()),
            Command::Claim { asker, .. } => Self::Task(asker.parent.task.clone()),
            Command::TryGate { .. } => Self::Gate,
            Command::InstanceDown { .. }
            | Command::Tick
            | Command::ResetTrust { .. }
            | Command::Fleet(_)
            | Command::News(_)
            | Command::Recover
            | Command::Reconcile { .. } => Self::None,
        }
    }

    /// Whether what led to the command led to this event.
    fn covers(&self, task: &TaskId, event: &TaskEvent) -> bool {
        match (self, event) {
            (Self::Submitted, event) => matches!(event, TaskEvent::Submitted { .. }),
            // Whoever cancels a task cancels what was delegated for it, too.
            (Self::Task(_), TaskEvent::Cancelled { .. }) => true,
            (Self::Task(about), _) => about == task,
            (Self::Gate, event) => matches!(event, TaskEvent::Gate { .. }),
            (Self::None, _) => false,
        }
    }
}

impl Shell {
    /// What led to each of the events of one decision, which `cause` led to.
    pub(super) fn led(
        &self,
        events: &[(TaskId, TaskEvent)],
        about: &About,
        cause: &Cause,
    ) -> Vec<Led> {
        let mut last: BTreeMap<&TaskId, usize> = BTreeMap::new();
        let mut all = Vec::with_capacity(events.len());
        for (index, (task, event)) in events.iter().enumerate() {
            let earlier = last.insert(task, index);
            all.push(match earlier {
                Some(earlier) => {
                    let began = about.covers(task, &events[earlier].1);
                    let correlation = match self.partition.state().trail(task) {
                        Some(trail) => trail.correlation.as_deref().map(str::to_owned),
                        None if began => cause.correlation.clone(),
                        None => None,
                    };
                    let by = Cause {
                        actor: self.actor_of(task, event),
                        cause: None,
                        correlation,
                        task: None,
                    };
                    Led {
                        by: Some(by),
                        after: u32::try_from(earlier).ok(),
                    }
                }
                None if cause.cause.is_some() && about.covers(task, event) => Led::default(),
                None => self.led_by_trail(task, event, cause),
            });
        }
        all
    }

    /// By what was on record of the task before, or of the one that it was delegated for.
    fn led_by_trail(&self, task: &TaskId, event: &TaskEvent, cause: &Cause) -> Led {
        let state = self.partition.state();
        let by = match event {
            TaskEvent::Submitted { spec, .. } => {
                let parent = spec.parent.as_ref().and_then(|parent| state.trail(parent));
                match parent {
                    Some(trail) => Cause::after(&cause.actor, Some(trail)),
                    None => return Led::default(),
                }
            }
            // Who cancels outside of requests is named in the reason.
            TaskEvent::Cancelled { .. }
            | TaskEvent::Escalation { .. }
            | TaskEvent::Team { .. }
            | TaskEvent::Approved { .. }
            | TaskEvent::Retried { .. } => Cause::after(&cause.actor, state.trail(task)),
            TaskEvent::AttemptFailed { .. } => {
                let mut by = Cause::after(self.actor_of(task, event), state.trail(task));
                by.cause = self.end_of_instance(task).or(by.cause);
                by
            }
            TaskEvent::Waiting { .. }
            | TaskEvent::Assigned { .. }
            | TaskEvent::Started { .. }
            | TaskEvent::Checking { .. }
            | TaskEvent::Checked { .. }
            | TaskEvent::Claim { .. }
            | TaskEvent::Trust(_)
            | TaskEvent::Gate { .. }
            | TaskEvent::Budget { .. }
            | TaskEvent::Succeeded { .. }
            | TaskEvent::DeadLettered { .. } => {
                Cause::after(self.actor_of(task, event), state.trail(task))
            }
        };
        Led {
            by: Some(by),
            after: None,
        }
    }

    /// The record of the end of the instance that had the task, while that is what is being decided on.
    fn end_of_instance(&self, task: &TaskId) -> Option<Position> {
        let attempt = self.partition.state().get(task)?.attempts.last()?;
        let key = (attempt.agent_id.clone(), attempt.epoch);
        self.downs.get(&key).copied()
    }

    /// A result is the agent's word, all else is what meshd decides or sees.
    fn actor_of(&self, task: &TaskId, event: &TaskEvent) -> String {
        let agent = match event {
            TaskEvent::Succeeded { .. } => self.partition.state().get(task),
            _ => None,
        };
        let agent = agent.and_then(|task| task.attempts.last());
        agent.map_or_else(
            || "meshd".to_owned(),
            |attempt| format!("agent:{}", attempt.agent_id),
        )
    }

    /// Notes where the events of a commit stand, whose last record this is.
    pub(super) fn note_trail(&mut self, noted: Vec<(TaskId, Option<String>)>, last: Position) {
        let count = noted.len() as u64;
        for (offset, (task, correlation)) in (0..).zip(noted) {
            let position = Position((last.0 + 1).saturating_sub(count) + offset);
            self.partition
                .state_mut()
                .note(&task, position, correlation.as_deref());
        }
    }
}

/// The ends of instances that are on record and not taken in yet: what their attempts' failures follow from.
pub(super) type Downs = BTreeMap<(AgentId, Epoch), Position>;

/// Which agent an event of a task concerns.
pub(super) fn agent_of(event: &TaskEvent) -> Option<AgentId> {
    match event {
        TaskEvent::Assigned { assignment, .. } => Some(assignment.agent_id.clone()),
        TaskEvent::Budget { step, .. } => match &**step {
            BudgetStep::Restarted { agent, .. } => Some(agent.clone()),
            _ => None,
        },
        _ => None,
    }
}
