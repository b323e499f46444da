//! The audit log as a file that anybody can check: JSON Lines, a record each, then the signed checkpoint.
//!
//! Where another key took over from the log's first one, the notes that say so come first: they tell who signed all else.
//! The checkpoint alone shows *that* something was changed. Which record it was can be told because the node also signs,
//! when it exports, the leaf hashes of each [`block`], and for one agent the [`positions`] of its records.

use std::io::{self, Write};

use mesh_messages::{AgentId, Position, Record, RecordHeader};
use serde::Serialize;

use tlog_tiles::Hash;

use self::positions::Positions;
use crate::journal::{CheckpointError, Journal, ProofError, ReadError};

pub(crate) mod block;
pub(crate) mod positions;

/// Why an export failed. What was written so far is incomplete: discard it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// No checkpoint could be signed.
    #[error("failed to sign a checkpoint for the export")]
    Checkpoint(#[from] CheckpointError),
    /// A record could not be read.
    #[error("failed to read a record for the export")]
    Read(#[from] ReadError),
    /// A proof could not be made.
    #[error("failed to prove a record of the export")]
    Proof(#[from] ProofError),
    /// No record concerns the agent.
    #[error("no record concerns agent {0}")]
    NoRecords(AgentId),
    /// A stored record is not text. A bug.
    #[error("record {0} is not text")]
    NotText(Position),
    /// The export could not be written.
    #[error("failed to write the export")]
    Write(#[from] io::Error),
}

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// How many records were written.
    pub records: u64,
    /// How many records the checkpoint covers.
    pub size: u64,
}

#[derive(Serialize)]
struct SuccessionLine<'a> {
    succession: &'a str,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    record: &'a str,
    salt: Option<String>,
    payload: Option<&'a str>,
    // Not needed to verify. With it, the first changed record can be named rather than only "the root differs".
    leaf: String,
    // The same against somebody who changes the leaf hash, too: it is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<ProofLine>,
}

#[derive(Serialize)]
struct ProofLine {
    index: u64,
    path: Vec<String>,
}

#[derive(Serialize)]
struct CheckpointLine<'a> {
    checkpoint: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentLine>,
}

/// All records of one agent, as the node signs it.
#[derive(Serialize)]
struct AgentLine {
    note: String,
    positions: String,
}

/// Writes the durable records (of one agent, or all) and a checkpoint that covers them.
///
/// Every `block::RECORDS` records, and with the last one, a whole log's export bears a signed list of leaf hashes; one
/// agent's ends with a signed list of its positions. Blocks on the disk.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    journal: &dyn Journal,
    agent: Option<&AgentId>,
    out: &mut dyn Write,
) -> Result<Exported, ExportError> {
    export_without(journal, agent, &|_| false, out)
}

/// The same, with the payloads left out of records that `hidden` names, as if they had been erased: their headers, and so
/// every proof, are there.
///
/// # Errors
/// As [`export`].
pub fn export_without(
    journal: &dyn Journal,
    agent: Option<&AgentId>,
    hidden: &dyn Fn(&RecordHeader) -> bool,
    mut out: &mut dyn Write,
) -> Result<Exported, ExportError> {
    // Whoever signed the checkpoint signs all of it, also when another key takes over meanwhile.
    let (checkpoint, signer) = journal.signed()?;
    let attest = |about: &str, statement: &str| {
        let note = signer.attest(about, statement);
        note.map_err(CheckpointError::Note)
    };
    for one in signer.keys().successions() {
        let line = SuccessionLine {
            succession: &one.note,
        };
        serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    }
    let mut positions = Positions::default();
    let mut leaves = Vec::with_capacity(block::RECORDS);
    for record in journal.read(Position(0))? {
        let mut record = record?;
        if hidden(&record.header) {
            record.body = None;
        }
        let position = record.header.position;
        if position.0 >= checkpoint.size {
            break;
        }
        if agent.is_some() && record.header.agent.as_ref() != agent {
            continue;
        }
        positions.push(position.0);
        let leaf = tlog_tiles::record_hash(&record.header_bytes);
        let (mut signed, mut proof) = (None, None);
        if agent.is_some() {
            proof = Some(prove(journal, position, checkpoint.size)?);
        } else {
            leaves.push(leaf);
            if leaves.len() == block::RECORDS || position.0 + 1 == checkpoint.size {
                let first = position.0 + 1 - leaves.len() as u64;
                signed = Some(attest(block::ABOUT, &block::statement(first, &leaves))?);
                leaves.clear();
            }
        }
        write_record(&mut out, &record, (leaf, signed, proof))?;
    }
    if let (Some(agent), 0) = (agent, positions.count()) {
        return Err(ExportError::NoRecords(agent.clone()));
    }
    let records = positions.count();
    let of_agent = agent.map(|agent| {
        let positions = positions.to_string();
        let statement = positions::statement(agent, &checkpoint, records, &positions);
        let note = attest(positions::ABOUT, &statement)?;
        Ok::<_, CheckpointError>(AgentLine { note, positions })
    });
    let line = CheckpointLine {
        checkpoint: &checkpoint.note,
        key: journal.log_id(),
        agent: of_agent.transpose()?,
    };
    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(Exported {
        records,
        size: checkpoint.size,
    })
}

fn prove(journal: &dyn Journal, index: Position, size: u64) -> Result<ProofLine, ProofError> {
    let path = journal.inclusion_proof(index, size)?;
    let path = path.iter().map(|hash| hex::encode(hash.0)).collect();
    Ok(ProofLine {
        index: index.0,
        path,
    })
}

fn write_record(
    mut out: &mut dyn Write,
    record: &Record,
    (leaf, block, proof): (Hash, Option<String>, Option<ProofLine>),
) -> Result<(), ExportError> {
    let not_text = |_| ExportError::NotText(record.header.position);
    let payload = record
        .body
        .as_ref()
        .map(|body| std::str::from_utf8(&body.payload));
    let line = RecordLine {
        record: std::str::from_utf8(&record.header_bytes).map_err(not_text)?,
        salt: record.body.as_ref().map(|body| hex::encode(body.salt)),
        payload: payload.transpose().map_err(not_text)?,
        leaf: hex::encode(leaf.0),
        block,
        proof,
    };
    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}
