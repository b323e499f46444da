//! The read side: what each record changes in the views that lists and look-ups are answered from.
//!
//! Views are named trees of keys and values. Everything here depends on the record and the view alone, so a view that is
//! lost is made anew from the log. The store itself, and the content store in which large payloads lie, are the shell's.

mod audit;
mod ended;
mod history;
mod key;
mod read;
mod sql;
mod tasks;
#[cfg(test)]
mod tests;
mod workflows;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use mesh_messages::events::{
    AgentEvent, KIND_VERSION, RetentionEvent, TaskEvent, WorkflowEvent, partition,
};
use mesh_messages::{AgentId, RecordHeader, TaskId};
use serde::de::DeserializeOwned;

use crate::agent::AgentState;

pub use audit::{AuditIndex, audit_page};
pub use ended::{EndedPage, EndedRow, RemovedRow, ended_from, ended_page, ended_totals, removed};
pub use read::{
    InboxFilter, Reader, Slice, TaskFilter, TaskPage, agent, column_count, task, task_by_key,
    task_counts, task_page,
};
pub use sql::SqlScript;
pub use tasks::TaskRow;
pub use workflows::{workflow, workflow_key, workflow_page};

/// Version of what a [`Pass`] makes. A view of another version has to be made anew.
pub const PROJECTION_VERSION: u32 = 7;

/// The trees of the view.
pub mod tree {
    /// Task id → [`TaskRow`](super::TaskRow).
    pub const TASK: &str = "task";
    /// Task id and `input` or `output` → that value, where it is too large for the row.
    pub const TASK_DATA: &str = "task.data";
    /// Facet, its value, and the submission's place, newest first → task id.
    pub const TASK_INDEX: &str = "task.index";
    /// State → how many tasks are in it.
    pub const TASK_COUNT: &str = "task.count";
    /// Submitter and idempotency key → task id.
    pub const TASK_KEY: &str = "task.key";
    /// When a task ended, and its id → what retention knows of it.
    pub const TASK_ENDED: &str = "task.ended";
    /// All ended tasks together.
    pub const TASK_TOTAL: &str = "task.total";
    /// Task id → when retention removed it.
    pub const TASK_REMOVED: &str = "task.removed";
    /// Task id and attempt → an assignment that another one followed, and how it ended.
    pub const ASSIGNMENT: &str = "task.assignment";
    /// Agent id and type of task → how the agent did with it.
    pub const LESSON: &str = "agent.lesson";
    /// The agent that delegates and the one that does it → how often, and how it went.
    pub const RELATION: &str = "agent.relation";
    /// Agent id → its [`AgentState`](crate::agent::AgentState).
    pub const AGENT: &str = "agent";
    /// Run id → the run as it ended.
    pub const WORKFLOW: &str = "workflow";
    /// The submission's place, newest first → run id.
    pub const WORKFLOW_INDEX: &str = "workflow.index";
    /// Submitter and idempotency key → run id and the submission's digest, once the run has ended.
    pub const WORKFLOW_KEY: &str = "workflow.key";
    /// Agent, task, kind or neighbouring causes, and a block of the log → which of its records.
    pub const AUDIT: &str = "audit";
}

