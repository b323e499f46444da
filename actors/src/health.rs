//! Health: looks at the parts and the agents, and says so once when something changes.
//!
//! ```text
//!  every INTERVAL ──► all checks at once, each with its limit ──► report ──► for whoever asks
//!                                                                   │
//!                                                    changed? ──► health.alert, health.changed (journalled)
//! ```
//! The actor never waits for a check, so one that hangs holds up neither the next messages nor the end of meshd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, JoinSet};

use mesh_messages::agent::HealthLevel;
use mesh_messages::events::{NodeEvent, Restoration, partition};
use mesh_messages::system::{HealthReport, OverallHealth};
use mesh_messages::{Position, RecordHeader, Timestamp};
use mesh_persistence::RESTORED_FILE;

use crate::context::Context;
use crate::desk::check_due;
use crate::partition::{Cause, Entry, Led, Machine, Partition};
use crate::registry::RegistryHandle;
use crate::store::{JournalNews, follow};

mod alerts;
mod checks;

use checks::Checks;

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// What is remembered of this node's runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeState {
    /// The run that started last.
    pub run_id: String,
    /// Whether it ended in order.
    pub ended: bool,
    /// The checks that were not healthy when that was last said, by name.
    #[serde(default)]
    pub alerts: BTreeMap<String, HealthLevel>,
    /// What was last said of the whole.
    #[serde(default)]
    pub health: OverallHealth,
    /// The last backup that this log goes on from.
    #[serde(default)]
    pub restored: Option<Restoration>,
}

impl Machine for NodeState {
    type Event = NodeEvent;
    fn kind(event: &NodeEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, _header: &RecordHeader, event: &NodeEvent) {
        match event {
            NodeEvent::Started {
                run_id, restored, ..
            } => {
                self.run_id.clone_from(run_id);
                self.ended = false;
                if restored.is_some() {
                    self.restored.clone_from(restored);
                }
            }
            NodeEvent::Stopped { .. } => self.ended = true,
            NodeEvent::HealthChanged { to, .. } => {
                self.health = OverallHealth::named(to).unwrap_or_default();
            }
            NodeEvent::Alert { open, .. } => self.alerts.clone_from(open),
        }
    }
}

/// The last report, for whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HealthHandle {
    last: Arc<ArcSwapOption<HealthReport>>,
    pub(crate) slot: Arc<ArcSwapOption<ActorRef<HealthMessage>>>,
}

impl HealthHandle {
    /// The last report; one made now when there is none yet.
    pub async fn report(&self, ctx: &Arc<Context>) -> HealthReport {
        match self.last.load_full() {
            Some(report) => (*report).clone(),
            None => Checks::new(ctx).run().await,
        }
    }

    /// Writes down that this run ends in order; returns when that is durable or cannot be had any more.
    pub(crate) async fn closing(&self, reason: &str) {
        /// The journal is the last part to end; its slowest sync fits in.
        const LIMIT: Duration = Duration::from_secs(5);
        let Some(actor) = self.slot.load_full() else {
            return;
        };
        let (tx, rx) = ractor::concurrency::oneshot();
        let message = HealthMessage::Closing {
            reason: reason.to_owned(),
            reply: tx.into(),
        };
        if actor.cast(message).is_ok() {
            let _late = tokio::time::timeout(LIMIT, rx).await;
        }
    }
}

/// What the health actor is made of.
#[derive(Debug, Clone)]
pub(crate) struct HealthArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) handle: HealthHandle,
    pub(crate) registry: RegistryHandle,
}

/// What the health actor is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum HealthMessage {
    /// Time to look.
    Look,
    /// What was seen.
    Looked(Box<HealthReport>),
    /// meshd ends in order.
    Closing {
        /// Why.
        reason: String,
        /// When it is written down.
        reply: ractor::RpcReplyPort<()>,
    },
    /// News of the journal.
    Journal(JournalNews),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct HealthActor;

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct HealthShell {
    args: HealthArgs,
    partition: Partition<NodeState, ractor::RpcReplyPort<()>>,
    durable: Option<Position>,
    checks: Arc<Checks>,
    // At work, or done: one round at a time.
    round: Option<JoinHandle<()>>,
    // Since when each check is as it is.
    since: BTreeMap<String, (HealthLevel, Timestamp)>,
    tasks: [JoinHandle<()>; 2],
    // Checks of services; ended with the actor, and begun anew by the next.
    services: JoinSet<()>,
}

impl Actor for HealthActor {
    type Msg = HealthMessage;
    type State = HealthShell;
    type Arguments = HealthArgs;

