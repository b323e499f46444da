//! The only way to talk to a supervisor.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_supervision_core::supervisor::{
    ChildId, ChildSpec, ChildStatus, Counts, DEFERRED_MAX, End, Flags, Incarnation, Refusal, Reply,
    Request,
};
use ractor::{ActorCell, ActorRef};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, timeout},
};

use crate::{
    shell::Message,
    spec::{Child, StartCode},
};

/// How many requests a supervisor lets wait, over all its handles. ractor's mailboxes have no bound, so the handle
/// admits; and whatever it admits, the machine is able to defer.
pub const REQUESTS_MAX: usize = DEFERRED_MAX;

/// How long a request is waited for: longer than any single start or stop is allowed to take by default.
pub const REQUEST_LIMIT: Duration = Duration::from_mins(10);

/// Talks to a supervisor. Cheap to clone, and of no consequence when dropped.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    pub(crate) actor: ActorRef<Message>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) life: watch::Receiver<Life>,
    limit: Duration,
}

/// How far a supervisor has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Booting,
    Ready,
    Ended {
        end: End,
        /// Whether all its children had been started before.
        was_ready: bool,
    },
}

impl Life {
    /// Whether all children of the spec have been started, be it that it has ended since.
    pub(crate) const fn was_ready(&self) -> bool {
        matches!(
            self,
            Self::Ready
                | Self::Ended {
                    was_ready: true,
                    ..
                }
        )
    }
}

/// How a supervisor ended, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It stopped its children and left.
    InOrder(End),
    /// It was killed or panicked; its children were killed with it.
    Killed,
}

impl Ended {
    /// Whether the owner must take it as a failure.
    pub const fn is_abnormal(&self) -> bool {
        match self {
            Self::InOrder(end) => end.is_abnormal(),
            Self::Killed => true,
        }
    }
}

/// Why a request has no answer, or a refusal for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was refused; the refusal says what to do.
    #[error("the supervisor refused")]
    Refused(#[from] Refusal),
    /// Too many requests wait already. Try again later.
    #[error("{REQUESTS_MAX} requests wait for the supervisor already; try again later")]
    Busy,
    /// The supervisor has ended. Get a handle of its successor, or stop.
    #[error("the supervisor is not running")]
    NotRunning,
    /// No answer came in time. The request may still be carried out; look before trying again.
    #[error("the supervisor did not answer within {limit:?}")]
    TimedOut {
        /// How long was waited.
        limit: Duration,
    },
}

/// One child, as it was when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its spec.
    pub spec: ChildSpec,
    /// What it was doing.
    pub status: ChildStatus,
    /// Its current, or last failed, start.
    pub incarnation: Option<Incarnation>,
    /// Its actor.
    pub actor: Option<ActorCell>,
}

impl SupervisorHandle {
    pub(crate) fn new(actor: ActorRef<Message>, life: watch::Receiver<Life>) -> Self {
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self {
            actor,
            permits,
            life,
            limit: REQUEST_LIMIT,
        }
    }

