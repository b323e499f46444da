//! Co-signing other logs' checkpoints: C2SP `tlog-witness` requests and `tlog-cosignature` signatures.
//!
//! ```text
//! old 20                          how many records the last checkpoint covers that this witness signed
//! PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=      the consistency proof from there
//!                                 an empty line
//! did:key:z6Mk…                   the new checkpoint, signed by its log
//! 42
//! fetPNZL2dJ…=
//!
//! — did:key:z6Mk… xjhA3…
//! ```
//!
//! A co-signature says: this log has only grown since the last one. It covers `cosignature/v1`, the time, and the text of the
//! checkpoint, so no signature of another kind can be passed off as one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use mesh_messages::Timestamp;
use mesh_messages::identity::DidKey;
use signed_note::Note;
use tlog_tiles::Hash;

use crate::checkpoint::{CheckpointClaim, CheckpointInvalid, SIGNATURE_LINE};
use crate::succession::{LogSigner, Succession, SuccessionInvalid, log_of, signed_checkpoint};

/// Algorithm byte of a co-signature's key.
const ALG_COSIGNATURE: u8 = 4;
/// Hashes of the longest consistency proof.
const PROOF_HASHES_MAX: usize = 63;
/// Largest tree that is looked at: beyond it the arithmetic of proofs has no room.
const SIZE_MAX: u64 = 1 << 62;

/// Why a checkpoint is not co-signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The request is none.
    #[error("it is no request to a witness: {0}")]
    Malformed(String),
    /// The checkpoint is not the log's.
    #[error("its checkpoint is not accepted: {0}")]
    Checkpoint(#[from] CheckpointInvalid),
    /// The note does not say that another key took over.
    #[error("its succession is not accepted: {0}")]
    Succession(#[from] SuccessionInvalid),
    /// Another checkpoint of this very size was co-signed before: there are two logs.
    #[error(
        "its root differs from what was co-signed for the same size: there are two logs of one name"
    )]
    Fork,
    /// The log does not continue what was co-signed before.
    #[error("the proof does not show that the log continues what was co-signed: {0}")]
    Proof(String),
}

/// A request to co-sign a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct AddCheckpoint {
    /// The size from which the proof begins.
    pub old: u64,
    /// The log, as the checkpoint names it.
    pub origin: String,
    /// The checkpoint.
    pub note: String,
    proof: Vec<Hash>,
}

