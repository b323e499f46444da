//! The sentinel: who comes in, as whom, how often, and what is remembered of refusals ("kSentinel").
//!
//! Tokens are durable facts of the partition `sentinel`. What a request needs, identity and rate, is decided at the
//! `Door`, in the caller's own task; the actor is asked only to issue, to revoke and to write the audit.

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use mesh_actors_core::sentinel::{SentinelState, Witnessed};
use mesh_messages::chaos::ChaosBlow;
use mesh_messages::events::{SentinelEvent, partition};
use mesh_messages::identity::DidKey;
use mesh_messages::problem::Problem;
use mesh_messages::system::{IssuedToken, KeyInfo, TokenInfo, TokenOrder};
use mesh_messages::{AgentId, Epoch, Position, RecordHeader};

use crate::partition::{Cause, Machine, Partition};
use crate::store::{JournalNews, StoreCell, follow};

mod accesses;
mod admin;
mod certificates;
mod door;
mod handle;
mod judge;
mod keys;
mod matrix;
mod refusals;
mod state;
mod token;

pub use admin::{AdminTokenError, TOKEN_FILE};
pub use governor::Quota;
pub use handle::SentinelHandle;
pub use judge::Facts;
pub use matrix::{OwnersAct, owner_permits, permits};
pub(crate) use token::{TOKEN_LEN, is_token};

use state::{answer, not_found};

/// What the sentinel goes by.
#[derive(Debug, Clone, Copy)]
pub struct SentinelSettings {
    /// Requests of one caller.
    pub requests: Quota,
    /// Whether allowed actions that change something are audited, too.
    pub audit_all_actions: bool,
}

/// What the sentinel is started with.
#[derive(Debug, Clone)]
pub struct SentinelArgs {
    /// Its place.
    pub handle: SentinelHandle,
    /// Where the journal is found.
    pub store: StoreCell,
}

type Reply<T> = RpcReplyPort<Result<T, Problem>>;

/// What the sentinel is sent.
#[derive(Debug, ractor_cluster::RactorMessage)]
pub(crate) enum Message {
    /// Issue a token.
    Issue {
        by: Cause,
        order: TokenOrder,
        reply: Reply<IssuedToken>,
    },
    /// Make a token void. Idempotent.
    Revoke {
        by: Cause,
        id: String,
        reply: Reply<()>,
    },
    /// Make void a token that an incarnation was given with its handshake.
    RevokeSession {
        by: Cause,
        id: String,
        agent: AgentId,
        epoch: Epoch,
        reply: Reply<()>,
    },
    /// Make void all tokens of an agent. Idempotent.
    RevokeAgent {
        by: Cause,
        agent: AgentId,
        reply: Reply<()>,
    },
    /// Show the tokens.
    List { reply: RpcReplyPort<Vec<TokenInfo>> },
    /// Write to the audit; answered when the record has its place.
    Audit {
        event: SentinelEvent,
        /// The record that allowed the request, and its id.
        request: (Option<Position>, Option<String>),
        reply: Option<Reply<Option<Position>>>,
    },
    /// Write a blow to the audit; answered when it is durable.
    RecordBlow {
        user: String,
        blow: Box<ChaosBlow>,
        reply: Reply<()>,
    },
    /// Put on record what was refused, or looked at, and only counted.
    CountRefusals,
    /// Something about keys.
    Key(Box<keys::KeyMessage>),
    /// The journal advanced or failed.
    Journal(JournalNews),
}

/// Done when what led to it is durable.
#[derive(Debug)]
enum Effect {
    Issued {
        token: IssuedToken,
        reply: Reply<IssuedToken>,
    },
    Done {
        reply: Reply<()>,
    },
    Listed {
        tokens: Vec<TokenInfo>,
        reply: RpcReplyPort<Vec<TokenInfo>>,
    },
    KeyChanged {
        key: Box<DidKey>,
        reply: Reply<KeyInfo>,
    },
    KeysListed {
        keys: Vec<KeyInfo>,
        reply: RpcReplyPort<Vec<KeyInfo>>,
    },
    WitnessedShown {
        witnessed: Option<Witnessed>,
        reply: RpcReplyPort<Option<Witnessed>>,
    },
    SuccessionShown {
        known: Result<bool, Problem>,
        reply: Reply<bool>,
    },
    /// Another key signs for another log.
    Succeeded {
        reply: Reply<()>,
    },
    /// Another key signs for this node's log.
    Rotated {
        ended: u64,
        reply: Reply<u64>,
    },
}

impl Machine for SentinelState {
    type Event = SentinelEvent;

    fn kind(event: &SentinelEvent) -> &'static str {
        event.kind()
    }

    fn apply(&mut self, header: &RecordHeader, event: &SentinelEvent) {
        Self::apply(self, header, event);
    }
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Sentinel;

/// What the actor holds.
#[derive(Debug)]
pub(crate) struct State {
    partition: Partition<SentinelState, Effect>,
    durable: Option<Position>,
    handle: SentinelHandle,
}

impl Actor for Sentinel {
    type Msg = Message;
    type State = State;
    type Arguments = SentinelArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: SentinelArgs,
    ) -> Result<State, ActorProcessingErr> {
        let store = args.store.get()?;
        let _follower = follow(&store.journal, myself, Message::Journal);
        let partition: Partition<SentinelState, Effect> =
            args.store.load(&store, partition::SENTINEL).await?;
        args.handle.door.load(partition.state());
        Ok(State {
            partition,
            durable: None,
            handle: args.handle,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // It ends with this incarnation.
        drop(myself.send_interval(refusals::COUNTED_EVERY, || Message::CountRefusals));
        state.handle.slot.occupy(myself);
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle.slot.vacate(&myself);
        if let Err(error) = state.tell_accesses(true).await {
            tracing::debug!(%error, "what was looked at has no record");
        }
        if let Err(error) = state.tell_counted(true).await {
            tracing::debug!(%error, "what was only counted has no record");
        }
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
            Message::Issue { by, order, reply } => state.issue(&by, order, reply).await?,
            Message::Revoke { by, id, reply } => match state.partition.state().revoke(&id) {
                Ok(event) => {
                    state
                        .revoke(&by, event.into_iter().collect(), reply)
                        .await?;
                }
                Err(unknown) => answer(reply, Err(not_found(&unknown))),
            },
            Message::RevokeSession {
                by,
                id,
                agent,
                epoch,
                reply,
            } => {
                let event = SentinelEvent::SessionRevoked { id, agent, epoch };
                state.revoke(&by, vec![event], reply).await?;
            }
            Message::RevokeAgent { by, agent, reply } => {
                let events = state.partition.state().revoke_agent(&agent);
                state.revoke(&by, events, reply).await?;
            }
            Message::List { reply } => {
                let tokens = state.partition.state().list();
                state
                    .commit(
                        Vec::new(),
                        &Cause::meshd(),
                        vec![Effect::Listed { tokens, reply }],
                    )
                    .await?;
            }
            Message::Audit {
                event,
                request,
                reply,
            } => state.audit(event, request, reply).await?,
            Message::CountRefusals => {
                state.tell_counted(false).await?;
                state.tell_accesses(false).await?;
            }
            Message::RecordBlow { user, blow, reply } => {
                state.record_blow(user, blow, reply).await?;
            }
            Message::Key(message) => state.key(*message).await?,
            Message::Journal(JournalNews::Durable(position)) => state.durable = Some(position),
            Message::Journal(JournalNews::Failed(reason)) => return Err(reason.into()),
        }
        state.release();
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
