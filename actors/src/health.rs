//! Health: measures the parts and the agents, and says so once when the whole changes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use mesh_messages::agent::{FaultState, HealthLevel, Lifecycle};
use mesh_messages::events::{NodeEvent, partition};
use mesh_messages::system::{HealthCheck, HealthReport, OverallHealth};
use mesh_messages::{Position, RecordHeader};

use crate::clock::now;
use crate::context::Context;
use crate::partition::{Cause, Entry, Machine, Partition};
use crate::store::{JournalNews, OpenStore, follow};

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Records by which the projections may lag before it is worth saying.
const LAG_MAX: u64 = 10_000;
/// Free bytes of the data directory's disk below which it is worth saying.
const FREE_MIN: u64 = 256 * 1024 * 1024;

/// What is remembered of this node's runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeState {
    /// The run that started last.
    pub run_id: String,
    /// Whether it ended in order.
    pub ended: bool,
}

impl Machine for NodeState {
    type Event = NodeEvent;
    fn kind(event: &NodeEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, _header: &RecordHeader, event: &NodeEvent) {
        match event {
            NodeEvent::Started { run_id, .. } => {
                self.run_id.clone_from(run_id);
                self.ended = false;
            }
            NodeEvent::Stopped { .. } => self.ended = true,
            NodeEvent::HealthChanged { .. } | NodeEvent::Finding { .. } => {}
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
    pub fn report(&self, ctx: &Context) -> HealthReport {
        self.last
            .load_full()
            .map_or_else(|| examine(ctx), |report| (*report).clone())
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

/// Looks at everything now.
pub fn examine(ctx: &Context) -> HealthReport {
    let mut checks = match ctx.store.get() {
        Ok(store) => vec![journal(&store), projections(&store)],
        Err(error) => vec![check("journal", HealthLevel::Critical, &error.to_string())],
    };
    checks.push(disk(ctx));
    checks.extend(ctx.directory.all().iter().filter_map(|entry| {
        let state = entry.state();
        let fault = state.fault_state();
        let essential = state.manifest().is_some_and(|m| m.policy.essential);
        let (level, detail) = match (fault, state.stage()) {
            (_, Lifecycle::Terminated | Lifecycle::Audited | Lifecycle::Defined) => return None,
            (FaultState::Quarantined, _) if essential => {
                (HealthLevel::Critical, "in quarantine, and essential")
            }
            (FaultState::Quarantined, _) => (HealthLevel::Warning, "in quarantine"),
            (FaultState::Open, _) => (HealthLevel::Warning, "breaker open"),
            _ => (HealthLevel::Healthy, "ok"),
        };
        let reason = state.fault.as_ref().and_then(|f| f.reason.clone());
        let detail = match reason.filter(|_| level != HealthLevel::Healthy) {
            Some(reason) => format!("{detail}: {reason}"),
            None => detail.to_owned(),
        };
        Some(check(&format!("agent:{}", entry.id), level, &detail))
    }));
    let issues = checks
        .iter()
        .filter(|c| c.status != HealthLevel::Healthy)
        .map(|c| format!("{}: {}", c.name, c.detail))
        .collect();
    HealthReport {
        status: OverallHealth::of(checks.iter().map(|c| c.status)),
        checks,
        issues,
        timestamp: now(),
    }
}

fn check(name: &str, status: HealthLevel, detail: &str) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        status,
        detail: detail.to_owned(),
    }
}

fn journal(store: &OpenStore) -> HealthCheck {
    let durable = store.journal.durable().borrow().clone();
    match (durable.failed, store.journal.admission()) {
        (Some(failed), _) => check("journal", HealthLevel::Critical, &failed.to_string()),
        (None, Err(full)) => check("journal", HealthLevel::Critical, &full.to_string()),
        (None, Ok(())) => check("journal", HealthLevel::Healthy, "takes writes"),
    }
}

fn projections(store: &OpenStore) -> HealthCheck {
    let size = store.journal.durable().borrow().size();
    match store.projections.next_position() {
        Ok(next) if size.saturating_sub(next) <= LAG_MAX => {
            check("projections", HealthLevel::Healthy, "up with the journal")
        }
        Ok(next) => {
            let lag = size.saturating_sub(next);
            check(
                "projections",
                HealthLevel::Warning,
                &format!("{lag} records behind"),
            )
        }
        Err(error) => check(
            "projections",
            HealthLevel::Warning,
            &format!("being rebuilt: {error}"),
        ),
    }
}

fn disk(ctx: &Context) -> HealthCheck {
    match rustix::fs::statvfs(&ctx.settings.data) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < FREE_MIN {
                let text = format!("{} MiB free", free / (1024 * 1024));
                check("disk", HealthLevel::Warning, &text)
            } else {
                check("disk", HealthLevel::Healthy, "enough room")
            }
        }
        Err(error) => check(
            "disk",
            HealthLevel::Warning,
            &format!("cannot be measured: {error}"),
        ),
    }
}

/// What the health actor is made of.
#[derive(Debug, Clone)]
pub(crate) struct HealthArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) handle: HealthHandle,
}

/// What the health actor is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum HealthMessage {
    /// Time to look.
    Look,
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
    last: Option<OverallHealth>,
    tasks: [JoinHandle<()>; 2],
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
        let (journal, content) = (Arc::clone(&store.journal), Arc::clone(&store.content));
        let load = move || Partition::load(partition::NODE, journal, content);
        let partition = tokio::task::spawn_blocking(load).await??;
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
            args,
            partition,
            durable: None,
            last: None,
            tasks: [follower, ticker],
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
        _me: ActorRef<HealthMessage>,
        message: HealthMessage,
        state: &mut HealthShell,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HealthMessage::Look => state.look().await,
            HealthMessage::Closing { reason, reply } => {
                let run_id = state.args.ctx.settings.run_id.clone();
                state
                    .commit(NodeEvent::Stopped { run_id, reason }, vec![reply])
                    .await
            }
            HealthMessage::Journal(JournalNews::Durable(position)) => {
                state.durable = Some(position);
                state.release();
                Ok(())
            }
            HealthMessage::Journal(JournalNews::Failed(reason)) => {
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }
}

impl Drop for HealthShell {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl HealthShell {
    /// Once per run, however often this actor starts.
    async fn note_start(&mut self) -> Result<(), ActorProcessingErr> {
        let settings = &self.args.ctx.settings;
        let state = self.partition.state();
        if state.run_id == settings.run_id {
            return Ok(());
        }
        let first = state.run_id.is_empty();
        let event = NodeEvent::Started {
            version: settings.version.clone(),
            run_id: settings.run_id.clone(),
            after: self.partition.journal().durable().borrow().upto,
            clean: first || state.ended,
        };
        self.commit(event, Vec::new()).await
    }

    async fn look(&mut self) -> Result<(), ActorProcessingErr> {
        let ctx = Arc::clone(&self.args.ctx);
        let report = tokio::task::spawn_blocking(move || examine(&ctx)).await?;
        let (from, to) = (self.last.replace(report.status), report.status);
        self.args.handle.last.store(Some(Arc::new(report.clone())));
        // A full disk cannot be written down; it is seen in the report.
        if from.is_none_or(|from| from == to) || self.partition.journal().admission().is_err() {
            return Ok(());
        }
        let name = |level: OverallHealth| {
            serde_json::to_value(level)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default()
        };
        tracing::warn!(issues = ?report.issues, "health is now {}", name(to));
        let from = from.map_or_else(String::new, name);
        self.commit(
            NodeEvent::HealthChanged {
                from,
                to: name(to),
                issues: report.issues,
            },
            Vec::new(),
        )
        .await
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
