//! Tasks: a row each, found by id, by idempotency key, and by every facet that lists filter by.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::events::TaskEvent;
use mesh_messages::inbox::InboxState;
use mesh_messages::task::Task;
use mesh_messages::{Position, RecordHeader, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ProjectFailure, View, ended, history, key, read_back, tree, written};
use crate::task::TaskRecord;

/// Inputs and outputs above this many bytes of JSON lie beside the row, which every event writes anew.
const DATA_INLINE_MAX: usize = 8 * 1024;

/// A task as the view holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// All about it, but for what lies beside the row.
    pub record: TaskRecord,
    /// Where its submission is in the log: the order of lists.
    pub submitted: Position,
    /// The last record that changed it.
    pub updated: Position,
    /// When that was.
    pub updated_at: Timestamp,
    /// Bytes of its input, when it lies beside the row.
    pub(super) input: Option<usize>,
    /// Bytes of its output, when it lies beside the row.
    pub(super) output: Option<usize>,
}

/// The facets that tasks are listed by, each with its value.
pub(super) fn facets(task: &Task) -> Vec<[&str; 2]> {
    let mut facets = vec![
        ["all", ""],
        ["state", task.state.name()],
        ["column", task.column()],
        ["type", task.spec.action()],
    ];
    if let (Some(state), Some(ask)) = (InboxState::of(task), &task.spec.approval) {
        facets.push(["inbox", state.name()]);
        facets.push(["inbox.all", ""]);
        facets.push(["inbox.kind", ask.kind.name()]);
    }
    if let Some(assignment) = &task.assignment {
        facets.push(["agent", assignment.agent_id.as_str()]);
    }
    facets
}

pub(super) fn data_key(id: &TaskId, which: &str) -> Vec<u8> {
    key::prefix(&[id.as_str(), which])
}

/// A task that records of one pass change.
#[derive(Debug)]
pub(super) struct Changing {
    /// As the view has it.
    before: Option<Task>,
    row: TaskRow,
}

pub(super) fn project<V: View>(
    header: &RecordHeader,
    id: &TaskId,
    event: &TaskEvent,
    changing: &mut BTreeMap<TaskId, Changing>,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    if matches!(event, TaskEvent::Gate { .. }) {
        // It tells of an account, not of the task that it was noted with.
        return Ok(());
    }
    if !changing.contains_key(id) {
        let held = view.get(tree::TASK, id.as_str().as_bytes());
        if let Some(bytes) = held.map_err(ProjectFailure::View)? {
            let row: TaskRow = read_back(&bytes)?;
            let before = Some(row.record.task.clone());
            changing.insert(id.clone(), Changing { before, row });
        }
    }
    let Some(Changing { row, .. }) = changing.get_mut(id) else {
        // Without a record, its submission was erased.
        if let Ok(record) = TaskRecord::first(id, event) {
            let row = begin(header, record, view);
            history::project(None, &row.record.task, event, view)?;
            changing.insert(id.clone(), Changing { before: None, row });
        }
        return Ok(());
    };
    let earlier = history::latest_before(&row.record.task, event);
    if row.record.fold(event).is_err() {
        // The erased payload of an earlier record left a gap; the audit still shows this one.
        return Ok(());
    }
    row.updated = header.position;
    row.updated_at = header.time;
    history::project(earlier, &row.record.task, event, view)
}

fn begin<V: View>(header: &RecordHeader, record: TaskRecord, view: &mut V) -> TaskRow {
    let task = &record.task;
    if let Some(idempotency_key) = &task.spec.idempotency_key {
        let key = key::prefix(&[&task.submitted_by, idempotency_key]);
        view.put(tree::TASK_KEY, &key, task.id.as_str().as_bytes().to_vec());
    }
    TaskRow {
        record,
        submitted: header.position,
        updated: header.position,
        updated_at: header.time,
        input: None,
        output: None,
    }
}

impl Changing {
    /// Puts the row, and whatever leads to it, into the view.
    pub(super) fn write<V: View>(
        self,
        id: &TaskId,
        view: &mut V,
    ) -> Result<(), ProjectFailure<V::Error>> {
        let Self { before, mut row } = self;
        set_aside(id, &mut row, view)?;
        let task = &row.record.task;
        reindex(id, row.submitted, before.as_ref(), task, view);
        recount(before.as_ref(), Some(task), view)?;
        let stored = written(&row)?;
        ended::project(before.as_ref(), &row, stored.len(), view)?;
        view.put(tree::TASK, id.as_str().as_bytes(), stored);
        Ok(())
    }
}

/// Moves a large input or output out of the row.
fn set_aside<V: View>(
    id: &TaskId,
    row: &mut TaskRow,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    let task = &mut row.record.task;
    if let Some(size) = large(&task.spec.input) {
        view.put(
            tree::TASK_DATA,
            &data_key(id, "input"),
            written(&task.spec.input.take())?,
        );
        row.input = Some(size);
    }
    if let Some(size) = task.output.as_ref().and_then(large)
        && let Some(output) = task.output.take()
    {
        view.put(tree::TASK_DATA, &data_key(id, "output"), written(&output)?);
        row.output = Some(size);
    }
    Ok(())
}

fn large(value: &Value) -> Option<usize> {
    let size = crate::task::json_len(value);
    (size > DATA_INLINE_MAX).then_some(size)
}

fn reindex<V: View>(id: &TaskId, at: Position, old: Option<&Task>, new: &Task, view: &mut V) {
    let keys = |task: &Task| -> BTreeSet<Vec<u8>> {
        facets(task)
            .iter()
            .map(|facet| key::descending(facet, at))
            .collect()
    };
    let (old, new) = (old.map(keys).unwrap_or_default(), keys(new));
    for key in old.difference(&new) {
        view.delete(tree::TASK_INDEX, key);
    }
    for key in new.difference(&old) {
        view.put(tree::TASK_INDEX, key, id.as_str().as_bytes().to_vec());
    }
}

pub(super) fn recount<V: View>(
    old: Option<&Task>,
    new: Option<&Task>,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    let keys = |task: &Task| [task.state.name().to_owned(), column_count(task.column())];
    let (old, new) = (old.map(keys), new.map(keys));
    let mut add = |key: &str, change: i64| {
        let held = view
            .get(tree::TASK_COUNT, key.as_bytes())
            .map_err(ProjectFailure::View)?;
        let count: u64 = held.map_or(Ok(0), |bytes| read_back(&bytes))?;
        match count.saturating_add_signed(change) {
            0 => view.delete(tree::TASK_COUNT, key.as_bytes()),
            count => view.put(tree::TASK_COUNT, key.as_bytes(), written(&count)?),
        }
        Ok(())
    };
    for number in 0..2 {
        let (old, new) = (
            old.as_ref().map(|keys| &keys[number]),
            new.as_ref().map(|keys| &keys[number]),
        );
        if old == new {
            continue;
        }
        if let Some(old) = old {
            add(old, -1)?;
        }
        if let Some(new) = new {
            add(new, 1)?;
        }
    }
    Ok(())
}

/// Under which key the tasks of a column are counted; those of a state are under its name.
pub(super) fn column_count(column: &str) -> String {
    format!("column/{column}")
}
