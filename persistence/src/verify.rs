//! Checks an export without a daemon, a journal or trust in either.
//!
//! Streams: besides one line at a time it keeps the frontier of the tree (or, for one agent's export, the proofs).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};

use mesh_messages::identity::DidKey;
use mesh_messages::record::RECORD_FORMAT;
use mesh_messages::{PartitionId, RecordHeader, Timestamp};
use serde::Deserialize;
use tlog_tiles::Hash;

use crate::checkpoint::{CheckpointClaim, verify_checkpoint};
use crate::seal::{SALT_LEN, commitment};
use crate::tree::Frontier;

#[cfg(test)]
mod tests;

/// Longest line: the longest header and payload when every byte of them is escaped, with a proof.
const LINE_BYTES_MAX: usize = 512 * 1024;

/// Deepest proof: of a tree with 2^63 leaves.
const PROOF_HASHES_MAX: usize = 63;

/// What an export proves.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many records it holds.
    pub records: u64,
    /// How many of them had their payload erased.
    pub erased: u64,
    /// How many records the checkpoint covers.
    pub size: u64,
    /// The root that was signed.
    pub root: Hash,
    /// The key that signed it.
    pub key: DidKey,
    /// Whether that key is merely the file's own word.
    pub key_is_from_file: bool,
    /// Whether it holds the records of one agent. Then nothing shows that it holds all of them.
    pub of_one_agent: bool,
    /// Size of the witness's checkpoint that the log continues.
    pub witnessed: Option<u64>,
}

/// Why an export does not prove what it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The first bad record: its position, or its index in the file when it has no readable position.
    #[error("record {number}: {detail}")]
    Record {
        /// Which.
        number: u64,
        /// What is wrong.
        detail: String,
    },
    /// The last line, the signature, or the root as a whole.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The log does not continue what the witness saw.
    #[error("witness: {0}")]
    Witness(String),
    /// The file could not be read.
    #[error("failed to read the export")]
    Read(#[source] io::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine<'a> {
    #[serde(borrow)]
    record: Cow<'a, str>,
    // Required, though it may be null.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    salt: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    leaf: Option<Cow<'a, str>>,
    #[serde(default)]
    proof: Option<ProofLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofLine {
    index: u64,
    path: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
    key: DidKey,
}

/// Checks an export.
///
/// Without `key` the file's own is believed, which proves only that the file agrees with itself. `witness` is a checkpoint
/// of the same log that somebody else kept: it is what shows that the log's end was not cut off.
///
/// # Errors
/// [`VerifyError`], naming the first bad record where that can be told.
pub fn verify(
    reader: impl BufRead,
    key: Option<&DidKey>,
    witness: Option<&str>,
) -> Result<VerifyReport, VerifyError> {
    // Its signature is checked when the key is known; its size is needed on the way there.
    let witness_claim = witness.map(peek_claim).transpose()?;
    let mut lines = Lines { reader, number: 0 };
    let mut checker = Checker {
        witness: witness_claim,
        ..Checker::default()
    };
    let mut line = lines.next()?.ok_or_else(|| missing_checkpoint(0))?;
    while let Some(next) = lines.next()? {
        checker.line(&line)?;
        line = next;
    }
    let (claim, signer) = last_line(&line, checker.count, key)?;
    if let (Some(note), Some(claim)) = (witness, witness_claim) {
        let checked = verify_checkpoint(note, &signer)
            .map_err(|e| VerifyError::Witness(format!("its checkpoint is not valid: {e}")))?;
        debug_assert_eq!(checked, claim);
    }
    checker.finish(claim, &signer)?;
    Ok(VerifyReport {
        records: checker.count,
        erased: checker.erased,
        size: claim.size,
        root: claim.root,
        key: signer,
        key_is_from_file: key.is_none(),
        of_one_agent: checker.of_one_agent(),
        witnessed: witness_claim.map(|witness| witness.size),
    })
}

/// What a note claims, its signature unchecked.
fn peek_claim(note: &str) -> Result<CheckpointClaim, VerifyError> {
    let malformed = |detail: String| VerifyError::Witness(format!("it is no checkpoint: {detail}"));
    let note =
        signed_note::Note::from_bytes(note.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let claim =
        tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|e| malformed(e.to_string()))?;
    Ok(CheckpointClaim {
        size: claim.size(),
        root: *claim.hash(),
    })
}

fn missing_checkpoint(number: u64) -> VerifyError {
    let detail = "the file ends before the checkpoint".to_owned();
    VerifyError::Record { number, detail }
}

/// The checkpoint, and the key that signed it.
fn last_line(
    line: &[u8],
    count: u64,
    given: Option<&DidKey>,
) -> Result<(CheckpointClaim, DidKey), VerifyError> {
    let bad = VerifyError::Checkpoint;
    let last: CheckpointLine = serde_json::from_slice(line).map_err(|e| {
        match serde_json::from_slice::<RecordLine<'_>>(line) {
            Ok(_) => missing_checkpoint(count + 1),
            Err(_) => bad(format!("the last line does not parse: {e}")),
        }
    })?;
    let key = given.copied().unwrap_or(last.key);
    if key != last.key {
        return Err(bad(format!(
            "the file is of key {}, not of {key}",
            last.key
        )));
    }
    let claim = verify_checkpoint(&last.checkpoint, &key).map_err(|e| bad(e.to_string()))?;
    Ok((claim, key))
}

