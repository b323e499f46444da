//! Checks an export without a daemon, a journal or trust in either.
//!
//! ```text
//! whole log:  header → leaf → frontier ──────────────► the signed root; every block's signed leaves say which record differs
//! one agent:  header → leaf → its proof ─────────────► the signed root; the signed positions say which record is missing
//! witness:    frontier at the witness's size ────────► the root that it saw; a log that ends before it was cut
//! erased:     a payload that is missing ───────────► the record that says so; where that is elsewhere, with its proof
//! successions: frontier at the size of each ──────────► the root that both keys signed; they lead to the key of all else
//! ```
//!
//! Streams: besides one line at a time it keeps the frontier of the tree and one block (or, for one agent's export, the proofs),
//! and which payloads are missing that nothing has explained yet.

use std::io::{self, BufRead, Read as _};

use mesh_messages::identity::DidKey;
use tlog_tiles::Hash;

use self::checker::{Checker, Fault};
use self::line::{
    AgentLine, CheckpointLine, ConsistencyLine, LaterLine, SuccessionLine, looks_like_record,
};
use self::witness::Witnesses;
use crate::checkpoint::CheckpointClaim;
use crate::succession::{LogKeys, log_of};

mod agent;
mod checker;
mod erasures;
mod header;
mod line;
mod witness;

#[cfg(test)]
mod erased;
#[cfg(test)]
mod successions;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;

/// Longest line of a record: the longest header and payload when every byte of them is escaped, with a proof and a block.
const LINE_BYTES_MAX: usize = 512 * 1024;
/// Longest line of a checkpoint. One agent's bears the list of its positions, of which a million apart take 8 MB.
const LAST_LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What an export proves.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many records it holds.
    pub records: u64,
    /// How many of them had their payload erased.
    pub erased: u64,
    /// How many of them bear no payload because it is withheld from whom the export is for, as the node signed.
    pub withheld: u64,
    /// How many records the checkpoint covers.
    pub size: u64,
    /// The root that was signed.
    pub root: Hash,
    /// The log's name: its first key.
    pub key: DidKey,
    /// The key that signed it; the same, unless another one took over.
    pub signer: DidKey,
    /// Whether that key is merely the file's own word.
    pub key_is_from_file: bool,
    /// Whether it holds the records of one agent: all that the node signed that there were.
    pub of_one_agent: bool,
    /// Size of the largest of the witness's checkpoints that were compared, and that the log continues. Of one agent's export
    /// those are compared that are of its size, or of the size from which it bears a proof; `None` when no one is.
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
    /// Who signs for the log is not what the file says.
    #[error("succession {number}: {detail}")]
    Succession {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        detail: String,
    },
    /// The last line, the signature, or the root as a whole.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The witness's checkpoint is none, or cannot be compared.
    #[error("witness: {0}")]
    Witness(String),
    /// The file could not be read.
    #[error("failed to read the export")]
    Read(#[source] io::Error),
}

impl VerifyError {
    fn record(number: u64, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::Record { number, detail }
    }
}

/// Checks an export.
///
/// `key` is the log's name, or the key that signs for it now. Without it the file's own is believed, which proves only that
/// the file agrees with itself. `witness` holds one or several checkpoints, and successions, of the same log that somebody
/// else kept, one after the other: they show that the log's end was not cut off, and that it was not written anew.
///
/// # Errors
/// [`VerifyError`], naming the first bad record where that can be told.
pub fn verify(
    reader: impl BufRead,
    key: Option<&DidKey>,
    witness: Option<&str>,
) -> Result<VerifyReport, VerifyError> {
    // Signatures are checked when the key is known; sizes are needed on the way there.
    let witnesses = witness
        .map(Witnesses::read)
        .transpose()?
        .unwrap_or_default();
    let mut lines = Lines { reader, number: 0 };
    let missing = || VerifyError::record(0, MISSING_CHECKPOINT);
    let (mut line, mut next) = (Vec::new(), Vec::new());
    if !lines.next(&mut line)? {
        return Err(missing());
    }
    let mut keys = None;
    while let Some(note) = succession(&line, keys.as_ref())? {
        let number = keys
            .as_ref()
            .map_or(0, |keys: &LogKeys| keys.successions().len())
            + 1;
        keys = Some(succeeded(keys, &note, number)?);
        if !lines.next(&mut line)? {
            return Err(missing());
        }
    }
    let keys = known(keys, key)?;
    let mut checker = Checker::new(keys, witnesses);
    let mut fault = None;
    while lines.next(&mut next)? {
        if fault.is_none() {
            fault = checker.line(&line).err();
        }
        // In a whole log a record's place is its position. One agent's are known at the end, and so is whose they are when
        // the first of them cannot be read.
        if let Some(Fault { number, detail, .. }) = fault.take_if(|_| checker.of_whole_log()) {
            return Err(VerifyError::record(number, detail));
        }
        std::mem::swap(&mut line, &mut next);
    }
    let closing = match last_line(&line, &checker) {
        Ok(closing) => closing,
        Err(error) => {
            return Err(fault.map_or(error, |f| VerifyError::record(f.number, f.detail)));
        }
    };
    checker.witnesses().check_signatures(&closing)?;
    let (erased, withheld) = checker.finish(&closing, fault)?;
    Ok(VerifyReport {
        records: checker.count(),
        erased,
        withheld,
        size: closing.claim.size,
        root: closing.claim.root,
        key: *closing.keys.log(),
        signer: *closing.keys.at(closing.claim.size),
        key_is_from_file: key.is_none(),
        of_one_agent: checker.of_one_agent(),
        witnessed: checker.witnessed(&closing),
    })
}

