//! Removes ended tasks that are beyond what the operator keeps, and erases what the log holds of them.
//!
//! First it is durable that they are removed, then the read side shows them no more, then it is durable which content is
//! theirs, then salts and payloads of their records are erased, then that content. Headers, and so every proof, stay.
//! Whatever is interrupted, an order included, is gone on with by the next incarnation.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use mesh_actors_core::projection::{self, AuditIndex, EndedRow, ProjectFailure};
use mesh_actors_core::retention::{Candidate, Limits, RetentionState, choose};
use mesh_messages::erasure::{ErasureOrder, ErasureReport};
use mesh_messages::events::{DOOMED_RECORDS_MAX, Restoration, RetentionEvent, partition};
use mesh_messages::problem::Problem;
use mesh_messages::task::TaskState;
use mesh_messages::{Position, RecordHeader, TaskId};
use mesh_persistence::{
    ContentError, EraseError, RESTORED_FILE, SnapshotError, unexplained_erasures, wait_durable,
};

use crate::bus::BusHandle;
use crate::clock::now;
use crate::context::Context;
use crate::orchestrator::OrchestratorHandle;
use crate::partition::{Cause, Entry, Led, Machine, Partition};
use crate::reads::{self, LookupError, StoreReader};
use crate::store::OpenStore;

/// How often it looks for what can go: ages are given in hours and days.
const INTERVAL: Duration = Duration::from_secs(10);
/// Ended tasks that are looked at for one decision; those that are still needed are passed over.
const LOOK_MAX: usize = 1000;
/// Records of one task that are looked up at once.
const RECORDS_STEP: usize = 10_000;

impl Machine for RetentionState {
    type Event = RetentionEvent;
    fn kind(event: &RetentionEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, header: &RecordHeader, event: &RetentionEvent) {
        RetentionState::apply(self, header, event);
    }
}

mod content;
mod order;

pub(crate) use order::RetentionHandle;

/// Why nothing was removed this time.
#[derive(Debug, thiserror::Error)]
enum RetentionError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("failed to look for snapshots of the tasks")]
    Snapshot(#[from] SnapshotError),
    #[error("failed to erase records")]
    Erase(#[from] EraseError),
    #[error("failed to remove content of erased records")]
    Content(#[from] ContentError),
}

impl From<ProjectFailure<mesh_persistence::ProjectionError>> for RetentionError {
    fn from(error: ProjectFailure<mesh_persistence::ProjectionError>) -> Self {
        Self::Lookup(error.into())
    }
}

/// What it is made of.
#[derive(Debug, Clone)]
pub(crate) struct RetentionArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) handle: RetentionHandle,
    /// Who could give a task another round while it is being removed.
    pub(crate) orchestrator: OrchestratorHandle,
    /// Who knows which messages are still to be handed out.
    pub(crate) bus: BusHandle,
}

