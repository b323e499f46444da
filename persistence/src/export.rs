//! The audit log as a file that anybody can check: JSON Lines, a record each, then the signed checkpoint.
//!
//! Where another key took over from the log's first one, the notes that say so come first: they tell who signed all else.
//! The checkpoint alone shows *that* something was changed. Which record it was can be told because the node also signs,
//! when it exports, the leaf hashes of each [`block`], and for one agent the [`positions`] of its records.
//! An erased payload needs a record that says so. Where that is not among the records, it stands behind them, with a proof.

use std::io::{self, Write};

use mesh_messages::{AgentId, Position, Record, RecordHeader};
use serde::Serialize;

use tlog_tiles::Hash;

use self::positions::Positions;
use self::tombstones::Tombstones;
use crate::journal::{CheckpointError, Journal, ProofError, ReadError, SignedCheckpoint};
use crate::succession::LogSigner;

pub(crate) mod block;
pub(crate) mod positions;
pub(crate) mod tombstones;

/// What the note is about that names the tree of what was said after the checkpoint.
pub(crate) const LATER: &str = "export-later";

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

/// A record that says what was erased, and is not among the records.
#[derive(Serialize)]
struct ErasureLine<'a> {
    erasure: &'a str,
    salt: Option<String>,
    payload: Option<&'a str>,
    proof: ProofLine,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<AgentLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    later: Option<LaterLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency: Option<ConsistencyLine>,
}

/// The proof that the checkpoint's tree continues a smaller one, which a witness saw.
#[derive(Serialize)]
struct ConsistencyLine {
    size: u64,
    path: Vec<String>,
}

/// A tree beyond the checkpoint's, and the proof that it continues that one.
#[derive(Serialize)]
struct LaterLine {
    note: String,
    path: Vec<String>,
}

/// All records of one agent, or all whose payload is withheld, as the node signs it.
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
    export_without(journal, agent.map(|agent| (agent, None)), &|_| false, out)
}

/// The same, with the payloads left out of records that `hidden` names: their headers, and so every proof, are there, and
/// the node signs which they are. Beside the agent stands how many records a witness saw: its export then bears the proof
/// that the log continues that one. Of a whole log its records show that.
///
/// # Errors
/// As [`export`].
pub fn export_without(
    journal: &dyn Journal,
    of: Option<(&AgentId, Option<u64>)>,
    hidden: &dyn Fn(&RecordHeader) -> bool,
    mut out: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let (agent, witnessed) = (of.map(|(agent, _)| agent), of.and_then(|(_, seen)| seen));
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
    let (mut positions, mut withheld) = (Positions::default(), Positions::default());
    let mut tombstones = Tombstones::default();
    let mut leaves = Vec::with_capacity(block::RECORDS);
    for record in journal.read(Position(0))? {
        let mut record = record?;
        let position = record.header.position;
        if position.0 >= checkpoint.size {
            break;
        }
        if agent.is_some() && record.header.agent.as_ref() != agent {
            continue;
        }
        positions.push(position.0);
        tombstones.settle(&record.header, payload_of(&record)?);
        if hidden(&record.header) {
            record.body = None;
            withheld.push(position.0);
        } else if record.body.is_none() {
            tombstones.add(&record.header);
        }
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
        withheld: withhold(&withheld, &checkpoint, &signer)?,
        later: write_erasures(
            &mut out,
            journal,
            (tombstones, hidden),
            (&checkpoint, &signer),
        )?,
        consistency: continued(journal, witnessed, &checkpoint)?,
    };
    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(Exported {
        records,
        size: checkpoint.size,
    })
}

/// What a witness saw beyond the checkpoint, or at it, needs no proof to be compared.
fn continued(
    journal: &dyn Journal,
    witnessed: Option<u64>,
    checkpoint: &SignedCheckpoint,
) -> Result<Option<ConsistencyLine>, ProofError> {
    let Some(size) = witnessed.filter(|size| (1..checkpoint.size).contains(size)) else {
        return Ok(None);
    };
    let path = hashes(&journal.consistency_proof(size, checkpoint.size)?);
    Ok(Some(ConsistencyLine { size, path }))
}

