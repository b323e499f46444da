//! One agent: holds its fault policy and its instances. Restarts nothing by itself; the policy says when.
//!
//! ```text
//!  orders, timers ──►┐                        ┌──► instance actors (spawn, stop)
//!  instances' ends ──► machine.step ─► commit ─► released effects ──► task machine, timers, replies
//!  deliveries ──────►┘                        └──► directory (the durable state)
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use ractor_cluster::RactorMessage;
use serde_json::Value;

use mesh_actors_core::agent::{AgentCommand, AgentEffect, AgentMachine, AgentState};
use mesh_actors_core::dependencies::may_wait;
use mesh_actors_core::liveness::Change;
use mesh_messages::agent::{ControlLevel, SandboxView};
use mesh_messages::events::{AgentEvent, partition};
use mesh_messages::identity::KeyProof;
use mesh_messages::limits::{Breach, InstanceLimits};
use mesh_messages::liveness::Finding;
use mesh_messages::manifest::AgentManifest;
use mesh_messages::problem::Problem;
use mesh_messages::{
    AttemptNo, Epoch, Failure, FailureClass, InstanceNo, Position, RecordHeader, TaskId, Timestamp,
};

use super::delivery::{ChildOutcome, ClaimAnswer, Delivery, Mail};
use super::instance::{InstanceMessage, Missed, Strike};
use super::policy::effective;
use super::services::Services;
use crate::alarms::Alarm;
use crate::clock::now;
use crate::context::Context;
use crate::directory::AgentEntry;
use crate::few::Few;
use crate::partition::{Cause, Machine, Partition};
use crate::store::{Follower, JournalNews, follow_awaited};

mod limits;
mod orders;
mod perform;
mod refusal;
mod trail;
mod watch;

pub(crate) use limits::shown;
use trail::AgentTrail;

/// Deliveries that wait for the policy's word. The task machine never has more in flight for one agent.
const OFFERS_MAX: usize = 4096;
/// How long the kernel may take to end what was killed; more means that it is in trouble.
const GONE_MAX: Duration = Duration::from_secs(10);

/// Shared with the readers: what is published is the very state until the next event, which makes a copy of its own.
impl Machine for Arc<AgentState> {
    type Event = AgentEvent;
    fn kind(event: &AgentEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, header: &RecordHeader, event: &AgentEvent) {
        Arc::make_mut(self).apply(header, event);
    }
}

/// What an agent's actor is made of.
#[derive(Debug, Clone)]
pub(crate) struct AgentArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) entry: Arc<AgentEntry>,
}

