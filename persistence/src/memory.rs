//! A journal in memory, for tests: the same contract, and hands on what a real disk does behind one's back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Position, Record, RecordBody};
use tlog_tiles::Hash;
use tokio::sync::watch;

use crate::checkpoint::CheckpointClaim;
use crate::clock::Clock;
use crate::journal::{
    AppendError, Appended, CheckpointError, Durability, EraseError, Failed, Journal, ProofError,
    ReadError, ReadOnly, RecordReader, SignedCheckpoint, Snapshot, SnapshotError, SucceedError,
};
use crate::seal::{Sequencer, prepare};
use crate::succession::LogSigner;
use crate::tree::{self, Frontier, MemoryHashes};

/// A journal without a disk.
///
/// Appends are durable at once unless it was told to [hold](MemoryJournal::hold) them.
pub struct MemoryJournal {
    log_id: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    durable: watch::Sender<Durability>,
}

struct State {
    sequencer: Sequencer,
    // Holds what is appended, durable or not.
    records: Vec<Record>,
    // Cover exactly the durable records.
    frontier: Frontier,
    hashes: MemoryHashes,
    leaves: Vec<Hash>,
    snapshots: BTreeMap<PartitionId, Snapshot>,
    signer: Arc<LogSigner>,
    last_checkpoint: Option<SignedCheckpoint>,
    held: bool,
    fail_next_sync: bool,
    busy: bool,
    read_only: Option<ReadOnly>,
}

impl MemoryJournal {
    /// An empty journal whose log belongs to `key`.
    pub fn new(key: SigningKey, clock: Arc<dyn Clock>) -> Self {
        let log_id = key.public().to_string();
        let state = State {
            sequencer: Sequencer::new(log_id.clone()),
            records: Vec::new(),
            frontier: Frontier::default(),
            hashes: MemoryHashes::default(),
            leaves: Vec::new(),
            snapshots: BTreeMap::new(),
            signer: Arc::new(LogSigner::new(key)),
            last_checkpoint: None,
            held: false,
            fail_next_sync: false,
            busy: false,
            read_only: None,
        };
        let (durable, _) = watch::channel(Durability::default());
        Self {
            log_id,
            clock,
            state: Mutex::new(state),
            durable,
        }
    }

    /// From now on appends are taken but do not become durable.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Makes what was held durable, and what is appended from now on.
    pub fn release(&self) {
        let mut state = self.lock();
        state.held = false;
        self.sync(&mut state);
    }

    /// The next sync fails, and with it the journal, as after a disk error.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Refuses appends as [`AppendError::Busy`] until told otherwise with `false`.
    pub fn set_busy(&self, busy: bool) {
        self.lock().busy = busy;
    }

    /// Refuses new work with `reason`, or takes it again with `None`. Appends still succeed, as on a nearly full disk.
    pub fn set_read_only(&self, reason: Option<&str>) {
        self.lock().read_only = reason.map(|reason| ReadOnly {
            reason: reason.into(),
        });
    }

    /// What opening the journal again gives after a failure or a power cut: the durable records alone.
    pub fn reopen(&self) -> Self {
        let signer = self.signer();
        let new = Self::new(signer.secret().clone(), Arc::clone(&self.clock));
        let new = Self {
            log_id: self.log_id.clone(),
            ..new
        };
        {
            let (old, mut state) = (self.lock(), new.lock());
            state.signer = signer;
            state.sequencer = Sequencer::new(self.log_id.clone());
            let durable = &old.records[..self.durable_len()];
            for record in durable {
                state.sequencer.observe(&record.header);
                state.records.push(record.clone());
                state
                    .leaves
                    .push(tlog_tiles::record_hash(&record.header_bytes));
            }
            state.snapshots.clone_from(&old.snapshots);
            state.last_checkpoint.clone_from(&old.last_checkpoint);
            new.sync(&mut state);
        }
        new
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state changes only after everything that could panic, so it is sound even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable_len(&self) -> usize {
        usize::try_from(self.durable.borrow().size()).unwrap_or(usize::MAX)
    }

    fn sync(&self, state: &mut State) {
        if state.held || self.durable.borrow().failed.is_some() {
            return;
        }
        if std::mem::take(&mut state.fail_next_sync) {
            let failed = Failed {
                reason: "injected failure of a sync".into(),
            };
            self.durable
                .send_modify(|durable| durable.failed = Some(failed));
            return;
        }
        for leaf in state.leaves.drain(..) {
            state.frontier.push(leaf, |hash| state.hashes.0.push(hash));
        }
        let size = state.frontier.size();
        self.durable
            .send_modify(|durable| *durable = Durability::of_size(size));
    }

    fn with_tree<T>(
        &self,
        asked: u64,
        size: Option<u64>,
        prove: impl FnOnce(&Frontier, &MemoryHashes) -> Result<T, tlog_tiles::Error>,
    ) -> Result<T, ProofError> {
        let state = self.lock();
        let size = size.unwrap_or_else(|| state.frontier.size());
        if asked > size || size > state.frontier.size() {
            return Err(ProofError::OutOfRange {
                asked,
                size: state.frontier.size().min(size),
            });
        }
        prove(&state.frontier, &state.hashes).map_err(|e| ProofError::Inconsistent {
            detail: e.to_string(),
        })
    }
}

fn sign_checkpoint(state: &mut State) -> Result<SignedCheckpoint, CheckpointError> {
    let (size, root) = (state.frontier.size(), state.frontier.root());
    if let Some(last) = &state.last_checkpoint {
        if size < last.size {
            return Err(CheckpointError::Smaller {
                last: last.size,
                size,
            });
        }
        let then = tree::root(last.size, &state.frontier, &state.hashes).map_err(|e| {
            ProofError::Inconsistent {
                detail: e.to_string(),
            }
        })?;
        if then != last.root {
            return Err(CheckpointError::Inconsistent { last: last.size });
        }
        if size == last.size {
            return Ok(last.clone());
        }
    }
    let claim = CheckpointClaim { size, root };
    let note = state.signer.sign(claim).map_err(CheckpointError::Note)?;
    let signed = SignedCheckpoint { size, root, note };
    state.last_checkpoint = Some(signed.clone());
    Ok(signed)
}

impl Journal for MemoryJournal {
    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn append(
        &self,
        partition: &PartitionId,
        expected_seq: u64,
        records: Vec<NewRecord>,
    ) -> Result<Appended, AppendError> {
        let prepared = prepare(partition, records)?;
        let mut state = self.lock();
        if let Some(failed) = self.durable.borrow().failed.clone() {
            return Err(failed.into());
        }
        if state.busy {
            return Err(AppendError::Busy { queued_bytes: 0 });
        }
        let sealed = state
            .sequencer
            .seal(partition, expected_seq, prepared, self.clock.now())?;
        state.sequencer.commit(&sealed);
        let appended = sealed.appended;
        for record in sealed.records {
            state.leaves.push(record.leaf);
            state.records.push(Record {
                header: record.header,
                header_bytes: record.header_bytes,
                body: Some(RecordBody {
                    salt: record.salt,
                    payload: record.payload,
                }),
            });
        }
        self.sync(&mut state);
        Ok(appended)
    }

