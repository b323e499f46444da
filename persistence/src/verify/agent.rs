//! One agent's records, against the proofs of each and the signed list of all.

use mesh_messages::AgentId;
use tlog_tiles::Hash;

use super::checker::Fault;
use super::{Closing, VerifyError};
use crate::export::positions;

/// A record of one agent's export, kept until the root is known.
pub(super) struct Included {
    pub(super) index: u64,
    pub(super) leaf: Hash,
    pub(super) path: Vec<Hash>,
    pub(super) agent: Option<AgentId>,
}

/// Checks the records against the signed list and the root; `fault` is the first one found on the way here.
pub(super) fn check(
    included: &[Included],
    closing: &Closing,
    fault: Option<Fault>,
) -> Result<(), VerifyError> {
    let unlisted = |detail: String| {
        fault.as_ref().map_or_else(
            || VerifyError::Checkpoint(format!("the list of the agent's records: {detail}")),
            |fault| VerifyError::record(fault.number, fault.detail.clone()),
        )
    };
    let line = closing
        .agent
        .as_ref()
        .ok_or_else(|| unlisted("it is missing, so records may be, too".to_owned()))?;
    let (agent, listed) =
        positions::read(&line.note, &line.positions, &closing.keys, closing.claim)
            .map_err(unlisted)?;
    let mut listed = listed.iter();
    for record in included {
        check_place(record.index, listed.next())?;
        if record.agent.as_ref() != Some(&agent) {
            let detail = format!("it does not concern agent {agent}, whose records these are");
            return Err(VerifyError::record(record.index, detail));
        }
        let root = (closing.claim.size, closing.claim.root);
        tlog_tiles::check_record(&record.path, root.0, root.1, record.index, record.leaf).map_err(
            |_| {
                let detail = "its proof does not lead to the signed root";
                VerifyError::record(record.index, detail)
            },
        )?;
    }
    if let Some(fault) = fault {
        // Everything before it is in its place, so it stands where the next one should.
        let number = listed.next().unwrap_or(fault.number);
        return Err(VerifyError::record(number, fault.detail));
    }
    listed
        .next()
        .map_or(Ok(()), |missing| check_place(u64::MAX, Some(missing)))
}

fn check_place(found: u64, expected: Option<u64>) -> Result<(), VerifyError> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        Some(expected) if expected < found => {
            let detail = "it is missing, though the node signed that it is the agent's";
            Err(VerifyError::record(expected, detail))
        }
        Some(_) | None => {
            let detail = "it is not one of the records that the node signed as the agent's";
            Err(VerifyError::record(found, detail))
        }
    }
}
