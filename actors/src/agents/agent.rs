//! One agent: holds its fault policy and its instances. Restarts nothing by itself; the policy says when.
//!
//! ```text
//!  orders, timers ──►┐                        ┌──► instance actors (spawn, stop)
//!  instances' ends ──► machine.step ─► commit ─► released effects ──► task machine, timers, replies
//!  deliveries ──────►┘                        └──► directory (the durable state)
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use mesh_actors_core::agent::{
    AgentCommand, AgentEffect, AgentMachine, AgentRefusal, AgentState, StopKind,
};
use mesh_messages::agent::{QuarantineKind, SandboxView};
use mesh_messages::events::{AgentEvent, partition};
use mesh_messages::klp::ControlVerb;
use mesh_messages::manifest::AgentManifest;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, Position, RecordHeader, Severity,
    TaskId,
};

use super::delivery::{AttemptNews, ChildOutcome, Delivery, Mail};
use super::instance::{InstanceActor, InstanceArgs, InstanceMessage};
use super::live::InstanceLive;
use super::policy::effective;
use super::services::Services;
use super::spawn::{Start, plan_start, sandbox_view};
use crate::clock::{now, random};
use crate::context::Context;
use crate::directory::{AgentEntry, LiveInstance};
use crate::partition::{Cause, Entry, Machine, Partition};
use crate::store::{JournalNews, follow};

/// Deliveries that wait for the policy's word. The task machine never has more in flight for one agent.
const OFFERS_MAX: usize = 4096;

