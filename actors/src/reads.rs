//! The read side: answers from the projections and the journal, as of everything that was acknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::projection::{self, AuditIndex, ProjectFailure, Reader, Slice, TaskRow};
use mesh_actors_core::task::TaskRecord;
use mesh_messages::events::partition;
use mesh_messages::problem::Problem;
use mesh_messages::system::{AuditEntry, AuditFilter, AuditTrace};
use mesh_messages::{Position, Record, TaskId, WorkflowRunId};
use mesh_persistence::{ProjectionError, ReadError};

use crate::partition::payload_of;
use crate::store::OpenStore;

/// How long a read waits for the projections to catch up with what was acknowledged.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// Records that one filtered page of the audit looks at; beyond it answers with what it found and a cursor.
const AUDIT_SCAN_MAX: usize = 20_000;

/// Records of an index that are looked at in one step.
const AUDIT_STEP: usize = 1000;

/// Longest way to what a record began with that is shown: delegations are at most a few deep, and each has few records.
const CAUSES_MAX: usize = 256;
/// Most records that are shown to have followed from one, and about how many bytes of them.
const EFFECTS_MAX: usize = 1000;
const EFFECTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The store as the core reads it.
#[derive(Debug)]
pub(crate) struct StoreReader<'a>(pub(crate) &'a OpenStore);

impl Reader for StoreReader<'_> {
    type Error = ProjectionError;

    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError> {
        self.0.projections.get(tree, key)
    }

    fn scan(
        &self,
        tree: &'static str,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Slice, ProjectionError> {
        let page = self.0.projections.scan(tree, prefix, from, limit)?;
        Ok(Slice {
            entries: page.entries,
            next: page.cursor,
        })
    }
}

/// Why the read side could not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The projections failed; they are being rebuilt.
    #[error("the projections could not be read: {0}")]
    Projection(#[from] ProjectFailure<ProjectionError>),
    /// The journal could not be read.
    #[error("the journal could not be read")]
    Journal(#[from] ReadError),
    /// The projections lag too far behind.
    #[error("the projections are behind what was acknowledged; try again")]
    Behind,
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Journal(error) => Problem::internal(format!("{error}")),
            LookupError::Projection(_) | LookupError::Behind => {
                Problem::unavailable("reads_behind", error.to_string())
            }
        }
    }
}

/// Waits until the projections show everything that is durable now.
///
/// # Errors
/// [`LookupError::Behind`]: not in time, or the journal is being opened again, for which the caller must let go of it.
pub(crate) async fn caught_up(store: &OpenStore) -> Result<(), LookupError> {
    if store.journal.admission().is_err() {
        // While the disk is full nothing is projected; what there is, is as of then.
        return Ok(());
    }
    let size = store.journal.durable().borrow().size();
    tokio::select! {
        there = store.projections.wait_for(size, CATCH_UP_MAX) => there.map_err(|_| LookupError::Behind),
        () = store.closing() => Err(LookupError::Behind),
    }
}

/// Whether the read side does not show the first `records` of the log yet. One that failed is not behind: it says so itself.
pub(crate) fn is_behind(store: &OpenStore, records: u64) -> bool {
    match store.projections.next_position() {
        Ok(shown) => shown < records,
        Err(error) => matches!(error, ProjectionError::Unchecked),
    }
}

/// Goes on with something when the projections show everything that is durable now, or with the reason why they do not; for
/// actors, which wait for nothing themselves. While the disk is full there is nothing to wait for.
pub(crate) fn when_caught_up(
    store: &Arc<OpenStore>,
    then: impl FnOnce(Result<(), LookupError>) + Send + 'static,
) {
    if store.journal.admission().is_err() {
        return then(Err(LookupError::Behind));
    }
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let there = caught_up(&store).await;
        drop(store);
        then(there);
    });
}

/// A task's row, ended or not.
pub(crate) fn task_row(store: &OpenStore, task: &TaskId) -> Result<Option<TaskRow>, LookupError> {
    Ok(projection::task(&StoreReader(store), task)?)
}

/// What the task machine needs to know of a task that it no longer holds.
pub(crate) fn task_record(
    store: &OpenStore,
    task: &TaskId,
) -> Result<Option<TaskRecord>, LookupError> {
    Ok(task_row(store, task)?.map(|row| row.record))
}