    fn durable(&self) -> watch::Receiver<Durability> {
        self.durable.subscribe()
    }

    fn admission(&self) -> Result<(), ReadOnly> {
        self.lock().read_only.clone().map_or(Ok(()), Err)
    }

    fn next_seq(&self, partition: &PartitionId) -> u64 {
        self.lock().sequencer.next_seq(partition)
    }

    fn read(&self, from: Position) -> Result<RecordReader, ReadError> {
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        let records: Vec<Record> = self
            .lock()
            .records
            .iter()
            .take(self.durable_len())
            .skip(from)
            .cloned()
            .collect();
        Ok(RecordReader::new(records.into_iter().map(Ok)))
    }

    fn get(&self, position: Position) -> Result<Option<Record>, ReadError> {
        let index = usize::try_from(position.0).unwrap_or(usize::MAX);
        Ok(self
            .lock()
            .records
            .iter()
            .take(self.durable_len())
            .nth(index)
            .cloned())
    }

    fn erase(&self, positions: &[Position]) -> Result<(), EraseError> {
        let durable = self.durable.borrow().clone();
        if let Some(&position) = positions
            .iter()
            .find(|&&position| !durable.covers(position))
        {
            return Err(EraseError::NotDurable(position));
        }
        let mut state = self.lock();
        for position in positions {
            let index = usize::try_from(position.0).unwrap_or(usize::MAX);
            if let Some(record) = state.records.get_mut(index) {
                record.body = None;
            }
        }
        Ok(())
    }

    fn save_snapshot(
        &self,
        partition: &PartitionId,
        snapshot: &Snapshot,
    ) -> Result<(), SnapshotError> {
        let durable = self.durable.borrow().size();
        if snapshot.next.0 > durable {
            let (partition, next) = (partition.clone(), snapshot.next);
            return Err(SnapshotError::NotDurable {
                partition,
                next,
                durable,
            });
        }
        self.lock()
            .snapshots
            .insert(partition.clone(), snapshot.clone());
        Ok(())
    }

    fn oldest_snapshot(&self, partition: &PartitionId) -> Result<Option<Position>, SnapshotError> {
        let inner = self.lock();
        Ok(inner.snapshots.get(partition).map(|snapshot| snapshot.next))
    }

    fn drop_snapshots(&self, partition: &PartitionId) -> Result<(), SnapshotError> {
        self.lock().snapshots.remove(partition);
        Ok(())
    }

    fn load_snapshot(&self, partition: &PartitionId) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.lock().snapshots.get(partition).cloned())
    }

    fn signed(&self) -> Result<(SignedCheckpoint, Arc<LogSigner>), CheckpointError> {
        let mut state = self.lock();
        let checkpoint = sign_checkpoint(&mut state)?;
        Ok((checkpoint, Arc::clone(&state.signer)))
    }

    fn signer(&self) -> Arc<LogSigner> {
        Arc::clone(&self.lock().signer)
    }

    fn succeed(&self, new: SigningKey, compromised: bool) -> Result<Arc<LogSigner>, SucceedError> {
        let mut state = self.lock();
        let last = sign_checkpoint(&mut state)?;
        let tree = CheckpointClaim {
            size: last.size,
            root: last.root,
        };
        state.signer = Arc::new(state.signer.succeeded(tree, new, compromised)?);
        Ok(Arc::clone(&state.signer))
    }

    fn subtrees(&self, level: u8, first: u64, count: u64) -> Result<Vec<Hash>, ProofError> {
        let end = tree::subtrees_end(level, first, count).unwrap_or(u64::MAX);
        self.with_tree(end, None, |_, hashes| {
            tree::subtrees(level, first, count, hashes)
        })
    }

    fn root(&self, size: u64) -> Result<Hash, ProofError> {
        self.with_tree(size, None, |tree, hashes| tree::root(size, tree, hashes))
    }

    fn inclusion_proof(&self, index: Position, size: u64) -> Result<Vec<Hash>, ProofError> {
        let asked = index.0.saturating_add(1);
        self.with_tree(asked, Some(size), |tree, hashes| {
            tree::inclusion(index.0, size, tree, hashes)
        })
    }

    fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
        self.with_tree(old, Some(new), |tree, hashes| {
            tree::consistency(old, new, tree, hashes)
        })
    }
}

impl std::fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryJournal")
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}
