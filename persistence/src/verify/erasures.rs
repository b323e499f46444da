//! Payloads that are missing: each was erased, and the log says so, or the node signed that it is withheld.

use mesh_messages::RecordHeader;
use tlog_tiles::Hash;

use super::line::{ErasureLine, LaterLine};
use super::{Closing, VerifyError};
use crate::checkpoint::{CheckpointClaim, verify_attested};
use crate::export::tombstones::Tombstones;
use crate::export::{LATER, positions};

/// A record that says what was erased and stands behind the records, kept until the root is known.
struct Told {
    index: u64,
    leaf: Hash,
    path: Vec<Hash>,
}

/// What is missing so far, and what explains it.
#[derive(Default)]
pub(super) struct Erasures {
    tombstones: Tombstones,
    told: Vec<Told>,
    missing: u64,
}

impl Erasures {
    /// Whether a payload is missing that nothing has explained yet, so that the next record may.
    pub(super) fn are_missing(&self) -> bool {
        self.tombstones.first().is_some()
    }

    /// Takes a record in, with its payload if it has one. One that has, when none is missing, need not be told.
    pub(super) fn record(&mut self, header: &RecordHeader, payload: Option<&str>) {
        if payload.is_none() {
            self.missing += 1;
            self.tombstones.add(header);
        }
        self.tombstones.settle(header, payload);
    }

    /// Whether records have ended and what was erased of them is told.
    pub(super) fn are_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// Takes in a record that stands behind all others and says what was erased of these.
    pub(super) fn told(
        &mut self,
        line: &ErasureLine<'_>,
        (here, log): (u64, &str),
    ) -> Result<(), (u64, String)> {
        let header: RecordHeader = serde_json::from_str(&line.erasure)
            .map_err(|e| (here, format!("its header does not parse: {e}")))?;
        let index = header.position.0;
        let at = |detail: String| (index, detail);
        if self.told.last().is_some_and(|last| index <= last.index) {
            return Err(at("it is doubled or moved".to_owned()));
        }
        if header.log != log {
            return Err(at(format!("it is of another log, {}", header.log)));
        }
        line.check_body(&header.payload).map_err(at)?;
        let path = line.proof.path(header.position).map_err(at)?;
        if !self.tombstones.settle(&header, line.payload.as_deref()) {
            let detail = "it says of no record before it that it was erased";
            return Err(at(detail.to_owned()));
        }
        let leaf = tlog_tiles::record_hash(line.erasure.as_bytes());
        self.told.push(Told { index, leaf, path });
        Ok(())
    }

    /// Checks what stood behind the records against the roots, and that nothing is missing without an explanation.
    /// Returns how many payloads were erased, and how many are withheld.
    pub(super) fn finish(&self, closing: &Closing) -> Result<(u64, u64), VerifyError> {
        let tree = match &closing.later {
            Some(later) => later_tree(later, closing)?,
            None => closing.claim,
        };
        for told in &self.told {
            tlog_tiles::check_record(&told.path, tree.size, tree.root, told.index, told.leaf)
                .map_err(|_| {
                    let detail = "it says what was erased, but its proof does not lead to the root";
                    VerifyError::record(told.index, detail)
                })?;
        }
        let withheld = match &closing.withheld {
            Some(line) => {
                positions::read_withheld(&line.note, &line.positions, &closing.keys, closing.claim)
                    .map_err(|e| {
                        VerifyError::Checkpoint(format!("the list of what is withheld: {e}"))
                    })?
            }
            None => positions::Positions::default(),
        };
        if let Some(position) = self.tombstones.first_but(|one| withheld.contains(one)) {
            let detail = "its payload is gone, and no record of the log says that it was erased";
            return Err(VerifyError::record(position, detail));
        }
        let withheld = withheld.count().min(self.missing);
        Ok((self.missing - withheld, withheld))
    }
}

/// The tree beyond the checkpoint's, which has to continue that one.
fn later_tree(later: &LaterLine, closing: &Closing) -> Result<CheckpointClaim, VerifyError> {
    let bad = |detail: String| {
        VerifyError::Checkpoint(format!("the tree of what was erased later: {detail}"))
    };
    let text =
        verify_attested(&later.note, &closing.keys, LATER).map_err(|e| bad(e.to_string()))?;
    let (size, root) = text.split_once(' ').unwrap_or_default();
    let number: Option<u64> = size.parse().ok();
    let mut hash = [0; 32];
    let read = hex::decode_to_slice(root, &mut hash).is_ok();
    let Some(size) = number.filter(|n| read && n.to_string() == size) else {
        return Err(bad("it has no size and root".to_owned()));
    };
    let tree = CheckpointClaim {
        size,
        root: Hash(hash),
    };
    let claim = closing.claim;
    let path = later.path().map_err(bad)?;
    tlog_tiles::check_tree(&path, tree.size, tree.root, claim.size, claim.root)
        .map_err(|_| bad("it does not continue the checkpoint's".to_owned()))?;
    Ok(tree)
}