    /// A handle whose requests are waited for no longer than this.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its actor, for those who link or monitor.
    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Adds a child and starts it; `None` when its start left nothing to supervise. A child whose first start fails
    /// is forgotten.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn add(&self, child: Child) -> Result<Option<Incarnation>, RequestError> {
        let Child { spec, code } = child;
        let codes = BTreeMap::from([(spec.id.clone(), code)]);
        self.request(Request::Add { spec }, codes)
            .await
            .map(started)
    }

    /// Starts a child that is down.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn start_child(
        &self,
        child: impl Into<ChildId>,
    ) -> Result<Option<Incarnation>, RequestError> {
        self.request(
            Request::Start {
                child: child.into(),
            },
            BTreeMap::new(),
        )
        .await
        .map(started)
    }

    /// Stops a child if it runs, and starts it.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn restart_child(
        &self,
        child: impl Into<ChildId>,
    ) -> Result<Option<Incarnation>, RequestError> {
        self.request(
            Request::Restart {
                child: child.into(),
            },
            BTreeMap::new(),
        )
        .await
        .map(started)
    }

    /// Stops a child and leaves it down.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn terminate_child(&self, child: impl Into<ChildId>) -> Result<(), RequestError> {
        self.request(
            Request::Terminate {
                child: child.into(),
            },
            BTreeMap::new(),
        )
        .await
        .map(drop)
    }

    /// Forgets a child that is down.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn delete_child(&self, child: impl Into<ChildId>) -> Result<(), RequestError> {
        self.request(
            Request::Delete {
                child: child.into(),
            },
            BTreeMap::new(),
        )
        .await
        .map(drop)
    }

    /// Uses new flags at once, and new specs and code from each child's next start on. Children that are not known
    /// are listed but not started; those that are not listed stay. The list gives the new order of starts, with those
    /// that are not listed behind it.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn change(&self, flags: Flags, children: Vec<Child>) -> Result<(), RequestError> {
        let specs = children.iter().map(|child| child.spec.clone()).collect();
        let codes = children
            .into_iter()
            .map(|child| (child.spec.id, child.code))
            .collect();
        self.request(Request::Change { flags, specs }, codes)
            .await
            .map(drop)
    }

    /// All children, in the order of their starts. Answered at once, whatever is under way.
    ///
    /// # Errors
    /// [`RequestError::Busy`], [`RequestError::NotRunning`], [`RequestError::TimedOut`].
    pub async fn children(&self) -> Result<Vec<ChildInfo>, RequestError> {
        let permit = self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Children { reply, permit })?;
        self.wait(answer).await
    }

    /// One child, or `None` if there is none of this id.
    ///
    /// # Errors
    /// [`RequestError::Busy`], [`RequestError::NotRunning`], [`RequestError::TimedOut`].
    pub async fn child(
        &self,
        child: impl Into<ChildId>,
    ) -> Result<Option<ChildInfo>, RequestError> {
        let permit = self.admit()?;
        let (reply, answer) = oneshot::channel();
        let child = child.into();
        self.send(Message::Child {
            child,
            reply,
            permit,
        })?;
        self.wait(answer).await
    }

    /// How many children there are.
    ///
    /// # Errors
    /// [`RequestError::Busy`], [`RequestError::NotRunning`], [`RequestError::TimedOut`].
    pub async fn counts(&self) -> Result<Counts, RequestError> {
        let permit = self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Counts { reply, permit })?;
        self.wait(answer).await
    }

    /// Waits until all children of the spec have been started.
    ///
    /// # Errors
    /// How it ended, if it did so before.
    pub async fn ready(&self) -> Result<(), Ended> {
        let mut life = self.life.clone();
        match life
            .wait_for(|life| *life != Life::Booting)
            .await
            .as_deref()
        {
            Ok(Life::Ended { end, .. }) => Err(Ended::InOrder(end.clone())),
            Ok(Life::Booting | Life::Ready) => Ok(()),
            Err(_) => Err(Ended::Killed),
        }
    }

    /// Waits until its boot is over; whether that succeeded, even if it has ended since.
    pub(crate) async fn booted(&self) -> bool {
        let mut life = self.life.clone();
        life.wait_for(|life| *life != Life::Booting)
            .await
            .is_ok_and(|life| life.was_ready())
    }

    /// Waits until it has ended. A root's owner learns here that it must give up.
    pub async fn terminated(&self) -> Ended {
        let mut life = self.life.clone();
        match life
            .wait_for(|life| matches!(life, Life::Ended { .. }))
            .await
            .as_deref()
        {
            Ok(Life::Ended { end, .. }) => Ended::InOrder(end.clone()),
            Ok(Life::Booting | Life::Ready) | Err(_) => Ended::Killed,
        }
    }

    /// Stops all children in order, each as its spec says but none later than after `limit`, and waits for the end.
    /// Idempotent; a second call may only shorten the time.
    pub async fn stop(&self, limit: Duration) -> Ended {
        self.request_stop(Instant::now().checked_add(limit));
        self.terminated().await
    }

    /// Asks it to stop all children by then, and does not wait.
    pub(crate) fn request_stop(&self, deadline: Option<Instant>) {
        // That it has ended already is what was wanted.
        drop(self.actor.send_message(Message::Stop { deadline }));
    }

    async fn request(
        &self,
        request: Request,
        codes: BTreeMap<ChildId, StartCode>,
    ) -> Result<Reply, RequestError> {
        let permit = self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request {
            request,
            codes,
            reply,
            permit,
        })?;
        self.wait(answer).await?.map_err(RequestError::from)
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| RequestError::Busy)
    }

    fn send(&self, message: Message) -> Result<(), RequestError> {
        self.actor
            .send_message(message)
            .map_err(|_| RequestError::NotRunning)
    }

    async fn wait<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, RequestError> {
        match timeout(self.limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(RequestError::NotRunning),
            Err(_) => Err(RequestError::TimedOut { limit: self.limit }),
        }
    }
}

fn started(reply: Reply) -> Option<Incarnation> {
    match reply {
        Reply::Started(incarnation) => Some(incarnation),
        Reply::Ignored | Reply::Terminated | Reply::Deleted | Reply::Changed => None,
    }
}