/// How many records the largest of a witness's checkpoints covers: from there an agent's export needs a proof to be compared.
///
/// # Errors
/// [`VerifyError::Witness`] when there is none.
pub fn witnessed_size(witness: &str) -> Result<Option<u64>, VerifyError> {
    Ok(Witnesses::read(witness)?.largest())
}

const MISSING_CHECKPOINT: &str = "the file ends before the checkpoint";

/// What the last line says, its signature checked.
struct Closing {
    claim: CheckpointClaim,
    keys: LogKeys,
    /// What is said of one agent's positions, unchecked.
    agent: Option<AgentLine>,
    /// What is said to be withheld, unchecked.
    withheld: Option<AgentLine>,
    /// The tree of what was said after the checkpoint, unchecked.
    later: Option<LaterLine>,
    /// How the log continues a smaller tree, unchecked.
    consistency: Option<ConsistencyLine>,
}

fn last_line(line: &[u8], checker: &Checker) -> Result<Closing, VerifyError> {
    let bad = VerifyError::Checkpoint;
    let last: CheckpointLine = match serde_json::from_slice(line) {
        Ok(last) => last,
        Err(error) if looks_like_record(line) => {
            let whole = checker.next_number().saturating_add(1);
            let (number, detail) = match serde_json::from_slice::<serde::de::IgnoredAny>(line) {
                Ok(_) => (whole, MISSING_CHECKPOINT.to_owned()),
                Err(_) => (
                    checker.next_number(),
                    format!("the file ends within it, before the checkpoint: {error}"),
                ),
            };
            return Err(VerifyError::record(number, detail));
        }
        Err(error) => return Err(bad(format!("the last line does not parse: {error}"))),
    };
    let keys = checker.keys().cloned();
    let keys = keys.unwrap_or_else(|| LogKeys::of(last.key));
    if *keys.log() != last.key {
        let detail = format!("the file is of key {}, not of {}", last.key, keys.log());
        return Err(bad(detail));
    }
    let claim = keys
        .verify_checkpoint(&last.checkpoint)
        .map_err(|e| bad(e.to_string()))?;
    if let Some(latest) = keys.successions().last()
        && (claim.size < latest.size || (claim.size == latest.size && claim.root != latest.root))
    {
        let detail = format!(
            "it covers {} records, which is not beyond the tree of {} at which {} took over",
            claim.size, latest.size, latest.new
        );
        return Err(bad(detail));
    }
    Ok(Closing {
        claim,
        keys,
        agent: last.agent,
        withheld: last.withheld,
        later: last.later,
        consistency: last.consistency,
    })
}

/// The note of a line that says that another key took over; `None` for any other line.
fn succession(line: &[u8], before: Option<&LogKeys>) -> Result<Option<String>, VerifyError> {
    if !line.starts_with(b"{\"succession\"") {
        return Ok(None);
    }
    let number = before.map_or(0, |keys| keys.successions().len()) + 1;
    let parsed: SuccessionLine =
        serde_json::from_slice(line).map_err(|error| VerifyError::Succession {
            number,
            detail: format!("its line does not parse: {error}"),
        })?;
    Ok(Some(parsed.succession))
}

fn succeeded(before: Option<LogKeys>, note: &str, number: usize) -> Result<LogKeys, VerifyError> {
    let bad = |detail: String| VerifyError::Succession { number, detail };
    let mut keys = if let Some(keys) = before {
        keys
    } else {
        let log = log_of(note);
        LogKeys::of(log.ok_or_else(|| bad("it is about something else".to_owned()))?)
    };
    keys.add(note).map_err(|error| bad(error.to_string()))?;
    Ok(keys)
}

/// Whose log it must be. A key that took over has signed that it did, so whoever trusts it need not know the first one.
fn known(found: Option<LogKeys>, given: Option<&DidKey>) -> Result<Option<LogKeys>, VerifyError> {
    match (found, given) {
        (Some(keys), Some(given)) if given != keys.log() && given != keys.current() => {
            let number = keys.successions().len();
            let detail = format!(
                "they lead from {} to {}, and neither is {given}",
                keys.log(),
                keys.current()
            );
            Err(VerifyError::Succession { number, detail })
        }
        (None, Some(given)) => Ok(Some(LogKeys::of(*given))),
        (found, _) => Ok(found),
    }
}

/// Lines of bounded length.
struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line in the place of another one; whether there is one.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, VerifyError> {
        line.clear();
        self.read(line, LINE_BYTES_MAX)?;
        if line.len() > LINE_BYTES_MAX && line.starts_with(b"{\"checkpoint\"") {
            self.read(line, LAST_LINE_BYTES_MAX)?;
        }
        if line.is_empty() {
            return Ok(false);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LINE_BYTES_MAX && !line.starts_with(b"{\"checkpoint\"") {
            let detail = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(VerifyError::record(self.number, detail));
        }
        self.number += 1;
        Ok(true)
    }

    /// Reads on to the end of the line, or one byte beyond `bytes_max` in all.
    fn read(&mut self, line: &mut Vec<u8>, bytes_max: usize) -> Result<(), VerifyError> {
        let left = bytes_max.saturating_add(1).saturating_sub(line.len());
        let mut bounded = (&mut self.reader).take(left as u64);
        bounded
            .read_until(b'\n', line)
            .map(drop)
            .map_err(VerifyError::Read)
    }
}
