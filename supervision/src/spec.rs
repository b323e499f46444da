//! What a supervisor supervises, and how that is started.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use mesh_supervision_core::supervisor::{
    ChildId, ChildSpec, Flags, Incarnation, Restart, Shutdown,
};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, concurrency::JoinHandle};

use crate::{
    handle::SupervisorHandle,
    observer::{Log, Observer},
    shell::Supervisor,
};

/// How long a start may take unless the child says otherwise. Long enough for a cold disk, short enough to be noticed.
pub const START_LIMIT: Duration = Duration::from_mins(1);

/// A supervisor to be: its flags, its children, its observer.
#[derive(Clone)]
pub struct SupervisorSpec {
    pub(crate) flags: Flags,
    pub(crate) children: Vec<Child>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl SupervisorSpec {
    /// Without children so far, and logging.
    pub fn new(flags: Flags) -> Self {
        Self {
            flags,
            children: Vec::new(),
            observer: Arc::new(Log),
        }
    }

    /// With one more child, started after those before it.
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// With another observer.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }
}

impl fmt::Debug for SupervisorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorSpec")
            .field("flags", &self.flags)
            .field("children", &self.children)
            .finish_non_exhaustive()
    }
}

type StartFuture = Pin<Box<dyn Future<Output = Result<Started, ActorProcessingErr>> + Send>>;

/// How to start a child.
#[derive(Clone)]
pub(crate) struct StartCode {
    pub(crate) start: Arc<dyn Fn(StartContext) -> StartFuture + Send + Sync>,
    pub(crate) limit: Duration,
}

/// One child: its spec, and the code that starts it.
#[derive(Clone)]
pub struct Child {
    pub(crate) spec: ChildSpec,
    pub(crate) code: StartCode,
}

impl Child {
    /// A child that is started by `start`, each time anew.
    ///
    /// `start` is dropped when the start takes too long or is given up, and must then leave nothing behind; a plain
    /// `Actor::spawn_linked(…, context.supervisor)` leaves nothing.
    pub fn new<F, S>(spec: ChildSpec, start: S) -> Self
    where
        S: Fn(StartContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Started, ActorProcessingErr>> + Send + 'static,
    {
        let start = Arc::new(move |context| -> StartFuture { Box::pin(start(context)) });
        Self {
            spec,
            code: StartCode {
                start,
                limit: START_LIMIT,
            },
        }
    }

    /// A permanent worker; see [`Child::new`].
    pub fn worker<F, S>(id: impl Into<ChildId>, start: S) -> Self
    where
        S: Fn(StartContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Started, ActorProcessingErr>> + Send + 'static,
    {
        Self::new(ChildSpec::worker(id), start)
    }

    /// A permanent supervisor, registered under its id. It counts as started when its own children are.
    pub fn supervisor<S>(id: impl Into<ChildId>, spec: S) -> Self
    where
        S: Fn() -> SupervisorSpec + Send + Sync + 'static,
    {
        Self::new(ChildSpec::supervisor(id), move |context| {
            let spec = spec();
            async move {
                let name = Some(context.child.to_string());
                let (handle, join) =
                    Supervisor::spawn_linked(name, spec, context.supervisor).await?;
                Ok(Started::supervisor(handle, join))
            }
        })
    }

    /// With another restart type.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.spec.restart = restart;
        self
    }

    /// With another way to be stopped.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.spec.shutdown = shutdown;
        self
    }

    /// As a significant child.
    pub fn significant(mut self) -> Self {
        self.spec.significant = true;
        self
    }

    /// With another limit on its start than [`START_LIMIT`].
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.code.limit = limit;
        self
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// What a start is told.
#[derive(Debug, Clone)]
pub struct StartContext {
    /// Link the child to this.
    pub supervisor: ActorCell,
    /// Which child.
    pub child: ChildId,
    /// Which start of it.
    pub incarnation: Incarnation,
}

/// What a start gave.
#[derive(Debug)]
pub struct Started(pub(crate) StartedKind);

#[derive(Debug)]
pub(crate) enum StartedKind {
    Ignored,
    Actor {
        cell: ActorCell,
        join: JoinHandle<()>,
        supervisor: Option<SupervisorHandle>,
    },
}

impl Started {
    /// There is nothing to supervise, and that is fine.
    pub const fn ignored() -> Self {
        Self(StartedKind::Ignored)
    }

    /// An actor.
    pub const fn actor(cell: ActorCell, join: JoinHandle<()>) -> Self {
        Self(StartedKind::Actor {
            cell,
            join,
            supervisor: None,
        })
    }

    /// A supervisor of this crate: waited for until its children run, and stopped in order.
    pub fn supervisor(handle: SupervisorHandle, join: JoinHandle<()>) -> Self {
        let cell = handle.cell();
        Self(StartedKind::Actor {
            cell,
            join,
            supervisor: Some(handle),
        })
    }
}

impl<M> From<(ActorRef<M>, JoinHandle<()>)> for Started {
    fn from((actor, join): (ActorRef<M>, JoinHandle<()>)) -> Self {
        Self::actor(actor.get_cell(), join)
    }
}

/// `otp_013_a_child_without_the_code_that_starts_it` cannot be written:
///
/// ```compile_fail
/// use mesh_supervision::{Child, ChildSpec};
/// let child = Child::new(ChildSpec::worker("a"));
/// ```
/// ```
/// use mesh_supervision::{Child, ChildSpec, Started};
/// let child = Child::new(ChildSpec::worker("a"), |_| async { Ok(Started::ignored()) });
/// ```
#[cfg(doctest)]
struct RefusedByTheCompiler;
