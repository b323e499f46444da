//! Checkpoints of the same log, and successions of its key, that somebody else kept.

use tlog_tiles::Hash;

use super::{Closing, VerifyError};
use crate::checkpoint::{CheckpointClaim, split_notes};
use crate::succession::{LogKeys, Succession, log_of};

/// They are checked against the log as it grows, smallest first.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    // Ascending by size.
    claims: Vec<(CheckpointClaim, String)>,
    // How many of them the log has agreed with.
    passed: usize,
    // As they stand in the file.
    successions: Vec<String>,
}

impl Witnesses {
    /// Reads one note, or several one after the other.
    pub(super) fn read(text: &str) -> Result<Self, VerifyError> {
        let (mut claims, mut successions) = (Vec::new(), Vec::new());
        for note in split_notes(text) {
            if log_of(&note).is_some() {
                successions.push(note);
            } else {
                claims.push((peek_claim(&note)?, note));
            }
        }
        if claims.is_empty() && successions.is_empty() {
            let detail = "it is no checkpoint: there is nothing in it".to_owned();
            return Err(VerifyError::Witness(detail));
        }
        claims.sort_by_key(|(claim, _)| claim.size);
        Ok(Self {
            claims,
            passed: 0,
            successions,
        })
    }

    /// Whether all of them are signed by the key that signed for the log then, and none knows of another one.
    pub(super) fn check_signatures(&self, closing: &Closing) -> Result<(), VerifyError> {
        let keys = self.check_successions(closing)?;
        for (_, note) in &self.claims {
            keys.verify_checkpoint(note)
                .map_err(|e| VerifyError::Witness(format!("its checkpoint is not valid: {e}")))?;
        }
        Ok(())
    }

    /// Compares the successions that were seen with those of the log; all of them together, for the witness may have seen
    /// later ones.
    fn check_successions(&self, closing: &Closing) -> Result<LogKeys, VerifyError> {
        let witness = |detail: String| VerifyError::Witness(detail);
        let mut keys = closing.keys.clone();
        for note in &self.successions {
            let seen = Succession::read(note, keys.log())
                .map_err(|e| witness(format!("a succession that it saw is not valid: {e}")))?;
            let index = usize::try_from(seen.number).unwrap_or(usize::MAX);
            match index.checked_sub(1).and_then(|n| keys.successions().get(n)) {
                Some(ours) if ours.note == seen.note => continue,
                Some(ours) => {
                    return Err(witness(format!(
                        "it saw {} take over from {} as number {}, but in this log it is {}",
                        seen.new, seen.old, seen.number, ours.new
                    )));
                }
                None => {}
            }
            keys.add(note)
                .map_err(|e| witness(format!("a succession that it saw does not follow: {e}")))?;
            let (size, root) = (closing.claim.size, closing.claim.root);
            let ends_there = size == seen.size && root == seen.root;
            if !ends_there && (size >= seen.size || seen.compromised) {
                let why = if seen.compromised {
                    ", because the old one is in wrong hands"
                } else {
                    ""
                };
                return Err(witness(format!(
                    "it saw {} take over from {} at {} records{why}; the old one signed this log of {size}",
                    seen.new, seen.old, seen.size
                )));
            }
        }
        Ok(keys)
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
