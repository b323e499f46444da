//! Turns what an owner wants to append into records: positions, time, salts, commitments, header bytes, leaf hashes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use mesh_messages::record::{PAYLOAD_INLINE_MAX, RECORD_FORMAT};
use mesh_messages::{NewRecord, PartitionId, Position, RecordHeader, Timestamp};
use sha2::{Digest, Sha256};
use tlog_tiles::Hash;

use crate::hash_text::HashText;
use crate::journal::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, AppendError, Appended, Failed, PARTITION_NAME_MAX,
};

/// Before the hex of what a header holds its payload by: the name of the hash.
const COMMITMENT: &str = "sha256:";
/// Bytes of a salt.
pub(crate) const SALT_LEN: usize = 16;

/// Longest header, in bytes. Its texts are ids, names and addresses; whatever is longer belongs in the payload.
pub(crate) const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A record whose salt and commitment are ready: all that can be computed without the journal's lock.
pub(crate) struct Prepared {
    record: NewRecord,
    salt: [u8; SALT_LEN],
    commitment: String,
}

/// A complete record.
pub(crate) struct Sealed {
    pub(crate) header: RecordHeader,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) salt: [u8; SALT_LEN],
    pub(crate) payload: Vec<u8>,
    pub(crate) leaf: Hash,
}

/// What the next record gets. Changed only as a whole, after everything that can fail.
#[derive(Debug, Clone)]
pub(crate) struct Sequencer {
    pub(crate) log: String,
    pub(crate) next: u64,
    pub(crate) time: Timestamp,
    pub(crate) lc: u32,
    pub(crate) seqs: BTreeMap<PartitionId, u64>,
}

/// A sealed append and the sequencer's state after it.
pub(crate) struct SealedAppend {
    pub(crate) records: Vec<Sealed>,
    pub(crate) appended: Appended,
    pub(crate) partition: PartitionId,
    time: Timestamp,
    lc: u32,
}

/// Checks an append's bounds and computes salts and commitments.
pub(crate) fn prepare(
    partition: &PartitionId,
    records: Vec<NewRecord>,
) -> Result<Vec<Prepared>, AppendError> {
    let too_large = |what, size, limit| AppendError::TooLarge { what, size, limit };
    let name_len = partition.as_str().len();
    if name_len > PARTITION_NAME_MAX {
        return Err(too_large("partition name", name_len, PARTITION_NAME_MAX));
    }
    if records.is_empty() {
        return Err(AppendError::Empty);
    }
    if records.len() > APPEND_RECORDS_MAX {
        return Err(AppendError::TooLarge {
            what: "number of records",
            size: records.len(),
            limit: APPEND_RECORDS_MAX,
        });
    }
    let mut total = 0;
    for (index, record) in records.iter().enumerate() {
        if record.payload.len() > PAYLOAD_INLINE_MAX {
            return Err(too_large(
                "payload",
                record.payload.len(),
                PAYLOAD_INLINE_MAX,
            ));
        }
        if std::str::from_utf8(&record.payload).is_err() {
            return Err(AppendError::NotUtf8 { index });
        }
        total += record.payload.len();
    }
    if total > APPEND_BYTES_MAX {
        return Err(too_large("append", total, APPEND_BYTES_MAX));
    }
    let mut salts = vec![0; records.len() * SALT_LEN];
    getrandom::fill(&mut salts).map_err(|e| AppendError::Random(e.to_string()))?;
    let (salts, _) = salts.as_chunks::<SALT_LEN>();
    Ok(records
        .into_iter()
        .zip(salts)
        .map(|(record, &salt)| {
            let commitment = commitment(&salt, &record.payload);
            Prepared {
                record,
                salt,
                commitment,
            }
        })
        .collect())
}

/// The text by which a header holds its payload: `sha256:` and the hex of SHA-256(salt ‖ payload).
pub(crate) fn commitment(salt: &[u8], payload: &[u8]) -> String {
    let mut text = String::with_capacity(COMMITMENT.len() + 64);
    text.push_str(COMMITMENT);
    text.push_str(committed(salt, payload).as_str());
    text
}

