//! The audit log as a file that anybody can check: JSON Lines, a record each, then the signed checkpoint.

use std::io::{self, Write};

use mesh_messages::{AgentId, Position, Record};
use serde::Serialize;

use crate::journal::{CheckpointError, Journal, ProofError, ReadError};

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
struct RecordLine<'a> {
    record: &'a str,
    salt: Option<String>,
    payload: Option<&'a str>,
    // Not needed to verify. With it, the first changed record can be named rather than only "the root differs".
    leaf: String,
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
}

/// Writes the durable records (of one agent, or all) and a checkpoint that covers them.
///
/// Blocks on the disk.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    journal: &dyn Journal,
    agent: Option<&AgentId>,
    mut out: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let checkpoint = journal.checkpoint()?;
    let mut records = 0;
    for record in journal.read(Position(0))? {
        let record = record?;
        if record.header.position.0 >= checkpoint.size {
            break;
        }
        if agent.is_some() && record.header.agent.as_ref() != agent {
            continue;
        }
        let proof = agent.map(|_| prove(journal, record.header.position, checkpoint.size));
        write_record(&mut out, &record, proof.transpose()?)?;
        records += 1;
    }
    if let (Some(agent), 0) = (agent, records) {
        return Err(ExportError::NoRecords(agent.clone()));
    }
    let line = CheckpointLine {
        checkpoint: &checkpoint.note,
        key: journal.log_id(),
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
    proof: Option<ProofLine>,
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
        leaf: hex::encode(tlog_tiles::record_hash(&record.header_bytes).0),
        proof,
    };
    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}
