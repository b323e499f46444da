//! What lets strangers check the log: tiles, and this node as a witness of other logs.

use mesh_messages::address::Address;
use mesh_messages::events::LogSuccession;
use mesh_messages::identity::DidKey;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, KeyInfo};
use mesh_messages::{Position, Record};
use mesh_persistence::{AddCheckpoint, Journal, ProofError, ReadError, WitnessError, cosign};

use mesh_actors_core::sentinel::Witnessed;

use super::Mesh;
use crate::clock::now;
use crate::operations::WitnessAnswer;

/// Hashes of a whole tile, and levels of the tree that it stands for.
const TILE_WIDTH: u64 = 256;
const TILE_LEVELS: u8 = 8;
/// The highest tile level that C2SP knows: of trees with 2^64 leaves.
const TILE_LEVEL_MAX: u8 = 7;

/// What a C2SP `tlog-tiles` path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    /// `None` for the entries themselves.
    level: Option<u8>,
    index: u64,
    width: u64,
}

impl Tile {
    /// Reads `<level>/<index>[.p/<width>]`, the index in groups of three digits: `x001/x234/067`.
    fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            text => Some(canonical(text).filter(|level| *level <= u64::from(TILE_LEVEL_MAX))?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => {
                let width = canonical(width).filter(|w| (1..TILE_WIDTH).contains(w))?;
                (index, width)
            }
            None => (rest, TILE_WIDTH),
        };
        let groups: Vec<&str> = index.split('/').collect();
        let (last, firsts) = groups.split_last()?;
        let mut number: u64 = 0;
        for (n, group) in firsts.iter().enumerate() {
            let digits = group.strip_prefix('x')?;
            // One number has one spelling, so that caches hold one copy.
            if n == 0 && digits == "000" {
                return None;
            }
            number = number.checked_mul(1000)?.checked_add(three(digits)?)?;
        }
        number = number.checked_mul(1000)?.checked_add(three(last)?)?;
        Some(Self {
            level: level.and_then(|level| u8::try_from(level).ok()),
            index: number,
            width,
        })
    }
}

