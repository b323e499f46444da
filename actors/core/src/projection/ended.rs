//! Ended tasks in the order of their ends, for retention, and what is left of those that it removed.

use mesh_messages::task::{Task, TaskState};
use mesh_messages::{AgentId, Position, RecordHeader, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use super::read::Reader;
use super::tasks::{TaskRow, data_key, facets, recount};
use super::{ProjectFailure, View, history, key, read_back, tree, written};
use crate::retention::Totals;

/// Key of the totals.
const TOTALS: &[u8] = b"ended";

/// What retention knows of an ended task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRow {
    /// Which.
    pub id: TaskId,
    /// When it ended.
    pub at: Timestamp,
    /// How large it is in the view.
    pub bytes: u64,
    /// Its last record.
    pub last: Position,
    /// The task that delegated it.
    pub parent: Option<TaskId>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// How it ended.
    pub state: TaskState,
    /// Who had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
}

/// What is left of a task that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRow {
    /// When.
    pub at: Timestamp,
    /// The record that says so.
    pub position: Position,
}

/// Where tasks begin that ended at this time or later: a cursor of [`ended_page`].
pub fn ended_from(at: Timestamp) -> Vec<u8> {
    at.as_millis().to_be_bytes().to_vec()
}

fn ended_key(task: &Task) -> Option<Vec<u8>> {
    let at = task.ended_at.filter(|_| task.state.is_terminal())?;
    let mut key = at.as_millis().to_be_bytes().to_vec();
    key.extend_from_slice(task.id.as_str().as_bytes());
    Some(key)
}

/// A task changed: it may have ended, or begun anew.
pub(super) fn project<V: View>(
    old: Option<&Task>,
    row: &TaskRow,
    stored: usize,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    if let Some(old) = old {
        leave(old, view)?;
    }
    let task = &row.record.task;
    let (Some(key), Some(at)) = (ended_key(task), task.ended_at) else {
        return Ok(());
    };
    let beside = row.input.unwrap_or(0) + row.output.unwrap_or(0);
    let ended = EndedRow {
        id: task.id.clone(),
        at,
        bytes: (stored + beside) as u64,
        last: row.updated,
        parent: task.spec.parent.clone(),
        submitted_at: task.submitted_at,
        state: task.state,
        agent: task.assignment.as_ref().map(|a| a.agent_id.clone()),
    };
    let mut totals = totals_in(view)?;
    totals.tasks += 1;
    totals.bytes += ended.bytes;
    view.put(tree::TASK_TOTAL, TOTALS, written(&totals)?);
    view.put(tree::TASK_ENDED, &key, written(&ended)?);
    Ok(())
}

/// Takes a task off the ended ones, if it is one.
fn leave<V: View>(task: &Task, view: &mut V) -> Result<(), ProjectFailure<V::Error>> {
    let Some(key) = ended_key(task) else {
        return Ok(());
    };
    let held = view
        .get(tree::TASK_ENDED, &key)
        .map_err(ProjectFailure::View)?;
    let Some(bytes) = held else { return Ok(()) };
    let ended: EndedRow = read_back(&bytes)?;
    let mut totals = totals_in(view)?;
    totals.tasks = totals.tasks.saturating_sub(1);
    totals.bytes = totals.bytes.saturating_sub(ended.bytes);
    view.put(tree::TASK_TOTAL, TOTALS, written(&totals)?);
    view.delete(tree::TASK_ENDED, &key);
    Ok(())
}

fn totals_in<V: View>(view: &V) -> Result<Totals, ProjectFailure<V::Error>> {
    let held = view
        .get(tree::TASK_TOTAL, TOTALS)
        .map_err(ProjectFailure::View)?;
    held.map_or(Ok(Totals::default()), |bytes| read_back(&bytes))
}

/// Retention removed a task: all that is left is that it did, and the audit.
pub(super) fn remove<V: View>(
    header: &RecordHeader,
    id: &TaskId,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    let removed = RemovedRow {
        at: header.time,
        position: header.position,
    };
    view.put(
        tree::TASK_REMOVED,
        id.as_str().as_bytes(),
        written(&removed)?,
    );
    let held = view
        .get(tree::TASK, id.as_str().as_bytes())
        .map_err(ProjectFailure::View)?;
    // A view that is made anew finds the task's records erased.
    let Some(bytes) = held else { return Ok(()) };
    let row: TaskRow = read_back(&bytes)?;
    let task = &row.record.task;
    leave(task, view)?;
    for facet in facets(task) {
        view.delete(tree::TASK_INDEX, &key::descending(&facet, row.submitted));
    }
    for which in ["input", "output"] {
        view.delete(tree::TASK_DATA, &data_key(id, which));
    }
    if let Some(idempotency_key) = &task.spec.idempotency_key {
        let key = key::prefix(&[&task.submitted_by, idempotency_key]);
        let stands_for = view.get(tree::TASK_KEY, &key);
        let stands_for = stands_for.map_err(ProjectFailure::View)?;
        if stands_for.as_deref() == Some(id.as_str().as_bytes()) {
            view.delete(tree::TASK_KEY, &key);
        }
    }
    for attempt in &task.attempts {
        view.delete(
            tree::ASSIGNMENT,
            &history::assignment_key(id, attempt.number),
        );
    }
    recount(Some(task), None, view)?;
    view.delete(tree::TASK, id.as_str().as_bytes());
    Ok(())
}

/// Some ended tasks, oldest end first, and where the next page begins.
pub type EndedPage = (Vec<EndedRow>, Option<Vec<u8>>);

/// Ended tasks, oldest end first.
///
/// # Errors
/// [`ProjectFailure`].
pub fn ended_page<R: Reader>(
    reader: &R,
    from: Option<&[u8]>,
    limit: usize,
) -> Result<EndedPage, ProjectFailure<R::Error>> {
    let slice = reader
        .scan(tree::TASK_ENDED, b"", from, limit)
        .map_err(ProjectFailure::View)?;
    let rows: Result<_, _> = slice
        .entries
        .iter()
        .map(|(_, row)| read_back(row))
        .collect();
    Ok((rows?, slice.next))
}

/// All ended tasks together.
///
/// # Errors
/// [`ProjectFailure`].
pub fn ended_totals<R: Reader>(reader: &R) -> Result<Totals, ProjectFailure<R::Error>> {
    let held = reader
        .get(tree::TASK_TOTAL, TOTALS)
        .map_err(ProjectFailure::View)?;
    held.map_or(Ok(Totals::default()), |bytes| read_back(&bytes))
}

/// What is left of a task that retention removed; `None` if it did not.
///
/// # Errors
/// [`ProjectFailure`].
pub fn removed<R: Reader>(
    reader: &R,
    id: &TaskId,
) -> Result<Option<RemovedRow>, ProjectFailure<R::Error>> {
    let held = reader
        .get(tree::TASK_REMOVED, id.as_str().as_bytes())
        .map_err(ProjectFailure::View)?;
    held.map(|bytes| read_back(&bytes)).transpose()
}
