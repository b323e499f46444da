//! What agents remember: the actor over the memory contexts.
//!
//! Persistent entries are facts of the partition `memory`; volatile ones lie in the handle's shared state, so that a
//! restart of the actor costs no agent its working memory. Every answer waits until what it tells of is durable.
//! Erasing an agent's memory for good ([`MemoryHandle::purge`]) also erases its values from the journal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};
use serde_json::Value;

use mesh_actors_core::memory::{MemoryState, Range, Volatile};
use mesh_messages::agent::Page;
use mesh_messages::events::{MemoryEvent, partition};
use mesh_messages::manifest::MemoryConfig;
use mesh_messages::problem::Problem;
use mesh_messages::system::{MemoryEntry, MemoryStats};
use mesh_messages::{AgentId, Position, RecordHeader, Timestamp};

use crate::clock;
use crate::partition::{Cause, Machine, Partition};
use crate::store::{JournalNews, StoreCell, follow};

mod erase;
mod handle;
mod problem;
mod state;

pub use handle::{MemoryHandle, MemoryRules};

use state::answer;

/// What the memory actor is started with.
#[derive(Debug, Clone)]
pub struct MemoryArgs {
    /// Its place.
    pub handle: MemoryHandle,
    /// Where the journal is found.
    pub store: StoreCell,
}

/// The volatile half, shared by the incarnations of the actor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Working(Arc<Mutex<Volatile>>);

impl Working {
    fn lock(&self) -> MutexGuard<'_, Volatile> {
        // Each change puts or removes whole entries, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reply<T> = RpcReplyPort<Result<T, Problem>>;

/// Whose memory, by which rules, at whose wish.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) agent: AgentId,
    pub(crate) rules: MemoryConfig,
    pub(crate) by: Cause,
}

/// What the memory actor is sent.
#[derive(Debug, ractor_cluster::RactorMessage)]
pub(crate) enum Message {
    /// Read one entry.
    Get {
        agent: AgentId,
        key: String,
        reply: Reply<Option<MemoryEntry>>,
    },
    /// Read a page of entries.
    List {
        agent: AgentId,
        range: Range,
        reply: Reply<Page<MemoryEntry>>,
    },
    /// Count.
    Stats {
        agent: AgentId,
        rules: MemoryConfig,
        reply: RpcReplyPort<MemoryStats>,
    },
    /// Write one entry.
    Set {
        owner: Owner,
        key: String,
        value: Value,
        ttl: Option<Duration>,
        reply: Reply<MemoryEntry>,
    },
    /// Write one entry unless there is one; answers the one that is there then, and whether it was written now.
    Once {
        owner: Owner,
        key: String,
        value: Value,
        ttl: Option<Duration>,
        reply: Reply<(MemoryEntry, bool)>,
    },
    /// Delete one entry; answers whether it was there.
    Delete {
        agent: AgentId,
        by: Cause,
        key: String,
        reply: Reply<bool>,
    },
    /// Close or open an agent's memory. Idempotent.
    Seal {
        agent: AgentId,
        by: Cause,
        sealed: bool,
        reply: Reply<()>,
    },
    /// Forget all of an agent's, and erase it. Idempotent.
    Purge {
        agent: AgentId,
        by: Cause,
        reply: Reply<()>,
    },
    /// Forget what ends with an agent's run. Idempotent.
    ClearVolatile {
        agent: AgentId,
        reply: RpcReplyPort<()>,
    },
    /// Something may have expired. Sent by the actor's own timer.
    Sweep,
    /// The journal advanced or failed.
    Journal(JournalNews),
}

/// Done when what led to it is durable.
#[derive(Debug)]
enum Effect {
    Got {
        entry: Option<MemoryEntry>,
        reply: Reply<Option<MemoryEntry>>,
    },
    Listed {
        page: Page<MemoryEntry>,
        reply: Reply<Page<MemoryEntry>>,
    },
    Written {
        entry: MemoryEntry,
        reply: Reply<MemoryEntry>,
    },
    Recorded {
        entry: MemoryEntry,
        first: bool,
        reply: Reply<(MemoryEntry, bool)>,
    },
    Deleted {
        there: bool,
        reply: Reply<bool>,
    },
    Done {
        reply: Reply<()>,
    },
    Erase {
        agent: AgentId,
        reply: Reply<()>,
    },
}

impl Machine for MemoryState {
    type Event = MemoryEvent;

    fn kind(event: &MemoryEvent) -> &'static str {
        event.kind()
    }

    fn apply(&mut self, header: &RecordHeader, event: &MemoryEvent) {
        Self::apply(self, header, event);
    }
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Memory;

/// What the actor holds.
#[derive(Debug)]
pub(crate) struct State {
    partition: Partition<MemoryState, Effect>,
    durable: Option<Position>,
    handle: MemoryHandle,
    myself: ActorRef<Message>,
    // The next sweep and when it is due; at most one is armed.
    timer: Option<(Timestamp, Timer)>,
    // No sweep before: the last one could not write.
    not_before: Timestamp,
}

type Timer = JoinHandle<Result<(), MessagingErr<Message>>>;

impl Actor for Memory {
    type Msg = Message;
    type State = State;
    type Arguments = MemoryArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        args: MemoryArgs,
    ) -> Result<State, ActorProcessingErr> {
        let store = args.store.get()?;
        let _follower = follow(&store.journal, myself.clone(), Message::Journal);
        let partition = args.store.load(&store, partition::MEMORY).await?;
        Ok(State {
            partition,
            durable: None,
            handle: args.handle,
            myself,
            timer: None,
            not_before: Timestamp::ZERO,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.arm(clock::now());
        state.handle.slot.occupy(myself);
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
        let now = clock::now();
        match message {
            Message::Get { agent, key, reply } => state.get(now, &agent, &key, reply).await?,
            Message::List {
                agent,
                range,
                reply,
            } => state.list(now, &agent, &range, reply).await?,
            Message::Stats {
                agent,
                rules,
                reply,
            } => {
                answer(reply, state.stats(now, agent, &rules));
            }
            Message::Set {
                owner,
                key,
                value,
                ttl,
                reply,
            } => {
                state.set(now, owner, (key, value, ttl), reply).await?;
            }
            Message::Once {
                owner,
                key,
                value,
                ttl,
                reply,
            } => {
                state.once(now, owner, (key, value, ttl), reply).await?;
            }
            Message::Delete {
                agent,
                by,
                key,
                reply,
            } => {
                state.delete(now, (agent, &by), key, reply).await?;
            }
            Message::Seal {
                agent,
                by,
                sealed,
                reply,
            } => {
                let event = state.partition.state().seal(&agent, sealed);
                state
                    .settle((agent, &by), event, Effect::Done { reply })
                    .await?;
            }
            Message::Purge { agent, by, reply } => {
                let event = state.partition.state().purge(&agent);
                state.handle.working.lock().clear(&agent);
                let effect = Effect::Erase {
                    agent: agent.clone(),
                    reply,
                };
                state.settle((agent, &by), event, effect).await?;
            }
            Message::ClearVolatile { agent, reply } => {
                state.handle.working.lock().clear(&agent);
                answer(reply, ());
            }
            Message::Sweep => state.sweep(now).await?,
            Message::Journal(JournalNews::Durable(position)) => state.durable = Some(position),
            Message::Journal(JournalNews::Failed(reason)) => return Err(reason.into()),
        }
        state.arm(now);
        state.release();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
