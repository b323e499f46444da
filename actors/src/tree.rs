//! The tree, as it is assembled.
//!
//! ```text
//! mesh                rest_for_one
//! ├─ journal
//! ├─ core             one_for_one     projector, sentinel, registry
//! ├─ work             one_for_one     memory, bus, agents (dynamic), orchestrator, workflows
//! └─ edge             one_for_one     health, and what the composition root adds (the API)
//! ```
//!
//! The order is that of dependence: a later group may use an earlier one, and is restarted with it.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr};
use tokio::sync::watch;

use mesh_supervision::{
    Child, ChildSpec, Flags, StartContext, Started, Strategy, Supervisor, SupervisorHandle,
    SupervisorSpec,
};

use crate::agents::services::Services;
use crate::bus::{Bus, BusArgs, BusHandle};
use crate::context::Context;
use crate::health::{HealthActor, HealthArgs, HealthHandle};
use crate::journal::{JournalActor, JournalArgs};
use crate::memory::{Memory, MemoryArgs, MemoryHandle};
use crate::names::registered;
use crate::orchestrator::{Orchestrator, OrchestratorArgs, OrchestratorHandle};
use crate::projector::{ProjectorActor, ProjectorArgs};
use crate::registry::{RegistryActor, RegistryArgs, RegistryHandle, RegistryMessage};
use crate::retention::{RetentionActor, RetentionArgs, RetentionHandle};
use crate::sentinel::{Sentinel, SentinelArgs, SentinelHandle};
use crate::slot::Slot;
use crate::store::StoreCell;
use crate::workflows::{WorkflowsActor, WorkflowsArgs, WorkflowsHandle};

/// How often a part may fail within [`PERIOD`] before its group does. A bug that shows on every start must escalate; a
/// handful of unlucky requests must not.
pub(crate) const INTENSITY: u32 = 10;
pub(crate) const PERIOD: Duration = Duration::from_mins(1);
/// How long a start may take: replaying a long journal without a snapshot is the slowest.
const START_LIMIT: Duration = Duration::from_mins(10);

/// How long a start waits for the last actor of its name, and how often it looks: one that was killed ends at its next
/// `.await`, so this is longer than any handler computes.
const VACANT_MAX: Duration = Duration::from_secs(10);
const VACANT_PAUSE: Duration = Duration::from_millis(1);

/// How long a start waits for the journal to be open. Opening a long log takes seconds; and starts that wait for so long
/// in vain are too few within [`PERIOD`] to end a group, which is for the journal's own restarts to do.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(30);

/// The root's name.
pub(crate) const ROOT: &str = "mesh";
/// The names of all other actors of the tree, but for the agents'.
pub(crate) const PARTS: [&str; 14] = [
    "journal",
    "core",
    "projector",
    "sentinel",
    "registry",
    "work",
    "memory",
    "bus",
    "agents",
    "orchestrator",
    "workflows",
    "edge",
    "health",
    "retention",
];

/// Where a supervisor announces itself, for those who add children to it.
pub(crate) type SupervisorPlace = watch::Sender<Option<SupervisorHandle>>;

/// Everything that the tree is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) ctx: Arc<Context>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) sentinel: SentinelHandle,
    pub(crate) memory: MemoryHandle,
    pub(crate) bus: BusHandle,
    pub(crate) orchestrator: OrchestratorHandle,
    pub(crate) workflows: WorkflowsHandle,
    pub(crate) health: HealthHandle,
    pub(crate) retention: RetentionHandle,
    pub(crate) registry: Slot<RegistryMessage>,
    pub(crate) agents: SupervisorPlace,
    pub(crate) edge: SupervisorPlace,
}

fn flags(strategy: Strategy) -> Flags {
    Flags {
        strategy,
        intensity: INTENSITY,
        period: PERIOD,
        ..Flags::default()
    }
}

/// Waits until the last actor of this name has ended.
///
/// A supervisor that was killed could not wait for its children, and its successor's children have their names. A start
/// that fails for the name counts as a restart, and a few of them would end the group.
async fn vacant(registered: &str) {
    let leaving = async {
        while let Some(last) = ractor::registry::where_is(registered) {
            // Only says that it takes longer than the limit.
            let _late = last.wait(Some(VACANT_MAX)).await;
            // It may have ended and not be off the register yet.
            tokio::time::sleep(VACANT_PAUSE).await;
        }
    };
    // The spawn then says that the name is taken.
    let _taken = tokio::time::timeout(VACANT_MAX, leaving).await;
}

