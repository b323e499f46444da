//! Owning a partition of the journal: decide, append, apply, release when durable.
//!
//! The owner is an actor. It decides against [`Partition::state`], calls [`Partition::commit`] with the events and the
//! effects they allow, and performs the effects that [`Partition::released`] hands out once the journal says that their
//! records are on the disk. When the journal fails the owner ends with an error; its next incarnation replays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use mesh_actors_core::trail::Trail;
use mesh_messages::events::KIND_VERSION;
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::{AgentId, NewRecord, PartitionId, Position, Record, RecordHeader, TaskId};
use mesh_persistence::{
    APPEND_BYTES_MAX, AppendError, ContentDigest, ContentHold, ContentStore, Journal, Snapshot,
};

mod snapshots;
#[cfg(test)]
mod tests;

use snapshots::Snapshots;

/// First and last pause while the journal is busy or the disk is full. Callers see the wait as backpressure.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(1));

/// How long a load waits for what the last owner appended to be on the disk, and how often it looks. A sync takes
/// milliseconds; one that takes longer than this is a disk that hangs.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_millis(1);

/// Ended things are forgotten while replaying, but only so many records later: logs of earlier versions refer to them for as
/// long as their writer still held them.
const FORGET_LAG: u64 = 100_000;
/// How often, in records, replaying looks for what it can forget.
const FORGET_EVERY: u64 = 1024;

/// Payloads above this size lie apart in a group that is large: as many as one append holds fit in it then.
const PAYLOAD_OF_MANY_MAX: usize = 1024;

/// Key under which a payload names its place in the content store.
const CONTENT_KEY: &str = "$content";

/// A state that is a fold over its partition's events.
pub trait Machine: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Everything that can happen to it.
    type Event: Serialize + DeserializeOwned + Send;

    /// The record kind of an event.
    fn kind(event: &Self::Event) -> &'static str;

    /// Takes an event in. Never decides, never fails: what is journalled has happened.
    fn apply(&mut self, header: &RecordHeader, event: &Self::Event);

    /// Lets go of what has ended within the partition's first `records` records, if others keep it. They show it by now.
    fn forget(&mut self, _records: u64) {
        // Most keep nothing that has ended.
    }
}

/// What an owner commits: an event and what its record's header shall say.
#[derive(Debug, Clone)]
pub struct Entry<E> {
    /// What happened.
    pub event: E,
    /// Which agent it concerns.
    pub agent: Option<AgentId>,
    /// Which task it concerns.
    pub task: Option<TaskId>,
    /// What led to it, where that is not what led to the commit.
    pub led: Led,
}

/// What led to an entry, where that is not what led to the commit that it is part of.
#[derive(Debug, Clone, Default)]
pub struct Led {
    /// Who, for which request, and the record; those of the commit when absent.
    pub by: Option<Cause>,
    /// An earlier entry of the commit, by its index: its record takes the place of the one that `by` names.
    pub after: Option<u32>,
}

impl Led {
    /// By an earlier entry of the same commit.
    #[must_use]
    pub fn after(index: usize) -> Self {
        Self {
            by: None,
            after: u32::try_from(index).ok(),
        }
    }

    /// The first of several entries by what led to the commit, the others by that one.
    #[must_use]
    pub fn in_turn(index: usize) -> Self {
        if index == 0 {
            Self::default()
        } else {
            Self::after(0)
        }
    }
}

/// Who and what led to a commit.
#[derive(Debug, Clone)]
pub struct Cause {
    /// Who caused it: `user:<name>`, `agent:<id>`, `meshd`.
    pub actor: String,
    /// The record that led to it.
    pub cause: Option<Position>,
    /// Ties together what one request led to.
    pub correlation: Option<String>,
    /// The task on behalf of which an agent did it, if meshd knows one.
    pub task: Option<TaskId>,
}

