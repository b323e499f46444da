//! Workflows: the shell of the machine that decides on runs.
//!
//! ```text
//!  callers, ends of tasks, alarms ─► Workflows::decide ─► commit ─► durable ─► tasks submitted, services called, replies
//! ```
//!
//! What a step needs is asked of the orchestrator after its event is durable, under an id that follows from the run. So a
//! restart asks for everything again that has not ended: what is there already is found, what has ended meanwhile is told,
//! and what never arrived is begun. Nothing here is waited for in a handler.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use mesh_actors_core::workflow::{
    Answer, Command, Effect, PlanCommand, ScheduleCommand, Workflows,
};
use mesh_messages::events::{WorkflowEvent, partition};
use mesh_messages::plan::StoredPlan;
use mesh_messages::problem::Problem;
use mesh_messages::schedule::Schedule;
use mesh_messages::workflow::{StepState, UnitOutcome, WorkflowDocument, WorkflowRun};
use mesh_messages::{
    Failure, FailureClass, PlanId, Position, RecordHeader, ScheduleId, TaskId, Timestamp,
    WorkflowRunId,
};

use crate::alarms::Alarm;
use crate::clock::now;
use crate::context::Context;
use crate::orchestrator::OrchestratorHandle;
use crate::partition::{Cause, Entry, Machine, Partition};
use crate::reads;
use crate::registry::RegistryHandle;
use crate::sentinel::SentinelHandle;
use crate::store::{JournalNews, OpenStore, follow};

mod handle;
mod service;
mod trail;
mod work;

pub use handle::WorkflowsHandle;

/// Steps that are being asked of the orchestrator at once: more would only wait there.
const ASKS_MAX: usize = 256;
/// How long after ends of tasks were missed all open ones are asked for: under such load more will be missed.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// Service calls at once.
const CALLS_MAX: usize = 64;

impl Machine for Workflows {
    type Event = WorkflowEvent;

    fn kind(event: &WorkflowEvent) -> &'static str {
        event.kind()
    }

    fn apply(&mut self, header: &RecordHeader, event: &WorkflowEvent) {
        Self::apply(self, event);
        if let Some(run) = event.run() {
            self.note(run, header.position, header.correlation.as_deref());
        }
    }
}

type Reply = RpcReplyPort<Result<Answer, Problem>>;

/// What the actor is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum Message {
    /// Decide on something; answered when it is durable.
    Command {
        /// What.
        command: Box<Command>,
        /// By whom.
        by: Cause,
        /// For whoever waits.
        reply: Option<Reply>,
    },
    /// Show a run that is held; waits until what it says can no longer be lost.
    View {
        /// Which.
        run: WorkflowRunId,
        /// `None` when it is not held.
        reply: RpcReplyPort<Option<WorkflowRun>>,
    },
    /// The newest document of a name.
    Named {
        /// Which name.
        name: String,
        /// `None` when there is none.
        reply: RpcReplyPort<Option<Arc<WorkflowDocument>>>,
    },
    /// Show schedules that are held: one with its document, or all without; waits like `View`.
    Schedules {
        /// Which; all when absent.
        id: Option<ScheduleId>,
        /// Empty when there is none.
        reply: RpcReplyPort<Vec<Schedule>>,
    },
    /// Show plans that are held: one with its earlier versions, or all without; waits like `View`.
    Plans {
        /// Which; all when absent.
        id: Option<PlanId>,
        /// Empty when there is none.
        reply: RpcReplyPort<Vec<StoredPlan>>,
    },
    /// The orchestrator has a task of a step.
    Taken(TaskId),
    /// A task has ended; it may be one of a step.
    TaskEnded(TaskId),
    /// Ends of tasks were missed.
    Missed,
    /// Ask for every open task how it stands.
    Sweep,
    /// Something is due.
    Due,
    /// News of the journal.
    Journal(JournalNews),
}

/// What is released when the journal has it.
#[derive(Debug)]
enum Released {
    Effect(Effect),
    Answer(Answer, Reply),
    View(Option<Box<WorkflowRun>>, RpcReplyPort<Option<WorkflowRun>>),
    Schedules(Vec<Schedule>, RpcReplyPort<Vec<Schedule>>),
    Plans(Vec<StoredPlan>, RpcReplyPort<Vec<StoredPlan>>),
}