/// Lines of bounded length.
struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Vec<u8>>, VerifyError> {
        let mut line = Vec::with_capacity(2048);
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1);
        bounded
            .read_until(b'\n', &mut line)
            .map_err(VerifyError::Read)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LINE_BYTES_MAX {
            let detail = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(VerifyError::Record {
                number: self.number,
                detail,
            });
        }
        self.number += 1;
        Ok(Some(line))
    }
}

/// A record of one agent's export, kept until the root is known.
struct Included {
    index: u64,
    leaf: Hash,
    path: Vec<Hash>,
}

#[derive(Default)]
struct Checker {
    count: u64,
    erased: u64,
    log: Option<String>,
    /// Time and counter of the last record.
    last: Option<(u64, Timestamp, u32)>,
    seqs: BTreeMap<PartitionId, u64>,
    frontier: Frontier,
    included: Vec<Included>,
    witness: Option<CheckpointClaim>,
}

impl Checker {
    fn of_one_agent(&self) -> bool {
        !self.included.is_empty()
    }

    /// Checks the next record; the error names it.
    fn line(&mut self, line: &[u8]) -> Result<(), VerifyError> {
        let parsed = serde_json::from_slice(line).map_err(|e| VerifyError::Record {
            number: self.count,
            detail: e.to_string(),
        })?;
        self.record(parsed)
            .map_err(|(number, detail)| VerifyError::Record { number, detail })?;
        self.count += 1;
        Ok(())
    }

    fn record(&mut self, line: RecordLine<'_>) -> Result<(), (u64, String)> {
        let at_count = |detail: String| (self.count, detail);
        let header: RecordHeader = serde_json::from_str(&line.record)
            .map_err(|e| at_count(format!("its header does not parse: {e}")))?;
        if self.count > 0 && line.proof.is_some() != self.of_one_agent() {
            return Err(at_count(
                "some records bear a proof and others do not".into(),
            ));
        }
        let number = if line.proof.is_some() {
            header.position.0
        } else {
            self.count
        };
        self.check_header(&header, line.proof.is_some())
            .map_err(|detail| (number, detail))?;
        self.erased += u64::from(check_body(&header, &line).map_err(|detail| (number, detail))?);
        let leaf = tlog_tiles::record_hash(line.record.as_bytes());
        if let Some(stated) = &line.leaf
            && **stated != hex::encode(leaf.0)
        {
            return Err((
                number,
                "its header was changed: it does not match its leaf hash".into(),
            ));
        }
        match line.proof {
            Some(proof) => {
                let proof =
                    parse_proof(&proof, &header, leaf).map_err(|detail| (number, detail))?;
                self.included.push(proof);
            }
            None => self
                .grow(&header, leaf)
                .map_err(|detail| (number, detail))?,
        }
        self.last = Some((header.position.0, header.time, header.lc));
        self.log.get_or_insert(header.log);
        Ok(())
    }

    /// Checks what a header says against the records before it.
    fn check_header(&self, header: &RecordHeader, proven: bool) -> Result<(), String> {
        if header.v > RECORD_FORMAT {
            return Err(format!(
                "it has format {}, known is up to {RECORD_FORMAT}",
                header.v
            ));
        }
        let position = header.position.0;
        if !proven && position != self.count {
            return Err(format!(
                "it says position {position}: a record is missing, added or moved"
            ));
        }
        if let Some((last, time, lc)) = self.last {
            if proven && position <= last {
                return Err(format!("it follows record {last}"));
            }
            if (header.time, header.lc) <= (time, lc) {
                return Err("its time is not after that of the record before it".into());
            }
        }
        match &self.log {
            Some(log) if *log != header.log => Err(format!("it is of another log, {}", header.log)),
            _ => Ok(()),
        }
    }