/// What is changed. Reads see the changes that were made before.
pub trait View {
    /// Why it could not be read.
    type Error;
    /// A value.
    ///
    /// # Errors
    /// Whatever the store says; the projection stops.
    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Sets a value.
    fn put(&mut self, tree: &'static str, key: &[u8], value: Vec<u8>);
    /// Removes a key, if it is there.
    fn delete(&mut self, tree: &'static str, key: &[u8]);
    /// Puts bytes behind a value, an empty one if there is none.
    ///
    /// # Errors
    /// As [`View::get`].
    fn append(&mut self, tree: &'static str, key: &[u8], more: &[u8]) -> Result<(), Self::Error> {
        let mut value = self.get(tree, key)?.unwrap_or_default();
        value.extend_from_slice(more);
        self.put(tree, key, value);
        Ok(())
    }
}

/// Why a record was not projected.
#[derive(Debug, thiserror::Error)]
pub enum ProjectFailure<E> {
    /// The view failed.
    #[error("the view failed")]
    View(E),
    /// The record, or what the view holds, is not what this version writes.
    #[error("{0}")]
    Unreadable(String),
}

/// Records that are taken in together: a row that several of them change is read and written once.
#[derive(Debug, Default)]
pub struct Pass {
    tasks: BTreeMap<TaskId, tasks::Changing>,
    agents: BTreeMap<AgentId, AgentState>,
}

impl Pass {
    /// Takes one record in. Rows of tasks and agents are in the view after [`Pass::finish`].
    ///
    /// `payload` is the record's, fetched from the content store if it lies there; `None` once it is erased, which leaves
    /// only the record's places in the audit.
    ///
    /// # Errors
    /// [`ProjectFailure`]; the view may be half changed then, and must be dropped with the pass.
    pub fn project<V: View>(
        &mut self,
        header: &RecordHeader,
        payload: Option<&[u8]>,
        view: &mut V,
    ) -> Result<(), ProjectFailure<V::Error>> {
        audit::index(header, view)?;
        let Some(payload) = payload else {
            return Ok(());
        };
        if header.partition == partition::TASKS {
            let event = event::<TaskEvent, _>(header, payload)?;
            if let Some(id) = &header.task {
                return tasks::project(header, id, &event, &mut self.tasks, view);
            }
        } else if header.partition == partition::RETENTION {
            if let RetentionEvent::Removed { tasks } = event(header, payload)? {
                self.finish(view)?;
                for id in &tasks {
                    ended::remove(header, id, view)?;
                }
            }
        } else if header.partition == partition::WORKFLOWS {
            let event = event::<WorkflowEvent, _>(header, payload)?;
            return workflows::project(header, &event, view);
        } else if header
            .partition
            .as_str()
            .starts_with(partition::AGENT_PREFIX)
            && let Some(id) = &header.agent
        {
            let event = event::<AgentEvent, _>(header, payload)?;
            self.agent(id, view)?.apply(header, &event);
        }
        Ok(())
    }

    /// Writes what is still to be written. The pass can be gone on with.
    ///
    /// # Errors
    /// As [`Pass::project`].
    pub fn finish<V: View>(&mut self, view: &mut V) -> Result<(), ProjectFailure<V::Error>> {
        for (id, task) in std::mem::take(&mut self.tasks) {
            task.write(&id, view)?;
        }
        for (id, state) in std::mem::take(&mut self.agents) {
            view.put(tree::AGENT, id.as_str().as_bytes(), written(&state)?);
        }
        Ok(())
    }

    fn agent<V: View>(
        &mut self,
        id: &AgentId,
        view: &V,
    ) -> Result<&mut AgentState, ProjectFailure<V::Error>> {
        Ok(match self.agents.entry(id.clone()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let held = view.get(tree::AGENT, id.as_str().as_bytes());
                let held = held.map_err(ProjectFailure::View)?;
                place.insert(held.map_or_else(|| Ok(AgentState::default()), |row| read_back(&row))?)
            }
        })
    }
}

fn event<T: DeserializeOwned, E>(
    header: &RecordHeader,
    payload: &[u8],
) -> Result<T, ProjectFailure<E>> {
    let RecordHeader {
        kind, kv, position, ..
    } = header;
    if *kv > KIND_VERSION {
        let text = format!(
            "record {position} of kind {kind} has version {kv}; this meshd knows {KIND_VERSION}"
        );
        return Err(ProjectFailure::Unreadable(text));
    }
    serde_json::from_slice(payload).map_err(|error| {
        ProjectFailure::Unreadable(format!(
            "record {position} of kind {kind} cannot be read: {error}"
        ))
    })
}

fn read_back<T: DeserializeOwned, E>(bytes: &[u8]) -> Result<T, ProjectFailure<E>> {
    serde_json::from_slice(bytes)
        .map_err(|error| ProjectFailure::Unreadable(format!("a row cannot be read: {error}")))
}

fn written<T: serde::Serialize, E>(value: &T) -> Result<Vec<u8>, ProjectFailure<E>> {
    serde_json::to_vec(value)
        .map_err(|error| ProjectFailure::Unreadable(format!("a row cannot be written: {error}")))
}
