//! Checkpoints of the same log that somebody else kept.

use mesh_messages::identity::DidKey;
use tlog_tiles::Hash;

use super::VerifyError;
use crate::checkpoint::{CheckpointClaim, verify_checkpoint};

/// What begins a line of signature in a C2SP note.
const SIGNATURE_LINE: &str = "\u{2014} ";

/// They are checked against the log as it grows, smallest first.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    // Ascending by size.
    claims: Vec<(CheckpointClaim, String)>,
    // How many of them the log has agreed with.
    passed: usize,
}

impl Witnesses {
    /// Reads one note, or several one after the other.
    pub(super) fn read(text: &str) -> Result<Self, VerifyError> {
        let mut claims = notes(text)
            .into_iter()
            .map(|note| Ok((peek_claim(&note)?, note)))
            .collect::<Result<Vec<_>, VerifyError>>()?;
        if claims.is_empty() {
            let detail = "it is no checkpoint: there is nothing in it".to_owned();
            return Err(VerifyError::Witness(detail));
        }
        claims.sort_by_key(|(claim, _)| claim.size);
        Ok(Self { claims, passed: 0 })
    }

    /// Whether all of them are signed by the log's own key.
    pub(super) fn check_signatures(&self, key: &DidKey) -> Result<(), VerifyError> {
        for (_, note) in &self.claims {
            verify_checkpoint(note, key)
                .map_err(|e| VerifyError::Witness(format!("its checkpoint is not valid: {e}")))?;
        }
        Ok(())
    }

    /// The size of the largest.
    pub(super) fn largest(&self) -> Option<u64> {
        self.claims.last().map(|(claim, _)| claim.size)
    }

    /// The claims, smallest first.
    pub(super) fn claims(&self) -> impl Iterator<Item = CheckpointClaim> {
        self.claims.iter().map(|(claim, _)| *claim)
    }

    /// Compares the log, grown to `size`, with what was seen at that size.
    pub(super) fn check_at(&mut self, size: u64, root: impl Fn() -> Hash) -> Result<(), String> {
        while let Some((claim, _)) = self.claims.get(self.passed)
            && claim.size <= size
        {
            if claim.size == size && claim.root != root() {
                let since = match self.passed.checked_sub(1).and_then(|n| self.claims.get(n)) {
                    Some((good, _)) => format!(" from record {} on", good.size),
                    None => String::new(),
                };
                return Err(format!(
                    "it or one before it{since} is not what the witness saw in its checkpoint over {size} records"
                ));
            }
            self.passed += 1;
        }
        Ok(())
    }
}

/// Splits notes that follow each other: after the signatures of one begins the text of the next.
fn notes(text: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let (mut note, mut signed) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        let is_signature = line.starts_with(SIGNATURE_LINE);
        if signed && !is_signature {
            notes.push(std::mem::take(&mut note));
            signed = false;
            if line.trim().is_empty() {
                continue;
            }
        }
        if note.is_empty() && line.trim().is_empty() {
            continue;
        }
        note.push_str(line);
        signed |= is_signature;
    }
    if !note.is_empty() {
        if !note.ends_with('\n') {
            note.push('\n');
        }
        notes.push(note);
    }
    notes
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
