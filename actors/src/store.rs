//! Where the actors find the open journal, and how they follow its durability.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};
use tokio::sync::watch;

use mesh_messages::Position;
use mesh_messages::problem::Problem;
use mesh_persistence::{ContentStore, Durability, Journal, ProjectionStore};

/// What the journal actor opened. Replaced as a whole when it opens again.
#[derive(Debug)]
pub struct OpenStore {
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// Large payloads and bundles.
    pub content: Arc<ContentStore>,
    /// The read side.
    pub projections: Arc<ProjectionStore>,
    closing: watch::Sender<bool>,
}

impl OpenStore {
    /// What was opened.
    #[must_use]
    pub fn new(
        journal: Arc<dyn Journal>,
        content: Arc<ContentStore>,
        projections: Arc<ProjectionStore>,
    ) -> Self {
        Self {
            journal,
            content,
            projections,
            closing: watch::Sender::new(false),
        }
    }

    /// Whether it was taken back. Whoever still has it lets go: the log is opened again only when nobody has it.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Becomes true when it is taken back. Whoever has this does not hold the store.
    fn when_closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Waits until it is taken back. Everything that may hold a store for longer than a read of the disk takes waits for
    /// this, too.
    pub async fn closing(&self) {
        let mut closing = self.when_closing();
        // The sender is ours, so there is always an answer.
        let _answer = closing.wait_for(|closing| *closing).await.is_ok();
    }
}

/// The place of the open store; empty while the journal actor is starting.
#[derive(Debug, Clone, Default)]
pub struct StoreCell {
    open: Arc<ArcSwapOption<OpenStore>>,
    failed: Arc<AtomicBool>,
}

/// The journal is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal is not open")]
pub struct NotOpen;

impl StoreCell {
    /// Announces an open store.
    pub fn open(&self, store: Arc<OpenStore>) {
        self.open.store(Some(store));
    }
    /// Notes that the disk did not do what it was told.
    pub(crate) fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
    /// Whether it ever did not.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
    /// Takes it back, and tells those who have it.
    pub fn close(&self) {
        if let Some(store) = self.open.swap(None) {
            store.closing.send_replace(true);
        }
    }
    /// The open store.
    ///
    /// # Errors
    /// [`NotOpen`] while the journal actor is starting.
    pub fn get(&self) -> Result<Arc<OpenStore>, NotOpen> {
        self.open.load_full().ok_or(NotOpen)
    }
}

impl From<NotOpen> for Problem {
    fn from(error: NotOpen) -> Self {
        Problem::unavailable("component_restarting", error.to_string())
    }
}

/// What a partition's owner hears of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalNews {
    /// Everything up to here is on the disk.
    Durable(Position),
    /// The journal failed; what is not durable must be forgotten. The owner ends with an error.
    Failed(String),
}

/// Tells an actor of every advance of durability, for as long as both live.
///
/// Advances that happen while the actor is busy are told as one.
pub fn follow<M: Message>(
    journal: &Arc<dyn Journal>,
    actor: ActorRef<M>,
    wrap: impl Fn(JournalNews) -> M + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let mut durable = journal.durable();
    ractor::concurrency::spawn(async move {
        loop {
            let Durability { upto, failed } = durable.borrow_and_update().clone();
            let told = match (failed, upto) {
                (Some(failed), _) => {
                    let _gone = actor.cast(wrap(JournalNews::Failed(failed.reason.to_string())));
                    return;
                }
                (None, Some(position)) => actor.cast(wrap(JournalNews::Durable(position))),
                (None, None) => Ok(()),
            };
            if told.is_err() || durable.changed().await.is_err() {
                return;
            }
        }
    })
}

/// Tells an actor of the advances of durability that it waits for: up to [`awaited`](crate::partition::Partition::awaited).
///
/// Each sync of the journal wakes everybody who [follows](follow) it. There are so many agents that those with nothing on
/// its way must sleep on.
pub fn follow_awaited<M: Message>(
    store: &OpenStore,
    mut awaited: watch::Receiver<Option<Position>>,
    actor: ActorRef<M>,
    wrap: impl Fn(JournalNews) -> M + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let mut durable = store.journal.durable();
    let mut closing = store.when_closing();
    ractor::concurrency::spawn(async move {
        let mut told = None;
        loop {
            let Durability { upto, failed } = durable.borrow_and_update().clone();
            if let Some(failed) = failed {
                let _gone = actor.cast(wrap(JournalNews::Failed(failed.reason.to_string())));
                return;
            }
            if let Some(position) = upto.filter(|_| upto != told)
                && actor.cast(wrap(JournalNews::Durable(position))).is_err()
            {
                return;
            }
            told = upto;
            let more = tokio::select! {
                more = awaited.wait_for(|awaited| *awaited > told) => more.is_ok(),
                closed = closing.wait_for(|closing| *closing) => {
                    drop(closed);
                    let _gone = actor.cast(wrap(JournalNews::Failed("it was closed".to_owned())));
                    return;
                }
            };
            if !more || durable.changed().await.is_err() {
                return;
            }
        }
    })
}