/// The task that a submitter's idempotency key stands for.
pub(crate) fn task_by_key(
    store: &OpenStore,
    by: &str,
    key: &str,
) -> Result<Option<TaskRecord>, LookupError> {
    Ok(projection::task_by_key(&StoreReader(store), by, key)?)
}

/// The ended run that a submitter's idempotency key stands for, with the digest of its submission.
pub(crate) fn workflow_key(
    store: &OpenStore,
    by: &str,
    key: &str,
) -> Result<Option<(WorkflowRunId, String)>, LookupError> {
    Ok(projection::workflow_key(&StoreReader(store), by, key)?)
}

/// A record as the audit shows it.
pub(crate) fn audit_entry(store: &OpenStore, record: &Record) -> AuditEntry {
    let header = &record.header;
    let payload = payload_of(record, &store.content)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .map(|event: serde_json::Value| match event {
            // The tag is the kind, which the entry says.
            serde_json::Value::Object(map) if map.len() == 1 => map
                .into_iter()
                .next()
                .map(|(_, content)| content)
                .unwrap_or_default(),
            other => other,
        });
    AuditEntry {
        position: header.position,
        time: header.time,
        kind: header.kind.to_string(),
        agent: header.agent.clone(),
        task: header.task.clone(),
        actor: header.actor.clone(),
        cause: header.cause,
        correlation: header.correlation.clone(),
        commitment: header.payload.clone(),
        payload,
    }
}

/// Audit records that match, oldest first, and where the next page begins. Blocks on the disk.
pub(crate) fn audit_page(
    store: &OpenStore,
    filter: &AuditFilter,
    after: Option<Position>,
    limit: usize,
) -> Result<(Vec<AuditEntry>, Option<Position>), LookupError> {
    let matches = |entry: &AuditEntry| {
        filter
            .agent
            .as_ref()
            .is_none_or(|a| entry.agent.as_ref() == Some(a))
            && filter
                .task
                .as_ref()
                .is_none_or(|t| entry.task.as_ref() == Some(t))
            && filter.kind.as_ref().is_none_or(|k| is_kind(&entry.kind, k))
            && filter.actor.as_ref().is_none_or(|a| entry.actor == *a)
            && filter.cause.is_none_or(|c| entry.cause == Some(c))
            && filter
                .correlation
                .as_ref()
                .is_none_or(|c| entry.correlation.as_ref() == Some(c))
            && filter.since.is_none_or(|since| entry.time >= since)
            && filter.until.is_none_or(|until| entry.time <= until)
    };
    let index = filter
        .task
        .as_ref()
        .map(AuditIndex::Task)
        .or_else(|| filter.agent.as_ref().map(AuditIndex::Agent))
        .or_else(|| filter.cause.map(AuditIndex::Cause))
        .or_else(|| filter.kind.as_deref().map(by_kind));
    let mut found = Vec::new();
    // What a record led to comes after it.
    let mut seen = after.max(filter.cause);
    let after = seen;
    if let Some(index) = index {
        let mut scanned = 0;
        loop {
            let step = limit.max(AUDIT_STEP);
            let positions = projection::audit_page(&StoreReader(store), index, seen, step)
                .map_err(ProjectFailure::View)?;
            let last_page = positions.len() < step;
            for position in positions {
                if found.len() >= limit || scanned >= AUDIT_SCAN_MAX {
                    return Ok((found, seen));
                }
                scanned += 1;
                seen = Some(position);
                if let Some(record) = store.journal.get(position)? {
                    found.extend(Some(audit_entry(store, &record)).filter(&matches));
                }
            }
            if last_page {
                return Ok((found, None));
            }
        }
    }
    let from = after.map_or(Position(0), Position::next);
    for (scanned, record) in store.journal.read(from)?.enumerate() {
        if found.len() >= limit || scanned >= AUDIT_SCAN_MAX {
            return Ok((found, seen));
        }
        let record = record?;
        seen = Some(record.header.position);
        found.extend(Some(audit_entry(store, &record)).filter(&matches));
    }
    Ok((found, None))
}

