//! A mesh on one node: assembles the tree, and is what the outside speaks to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::Quota;
use tokio::sync::{broadcast, watch};

use mesh_messages::Timestamp;
use mesh_messages::address::Address;
use mesh_messages::certificate::KnownCertificate;
use mesh_messages::identity::SigningKey;
use mesh_persistence::OpenError;
use mesh_sandbox::{Launcher, LauncherConfig, StartError};
use mesh_supervision::{Child, Ended, RequestError, Supervisor, SupervisorHandle};

use crate::agents::home;
use crate::agents::native::NativeAgents;
use crate::agents::services::Services;
use crate::agents::spawn::forget_unused_homes;
use crate::alarms::Alarms;
use crate::alerts::Untold;
use crate::bus::{BusHandle, NodeSigner, Outside};
use crate::clock::now;
use crate::context::{Context, EVENTS_KEPT, Settings};
use crate::desk::Desk;
use crate::directory::Directory;
use crate::health::HealthHandle;
use crate::journal::{StoreError, hold_log};
use crate::kept::Kept;
use crate::memory::MemoryHandle;
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::orchestrator::OrchestratorHandle;
use crate::outbound::Outbound;
use crate::registry::RegistryHandle;
use crate::retention::RetentionHandle;
use crate::secrets::SecretShelf;
use crate::sentinel::{SentinelHandle, SentinelSettings, TOKEN_FILE};
use crate::slot::Slot;
use crate::store::{StoreCell, is_of_the_disk};
use crate::tree::{Parts, SupervisorPlace, tree};
use crate::workflows::WorkflowsHandle;

mod access;
mod agents;
mod audit;
mod board;
mod budgets;
mod bus;
mod catalog;
mod chaos;
mod contracts;
mod counts;
mod dependencies;
mod exports;
mod governance;
mod herald;
mod inbox;
mod insights;
mod limits;
mod operations;
mod outside;
mod owners;
mod parts;
mod permissions;
mod plans;
mod profiles;
mod refusals;
mod schedules;
mod secrets;
mod services;
mod signal;
mod split;
mod succession;
mod talk;
mod tasks;
mod tokens;
mod trust;
mod views;
mod witness;
mod workflows;

pub(crate) use access::TASKS;
use chaos::Chaos;
use outside::BusOutside;
pub(crate) use plans::measured;
use services::MeshServices;
pub(crate) use tasks::find as find_task;

/// How long the ordered end of the tree may take after the drain.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What agents get to end in order when the drain has used up its time.
const STOP_LEAST: Duration = Duration::from_secs(1);
/// How long the first start may take: replaying a long journal is the slowest.
const START_LIMIT: Duration = Duration::from_mins(10);
/// Where records of living sandboxes are kept below the data directory.
const RUN_DIR: &str = "run";

/// What a mesh is started with.
#[derive(Debug)]
pub struct MeshOptions {
    /// What it needs to know of the configuration.
    pub settings: Settings,
    /// The node's key: the one in force, or the first.
    pub key: SigningKey,
    /// Agents compiled into the binary.
    pub natives: NativeAgents,
    /// The program that builds sandboxes: one that calls `mesh_sandbox::sandbox_main` first thing. This process's own
    /// image when `None`.
    pub sandbox_helper: Option<PathBuf>,
    /// What was signed of its log and is kept elsewhere.
    pub kept: Kept,
}

