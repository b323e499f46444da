//! Where the actors find the open journal, and how they follow its durability.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{ActorProcessingErr, ActorRef, Message};
use tokio::sync::{Notify, watch};

use mesh_messages::problem::Problem;
use mesh_messages::{PartitionId, Position};
use mesh_persistence::{ContentStore, Durability, Journal, ProjectionStore};

use crate::partition::{Machine, Partition};

mod awaits;

use awaits::Awaits;
pub use awaits::Follower;

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
    awaits: Awaits,
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
            awaits: Awaits::default(),
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
pub struct StoreCell(Arc<Place>);

#[derive(Debug, Default)]
struct Place {
    store: ArcSwapOption<OpenStore>,
    opened: Notify,
    failed: AtomicBool,
}

/// Whether it came to this because the disk is full, cannot be written, or fails: nothing is wrong with what is stored, as far as
/// one can tell.
pub(crate) fn is_of_the_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    /// What a disk that fails answers. The library has no name for it.
    const EIO: i32 = 5;
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| {
            error.raw_os_error() == Some(EIO)
                || matches!(
                    error.kind(),
                    StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied
                )
        })
}

/// The journal is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal is not open")]
pub struct NotOpen;

impl StoreCell {
    /// Announces an open store.
    pub fn open(&self, store: Arc<OpenStore>) {
        self.0.store.store(Some(store));
        self.0.opened.notify_waiters();
    }
    /// Notes that the disk did not do what it was told.
    pub(crate) fn note_failure(&self) {
        self.0.failed.store(true, Ordering::Relaxed);
    }
    /// Whether it ever did not.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }
    /// Loads a partition, and notes when it is the disk that prevents it.
    ///
    /// # Errors
    /// [`PartitionError`](crate::partition::PartitionError), for whoever starts an actor with it.
    pub(crate) async fn load<M: Machine, E: Send + 'static>(
        &self,
        store: &OpenStore,
        id: PartitionId,
    ) -> Result<Partition<M, E>, ActorProcessingErr> {
        self.load_shown(store, id, 0).await
    }

    /// The same for a state that forgets what ended, when the read side shows the log's first `shown` records.
    ///
    /// # Errors
    /// As [`StoreCell::load`].
    pub(crate) async fn load_shown<M: Machine, E: Send + 'static>(
        &self,
        store: &OpenStore,
        id: PartitionId,
        shown: u64,
    ) -> Result<Partition<M, E>, ActorProcessingErr> {
        let (journal, content) = (Arc::clone(&store.journal), Arc::clone(&store.content));
        let load = move || Partition::load_shown(id, journal, content, shown);
        let loaded = tokio::task::spawn_blocking(load).await?;
        Ok(loaded.inspect_err(|error| {
            if is_of_the_disk(error) {
                self.note_failure();
            }
        })?)
    }

    /// Takes it back, and tells those who have it.
    pub fn close(&self) {
        if let Some(store) = self.0.store.swap(None) {
            store.closing.send_replace(true);
        }
    }
    /// The open store.
    ///
    /// # Errors
    /// [`NotOpen`] while the journal actor is starting.
    pub fn get(&self) -> Result<Arc<OpenStore>, NotOpen> {
        self.0.store.load_full().ok_or(NotOpen)
    }
    /// Waits until there is an open store, at most so long.
    ///
    /// # Errors
    /// [`NotOpen`]: there was none all the time.
    pub async fn opened(&self, limit: Duration) -> Result<(), NotOpen> {
        let opening = async {
            loop {
                // Listens before it looks, so that no opening in between is missed.
                let mut opened = std::pin::pin!(self.0.opened.notified());
                opened.as_mut().enable();
                if self.get().is_ok() {
                    return;
                }
                opened.await;
            }
        };
        tokio::time::timeout(limit, opening)
            .await
            .map_err(|_| NotOpen)
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

/// Tells an actor of the advances of durability that it waits for, see [`Follower::wait_for`], and when the journal fails
/// or is closed.
///
/// Each sync of the journal wakes everybody who [follows](follow) it. There are so many agents that those with nothing on
/// its way must sleep on, and that a task for each of them would be most of what an idle one costs.
pub fn follow_awaited<M: Message>(
    store: &OpenStore,
    actor: ActorRef<M>,
    wrap: impl Fn(JournalNews) -> M + Send + Sync + 'static,
) -> Follower {
    store.awaits.follow(
        &*store.journal,
        store.when_closing(),
        Arc::new(move |news| {
            // One that has ended need not be told.
            let _gone = actor.cast(wrap(news));
        }),
    )
}