/// What the actor is made of.
#[derive(Debug, Clone)]
pub(crate) struct WorkflowsArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) handle: WorkflowsHandle,
    pub(crate) orchestrator: OrchestratorHandle,
    pub(crate) sentinel: SentinelHandle,
    pub(crate) registry: RegistryHandle,
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct Shell {
    args: WorkflowsArgs,
    me: ActorRef<Message>,
    store: Arc<OpenStore>,
    partition: Partition<Workflows, Released>,
    durable: Option<Position>,
    // As in the orchestrator: what may have been forgotten here, and what may be once the read side shows it.
    forgotten: u64,
    written: VecDeque<(Position, u64)>,
    timer: Option<(Timestamp, Alarm)>,
    watchers: [JoinHandle<()>; 2],
    // Tasks on their way to the orchestrator, and why they are to be ended once they are there.
    submitting: BTreeMap<TaskId, Option<String>>,
    calls: BTreeMap<TaskId, AbortHandle>,
    // Ended with the actor: the next one asks again.
    work: JoinSet<()>,
    asks: Arc<Semaphore>,
    call_slots: Arc<Semaphore>,
    // Whether a look at all open tasks is about to begin.
    sweeping: bool,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct WorkflowsActor;

impl Actor for WorkflowsActor {
    type Msg = Message;
    type State = Shell;
    type Arguments = WorkflowsArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Message>,
        args: WorkflowsArgs,
    ) -> Result<Shell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        // Before the state is read: an end that comes after that is told.
        let ends = watch_ends(args.orchestrator.ends(), me.clone());
        let partition: Partition<Workflows, Released> =
            args.ctx.store.load(&store, partition::WORKFLOWS).await?;
        let follower = follow(&store.journal, me.clone(), Message::Journal);
        let written = partition
            .last()
            .map(|last| (last, partition.state().applied()));
        let forgotten = partition.newest().map_or(0, |last| last.0 + 1);
        Ok(Shell {
            me,
            store,
            partition,
            durable: None,
            forgotten,
            written: written.into_iter().collect(),
            timer: None,
            watchers: [ends, follower],
            submitting: BTreeMap::new(),
            calls: BTreeMap::new(),
            work: JoinSet::new(),
            asks: Arc::new(Semaphore::new(ASKS_MAX)),
            call_slots: Arc::new(Semaphore::new(CALLS_MAX)),
            sweeping: false,
            args,
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<Message>,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.handle.slot.occupy(me);
        // What was open before is asked for again, and what follows from the last events is decided if it was not.
        let open = state.partition.state().open_work();
        state
            .after_last(open.into_iter().map(Released::Effect).collect())
            .await?;
        state.partition.state_mut().look_again();
        state.command(Command::Tick, &Cause::meshd(), None).await
    }

    #[tracing::instrument(level = "debug", name = "workflows", skip_all)]
    async fn handle(
        &self,
        _me: ActorRef<Message>,
        message: Message,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        while state.work.try_join_next().is_some() {}
        state.take(message).await
    }

    async fn post_stop(
        &self,
        me: ActorRef<Message>,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.handle.slot.vacate(&me);
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
        self.args.handle.slot.vacate(&self.me);
    }
}

/// Tells the actor of the ends of tasks that may be its own, by the form of their ids.
fn watch_ends(mut ends: broadcast::Receiver<TaskId>, me: ActorRef<Message>) -> JoinHandle<()> {
    ractor::concurrency::spawn(async move {
        loop {
            let told = match ends.recv().await {
                Ok(task) if task.as_str().starts_with("w-") => me.cast(Message::TaskEnded(task)),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(_)) => me.cast(Message::Missed),
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if told.is_err() {
                return;
            }
        }
    })
}

impl Shell {
    async fn take(&mut self, message: Message) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Command { command, by, reply } => self.command(*command, &by, reply).await,
            Message::View { run, reply } => {
                let state = self.partition.state();
                let view = state.run(&run).map(|run| Box::new(state.view(run)));
                self.after_last(vec![Released::View(view, reply)]).await
            }
            Message::Schedules { id, reply } => {
                let state = self.partition.state();
                let shown = match id {
                    Some(id) => state.schedule(&id).into_iter().collect(),
                    None => state.schedules(),
                };
                self.after_last(vec![Released::Schedules(shown, reply)])
                    .await
            }
            Message::Plans { id, reply } => {
                let state = self.partition.state();
                let shown = match id {
                    Some(id) => state.stored_plan(&id).into_iter().collect(),
                    None => state.plans(),
                };
                self.after_last(vec![Released::Plans(shown, reply)]).await
            }
            Message::Named { name, reply } => {
                let _caller_gone = reply.send(self.partition.state().named(&name));
                Ok(())
            }
            Message::Taken(task) => {
                if let Some(Some(reason)) = self.submitting.remove(&task) {
                    self.settle(task, reason);
                }
                Ok(())
            }
            Message::TaskEnded(task) => {
                if self.partition.state().is_open(&task) {
                    self.learn(task);
                }
                Ok(())
            }
            Message::Missed => {
                // However much is missed meanwhile, one look afterwards sees it all.
                if !self.sweeping {
                    self.sweeping = true;
                    let me = self.me.clone();
                    self.work.spawn(async move {
                        tokio::time::sleep(SWEEP_PAUSE).await;
                        let _gone = me.cast(Message::Sweep);
                    });
                }
                Ok(())
            }
            Message::Sweep => {
                self.sweeping = false;
                let open = self.partition.state().open_work();
                for effect in open {
                    if let Effect::Submit(job) = effect {
                        self.learn(job.task);
                    }
                }
                Ok(())
            }
            Message::Due => {
                self.timer = None;
                self.command(Command::Tick, &Cause::meshd(), None).await
            }
            Message::Journal(JournalNews::Durable(position)) => {
                self.durable = Some(position);
                self.release();
                self.forget();
                self.partition.snapshot_when_due(self.durable);
                Ok(())
            }
            Message::Journal(JournalNews::Failed(reason)) => {
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }

    async fn after_last(&mut self, released: Vec<Released>) -> Result<(), ActorProcessingErr> {
        self.partition
            .commit_applied(Vec::new(), &Cause::meshd(), released)
            .await?;
        self.release();
        Ok(())
    }

    async fn command(
        &mut self,
        command: Command,
        by: &Cause,
        mut reply: Option<Reply>,
    ) -> Result<(), ActorProcessingErr> {
        if self.is_behind(&command) {
            self.when_known(command, by.clone(), reply);
            return Ok(());
        }
        if let Some(answered) = self.look_up(&command) {
            if let Some(reply) = reply {
                let _caller_gone = reply.send(answered);
            }
            return Ok(());
        }
        if let Command::Ended { task, .. } = &command {
            self.submitting.remove(task);
            self.calls.remove(task);
        }
        let mut next = Some(command);
        while let Some(command) = next.take() {
            let decision = match self.partition.state_mut().decide(command, now()) {
                Ok(decision) => decision,
                Err(refusal) => {
                    if let Some(reply) = reply.take() {
                        let _caller_gone = reply.send(Err(refusal.into()));
                    }
                    break;
                }
            };
            let (led, noted) = self.led(&decision.events, by);
            let entries = decision.events.into_iter().zip(led);
            let entries = entries.map(|(event, led)| Entry {
                agent: None,
                task: None,
                event,
                led,
            });
            let mut released: Vec<_> = decision.effects.into_iter().map(Released::Effect).collect();
            if let Some(reply) = reply.take() {
                released.push(Released::Answer(decision.answer, reply));
            }
            let entries = entries.collect();
            if let Some(last) = self.partition.commit_applied(entries, by, released).await? {
                self.note_trail(noted, last);
                self.written
                    .push_back((last, self.partition.state().applied()));
            }
            next = decision.more.then_some(Command::Tick);
        }
        self.release();
        self.arm();
        Ok(())
    }

    /// What need not be decided: meshd takes nothing new now, or the read side knows the run better.
    fn look_up(&self, command: &Command) -> Option<Result<Answer, Problem>> {
        match command {
            Command::Start(new) => {
                if let Some(key) = &new.key
                    && self.partition.state().by_key(&new.by, key).is_none()
                {
                    match self.past_key(&new.by, key) {
                        Err(problem) => return Some(Err(problem)),
                        Ok(Some((id, request))) => {
                            let same = request == new.request;
                            return Some(if same {
                                Ok(Answer::Run { id, replayed: true })
                            } else {
                                let taken = mesh_actors_core::workflow::Refusal::KeyTaken {
                                    key: key.clone(),
                                    run: id,
                                };
                                Err(taken.into())
                            });
                        }
                        Ok(None) => {}
                    }
                }
                self.full()
            }
            // What takes something away is done with a full disk, too.
            Command::Schedule(ScheduleCommand::Create(_))
            | Command::Plan(PlanCommand::Write(_) | PlanCommand::Start { .. }) => self.full(),
            Command::Schedule(_)
            | Command::Plan(PlanCommand::Remove { .. })
            | Command::Ended { .. }
            | Command::Drafted { .. }
            | Command::Cancel { .. }
            | Command::Tick => None,
        }
    }

    fn full(&self) -> Option<Result<Answer, Problem>> {
        let full = self.store.journal.admission().err()?;
        Some(Err(
            Problem::unavailable("read_only", full.to_string()).retry_after(5)
        ))
    }

    /// Whether only the read side can know what was started with this key, and it does not yet.
    fn is_behind(&self, command: &Command) -> bool {
        let Command::Start(new) = command else {
            return false;
        };
        let held = |key: &String| self.partition.state().by_key(&new.by, key).is_some();
        if new.key.as_ref().is_none_or(held) {
            return false;
        }
        reads::is_behind(&self.store, self.forgotten)
    }

    /// Decides on something as soon as the read side knows what it takes.
    fn when_known(&self, command: Command, by: Cause, reply: Option<Reply>) {
        let me = self.me.clone();
        reads::when_caught_up(&self.store, move |there| {
            if let Err(error) = there {
                if let Some(reply) = reply {
                    let _caller_gone = reply.send(Err(error.into()));
                }
                return;
            }
            let command = Box::new(command);
            // If we ended meanwhile, the caller learns it from the reply that is dropped.
            let _ended = me.cast(Message::Command { command, by, reply });
        });
    }

    fn past_key(&self, by: &str, key: &str) -> Result<Option<(WorkflowRunId, String)>, Problem> {
        Ok(reads::workflow_key(&self.store, by, key)?)
    }

    fn release(&mut self) {
        for released in self.partition.released(self.durable) {
            match released {
                Released::Answer(answer, reply) => {
                    let _caller_gone = reply.send(Ok(answer));
                }
                Released::View(view, reply) => {
                    let _caller_gone = reply.send(view.map(|view| *view));
                }
                Released::Plans(shown, reply) => {
                    let _caller_gone = reply.send(shown);
                }
                Released::Schedules(shown, reply) => {
                    let _caller_gone = reply.send(shown);
                }
                Released::Effect(effect) => self.perform(effect),
            }
        }
    }

    /// Forgets ended runs that the read side shows by now.
    fn forget(&mut self) {
        let Ok(shown) = self.store.projections.next_position() else {
            return;
        };
        while self.written.front().is_some_and(|(last, _)| last.0 < shown) {
            if let Some((last, events)) = self.written.pop_front() {
                self.forgotten = self.forgotten.max(last.0 + 1);
                self.partition.state_mut().evict(events);
            }
        }
    }

    fn arm(&mut self) {
        let due = self.partition.state().next_timer();
        if self.timer.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        self.timer = due.map(|at| {
            let me = self.me.clone();
            // By the wall clock, which schedules are about: it may be set while they wait.
            let alarm = self.args.ctx.alarms.set(at, move || {
                let _gone = me.cast(Message::Due);
            });
            (at, alarm)
        });
    }
}

/// How something ended that was ended before it began.
fn never_begun(reason: &str) -> UnitOutcome {
    UnitOutcome::Failed {
        state: StepState::Cancelled,
        error: Failure::new(FailureClass::Cancelled, reason),
    }
}