/// What it is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum RetentionMessage {
    /// Time to look.
    Look,
    /// Erase what somebody wants erased; answered when it is.
    Erase {
        /// What.
        order: Box<ErasureOrder>,
        /// By whom.
        by: Cause,
        /// What became of it.
        reply: RpcReplyPort<Result<ErasureReport, Problem>>,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct RetentionActor;

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct RetentionShell {
    limits: Limits,
    handle: RetentionHandle,
    orchestrator: OrchestratorHandle,
    bus: BusHandle,
    me: ActorRef<RetentionMessage>,
    store: Arc<OpenStore>,
    partition: Partition<RetentionState, ()>,
    ticker: JoinHandle<()>,
    data: PathBuf,
    // Whether it was looked whether a backup has erasures that it does not name.
    restored_named: bool,
}

impl Actor for RetentionActor {
    type Msg = RetentionMessage;
    type State = RetentionShell;
    type Arguments = RetentionArgs;

    async fn pre_start(
        &self,
        me: ActorRef<RetentionMessage>,
        args: RetentionArgs,
    ) -> Result<RetentionShell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let partition = args.ctx.store.load(&store, partition::RETENTION).await?;
        let closing = Arc::clone(&store);
        let (myself, ticked) = (me.clone(), me);
        let me = ticked;
        let ticker = ractor::concurrency::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    // The log is opened again only when nobody has it.
                    () = closing.closing() => {
                        me.stop(Some("the journal was closed".to_owned()));
                        return;
                    }
                }
                if me.cast(RetentionMessage::Look).is_err() {
                    return;
                }
            }
        });
        Ok(RetentionShell {
            limits: args.ctx.settings.retention,
            handle: args.handle,
            orchestrator: args.orchestrator,
            bus: args.bus,
            me: myself,
            store,
            partition,
            ticker,
            data: args.ctx.settings.data.clone(),
            restored_named: false,
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<RetentionMessage>,
        state: &mut RetentionShell,
    ) -> Result<(), ActorProcessingErr> {
        state.handle.slot.occupy(me);
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<RetentionMessage>,
        message: RetentionMessage,
        state: &mut RetentionShell,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RetentionMessage::Look => {
                if state.look().await? {
                    // There may be more. Whatever else there is for this actor comes first.
                    me.cast(RetentionMessage::Look)?;
                }
            }
            RetentionMessage::Erase { order, by, reply } => {
                let done = state.take_order(&order, &by).await?;
                let _caller_gone = reply.send(done);
            }
        }
        Ok(())
    }
}

impl Drop for RetentionShell {
    fn drop(&mut self) {
        self.ticker.abort();
        self.handle.slot.vacate(&self.me);
    }
}

impl RetentionShell {
    /// Removes some; whether there may be more.
    async fn look(&mut self) -> Result<bool, ActorProcessingErr> {
        if self.store.is_closing() || self.store.journal.admission().is_err() {
            return Ok(false);
        }
        if !self.restored_named {
            self.restored_named = self.name_restored().await?;
        }
        self.resume_orders().await?;
        self.erase_removed(&self.last_cause()).await?;
        let tasks = self.beyond_limits().await?;
        if tasks.is_empty() || self.is_much_doomed() {
            self.remove_doomed().await?;
        }
        if tasks.is_empty() {
            return Ok(false);
        }
        tracing::info!(tasks = tasks.len(), "removing ended tasks");
        let event = RetentionEvent::Removed { tasks };
        self.commit(event, &Cause::meshd()).await?;
        self.erase_removed(&self.last_cause()).await?;
        Ok(true)
    }

    /// The tasks that go now, none of which can be given another round from here on.
    async fn beyond_limits(&mut self) -> Result<Vec<TaskId>, ActorProcessingErr> {
        if self.limits.are_none() || reads::caught_up(&self.store).await.is_err() {
            return Ok(Vec::new());
        }
        let limits = self.limits;
        let tasks = self.told(move |store| beyond(store, &limits)).await?;
        let tasks = tasks.unwrap_or_default();
        if tasks.is_empty() {
            return Ok(tasks);
        }
        // A task machine that is being restarted is asked at the next look.
        Ok(self.retired(tasks).await.unwrap_or_default())
    }

    /// Those of these tasks that have ended and stay so.
    async fn retired(&self, mut tasks: Vec<TaskId>) -> Result<Vec<TaskId>, Problem> {
        let goes_on = self.orchestrator.retire(tasks.clone()).await?;
        tasks.retain(|task| !goes_on.contains(task));
        Ok(tasks)
    }