    /// Adds a record of a whole log.
    fn grow(&mut self, header: &RecordHeader, leaf: Hash) -> Result<(), String> {
        let next = header.seq.saturating_add(1);
        let expected = match self.seqs.get_mut(&header.partition) {
            Some(seq) => std::mem::replace(seq, next),
            None => self
                .seqs
                .insert(header.partition.clone(), next)
                .unwrap_or(0),
        };
        if header.seq != expected {
            return Err(format!(
                "it is number {} of partition {}, not {expected}",
                header.seq, header.partition
            ));
        }
        self.frontier.push(leaf, |_| {});
        if let Some(witness) = self.witness
            && witness.size == self.frontier.size()
            && witness.root != self.frontier.root()
        {
            return Err(format!(
                "it or one before it is not what the witness saw in its checkpoint over {} records",
                witness.size
            ));
        }
        Ok(())
    }

    /// Checks the whole against what was signed and what the witness saw.
    fn finish(&self, claim: CheckpointClaim, key: &DidKey) -> Result<(), VerifyError> {
        let record = |number, detail: String| Err(VerifyError::Record { number, detail });
        let signer = key.to_string();
        if let (Some(log), Some((number, ..))) = (&self.log, self.last)
            && *log != signer
        {
            let number = if self.of_one_agent() { number } else { 0 };
            return record(
                number,
                format!("it is of log {log}, the checkpoint is of {signer}"),
            );
        }
        if let Some(witness) = self.witness
            && claim.size < witness.size
        {
            return Err(VerifyError::Witness(format!(
                "it saw {} records, this log ends after {}: its end was cut off",
                witness.size, claim.size
            )));
        }
        if self.of_one_agent() {
            return self.finish_proofs(claim);
        }
        if self.count < claim.size {
            return record(
                self.count,
                format!(
                    "it is missing: the checkpoint covers {} records",
                    claim.size
                ),
            );
        }
        if self.count > claim.size {
            return record(
                claim.size,
                format!("the checkpoint covers {} records only", claim.size),
            );
        }
        if self.frontier.root() != claim.root {
            return Err(VerifyError::Checkpoint(
                "the records do not add up to the signed root: at least one was changed".into(),
            ));
        }
        Ok(())
    }

    fn finish_proofs(&self, claim: CheckpointClaim) -> Result<(), VerifyError> {
        for Included { index, leaf, path } in &self.included {
            tlog_tiles::check_record(path, claim.size, claim.root, *index, *leaf).map_err(
                |_| {
                    let detail = "its proof does not lead to the signed root".to_owned();
                    VerifyError::Record {
                        number: *index,
                        detail,
                    }
                },
            )?;
        }
        match self.witness {
            Some(witness) if witness.size == claim.size && witness.root != claim.root => Err(
                VerifyError::Witness("it saw another root for the same size".into()),
            ),
            Some(witness) if witness.size < claim.size => Err(VerifyError::Witness(format!(
                "it saw {} records of {}; only an export of the whole log shows that they are the same",
                witness.size, claim.size
            ))),
            _ => Ok(()),
        }
    }
}

/// Checks salt and payload against the header; returns whether they were erased.
fn check_body(header: &RecordHeader, line: &RecordLine<'_>) -> Result<bool, String> {
    match (&line.salt, &line.payload) {
        (None, None) => Ok(true),
        (Some(salt), Some(payload)) => {
            let mut bytes = [0; SALT_LEN];
            hex::decode_to_slice(salt.as_bytes(), &mut bytes)
                .map_err(|_| format!("its salt is not {SALT_LEN} bytes in hex"))?;
            if commitment(&bytes, payload.as_bytes()) == header.payload {
                Ok(false)
            } else {
                Err("its salt and payload are not those that its header commits to".into())
            }
        }
        _ => Err("of salt and payload only one is there".into()),
    }
}

fn parse_proof(proof: &ProofLine, header: &RecordHeader, leaf: Hash) -> Result<Included, String> {
    if proof.index != header.position.0 {
        return Err(format!("its proof is for record {}", proof.index));
    }
    if proof.path.len() > PROOF_HASHES_MAX {
        return Err("its proof is too long".into());
    }
    let mut path = Vec::with_capacity(proof.path.len());
    for text in &proof.path {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash)
            .map_err(|_| "its proof holds something that is no hash".to_owned())?;
        path.push(Hash(hash));
    }
    Ok(Included {
        index: proof.index,
        leaf,
        path,
    })
}
