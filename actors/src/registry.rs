//! The registry: gives agents' ids out and takes them back, sees to it that each has its actor, and keeps the operator's
//! policy and the services.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use mesh_actors_core::governance::{Denied, Governance};
use mesh_actors_core::registry::RegistryState;
use mesh_actors_core::service::{ServiceBook, ServiceCommand};
use mesh_messages::events::{RegistryEvent, partition};
use mesh_messages::governance::GovernanceUpdate;
use mesh_messages::limits::LimitChange;
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{AgentId, Position, RecordHeader};
use mesh_supervision::SupervisorHandle;

use crate::agents::agent::AgentMessage;
use crate::agents::services::Services;
use crate::clock;
use crate::context::Context;
use crate::partition::{Cause, Entry, Led, Machine, Partition};
use crate::slot::{CallError, Slot};
use crate::store::{JournalNews, follow};

mod jobs;
mod services;

use jobs::{Job, work};

/// How long a caller waits for the registry.
const ANSWER_MAX: Duration = Duration::from_secs(30);

impl Machine for RegistryState {
    type Event = RegistryEvent;
    fn kind(event: &RegistryEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, _header: &RecordHeader, event: &RegistryEvent) {
        RegistryState::apply(self, event);
    }
}

/// The only way to talk to the registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RegistryHandle {
    slot: Slot<RegistryMessage>,
}

impl RegistryHandle {
    /// A handle whose actor is still to come.
    pub(crate) fn new(slot: Slot<RegistryMessage>) -> Self {
        Self { slot }
    }

    /// Gives an id out, if it is not, and waits until its agent's actor runs.
    ///
    /// # Errors
    /// The directory is full, or the registry is not there.
    pub(crate) async fn list(&self, agent: AgentId, cause: Cause) -> Result<(), Problem> {
        self.slot
            .call(ANSWER_MAX, |reply| RegistryMessage::List {
                agent,
                cause,
                reply,
            })
            .await?
    }

    /// Takes an id back and ends its agent's actor.
    ///
    /// # Errors
    /// The registry is not there.
    pub(crate) async fn unlist(&self, agent: AgentId, cause: Cause) -> Result<(), CallError> {
        self.slot
            .call(ANSWER_MAX, |reply| RegistryMessage::Unlist {
                agent,
                cause,
                reply,
            })
            .await
    }

    /// Changes the policy, and waits until that is durable.
    ///
    /// # Errors
    /// An agent that is not registered, or the registry is not there.
    pub(crate) async fn apply_policy(
        &self,
        change: PolicyChange,
        cause: Cause,
    ) -> Result<(), Problem> {
        self.slot
            .call(ANSWER_MAX, |reply| RegistryMessage::ApplyPolicy {
                change: Box::new(change),
                cause,
                reply,
            })
            .await?
    }
}

impl RegistryHandle {
    /// Accepts an update that admins signed, and waits until that is durable.
    ///
    /// # Errors
    /// It does not count, or the registry is not there.
    pub(crate) async fn govern(
        &self,
        update: GovernanceUpdate,
        cause: Cause,
    ) -> Result<(), Problem> {
        self.slot
            .call(ANSWER_MAX, |reply| RegistryMessage::Govern {
                update: Box::new(update),
                cause,
                reply,
            })
            .await?
    }
}

/// What becomes other in the operator's policy. Changes are taken one after the other, each over the one before.
#[derive(Debug)]
pub(crate) enum PolicyChange {
    /// The scopes that it names are replaced.
    Document(PolicyDocument),
    /// Of one agent, the limits that it names.
    Limits(AgentId, LimitChange),
}

/// What the registry is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum RegistryMessage {
    /// Give an id out.
    List {
        /// Which.
        agent: AgentId,
        /// By whom.
        cause: Cause,
        /// When its actor runs.
        reply: RpcReplyPort<Result<(), Problem>>,
    },
    /// Take an id back.
    Unlist {
        /// Which.
        agent: AgentId,
        /// By whom.
        cause: Cause,
        /// When its actor is gone.
        reply: RpcReplyPort<()>,
    },
    /// Replace what the operator decided.
    ApplyPolicy {
        /// Which part of it, and how.
        change: Box<PolicyChange>,
        /// By whom.
        cause: Cause,
        /// When it is in force.
        reply: RpcReplyPort<Result<(), Problem>>,
    },
    /// Take what admins signed.
    Govern {
        /// The update.
        update: Box<GovernanceUpdate>,
        /// By whom it was brought.
        cause: Cause,
        /// When it is in force.
        reply: RpcReplyPort<Result<(), Problem>>,
    },
    /// Change which services there are, or what is known of one.
    Service {
        /// What.
        command: Box<ServiceCommand>,
        /// By whom.
        cause: Cause,
        /// When it is durable.
        reply: RpcReplyPort<Result<(), Problem>>,
    },
    /// There is a (new) supervisor of agents, without children.
    AgentsUp,
    /// All agents that were listed at its start have their actors.
    Populated,
    /// News of the journal.
    Journal(JournalNews),
}