/// A worker above the journal. It starts when that is open: a start that fails because it is not counts as a restart, and
/// a few milliseconds of them would end the group.
fn worker<A>(parts: &Parts, name: &'static str, actor: fn() -> A, args: A::Arguments) -> Child
where
    A: Actor,
    A::Arguments: Clone + Sync,
{
    spawned(parts, name, actor, args, Some(parts.ctx.store.clone()))
}

/// A worker that is started with a copy of its arguments each time, once there is an open store if it is given the place.
fn spawned<A>(
    parts: &Parts,
    name: &'static str,
    actor: fn() -> A,
    args: A::Arguments,
    store: Option<StoreCell>,
) -> Child
where
    A: Actor,
    A::Arguments: Clone + Sync,
{
    let registered = registered(&parts.ctx, name);
    Child::worker(name, move |context: StartContext| {
        let (args, registered, store) = (args.clone(), registered.clone(), store.clone());
        async move {
            vacant(&registered).await;
            if let Some(store) = store {
                store.opened(OPEN_MAX).await?;
            }
            Ok(Started::from(
                A::spawn_linked(Some(registered), actor(), args, context.supervisor).await?,
            ))
        }
    })
    .start_limit(START_LIMIT)
}

/// A group, which announces itself when it has a place for that.
fn group(
    parts: &Parts,
    name: &'static str,
    place: Option<SupervisorPlace>,
    spec: impl Fn() -> SupervisorSpec + Send + Sync + 'static,
) -> Child {
    let registered = registered(&parts.ctx, name);
    Child::new(ChildSpec::supervisor(name), move |context: StartContext| {
        let (spec, registered, place) = (spec(), registered.clone(), place.clone());
        async move {
            vacant(&registered).await;
            let (handle, join) =
                Supervisor::spawn_linked(Some(registered), spec, context.supervisor)
                    .await
                    .map_err(|error| -> ActorProcessingErr { error.into() })?;
            if let Some(place) = place {
                place.send_replace(Some(handle.clone()));
            }
            Ok(Started::supervisor(handle, join))
        }
    })
    .start_limit(START_LIMIT)
}

/// The whole tree.
pub(crate) fn tree(parts: &Parts) -> SupervisorSpec {
    let all = parts.clone();
    let core = group(parts, "core", None, move || core(&all));
    let all = parts.clone();
    let work = group(parts, "work", None, move || work(&all));
    let all = parts.clone();
    let edge = group(parts, "edge", Some(parts.edge.clone()), move || {
        let health = HealthArgs {
            ctx: Arc::clone(&all.ctx),
            handle: all.health.clone(),
            registry: RegistryHandle::new(all.registry.clone()),
        };
        let retention = RetentionArgs {
            ctx: Arc::clone(&all.ctx),
            handle: all.retention.clone(),
            orchestrator: all.orchestrator.clone(),
            bus: all.bus.clone(),
        };
        SupervisorSpec::new(flags(Strategy::OneForOne))
            .child(worker(&all, "health", || HealthActor, health))
            .child(worker(&all, "retention", || RetentionActor, retention))
    });
    let journal = JournalArgs {
        ctx: Arc::clone(&parts.ctx),
    };
    SupervisorSpec::new(flags(Strategy::RestForOne))
        .child(spawned(parts, "journal", || JournalActor, journal, None))
        .child(core)
        .child(work)
        .child(edge)
}

fn core(parts: &Parts) -> SupervisorSpec {
    let projector = ProjectorArgs {
        ctx: Arc::clone(&parts.ctx),
    };
    let sentinel = SentinelArgs {
        handle: parts.sentinel.clone(),
        store: parts.ctx.store.clone(),
    };
    let registry = RegistryArgs {
        ctx: Arc::clone(&parts.ctx),
        services: Arc::clone(&parts.services),
        slot: parts.registry.clone(),
        agents: parts.agents.subscribe(),
    };
    SupervisorSpec::new(flags(Strategy::OneForOne))
        .child(worker(parts, "projector", || ProjectorActor, projector))
        .child(worker(parts, "sentinel", || Sentinel, sentinel))
        .child(worker(parts, "registry", || RegistryActor, registry))
}

fn work(parts: &Parts) -> SupervisorSpec {
    let memory = MemoryArgs {
        handle: parts.memory.clone(),
        store: parts.ctx.store.clone(),
    };
    let bus = BusArgs {
        handle: parts.bus.clone(),
        store: parts.ctx.store.clone(),
    };
    let orchestrator = OrchestratorArgs {
        ctx: Arc::clone(&parts.ctx),
        handle: parts.orchestrator.clone(),
    };
    let workflows = WorkflowsArgs {
        ctx: Arc::clone(&parts.ctx),
        handle: parts.workflows.clone(),
        orchestrator: parts.orchestrator.clone(),
        sentinel: parts.sentinel.clone(),
        registry: RegistryHandle::new(parts.registry.clone()),
    };
    let agents = group(parts, "agents", Some(parts.agents.clone()), || {
        SupervisorSpec::new(flags(Strategy::Dynamic))
    });
    SupervisorSpec::new(flags(Strategy::OneForOne))
        .child(worker(parts, "memory", || Memory, memory))
        .child(worker(parts, "bus", || Bus, bus))
        .child(agents)
        .child(worker(parts, "orchestrator", || Orchestrator, orchestrator))
        .child(worker(parts, "workflows", || WorkflowsActor, workflows))
}
