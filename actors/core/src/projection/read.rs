//! Reading the view: single tasks and agents, pages, counts.

use std::collections::BTreeMap;

use mesh_messages::inbox::{AskKind, InboxState};
use mesh_messages::task::{Task, TaskState};
use mesh_messages::{AgentId, TaskId};
use serde_json::Value;

use super::tasks::{TaskRow, data_key, facets};
use super::{ProjectFailure, key, read_back, tree};
use crate::agent::AgentState;
use crate::task::TaskRecord;

/// Largest page in bytes of its inputs and outputs: a page of full-sized tasks would be gigabytes.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Index entries that one page looks at: a filter that matches almost nothing answers with a cursor and no rows.
const PAGE_SCAN_MAX: usize = 10_000;
/// Index entries that are fetched at a time.
const SCAN_STEP: usize = 256;

/// Some entries in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slice {
    /// Keys and values.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first key that did not fit; `None` when there is none.
    pub next: Option<Vec<u8>>,
}

/// What is read.
pub trait Reader {
    /// Why it could not be read.
    type Error;
    /// A value.
    ///
    /// # Errors
    /// Whatever the store says.
    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
    /// The entries whose keys begin with `prefix`, from key `from` on, at most `limit`.
    ///
    /// # Errors
    /// Whatever the store says.
    fn scan(
        &self,
        tree: &'static str,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Slice, Self::Error>;
}

/// A page of tasks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskPage {
    /// The tasks, newest first.
    pub rows: Vec<TaskRow>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<Vec<u8>>,
}

/// Which tasks to list. What is absent matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// In this state.
    pub state: Option<TaskState>,
    /// Of this type.
    pub kind: Option<String>,
    /// Last assigned to this agent.
    pub agent: Option<AgentId>,
    /// In this column of the board.
    pub column: Option<String>,
    /// Of those that ask a person.
    pub inbox: Option<InboxFilter>,
}

/// Which tasks that ask a person. What is absent matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxFilter {
    /// In this state.
    pub state: Option<InboxState>,
    /// Of this kind.
    pub kind: Option<AskKind>,
}

impl TaskFilter {
    fn wanted(&self) -> Vec<[&str; 2]> {
        let inbox = self.inbox.as_ref();
        let named = [
            (
                "inbox",
                inbox.and_then(|inbox| inbox.state).map(InboxState::name),
            ),
            (
                "inbox.kind",
                inbox.and_then(|inbox| inbox.kind).map(AskKind::name),
            ),
            ("inbox.all", inbox.map(|_| "")),
            ("agent", self.agent.as_ref().map(AgentId::as_str)),
            ("type", self.kind.as_deref()),
            ("state", self.state.map(TaskState::name)),
            ("column", self.column.as_deref()),
        ];
        named
            .into_iter()
            .filter_map(|(facet, value)| Some([facet, value?]))
            .collect()
    }
}

/// A task with its input and output.
///
/// # Errors
/// [`ProjectFailure`].
pub fn task<R: Reader>(
    reader: &R,
    id: &TaskId,
) -> Result<Option<TaskRow>, ProjectFailure<R::Error>> {
    let Some(mut row) = bare(reader, id)? else {
        return Ok(None);
    };
    complete(reader, &mut row)?;
    Ok(Some(row))
}

/// The task that an idempotency key of a submitter stands for.
///
/// # Errors
/// [`ProjectFailure`].
pub fn task_by_key<R: Reader>(
    reader: &R,
    by: &str,
    idempotency_key: &str,
) -> Result<Option<TaskRecord>, ProjectFailure<R::Error>> {
    let key = key::prefix(&[by, idempotency_key]);
    let Some(id) = reader
        .get(tree::TASK_KEY, &key)
        .map_err(ProjectFailure::View)?
    else {
        return Ok(None);
    };
    let row = task(reader, &id_of(&id)?)?;
    // Keys are made safe and cut; the row knows better.
    let same = |task: &Task| {
        task.submitted_by == by && task.spec.idempotency_key.as_deref() == Some(idempotency_key)
    };
    Ok(row
        .map(|row| row.record)
        .filter(|record| same(&record.task)))
}

