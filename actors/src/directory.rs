//! The agents of this node and where their actors are: what reads are answered from.
//!
//! An entry holds the last *durable* state of its agent, published by the agent's actor; readers never wait for an actor,
//! and never see what could still be lost.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use mesh_actors_core::agent::AgentState;
use mesh_actors_core::dependencies::{
    Graph, Node, Services, may_wait, requires, services_awaited, waits_for,
};
use mesh_actors_core::routing::{FleetAgent, FleetInstance};
use mesh_messages::agent::Lifecycle;
use mesh_messages::budget::Money;
use mesh_messages::dependency::Unmet;
use mesh_messages::manifest::{AgentManifest, Budget};
use mesh_messages::{AgentId, AttemptNo, Epoch, InstanceNo, TaskId};

use crate::agents::agent::AgentMessage;
use crate::agents::live::{InstanceLive, LogTail};
use crate::few::Few;
use crate::slot::Slot;

/// One agent.
#[derive(Debug)]
pub struct AgentEntry {
    /// Who.
    pub id: AgentId,
    /// Where its actor is.
    pub(crate) slot: Slot<AgentMessage>,
    /// Its log.
    pub log: Arc<LogTail>,
    state: ArcSwap<AgentState>,
    published: Notify,
    known: AtomicBool,
    live: Mutex<Few<InstanceNo, LiveInstance>>,
    stopping: Mutex<BTreeSet<Epoch>>,
    open: Mutex<BTreeSet<OpenAttempt>>,
    actors: AtomicU64,
}

/// An attempt that was given out, and to which incarnation.
type OpenAttempt = (Epoch, TaskId, AttemptNo);

