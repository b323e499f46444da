//! Where in the log the records of an agent, a task or a kind are.

use mesh_messages::{AgentId, Position, RecordHeader, TaskId};

use super::read::Reader;
use super::{View, key, tree};

/// What records can be looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditIndex<'a> {
    /// The agent that they concern.
    Agent(&'a AgentId),
    /// The task that they concern.
    Task(&'a TaskId),
    /// What happened.
    Kind(&'a str),
}

impl<'a> AuditIndex<'a> {
    fn parts(self) -> [&'a str; 2] {
        match self {
            Self::Agent(agent) => ["agent", agent.as_str()],
            Self::Task(task) => ["task", task.as_str()],
            Self::Kind(kind) => ["kind", kind],
        }
    }
}

pub(super) fn index<V: View>(header: &RecordHeader, view: &mut V) {
    let agent = header.agent.as_ref().map(AuditIndex::Agent);
    let task = header.task.as_ref().map(AuditIndex::Task);
    for index in agent
        .into_iter()
        .chain(task)
        .chain([AuditIndex::Kind(&header.kind)])
    {
        view.put(
            tree::AUDIT,
            &key::ascending(&index.parts(), header.position),
            Vec::new(),
        );
    }
}

/// The positions of the records after `after`, oldest first, at most `limit`.
///
/// # Errors
/// Whatever the store says.
pub fn audit_page<R: Reader>(
    reader: &R,
    index: AuditIndex<'_>,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Position>, R::Error> {
    let prefix = key::prefix(&index.parts());
    let from = after.map_or(Position(0), Position::next);
    let from = key::ascending(&index.parts(), from);
    let slice = reader.scan(tree::AUDIT, &prefix, Some(&from), limit)?;
    Ok(slice
        .entries
        .iter()
        .filter_map(|(key, _)| key::position(key))
        .collect())
}