/// What a commit of the registry leads to.
#[derive(Debug)]
enum Released {
    Listed(AgentId, RpcReplyPort<Result<(), Problem>>),
    Unlisted(AgentId, RpcReplyPort<()>),
    /// The whole policy as it is then, and who governs.
    PolicyApplied(
        Box<PolicyDocument>,
        Box<Governance>,
        RpcReplyPort<Result<(), Problem>>,
    ),
    /// The services as they are then, where that is news.
    Service(Option<Box<ServiceBook>>, RpcReplyPort<Result<(), Problem>>),
}

/// What the registry is made of.
#[derive(Debug, Clone)]
pub(crate) struct RegistryArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) slot: Slot<RegistryMessage>,
    pub(crate) agents: watch::Receiver<Option<SupervisorHandle>>,
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct RegistryShell {
    args: RegistryArgs,
    me: ActorRef<RegistryMessage>,
    partition: Partition<RegistryState, Released>,
    durable: Option<Position>,
    // Not bounded by itself: each caller waits for its answer, and a population has a job for each agent.
    jobs: mpsc::UnboundedSender<Job>,
    tasks: [JoinHandle<()>; 3],
}

/// The actor.
#[derive(Debug)]
pub(crate) struct RegistryActor;

impl Actor for RegistryActor {
    type Msg = RegistryMessage;
    type State = RegistryShell;
    type Arguments = RegistryArgs;

    async fn pre_start(
        &self,
        me: ActorRef<RegistryMessage>,
        args: RegistryArgs,
    ) -> Result<RegistryShell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let partition: Partition<RegistryState, _> =
            args.ctx.store.load(&store, partition::REGISTRY).await?;
        args.ctx
            .policy
            .store(Arc::new(partition.state().policy.clone()));
        let governance = partition.state().governance.clone();
        args.ctx.governance.store(Arc::new(governance));
        services::publish(&args.ctx, &partition.state().services);
        let follower = follow(&store.journal, me.clone(), RegistryMessage::Journal);
        let mut agents = args.agents.clone();
        let told = me.clone();
        let watcher = ractor::concurrency::spawn(async move {
            loop {
                if agents.borrow_and_update().is_some()
                    && told.cast(RegistryMessage::AgentsUp).is_err()
                {
                    return;
                }
                if agents.changed().await.is_err() {
                    return;
                }
            }
        });
        let (jobs, mut queue) = mpsc::unbounded_channel();
        let (worker_args, worker_me) = (args.clone(), me.clone());
        let worker = ractor::concurrency::spawn(async move {
            while let Some(job) = queue.recv().await {
                work(&worker_args, &worker_me, job).await;
            }
        });
        Ok(RegistryShell {
            me,
            args,
            partition,
            durable: None,
            jobs,
            tasks: [follower, watcher, worker],
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<RegistryMessage>,
        state: &mut RegistryShell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.slot.occupy(me);
        Ok(())
    }

    async fn handle(
        &self,
        _me: ActorRef<RegistryMessage>,
        message: RegistryMessage,
        state: &mut RegistryShell,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message).await
    }

    async fn post_stop(
        &self,
        me: ActorRef<RegistryMessage>,
        state: &mut RegistryShell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.slot.vacate(&me);
        state.partition.snapshot_at_end();
        Ok(())
    }
}

impl Drop for RegistryShell {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.args.slot.vacate(&self.me);
    }
}