impl Cause {
    /// meshd itself.
    #[must_use]
    pub fn meshd() -> Self {
        Self {
            actor: "meshd".to_owned(),
            cause: None,
            correlation: None,
            task: None,
        }
    }
    /// What goes on from here follows from the last record of something.
    #[must_use]
    pub fn after(actor: impl Into<String>, trail: Option<&Trail>) -> Self {
        Self {
            actor: actor.into(),
            cause: trail.map(|trail| trail.last),
            correlation: trail.and_then(|trail| trail.correlation.as_deref().map(str::to_owned)),
            task: None,
        }
    }
    /// Somebody by name; while a [request](crate::request) is served, for that request.
    pub fn by(actor: impl Into<String>) -> Self {
        let (cause, correlation) = crate::request::current();
        Self {
            actor: actor.into(),
            cause,
            correlation,
            task: crate::request::task(),
        }
    }
}

/// Why a partition could not be loaded or written. The owner ends; its supervisor decides.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The journal cannot be read.
    #[error("failed to read partition {0}")]
    Read(PartitionId, #[source] mesh_persistence::ReadError),
    /// Its snapshots cannot be looked for.
    #[error("failed to look for snapshots of partition {0}")]
    Snapshot(PartitionId, #[source] mesh_persistence::SnapshotError),
    /// A record's kind or content is none that this version knows.
    #[error(
        "record {position} of kind {kind} (version {version}) is not one that this meshd knows: {detail}"
    )]
    Unknown {
        /// Where.
        position: Position,
        /// Its kind.
        kind: String,
        /// Its version.
        version: u16,
        /// What is wrong.
        detail: String,
    },
    /// The content store failed.
    #[error("failed to access content of partition {0}")]
    Content(PartitionId, #[source] mesh_persistence::ContentError),
    /// The journal refused for good.
    #[error("failed to append to partition {0}")]
    Append(PartitionId, #[source] AppendError),
    /// What the last owner appended does not reach the disk.
    #[error("the last appends of partition {0} are not on the disk; is it hanging?")]
    Unsettled(PartitionId),
    /// An event cannot be serialised. A bug.
    #[error("failed to encode an event of partition {0}")]
    Encode(PartitionId, #[source] serde_json::Error),
}

/// What waits for records to be durable.
struct Pending<E> {
    /// The last of them.
    until: Position,
    effects: Vec<E>,
    /// What they refer to in the content store, which nothing in the log protects before.
    _content: Vec<ContentHold>,
}

/// Records to append, and what they refer to in the content store.
#[derive(Default)]
struct Encoded {
    records: Vec<NewRecord>,
    content: Vec<ContentHold>,
}

/// A partition in the hands of its owner.
pub struct Partition<M: Machine, E> {
    id: PartitionId,
    journal: Arc<dyn Journal>,
    content: Arc<ContentStore>,
    state: M,
    next_seq: u64,
    snapshots: Snapshots,
    last: Option<Position>,
    // The last record that the snapshot holds, which was loaded.
    before: Option<Position>,
    // Invariant: positions never decrease.
    pending: VecDeque<Pending<E>>,
}

impl<M: Machine, E> std::fmt::Debug for Partition<M, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id)
            .field("next_seq", &self.next_seq)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl<M: Machine, E> Partition<M, E> {
    /// Loads the newest snapshot and replays what follows it. Blocks on the disk.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub fn load(
        id: PartitionId,
        journal: Arc<dyn Journal>,
        content: Arc<ContentStore>,
    ) -> Result<Self, PartitionError> {
        Self::load_shown(id, journal, content, 0)
    }

    /// The same for a state that forgets what ended, when the read side shows the log's first `shown` records.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub fn load_shown(
        id: PartitionId,
        journal: Arc<dyn Journal>,
        content: Arc<ContentStore>,
        shown: u64,
    ) -> Result<Self, PartitionError> {
        let snapshot = journal
            .load_snapshot(&id)
            .map_err(|e| PartitionError::Snapshot(id.clone(), e))?;
        let mut partition = Self {
            state: M::default(),
            next_seq: 0,
            snapshots: Snapshots::new(),
            last: None,
            before: None,
            pending: VecDeque::new(),
            id,
            journal,
            content,
        };
        let mut from = Position(0);
        if let Some(Snapshot {
            next,
            next_seq,
            state,
        }) = snapshot
        {
            // A snapshot of an older version that no longer parses is worth nothing; the log is still there.
            let size = state.len() as u64;
            if let Ok(state) = serde_json::from_slice(&state) {
                partition.state = state;
                partition.next_seq = next_seq;
                partition.snapshots.loaded(size);
                partition.before = next.0.checked_sub(1).map(Position);
                from = next;
            }
        }
        let begun = Instant::now();
        loop {
            // Reading means to look at what all others wrote, too; so nothing is read that is not there.
            if partition.next_seq >= partition.journal.next_seq(&partition.id) {
                return Ok(partition);
            }
            let records = partition
                .journal
                .read_partition(&partition.id, from)
                .map_err(|e| PartitionError::Read(partition.id.clone(), e))?;
            for record in records {
                let record = record.map_err(|e| PartitionError::Read(partition.id.clone(), e))?;
                partition.replay(&record)?;
                if record.header.position.0 < shown && record.header.seq % FORGET_EVERY == 0 {
                    let forget = record.header.seq.saturating_sub(FORGET_LAG);
                    partition.state.forget(forget);
                }
                from = record.header.position.next();
                if partition.next_seq >= partition.journal.next_seq(&partition.id) {
                    return Ok(partition);
                }
            }
            // An owner that ended a moment ago left appends that are on their way to the disk. They have happened: without
            // them the first append would be refused, and this owner would end, too.
            if let Some(failed) = partition.journal.durable().borrow().failed.clone() {
                return Err(PartitionError::Append(partition.id, failed.into()));
            }
            if begun.elapsed() >= SETTLE_MAX {
                return Err(PartitionError::Unsettled(partition.id));
            }
            std::thread::sleep(SETTLE_PAUSE);
        }
    }

    fn replay(&mut self, record: &Record) -> Result<(), PartitionError> {
        self.next_seq = record.header.seq + 1;
        let bytes = record.body.as_ref().map_or(0, |body| body.payload.len());
        self.snapshots.note(1, bytes);
        self.last = Some(record.header.position);
        // An erased payload took its facts with it; only kinds that carry personal content can be erased.
        if let Some(payload) = payload_of(record, &self.content)
            .map_err(|e| PartitionError::Content(self.id.clone(), e))?
        {
            let event = decode::<M::Event>(&record.header, &payload)?;
            self.state.apply(&record.header, &event);
        }
        Ok(())
    }

    /// The state, all commits applied.
    pub fn state(&self) -> &M {
        &self.state
    }

    /// The state, for what is volatile in it. Durable facts change through [`Partition::commit`] alone.
    pub fn state_mut(&mut self) -> &mut M {
        &mut self.state
    }

    /// The position of the partition's last record, the one before its snapshot included.
    pub fn newest(&self) -> Option<Position> {
        self.last.or(self.before)
    }

    /// The position of the partition's last record, durable or not.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// The journal below.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Appends events as one atomic group and applies them; `effects` are released when the group is durable.
    ///
    /// Waits while the journal is busy or the disk full. Without events, effects wait for what was committed before.
    ///
    /// # Errors
    /// [`PartitionError`]: nothing was applied. The owner ends.
    pub async fn commit(
        &mut self,
        entries: Vec<Entry<M::Event>>,
        cause: &Cause,
        effects: Vec<E>,
    ) -> Result<Option<Position>, PartitionError> {
        if entries.is_empty() {
            self.after_last(effects);
            return Ok(None);
        }
        let Encoded { records, content } = self.encode(&entries, cause)?;
        let (count, bytes) = (records.len(), payload_bytes(&records));
        let appended = self.append(records).await?;
        for (offset, entry) in (0..).zip(&entries) {
            let header = self.header_of(appended.first, offset, entry, cause);
            self.state.apply(&header, &entry.event);
        }
        self.next_seq = appended.next_seq;
        self.snapshots.note(count, bytes);
        self.last = Some(appended.last);
        self.hold(appended.last, effects, content);
        Ok(Some(appended.last))
    }

    /// The same for a core that applied its events to the state while it decided.
    ///
    /// # Errors
    /// As [`Partition::commit`]; the state in memory is then ahead of the journal and must be dropped with its owner.
    pub async fn commit_applied(
        &mut self,
        entries: Vec<Entry<M::Event>>,
        cause: &Cause,
        effects: Vec<E>,
    ) -> Result<Option<Position>, PartitionError> {
        if entries.is_empty() {
            self.after_last(effects);
            return Ok(None);
        }
        let Encoded { records, content } = self.encode(&entries, cause)?;
        let (count, bytes) = (records.len(), payload_bytes(&records));
        let appended = self.append(records).await?;
        self.next_seq = appended.next_seq;
        self.snapshots.note(count, bytes);
        self.last = Some(appended.last);
        self.hold(appended.last, effects, content);
        Ok(Some(appended.last))
    }

    fn after_last(&mut self, effects: Vec<E>) {
        if !effects.is_empty() {
            // Position 0 is durable as soon as anything is; a partition without records has nothing to wait for.
            self.hold(self.last.unwrap_or_default(), effects, Vec::new());
        }
    }

    fn hold(&mut self, until: Position, effects: Vec<E>, content: Vec<ContentHold>) {
        self.pending.push_back(Pending {
            until,
            effects,
            _content: content,
        });
    }

    /// The position that has to be durable before anything more is released; `None` when nothing is held back.
    pub fn awaited(&self) -> Option<Position> {
        self.pending.front().map(|pending| pending.until)
    }

    /// The effects whose records are durable, in the order of their commits.
    ///
    /// A partition that has never been written releases at once.
    pub fn released(&mut self, durable: Option<Position>) -> Vec<E> {
        let mut out = Vec::new();
        let fresh = self.last.is_none();
        while self
            .pending
            .front()
            .is_some_and(|pending| fresh || durable.is_some_and(|d| d >= pending.until))
        {
            if let Some(pending) = self.pending.pop_front() {
                out.extend(pending.effects);
            }
        }
        out
    }

    /// Has a snapshot stored when enough has happened since the last one and all of it is durable. The disk is written
    /// beside the owner.
    pub fn snapshot_when_due(&mut self, durable: Option<Position>) {
        if self.snapshots.is_due()
            && let Some(snapshot) = self.snapshot(durable)
        {
            let (id, journal) = (self.id.clone(), Arc::clone(&self.journal));
            self.snapshots.save(id, journal, snapshot);
        }
    }

    /// Stores a snapshot at the owner's orderly end, unless replaying takes no longer. Blocks on the disk.
    pub fn snapshot_at_end(&mut self) {
        let durable = self.journal.durable().borrow().upto;
        if self.snapshots.is_due_at_end()
            && let Some(snapshot) = self.snapshot(durable)
            && let Err(error) = self.journal.save_snapshot(&self.id, &snapshot)
        {
            tracing::warn!(partition = %self.id, %error, "snapshot not saved; the next start replays more");
        }
    }

    fn snapshot(&self, durable: Option<Position>) -> Option<Snapshot> {
        let last = self.last?;
        if durable.is_none_or(|d| d < last) {
            return None;
        }
        let state = serde_json::to_vec(&self.state).ok()?;
        Some(Snapshot {
            next: last.next(),
            next_seq: self.next_seq,
            state,
        })
    }

    fn encode(
        &self,
        entries: &[Entry<M::Event>],
        cause: &Cause,
    ) -> Result<Encoded, PartitionError> {
        let mut encoded = Encoded::default();
        for entry in entries {
            let payload = serde_json::to_vec(&entry.event)
                .map_err(|e| PartitionError::Encode(self.id.clone(), e))?;
            let (payload, apart) = store_large(payload, PAYLOAD_INLINE_MAX, &self.content)
                .map_err(|e| PartitionError::Content(self.id.clone(), e))?;
            encoded.content.extend(apart);
            let cause = entry.led.by.as_ref().unwrap_or(cause);
            encoded.records.push(NewRecord {
                kind: M::kind(&entry.event).into(),
                kind_version: KIND_VERSION,
                agent: entry.agent.clone(),
                task: entry.task.clone(),
                actor: cause.actor.clone(),
                cause: cause.cause,
                after: entry.led.after,
                correlation: cause.correlation.clone(),
                payload,
            });
        }
        if payload_bytes(&encoded.records) > APPEND_BYTES_MAX / 2 {
            for record in &mut encoded.records {
                let payload = std::mem::take(&mut record.payload);
                let (payload, apart) = store_large(payload, PAYLOAD_OF_MANY_MAX, &self.content)
                    .map_err(|e| PartitionError::Content(self.id.clone(), e))?;
                record.payload = payload;
                encoded.content.extend(apart);
            }
        }
        Ok(encoded)
    }

    async fn append(
        &mut self,
        records: Vec<NewRecord>,
    ) -> Result<mesh_persistence::Appended, PartitionError> {
        let (mut pause, longest) = RETRY_PAUSE;
        loop {
            match self
                .journal
                .append(&self.id, self.next_seq, records.clone())
            {
                Ok(appended) => return Ok(appended),
                Err(
                    AppendError::Busy { .. } | AppendError::ReadOnly(_) | AppendError::Random(_),
                ) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                Err(error) => return Err(PartitionError::Append(self.id.clone(), error)),
            }
        }
    }

    fn header_of(
        &self,
        first: Position,
        offset: u64,
        entry: &Entry<M::Event>,
        cause: &Cause,
    ) -> RecordHeader {
        let cause = entry.led.by.as_ref().unwrap_or(cause);
        let led_by = entry
            .led
            .after
            .map(|index| Position(first.0 + u64::from(index)));
        RecordHeader {
            v: mesh_messages::record::RECORD_FORMAT,
            ns: "default".into(),
            log: String::new(),
            position: Position(first.0 + offset),
            partition: self.id.clone(),
            seq: self.next_seq + offset,
            time: crate::clock::now(),
            lc: 0,
            kind: M::kind(&entry.event).into(),
            kv: KIND_VERSION,
            agent: entry.agent.clone(),
            task: entry.task.clone(),
            actor: cause.actor.clone(),
            cause: led_by.or(cause.cause),
            correlation: cause.correlation.clone(),
            payload: String::new(),
        }
    }
}

