//! The records of an export, one after the other.

use std::collections::BTreeMap;

use mesh_messages::Timestamp;
use mesh_messages::events::KEY_ROTATED;
use mesh_messages::record::RECORD_FORMAT;
use tlog_tiles::Hash;

use super::agent::{self, Included};
use super::erasures::Erasures;
use super::header::Header;
use super::line::{ErasureLine, RecordLine};
use super::witness::Witnesses;
use super::{Closing, VerifyError};
use crate::export::block;
use crate::hash_text::HashText;
use crate::succession::LogKeys;
use crate::tree::Frontier;

/// The first record that is wrong.
#[derive(Debug)]
pub(super) struct Fault {
    /// Its position as far as it can be read.
    pub(super) number: u64,
    pub(super) detail: String,
}

const NO_BLOCK: &str = "the signed list of its block is missing: who took it away may have changed records of that block";

/// Whose records the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// No record could be read yet.
    Unknown,
    WholeLog,
    /// The first record that could be read bears a proof.
    OneAgent,
}

pub(super) struct Checker {
    keys: Option<LogKeys>,
    // Of the log that the records name, where no other was to be expected.
    named: Option<LogKeys>,
    count: u64,
    erasures: Erasures,
    log: Option<String>,
    /// Position, time and counter of the last record.
    last: Option<(u64, Timestamp, u32)>,
    seqs: BTreeMap<String, u64>,
    frontier: Frontier,
    // Leaves since the last block.
    leaves: Vec<Hash>,
    of: Of,
    included: Vec<Included>,
    witnesses: Witnesses,
    // How many records said that another key took over, and how many successions the log has agreed with.
    rotated: usize,
    succeeded: usize,
}

impl Checker {
    pub(super) fn new(keys: Option<LogKeys>, witnesses: Witnesses) -> Self {
        Self {
            keys,
            named: None,
            count: 0,
            erasures: Erasures::default(),
            log: None,
            last: None,
            seqs: BTreeMap::new(),
            frontier: Frontier::default(),
            leaves: Vec::with_capacity(block::RECORDS),
            of: Of::Unknown,
            included: Vec::new(),
            witnesses,
            rotated: 0,
            succeeded: 0,
        }
    }

