//! Follows the journal: keeps the projections up with it, and tells the live feed what became durable.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use serde_json::Value;
use tokio::task::JoinHandle;

use mesh_actors_core::projection::ProjectFailure;
use mesh_messages::events::partition;
use mesh_messages::system::MeshEvent;
use mesh_messages::{Position, Record};
use mesh_persistence::{
    ContentStore, Journal, Pass, ProjectError, ProjectionError, Projector, View, follow,
};

use crate::context::Context;
use crate::partition::payload_of;
use crate::store::OpenStore;

/// Records that one step of the feed reads at once.
const FEED_BATCH: usize = 512;

/// The mesh's projector: resolves payloads that lie in the content store, then leaves it to the core.
#[derive(Debug)]
pub(crate) struct MeshProjector {
    content: Arc<ContentStore>,
}

impl MeshProjector {
    /// Raised whenever the core's projections change; a store of another version is rebuilt.
    pub(crate) const VERSION: u32 = mesh_actors_core::projection::PROJECTION_VERSION;

    pub(crate) fn new(content: Arc<ContentStore>) -> Self {
        Self { content }
    }
}

/// The core's view on top of the store's.
struct CoreView<'a> {
    view: &'a mut dyn View,
}

impl mesh_actors_core::projection::View for CoreView<'_> {
    type Error = ProjectionError;
    fn get(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError> {
        self.view.get(tree, key)
    }
    fn put(&mut self, tree: &'static str, key: &[u8], value: Vec<u8>) {
        self.view.put(tree, key, value);
    }
    fn delete(&mut self, tree: &'static str, key: &[u8]) {
        self.view.delete(tree, key);
    }
    fn append(
        &mut self,
        tree: &'static str,
        key: &[u8],
        more: &[u8],
    ) -> Result<(), ProjectionError> {
        self.view.append(tree, key, more)
    }
}

impl Projector for MeshProjector {
    fn version(&self) -> u32 {
        Self::VERSION
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        Box::new(MeshPass {
            content: &self.content,
            core: mesh_actors_core::projection::Pass::default(),
            last: Position::default(),
        })
    }
}

struct MeshPass<'a> {
    content: &'a ContentStore,
    core: mesh_actors_core::projection::Pass,
    last: Position,
}

impl Pass for MeshPass<'_> {
    fn project(&mut self, record: &Record, view: &mut dyn View) -> Result<usize, ProjectError> {
        let position = record.header.position;
        self.last = position;
        let payload = payload_of(record, self.content).map_err(|e| ProjectError::Record {
            position,
            detail: e.to_string(),
        })?;
        let view = &mut CoreView { view };
        let done = self.core.project(&record.header, payload.as_deref(), view);
        done.map_err(|failure| failed(failure, position))?;
        Ok(payload.map_or(0, |payload| payload.len()))
    }

    fn finish(mut self: Box<Self>, view: &mut dyn View) -> Result<(), ProjectError> {
        let done = self.core.finish(&mut CoreView { view });
        done.map_err(|failure| failed(failure, self.last))
    }
}

fn failed(failure: ProjectFailure<ProjectionError>, position: Position) -> ProjectError {
    match failure {
        ProjectFailure::View(error) => ProjectError::View(error),
        ProjectFailure::Unreadable(detail) => ProjectError::Record { position, detail },
    }
}

/// A record as the live feed shows it.
pub(crate) fn event_of(record: &Record, content: &ContentStore) -> MeshEvent {
    let header = &record.header;
    let of_agent = header
        .partition
        .as_str()
        .starts_with(partition::AGENT_PREFIX);
    // What an agent says or keeps is its own doing, whatever it is about.
    let of_agent = of_agent || [partition::BUS, partition::MEMORY].contains(&header.partition);
    let topic = match (&header.agent, &header.task) {
        (Some(agent), task) if of_agent || task.is_none() => {
            format!("agent.{agent}.{}", header.kind)
        }
        _ => header.kind.to_string(),
    };
    let payload = payload_of(record, content)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|event| match event {
            // The event's tag is the kind, which the topic says.
            Value::Object(map) => map.into_iter().next().map(|(_, content)| content),
            other => Some(other),
        });
    MeshEvent {
        id: Some(header.position),
        topic,
        time: header.time,
        data: serde_json::json!({
            "kind": header.kind, "agent": header.agent, "task": header.task, "actor": header.actor,
            "payload": payload,
        }),
    }
}

/// What the projector is made of.
#[derive(Debug, Clone)]
pub(crate) struct ProjectorArgs {
    pub(crate) ctx: Arc<Context>,
}

/// What the projector is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum ProjectorMessage {
    /// One of its two tasks has ended.
    Ended(String),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct ProjectorActor;

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct ProjectorShell {
    tasks: [JoinHandle<()>; 2],
}

impl Actor for ProjectorActor {
    type Msg = ProjectorMessage;
    type State = ProjectorShell;
    type Arguments = ProjectorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ProjectorMessage>,
        args: ProjectorArgs,
    ) -> Result<ProjectorShell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let projector = Arc::new(MeshProjector::new(Arc::clone(&store.content)));
        let (projections, journal) = (Arc::clone(&store.projections), Arc::clone(&store.journal));
        let told = me.clone();
        let following = ractor::concurrency::spawn(async move {
            let end = follow(projections, journal, projector).await;
            let why = end.map_or_else(|e| e.to_string(), |()| "the journal was closed".to_owned());
            let _gone = told.cast(ProjectorMessage::Ended(why));
        });
        let ctx = Arc::clone(&args.ctx);
        let feeding = ractor::concurrency::spawn(async move {
            let why = feed(&ctx, &store).await;
            let _gone = me.cast(ProjectorMessage::Ended(why));
        });
        Ok(ProjectorShell {
            tasks: [following, feeding],
        })
    }

    async fn handle(
        &self,
        _me: ActorRef<ProjectorMessage>,
        ProjectorMessage::Ended(why): ProjectorMessage,
        _state: &mut ProjectorShell,
    ) -> Result<(), ActorProcessingErr> {
        Err(why.into())
    }
}

impl Drop for ProjectorShell {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Tells the live feed of every record that becomes durable from now on, in order.
async fn feed(ctx: &Arc<Context>, store: &Arc<OpenStore>) -> String {
    let mut durable = store.journal.durable();
    let mut next = durable.borrow_and_update().size();
    loop {
        let size = durable.borrow_and_update().size();
        while next < size {
            if ctx.events.receiver_count() == 0 {
                // Nobody listens; whoever comes later resumes from the journal.
                next = size;
                break;
            }
            let (journal, content) = (Arc::clone(&store.journal), Arc::clone(&store.content));
            let read = tokio::task::spawn_blocking(move || read_events(&*journal, &content, next));
            match read.await {
                Ok(Ok(events)) if events.is_empty() => break,
                Ok(Ok(events)) => {
                    next += events.len() as u64;
                    for event in events {
                        let _nobody_listens = ctx.events.send(Arc::new(event));
                    }
                }
                Ok(Err(why)) => return why,
                Err(error) => return error.to_string(),
            }
        }
        if durable.borrow().failed.is_some() || durable.changed().await.is_err() {
            return "the journal failed or was closed".to_owned();
        }
    }
}

fn read_events(
    journal: &dyn Journal,
    content: &ContentStore,
    from: u64,
) -> Result<Vec<MeshEvent>, String> {
    let records = journal.read(Position(from)).map_err(|e| e.to_string())?;
    records
        .take(FEED_BATCH)
        .map(|record| {
            record
                .map(|r| event_of(&r, content))
                .map_err(|e| e.to_string())
        })
        .collect()
}