impl Machine for AgentState {
    type Event = AgentEvent;
    fn kind(event: &AgentEvent) -> &'static str {
        event.kind()
    }
    fn apply(&mut self, header: &RecordHeader, event: &AgentEvent) {
        AgentState::apply(self, header, event);
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
    /// An instance shook hands.
    InstanceShaken {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// The hooks it named.
        hooks: Vec<String>,
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
    /// An instance is gone, its process tree with it.
    InstanceEnded {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// How; `None` when it was told to.
        failure: Option<Failure>,
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
    /// An instance broke a rule of the mesh that nobody breaks by accident.
    Violation {
        /// Which incarnation.
        epoch: Epoch,
        /// What it did.
        description: String,
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
    partition: Partition<AgentState, Released>,
    machine: AgentMachine,
    durable: Option<Position>,
    running: BTreeMap<Epoch, Running>,
    actors: BTreeMap<ActorId, (InstanceNo, Epoch)>,
    offers: VecDeque<Delivery>,
    timer: Option<JoinHandle<()>>,
    follower: JoinHandle<()>,
    closers: Vec<RpcReplyPort<()>>,
    // What would be enforced around each version; computing it costs a look at the disk.
    sandboxes: BTreeMap<String, Option<SandboxView>>,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct AgentActor;

impl Actor for AgentActor {
    type Msg = AgentMessage;
    type State = AgentShell;
    type Arguments = AgentArgs;

    async fn pre_start(
        &self,
        me: ActorRef<AgentMessage>,
        args: AgentArgs,
    ) -> Result<AgentShell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        let id = partition::agent(&args.entry.id);
        let (journal, content) = (Arc::clone(&store.journal), Arc::clone(&store.content));
        let partition: Partition<AgentState, Released> =
            tokio::task::spawn_blocking(move || Partition::load(id, journal, content)).await??;
        let config = partition.state().manifest().map_or_else(
            || args.ctx.settings.fault.clone(),
            |m| effective(m, &args.ctx.settings).fault,
        );
        let machine = AgentMachine::new(args.entry.id.clone(), config, now())?;
        let follower = follow(&store.journal, me.clone(), AgentMessage::Journal);
        args.entry.clear_live();
        Ok(AgentShell {
            me,
            partition,
            machine,
            durable: None,
            running: BTreeMap::new(),
            actors: BTreeMap::new(),
            offers: VecDeque::new(),
            timer: None,
            follower,
            closers: Vec::new(),
            sandboxes: BTreeMap::new(),
            args,
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<AgentMessage>,
        state: &mut AgentShell,
    ) -> Result<(), ActorProcessingErr> {
        state
            .step(AgentCommand::Boot, &Cause::meshd(), None)
            .await?;
        state.args.entry.slot.occupy(me);
        Ok(())
    }

    #[tracing::instrument(level = "debug", name = "agent", skip_all, fields(agent = %state.args.entry.id))]
    async fn handle(
        &self,
        _me: ActorRef<AgentMessage>,
        message: AgentMessage,
        state: &mut AgentShell,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message).await
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<AgentMessage>,
        event: SupervisionEvent,
        state: &mut AgentShell,
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
        state.ended(instance, epoch, Some(failure)).await
    }

    async fn post_stop(
        &self,
        me: ActorRef<AgentMessage>,
        state: &mut AgentShell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.entry.slot.vacate(&me);
        Ok(())
    }
}

impl Drop for AgentShell {
    fn drop(&mut self) {
        self.follower.abort();
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.args.entry.slot.vacate(&self.me);
    }
}

type Answer = Box<dyn FnOnce(Result<Arc<AgentState>, Problem>) + Send>;

impl AgentShell {
    #[expect(clippy::too_many_lines, reason = "one short arm for each message")]
    async fn take(&mut self, message: AgentMessage) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMessage::Order {
                command,
                cause,
                reply,
            } => {
                let answer: Answer = Box::new(move |answer| {
                    let _caller_gone = reply.send(answer);
                });
                self.step(command, &cause, Some(answer)).await
            }
            AgentMessage::Register {
                manifest,
                digest,
                cause,
                reply,
            } => self.register(*manifest, digest, &cause, reply).await,
            AgentMessage::InstanceShaken {
                instance,
                epoch,
                hooks,
                capabilities,
            } => {
                self.args.entry.advertise(instance, epoch, capabilities);
                self.internal(AgentCommand::Handshaken {
                    instance,
                    epoch,
                    hooks,
                })
                .await
            }
            AgentMessage::InstanceReady { instance, epoch } => {
                self.internal(AgentCommand::Ready { instance, epoch })
                    .await?;
                self.args.services.agent_ready(&self.args.entry.id);
                Ok(())
            }
            AgentMessage::InstanceEnded {
                instance,
                epoch,
                failure,
            } => self.ended(instance, epoch, failure).await,
            AgentMessage::Deliver(delivery) => self.offer(*delivery).await,
            AgentMessage::CancelAttempt {
                epoch,
                task,
                attempt,
                reason,
            } => {
                if self.running.contains_key(&epoch) {
                    self.tell(
                        epoch,
                        InstanceMessage::CancelAttempt {
                            task,
                            attempt,
                            reason,
                        },
                    );
                } else {
                    // Nobody has it any more, and whoever cancels waits to hear so.
                    self.report(AttemptNews::Ended {
                        task,
                        attempt,
                        epoch,
                        result: Err(reason),
                    });
                }
                Ok(())
            }
            AgentMessage::Child { epoch, outcome } => {
                self.tell(epoch, InstanceMessage::Child(outcome));
                Ok(())
            }
            AgentMessage::AttemptEnded { task, ok } => {
                self.internal(AgentCommand::AttemptEnded { task, ok }).await
            }
            AgentMessage::Refund { failures } => {
                self.internal(AgentCommand::Refund { failures }).await
            }
            AgentMessage::Mail(mail) => {
                let ready = self.partition.state().ready().map(|(_, i)| i.epoch).next();
                if let Some(epoch) = ready {
                    self.tell(epoch, InstanceMessage::Mail(mail));
                }
                Ok(())
            }
            AgentMessage::Violation { epoch, description } => {
                if !self.running.contains_key(&epoch) {
                    return Ok(());
                }
                self.internal(AgentCommand::Quarantine {
                    kind: QuarantineKind::SecurityViolation,
                    severity: Severity::Critical,
                    description,
                })
                .await
            }
            AgentMessage::Close { reply } => {
                self.closers.push(reply);
                self.internal(AgentCommand::Close).await?;
                self.answer_closers();
                Ok(())
            }
            AgentMessage::Timer { token } => self.internal(AgentCommand::Timer { token }).await,
            AgentMessage::Journal(JournalNews::Durable(position)) => {
                self.durable = Some(position);
                self.release().await;
                self.partition.snapshot_when_due(self.durable);
                Ok(())
            }
            AgentMessage::Journal(JournalNews::Failed(reason)) => {
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }

    fn tell(&self, epoch: Epoch, message: InstanceMessage) {
        if let Some(running) = self.running.get(&epoch) {
            // One that has just ended needs to be told nothing.
            let _gone = running.actor.cast(message);
        }
    }

    async fn internal(&mut self, command: AgentCommand) -> Result<(), ActorProcessingErr> {
        self.step(command, &Cause::meshd(), None).await
    }

    async fn ended(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        failure: Option<Failure>,
    ) -> Result<(), ActorProcessingErr> {
        self.running.remove(&epoch);
        self.args.entry.remove_live(instance, epoch);
        self.internal(AgentCommand::Ended {
            instance,
            epoch,
            failure,
        })
        .await?;
        if self.running.is_empty() && self.partition.state().instances.is_empty() {
            self.args.services.idle(&self.args.entry.id);
        }
        self.answer_closers();
        Ok(())
    }

    fn answer_closers(&mut self) {
        if self.running.is_empty() {
            for closer in self.closers.drain(..) {
                let _gone = closer.send(());
            }
        }
    }

    /// Decides, commits, and lets go of what is durable.
    async fn step(
        &mut self,
        command: AgentCommand,
        cause: &Cause,
        answer: Option<Answer>,
    ) -> Result<(), ActorProcessingErr> {
        self.foresee(&command);
        let sandboxes = &self.sandboxes;
        let sandbox = |version: &str| sandboxes.get(version).cloned().flatten();
        let decided = self
            .machine
            .step(self.partition.state(), now(), random(), &sandbox, command);
        let decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => {
                if let Some(answer) = answer {
                    answer(Err(refused(&self.args.entry.id, &refusal)));
                }
                return Ok(());
            }
        };
        let changed = !decision.events.is_empty();
        let agent = Some(self.args.entry.id.clone());
        let entries = decision
            .events
            .into_iter()
            .map(|event| Entry {
                event,
                agent: agent.clone(),
                task: None,
            })
            .collect();
        self.partition.commit(entries, cause, Vec::new()).await?;
        let state = Arc::new(self.partition.state().clone());
        let mut effects = Vec::new();
        if changed || self.durable.is_none() {
            effects.push(Released::Publish(Arc::clone(&state)));
        }
        effects.extend(decision.effects.into_iter().map(Released::Effect));
        if let Some(answer) = answer {
            effects.push(Released::Reply(Box::new(move || answer(Ok(state)))));
        }
        self.partition.commit(Vec::new(), cause, effects).await?;
        self.release().await;
        Ok(())
    }

    /// Works out what will be enforced, where the command may start something.
    fn foresee(&mut self, command: &AgentCommand) {
        let may_start = !matches!(
            command,
            AgentCommand::Offered { .. }
                | AgentCommand::AttemptEnded { .. }
                | AgentCommand::Handshaken { .. }
                | AgentCommand::Ready { .. }
                | AgentCommand::Refund { .. }
        );
        if !may_start {
            return;
        }
        let versions: Vec<_> = self.partition.state().versions.keys().cloned().collect();
        for version in versions {
            if !self.sandboxes.contains_key(&version) {
                let view = self.sandbox_of(&version);
                self.sandboxes.insert(version, view);
            }
        }
    }

    fn sandbox_of(&self, version: &str) -> Option<SandboxView> {
        use mesh_messages::manifest::RuntimeKind;
        let version = self.partition.state().versions.get(version)?;
        if version.manifest.resolved_runtime().kind == RuntimeKind::Native {
            return None;
        }
        let start = Start {
            manifest: &version.manifest,
            digest: &version.digest,
            instance: InstanceNo(0),
            epoch: Epoch(0),
            process: 0,
        };
        // A refusal shows when it is started; here there is just nothing to show.
        plan_start(&self.args.ctx, start)
            .ok()
            .map(|plan| sandbox_view(plan.report()))
    }

    async fn register(
        &mut self,
        manifest: AgentManifest,
        digest: String,
        cause: &Cause,
        reply: RpcReplyPort<Result<(bool, Arc<AgentState>), Problem>>,
    ) -> Result<(), ActorProcessingErr> {
        use mesh_messages::agent::Lifecycle;
        let state = self.partition.state();
        let version = manifest.version.to_string();
        let over = matches!(state.stage(), Lifecycle::Terminated | Lifecycle::Audited);
        if let Some(there) = state.versions.get(&version).filter(|_| !over) {
            let answer = if there.digest == digest {
                Ok((false, Arc::new(state.clone())))
            } else {
                let id = &self.args.entry.id;
                let text = format!(
                    "agent {id} {version} is registered with other content ({}); give the new content a new version",
                    there.digest
                );
                Err(Problem::new(ProblemKind::Conflict, "version_exists", text).field("version"))
            };
            let _caller_gone = reply.send(answer);
            return Ok(());
        }
        let name = manifest.display_name().to_owned();
        let mut events = Vec::new();
        if state.stage() == Lifecycle::Defined {
            events.push(AgentEvent::Created { name });
        }
        self.sandboxes.remove(&version);
        let config = effective(&manifest, &self.args.ctx.settings).fault;
        events.push(AgentEvent::Registered {
            manifest: Box::new(manifest),
            digest,
        });
        let agent = Some(self.args.entry.id.clone());
        let entries = events
            .into_iter()
            .map(|event| Entry {
                event,
                agent: agent.clone(),
                task: None,
            })
            .collect();
        self.partition.commit(entries, cause, Vec::new()).await?;
        if over || self.partition.state().versions.len() == 1 {
            self.machine = AgentMachine::new(self.args.entry.id.clone(), config, now())?;
        }
        let state = Arc::new(self.partition.state().clone());
        let effects = vec![
            Released::Publish(Arc::clone(&state)),
            Released::Reply(Box::new(move || {
                let _caller_gone = reply.send(Ok((true, state)));
            })),
        ];
        self.partition.commit(Vec::new(), cause, effects).await?;
        self.release().await;
        Ok(())
    }

    async fn offer(&mut self, delivery: Delivery) -> Result<(), ActorProcessingErr> {
        if self.offers.len() >= OFFERS_MAX {
            self.decline(delivery, "too many attempts wait for it");
            return Ok(());
        }
        let command = AgentCommand::Offered {
            task: delivery.task.clone(),
        };
        self.offers.push_back(delivery);
        self.internal(command).await
    }

    fn decline(&self, delivery: Delivery, reason: &str) {
        self.report(AttemptNews::Ended {
            task: delivery.task,
            attempt: delivery.attempt,
            epoch: delivery.epoch,
            result: Err(Failure::new(FailureClass::Lost, reason)),
        });
    }

    fn report(&self, news: AttemptNews) {
        let instance = match &news {
            AttemptNews::Started { epoch, .. }
            | AttemptNews::Progress { epoch, .. }
            | AttemptNews::Ended { epoch, .. } => self.running.get(epoch).map(|r| r.instance),
        };
        let (services, agent) = (Arc::clone(&self.args.services), self.args.entry.id.clone());
        ractor::concurrency::spawn(async move {
            services
                .report(&agent, instance.unwrap_or_default(), news)
                .await;
        });
    }

    async fn release(&mut self) {
        for released in self.partition.released(self.durable) {
            match released {
                Released::Publish(state) => {
                    self.args.entry.publish(state);
                    self.args.services.fleet_changed(&self.args.entry);
                }
                Released::Reply(reply) => reply(),
                Released::Effect(effect) => self.perform(effect).await,
            }
        }
    }

    async fn perform(&mut self, effect: AgentEffect) {
        let agent = self.args.entry.id.clone();
        match effect {
            AgentEffect::Spawn {
                instance,
                epoch,
                version,
                upgraded_from,
            } => {
                self.spawn(instance, epoch, &version, upgraded_from).await;
            }
            AgentEffect::Stop { epoch, how, .. } => {
                self.args.entry.set_stopping(epoch);
                self.args.services.fleet_changed(&self.args.entry);
                self.tell(
                    epoch,
                    match how {
                        StopKind::Drain => InstanceMessage::Drain,
                        StopKind::Kill => InstanceMessage::Kill,
                    },
                );
            }
            AgentEffect::Paused(paused) => {
                let verb = if paused {
                    ControlVerb::Pause
                } else {
                    ControlVerb::Resume
                };
                for epoch in self.running.keys() {
                    self.tell(*epoch, InstanceMessage::Control(verb));
                }
            }
            AgentEffect::Down {
                instance,
                epoch,
                failure,
            } => {
                self.args
                    .services
                    .instance_down(&agent, instance, epoch, failure);
            }
            AgentEffect::Arm { token, at } => {
                let (me, wait) = (self.me.clone(), at.since(now()));
                let timer = ractor::concurrency::spawn(async move {
                    // A millisecond more, because the clock counts whole ones.
                    tokio::time::sleep(wait + std::time::Duration::from_millis(1)).await;
                    let _gone = me.cast(AgentMessage::Timer { token });
                });
                if let Some(earlier) = self.timer.replace(timer) {
                    earlier.abort();
                }
            }
            AgentEffect::Disarm => {
                if let Some(timer) = self.timer.take() {
                    timer.abort();
                }
            }
            AgentEffect::Deliver => {
                if let Some(delivery) = self.offers.pop_front() {
                    match self.running.get(&delivery.epoch) {
                        Some(running) if running.instance == delivery.instance => {
                            let epoch = delivery.epoch;
                            self.tell(epoch, InstanceMessage::Deliver(Box::new(delivery)));
                        }
                        _ => self.decline(delivery, "the instance is gone"),
                    }
                }
            }
            AgentEffect::Decline { reason } => {
                if let Some(delivery) = self.offers.pop_front() {
                    self.decline(delivery, &reason);
                }
            }
            AgentEffect::Isolate => self.args.services.isolate(&agent),
            AgentEffect::Release => self.args.services.release(&agent),
            AgentEffect::Seal => self.args.services.seal(&agent),
            AgentEffect::Escalate { reason } => self.args.services.escalate(&agent, &reason),
            AgentEffect::UpgradeDone { error } => self.args.services.upgrade_done(&agent, error),
        }
    }

    async fn spawn(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        version: &str,
        upgraded_from: Option<String>,
    ) {
        let Some(version) = self.partition.state().versions.get(version) else {
            return;
        };
        let live = Arc::new(InstanceLive::default());
        let args = InstanceArgs {
            ctx: Arc::clone(&self.args.ctx),
            services: Arc::clone(&self.args.services),
            owner: self.me.clone(),
            agent: self.args.entry.id.clone(),
            instance,
            epoch,
            manifest: Arc::new(version.manifest.clone()),
            digest: version.digest.clone(),
            upgraded_from,
            live: Arc::clone(&live),
            log: Arc::clone(&self.args.entry.log),
        };
        self.args.ctx.metrics.started();
        let capabilities = BTreeSet::new();
        self.args.entry.put_live(
            instance,
            LiveInstance {
                epoch,
                live,
                capabilities,
            },
        );
        // Its start-up only makes its state, so waiting for it holds up nobody.
        match InstanceActor::spawn_linked(None, InstanceActor, args, self.me.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), (instance, epoch));
                self.running.insert(epoch, Running { instance, actor });
            }
            Err(error) => {
                let failure = Failure::new(FailureClass::Start, error.to_string());
                let ended = AgentMessage::InstanceEnded {
                    instance,
                    epoch,
                    failure: Some(failure),
                };
                let _we_are_here = self.me.cast(ended);
            }
        }
    }
}