/// What an agent's actor is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum AgentMessage {
    /// Do something with the agent; answered when it is durable.
    Order {
        /// What.
        command: AgentCommand,
        /// By whom.
        cause: Cause,
        /// The state afterwards.
        reply: RpcReplyPort<Result<Arc<AgentState>, Problem>>,
    },
    /// Take a version in.
    Register {
        /// Its manifest.
        manifest: Box<AgentManifest>,
        /// Its bundle.
        digest: String,
        /// By whom.
        cause: Cause,
        /// Whether anything changed, and the state afterwards.
        reply: RpcReplyPort<Result<(bool, Arc<AgentState>), Problem>>,
    },
    /// The node has another key: told to the incarnations that run and want to know.
    NodeKey(Arc<Value>),
    /// An instance shook hands.
    InstanceShaken {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// The hooks it named.
        hooks: Vec<String>,
        /// How it proved its key, where it has one.
        proven: Option<Box<KeyProof>>,
        /// What it advertised.
        capabilities: BTreeSet<String>,
    },
    /// An instance shook hands and serves, both at once.
    InstanceUp {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// The hooks it named.
        hooks: Vec<String>,
        /// How it proved its key, where it has one.
        proven: Option<Box<KeyProof>>,
        /// What it advertised.
        capabilities: BTreeSet<String>,
    },
    /// An instance serves.
    InstanceReady {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
    },
    /// An instance that was to hand on its state has said what it is, or why it cannot.
    InstanceSaved {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What it is; `null` when that is nothing.
        answer: Result<Box<Value>, String>,
    },
    /// An instance is gone, its process tree with it.
    InstanceEnded {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// How; `None` when it was told to.
        failure: Option<Failure>,
        /// When. What is told of it is on record before the end itself is; a delay before the next start counts from here.
        at: Timestamp,
    },
    /// End an instance for this reason; the policy says whether it is started anew.
    EndInstance {
        /// Its incarnation.
        epoch: Epoch,
        /// Why.
        reason: Failure,
    },
    /// An attempt for one of the instances.
    Deliver(Box<Delivery>),
    /// Make an instance let go of an attempt.
    CancelAttempt {
        /// Which incarnation has it.
        epoch: Epoch,
        /// Its task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptNo,
        /// Why.
        reason: Failure,
    },
    /// A delegated task has ended.
    Child {
        /// The incarnation that asked.
        epoch: Epoch,
        /// How it ended.
        outcome: Box<ChildOutcome>,
    },
    /// A resource that an attempt waited for is its own, or will not be.
    Claim {
        /// The incarnation that asked.
        epoch: Epoch,
        /// What became of it.
        answer: Box<ClaimAnswer>,
    },
    /// An attempt that was delivered has ended, not by a scored failure.
    AttemptEnded {
        /// Its task.
        task: TaskId,
        /// Whether it succeeded.
        ok: bool,
    },
    /// Scored failures turned out to be a task's fault.
    Refund {
        /// How many.
        failures: u32,
    },
    /// A message for the agent; any instance will do.
    Mail(Mail),
    /// A blow on the conversation with one incarnation; one that is gone drops the reply.
    Strike {
        /// Which incarnation.
        epoch: Epoch,
        /// Which blow.
        strike: Strike,
        /// Whether it fell.
        reply: RpcReplyPort<Result<(), Missed>>,
    },
    /// An instance broke a rule of the mesh that nobody breaks by accident.
    Violation {
        /// Which incarnation.
        epoch: Epoch,
        /// What it did.
        description: String,
    },
    /// An instance lives and was found to get nowhere.
    Found {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What was found.
        finding: Box<Finding>,
    },
    /// An instance is not as well, or as unwell, as it was.
    Condition {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What changed.
        change: Box<Change>,
    },
    /// The limits of a running instance were changed.
    Limited {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What they are.
        limits: Box<InstanceLimits>,
        /// What does not hold yet.
        not_yet: Vec<String>,
    },
    /// An instance ran into a limit.
    Breached {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// Which limit.
        breach: Box<Breach>,
    },
    /// All processes of an instance stand still, or go on.
    Frozen {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// Whether they stand still.
        frozen: bool,
        /// Who holds them.
        level: Option<ControlLevel>,
    },
    /// meshd is about to end: stop everything in order, start nothing.
    Close {
        /// Answered when no instance is left.
        reply: RpcReplyPort<()>,
    },
    /// The policy's timer is due.
    Timer {
        /// Which arming.
        token: u64,
    },
    /// Replicas may have rested long enough.
    Rested,
    /// An agent that it may wait for has come to serve.
    NeedsChanged,
    /// Another policy is in force, by order or with another version.
    Reconfigure,
    /// News of the journal.
    Journal(JournalNews),
}

/// What is released when the journal has it.
enum Released {
    Effect(AgentEffect),
    Publish(Arc<AgentState>),
    Reply(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Effect(effect) => effect.fmt(f),
            Self::Publish(_) => f.write_str("Publish"),
            Self::Reply(_) => f.write_str("Reply"),
        }
    }
}

