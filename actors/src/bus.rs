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
//! away is held within stated bounds. What a durable subscription has is handed out until it is acknowledged (`durable.rs`).

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::AbortHandle;

use mesh_actors_core::bus::{BusState, Mail};
use mesh_messages::address::TopicPattern;
use mesh_messages::bus::{
    AckOutcome, DeadSettlement, Handed, Pulled, SubscriptionOrder, SubscriptionView,
};
use mesh_messages::events::{BusEvent, partition};
use mesh_messages::klp::Envelope;
use mesh_messages::problem::Problem;
use mesh_messages::{AgentId, Epoch, Position, RecordHeader, Timestamp};

use crate::partition::{Cause, Machine, Partition};
use crate::store::{JournalNews, StoreCell, follow};

mod answer;
mod check;
mod durable;
mod feed;
mod handle;
mod order;
mod outside;
mod past;
mod route;
mod state;
mod subscriptions;

pub(crate) use check::{UNSIGNED, agent_as_caller, agent_of_caller};
pub(crate) use feed::Created;
pub use handle::{BusHandle, NodeSigner};
pub use outside::{
    Alarms, Delivery, Directory, Keys, NoRoute, Outside, Speaker, TaskAnswer, TaskGateway,
    TaskOrder, Waiter,
};

use durable::{Look, Puller, Settling};
use past::Past;
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
        answer: Option<Waiter>,
        reply: Reply<Posted>,
    },
    /// Journal what needs no delivery.
    Record {
        events: Vec<BusEvent>,
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
    /// Note that somebody wants a topic durably. Idempotent; answers whether it was so before.
    Make {
        owner: String,
        order: Box<SubscriptionOrder>,
        /// The incarnation that asks on its own channel, where what there is is brought to it; else it is pulled.
        epoch: Option<Epoch>,
        by: Cause,
        reply: Reply<(SubscriptionView, bool)>,
    },
    /// Remove a durable subscription.
    Remove {
        subscription: String,
        by: Cause,
        reply: Reply<()>,
    },
    /// Hand out what a durable subscription has, when it has something.
    Pull(Puller),
    /// Tell of what happened to the mesh itself. Harmless when nobody wants to know.
    Announce {
        topic: TopicPattern,
        id: String,
        data: serde_json::Value,
    },
    /// Tell of tasks that were accepted; answered when all of it is durable.
    Feed {
        created: Vec<Created>,
        reply: Reply<()>,
    },
    /// Settle what it handed out.
    Settle {
        settling: Box<Settling>,
        by: Cause,
        reply: Reply<AckOutcome>,
    },
    /// Put a dead letter back, or give it up.
    SettleDead {
        id: Position,
        how: DeadSettlement,
        by: Cause,
        reply: Reply<()>,
    },
    /// Answer what there is.
    Look(Look),
    /// An incarnation of an agent ended. Harmless when it is not so.
    Down { agent: AgentId },
    /// Publications of the past were read up.
    Past(Past),
    /// The past of a subscription could not be read a while ago.
    Reread {
        subscription: String,
        made: Position,
    },
    /// Give up the dead letters of publications that are to be erased.
    ForgetDead {
        records: BTreeSet<Position>,
        reply: Reply<()>,
    },
    /// All agents are known: what those left that are gone is removed.
    Complete,
    /// Something may be due: the timer is over.
    Tick,
    /// What did not fit into one step goes on.
    More,
    /// The journal advanced or failed.
    Journal(JournalNews),
}

/// A message for a topic.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) topic: TopicPattern,
    pub(crate) publisher: Option<AgentId>,
    /// Whether its id is the sender's own choice; else it is its content's.
    pub(crate) named: bool,
    /// Whether it is of meshd itself, and no subscription refuses it.
    pub(crate) own: bool,
    pub(crate) envelope: Envelope,
}