/// A refusal as the outside sees it.
fn refused(agent: &AgentId, refusal: &AgentRefusal) -> Problem {
    use mesh_supervision_core::fault::FaultRefusal as F;
    let conflict = |code, text: String| Problem::new(ProblemKind::Conflict, code, text);
    match refusal {
        AgentRefusal::Policy {
            source: F::NotQuarantined,
            ..
        } => conflict(
            "not_in_quarantine",
            format!("Agent {agent} not in quarantine"),
        ),
        AgentRefusal::Policy {
            order,
            source: F::Quarantined,
            ..
        } => conflict(
            "quarantined",
            format!("agent {agent} is in quarantine and cannot be ordered to {order}; use recover"),
        ),
        AgentRefusal::Policy {
            source: F::MaxRetriesExceeded,
            ..
        } => conflict("max_retries_exceeded", "max_retries_exceeded".to_owned()),
        AgentRefusal::Policy {
            order,
            source: F::NextAttemptAt { state, at },
            ..
        } => conflict(
            "will_start_by_itself",
            format!(
                "agent {agent} is in {state} and cannot be ordered to {order}; nextAttemptAt: {}",
                mesh_actors_core::agent::fault::mesh_time(*at)
            ),
        ),
        AgentRefusal::Policy {
            source: F::AlreadyRunning,
            ..
        } => conflict("already_running", refusal.to_string()),
        AgentRefusal::Policy {
            source: F::Terminated,
            ..
        } => conflict("terminated", refusal.to_string()),
        AgentRefusal::Policy { .. } => conflict("illegal_order", refusal.to_string()),
        AgentRefusal::Illegal { .. } => conflict("illegal_step", refusal.to_string()),
        AgentRefusal::Upgrading(_) => conflict("upgrading", refusal.to_string()),
        AgentRefusal::NoVersion(_) => conflict("no_version", refusal.to_string()),
        AgentRefusal::Version(_) => conflict("version_refused", refusal.to_string()),
    }
}
