//! The service desk: calls registered services, and knows how each stands.
//!
//! ```text
//!  call ─► known, active? ─► rate ─► breaker ─► secret ─► one exchange ─┬─ answered ──────────► reply ─┐
//!              ▲                                                       └─ not now ─► again? ─► fault ─┤
//!              │                                                                                      ▼
//!   registry publishes the book                                                    service.called (journalled)
//! ```
//!
//! What is registered is the registry's; here is what follows from calls and checks of this run: breakers, rates, and when
//! each service was checked. Nothing here is waited for in an actor's handler.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use mesh_actors_core::service::{Breaker, KeptService, ServiceBook};
use mesh_messages::service::{
    BreakerState, BreakerView, ServiceDefinition, ServiceRate, ServiceStatus, ServiceView,
};
use mesh_messages::{ServiceId, Timestamp};
use tokio::sync::Semaphore;

use crate::clock::now;
use crate::registry::RegistryHandle;

mod auth;
mod call;
mod checks;
pub(crate) mod http;
mod rules;

pub(crate) use call::{Ask, Patience, call as service_call};
pub(crate) use checks::{check, check_due};
pub use rules::unfit;

/// Calls of services at once: each holds a thread while it waits for its answer.
const CALLS_MAX: usize = 64;
/// Checks of services at once.
const CHECKS_MAX: usize = 16;

/// The services of this node, as this run of meshd knows them.
#[derive(Debug)]
pub struct Desk {
    served: ArcSwap<BTreeMap<ServiceId, Arc<Served>>>,
    calls: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    // For agents that are services; set once, before anybody can be one.
    registry: OnceLock<RegistryHandle>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            served: ArcSwap::default(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            registry: OnceLock::new(),
        }
    }
}

/// One service.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) kept: KeptService,
    // The same for all that is published of one version.
    run: Arc<Run>,
}

/// What this run of meshd knows of one version of a service.
#[derive(Debug)]
struct Run {
    breaker: Mutex<Breaker>,
    rate: Option<DefaultDirectRateLimiter>,
    last: Mutex<Option<Checked>>,
    // When the next check is due, in milliseconds; at once at first.
    due_ms: AtomicU64,
    // Held by the one check that is under way.
    checking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Checked {
    at: Timestamp,
    took_ms: u64,
}

impl Run {
    fn new(definition: &ServiceDefinition) -> Self {
        Self {
            breaker: Mutex::default(),
            rate: definition.rate.map(limiter),
            last: Mutex::default(),
            due_ms: AtomicU64::new(0),
            checking: tokio::sync::Mutex::default(),
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the next try, if there were too many.
    fn too_fast(&self) -> Option<Duration> {
        let refused = self.rate.as_ref()?.check().err()?;
        Some(refused.wait_time_from(DefaultClock::default().now()))
    }
}

fn limiter(rate: ServiceRate) -> DefaultDirectRateLimiter {
    let least = NonZeroU32::MIN;
    let per_second = NonZeroU32::new(rate.per_second).unwrap_or(least);
    let burst = rate.burst.and_then(NonZeroU32::new).unwrap_or(per_second);
    RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst))
}

impl Served {
    /// How it is shown.
    pub(crate) fn view(&self) -> ServiceView {
        let KeptService {
            definition,
            version,
            origin,
            by,
            registered_at,
            updated_at,
            fault,
            unchecked: _,
        } = self.kept.clone();
        let last = *self.run.last.lock().unwrap_or_else(PoisonError::into_inner);
        ServiceView {
            id: definition.id,
            name: definition.name,
            kind: definition.kind,
            status: self.kept.status(),
            capabilities: definition.capabilities,
            endpoints: definition.endpoints,
            auth: definition.auth,
            health: definition.health,
            rate: definition.rate,
            version,
            origin,
            by,
            registered_at,
            updated_at,
            fault,
            checked_at: last.map(|last| last.at),
            check_ms: last.map(|last| last.took_ms),
            breaker: self.breaker(),
        }
    }

    fn breaker(&self) -> BreakerView {
        self.run.breaker().view(now())
    }

    /// Whether it is meant to be called.
    pub(crate) fn is_wanted(&self) -> bool {
        self.kept.status() != ServiceStatus::Inactive
    }

    /// What is wrong with it, in words; nothing where it can be called, or is not meant to be.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.kept.status() {
            ServiceStatus::Inactive => None,
            ServiceStatus::Error => self.kept.fault.as_ref().map(|fault| fault.reason.clone()),
            ServiceStatus::Active => {
                let breaker = self.breaker();
                let failed = format!("{} calls failed one after the other", breaker.failures);
                (breaker.state != BreakerState::Closed).then_some(failed)
            }
        }
    }
}

impl Desk {
    /// These are the services from here on. What is known of a version that stays is kept.
    pub(crate) fn publish(&self, book: &ServiceBook) {
        let before = self.served.load_full();
        let served = book.all().map(|(id, kept)| {
            let known = before.get(id).filter(|known| {
                let (old, new) = (&known.kept, kept);
                (old.version, old.registered_at) == (new.version, new.registered_at)
            });
            let run = match known {
                Some(known) => Arc::clone(&known.run),
                None => Arc::new(Run::new(&kept.definition)),
            };
            let kept = kept.clone();
            (id.clone(), Arc::new(Served { kept, run }))
        });
        self.served.store(Arc::new(served.collect()));
    }

    /// One of them.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Served>> {
        self.served.load().get(id).cloned()
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.served.load().values().cloned().collect()
    }

    /// Where calls of agents are put on record.
    pub(crate) fn set_registry(&self, registry: RegistryHandle) {
        let _set_once = self.registry.set(registry);
    }

    /// The same, for those who need it.
    pub(crate) fn registry(&self) -> Option<RegistryHandle> {
        self.registry.get().cloned()
    }

    fn set_due(run: &Run, at_ms: u64) {
        run.due_ms.store(at_ms, Ordering::Relaxed);
    }
}