/// Done when what led to it is durable.
#[derive(Debug)]
enum Effect {
    Deliver {
        mail: Box<Mail>,
        /// What led to it, in case it has to wait after all.
        by: Cause,
        answer: Option<Waiter>,
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
        topic: TopicPattern,
        envelope: Box<Envelope>,
        to: Vec<AgentId>,
        /// Durable subscriptions that have it.
        durable: usize,
        reply: Option<Reply<usize>>,
    },
    Made {
        subscription: String,
        known: bool,
        reply: Reply<(SubscriptionView, bool)>,
    },
    Settled {
        outcome: AckOutcome,
        reply: Reply<AckOutcome>,
    },
    Pulled {
        subscription: String,
        messages: Vec<Handed>,
        reply: Reply<Pulled>,
    },
    Brought {
        subscription: String,
        agent: AgentId,
        epoch: Epoch,
        messages: Vec<Handed>,
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
    store: StoreCell,
    /// Who waits for messages.
    pullers: Vec<Puller>,
    /// Subscriptions whose past is being read, and by which record they were made.
    reading: BTreeSet<(String, Position)>,
    /// When the next [`Message::Tick`] comes, and the only timer that sends it.
    armed: Option<(Timestamp, AbortHandle)>,
    /// Whose turn it is among replicas.
    turn: usize,
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
            store: args.store,
            pullers: Vec::new(),
            reading: BTreeSet::new(),
            armed: None,
            turn: 0,
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
        myself.cast(Message::Tick)?;
        state.handle.slot.occupy(myself.clone());
        // Agents may have gone while there was nobody to hear of it.
        if state.handle.complete.load(Ordering::Acquire) {
            myself.cast(Message::Complete)?;
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle.slot.vacate(&myself);
        state.disarm();
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
            Message::Record { events, by, reply } => match state.writable() {
                Ok(()) => {
                    state
                        .commit(events, &by, vec![Effect::Done { reply }])
                        .await?;
                }
                Err(problem) => answer_to(reply, Err(problem)),
            },
            Message::Publish {
                publication,
                by,
                reply,
            } => {
                state.publish(*publication, &by, Some(reply)).await?;
            }
            Message::Subscribe {
                agent,
                by,
                pattern,
                reply,
            } => {
                state.subscribe((&agent, &by), &pattern, reply).await?;
            }
            other => state.of_agents_and_queues(other).await?,
        }
        state.release().await?;
        state.work_queues().await?;
        state.release().await
    }
}

impl State {
    async fn of_agents_and_queues(&mut self, message: Message) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Back { agent } => {
                if !self.drop_barred(&agent).await? {
                    return Ok(()); // All of it is tried again.
                }
                self.take_back(&agent).await?;
                self.back(&agent).await
            }
            Message::Down { agent } => self.take_back(&agent).await,
            Message::GiveUp { agent } => self.give_up(&agent).await,
            Message::ForgetDead { records, reply } => self.forget_dead(&records, reply).await,
            Message::Complete => {
                for agent in self.gone() {
                    self.give_up(&agent).await?;
                }
                Ok(())
            }
            Message::Make {
                owner,
                order,
                epoch,
                by,
                reply,
            } => self.make((&owner, &by), &order, epoch, reply).await,
            Message::Remove {
                subscription,
                by,
                reply,
            } => self.remove((subscription, &by), reply).await,
            Message::Pull(puller) => {
                self.pull(puller);
                Ok(())
            }
            Message::Settle {
                settling,
                by,
                reply,
            } => self.settle(*settling, &by, reply).await,
            Message::SettleDead { id, how, by, reply } => {
                self.settle_dead((id, how), &by, reply).await
            }
            Message::Look(look) => {
                self.look(look);
                Ok(())
            }
            Message::Announce { topic, id, data } => self.announce((topic, id), data, None).await,
            Message::Feed { created, reply } => self.feed(created, reply).await,
            Message::Past(past) => self.filled(past).await,
            Message::Reread { subscription, made } => {
                self.reading.remove(&(subscription, made));
                Ok(())
            }
            Message::Tick => {
                self.disarm();
                Ok(())
            }
            Message::Journal(JournalNews::Durable(position)) => {
                self.durable = Some(position);
                Ok(())
            }
            Message::Journal(JournalNews::Failed(reason)) => Err(reason.into()),
            // These are handled before.
            Message::Post { .. }
            | Message::Record { .. }
            | Message::Publish { .. }
            | Message::Subscribe { .. }
            // What goes on does so after each message.
            | Message::More => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