impl AddCheckpoint {
    /// Reads a request.
    ///
    /// # Errors
    /// [`WitnessError::Malformed`].
    pub fn parse(body: &str) -> Result<Self, WitnessError> {
        let malformed = |detail: &str| WitnessError::Malformed(detail.to_owned());
        let (head, note) = body
            .split_once("\n\n")
            .ok_or_else(|| malformed("there is no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old
            .and_then(|text| text.parse().ok().filter(|n: &u64| n.to_string() == text))
            .filter(|old| *old <= SIZE_MAX)
            .ok_or_else(|| malformed("the first line is not `old` and a size"))?;
        let mut proof = Vec::new();
        for line in lines {
            let hash = BASE64.decode(line).ok().and_then(|b| b.try_into().ok());
            proof.push(Hash(hash.ok_or_else(|| {
                malformed("its proof holds something that is no hash")
            })?));
            if proof.len() > PROOF_HASHES_MAX {
                return Err(malformed("its proof is too long"));
            }
        }
        let origin = note.split('\n').next().unwrap_or_default().to_owned();
        Ok(Self {
            old,
            origin,
            note: note.to_owned(),
            proof,
        })
    }

    /// Writes a request: what a log sends to its witness.
    pub fn to_body(old: u64, proof: &[String], note: &str) -> String {
        let mut body = format!("old {old}\n");
        for hash in proof {
            body.push_str(hash);
            body.push('\n');
        }
        body.push('\n');
        body.push_str(note);
        body
    }

    /// Checks that the checkpoint is of the log `log`, signed by its key in force `key`, and that it continues the log of `old` records and root `root` (hex).
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn check(
        &self,
        log: &DidKey,
        key: &DidKey,
        root: Option<&str>,
    ) -> Result<CheckpointClaim, WitnessError> {
        let claim = self.claim(log, key)?;
        self.check_continues(claim, root)?;
        Ok(claim)
    }

    /// What the checkpoint claims, if it is of the log `log`, signed by its key in force `key`. Whether the log continues is not
    /// checked, but that it does not go back is.
    ///
    /// # Errors
    /// [`WitnessError::Checkpoint`], [`WitnessError::Malformed`].
    pub fn claim(&self, log: &DidKey, key: &DidKey) -> Result<CheckpointClaim, WitnessError> {
        let claim = signed_checkpoint(&self.note, log, |_| key)?;
        self.check_grows(claim.size)?;
        Ok(claim)
    }

    fn check_grows(&self, size: u64) -> Result<(), WitnessError> {
        if size < self.old {
            let detail = "the checkpoint is smaller than `old`";
            return Err(WitnessError::Malformed(detail.to_owned()));
        }
        Ok(())
    }

    /// Reads the note as a succession of the log's key, and checks that the tree in it continues the log of `old` records and
    /// root `root` (hex). Whether it follows from the keys that are known is for the caller to say.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn check_succession(
        &self,
        log: &DidKey,
        root: Option<&str>,
    ) -> Result<Succession, WitnessError> {
        let succession = self.succession(log)?;
        let claim = CheckpointClaim {
            size: succession.size,
            root: succession.root,
        };
        self.check_continues(claim, root)?;
        Ok(succession)
    }

    /// Reads the note as a succession of the log's key, signed by both keys. Whether the log continues is not checked.
    ///
    /// # Errors
    /// [`WitnessError::Succession`].
    pub fn succession(&self, log: &DidKey) -> Result<Succession, WitnessError> {
        Ok(Succession::read(&self.note, log)?)
    }

    /// The log of which the note is a succession; `None` when it is none.
    pub fn succession_of(&self) -> Option<DidKey> {
        log_of(&self.note)
    }

    fn check_continues(
        &self,
        claim: CheckpointClaim,
        root: Option<&str>,
    ) -> Result<(), WitnessError> {
        let bad = |detail: &str| WitnessError::Proof(detail.to_owned());
        if claim.size > SIZE_MAX {
            return Err(bad("it claims more records than a log can have"));
        }
        self.check_grows(claim.size)?;
        if self.old == 0 || self.old == claim.size {
            if !self.proof.is_empty() {
                return Err(bad(
                    "nothing is to be proven from here, but there are hashes",
                ));
            }
            let differs = self.old > 0 && root != Some(hex::encode(claim.root.0).as_str());
            return if differs {
                Err(WitnessError::Fork)
            } else {
                Ok(())
            };
        }
        let root = root
            .and_then(|text| hex::decode(text).ok()?.try_into().ok())
            .ok_or_else(|| bad("nothing of that size was co-signed"))?;
        tlog_tiles::check_tree(&self.proof, claim.size, claim.root, self.old, Hash(root))
            .map_err(|_| bad("its hashes do not lead from one root to the other"))
    }
}

/// Makes the line of a co-signature over a checkpoint, or a succession: in the witness's name, with its key in force.
///
/// # Errors
/// [`WitnessError::Malformed`] when the note is none.
pub fn cosign(signer: &LogSigner, note: &str, at: Timestamp) -> Result<String, WitnessError> {
    let malformed = |detail: String| WitnessError::Malformed(detail);
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let seconds = at.as_millis() / 1000;
    let signed = signed_text(seconds, note.text());
    let name = signer.keys().log().to_string();
    let secret = ed25519_dalek::SigningKey::from_bytes(signer.secret().secret_bytes());
    let mut bytes = key_id(&name, signer.keys().current())
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(&seconds.to_be_bytes());
    bytes.extend_from_slice(&secret.sign(&signed).to_bytes());
    Ok(format!("{SIGNATURE_LINE}{name} {}\n", BASE64.encode(bytes)))
}

/// Checks that the witness of this name, whose key in force is or was `key`, co-signed a note; when it did.
///
/// # Errors
/// [`CheckpointInvalid`] when it did not.
pub fn verify_cosignature(
    note: &str,
    witness: &DidKey,
    key: &DidKey,
) -> Result<Timestamp, CheckpointInvalid> {
    let name = witness.to_string();
    let parsed = Note::from_bytes(note.as_bytes())
        .map_err(|e| CheckpointInvalid::Malformed(e.to_string()))?;
    let id = key_id(&name, key).to_be_bytes();
    let prefix = format!("{SIGNATURE_LINE}{name} ");
    let signed = || CheckpointInvalid::Signature(name.clone());
    for line in note.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        let Ok(bytes) = BASE64.decode(line) else {
            continue;
        };
        let Some((found, rest)) = bytes.split_first_chunk::<4>() else {
            continue;
        };
        let Some((time, signature)) = rest.split_first_chunk::<8>() else {
            continue;
        };
        if *found != id {
            continue;
        }
        let seconds = u64::from_be_bytes(*time);
        let signature = Signature::from_slice(signature).map_err(|_| signed())?;
        let key = key.ed25519_bytes().ok_or_else(signed)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| signed())?;
        key.verify_strict(&signed_text(seconds, parsed.text()), &signature)
            .map_err(|_| signed())?;
        return Ok(Timestamp::from_millis(seconds.saturating_mul(1000)));
    }
    Err(signed())
}

