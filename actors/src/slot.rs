//! A stable place where the current incarnation of an actor can be found.
//!
//! ractor's own registry is global to the process and forgets a live local name when a remote actor of the same name
//! dies; it also releases a name before the actor's `post_stop` ran. A slot belongs to one mesh, holds exactly one
//! incarnation, and can be waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::{Semaphore, watch};

use mesh_messages::problem::{Problem, ProblemKind};

/// Calls that may wait for one actor at once. They only wait, so more would hide latency and not add throughput.
const CALLS_MAX: usize = 4096;

/// How long a call waits for the next incarnation of an actor that is being restarted.
const INCARNATION_WAIT: Duration = Duration::from_secs(5);

/// Why a message did not reach its actor, or its answer did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No incarnation runs, nor came within the wait. Try again.
    #[error("{0} is not running")]
    NotRunning(&'static str),
    /// Too many calls wait for it. Try again later.
    #[error("{0} has too many callers")]
    Busy(&'static str),
    /// It did not answer in time; whether it acted is unknown.
    #[error("{0} did not answer in time")]
    TimedOut(&'static str),
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotRunning(_) => {
                Problem::unavailable("component_restarting", error.to_string())
            }
            CallError::Busy(_) => Problem::unavailable("busy", error.to_string()),
            CallError::TimedOut(_) => {
                Problem::new(ProblemKind::Timeout, "timed_out", error.to_string())
            }
        }
    }
}

/// The place of one actor. Cheap to clone.
pub struct Slot<M: Message> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Message> {
    name: &'static str,
    current: watch::Sender<Option<ActorRef<M>>>,
    calls: Semaphore,
    incarnations: AtomicU64,
}

impl<M: Message> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<M: Message> std::fmt::Debug for Slot<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl<M: Message> Slot<M> {
    /// An empty place; `name` is for messages.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                current: watch::Sender::new(None),
                calls: Semaphore::new(CALLS_MAX),
                incarnations: AtomicU64::new(0),
            }),
        }
    }

    /// Announces an incarnation; an actor does this when it is ready to serve.
    pub fn occupy(&self, actor: ActorRef<M>) {
        self.inner.incarnations.fetch_add(1, Ordering::Relaxed);
        self.inner.current.send_replace(Some(actor));
    }

    /// Takes the announcement back, unless a later incarnation has replaced it.
    pub fn vacate(&self, actor: &ActorRef<M>) {
        self.inner.current.send_if_modified(|current| {
            let ours = current
                .as_ref()
                .is_some_and(|c| c.get_id() == actor.get_id());
            if ours {
                *current = None;
            }
            ours
        });
    }

    /// Sees every change of incarnation.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<ActorRef<M>>> {
        self.inner.current.subscribe()
    }

    /// How many incarnations there were after the first.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.inner
            .incarnations
            .load(Ordering::Relaxed)
            .saturating_sub(1)
    }

    /// Whether an incarnation is announced and alive.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.current().is_some()
    }

    /// The current incarnation.
    #[must_use]
    pub fn current(&self) -> Option<ActorRef<M>> {
        self.inner
            .current
            .borrow()
            .clone()
            .filter(|a| a.get_status() <= ractor::ActorStatus::Running)
    }

    /// Sends without waiting for anything.
    ///
    /// # Errors
    /// [`CallError::NotRunning`]: the message is lost; the sender knows what that means for it.
    pub fn cast(&self, message: M) -> Result<(), CallError> {
        self.current()
            .and_then(|actor| actor.cast(message).ok())
            .ok_or(CallError::NotRunning(self.inner.name))
    }

    /// The current incarnation, or the next one if it comes in time.
    ///
    /// # Errors
    /// [`CallError::NotRunning`] when none came.
    pub async fn wait(&self, limit: Duration) -> Result<ActorRef<M>, CallError> {
        let mut watch = self.inner.current.subscribe();
        let alive = |a: &Option<ActorRef<M>>| {
            a.as_ref()
                .is_some_and(|a| a.get_status() <= ractor::ActorStatus::Running)
        };
        match tokio::time::timeout(limit, watch.wait_for(alive)).await {
            Ok(Ok(actor)) => actor.clone().ok_or(CallError::NotRunning(self.inner.name)),
            _ => Err(CallError::NotRunning(self.inner.name)),
        }
    }

    /// Asks, and waits for the answer until `limit`; an actor that is being restarted is waited for.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<R: Send + 'static>(
        &self,
        limit: Duration,
        message: impl FnOnce(RpcReplyPort<R>) -> M,
    ) -> Result<R, CallError> {
        let name = self.inner.name;
        let Ok(_permit) = self.inner.calls.try_acquire() else {
            return Err(CallError::Busy(name));
        };
        let actor = self.wait(limit.min(INCARNATION_WAIT)).await?;
        let (tx, rx) = ractor::concurrency::oneshot();
        actor
            .cast(message(tx.into()))
            .map_err(|_| CallError::NotRunning(name))?;
        match tokio::time::timeout(limit, rx).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::NotRunning(name)),
            Err(_) => Err(CallError::TimedOut(name)),
        }
    }
}
