//! Where in the log the records of an agent, a task or a kind are, and those that a record led to.
//!
//! The log is cut into blocks of equal length. An entry holds what was found in one block, as the distances from the block's
//! begin (two bytes each, ascending): a record that is one of many costs a few bytes and no entry of its own. What records led to
//! is held together for some causes that are neighbours, with a byte more that tells them apart.

use mesh_messages::{AgentId, Position, RecordHeader, TaskId};

use super::read::Reader;
use super::{ProjectFailure, View, key, tree};

/// Records of a block: the most that an entry holds, which is written anew with each of them.
const BLOCK: u64 = 1024;
/// Blocks that are read at a time.
const BLOCKS_STEP: usize = 64;
/// Neighbouring causes whose effects are held together: at most as many as a byte tells apart.
const CAUSES: u64 = 128;

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
            Self::Cause(cause) => key::ascending(&["cause"], Position(cause.0 / CAUSES)),
        }
    }

    /// What tells a record apart from others of the same entry.
    fn tag(self) -> Option<u8> {
        match self {
            Self::Agent(_) | Self::Task(_) | Self::Kind(_) | Self::Kinds(_) => None,
            Self::Cause(cause) => u8::try_from(cause.0 % CAUSES).ok(),
        }
    }
}

pub(super) fn index<V: View>(
    header: &RecordHeader,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    let agent = header.agent.as_ref().map(AuditIndex::Agent);
    let task = header.task.as_ref().map(AuditIndex::Task);
    let cause = header.cause.map(AuditIndex::Cause);
    let all = [agent, task, cause, Some(AuditIndex::Kind(&header.kind))];
    let (block, offset) = place(header.position);
    for index in all.into_iter().flatten() {
        let key = key::at(index.prefix(), block);
        let mut found = offset.to_be_bytes().to_vec();
        found.extend(index.tag());
        view.append(tree::AUDIT, &key, &found)
            .map_err(ProjectFailure::View)?;
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
    let first = after.map_or(Position(0), Position::next);
    let AuditIndex::Kinds(beginning) = index else {
        return under(reader, &index.prefix(), index.tag(), first, limit);
    };
    // Each kind's are in order; of all of them, the first ones are among the first ones of each.
    let mut found = Vec::new();
    for kind in kinds(reader, beginning)? {
        found.extend(under(reader, &kind, None, first, limit)?);
    }
    found.sort_unstable();
    found.truncate(limit);
    Ok(found)
}

/// The positions from `first` on in the entries that begin so, of those records that bear the tag.
fn under<R: Reader>(
    reader: &R,
    prefix: &[u8],
    tag: Option<u8>,
    first: Position,
    limit: usize,
) -> Result<Vec<Position>, R::Error> {
    let mut from = key::at(prefix.to_vec(), place(first).0);
    let mut found = Vec::new();
    loop {
        let slice = reader.scan(tree::AUDIT, prefix, Some(&from), BLOCKS_STEP)?;
        for (key, records) in &slice.entries {
            let Some(block) = key::position(key) else {
                continue;
            };
            let begin = block.0.saturating_mul(BLOCK);
            let width = if tag.is_some() { 3 } else { 2 };
            let positions = records.chunks_exact(width).filter_map(|record| {
                let (offset, of) = record.split_first_chunk::<2>()?;
                let position = Position(begin + u64::from(u16::from_be_bytes(*offset)));
                (of.first().copied() == tag && position >= first).then_some(position)
            });
            let missing = limit - found.len();
            found.extend(positions.take(missing));
        }
        match slice.next {
            Some(next) if found.len() < limit => from = next,
            _ => return Ok(found),
        }
    }
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