fn signed_text(seconds: u64, text: &[u8]) -> Vec<u8> {
    let mut signed = format!("cosignature/v1\ntime {seconds}\n").into_bytes();
    signed.extend_from_slice(text);
    signed
}

fn key_id(name: &str, key: &DidKey) -> u32 {
    let mut encoded = [ALG_COSIGNATURE; 33];
    // A key of another kind has no id here, and no signature holds for it.
    encoded[1..].copy_from_slice(&key.ed25519_bytes().unwrap_or_default());
    signed_note::key_id(name, &encoded)
}

#[cfg(test)]
mod tests {
    use mesh_messages::PartitionId;
    use mesh_messages::identity::SigningKey;

    use super::*;
    use crate::journal::Journal as _;
    use crate::memory::MemoryJournal;
    use crate::testing::{key, memory_journal, record};

    fn grow(journal: &MemoryJournal, count: u64) {
        let partition = PartitionId::from_static("agents");
        for _ in 0..count {
            let seq = journal.next_seq(&partition);
            let appended = journal.append(&partition, seq, vec![record("registered", "{}")]);
            appended.unwrap();
        }
    }

    fn request(journal: &MemoryJournal, old: u64) -> AddCheckpoint {
        let checkpoint = journal.checkpoint().unwrap();
        let proof: Vec<String> = match old {
            0 => Vec::new(),
            old if old == checkpoint.size => Vec::new(),
            old => {
                let path = journal.consistency_proof(old, checkpoint.size).unwrap();
                path.iter().map(|hash| BASE64.encode(hash.0)).collect()
            }
        };
        let body = AddCheckpoint::to_body(old, &proof, &checkpoint.note);
        AddCheckpoint::parse(&body).unwrap()
    }

    #[test]
    fn a_log_that_grew_is_co_signed_and_one_that_forked_is_not() {
        let journal = memory_journal();
        grow(&journal, 5);
        let first = request(&journal, 0)
            .check(&key().public(), &key().public(), None)
            .unwrap();
        let root = hex::encode(first.root.0);
        grow(&journal, 7);
        let later = request(&journal, 5);
        let claim = later
            .check(&key().public(), &key().public(), Some(&root))
            .unwrap();
        assert_eq!(claim.size, 12);

        let other = memory_journal();
        grow(&other, 5);
        grow(&other, 7);
        let forked = request(&other, 5);
        assert!(matches!(
            forked.check(&key().public(), &key().public(), Some(&root)),
            Err(WitnessError::Proof(_))
        ));
        let mut cut = later.clone();
        cut.proof.pop();
        assert!(
            cut.check(&key().public(), &key().public(), Some(&root))
                .is_err()
        );
        let stranger = SigningKey::from_secret(&[9; 32]).public();
        assert!(matches!(
            later.check(&stranger, &stranger, Some(&root)),
            Err(WitnessError::Checkpoint(_))
        ));
    }

    #[test]
    fn a_co_signature_holds_for_its_note_and_its_witness_alone() {
        let journal = memory_journal();
        grow(&journal, 3);
        let note = journal.checkpoint().unwrap().note;
        let signer = LogSigner::new(SigningKey::from_secret(&[11; 32]));
        let witness = *signer.keys().log();
        let at = Timestamp::from_millis(1_700_000_000_123);
        let line = cosign(&signer, &note, at).unwrap();
        let both = format!("{note}{line}");
        let seen = verify_cosignature(&both, &witness, &witness).unwrap();
        assert_eq!(seen.as_millis(), 1_700_000_000_000);
        // The log's own signature still stands.
        crate::verify_checkpoint(&both, &key().public()).unwrap();
        assert!(verify_cosignature(&both, &key().public(), &key().public()).is_err());
        assert!(verify_cosignature(&note, &witness, &witness).is_err());
        grow(&journal, 1);
        let other = format!("{}{line}", journal.checkpoint().unwrap().note);
        assert!(verify_cosignature(&other, &witness, &witness).is_err());
    }

    #[test]
    fn requests_are_read_strictly() {
        for body in [
            "",
            "old 1",
            "old -1\n\nx",
            "old 01\n\nx",
            "new 1\n\nx",
            "old 1\nAAAA\n\nx",
            "old 99999999999999999999\n\nx",
            "old 9223372036854775807\n\nx",
        ] {
            assert!(AddCheckpoint::parse(body).is_err(), "{body:?}");
        }
    }
}