fn withhold(
    withheld: &Positions,
    checkpoint: &SignedCheckpoint,
    signer: &LogSigner,
) -> Result<Option<AgentLine>, ExportError> {
    if withheld.count() == 0 {
        return Ok(None);
    }
    let positions = withheld.to_string();
    let statement = positions::withheld(checkpoint, withheld.count(), &positions);
    let note = signer
        .attest(positions::WITHHELD, &statement)
        .map_err(CheckpointError::Note)?;
    Ok(Some(AgentLine { note, positions }))
}

/// Writes the records that say what was erased of those written, as far as these do not; the tree of their proofs, unless
/// it is the checkpoint's. An erasure may have been ordered while the export was under way.
fn write_erasures(
    mut out: &mut dyn Write,
    journal: &dyn Journal,
    (mut tombstones, hidden): (Tombstones, &dyn Fn(&RecordHeader) -> bool),
    (checkpoint, signer): (&SignedCheckpoint, &LogSigner),
) -> Result<Option<LaterLine>, ExportError> {
    let Some(first) = tombstones.first() else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for record in journal.read(Position(first))? {
        let record = record?;
        if tombstones.settle(&record.header, payload_of(&record)?) {
            found.push(record.header.position);
        }
        if tombstones.first().is_none() {
            break;
        }
    }
    let within = found.last().is_none_or(|last| last.0 < checkpoint.size);
    let (size, later) = if within {
        (checkpoint.size, None)
    } else {
        let tree = journal.checkpoint()?;
        let statement = format!("{} {}", tree.size, hex::encode(tree.root.0));
        let note = signer
            .attest(LATER, &statement)
            .map_err(CheckpointError::Note)?;
        let path = hashes(&journal.consistency_proof(checkpoint.size, tree.size)?);
        (tree.size, Some(LaterLine { note, path }))
    };
    for position in found {
        // It was there a moment ago.
        let Some(record) = journal.get(position)? else {
            continue;
        };
        let shown = !hidden(&record.header);
        let body = record.body.as_ref().filter(|_| shown);
        let line = ErasureLine {
            erasure: text_of(&record.header_bytes, position)?,
            salt: body.map(|body| hex::encode(body.salt)),
            payload: body
                .map(|body| text_of(&body.payload, position))
                .transpose()?,
            proof: prove(journal, position, size)?,
        };
        serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(later)
}

fn text_of(bytes: &[u8], position: Position) -> Result<&str, ExportError> {
    std::str::from_utf8(bytes).map_err(|_| ExportError::NotText(position))
}

fn payload_of(record: &Record) -> Result<Option<&str>, ExportError> {
    let body = record.body.as_ref();
    body.map(|body| text_of(&body.payload, record.header.position))
        .transpose()
}

fn hashes(path: &[Hash]) -> Vec<String> {
    path.iter().map(|hash| hex::encode(hash.0)).collect()
}

fn prove(journal: &dyn Journal, index: Position, size: u64) -> Result<ProofLine, ProofError> {
    let path = journal.inclusion_proof(index, size)?;
    Ok(ProofLine {
        index: index.0,
        path: hashes(&path),
    })
}

fn write_record(
    mut out: &mut dyn Write,
    record: &Record,
    (leaf, block, proof): (Hash, Option<String>, Option<ProofLine>),
) -> Result<(), ExportError> {
    let line = RecordLine {
        record: text_of(&record.header_bytes, record.header.position)?,
        salt: record.body.as_ref().map(|body| hex::encode(body.salt)),
        payload: payload_of(record)?,
        leaf: hex::encode(leaf.0),
        block,
        proof,
    };
    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}
