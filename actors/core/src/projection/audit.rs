//! Where in the log the records of an agent, a task or a kind are.
//!
//! The log is cut into blocks of equal length. An entry holds what was found in one block, as the distances from the block's
//! begin (two bytes each, ascending): a record that is one of many costs two bytes and no entry of its own.

use mesh_messages::{AgentId, Position, RecordHeader, TaskId};

use super::read::Reader;
use super::{ProjectFailure, View, key, tree};

/// Records of a block: the most that an entry holds, which is written anew with each of them.
const BLOCK: u64 = 1024;
/// Blocks that are read at a time.
const BLOCKS_STEP: usize = 64;

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

pub(super) fn index<V: View>(
    header: &RecordHeader,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    let (block, offset) = place(header.position);
    let agent = header.agent.as_ref().map(AuditIndex::Agent);
    let task = header.task.as_ref().map(AuditIndex::Task);
    for index in agent
        .into_iter()
        .chain(task)
        .chain([AuditIndex::Kind(&header.kind)])
    {
        let key = key::ascending(&index.parts(), block);
        let held = view.get(tree::AUDIT, &key).map_err(ProjectFailure::View)?;
        let mut found = held.unwrap_or_default();
        found.extend(offset.to_be_bytes());
        view.put(tree::AUDIT, &key, found);
    }
    Ok(())
}

/// The block that a position lies in, and how far from its begin.
fn place(position: Position) -> (Position, u16) {
    let offset = u16::try_from(position.0 % BLOCK).unwrap_or(u16::MAX);
    (Position(position.0 / BLOCK), offset)
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
    let first = after.map_or(Position(0), Position::next);
    let mut from = key::ascending(&index.parts(), place(first).0);
    let mut found = Vec::new();
    loop {
        let slice = reader.scan(tree::AUDIT, &prefix, Some(&from), BLOCKS_STEP)?;
        for (key, offsets) in &slice.entries {
            let Some(block) = key::position(key) else {
                continue;
            };
            let positions = offsets.as_chunks().0.iter().map(|offset| {
                let offset = u16::from_be_bytes(*offset);
                Position(block.0.saturating_mul(BLOCK) + u64::from(offset))
            });
            let missing = limit - found.len();
            found.extend(positions.filter(|at| *at >= first).take(missing));
        }
        match slice.next {
            Some(next) if found.len() < limit => from = next,
            _ => return Ok(found),
        }
    }
}