/// Records of these kinds behind `after`, oldest first, at most `limit`; and the record up to which none is missing.
/// Blocks on the disk.
pub(crate) fn of_kinds(
    store: &OpenStore,
    kinds: &[String],
    after: Option<Position>,
    limit: usize,
) -> Result<(Vec<AuditEntry>, Option<Position>), LookupError> {
    // What comes while they are looked up, one kind after the other, is for the next time.
    let shown = store.projections.next_position();
    let shown = shown.map_err(ProjectFailure::View)?;
    let mut through = shown.checked_sub(1).map(Position).max(after);
    let mut found = BTreeSet::new();
    for kind in kinds {
        let positions = projection::audit_page(&StoreReader(store), by_kind(kind), after, limit)
            .map_err(ProjectFailure::View)?;
        if positions.len() >= limit {
            through = through.min(positions.last().copied());
        }
        found.extend(positions);
    }
    if found.len() > limit {
        through = through.min(found.iter().nth(limit.saturating_sub(1)).copied());
    }
    let mut entries = Vec::new();
    for position in found
        .into_iter()
        .take_while(|found| Some(*found) <= through)
    {
        let record = store.journal.get(position)?;
        entries.extend(record.map(|record| audit_entry(store, &record)));
    }
    Ok((entries, through))
}

/// Records that led to others, and those that followed, each at most once.
///
/// The first one is asked for; the causes are the way to it from what all began with, the effects all that came of it, both
/// oldest first. Blocks on the disk.
pub(crate) fn audit_trace(
    store: &OpenStore,
    from: Position,
) -> Result<Option<AuditTrace>, LookupError> {
    let Some(record) = store.journal.get(from)? else {
        return Ok(None);
    };
    let record = audit_entry(store, &record);
    let mut causes = Vec::new();
    let (mut next, mut before) = (record.cause, from);
    // A cause stands before its effect: a log that says otherwise was not written by meshd, and is not followed.
    while let Some(position) = next.filter(|cause| *cause < before && causes.len() < CAUSES_MAX) {
        let Some(cause) = store.journal.get(position)? else {
            break;
        };
        (next, before) = (cause.header.cause, position);
        causes.push(audit_entry(store, &cause));
    }
    causes.reverse();
    let mut effects = BTreeSet::new();
    let mut open = VecDeque::from([from]);
    let mut more = false;
    while let Some(cause) = open.pop_front() {
        let left = EFFECTS_MAX - effects.len();
        let index = AuditIndex::Cause(cause);
        let found = projection::audit_page(&StoreReader(store), index, None, left + 1)
            .map_err(ProjectFailure::View)?;
        more |= found.len() > left;
        for position in found
            .into_iter()
            .take(left)
            .filter(|effect| *effect > cause)
        {
            if effects.insert(position) {
                open.push_back(position);
            }
        }
    }
    let (mut shown, mut bytes) = (Vec::with_capacity(effects.len()), 0);
    for position in effects {
        if bytes > EFFECTS_BYTES_MAX {
            more = true;
            break;
        }
        if let Some(effect) = store.journal.get(position)? {
            let effect = audit_entry(store, &effect);
            let payload = effect.payload.as_ref();
            bytes += payload.map_or(0, |payload| payload.to_string().len());
            shown.push(effect);
        }
    }
    Ok(Some(AuditTrace {
        causes,
        record,
        effects: shown,
        more,
    }))
}

/// The first of a task's own records; others may be about it.
pub(crate) fn first_record(
    store: &OpenStore,
    task: &TaskId,
) -> Result<Option<Position>, LookupError> {
    let index = AuditIndex::Task(task);
    let mut after = None;
    loop {
        let page = projection::audit_page(&StoreReader(store), index, after, AUDIT_STEP);
        let page = page.map_err(ProjectFailure::View)?;
        for position in &page {
            let record = store.journal.get(*position)?;
            if record.is_some_and(|record| record.header.partition == partition::TASKS) {
                return Ok(Some(*position));
            }
        }
        match page.last() {
            Some(last) if page.len() == AUDIT_STEP => after = Some(*last),
            _ => return Ok(None),
        }
    }
}

/// Whether a kind is the one asked for, or begins with it where that ends with a full stop.
/// A kind, or with a full stop at its end all that begin so.
fn by_kind(kind: &str) -> AuditIndex<'_> {
    if kind.ends_with('.') {
        AuditIndex::Kinds(kind)
    } else {
        AuditIndex::Kind(kind)
    }
}

fn is_kind(kind: &str, asked: &str) -> bool {
    kind == asked || (asked.ends_with('.') && kind.starts_with(asked))
}

/// Runs a read that blocks on the disk where that holds nobody up.
///
/// # Errors
/// What the read says; or that the runtime is ending.
pub(crate) async fn blocking<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    store: Arc<OpenStore>,
    read: impl FnOnce(&OpenStore) -> Result<T, E> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(move || read(&store))
        .await
        .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
        .map_err(Into::into)
}