fn three(digits: &str) -> Option<u64> {
    (digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

fn canonical(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

impl Mesh {
    /// Registers a key that is not this node's own.
    pub(super) async fn register_foreign_key(
        &self,
        caller: &Caller,
        key: &DidKey,
        owner: Address,
    ) -> Result<KeyInfo, Problem> {
        if self.ctx.node.signer().keys().knows(key) {
            let text = "the node's own key is the node's";
            return Err(Problem::new(ProblemKind::Conflict, "key_used", text).field("key"));
        }
        self.sentinel.register_key(&caller.name, *key, owner).await
    }

    /// The bytes of a tile. It is given out only when a checkpoint may cover it, that is when it is durable.
    pub(super) async fn tile(&self, path: &str) -> Result<Vec<u8>, Problem> {
        let absent = || {
            let text =
                format!("tile/{path} is not there (yet): the log is smaller, or this is no tile");
            Problem::new(ProblemKind::NotFound, "tile_not_found", text)
        };
        let tile = Tile::parse(path).ok_or_else(absent)?;
        let store = self.ctx.store.get()?;
        let made = tokio::task::spawn_blocking(move || bytes_of(&*store.journal, tile)).await;
        let made = made
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
            .map_err(|error| Problem::internal(format!("no tile: {error}")))?;
        made.ok_or_else(absent)
    }

    /// Co-signs another log's checkpoint, if its key is registered here and it has only grown since the last time.
    pub(super) async fn cosigned(&self, by: &Caller, body: &str) -> Result<WitnessAnswer, Problem> {
        let request = AddCheckpoint::parse(body).map_err(refused)?;
        let log: Option<DidKey> = request.origin.parse().ok();
        let known = log.and_then(|log| Some((log, self.sentinel.log_key(&log)?)));
        let (log, key) = known.ok_or_else(|| unknown_log(&request.origin))?;
        request.claim(&log, &key).map_err(refused)?;
        let last = self.sentinel.witnessed(&request.origin).await?;
        let size = last.as_ref().map_or(0, |last| last.size);
        if request.old != size {
            return Ok(WitnessAnswer::Conflict(size));
        }
        let root = last.as_ref().map(|last| last.root.as_str());
        let claim = request.check(&log, &key, root).map_err(refused)?;
        let new = Witnessed {
            size: claim.size,
            root: hex::encode(claim.root.0),
        };
        let witnessed = self
            .sentinel
            .witness(&by.name, &request.origin, (size, new));
        match witnessed.await {
            Ok(()) => {}
            // Somebody else was faster.
            Err(problem) if problem.code == "witness_conflict" => {
                let last = self.sentinel.witnessed(&request.origin).await?;
                return Ok(WitnessAnswer::Conflict(last.map_or(0, |last| last.size)));
            }
            Err(problem) => return Err(problem),
        }
        self.co_signature(&request.note)
    }

    /// Takes in that another key signs for another log, if its owner is registered here and it follows from what is known.
    pub(super) async fn succession_witnessed(
        &self,
        by: &Caller,
        body: &str,
    ) -> Result<WitnessAnswer, Problem> {
        let request = AddCheckpoint::parse(body).map_err(refused)?;
        let log = request.succession_of();
        let log = log.ok_or_else(|| unknown_log(&request.origin))?;
        if self.sentinel.log_key(&log).is_none() {
            return Err(unknown_log(&log.to_string()));
        }
        let last = self.sentinel.witnessed(&log.to_string()).await?;
        let size = last.as_ref().map_or(0, |last| last.size);
        let new = request.succession(&log).map_err(refused)?;
        let new = LogSuccession {
            origin: log,
            number: new.number,
            old: new.old,
            new: new.new,
            size: new.size,
            root: hex::encode(new.root.0),
            compromised: new.compromised,
            note: new.note,
        };
        if !self.sentinel.knows_succession(&new).await? {
            if request.old != size {
                return Ok(WitnessAnswer::Conflict(size));
            }
            let root = last.as_ref().map(|last| last.root.as_str());
            request.check_succession(&log, root).map_err(refused)?;
            match self.sentinel.succeed(&by.name, size, new).await {
                Ok(()) => {}
                // Somebody else was faster.
                Err(problem) if problem.code == "witness_conflict" => {
                    let last = self.sentinel.witnessed(&log.to_string()).await?;
                    return Ok(WitnessAnswer::Conflict(last.map_or(0, |last| last.size)));
                }
                Err(problem) => return Err(problem),
            }
        }
        self.co_signature(&request.note)
    }

    fn co_signature(&self, note: &str) -> Result<WitnessAnswer, Problem> {
        let line = cosign(&self.ctx.node.signer(), note, now()).map_err(refused)?;
        Ok(WitnessAnswer::Signed(line))
    }
}

fn unknown_log(origin: &str) -> Problem {
    let text = format!(
        "no key of log {:?} is registered here; meshctl key register does that",
        origin.chars().take(80).collect::<String>()
    );
    Problem::new(ProblemKind::NotFound, "log_not_found", text)
}

fn refused(error: WitnessError) -> Problem {
    let detail = error.to_string();
    match error {
        WitnessError::Malformed(_) => {
            Problem::new(ProblemKind::Malformed, "malformed_checkpoint", detail)
        }
        WitnessError::Checkpoint(_) => {
            Problem::new(ProblemKind::Forbidden, "bad_checkpoint", detail)
        }
        WitnessError::Succession(_) => {
            Problem::new(ProblemKind::Forbidden, "bad_succession", detail)
        }
        WitnessError::Fork => Problem::new(ProblemKind::Conflict, "forked_log", detail),
        _ => Problem::new(ProblemKind::Invalid, "bad_proof", detail),
    }
}

/// Why a tile cannot be made.
#[derive(Debug, thiserror::Error)]
enum TileError {
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn bytes_of(journal: &dyn Journal, tile: Tile) -> Result<Option<Vec<u8>>, TileError> {
    let Some(first) = tile.index.checked_mul(TILE_WIDTH) else {
        return Ok(None);
    };
    let Some(level) = tile.level else {
        return entries(journal, first, tile.width);
    };
    match journal.subtrees(level * TILE_LEVELS, first, tile.width) {
        Ok(hashes) => Ok(Some(hashes.iter().flat_map(|hash| hash.0).collect())),
        Err(ProofError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Each entry is the very bytes of a record's header, after their number in two bytes.
fn entries(journal: &dyn Journal, first: u64, width: u64) -> Result<Option<Vec<u8>>, TileError> {
    let size = journal.durable().borrow().size();
    if first.checked_add(width).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let records = journal.read(Position(first))?;
    for record in records.take(usize::try_from(width).unwrap_or(usize::MAX)) {
        let Record { header_bytes, .. } = record?;
        // A header has names and numbers of bounded length; one of 64 KiB cannot be written.
        let length = u16::try_from(header_bytes.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&header_bytes);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_one_path() {
        let tile = |level, index, width| {
            Some(Tile {
                level,
                index,
                width,
            })
        };
        for (path, expected) in [
            ("0/000", tile(Some(0), 0, 256)),
            ("0/x001/x234/067", tile(Some(0), 1_234_067, 256)),
            ("1/000.p/17", tile(Some(1), 0, 17)),
            ("entries/x001/000.p/255", tile(None, 1000, 255)),
        ] {
            assert_eq!(Tile::parse(path), expected, "{path}");
        }
        for path in [
            "",
            "0",
            "0/",
            "0/0",
            "0/00",
            "0/0000",
            "8/000",
            "00/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/017",
            "0/x000/001",
            "0/001/x002",
            "0/x001",
            "-1/000",
            "data/000",
            "0/000.p/",
            "0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }
}
