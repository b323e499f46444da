//! The lines of an export, read strictly.

use std::borrow::Cow;

use faster_hex::CheckCase;
use mesh_messages::Position;
use mesh_messages::identity::DidKey;
use serde::Deserialize;
use tlog_tiles::Hash;

use crate::seal::{SALT_LEN, is_committed};

/// Deepest proof: of a tree with 2^63 leaves.
const PROOF_HASHES_MAX: usize = 63;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SuccessionLine {
    pub(super) succession: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordLine<'a> {
    #[serde(borrow)]
    pub(super) record: Cow<'a, str>,
    // Required, though it may be null.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    salt: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    pub(super) payload: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) leaf: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) block: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) proof: Option<ProofLine>,
}

/// A record that says what was erased, and is not among the records.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErasureLine<'a> {
    #[serde(borrow)]
    pub(super) erasure: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    salt: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    pub(super) payload: Option<Cow<'a, str>>,
    pub(super) proof: ProofLine,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofLine {
    pub(super) index: u64,
    path: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointLine {
    pub(super) checkpoint: String,
    pub(super) key: DidKey,
    #[serde(default)]
    pub(super) agent: Option<AgentLine>,
    #[serde(default)]
    pub(super) withheld: Option<AgentLine>,
    #[serde(default)]
    pub(super) later: Option<LaterLine>,
    #[serde(default)]
    pub(super) consistency: Option<ConsistencyLine>,
}

/// The proof that the checkpoint's tree continues a smaller one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsistencyLine {
    pub(super) size: u64,
    path: Vec<String>,
}

/// A tree beyond the checkpoint's, of which the node signed that it continues that one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaterLine {
    pub(super) note: String,
    path: Vec<String>,
}

/// What the node signed of one agent's records, or of those whose payload is withheld.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentLine {
    pub(super) note: String,
    pub(super) positions: String,
}

/// Whether a line that is no checkpoint begins as a record does, so that the file ends too early rather than wrongly.
pub(super) fn looks_like_record(line: &[u8]) -> bool {
    let start: Vec<u8> = line
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .take(9)
        .collect();
    !start.is_empty() && b"{\"record\"".starts_with(&start)
}

impl RecordLine<'_> {
    /// Checks salt and payload, unless they are missing, against what the header commits to.
    pub(super) fn check_body(&self, committed: &str) -> Result<(), String> {
        check_body(self.salt.as_deref(), self.payload.as_deref(), committed)
    }
}

impl ErasureLine<'_> {
    /// The same as of any record.
    pub(super) fn check_body(&self, committed: &str) -> Result<(), String> {
        check_body(self.salt.as_deref(), self.payload.as_deref(), committed)
    }
}

fn check_body(salt: Option<&str>, payload: Option<&str>, committed: &str) -> Result<(), String> {
    match (salt, payload) {
        (None, None) => Ok(()),
        (Some(salt), Some(payload)) => {
            let bytes: [u8; SALT_LEN] = decode_hex(salt)
                .ok_or_else(|| format!("its salt is not {SALT_LEN} bytes in hex"))?;
            if is_committed(committed, &bytes, payload.as_bytes()) {
                Ok(())
            } else {
                Err("its salt and payload are not those that its header commits to".into())
            }
        }
        _ => Err("of salt and payload only one is there".into()),
    }
}

impl ConsistencyLine {
    /// The hashes of the proof.
    pub(super) fn path(&self) -> Result<Vec<Hash>, String> {
        hashes(&self.path)
    }
}

impl LaterLine {
    /// The hashes of the proof.
    pub(super) fn path(&self) -> Result<Vec<Hash>, String> {
        hashes(&self.path)
    }
}

impl ProofLine {
    /// The hashes of the proof, which must be for the record at this position.
    pub(super) fn path(&self, position: Position) -> Result<Vec<Hash>, String> {
        if self.index != position.0 {
            return Err(format!("its proof is for record {}", self.index));
        }
        hashes(&self.path)
    }
}

fn hashes(path: &[String]) -> Result<Vec<Hash>, String> {
    // A proof of consistency is of up to twice as many.
    if path.len() > 2 * PROOF_HASHES_MAX {
        return Err("its proof is too long".into());
    }
    let mut hashes = Vec::with_capacity(path.len());
    for text in path {
        let hash = decode_hex(text)
            .ok_or_else(|| "its proof holds something that is no hash".to_owned())?;
        hashes.push(Hash(hash));
    }
    Ok(hashes)
}

/// Lower-case hex alone: the same bytes in another spelling were not written by an export.
fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    faster_hex::hex_decode_array_with_case(text.as_bytes(), CheckCase::Lower).ok()
}