/// Tasks that match, newest first.
///
/// # Errors
/// [`ProjectFailure`].
pub fn task_page<R: Reader>(
    reader: &R,
    filter: &TaskFilter,
    from: Option<&[u8]>,
    limit: usize,
) -> Result<TaskPage, ProjectFailure<R::Error>> {
    let wanted = filter.wanted();
    let prefix = key::prefix(wanted.first().unwrap_or(&["all", ""]));
    let mut from = from.map(<[u8]>::to_vec);
    let (mut rows, mut bytes, mut seen) = (Vec::new(), 0, 0);
    loop {
        let slice = reader.scan(tree::TASK_INDEX, &prefix, from.as_deref(), SCAN_STEP);
        let slice = slice.map_err(ProjectFailure::View)?;
        for (key, id) in slice.entries {
            if rows.len() >= limit || bytes > PAGE_BYTES_MAX || seen >= PAGE_SCAN_MAX {
                return Ok(TaskPage {
                    rows,
                    next: Some(key),
                });
            }
            seen += 1;
            let Some(mut row) = bare(reader, &id_of(&id)?)? else {
                continue;
            };
            let has = facets(&row.record.task);
            if wanted.iter().all(|facet| has.contains(facet)) {
                bytes += row.input.unwrap_or(0) + row.output.unwrap_or(0);
                complete(reader, &mut row)?;
                rows.push(row);
            }
        }
        match slice.next {
            Some(next) => from = Some(next),
            None => return Ok(TaskPage { rows, next: None }),
        }
    }
}

/// How many tasks are in each state.
///
/// # Errors
/// [`ProjectFailure`].
pub fn task_counts<R: Reader>(
    reader: &R,
) -> Result<BTreeMap<TaskState, u64>, ProjectFailure<R::Error>> {
    let mut counts = BTreeMap::new();
    for state in TaskState::ALL {
        let held = reader.get(tree::TASK_COUNT, state.name().as_bytes());
        let held = held.map_err(ProjectFailure::View)?;
        counts.insert(state, held.map_or(Ok(0), |bytes| read_back(&bytes))?);
    }
    Ok(counts)
}

/// How many tasks are in a column of the board.
///
/// # Errors
/// [`ProjectFailure`].
pub fn column_count<R: Reader>(reader: &R, column: &str) -> Result<u64, ProjectFailure<R::Error>> {
    let key = super::tasks::column_count(column);
    let held = reader.get(tree::TASK_COUNT, key.as_bytes());
    held.map_err(ProjectFailure::View)?
        .map_or(Ok(0), |bytes| read_back(&bytes))
}

/// An agent's state as of the view.
///
/// # Errors
/// [`ProjectFailure`].
pub fn agent<R: Reader>(
    reader: &R,
    id: &AgentId,
) -> Result<Option<AgentState>, ProjectFailure<R::Error>> {
    let held = reader
        .get(tree::AGENT, id.as_str().as_bytes())
        .map_err(ProjectFailure::View)?;
    held.map(|bytes| read_back(&bytes)).transpose()
}

fn bare<R: Reader>(reader: &R, id: &TaskId) -> Result<Option<TaskRow>, ProjectFailure<R::Error>> {
    let held = reader
        .get(tree::TASK, id.as_str().as_bytes())
        .map_err(ProjectFailure::View)?;
    held.map(|bytes| read_back(&bytes)).transpose()
}

/// Fetches what lies beside the row.
fn complete<R: Reader>(reader: &R, row: &mut TaskRow) -> Result<(), ProjectFailure<R::Error>> {
    let fetch = |which: &str| -> Result<Value, ProjectFailure<R::Error>> {
        let key = data_key(&row.record.task.id, which);
        let held = reader
            .get(tree::TASK_DATA, &key)
            .map_err(ProjectFailure::View)?;
        read_back(&held.unwrap_or_else(|| b"null".to_vec()))
    };
    let input = row.input.map(|_| fetch("input")).transpose()?;
    let output = row.output.map(|_| fetch("output")).transpose()?;
    let task = &mut row.record.task;
    if let Some(input) = input {
        task.spec.input = input;
    }
    task.output = output.or_else(|| task.output.take());
    Ok(())
}

fn id_of<E>(bytes: &[u8]) -> Result<TaskId, ProjectFailure<E>> {
    let text = String::from_utf8_lossy(bytes);
    TaskId::new(&text).map_err(|error| {
        ProjectFailure::Unreadable(format!(
            "an index names a task that cannot be: {text}: {error}"
        ))
    })
}
