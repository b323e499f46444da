//! Tasks as the audit tells of them.

use std::collections::BTreeMap;

use mesh_messages::escalation::{EscalationMove, GivenUp};
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::team::TeamStep;
use mesh_messages::{AgentId, AttemptNo, Epoch, InstanceNo, Position, TaskId};

use super::evidence::Evidence;

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) agent: AgentId,
    pub(super) instance: InstanceNo,
    pub(super) epoch: Epoch,
    pub(super) assigned: Position,
    /// Where its failure stands.
    pub(super) failed: Option<Position>,
    /// It ended with its instance.
    pub(super) ended_instance: bool,
    pub(super) started: bool,
}

/// One task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) attempts: BTreeMap<AttemptNo, Attempt>,
    /// Where it ended, in the round that it is in: once, unless something is wrong.
    pub(super) ends: Vec<Position>,
    /// The attempt whose result was taken, and where.
    pub(super) accepted: Vec<(AttemptNo, Position)>,
    pub(super) dead_lettered: bool,
}

/// The stories of all tasks of which anything was recorded.
pub(super) fn stories(evidence: &Evidence) -> BTreeMap<TaskId, Story> {
    let mut stories: BTreeMap<TaskId, Story> = BTreeMap::new();
    for (fact, task, event) in evidence.work() {
        let story = stories.entry(task.clone()).or_default();
        match event {
            TaskEvent::Assigned { assignment, .. } => {
                story.attempts.insert(
                    assignment.attempt,
                    Attempt {
                        agent: assignment.agent_id.clone(),
                        instance: assignment.instance,
                        epoch: assignment.epoch,
                        assigned: fact.position,
                        failed: None,
                        ended_instance: false,
                        started: false,
                    },
                );
            }
            TaskEvent::Started { attempt, .. } => {
                if let Some(attempt) = story.attempts.get_mut(attempt) {
                    attempt.started = true;
                }
            }
            TaskEvent::AttemptFailed {
                attempt,
                ended_instance,
                then,
                ..
            } => {
                if let Some(attempt) = story.attempts.get_mut(attempt) {
                    attempt.failed = Some(fact.position);
                    attempt.ended_instance = *ended_instance;
                }
                match then {
                    AfterFailure::Retry { .. } | AfterFailure::Park { .. } => {}
                    // What is found of the agents is found all the same.
                    AfterFailure::Escalate { otherwise } => {
                        story.dead_lettered = *otherwise == GivenUp::DeadLettered;
                    }
                    AfterFailure::Fail | AfterFailure::Cancel => story.ends.push(fact.position),
                    AfterFailure::DeadLetter => {
                        story.dead_lettered = true;
                        story.ends.push(fact.position);
                    }
                }
            }
            TaskEvent::Succeeded { attempt, .. } => {
                story.accepted.push((*attempt, fact.position));
                story.ends.push(fact.position);
            }
            TaskEvent::Cancelled { .. } | TaskEvent::Approved { .. } => {
                story.ends.push(fact.position);
            }
            TaskEvent::DeadLettered { .. } => {
                story.dead_lettered = true;
                story.ends.push(fact.position);
            }
            TaskEvent::Escalation { step, .. } => match step {
                EscalationMove::Asked(_) | EscalationMove::Retried { .. } => {}
                EscalationMove::Done { .. } | EscalationMove::Dropped { .. } => {
                    story.ends.push(fact.position);
                }
            },
            TaskEvent::Team { step, .. } => match &**step {
                TeamStep::Done { .. }
                | TeamStep::Failed {
                    escalates: false, ..
                } => story.ends.push(fact.position),
                TeamStep::Formed(_)
                | TeamStep::Began
                | TeamStep::Phase(_)
                | TeamStep::Failed { .. }
                | TeamStep::Disbanded { .. } => {}
            },
            TaskEvent::Retried { .. } => {
                story.ends.clear();
                story.accepted.clear();
                story.dead_lettered = false;
            }
            TaskEvent::Submitted { .. }
            | TaskEvent::Waiting { .. }
            | TaskEvent::Checking { .. }
            | TaskEvent::Checked { .. }
            | TaskEvent::Claim { .. }
            | TaskEvent::Trust(_)
            | TaskEvent::Gate { .. }
            | TaskEvent::Budget { .. } => {}
        }
    }
    stories
}
