//! The journal's actor: opens the store, announces it, and ends when it fails, so that everything above it starts anew.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use mesh_messages::identity::SigningKey;
use mesh_persistence::{
    ContentStore, FileJournal, FileJournalOptions, Journal, LogSigner, NodeKeyError, OpenError,
    ProjectionStore, log_keys, node_key, settle,
};

use crate::clock::now;
use crate::context::{Context, NodeIdentity};
use crate::kept::KeptError;
use crate::projector::MeshProjector;
use crate::store::{JournalNews, OpenStore, follow, is_of_the_disk};

/// How long a second opening waits for readers of the first to let go of it.
const REOPEN_WAIT: Duration = Duration::from_secs(5);
const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// Where the journal lies below the data directory.
const JOURNAL_DIR: &str = "journal";
/// Where large content lies.
const CONTENT_DIR: &str = "content";
/// Where the projections lie.
const PROJECTIONS_DIR: &str = "projections";

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log could not be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The log is not what was signed of it.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The node's key could not be found.
    #[error(transparent)]
    Key(NodeKeyError),
    /// The content store could not be opened.
    #[error("failed to open the content store")]
    Content(#[source] std::io::Error),
    /// The projections could not be opened, nor made anew.
    #[error("failed to open the projections")]
    Projections(#[from] mesh_persistence::ProjectionError),
}

impl From<NodeKeyError> for StoreError {
    fn from(error: NodeKeyError) -> Self {
        match error {
            NodeKeyError::Log(error) => Self::Journal(error),
            error => Self::Key(error),
        }
    }
}

/// Opens everything that a node stores. Blocks on the disk.
///
/// # Errors
/// [`StoreError`]; nothing stays open.
pub fn open_store(ctx: &Context) -> Result<OpenStore, StoreError> {
    let (journal, content) = open_log(ctx)?;
    let size = journal.durable().borrow().size();
    let projections = Arc::new(ProjectionStore::open(
        &ctx.settings.data.join(PROJECTIONS_DIR),
        MeshProjector::VERSION,
        journal.log_id(),
        size,
    )?);
    Ok(OpenStore::new(journal, content, projections))
}

/// Everything but the projections, which are made anew when they cannot be used, and may be large.
fn open_log(ctx: &Context) -> Result<(Arc<dyn Journal>, Arc<ContentStore>), StoreError> {
    let data: &Path = &ctx.settings.data;
    let options = FileJournalOptions {
        segment_bytes: ctx.settings.journal_segment_bytes,
    };
    let dir = data.join(JOURNAL_DIR);
    let journal = FileJournal::open(&dir, &options, secret(ctx, &dir)?, Arc::new(now))?;
    let signer = journal.signer();
    if let Err(error) = settle(data, signer.keys().current()) {
        // The secret is found where it is.
        tracing::warn!(%error, "a change of the node's key is not tidied up");
    }
    ctx.node.hold(signer);
    let journal: Arc<dyn Journal> = Arc::new(journal);
    let content =
        Arc::new(ContentStore::open(&data.join(CONTENT_DIR)).map_err(StoreError::Content)?);
    Ok((journal, content))
}

/// Who a node is whose data is here: `key` signs for it unless another one took over, whose secret is there.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn identity(data: &Path, key: SigningKey) -> Result<NodeIdentity, StoreError> {
    let Some(keys) = log_keys(&data.join(JOURNAL_DIR))? else {
        return Ok(NodeIdentity::new(LogSigner::new(key)));
    };
    let secret = if *keys.current() == key.public() {
        key
    } else {
        node_key(data, Some(&keys))?.unwrap_or(key)
    };
    let (expected, found) = (keys.current().to_string(), secret.public().to_string());
    LogSigner::with_keys(keys, secret)
        .map(NodeIdentity::new)
        .ok_or(StoreError::Journal(OpenError::OtherKey { expected, found }))
}

/// The secret of the key that signs for the log, which may have changed since it was last open.
fn secret(ctx: &Context, journal: &Path) -> Result<SigningKey, StoreError> {
    let keys = log_keys(journal)?;
    let held = ctx.node.signer().secret().clone();
    match keys {
        Some(keys) if *keys.current() != held.public() => {
            Ok(node_key(&ctx.settings.data, Some(&keys))?.unwrap_or(held))
        }
        Some(_) | None => Ok(held),
    }
}

/// Holds the log of a node before anything else runs, and so finds out what is wrong with it. Blocks on the disk.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn hold_log(ctx: &Context) -> Result<Arc<dyn Journal>, StoreError> {
    patiently(|| open_log(ctx)).map(|(journal, _)| journal)
}

/// [`open_store`], while readers of an earlier opening by this process may still be letting go of it. Blocks for as long.
///
/// # Errors
/// As [`open_store`].
pub fn open_store_again(ctx: &Context) -> Result<OpenStore, StoreError> {
    patiently(|| open_store(ctx))
}

fn patiently<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(StoreError::Journal(OpenError::InUse { pid, .. }))
                if pid == Some(std::process::id()) && begun.elapsed() < REOPEN_WAIT =>
            {
                std::thread::sleep(REOPEN_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// What the journal's actor is made of.
#[derive(Debug, Clone)]
pub(crate) struct JournalArgs {
    pub(crate) ctx: Arc<Context>,
}

/// What the journal's actor is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum JournalMessage {
    /// News of the journal.
    Journal(JournalNews),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct JournalActor;

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct JournalShell {
    args: JournalArgs,
    follower: JoinHandle<()>,
}

impl Actor for JournalActor {
    type Msg = JournalMessage;
    type State = JournalShell;
    type Arguments = JournalArgs;

    async fn pre_start(
        &self,
        me: ActorRef<JournalMessage>,
        args: JournalArgs,
    ) -> Result<JournalShell, ActorProcessingErr> {
        let ctx = Arc::clone(&args.ctx);
        let opened = tokio::task::spawn_blocking(move || open_store_again(&ctx)).await?;
        let store = opened.inspect_err(|error| {
            if is_of_the_disk(error) {
                args.ctx.store.note_failure();
            }
        })?;
        let follower = follow(&store.journal, me, JournalMessage::Journal);
        args.ctx.store.open(Arc::new(store));
        Ok(JournalShell { args, follower })
    }

    async fn handle(
        &self,
        _me: ActorRef<JournalMessage>,
        message: JournalMessage,
        state: &mut JournalShell,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JournalMessage::Journal(JournalNews::Durable(_)) => Ok(()),
            JournalMessage::Journal(JournalNews::Failed(reason)) => {
                tracing::error!(reason, "the journal failed; it is opened again");
                state.args.ctx.store.note_failure();
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }
}

impl Drop for JournalShell {
    fn drop(&mut self) {
        self.follower.abort();
        self.args.ctx.store.close();
    }
}
