//! What the node signed of its log and somebody else kept, against the log as it is found.
//!
//! Whoever can write the data directory can cut the log's end off and everything in there that tells of it. Checkpoints that
//! are elsewhere still do.

use mesh_messages::identity::DidKey;
use tlog_tiles::Hash;

use crate::checkpoint::split_notes;
use crate::journal::{Journal, ProofError};
use crate::succession::{LogKeys, Succession, log_of};

/// A note that the log contradicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Contradiction {
    /// How many records it says that the log had.
    pub size: u64,
    /// The root that it names.
    pub root: Hash,
    /// The note.
    pub note: String,
    /// How it contradicts it.
    pub kind: ContradictionKind,
}

/// How a log contradicts what was signed of it.
#[derive(Debug, Clone, PartialEq)]
pub enum ContradictionKind {
    /// It ends before.
    Shorter,
    /// Its first so many records are others.
    Other,
    /// It does not know of the key that took over there.
    Key(Box<DidKey>),
}

/// The notes among `text`, one after the other, that this journal's log contradicts; those of other logs, and those that
/// the log's keys did not sign, say nothing.
///
/// Sorted with the largest first. Below the first tree that agrees nothing is looked at: what is smaller is part of it.
///
/// # Errors
/// [`ProofError`] when the log cannot be read.
pub fn contradictions(journal: &dyn Journal, text: &str) -> Result<Vec<Contradiction>, ProofError> {
    let mut keys = journal.signer().keys().clone();
    let log = *keys.log();
    let origin = log.to_string();
    let mut found = Vec::new();
    let mut claims = Vec::new();
    for note in split_notes(text) {
        if log_of(&note) == Some(log) {
            found.extend(succession(&note, &mut keys));
        } else if note.lines().next() == Some(&origin) {
            claims.push(note);
        }
    }
    let read = |note: String| {
        let claim = keys.verify_checkpoint(&note);
        claim.ok().map(|claim| (claim, note))
    };
    let size_of = |note: &String| {
        note.lines()
            .nth(1)
            .and_then(|size| size.parse::<u64>().ok())
    };
    claims.sort_by_key(|note| std::cmp::Reverse(size_of(note)));
    let size = journal.durable().borrow().size();
    for note in claims {
        let Some((claim, note)) = read(note) else {
            continue;
        };
        let kind = if claim.size > size {
            ContradictionKind::Shorter
        } else if claim.size > 0 && journal.root(claim.size)? != claim.root {
            ContradictionKind::Other
        } else {
            break;
        };
        found.push(Contradiction {
            size: claim.size,
            root: claim.root,
            note,
            kind,
        });
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.size));
    Ok(found)
}

/// The succession that this journal's log contradicts, of those by which the key that signs now took over: the log ends before
/// it, or begins otherwise than it says. Nobody can sign for such a log, nor check what is signed for it.
///
/// # Errors
/// [`ProofError`] when the log cannot be read.
pub fn contradicted_succession(journal: &dyn Journal) -> Result<Option<Succession>, ProofError> {
    let size = journal.durable().borrow().size();
    for succession in journal.signer().keys().successions() {
        if succession.size > size
            || (succession.size > 0 && journal.root(succession.size)? != succession.root)
        {
            return Ok(Some(succession.clone()));
        }
    }
    Ok(None)
}

/// Takes a succession in that the log does not know, so that what the new key signed counts.
fn succession(note: &str, keys: &mut LogKeys) -> Option<Contradiction> {
    let seen = Succession::read(note, keys.log()).ok()?;
    if keys.successions().iter().any(|known| known.note == note) {
        return None;
    }
    // One that is beside a known one still shows that this log is not what was signed.
    let _beside = keys.add(note).is_err();
    Some(Contradiction {
        size: seen.size,
        root: seen.root,
        note: seen.note,
        kind: ContradictionKind::Key(Box::new(seen.new)),
    })
}

#[cfg(test)]
mod tests {
    use mesh_messages::PartitionId;
    use mesh_messages::identity::SigningKey;

    use super::*;
    use crate::memory::MemoryJournal;
    use crate::testing::{memory_journal, record};

    fn grow(journal: &MemoryJournal, kind: &str, count: u64) {
        let partition = PartitionId::from_static("agents");
        for _ in 0..count {
            let seq = journal.next_seq(&partition);
            journal
                .append(&partition, seq, vec![record(kind, "{}")])
                .unwrap();
        }
    }

    fn note(journal: &MemoryJournal) -> String {
        journal.checkpoint().unwrap().note
    }

    fn kinds(journal: &MemoryJournal, text: &str) -> Vec<(u64, ContradictionKind)> {
        let found = contradictions(journal, text).unwrap();
        found.into_iter().map(|one| (one.size, one.kind)).collect()
    }

    #[test]
    fn a_log_that_goes_on_contradicts_nothing_and_one_that_was_cut_does() {
        let whole = memory_journal();
        let mut kept = String::new();
        for _ in 0..4 {
            grow(&whole, "registered", 3);
            kept.push_str(&note(&whole));
            kept.push('\n');
        }
        assert_eq!(kinds(&whole, &kept), []);
        assert_eq!(kinds(&whole, ""), []);
        assert_eq!(kinds(&whole, "nonsense\n\n"), []);
        let cut = memory_journal();
        assert_eq!(kinds(&cut, &kept).len(), 4, "nothing of it is left");
        grow(&cut, "registered", 5);
        let shorter = [12, 9, 6].map(|size| (size, ContradictionKind::Shorter));
        // Its salts are others, so it is also another log from its first record on.
        let mut expected = shorter.to_vec();
        expected.push((3, ContradictionKind::Other));
        assert_eq!(kinds(&cut, &kept), expected);
    }

    #[test]
    fn what_others_signed_says_nothing() {
        let (whole, cut) = (memory_journal(), memory_journal());
        grow(&whole, "registered", 9);
        let good = note(&whole);
        let forged = good.replacen("\n9\n", "\n99\n", 1);
        assert_eq!(kinds(&cut, &forged), []);
        let other = good.replace("did:key:z", "did:key:y");
        assert_eq!(kinds(&cut, &other), []);
        assert_eq!(kinds(&cut, &format!("{forged}\n{good}")).len(), 1);
    }

    #[test]
    fn a_key_that_the_log_forgot_is_told_with_what_it_signed() {
        let (whole, cut) = (memory_journal(), memory_journal());
        grow(&whole, "registered", 3);
        let signer = whole
            .succeed(SigningKey::from_secret(&[8; 32]), false)
            .unwrap();
        let succession = signer.keys().successions()[0].note.clone();
        grow(&whole, "registered", 3);
        let kept = format!("{succession}\n{}", note(&whole));
        assert_eq!(kinds(&whole, &kept), []);
        let found = kinds(&cut, &kept);
        assert_eq!(found[0], (6, ContradictionKind::Shorter));
        let new = SigningKey::from_secret(&[8; 32]).public();
        assert_eq!(found[1], (3, ContradictionKind::Key(Box::new(new))));
    }
}