#[derive(Debug)]
struct Running {
    instance: InstanceNo,
    actor: ActorRef<InstanceMessage>,
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct AgentShell {
    args: AgentArgs,
    me: ActorRef<AgentMessage>,
    partition: Partition<Arc<AgentState>, Released>,
    machine: AgentMachine,
    trail: AgentTrail,
    // When something was last decided.
    stepped: Timestamp,
    durable: Option<Position>,
    running: Few<Epoch, Running>,
    actors: Few<ActorId, (InstanceNo, Epoch)>,
    // What each replica was refused, in all its incarnations.
    refused: Few<InstanceNo, Arc<AtomicU64>>,
    // In the order of their answers; one that was cancelled meanwhile has left its place empty.
    offers: VecDeque<Option<Delivery>>,
    timer: Option<Alarm>,
    rest: Option<Alarm>,
    follower: Follower,
    closers: Vec<RpcReplyPort<()>>,
    // What would be enforced around each version; computing it costs a look at the disk.
    sandboxes: Few<String, Option<Box<SandboxView>>>,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct AgentActor;

impl Actor for AgentActor {
    type Msg = AgentMessage;
    // On the heap: the loop of an actor keeps room for it more than once.
    type State = Box<AgentShell>;
    type Arguments = AgentArgs;

    async fn pre_start(
        &self,
        me: ActorRef<AgentMessage>,
        args: AgentArgs,
    ) -> Result<Box<AgentShell>, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let id = partition::agent(&args.entry.id);
        let partition: Partition<Arc<AgentState>, Released> =
            args.ctx.store.load(&store, id).await?;
        let config = partition.state().manifest().map_or_else(
            || args.ctx.settings.fault.clone(),
            |m| effective(m, &args.ctx).fault,
        );
        let machine = AgentMachine::new(args.entry.id.clone(), config, now())?;
        let follower = follow_awaited(&store, me.clone(), AgentMessage::Journal);
        // What an earlier life of this actor left must be gone before anything is started again.
        end_all(&args.entry).await;
        args.entry.clear_live();
        Ok(Box::new(AgentShell {
            trail: AgentTrail::from_record(partition.newest()),
            stepped: Timestamp::ZERO,
            me,
            partition,
            machine,
            durable: None,
            running: Few::default(),
            actors: Few::default(),
            refused: Few::default(),
            offers: VecDeque::new(),
            timer: None,
            rest: None,
            follower,
            closers: Vec::new(),
            sandboxes: Few::default(),
            args,
        }))
    }

    async fn post_start(
        &self,
        me: ActorRef<AgentMessage>,
        state: &mut Box<AgentShell>,
    ) -> Result<(), ActorProcessingErr> {
        state
            .step(AgentCommand::Boot, &Cause::meshd(), None)
            .await?;
        let needs = state.partition.state().manifest().is_some_and(may_wait);
        state.args.entry.slot.occupy(me.clone());
        // Whoever came to serve since the boot looked could not say so yet.
        if needs {
            let _ended = me.cast(AgentMessage::NeedsChanged);
        }
        Ok(())
    }

    #[tracing::instrument(level = "debug", name = "agent", skip_all, fields(agent = %state.args.entry.id))]
    async fn handle(
        &self,
        _me: ActorRef<AgentMessage>,
        message: AgentMessage,
        state: &mut Box<AgentShell>,
    ) -> Result<(), ActorProcessingErr> {
        // On the heap, because the room for it would be kept while there is no message, too, for every agent there is.
        Box::pin(state.take(message)).await
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<AgentMessage>,
        event: SupervisionEvent,
        state: &mut Box<AgentShell>,
    ) -> Result<(), ActorProcessingErr> {
        let (id, why) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            // An instance that stops by itself has said so in a message, which may still be on its way.
            SupervisionEvent::ActorTerminated(cell, _, None) => {
                state.actors.remove(&cell.get_id());
                return Ok(());
            }
            SupervisionEvent::ActorTerminated(cell, _, Some(reason)) => (cell.get_id(), reason),
            _ => return Ok(()),
        };
        let Some((instance, epoch)) = state.actors.remove(&id) else {
            return Ok(());
        };
        let failure = Failure::new(FailureClass::Crash, format!("its session failed: {why}"));
        state.lost(instance, epoch, failure);
        Ok(())
    }

    async fn post_stop(
        &self,
        me: ActorRef<AgentMessage>,
        state: &mut Box<AgentShell>,
    ) -> Result<(), ActorProcessingErr> {
        state.args.entry.slot.vacate(&me);
        end_all(&state.args.entry).await;
        Ok(())
    }
}

/// Ends what an agent's instances run, and waits until it is gone.
async fn end_all(entry: &AgentEntry) {
    let ends = entry.live().into_values().map(|live| async move {
        live.live.end_processes().await;
    });
    let gone = tokio::time::timeout(GONE_MAX, futures::future::join_all(ends)).await;
    if gone.is_err() {
        tracing::error!(agent = %entry.id, "processes that were killed are still there");
    }
}

impl Drop for AgentShell {
    fn drop(&mut self) {
        self.args.entry.slot.vacate(&self.me);
    }
}