    /// Erases the records of removed tasks, once the read side does not show them any more.
    ///
    /// How many records, or `None` when it has to be tried again.
    async fn erase_removed(&mut self, cause: &Cause) -> Result<Option<u64>, ActorProcessingErr> {
        let tasks = self.partition.state().unerased.clone();
        if tasks.is_empty() {
            return Ok(Some(0));
        }
        // A restart has forgotten that they stay ended; so that is said again before anything is waited for.
        let Ok(goes_on) = self.orchestrator.retire(tasks.clone()).await else {
            return Ok(None);
        };
        let tasks: Vec<_> = tasks
            .into_iter()
            .filter(|task| !goes_on.contains(task))
            .collect();
        if reads::caught_up(&self.store).await.is_err() {
            return Ok(None);
        }
        let Some(found) = self.told(move |store| records_of(store, &tasks)).await? else {
            return Ok(None);
        };
        let positions = found.all();
        if !self.doom(&positions, cause).await? {
            return Ok(None);
        }
        // Their removal names what was there by then.
        let named_at = self.partition.state().removed_at;
        let mut late = positions.clone();
        late.retain(|position| *position > named_at);
        self.name(&late, cause).await?;
        let records = positions.len() as u64;
        let Some(()) = self.told(move |store| erase(store, &found)).await? else {
            return Ok(None);
        };
        self.commit(RetentionEvent::Erased { records }, cause)
            .await?;
        Ok(Some(records))
    }

    /// Puts on record which records are about to be erased, durably: whoever finds one of them without its payload can look
    /// up that this was said.
    async fn name(
        &mut self,
        positions: &[Position],
        cause: &Cause,
    ) -> Result<(), ActorProcessingErr> {
        for records in positions.chunks(DOOMED_RECORDS_MAX) {
            let (records, restored) = (records.to_vec(), None);
            let event = RetentionEvent::RecordsDoomed { records, restored };
            self.commit(event, cause).await?;
        }
        Ok(())
    }

    /// Puts on record which records came erased from a backup that does not say so, once for each backup. Whether that is
    /// done.
    async fn name_restored(&mut self) -> Result<bool, ActorProcessingErr> {
        let known = self.partition.state().restored.clone();
        let path = self.data.join(RESTORED_FILE);
        let found = self.told(move |store| {
            let Ok(note) = std::fs::read(path) else {
                return Ok(None);
            };
            let note: Option<Restoration> = serde_json::from_slice(&note).ok();
            let root = note.map(|note| note.root);
            if root.is_none() || root == known {
                return Ok(None);
            }
            let records = unexplained_erasures(&*store.journal).map_err(LookupError::from)?;
            Ok(Some((root, records)))
        });
        let (restored, records) = match found.await? {
            Some(Some(found)) => found,
            Some(None) => return Ok(true),
            None => return Ok(false),
        };
        let last = records.len().saturating_sub(1) / DOOMED_RECORDS_MAX * DOOMED_RECORDS_MAX;
        self.name(&records[..last], &Cause::meshd()).await?;
        // With the last of them it is known that all are named.
        let records = records[last..].to_vec();
        let event = RetentionEvent::RecordsDoomed { records, restored };
        self.commit(event, &Cause::meshd()).await?;
        Ok(true)
    }

    /// What goes on here follows from what was last on record here.
    fn last_cause(&self) -> Cause {
        Cause {
            cause: self.partition.newest(),
            ..Cause::meshd()
        }
    }

    async fn commit(
        &mut self,
        event: RetentionEvent,
        cause: &Cause,
    ) -> Result<(), ActorProcessingErr> {
        let entry = Entry {
            event,
            agent: None,
            task: None,
            led: Led::default(),
        };
        let committed = self.partition.commit(vec![entry], cause, Vec::new());
        if let Some(last) = committed.await? {
            wait_durable(&mut self.store.journal.durable(), last).await?;
            let _nothing = self.partition.released(Some(last));
            self.partition.snapshot_when_due(Some(last));
        }
        Ok(())
    }

    /// Does something that blocks on the disk; a failure is told, and the next look tries again.
    async fn told<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenStore) -> Result<T, RetentionError> + Send + 'static,
    ) -> Result<Option<T>, ActorProcessingErr> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await?;
        Ok(done
            .inspect_err(
                |error| tracing::warn!(%error, "ended tasks were not removed; trying again"),
            )
            .ok())
    }
}

