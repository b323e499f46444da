//! The signed list of the positions of one agent's records: it tells which of them is missing, added or moved.
//!
//! ```text
//! <log>/export-agent
//! <agent>
//! <size of the log> <its root, in hex>
//! <how many records> <SHA-256, in hex, of their positions as text, such as 0-3,17,20-24>
//! ```
//!
//! The text stands beside the note, since a note has a bound and an agent's records have none.

use std::str::FromStr;

use mesh_messages::AgentId;
use sha2::{Digest as _, Sha256};

use crate::checkpoint::{CheckpointClaim, verify_attested};
use crate::journal::SignedCheckpoint;
use crate::succession::LogKeys;

/// What such a note is about, for its first line.
pub(crate) const ABOUT: &str = "export-agent";

/// The same of the records whose payload is withheld from whom the export is for, without the line of the agent.
pub(crate) const WITHHELD: &str = "export-withheld";

/// Ascending positions, as ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions {
    // Invariant: ascending, not empty, not touching; first and last of each.
    ranges: Vec<(u64, u64)>,
    count: u64,
}

impl Positions {
    /// Adds a position beyond all that are there.
    pub(crate) fn push(&mut self, position: u64) {
        self.count += 1;
        match self.ranges.last_mut() {
            Some((_, last)) if position.checked_sub(1) == Some(*last) => *last = position,
            _ => self.ranges.push((position, position)),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether it is one of them.
    pub(crate) fn contains(&self, position: u64) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= position);
        let range = after.checked_sub(1).and_then(|n| self.ranges.get(n));
        range.is_some_and(|&(_, last)| position <= last)
    }

    /// All of them, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }
}

impl std::fmt::Display for Positions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Positions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut positions = Self::default();
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| {
                text.parse::<u64>()
                    .map_err(|_| format!("{range} is no range of positions"))
            };
            let (first, last) = (number(first)?, number(last)?);
            let ascending = positions.ranges.last().is_none_or(|&(_, end)| end < first);
            if first > last || last == u64::MAX || !ascending {
                return Err(format!("{range} is out of order"));
            }
            positions.ranges.push((first, last));
            positions.count = (last - first)
                .checked_add(1)
                .and_then(|more| positions.count.checked_add(more))
                .ok_or("it holds too many")?;
        }
        Ok(positions)
    }
}

/// What is signed of an agent's export.
pub(crate) fn statement(
    agent: &AgentId,
    checkpoint: &SignedCheckpoint,
    count: u64,
    positions: &str,
) -> String {
    format!("{agent}\n{}", withheld(checkpoint, count, positions))
}

/// What is signed of payloads that are withheld.
pub(crate) fn withheld(checkpoint: &SignedCheckpoint, count: u64, positions: &str) -> String {
    let (size, root) = (checkpoint.size, hex::encode(checkpoint.root.0));
    format!("{size} {root}\n{count} {}", digest(positions))
}

fn digest(positions: &str) -> String {
    hex::encode(Sha256::digest(positions.as_bytes()))
}

/// Reads a note back: whose records these are, and which.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(
    note: &str,
    ranges: &str,
    keys: &LogKeys,
    claim: CheckpointClaim,
) -> Result<(AgentId, Positions), String> {
    let text = verify_attested(note, keys, ABOUT).map_err(|e| e.to_string())?;
    let (agent, list) = text.split_once('\n').ok_or("it names no agent")?;
    let agent = AgentId::new(agent).map_err(|e| e.to_string())?;
    Ok((agent, read_list(list, ranges, claim)?))
}

/// Reads back which records are withheld.
///
/// # Errors
/// What is wrong with the note.
pub(crate) fn read_withheld(
    note: &str,
    ranges: &str,
    keys: &LogKeys,
    claim: CheckpointClaim,
) -> Result<Positions, String> {
    let text = verify_attested(note, keys, WITHHELD).map_err(|e| e.to_string())?;
    read_list(&text, ranges, claim)
}

fn read_list(text: &str, ranges: &str, claim: CheckpointClaim) -> Result<Positions, String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let &[of, list] = lines.as_slice() else {
        return Err("it has another number of lines".to_owned());
    };
    if of != format!("{} {}", claim.size, hex::encode(claim.root.0)) {
        return Err("it is of another checkpoint".to_owned());
    }
    let (count, signed) = list.split_once(' ').ok_or("it has no list")?;
    if signed != digest(ranges) {
        return Err("the positions are not those that were signed".to_owned());
    }
    let positions: Positions = ranges.parse()?;
    if count != positions.count.to_string() {
        return Err("its list has another length than it says".to_owned());
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(set in prop::collection::btree_set(0_u64..200, 1..60)) {
            let mut positions = Positions::default();
            for &position in &set {
                positions.push(position);
            }
            let read: Positions = positions.to_string().parse().unwrap();
            prop_assert_eq!(&read, &positions);
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), set.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn lists_out_of_order_are_refused() {
        for text in [
            "",
            "3,3",
            "5-4",
            "7,2",
            "0-18446744073709551615",
            "a",
            "1-",
            "-1",
        ] {
            assert!(text.parse::<Positions>().is_err(), "{text}");
        }
    }
}