/// Why a mesh could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshStartError {
    /// Another meshd has the data directory.
    #[error("the data directory is in use by another meshd")]
    InUse(#[source] StoreError),
    /// The data was written by a newer version.
    #[error("the data directory was written by a newer meshd; use that version")]
    Newer(#[source] StoreError),
    /// The disk is full, cannot be written, or fails.
    #[error("the data directory cannot be read or written")]
    NotWritable(#[source] StoreError),
    /// The stored data is damaged.
    #[error("the stored data cannot be opened")]
    Store(#[source] StoreError),
    /// Sandboxes cannot be started.
    #[error("sandboxes cannot be started on this machine")]
    Sandbox(#[from] StartError),
    /// The disk failed while the tree came up.
    #[error("the disk failed at the start: {0}")]
    Disk(String),
    /// The tree did not come up.
    #[error("the tree did not come up: {0}")]
    Tree(String),
}

/// A running mesh. Dropping it does not end it; use [`Mesh::stop`].
#[derive(Debug, Clone)]
pub struct Mesh {
    pub(crate) ctx: Arc<Context>,
    pub(crate) services: Arc<MeshServices>,
    pub(crate) sentinel: SentinelHandle,
    pub(crate) memory: MemoryHandle,
    pub(crate) bus: BusHandle,
    pub(crate) orchestrator: OrchestratorHandle,
    pub(crate) workflows: WorkflowsHandle,
    pub(crate) registry: RegistryHandle,
    pub(crate) registry_slot: Slot<crate::registry::RegistryMessage>,
    pub(crate) health: HealthHandle,
    pub(crate) retention: RetentionHandle,
    pub(crate) started_at: Timestamp,
    chaos: Arc<Chaos>,
    // Whoever registers what needs other agents holds it.
    registering: Arc<tokio::sync::Mutex<()>>,
    // Whoever gives the node another key holds it.
    rotating: Arc<tokio::sync::Mutex<()>>,
    root: SupervisorHandle,
    edge: SupervisorPlace,
}

impl Mesh {
    /// Sweeps what an earlier life left, opens the store, and starts the tree.
    ///
    /// # Errors
    /// [`MeshStartError`].
    pub async fn start(options: MeshOptions) -> Result<Self, MeshStartError> {
        let ctx = Arc::new(prepare(options).await?);
        let sentinel = SentinelHandle::new(SentinelSettings {
            requests: quota(ctx.settings.api_rate),
            audit_all_actions: ctx.settings.audit_all_actions,
        })
        .with_certificates(&ctx.settings.certificates)
        .with_policy(Arc::clone(&ctx.policy))
        .with_signer(Arc::clone(&ctx.node));
        let memory = MemoryHandle::new(Arc::new(ContextRules(Arc::clone(&ctx))), sentinel.clone());
        let orchestrator = OrchestratorHandle::default();
        let services = Arc::new(MeshServices::new(
            Arc::clone(&ctx),
            sentinel.clone(),
            memory.clone(),
            orchestrator.clone(),
        ));
        let bus = bus_handle(&ctx, &orchestrator, &sentinel);
        // Set once, here, before anybody can ask.
        let _first = services.bus.set(bus.clone());
        let registry_slot = Slot::new("registry");
        ctx.desk
            .set_registry(RegistryHandle::new(registry_slot.clone()));
        let parts = Parts {
            ctx: Arc::clone(&ctx),
            services: Arc::clone(&services) as Arc<dyn Services>,
            sentinel: sentinel.clone(),
            memory: memory.clone(),
            bus: bus.clone(),
            orchestrator: orchestrator.clone(),
            workflows: WorkflowsHandle::default(),
            health: HealthHandle::default(),
            retention: RetentionHandle::default(),
            registry: registry_slot.clone(),
            agents: watch::Sender::new(None),
            edge: watch::Sender::new(None),
        };
        let (root, _join) = Supervisor::spawn(
            Some(crate::names::registered(&ctx, crate::tree::ROOT)),
            tree(&parts),
        )
        .await
        .map_err(|error| MeshStartError::Tree(error.to_string()))?;
        let up = tokio::time::timeout(START_LIMIT, root.ready()).await;
        if let Err(why) = up
            .map_err(|_| "it took too long".to_owned())
            .and_then(|r| r.map_err(|e| format!("{e:?}")))
        {
            root.stop(STOP_LIMIT).await;
            return Err(not_up(&ctx, why));
        }
        let mesh = Self {
            ctx,
            services,
            sentinel,
            memory,
            bus,
            orchestrator,
            workflows: parts.workflows.clone(),
            retention: parts.retention.clone(),
            registry: RegistryHandle::new(registry_slot.clone()),
            registry_slot,
            health: parts.health,
            started_at: now(),
            chaos: Arc::default(),
            registering: Arc::default(),
            rotating: Arc::default(),
            root,
            edge: parts.edge,
        };
        mesh.say_what_happens();
        let populated = tokio::select! {
            // A tree that has ended will never say that it is complete.
            ended = mesh.root.terminated() => Err(format!("the tree ended: {ended:?}")),
            up = tokio::time::timeout(START_LIMIT, mesh.populated()) => {
                up.map_err(|_| "the registered agents were not all there in time".to_owned())
                    .flatten()
            }
        };
        if let Err(why) = populated {
            mesh.stop().await;
            return Err(not_up(&mesh.ctx, why));
        }
        mesh.forget_unused_homes().await;
        if let Err(why) = mesh.before_anybody_is_served().await {
            mesh.stop().await;
            return Err(not_up(&mesh.ctx, why));
        }
        Ok(mesh)
    }

    /// What has to be so before the first request: tokens are void that were to be from this start on, the admin has a
    /// token, the log says which key signs for it, a shutdown that is in force holds, and the services of the configuration
    /// are there.
    async fn before_anybody_is_served(&self) -> Result<(), String> {
        let data = &self.ctx.settings.data;
        // Before the admin's token is looked at, which may be one of them.
        self.revoke_as_ordered(data).await?;
        let admitted = self.sentinel.ensure_admin_token(data).await;
        admitted.map_err(|error| format!("the admin's token: {error}"))?;
        let recorded = self.record_rotations().await;
        recorded.map_err(|problem| format!("the record of the node's key: {problem}"))?;
        let halted = self.halt_if_ordered().await;
        halted.map_err(|problem| format!("the shutdown in force: {problem}"))?;
        let loaded = self.load_services().await;
        loaded.map_err(|problem| format!("services.definitions: {problem}"))?;
        Ok(())
    }

    /// Says on the bus what happens to tasks and agents, for as long as the tree lives.
    fn say_what_happens(&self) {
        let says = herald::herald(
            self.bus.clone(),
            self.orchestrator.clone(),
            self.ctx.store.clone(),
        );
        let root = self.root.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = says => {}
                _ended = root.terminated() => {}
            }
        });
    }

    /// Waits until every registered agent is known: before, the absence of one says nothing. Whose state cannot be read is
    /// never known; what it was running would be forgotten in silence.
    async fn populated(&self) -> Result<(), String> {
        /// How often the registry is asked; it has no more to do at a start.
        const PAUSE: Duration = Duration::from_millis(5);
        while !self.ctx.directory.is_complete() {
            if let Some(why) = self.ctx.directory.absent() {
                return Err(why.to_owned());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Frees the users of homes that no registered agent has.
    async fn forget_unused_homes(&self) {
        let ctx = Arc::clone(&self.ctx);
        let sweeping = tokio::task::spawn_blocking(move || {
            let known = |agent: &str| ctx.directory.get(agent).is_some();
            forget_unused_homes(&ctx.settings.data, known);
        });
        if let Err(error) = sweeping.await {
            tracing::warn!(%error, "unused homes could not be looked for");
        }
    }

    /// What the outside can ask of it.
    #[must_use]
    pub fn operations(&self) -> Arc<dyn Operations> {
        Arc::new(self.clone())
    }

    /// Knows these callers by their certificates from now on, and no others.
    pub fn know_certificates(&self, known: &[KnownCertificate]) {
        self.sentinel.know_certificates(known);
    }

    /// The file that holds the admin's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.ctx.settings.data.join(TOKEN_FILE)
    }

    /// Hangs a child into the group `edge`, such as the API's listener.
    ///
    /// # Errors
    /// As [`SupervisorHandle::add`].
    pub async fn add_edge(&self, child: Child) -> Result<(), RequestError> {
        let mut place = self.edge.subscribe();
        let edge = place.borrow_and_update().clone();
        let edge = edge.ok_or(RequestError::NotRunning)?;
        edge.add(child.clone()).await?;
        let root = self.root.clone();
        // The group is restarted as it was specified: whoever was added to it later is added to its successor.
        tokio::spawn(async move {
            let follow = async {
                while place.changed().await.is_ok() {
                    let successor = place.borrow_and_update().clone();
                    if let Some(edge) = successor
                        && let Err(error) = edge.add(child.clone()).await
                    {
                        tracing::warn!(%error, "the edge's child was not added; the group's next successor is awaited");
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                _ended = root.terminated() => {}
            }
        });
        Ok(())
    }

    /// Takes no new work, lets what is under way end until `limit`, then stops every agent in order.
    pub async fn drain(&self, limit: Duration) {
        self.orchestrator.close();
        let mut ends = self.orchestrator.ends();
        let until = tokio::time::Instant::now() + limit;
        while self.at_work() && tokio::time::Instant::now() < until {
            // Woken by an end of a task, or to look again.
            let wait = until.min(tokio::time::Instant::now() + Duration::from_millis(200));
            let _either = tokio::time::timeout_at(wait, ends.recv()).await;
        }
        // Whoever is still at work when the time is up is ended with the tree.
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let stop_limit = left.max(STOP_LEAST).min(self.ctx.settings.stop_timeout);
        self.close_agents(stop_limit).await;
        self.health.closing("ordered").await;
    }

    fn at_work(&self) -> bool {
        self.ctx
            .directory
            .all()
            .iter()
            .any(|entry| entry.live().values().any(|i| !i.live.attempts().is_empty()))
    }

    /// Stops the tree, in order, within a limit.
    pub async fn stop(&self) -> Ended {
        self.root.stop(STOP_LIMIT).await
    }

    /// Waits until the tree has ended by itself, or an essential agent's failure has reached the root: the reason.
    pub async fn failed(&self) -> String {
        let mut escalated = self.services.escalated.subscribe();
        tokio::select! {
            ended = self.root.terminated() => format!("the tree ended: {ended:?}"),
            Ok(reason) = escalated.wait_for(Option::is_some) => {
                reason.clone().unwrap_or_else(|| "escalated".to_owned())
            }
        }
    }
}

/// The directory's manifests as the memory's rules.
#[derive(Debug)]
struct ContextRules(Arc<Context>);

impl crate::memory::MemoryRules for ContextRules {
    fn rules(
        &self,
        agent: &mesh_messages::AgentId,
    ) -> Option<mesh_messages::manifest::MemoryConfig> {
        let state = self.0.directory.get(agent.as_str())?.state();
        Some(state.manifest()?.memory.clone())
    }
}

fn quota((per_second, burst): (u32, u32)) -> Quota {
    let least = std::num::NonZeroU32::MIN;
    let per_second = std::num::NonZeroU32::new(per_second).unwrap_or(least);
    Quota::per_second(per_second)
        .allow_burst(std::num::NonZeroU32::new(burst).unwrap_or(per_second))
}

fn bus_handle(
    ctx: &Arc<Context>,
    orchestrator: &OrchestratorHandle,
    sentinel: &SentinelHandle,
) -> BusHandle {
    let outside = Arc::new(BusOutside {
        ctx: Arc::clone(ctx),
        sentinel: sentinel.clone(),
        orchestrator: orchestrator.clone(),
    });
    let outside = Outside {
        directory: outside.clone(),
        delivery: outside.clone(),
        tasks: outside.clone(),
        keys: outside.clone(),
        alarms: outside,
    };
    let did = ctx.node.did.to_string();
    let node = NodeSigner {
        // A did:key is made of characters that every address may hold.
        address: Address::node(&did).unwrap_or_else(|_| Address::Node(did.into())),
        node: Arc::clone(&ctx.node),
    };
    BusHandle::new(outside, node, sentinel.clone())
}

/// Everything that has to be there before the first actor: the store is tried, and what earlier runs left is ended.
async fn prepare(options: MeshOptions) -> Result<Context, MeshStartError> {
    tokio::task::spawn_blocking(move || {
        let MeshOptions {
            settings,
            key,
            natives,
            sandbox_helper,
            kept,
        } = options;
        let node = Arc::new(crate::journal::identity(&settings.data, key).map_err(start_error)?);
        let tag = blake3::hash(settings.data.to_string_lossy().as_bytes()).to_hex();
        home::remove_drafts(&settings.data);
        let launcher = Launcher::start(LauncherConfig {
            run_dir: settings.data.join(RUN_DIR),
            run_id: settings.run_id.clone(),
            tag: format!("meshd-{}", &tag.as_str()[..12]),
            helper: sandbox_helper,
            images: settings.home_images || home::has_images(&settings.data),
        })?;
        let secrets = SecretShelf::open(&settings.data, settings.vault_key.as_ref());
        let mut ctx = Context {
            settings,
            secrets,
            outbound: Outbound::default(),
            node,
            store: StoreCell::default(),
            launcher,
            natives,
            directory: Directory::default(),
            policy: Arc::default(),
            governance: ArcSwap::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            desk: Desk::default(),
            metrics: Metrics::default(),
            alarms: Alarms::start().map_err(|error| MeshStartError::Tree(error.to_string()))?,
            untold: Untold::default(),
            cut: None,
        };
        // Opened once to say plainly what is wrong, and to hold the lock while sweeping; then the journal's actor does it.
        let log = hold_log(&ctx).map_err(start_error)?;
        let cut = crate::kept::check(&*log, &ctx.settings.data, &kept);
        ctx.cut = cut.map_err(|error| start_error(error.into()))?;
        let swept = ctx.launcher.sweep();
        tracing::debug!(?swept, "swept what earlier runs left");
        crate::agents::shortfalls::say(&ctx);
        drop(log);
        Ok(ctx)
    })
    .await
    .map_err(|error| MeshStartError::Tree(error.to_string()))?
}

/// Why the tree is not there: the disk's failure, if it failed, since then everything above it does, too.
fn not_up(ctx: &Context, why: String) -> MeshStartError {
    if ctx.store.has_failed() {
        MeshStartError::Disk(why)
    } else {
        MeshStartError::Tree(why)
    }
}

fn start_error(error: StoreError) -> MeshStartError {
    match &error {
        StoreError::Journal(OpenError::InUse { .. }) => MeshStartError::InUse(error),
        StoreError::Journal(OpenError::Newer { .. }) => MeshStartError::Newer(error),
        _ if is_of_the_disk(&error) => MeshStartError::NotWritable(error),
        _ => MeshStartError::Store(error),
    }
}