/// Whether that is what a commitment is to.
pub(crate) fn is_committed(commitment: &str, salt: &[u8], payload: &[u8]) -> bool {
    commitment.strip_prefix(COMMITMENT) == Some(committed(salt, payload).as_str())
}

fn committed(salt: &[u8], payload: &[u8]) -> HashText {
    let digest = Sha256::new()
        .chain_update(salt)
        .chain_update(payload)
        .finalize();
    HashText::of(&digest.into())
}

impl Sequencer {
    /// The state of an empty log.
    pub(crate) fn new(log: String) -> Self {
        Self {
            log,
            next: 0,
            time: Timestamp::ZERO,
            lc: 0,
            seqs: BTreeMap::new(),
        }
    }

    /// The partition's next sequence number.
    pub(crate) fn next_seq(&self, partition: &PartitionId) -> u64 {
        self.seqs.get(partition).copied().unwrap_or(0)
    }

    /// Takes a record of the log into account, on replay.
    pub(crate) fn observe(&mut self, header: &RecordHeader) {
        self.next = header.position.0 + 1;
        self.time = header.time;
        self.lc = header.lc;
        self.seqs.insert(header.partition.clone(), header.seq + 1);
    }

    /// Completes an append as of `now`. Changes nothing; [`Sequencer::commit`] does.
    pub(crate) fn seal(
        &self,
        partition: &PartitionId,
        expected_seq: u64,
        prepared: Vec<Prepared>,
        now: Timestamp,
    ) -> Result<SealedAppend, AppendError> {
        let current = self.next_seq(partition);
        if expected_seq != current {
            let partition = partition.clone();
            return Err(AppendError::Fenced {
                partition,
                expected: expected_seq,
                current,
            });
        }
        let first = Position(self.next);
        let (mut position, mut seq) = (self.next, current);
        let (mut time, mut lc) = (self.time, self.lc);
        let mut records = Vec::with_capacity(prepared.len());
        for Prepared {
            record,
            salt,
            commitment,
        } in prepared
        {
            (time, lc) = tick(time, lc, now);
            let header = RecordHeader {
                v: RECORD_FORMAT,
                ns: Cow::Borrowed("default"),
                log: self.log.clone(),
                position: Position(position),
                partition: partition.clone(),
                seq,
                time,
                lc,
                kind: record.kind,
                kv: record.kind_version,
                agent: record.agent,
                task: record.task,
                actor: record.actor,
                cause: match record.after {
                    Some(index) if first.0 + u64::from(index) < position => {
                        Some(Position(first.0 + u64::from(index)))
                    }
                    // What comes later leads to nothing.
                    Some(_) | None => record.cause,
                },
                correlation: record.correlation,
                payload: commitment,
            };
            let header_bytes = serde_json::to_vec(&header).map_err(|e| Failed {
                reason: e.to_string().into(),
            })?;
            if header_bytes.len() > HEADER_BYTES_MAX {
                return Err(AppendError::TooLarge {
                    what: "header",
                    size: header_bytes.len(),
                    limit: HEADER_BYTES_MAX,
                });
            }
            let leaf = tlog_tiles::record_hash(&header_bytes);
            records.push(Sealed {
                header,
                header_bytes,
                salt,
                payload: record.payload,
                leaf,
            });
            position += 1;
            seq += 1;
        }
        let appended = Appended {
            first,
            last: Position(position - 1),
            next_seq: seq,
        };
        Ok(SealedAppend {
            records,
            appended,
            partition: partition.clone(),
            time,
            lc,
        })
    }

    /// Makes a sealed append the newest part of the log.
    pub(crate) fn commit(&mut self, append: &SealedAppend) {
        self.next = append.appended.last.0 + 1;
        self.time = append.time;
        self.lc = append.lc;
        self.seqs
            .insert(append.partition.clone(), append.appended.next_seq);
    }
}

/// The hybrid logical clock: strictly after (`time`, `lc`), and never behind the wall clock.
fn tick(time: Timestamp, lc: u32, now: Timestamp) -> (Timestamp, u32) {
    if now > time {
        return (now, 0);
    }
    match lc.checked_add(1) {
        Some(lc) => (time, lc),
        None => (time.plus(std::time::Duration::from_millis(1)), 0),
    }
}