/// The tasks that are kept no longer.
fn beyond(store: &OpenStore, limits: &Limits) -> Result<Vec<TaskId>, RetentionError> {
    let reader = StoreReader(store);
    let totals = projection::ended_totals(&reader)?;
    // A replay from any snapshot must find all records of a task erased, or its end in the snapshot.
    let floor = store.journal.oldest_snapshot(&partition::TASKS)?;
    let (rows, _) = projection::ended_page(&reader, None, LOOK_MAX)?;
    // With a snapshot, what an ended task meant for those that depend on it is in there.
    let depended = match floor {
        Some(_) => BTreeSet::new(),
        None if rows.is_empty() => BTreeSet::new(),
        None => dependencies(store)?,
    };
    let mut candidates = Vec::with_capacity(rows.len());
    for row in rows {
        let needed = floor.is_some_and(|floor| row.last >= floor)
            || depended.contains(&row.id)
            || goes_on(store, &row)?;
        candidates.push(Candidate {
            needed,
            id: row.id,
            ended_at: row.at,
            bytes: row.bytes,
        });
    }
    Ok(choose(limits, now(), totals, candidates))
}

/// The tasks that tasks depend on which have not ended. What becomes of those is decided anew at each start, by how these ended.
fn dependencies(store: &OpenStore) -> Result<BTreeSet<TaskId>, RetentionError> {
    let mut found = BTreeSet::new();
    let open = TaskState::ALL.into_iter();
    for state in open.filter(|state| !state.is_terminal()) {
        let filter = projection::TaskFilter {
            state: Some(state),
            ..projection::TaskFilter::default()
        };
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            let page =
                projection::task_page(&StoreReader(store), &filter, cursor.as_deref(), LOOK_MAX)?;
            let rows = page.rows.into_iter();
            found.extend(rows.flat_map(|row| row.record.task.spec.depends_on));
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
    }
    Ok(found)
}

/// Whether the task that delegated this one has not ended: when it is tried again, it finds its children.
fn goes_on(store: &OpenStore, row: &EndedRow) -> Result<bool, RetentionError> {
    let Some(parent) = &row.parent else {
        return Ok(false);
    };
    let parent = reads::task_row(store, parent)?;
    Ok(parent.is_some_and(|parent| !parent.record.task.state.is_terminal()))
}

/// The records of some tasks.
#[derive(Debug, Default)]
struct Found {
    /// Those that a replay of the task machine sees.
    replayed: Vec<Position>,
    /// What agents called for them.
    calls: Vec<Position>,
}

impl Found {
    fn all(&self) -> Vec<Position> {
        self.replayed.iter().chain(&self.calls).copied().collect()
    }
}

/// All records of these tasks.
fn records_of(store: &OpenStore, tasks: &[TaskId]) -> Result<Found, RetentionError> {
    let mut all = Found::default();
    for task in tasks {
        let mut after = None;
        loop {
            let index = AuditIndex::Task(task);
            let page = projection::audit_page(&StoreReader(store), index, after, RECORDS_STEP);
            let page = page.map_err(ProjectFailure::View)?;
            for position in &page {
                let record = store.journal.get(*position).map_err(LookupError::from)?;
                // What other partitions say of it is theirs, save what its agent called for it.
                match record.map(|record| record.header) {
                    Some(header) if header.partition == partition::TASKS => {
                        all.replayed.push(*position);
                    }
                    Some(header) if header.kind.starts_with("call.") => all.calls.push(*position),
                    _ => {}
                }
            }
            match page.last() {
                Some(last) if page.len() == RECORDS_STEP => after = Some(*last),
                _ => break,
            }
        }
    }
    Ok(all)
}

/// Erases all records of some tasks at once, so that no replay sees some of a task's.
fn erase(store: &OpenStore, found: &Found) -> Result<(), RetentionError> {
    // By order, tasks go that retention would keep for a while, because a replay from a snapshot would see half of them.
    let floor = store.journal.oldest_snapshot(&partition::TASKS)?;
    if floor.is_some_and(|floor| found.replayed.iter().any(|position| *position >= floor)) {
        store.journal.drop_snapshots(&partition::TASKS)?;
    }
    store.journal.erase(&found.all())?;
    Ok(())
}