    pub(super) fn keys(&self) -> Option<&LogKeys> {
        self.keys.as_ref()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn of_one_agent(&self) -> bool {
        self.of == Of::OneAgent
    }

    /// Whether the place of a record is its position.
    pub(super) fn of_whole_log(&self) -> bool {
        self.of == Of::WholeLog
    }

    pub(super) fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// What number the next record has at least.
    pub(super) fn next_number(&self) -> u64 {
        match self.last {
            Some((last, ..)) if self.of_one_agent() => last.saturating_add(1),
            _ => self.count,
        }
    }

    /// Checks the next record; the error names it.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.starts_with(b"{\"erasure\"") {
            return self.told(line);
        }
        if self.erasures.are_told() {
            return Err(Fault {
                number: self.next_number(),
                detail: "it stands behind what was erased of those before it".to_owned(),
            });
        }
        let parsed: RecordLine<'_> = serde_json::from_slice(line).map_err(|e| Fault {
            number: self.next_number(),
            detail: e.to_string(),
        })?;
        self.record(&parsed)
            .map_err(|(number, detail)| Fault { number, detail })?;
        self.count += 1;
        Ok(())
    }

    /// Takes in a record that says what was erased of those before it.
    fn told(&mut self, line: &[u8]) -> Result<(), Fault> {
        let number = self.next_number();
        let parsed: ErasureLine<'_> = serde_json::from_slice(line).map_err(|e| Fault {
            number,
            detail: format!("what is said to be erased does not parse: {e}"),
        })?;
        self.erasures
            .told(&parsed, (number, self.log.as_deref().unwrap_or_default()))
            .map_err(|(number, detail)| Fault { number, detail })
    }

    fn record(&mut self, line: &RecordLine<'_>) -> Result<(), (u64, String)> {
        let here = self.next_number();
        if self.of == Of::Unknown {
            let of_agent = line.proof.is_some();
            self.of = if of_agent { Of::OneAgent } else { Of::WholeLog };
        }
        let unread = |e: serde_json::Error| (here, format!("its header does not parse: {e}"));
        let header: Header<'_> = serde_json::from_str(&line.record).map_err(unread)?;
        let one_agent = self.of_one_agent();
        if line.proof.is_some() != one_agent {
            let detail = "some records bear a proof and others do not".to_owned();
            return Err((here, detail));
        }
        let number = if one_agent {
            header.position.0
        } else {
            self.count
        };
        let at = |detail: String| (number, detail);
        self.check_header(&header).map_err(at)?;
        line.check_body(&header.payload).map_err(at)?;
        let payload = line.payload.as_deref();
        if payload.is_none() || self.erasures.are_missing() {
            let header = serde_json::from_str(&line.record).map_err(unread)?;
            self.erasures.record(&header, payload);
        }
        let leaf = tlog_tiles::record_hash(line.record.as_bytes());
        if let Some(stated) = &line.leaf
            && **stated != *HashText::of(&leaf.0).as_str()
        {
            let detail = "its header was changed: it does not match its leaf hash";
            return Err(at(detail.to_owned()));
        }
        self.last = Some((header.position.0, header.time, header.lc));
        self.log
            .get_or_insert_with(|| header.log.clone().into_owned());
        if let Some(proof) = &line.proof {
            self.included.push(Included {
                index: header.position.0,
                leaf,
                path: proof.path(header.position).map_err(at)?,
                agent: header.agent,
            });
            return Ok(());
        }
        self.grow(&header, leaf).map_err(at)?;
        self.check_block(line.block.as_deref(), leaf)?;
        self.check_witness().map_err(at)
    }

    /// Checks what a header says against the records before it.
    fn check_header(&self, header: &Header<'_>) -> Result<(), String> {
        if header.v > RECORD_FORMAT {
            return Err(format!(
                "it has format {}, known is up to {RECORD_FORMAT}",
                header.v
            ));
        }
        let position = header.position.0;
        if !self.of_one_agent() && position != self.count {
            return Err(format!(
                "it says position {position}: a record is missing, added or moved"
            ));
        }
        if let Some((last, time, lc)) = self.last {
            if self.of_one_agent() && position <= last {
                return Err(format!("it follows record {last}"));
            }
            if (header.time, header.lc) <= (time, lc) {
                return Err("its time is not after that of the record before it".into());
            }
        }
        match (&self.log, self.keys.as_ref().map(LogKeys::log)) {
            (Some(log), _) if *log != header.log => {
                Err(format!("it is of another log, {}", header.log))
            }
            (None, Some(key)) if header.log != key.to_string() => {
                Err(format!("it is of log {}, not of {key}", header.log))
            }
            _ => Ok(()),
        }
    }

    /// Adds a record of a whole log.
    fn grow(&mut self, header: &Header<'_>, leaf: Hash) -> Result<(), String> {
        let next = header.seq.saturating_add(1);
        let expected = if let Some(seq) = self.seqs.get_mut(&*header.partition) {
            std::mem::replace(seq, next)
        } else {
            let partition = header.partition.clone().into_owned();
            self.seqs.insert(partition, next).unwrap_or(0)
        };
        if header.seq != expected {
            return Err(format!(
                "it is number {} of partition {}, not {expected}",
                header.seq, header.partition
            ));
        }
        self.frontier.push(leaf, |_| {});
        self.check_successions(header)
    }

    /// Compares the tree with what was signed when another key took over, and what the records say of that.
    fn check_successions(&mut self, header: &Header<'_>) -> Result<(), String> {
        let successions = self.keys.as_ref().map_or(&[][..], LogKeys::successions);
        if let Some(next) = successions.get(self.succeeded)
            && next.size == self.frontier.size()
        {
            if next.root != self.frontier.root() {
                return Err(format!(
                    "it or one before it is not what was signed when key {} took over at {} records",
                    next.new, next.size
                ));
            }
            self.succeeded += 1;
        }
        if header.kind == KEY_ROTATED {
            self.rotated += 1;
            if self.rotated > self.succeeded {
                return Err(
                    "it says that another key took over, but the file holds no such succession"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Compares a block's leaves with those that were signed.
    fn check_block(&mut self, note: Option<&str>, leaf: Hash) -> Result<(), (u64, String)> {
        self.leaves.push(leaf);
        let size = self.frontier.size();
        let (last, first) = (size - 1, size - self.leaves.len() as u64);
        let Some(note) = note else {
            if self.leaves.len() < block::RECORDS {
                return Ok(());
            }
            return Err((last, NO_BLOCK.to_owned()));
        };
        if self.keys.is_none() && self.named.is_none() {
            let log = self.log.as_deref().unwrap_or_default().parse();
            let log = log.map_err(|_| (first, "its log is no key".to_owned()))?;
            self.named = Some(LogKeys::of(log));
        }
        let Some(keys) = self.keys.as_ref().or(self.named.as_ref()) else {
            return Ok(());
        };
        let changed = block::first_changed(note, keys, first, &self.leaves)
            .map_err(|why| (last, format!("the signed list of its block: {why}")))?;
        if let Some(changed) = changed {
            let detail = "it was changed: the node signed another leaf hash for it".to_owned();
            return Err((changed, detail));
        }
        self.leaves.clear();
        Ok(())
    }

    fn check_witness(&mut self) -> Result<(), String> {
        let frontier = &self.frontier;
        self.witnesses.check_at(frontier.size(), || frontier.root())
    }

    /// Checks the whole against what was signed and what the witness saw; how many payloads were erased, and are withheld.
    pub(super) fn finish(
        &self,
        closing: &Closing,
        fault: Option<Fault>,
    ) -> Result<(u64, u64), VerifyError> {
        let claim = closing.claim;
        let signer = closing.keys.log().to_string();
        // Where no record could be read, or is left, the last line tells.
        let unread = self.of == Of::Unknown;
        let one_agent = self.of_one_agent() || (unread && closing.agent.is_some());
        if one_agent {
            agent::check(&self.included, closing, fault)?;
        } else if let Some(fault) = fault {
            return Err(VerifyError::record(fault.number, fault.detail));
        }
        if let (Some(log), Some((number, ..))) = (&self.log, self.last)
            && *log != signer
        {
            let number = if one_agent { number } else { 0 };
            let detail = format!("it is of log {log}, the checkpoint is of {signer}");
            return Err(VerifyError::record(number, detail));
        }
        if !one_agent {
            self.finish_whole(closing)?;
        }
        if let Some(witness) = self.witnesses.claims().find(|w| claim.size < w.size) {
            let detail = format!(
                "it is missing: the witness saw {} records, this log ends after {}, its end was cut off",
                witness.size, claim.size
            );
            return Err(VerifyError::record(claim.size, detail));
        }
        if one_agent {
            self.finish_witnessed_agent(closing)?;
        }
        self.erasures.finish(closing)
    }

    fn finish_whole(&self, closing: &Closing) -> Result<(), VerifyError> {
        let claim = closing.claim;
        if closing.agent.is_some() {
            let detail = "it lists an agent's records, but these bear no proofs".to_owned();
            return Err(VerifyError::Checkpoint(detail));
        }
        if self.count < claim.size {
            let size = claim.size;
            let detail = format!("it is missing: the checkpoint covers {size} records");
            return Err(VerifyError::record(self.count, detail));
        }
        if self.count > claim.size {
            let detail = format!("the checkpoint covers {} records only", claim.size);
            return Err(VerifyError::record(claim.size, detail));
        }
        if !self.leaves.is_empty() {
            return Err(VerifyError::record(self.count.saturating_sub(1), NO_BLOCK));
        }
        if self.frontier.root() != claim.root {
            let detail =
                "the records do not add up to the signed root: at least one was changed".to_owned();
            return Err(VerifyError::Checkpoint(detail));
        }
        Ok(())
    }

    /// The size of the largest of the witness's checkpoints that the log was compared with.
    pub(super) fn witnessed(&self, closing: &Closing) -> Option<u64> {
        if !self.of_one_agent() {
            return self.witnesses.largest();
        }
        let proven = closing.consistency.as_ref().map(|line| line.size);
        let compared = |size: &u64| *size == closing.claim.size || Some(*size) == proven;
        let sizes = self.witnesses.claims().map(|witness| witness.size);
        sizes.filter(compared).max()
    }

    /// Where an agent's export can be compared with what the witness saw: at its own size, and where it bears a proof.
    fn finish_witnessed_agent(&self, closing: &Closing) -> Result<(), VerifyError> {
        let claim = closing.claim;
        let other = |detail: String| VerifyError::Witness(detail);
        for witness in self.witnesses.claims() {
            if witness.size == claim.size && witness.root != claim.root {
                return Err(other("it saw another root for the same size".to_owned()));
            }
            let proof = closing.consistency.as_ref();
            let Some(proof) = proof.filter(|proof| proof.size == witness.size) else {
                continue;
            };
            let path = proof.path().map_err(other)?;
            let held =
                tlog_tiles::check_tree(&path, claim.size, claim.root, witness.size, witness.root);
            held.map_err(|_| {
                let size = witness.size;
                other(format!(
                    "this log does not continue the one of {size} records that it saw"
                ))
            })?;
        }
        Ok(())
    }
}