    async fn pre_start(
        &self,
        me: ActorRef<HealthMessage>,
        args: HealthArgs,
    ) -> Result<HealthShell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let partition = args.ctx.store.load(&store, partition::NODE).await?;
        let follower = follow(&store.journal, me.clone(), HealthMessage::Journal);
        args.handle.slot.store(Some(Arc::new(me.clone())));
        let ticker = ractor::concurrency::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if me.cast(HealthMessage::Look).is_err() {
                    return;
                }
            }
        });
        Ok(HealthShell {
            checks: Arc::new(Checks::new(&args.ctx)),
            args,
            partition,
            durable: None,
            round: None,
            since: BTreeMap::new(),
            tasks: [follower, ticker],
            services: JoinSet::new(),
        })
    }

    async fn post_start(
        &self,
        _me: ActorRef<HealthMessage>,
        state: &mut HealthShell,
    ) -> Result<(), ActorProcessingErr> {
        state.note_start().await
    }

    async fn handle(
        &self,
        me: ActorRef<HealthMessage>,
        message: HealthMessage,
        state: &mut HealthShell,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HealthMessage::Look => {
                let args = &state.args;
                check_due(&args.ctx, &args.registry, &mut state.services);
                state.look(me);
                Ok(())
            }
            HealthMessage::Looked(report) => state.looked(*report).await,
            HealthMessage::Closing { reason, reply } => {
                let run_id = state.args.ctx.settings.run_id.clone();
                state
                    .commit(NodeEvent::Stopped { run_id, reason }, vec![reply])
                    .await
            }
            HealthMessage::Journal(JournalNews::Durable(position)) => {
                state.durable = Some(position);
                state.release();
                state.partition.snapshot_when_due(state.durable);
                Ok(())
            }
            HealthMessage::Journal(JournalNews::Failed(reason)) => {
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }
}

/// What a restore left a note of.
async fn restored_from(data: PathBuf) -> Result<Option<Restoration>, ActorProcessingErr> {
    let path = data.join(RESTORED_FILE);
    let read = tokio::task::spawn_blocking(move || match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(Into::into),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    });
    read.await?
        .map_err(|error: std::io::Error| format!("{RESTORED_FILE}: {error}").into())
}

impl Drop for HealthShell {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.round) {
            task.abort();
        }
    }
}

impl HealthShell {
    /// Once per run, however often this actor starts.
    async fn note_start(&mut self) -> Result<(), ActorProcessingErr> {
        if self.partition.state().run_id == self.args.ctx.settings.run_id {
            return Ok(());
        }
        let data = self.args.ctx.settings.data.clone();
        let restored = restored_from(data).await?;
        let settings = &self.args.ctx.settings;
        let state = self.partition.state();
        let first = state.run_id.is_empty();
        // The file stays: whether it was noted already is the log's to say.
        let restored = restored.filter(|restored| state.restored.as_ref() != Some(restored));
        let event = NodeEvent::Started {
            version: settings.version.clone(),
            run_id: settings.run_id.clone(),
            after: self.partition.journal().durable().borrow().upto,
            clean: first || state.ended,
            restored,
            cut: self.args.ctx.cut.clone(),
            encryption: Some(settings.encryption.clone()),
        };
        self.commit(event, Vec::new()).await
    }

    /// Begins a round, unless the last one is still under way.
    fn look(&mut self, me: ActorRef<HealthMessage>) {
        if self
            .round
            .as_ref()
            .is_some_and(|round| !round.is_finished())
        {
            return;
        }
        let checks = Arc::clone(&self.checks);
        self.round = Some(ractor::concurrency::spawn(async move {
            let report = Box::new(checks.run().await);
            let _gone = me.cast(HealthMessage::Looked(report));
        }));
    }

    async fn looked(&mut self, mut report: HealthReport) -> Result<(), ActorProcessingErr> {
        let before = std::mem::take(&mut self.since);
        for check in &mut report.checks {
            let known = before.get(&check.name);
            let since = known
                .filter(|(level, _)| *level == check.status)
                .map_or(report.timestamp, |(_, since)| *since);
            check.since = Some(since);
            self.since.insert(check.name.clone(), (check.status, since));
        }
        self.args.handle.last.store(Some(Arc::new(report.clone())));
        // Before every agent has said where it stands, those that have not seem well. And a full disk cannot be written
        // down; it is seen in the report, and said when there is room.
        if !self.args.ctx.directory.is_complete() || self.partition.journal().admission().is_err() {
            return Ok(());
        }
        let said = self.partition.state();
        for event in alerts::news(&said.alerts.clone(), said.health, &report) {
            if let NodeEvent::Alert {
                raised, cleared, ..
            } = &event
            {
                tracing::warn!(?raised, ?cleared, "health: {}", report.status.name());
            }
            self.commit(event, Vec::new()).await?;
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        event: NodeEvent,
        then: Vec<ractor::RpcReplyPort<()>>,
    ) -> Result<(), ActorProcessingErr> {
        let entry = Entry {
            event,
            agent: None,
            task: None,
            led: Led::default(),
        };
        self.partition
            .commit(vec![entry], &Cause::meshd(), then)
            .await?;
        self.release();
        Ok(())
    }

    fn release(&mut self) {
        for reply in self.partition.released(self.durable) {
            let _caller_gone = reply.send(());
        }
    }
}
