//! What tasks leave behind beside their rows: assignments that were followed by others, how agents did with each type of
//! task, and who delegated to whom.
//!
//! A task's latest assignment is in its row. Only when another one takes its place does it get an entry of its own here, so
//! a task that succeeds at once costs nothing.

use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::task::{Task, TaskAssignment};
use mesh_messages::{AgentId, AttemptNo, Failure, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ProjectFailure, View, key, read_back, tree, written};
use crate::routing::TypeRecord;

/// How a submitter begins that is an agent.
const AGENT_SUBMITTER: &str = "agent:";

/// An assignment and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AssignmentRow {
    /// Who, why, and when.
    pub(super) assignment: TaskAssignment,
    /// How its attempt ended; `None` while it has not.
    pub(super) outcome: Option<AttemptOutcome>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AttemptOutcome {
    /// When.
    pub(super) at: Timestamp,
    /// Why it failed; `None` when it succeeded.
    pub(super) error: Option<Failure>,
}

/// What an agent's past with one type of task says. Routing rests on the same numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LessonRow {
    /// The agent.
    pub(super) agent: AgentId,
    /// The type of task.
    pub(super) kind: String,
    /// The numbers.
    pub(super) record: TypeRecord,
    /// Assignments of such tasks to the agent that were decided when there were numbers already.
    pub(super) applied: u64,
    /// When the first attempt ended that is counted.
    pub(super) since: Timestamp,
}

/// One agent's delegations to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RelationRow {
    /// Who delegates.
    pub(super) from: AgentId,
    /// Who does it.
    pub(super) to: AgentId,
    /// Delegated tasks' assignments to that agent.
    pub(super) assigned: u64,
    /// Those that succeeded.
    pub(super) succeeded: u64,
    /// Those that failed.
    pub(super) failed: u64,
    /// The first assignment.
    pub(super) since: Timestamp,
    /// The last assignment, or the last end of one.
    pub(super) last: Timestamp,
}

/// The latest assignment of a task; `None` before the first.
pub(super) fn latest(task: &Task) -> Option<AssignmentRow> {
    let assignment = task.assignment.clone()?;
    let attempt = task
        .attempts
        .last()
        .filter(|attempt| attempt.number == assignment.attempt);
    let outcome = attempt.and_then(|attempt| {
        attempt.ended_at.map(|at| AttemptOutcome {
            at,
            error: attempt.error.clone(),
        })
    });
    Some(AssignmentRow {
        assignment,
        outcome,
    })
}

/// Where an earlier assignment of a task lies.
pub(super) fn assignment_key(task: &TaskId, attempt: AttemptNo) -> Vec<u8> {
    let mut key = key::prefix(&[task.as_str()]);
    key.extend(u64::from(attempt.0).to_be_bytes());
    key
}

/// The assignment that an event puts another one in the place of.
pub(super) fn latest_before(before: &Task, event: &TaskEvent) -> Option<AssignmentRow> {
    matches!(event, TaskEvent::Assigned { .. })
        .then(|| latest(before))
        .flatten()
}

/// Takes in what an event of a task says beyond the task: `after` is the task after it, `earlier` the assignment that it put
/// another one in the place of.
pub(super) fn project<V: View>(
    earlier: Option<AssignmentRow>,
    after: &Task,
    event: &TaskEvent,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    match event {
        TaskEvent::Assigned { assignment, .. } => {
            if let Some(earlier) = earlier {
                let key = assignment_key(&after.id, earlier.assignment.attempt);
                view.put(tree::ASSIGNMENT, &key, written(&earlier)?);
            }
            let agent = &assignment.agent_id;
            with_lesson(agent, after, None, view, |lesson| lesson.applied += 1)?;
            let at = assignment.assigned_at;
            with_relation(agent, after, at, view, |relation| relation.assigned += 1)
        }
        TaskEvent::Succeeded { at, .. } => {
            let Some(attempt) = after.attempts.last() else {
                return Ok(());
            };
            let agent = &attempt.agent_id;
            let ms = at.since(attempt.started_at).as_millis();
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            with_lesson(agent, after, Some(*at), view, |lesson| {
                lesson.record.note_success(ms);
            })?;
            with_relation(agent, after, *at, view, |relation| relation.succeeded += 1)
        }
        TaskEvent::AttemptFailed {
            at, failure, then, ..
        } if !matches!(then, AfterFailure::Cancel) && TypeRecord::counts(failure.class) => {
            let Some(attempt) = after.attempts.last() else {
                return Ok(());
            };
            let agent = &attempt.agent_id;
            with_lesson(agent, after, Some(*at), view, |lesson| {
                lesson.record.note_failure();
            })?;
            with_relation(agent, after, *at, view, |relation| relation.failed += 1)
        }
        // What ended without the agent's doing says nothing of it.
        TaskEvent::AttemptFailed { .. }
        | TaskEvent::Submitted { .. }
        | TaskEvent::Waiting { .. }
        | TaskEvent::Started { .. }
        | TaskEvent::Checking { .. }
        | TaskEvent::Checked { .. }
        | TaskEvent::Claim { .. }
        | TaskEvent::Trust(_)
        | TaskEvent::Gate { .. }
        | TaskEvent::Budget { .. }
        | TaskEvent::Cancelled { .. }
        | TaskEvent::DeadLettered { .. }
        | TaskEvent::Escalation { .. }
        | TaskEvent::Team { .. }
        | TaskEvent::Approved { .. }
        | TaskEvent::Retried { .. } => Ok(()),
    }
}

/// Changes a lesson. One that is not there yet begins at `begin`; without that, nothing happens.
fn with_lesson<V: View>(
    agent: &AgentId,
    task: &Task,
    begin: Option<Timestamp>,
    view: &mut V,
    change: impl FnOnce(&mut LessonRow),
) -> Result<(), ProjectFailure<V::Error>> {
    let kind = task.spec.action();
    let key = key::prefix(&[agent.as_str(), kind]);
    let held = view
        .get(tree::LESSON, &key)
        .map_err(ProjectFailure::View)?
        .map(|bytes| read_back(&bytes))
        .transpose()?;
    let begun = begin.map(|since| LessonRow {
        agent: agent.clone(),
        kind: kind.to_owned(),
        record: TypeRecord::default(),
        applied: 0,
        since,
    });
    if let Some(mut lesson) = held.or(begun) {
        change(&mut lesson);
        view.put(tree::LESSON, &key, written(&lesson)?);
    }
    Ok(())
}

/// Changes what is between the agent that delegated the task and the one that has it, if an agent did.
fn with_relation<V: View>(
    to: &AgentId,
    task: &Task,
    at: Timestamp,
    view: &mut V,
    change: impl FnOnce(&mut RelationRow),
) -> Result<(), ProjectFailure<V::Error>> {
    let from = task.submitted_by.strip_prefix(AGENT_SUBMITTER);
    let (Some(Ok(from)), Some(_)) = (from.map(AgentId::new), &task.spec.parent) else {
        return Ok(());
    };
    let key = key::prefix(&[from.as_str(), to.as_str()]);
    let held = view
        .get(tree::RELATION, &key)
        .map_err(ProjectFailure::View)?
        .map(|bytes| read_back(&bytes))
        .transpose()?;
    let mut relation = held.unwrap_or_else(|| RelationRow {
        from,
        to: to.clone(),
        assigned: 0,
        succeeded: 0,
        failed: 0,
        since: at,
        last: at,
    });
    relation.last = relation.last.max(at);
    change(&mut relation);
    view.put(tree::RELATION, &key, written(&relation)?);
    Ok(())
}
