//! The bus: who gets which message.
//!
//! ```text
//!  POST /v1/messages ─► send ──┐ read, vouch, refuse replays        ┌─► TaskGateway   (TASK_REQUEST)
//!                              ├──────────────────────────► route ──┼─► Directory     (CAPABILITY_QUERY)
//!  an agent's line ─► from_agent                                    └─► the actor: journal, then Delivery
//! ```
//!
//! What is read and vouched for is decided in the caller's own task; the actor owns what is durable: mail, topics, dead
//! letters. A message is journalled before it is handed over, and handed over at most once; mail of an agent that is
//! away is held within stated bounds.

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use mesh_actors_core::bus::{BusState, Mail};
use mesh_messages::address::TopicPattern;
use mesh_messages::events::{BusEvent, partition};
use mesh_messages::klp::Envelope;
use mesh_messages::problem::Problem;
use mesh_messages::{AgentId, Position, RecordHeader};

use crate::partition::{Cause, Machine, Partition};
use crate::store::{JournalNews, StoreCell, follow};

mod answer;
mod check;
mod handle;
mod order;
mod outside;
mod route;
mod state;

pub(crate) use check::agent_as_caller;
pub use handle::{BusHandle, NodeSigner};
pub use outside::{
    Alarms, Delivery, Directory, Keys, NoRoute, Outside, TaskAnswer, TaskGateway, TaskOrder,
};

pub(crate) use state::agent_of;
use state::answer_to;

/// What the bus is started with.
#[derive(Debug, Clone)]
pub struct BusArgs {
    /// Its place.
    pub handle: BusHandle,
    /// Where the journal is found.
    pub store: StoreCell,
}

type Reply<T> = RpcReplyPort<Result<T, Problem>>;

/// What became of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// An instance has it.
    Delivered,
    /// It waits until the agent is back.
    Held,
}

/// What the bus actor is sent.
#[derive(Debug, ractor_cluster::RactorMessage)]
pub(crate) enum Message {
    /// Bring a message to an agent; `answer` gets what the agent answers.
    Post {
        mail: Box<Mail>,
        by: Cause,
        answer: Option<oneshot::Sender<Envelope>>,
        reply: Reply<Posted>,
    },
    /// Journal what needs no delivery.
    Record {
        event: BusEvent,
        by: Cause,
        reply: Reply<()>,
    },
    /// Bring a message to all who want its topic; answers how many that are.
    Publish {
        publication: Box<Publication>,
        by: Cause,
        reply: Reply<usize>,
    },
    /// Note that an agent wants a topic. Idempotent.
    Subscribe {
        agent: AgentId,
        by: Cause,
        pattern: TopicPattern,
        reply: Reply<()>,
    },
    /// An agent may take mail now. Harmless when it is not so.
    Back { agent: AgentId },
    /// An agent will never take mail again. Harmless when there is none.
    GiveUp { agent: AgentId },
    /// The journal advanced or failed.
    Journal(JournalNews),
}

/// A message for a topic.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) topic: TopicPattern,
    pub(crate) publisher: Option<AgentId>,
    pub(crate) envelope: Envelope,
}

/// Done when what led to it is durable.
#[derive(Debug)]
enum Effect {
    Deliver {
        mail: Box<Mail>,
        /// What led to it, in case it has to wait after all.
        by: Cause,
        answer: Option<oneshot::Sender<Envelope>>,
        reply: Option<Reply<Posted>>,
    },
    Held {
        reply: Option<Reply<Posted>>,
    },
    Refused {
        problem: Problem,
        reply: Reply<Posted>,
    },
    Published {
        envelope: Box<Envelope>,
        to: Vec<AgentId>,
        reply: Reply<usize>,
    },
    Done {
        reply: Reply<()>,
    },
}

impl Machine for BusState {
    type Event = BusEvent;

    fn kind(event: &BusEvent) -> &'static str {
        event.kind()
    }

    fn apply(&mut self, header: &RecordHeader, event: &BusEvent) {
        Self::apply(self, header, event);
    }
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Bus;

/// What the actor holds.
#[derive(Debug)]
pub(crate) struct State {
    partition: Partition<BusState, Effect>,
    durable: Option<Position>,
    handle: BusHandle,
    myself: ActorRef<Message>,
}

impl Actor for Bus {
    type Msg = Message;
    type State = State;
    type Arguments = BusArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: BusArgs,
    ) -> Result<State, ActorProcessingErr> {
        let store = args.store.get()?;
        let _follower = follow(&store.journal, myself.clone(), Message::Journal);
        let partition: Partition<BusState, Effect> =
            args.store.load(&store, partition::BUS).await?;
        args.handle.remember(partition.state().recent());
        Ok(State {
            partition,
            durable: None,
            handle: args.handle,
            myself,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        for agent in state.partition.state().holding() {
            myself.cast(Message::Back {
                agent: agent.clone(),
            })?;
        }
        state.handle.slot.occupy(myself);
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle.slot.vacate(&myself);
        state.partition.snapshot_at_end();
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Post {
                mail,
                by,
                answer,
                reply,
            } => state.post(mail, &by, answer, reply).await?,
            Message::Record { event, by, reply } => match state.writable() {
                Ok(()) => {
                    state
                        .commit(vec![event], &by, vec![Effect::Done { reply }])
                        .await?;
                }
                Err(problem) => answer_to(reply, Err(problem)),
            },
            Message::Publish {
                publication,
                by,
                reply,
            } => {
                state.publish(*publication, &by, reply).await?;
            }
            Message::Subscribe {
                agent,
                by,
                pattern,
                reply,
            } => {
                state.subscribe((&agent, &by), &pattern, reply).await?;
            }
            Message::Back { agent } => state.back(&agent).await?,
            Message::GiveUp { agent } => {
                let events = state.partition.state().give_up(&agent);
                state.commit_held(events, Vec::new()).await?;
            }
            Message::Journal(JournalNews::Durable(position)) => state.durable = Some(position),
            Message::Journal(JournalNews::Failed(reason)) => return Err(reason.into()),
        }
        state.release().await
    }
}

#[cfg(test)]
mod tests;