impl RegistryShell {
    async fn take(&mut self, message: RegistryMessage) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMessage::List {
                agent,
                cause,
                reply,
            } => {
                let event = match self.partition.state().list(&agent) {
                    Ok(event) => event,
                    Err(full) => {
                        let problem =
                            Problem::new(ProblemKind::Conflict, "directory_full", full.to_string());
                        let _caller_gone = reply.send(Err(problem));
                        return Ok(());
                    }
                };
                self.commit(event, &cause, Released::Listed(agent, reply))
                    .await?;
            }
            RegistryMessage::Unlist {
                agent,
                cause,
                reply,
            } => {
                let event = self.partition.state().unlist(&agent);
                self.commit(event, &cause, Released::Unlisted(agent, reply))
                    .await?;
            }
            RegistryMessage::ApplyPolicy {
                change,
                cause,
                reply,
            } => {
                let events = self.ungoverned(*change);
                self.decide_policy(events, &cause, reply).await?;
            }
            RegistryMessage::Govern {
                update,
                cause,
                reply,
            } => {
                let (state, mesh) = (self.partition.state(), &self.args.ctx.node.did);
                let events = state.govern(clock::now(), mesh, *update);
                self.decide_policy(events, &cause, reply).await?;
            }
            RegistryMessage::Service {
                command,
                cause,
                reply,
            } => self.serve(*command, &cause, reply).await?,
            RegistryMessage::AgentsUp => self.populate(),
            RegistryMessage::Populated => {
                self.args.ctx.directory.set_complete();
                self.args.services.fleet_complete();
            }
            RegistryMessage::Journal(JournalNews::Durable(position)) => {
                self.durable = Some(position);
                self.release();
                self.partition.snapshot_when_due(self.durable);
            }
            RegistryMessage::Journal(JournalNews::Failed(reason)) => {
                return Err(format!("the journal failed: {reason}").into());
            }
        }
        Ok(())
    }

    /// What a change leads to that nobody signed; where admins govern, it has too few signatures.
    fn ungoverned(&self, change: PolicyChange) -> Result<Vec<RegistryEvent>, Problem> {
        let state = self.partition.state();
        if let Some(authority) = &state.governance.authority {
            let (have, need) = (0, authority.threshold);
            return Err(Denied::Signatures { have, need }.into());
        }
        Ok(match change {
            PolicyChange::Document(document) => state.apply_policy(document)?,
            PolicyChange::Limits(agent, limits) => state.change_limits(agent, &limits)?,
        })
    }

    async fn decide_policy(
        &mut self,
        events: Result<Vec<RegistryEvent>, Problem>,
        cause: &Cause,
        reply: RpcReplyPort<Result<(), Problem>>,
    ) -> Result<(), ActorProcessingErr> {
        match events {
            Ok(events) => {
                let mut after = self.partition.state().clone();
                for event in &events {
                    after.apply(event);
                }
                let (policy, governance) = (Box::new(after.policy), Box::new(after.governance));
                let then = Released::PolicyApplied(policy, governance, reply);
                self.commit(events, cause, then).await
            }
            Err(problem) => {
                let _caller_gone = reply.send(Err(problem));
                Ok(())
            }
        }
    }

    async fn commit(
        &mut self,
        events: impl IntoIterator<Item = RegistryEvent>,
        cause: &Cause,
        then: Released,
    ) -> Result<(), ActorProcessingErr> {
        let entries = events
            .into_iter()
            .map(|event| Entry {
                agent: concerned(&event).cloned(),
                task: None,
                event,
                led: Led::default(),
            })
            .collect();
        self.partition.commit(entries, cause, vec![then]).await?;
        self.release();
        Ok(())
    }

    fn release(&mut self) {
        for released in self.partition.released(self.durable) {
            match released {
                Released::PolicyApplied(policy, governance, reply) => {
                    self.args.ctx.governance.store(Arc::from(governance));
                    self.publish_policy(*policy);
                    let _caller_gone = reply.send(Ok(()));
                }
                Released::Service(book, reply) => {
                    if let Some(book) = book {
                        services::publish(&self.args.ctx, &book);
                    }
                    let _caller_gone = reply.send(Ok(()));
                }
                Released::Listed(agent, reply) => self.queue(Job::Listed(agent, reply)),
                Released::Unlisted(agent, reply) => {
                    self.forget_policy(&agent);
                    self.queue(Job::Unlisted(agent, reply));
                }
            }
        }
    }

    /// What was decided for an agent is not for another one that gets its id, unless admins signed it.
    fn forget_policy(&self, agent: &AgentId) {
        if self.args.ctx.governance.load().has_signed_for(agent) {
            return;
        }
        let mut policy = PolicyDocument::clone(&self.args.ctx.policy.load());
        if policy.agents.remove(agent).is_some() {
            self.args.ctx.policy.store(Arc::new(policy));
        }
    }

    /// From here on every start and every reader sees it; agents that run take it over when their episode is over.
    fn publish_policy(&self, policy: PolicyDocument) {
        self.args.ctx.policy.store(Arc::new(policy));
        for entry in self.args.ctx.directory.all() {
            // One that is not up takes it over when it comes up.
            let _not_up = entry.slot.cast(AgentMessage::Reconfigure);
        }
    }

    fn queue(&self, job: Job) {
        // The worker lives as long as this actor.
        let _never_closed = self.jobs.send(job);
    }

    /// Has every listed agent's actor started, one after the other: what they start in turn is many processes. An earlier
    /// life of this actor may have died between taking an id back and ending its agent's actor; that is made up for.
    fn populate(&self) {
        let listed = &self.partition.state().agents;
        for entry in self.args.ctx.directory.all() {
            if !listed.contains(&entry.id) {
                self.queue(Job::Stop(entry.id.clone()));
            }
        }
        for agent in listed {
            self.queue(Job::Start(agent.clone()));
        }
        self.queue(Job::Populated);
    }
}

/// The agent that an event is about.
fn concerned(event: &RegistryEvent) -> Option<&AgentId> {
    match event {
        RegistryEvent::Listed { agent } | RegistryEvent::Unlisted { agent } => Some(agent),
        RegistryEvent::PolicyApplied { agent, .. } => agent.as_ref(),
        RegistryEvent::BudgetApplied { .. }
        | RegistryEvent::Governed { .. }
        | RegistryEvent::ServiceRegistered { .. }
        | RegistryEvent::ServiceUpdated { .. }
        | RegistryEvent::ServiceRemoved { .. }
        | RegistryEvent::ServiceUnhealthy { .. }
        | RegistryEvent::ServiceRecovered { .. }
        | RegistryEvent::ServiceCalled(_) => None,
    }
}