fn payload_bytes(records: &[NewRecord]) -> usize {
    records.iter().map(|record| record.payload.len()).sum()
}

fn decode<E: DeserializeOwned>(header: &RecordHeader, payload: &[u8]) -> Result<E, PartitionError> {
    let unknown = |detail: String| PartitionError::Unknown {
        position: header.position,
        kind: header.kind.to_string(),
        version: header.kv,
        detail,
    };
    if header.kv > KIND_VERSION {
        return Err(unknown(format!("this version reads up to {KIND_VERSION}")));
    }
    serde_json::from_slice(payload).map_err(|e| unknown(e.to_string()))
}

/// Puts a payload that is larger than `inline_max` bytes into the content store and gives its reference instead, and what keeps it
/// there until that is in the log.
fn store_large(
    payload: Vec<u8>,
    inline_max: usize,
    content: &ContentStore,
) -> Result<(Vec<u8>, Option<ContentHold>), mesh_persistence::ContentError> {
    if payload.len() <= inline_max {
        return Ok((payload, None));
    }
    let size = payload.len();
    let hold = content.put(&payload)?;
    let digest = hold.digest();
    let reference = format!(r#"{{"{CONTENT_KEY}":"{digest}","size":{size}}}"#);
    Ok((reference.into_bytes(), Some(hold)))
}

#[derive(serde::Deserialize)]
struct Reference {
    #[serde(rename = "$content")]
    digest: String,
}

/// Where the payload of a record lies, if that is in the content store.
pub(crate) fn content_of(record: &Record) -> Option<ContentDigest> {
    let payload = &record.body.as_ref()?.payload;
    if !payload.starts_with(br#"{"$content":"#) {
        return None;
    }
    let reference: Reference = serde_json::from_slice(payload).ok()?;
    reference.digest.parse().ok()
}

/// The payload of a record, fetched from the content store if it lies there; `None` once erased.
///
/// # Errors
/// [`mesh_persistence::ContentError`] when the content is missing or damaged.
pub fn payload_of(
    record: &Record,
    content: &ContentStore,
) -> Result<Option<Vec<u8>>, mesh_persistence::ContentError> {
    let Some(body) = &record.body else {
        return Ok(None);
    };
    if body.payload.starts_with(br#"{"$content":"#)
        && let Ok(reference) = serde_json::from_slice::<Reference>(&body.payload)
    {
        let digest = reference.digest.parse()?;
        return content.get(&digest).map(Some);
    }
    Ok(Some(body.payload.clone()))
}
