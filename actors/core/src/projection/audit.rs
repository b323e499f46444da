//! Where in the log the records of an agent, a task or a kind are, and those that a record led to.

use mesh_messages::{AgentId, Position, RecordHeader, TaskId};

use super::read::Reader;
use super::{View, key, tree};

/// Kinds of which records can be looked up together. There are not half as many that begin alike.
const KINDS_MAX: usize = 64;

/// What records can be looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditIndex<'a> {
    /// The agent that they concern.
    Agent(&'a AgentId),
    /// The task that they concern.
    Task(&'a TaskId),
    /// What happened.
    Kind(&'a str),
    /// What happened, of all kinds that begin so.
    Kinds(&'a str),
    /// The record that led to them.
    Cause(Position),
}

impl AuditIndex<'_> {
    fn prefix(self) -> Vec<u8> {
        match self {
            Self::Agent(agent) => key::prefix(&["agent", agent.as_str()]),
            Self::Task(task) => key::prefix(&["task", task.as_str()]),
            Self::Kind(kind) => key::prefix(&["kind", kind]),
            Self::Kinds(beginning) => {
                let mut prefix = key::prefix(&["kind"]);
                prefix.extend(beginning.bytes());
                prefix
            }
            Self::Cause(position) => key::ascending(&["cause"], position),
        }
    }
}

pub(super) fn index<V: View>(header: &RecordHeader, view: &mut V) {
    let agent = header.agent.as_ref().map(AuditIndex::Agent);
    let task = header.task.as_ref().map(AuditIndex::Task);
    let cause = header.cause.map(AuditIndex::Cause);
    let all = [agent, task, cause, Some(AuditIndex::Kind(&header.kind))];
    for index in all.into_iter().flatten() {
        let key = key::at(index.prefix(), header.position);
        view.put(tree::AUDIT, &key, Vec::new());
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
    let AuditIndex::Kinds(beginning) = index else {
        return under(reader, &index.prefix(), after, limit);
    };
    // Each kind's are in order; of all of them, the first ones are among the first ones of each.
    let mut found = Vec::new();
    for kind in kinds(reader, beginning)? {
        found.extend(under(reader, &kind, after, limit)?);
    }
    found.sort_unstable();
    found.truncate(limit);
    Ok(found)
}

fn under<R: Reader>(
    reader: &R,
    prefix: &[u8],
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Position>, R::Error> {
    let from = key::at(prefix.to_vec(), after.map_or(Position(0), Position::next));
    let slice = reader.scan(tree::AUDIT, prefix, Some(&from), limit)?;
    let keys = slice.entries.iter();
    Ok(keys.filter_map(|(key, _)| key::position(key)).collect())
}

/// The prefixes of the kinds that begin so, found by leaps from one to the next.
fn kinds<R: Reader>(reader: &R, beginning: &str) -> Result<Vec<Vec<u8>>, R::Error> {
    let prefix = AuditIndex::Kinds(beginning).prefix();
    let mut from = prefix.clone();
    let mut found = Vec::new();
    while found.len() < KINDS_MAX {
        let slice = reader.scan(tree::AUDIT, &prefix, Some(&from), 1)?;
        let Some((key, _)) = slice.entries.into_iter().next() else {
            break;
        };
        let kind = key::without_position(&key);
        from = key::behind(kind);
        found.push(kind.to_vec());
    }
    Ok(found)
}