/// One instance, live.
#[derive(Debug, Clone)]
pub struct LiveInstance {
    /// Its incarnation.
    pub epoch: Epoch,
    /// What it does.
    pub live: Arc<InstanceLive>,
    /// What it advertised.
    pub capabilities: BTreeSet<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AgentEntry {
    /// An entry for an agent whose state is not loaded yet.
    pub(crate) fn new(id: AgentId) -> Self {
        Self {
            id,
            slot: Slot::new("the agent's actor"),
            log: Arc::default(),
            state: ArcSwap::default(),
            published: Notify::new(),
            known: AtomicBool::new(false),
            live: Mutex::default(),
            stopping: Mutex::default(),
            open: Mutex::default(),
            actors: AtomicU64::new(0),
        }
    }

    /// Its last durable state.
    pub fn state(&self) -> Arc<AgentState> {
        self.state.load_full()
    }

    pub(crate) fn publish(&self, state: Arc<AgentState>) {
        self.state.store(state);
        self.known.store(true, Ordering::Release);
        self.published.notify_waiters();
    }

    /// Whether the agent's actor has published a state.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Waits until the agent's actor has published a state for the first time.
    pub(crate) async fn first_published(&self) {
        loop {
            let published = self.published.notified();
            if self.is_known() {
                return;
            }
            published.await;
        }
    }

    /// Waits until the durable state is as wanted, at most `limit`; whether it is.
    pub(crate) async fn settled(
        &self,
        limit: Duration,
        wanted: impl Fn(&AgentState) -> bool,
    ) -> bool {
        let waiting = async {
            loop {
                // Listens before it looks, so that nothing published in between is missed.
                let published = self.published.notified();
                if wanted(&self.state()) {
                    return;
                }
                published.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    /// Its instances, live.
    pub fn live(&self) -> BTreeMap<InstanceNo, LiveInstance> {
        let live = locked(&self.live);
        live.iter().map(|(no, live)| (*no, live.clone())).collect()
    }

    pub(crate) fn put_live(&self, instance: InstanceNo, live: LiveInstance) {
        locked(&self.live).insert(instance, live);
    }

    pub(crate) fn advertise(
        &self,
        instance: InstanceNo,
        epoch: Epoch,
        capabilities: BTreeSet<String>,
    ) {
        if let Some(live) = locked(&self.live)
            .get_mut(&instance)
            .filter(|l| l.epoch == epoch)
        {
            live.capabilities = capabilities;
        }
    }

    pub(crate) fn remove_live(&self, instance: InstanceNo, epoch: Epoch) {
        let mut live = locked(&self.live);
        if live.get(&instance).is_some_and(|l| l.epoch == epoch) {
            live.remove(&instance);
        }
        locked(&self.stopping).remove(&epoch);
        locked(&self.open).retain(|(of, _, _)| *of != epoch);
    }

    pub(crate) fn clear_live(&self) {
        locked(&self.live).clear();
        locked(&self.stopping).clear();
        locked(&self.open).clear();
        self.actors.fetch_add(1, Ordering::AcqRel);
    }

    /// Which actor of this agent it is, counted from 1. With each one, all instances of the one before are gone, whether or
    /// not it came to say so.
    pub(crate) fn actor_no(&self) -> u64 {
        self.actors.load(Ordering::Acquire)
    }

    /// An attempt is on its way to an incarnation. It is open until the task machine has taken its end in.
    pub(crate) fn give_out(&self, epoch: Epoch, task: TaskId, attempt: AttemptNo) {
        locked(&self.open).insert((epoch, task, attempt));
    }

    /// The task machine has taken the end of an attempt in, or will never want it.
    pub(crate) fn settle(&self, epoch: Epoch, task: TaskId, attempt: AttemptNo) {
        locked(&self.open).remove(&(epoch, task, attempt));
    }

    /// The attempts that are open: on their way to an instance, in its hands, or their ends on the way back. What the
    /// instances themselves say they have in hand is less than that, and a task machine that went by it would give a task
    /// out twice.
    pub(crate) fn open_attempts(&self) -> BTreeSet<OpenAttempt> {
        locked(&self.open).clone()
    }

    pub(crate) fn set_stopping(&self, epoch: Epoch) {
        locked(&self.stopping).insert(epoch);
    }

    /// What the task machine may expect of it.
    pub fn fleet(&self) -> FleetAgent {
        let state = self.state();
        let live = self.live();
        let stopping = locked(&self.stopping).clone();
        let declared: BTreeSet<String> = state
            .manifest()
            .map(|m| m.capabilities.iter().cloned().collect())
            .unwrap_or_default();
        let concurrency = state.manifest().map_or(1, |m| m.concurrency.get());
        let instances = state
            .ready()
            .filter(|(no, i)| live.get(no).is_some_and(|l| l.epoch == i.epoch))
            .map(|(no, i)| {
                let closed = if stopping.contains(&i.epoch) {
                    Some("it is being stopped".to_owned())
                } else if state.stage() == Lifecycle::Upgrading {
                    Some("its version is being exchanged".to_owned())
                } else {
                    live.get(&no).and_then(|l| l.live.drained())
                };
                (
                    no,
                    FleetInstance {
                        epoch: i.epoch,
                        concurrency,
                        closed,
                    },
                )
            })
            .collect::<BTreeMap<_, _>>();
        // What an agent declares and what it advertised: both are needed.
        let capabilities = match instances.keys().find_map(|no| live.get(no)) {
            Some(advertised) => declared
                .intersection(&advertised.capabilities)
                .cloned()
                .collect(),
            None => declared,
        };
        let budget = state.manifest().and_then(|held| held.budget.as_ref());
        let profiles = state.manifest().into_iter().flat_map(|m| &m.profiles);
        let times = profiles
            .clone()
            .filter_map(|(name, profile)| Some((name.clone(), profile.timeout?.as_millis())))
            .collect();
        let prices = profiles
            .filter_map(|(name, profile)| Some((name.clone(), Money::from_price(profile.cost?)?)))
            .collect();
        FleetAgent {
            capabilities,
            fault: state.fault_state(),
            reason: state
                .fault
                .as_ref()
                .and_then(|f| f.reason.clone())
                .filter(|_| state.fault_state() != mesh_messages::agent::FaultState::Running),
            next_attempt_at: state.fault.as_ref().and_then(|f| f.next_attempt_at),
            paused: state.paused,
            account: budget.and_then(|budget| budget.provider.clone()),
            limits: budget.and_then(Budget::account),
            team: budget.and_then(|budget| budget.team.clone()),
            prices,
            times,
            instances,
            digest: state.version().map(|version| version.digest.clone()),
            misdeeds: state.misdeeds.clone(),
        }
    }
}

/// All agents of this node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    agents: RwLock<BTreeMap<AgentId, Arc<AgentEntry>>>,
    complete: AtomicBool,
    absent: OnceLock<String>,
    // Who waits for whom, by the name of the one that is waited for.
    waiting: Mutex<BTreeMap<String, BTreeSet<AgentId>>>,
    // The services, as far as agents may need them.
    services: ArcSwap<Services>,
}

/// What a service is waited for by: no agent has such an id.
fn awaited(service: &str) -> String {
    format!("service:{service}")
}

impl Directory {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<AgentId, Arc<AgentEntry>>> {
        self.0.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<AgentEntry>> {
        self.read().get(id).cloned()
    }

    /// All agents, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<AgentEntry>> {
        self.read().values().cloned().collect()
    }

    /// The entry of an agent, made when there is none.
    pub(crate) fn enter(&self, id: &AgentId) -> Arc<AgentEntry> {
        let mut agents = self
            .0
            .agents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            agents
                .entry(id.clone())
                .or_insert_with(|| Arc::new(AgentEntry::new(id.clone()))),
        )
    }

    /// What counts of an agent for those that need it.
    pub(crate) fn node(&self, id: &str) -> Option<Node> {
        Node::of(&self.get(id)?.state())
    }

    /// All agents, and what they need of each other.
    pub(crate) fn graph(&self) -> Graph {
        let all = self.all().into_iter();
        let all = all.filter_map(|entry| Some((entry.id.clone(), Node::of(&entry.state())?)));
        Graph::new(all).with_services(self.services())
    }

    /// Whether another agent that is to run cannot do without this one.
    pub(crate) fn is_required(&self, id: &AgentId) -> bool {
        self.read().values().any(|entry| {
            let state = entry.state.load();
            let version = state.version().filter(|_| state.running && entry.id != *id);
            version.is_some_and(|version| requires(&version.manifest, id))
        })
    }

    /// What an agent waits for before it may start.
    pub(crate) fn unmet(&self, manifest: &Arc<AgentManifest>) -> Vec<Unmet> {
        if !may_wait(manifest) {
            return Vec::new();
        }
        Graph::around(manifest, |id| self.node(id))
            .with_services(self.services())
            .unmet(&manifest.id)
    }

    /// The services, as far as agents may need them.
    pub(crate) fn services(&self) -> Arc<Services> {
        self.0.services.load_full()
    }

    /// These are the services from here on: whoever waits for one that is well now looks again.
    pub(crate) fn set_services(&self, services: Services) {
        let well: Vec<String> = services
            .iter()
            .filter(|(_, lack)| lack.is_none())
            .map(|(id, _)| awaited(id))
            .collect();
        self.0.services.store(Arc::new(services));
        for name in well {
            self.wake(&name);
        }
    }

    /// Whether an agent lacks another one. If so, it is told when one of those has come to serve.
    pub(crate) fn lacks(&self, state: &AgentState) -> bool {
        let Some(manifest) = state.version().map(|version| &version.manifest) else {
            return false;
        };
        if !may_wait(manifest) {
            return false;
        }
        let services = services_awaited(manifest);
        let services = services.iter().map(|service| awaited(service));
        let names: Vec<String> = waits_for(manifest).into_iter().chain(services).collect();
        // Waits before it looks: whoever comes to serve publishes that, then looks who waits.
        for name in names.iter().cloned() {
            let mut waiting = locked(&self.0.waiting);
            waiting.entry(name).or_default().insert(manifest.id.clone());
        }
        let lacks = !self.unmet(manifest).is_empty();
        if !lacks {
            let mut waiting = locked(&self.0.waiting);
            for name in names {
                let Entry::Occupied(mut who) = waiting.entry(name) else {
                    continue;
                };
                who.get_mut().remove(&manifest.id);
                if who.get().is_empty() {
                    who.remove();
                }
            }
        }
        lacks
    }

    /// An agent has come to serve: whoever waits for it looks again.
    pub(crate) fn serves(&self, id: &AgentId) {
        self.wake(id.as_str());
    }

    fn wake(&self, name: &str) {
        let waiting = locked(&self.0.waiting).remove(name);
        for dependent in waiting.into_iter().flatten() {
            if let Some(entry) = self.get(dependent.as_str()) {
                // One whose actor is being started looks by itself.
                let _not_there = entry.slot.cast(AgentMessage::NeedsChanged);
            }
        }
    }

    /// Forgets an agent.
    pub(crate) fn leave(&self, id: &AgentId) {
        self.0
            .agents
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        locked(&self.0.waiting).retain(|_, who| {
            who.remove(id);
            !who.is_empty()
        });
    }

    /// Whether every registered agent has published its state at least once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.complete.load(Ordering::Acquire)
    }

    pub(crate) fn set_complete(&self) {
        self.0.complete.store(true, Ordering::Release);
    }

    /// Why a registered agent's actor could not be started, if that happened since the node's start: the first reason.
    pub(crate) fn absent(&self) -> Option<&str> {
        self.0.absent.get().map(String::as_str)
    }

    pub(crate) fn set_absent(&self, agent: &AgentId, why: &str) {
        let _not_the_first = self.0.absent.set(format!("agent {agent}: {why}"));
    }
}
