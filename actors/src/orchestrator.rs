//! The orchestrator: the shell of the task machine.
//!
//! ```text
//!  callers, instances, agents, timers ─► Tasks::decide ─► commit ─► durable ─► deliveries, cancellations, replies
//! ```
//!
//! What an instance reports is answered when it is durable, so that a report whose answer is missing can be repeated; the
//! machine refuses what it has already taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use mesh_actors_core::task::{
    Answer, AttemptRef, Command, Context as Look, FleetChange, Known, Live, Load, Refusal,
    TaskConfig, Tasks,
};
use mesh_messages::budget::BudgetView;
use mesh_messages::claim::Claim;
use mesh_messages::events::partition;
use mesh_messages::gate::ProviderGate;
use mesh_messages::problem::Problem;
use mesh_messages::task::{Task, TaskExplanation};
use mesh_messages::trust::AgentTrust;
use mesh_messages::{AgentId, AttemptNo, Position, TaskId, Timestamp};

use crate::alarms::Alarm;
use crate::clock::{now, random};
use crate::context::Context;
use crate::partition::{Cause, Entry, Led, Partition};
use crate::reads::{self, LookupError};
use crate::store::{JournalNews, OpenStore, follow};

mod backlog;
mod budgets;
mod effects;
mod gates;
mod handle;
mod load;
mod machine;
mod measure;
mod record;
mod released;
mod retired;
mod stock;
mod trail;
mod trust;
mod waiters;

use backlog::{Backlog, closed_to_work};
pub use handle::OrchestratorHandle;
use machine::config_of;
use released::Released;
use trail::{About, Downs, agent_of};
pub use waiters::{End, EndWatch};

type Reply = RpcReplyPort<Result<Answer, Problem>>;

/// What the orchestrator is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum Message {
    /// Decide on something; answered when it is durable.
    Command {
        /// What.
        command: Box<Command>,
        /// By whom.
        cause: Cause,
        /// For whoever waits.
        reply: Option<Reply>,
    },
    /// Take what an instance reports, in order; answered when all of it is durable, or refused for good.
    Reports {
        /// What it says of its attempts.
        reports: Vec<Command>,
        /// For the instance, which repeats what is not answered.
        reply: RpcReplyPort<()>,
    },
    /// Have tasks that have ended stay so; answered with those that have not.
    Retire {
        /// Which.
        tasks: Vec<TaskId>,
        /// For retention.
        reply: RpcReplyPort<BTreeSet<TaskId>>,
    },
    /// Show tasks that are held, with why they wait.
    View {
        /// Which.
        tasks: Vec<TaskId>,
        /// In their order; `None` for one that is not held.
        reply: RpcReplyPort<Vec<Option<Task>>>,
    },
    /// Explain a task that is held.
    Explain {
        /// Which.
        task: TaskId,
        /// `None` when it is not held.
        reply: RpcReplyPort<Option<TaskExplanation>>,
    },
    /// Show who holds which resource, and who waits for it.
    Claims {
        /// By name.
        reply: RpcReplyPort<Vec<Claim>>,
    },
    /// Show how far agents are trusted.
    Trust {
        /// Whom; all when absent.
        agent: Option<AgentId>,
        /// By id, one that is named with its history.
        reply: RpcReplyPort<Vec<AgentTrust>>,
    },
    /// Show the gates before providers' accounts that are not open.
    Gates {
        /// By account.
        reply: RpcReplyPort<Vec<ProviderGate>>,
    },
    /// Show what may be used and what was.
    Budgets {
        /// The one account that is asked for.
        only: Option<String>,
        /// By account.
        reply: RpcReplyPort<Vec<BudgetView>>,
    },
    /// Show an agent's record.
    Stats {
        /// Whose.
        agent: AgentId,
        reply: RpcReplyPort<record::AgentRecord>,
    },
    /// Show how good every agent's verified results are.
    Quality {
        reply: RpcReplyPort<Vec<(AgentId, mesh_actors_core::routing::AgentQuality)>>,
    },
    /// Show how much waits.
    Load { reply: RpcReplyPort<Load> },
    /// Take no new work from outside from now on, and give none out.
    Close,
    /// Something is due.
    Due,
    /// Take in more of the news that were put aside.
    Backlog,
    /// News of the journal.
    Journal(JournalNews),
}

/// What the orchestrator is made of.
#[derive(Debug, Clone)]
pub(crate) struct OrchestratorArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) handle: OrchestratorHandle,
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct Shell {
    args: OrchestratorArgs,
    me: ActorRef<Message>,
    store: Arc<OpenStore>,
    config: TaskConfig,
    partition: Partition<Tasks, Released>,
    live: Live,
    // Which actor each agent had when it was looked at last.
    actors: BTreeMap<AgentId, u64>,
    durable: Option<Position>,
    // Records of the log whose tasks may have been forgotten here: only a read side that shows them all knows better.
    forgotten: u64,
    // The last position of each commit, and how many events of the partition lie before its end: what the read side
    // shows can be forgotten here.
    written: VecDeque<(Position, u64)>,
    timer: Option<(Timestamp, Alarm)>,
    backlog: Backlog,
    retired: retired::Retired,
    downs: Downs,
    follower: JoinHandle<()>,
    closed: bool,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Orchestrator;

impl Actor for Orchestrator {
    type Msg = Message;
    type State = Shell;
    type Arguments = OrchestratorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Message>,
        args: OrchestratorArgs,
    ) -> Result<Shell, ActorProcessingErr> {
        let store = args.ctx.store.get()?;
        // While the read side is made anew, nothing can be forgotten.
        let shown = store.projections.claimed_position().unwrap_or_default();
        let loading = args.ctx.store.load_shown(&store, partition::TASKS, shown);
        let partition: Partition<Tasks, Released> = loading.await?;
        let retired = retired::Retired::load(&args.ctx, &store).await?;
        let follower = follow(&store.journal, me.clone(), Message::Journal);
        let written = partition
            .last()
            .map(|last| (last, partition.state().applied()));
        // A snapshot may have been taken after tasks were forgotten.
        let forgotten = partition.newest().map_or(0, |last| last.0 + 1);
        Ok(Shell {
            config: config_of(&args.ctx),
            me,
            store,
            partition,
            live: Live::default(),
            actors: BTreeMap::new(),
            durable: None,
            forgotten,
            written: written.into_iter().collect(),
            timer: None,
            backlog: Backlog::default(),
            retired,
            downs: Downs::new(),
            follower,
            closed: false,
            args,
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<Message>,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        // From here on the agents' announcements queue up behind this.
        state.args.handle.slot.occupy(me);
        state.take_stock().await
    }

    #[tracing::instrument(level = "debug", name = "orchestrator", skip_all)]
    async fn handle(
        &self,
        _me: ActorRef<Message>,
        message: Message,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message).await
    }

    async fn post_stop(
        &self,
        me: ActorRef<Message>,
        state: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        state.args.handle.slot.vacate(&me);
        state.partition.snapshot_at_end();
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.follower.abort();
        self.args.handle.slot.vacate(&self.me);
    }
}

impl Shell {
    async fn take(&mut self, message: Message) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Command {
                command,
                cause,
                reply,
            } => {
                if let (Command::InstanceDown { key, .. }, Some(position)) =
                    (&*command, cause.cause)
                {
                    self.downs.insert((key.0.clone(), key.2), position);
                }
                let command = match backlog::news(*command) {
                    Ok(news) => return self.heard(news).await,
                    Err(command) => command,
                };
                self.command(command, &cause, reply).await
            }
            Message::Reports { reports, reply } => {
                for report in reports {
                    self.internal(report).await?;
                }
                self.reply_when_durable(Released::Taken(reply)).await
            }
            Message::Retire { tasks, reply } => self.retire_noted(tasks, reply).await,
            // Both wait until what they say can no longer be lost.
            Message::View { tasks, reply } => {
                let views = tasks.iter().map(|task| self.view(task)).collect();
                self.reply_when_durable(Released::Views(views, reply)).await
            }
            Message::Explain { task, reply } => {
                let known = Known::default();
                let why = self
                    .partition
                    .state()
                    .explain(&self.live, self.look(&known), &task);
                self.reply_when_durable(Released::Why(why.map(Box::new), reply))
                    .await
            }
            Message::Claims { reply } => {
                let claims = self.partition.state().claimed().collect();
                let shown = Released::Claims(claims, reply);
                self.reply_when_durable(shown).await
            }
            Message::Trust { agent, reply } => {
                let shown = self.trust_views(agent.as_ref());
                self.reply_when_durable(Released::Trust(shown, reply)).await
            }
            Message::Gates { reply } => self.show_gates(reply).await,
            Message::Budgets { only, reply } => self.show_budgets(only, reply).await,
            Message::Stats { agent, reply } => {
                let record = record::AgentRecord::of(self.partition.state(), &agent);
                let _caller_gone = reply.send(record);
                Ok(())
            }
            Message::Quality { reply } => {
                let all = self.partition.state().qualities().all();
                let _caller_gone = reply.send(all.map(|(id, q)| (id.clone(), q.clone())).collect());
                Ok(())
            }
            Message::Load { reply } => {
                let _caller_gone = reply.send(self.load_now());
                Ok(())
            }
            Message::Close => {
                self.closed = true;
                for entry in self.args.ctx.directory.all() {
                    let change = FleetChange::Agent(entry.id.clone(), Box::new(entry.fleet()));
                    self.internal(Command::Fleet(change)).await?;
                }
                Ok(())
            }
            Message::Due => {
                self.timer = None;
                self.internal(Command::Tick).await
            }
            Message::Backlog => self.work_off().await,
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

    async fn reply_when_durable(&mut self, reply: Released) -> Result<(), ActorProcessingErr> {
        self.partition
            .commit_applied(Vec::new(), &Cause::meshd(), vec![reply])
            .await?;
        self.release();
        Ok(())
    }

    /// A task that is held, as it stands.
    fn view(&self, task: &TaskId) -> Option<Task> {
        let known = Known::default();
        let state = self.partition.state();
        state.view(&self.live, self.look(&known), task)
    }

    fn look<'a>(&'a self, known: &'a Known) -> Look<'a> {
        Look {
            now: now(),
            random: random(),
            config: &self.config,
            known,
        }
    }

    async fn internal(&mut self, command: Command) -> Result<(), ActorProcessingErr> {
        self.command(command, &Cause::meshd(), None).await
    }

    async fn command(
        &mut self,
        command: Command,
        cause: &Cause,
        mut reply: Option<Reply>,
    ) -> Result<(), ActorProcessingErr> {
        let command = if self.closed {
            closed_to_work(command)
        } else {
            command
        };
        if let Err(problem) = self.admit(&command) {
            answer(reply.take(), Err(problem));
            return Ok(());
        }
        // What is ruled is recorded with what it is ruled on, so a replay needs no policy.
        self.config.policy = self.args.ctx.policy.load_full();
        let mut next = Some(command);
        while let Some(command) = next.take() {
            let repeat = matches!(command, Command::Recover | Command::Reconcile { .. })
                .then(|| command.clone());
            let known = match self.known(&command) {
                Ok(known) => known,
                Err(LookupError::Behind) => {
                    self.when_known(command, cause.clone(), reply.take());
                    break;
                }
                Err(error) => {
                    answer(reply.take(), Err(error.into()));
                    break;
                }
            };
            let name = command.name();
            let about = About::of(&command);
            let look = Look {
                now: now(),
                random: random(),
                config: &self.config,
                known: &known,
            };
            let decided = self
                .partition
                .state_mut()
                .decide(&mut self.live, command, look);
            let decision = match decided {
                Ok(decision) => decision,
                Err(refusal) => {
                    self.note_refusal(name, &refusal);
                    answer(reply.take(), Err(refusal.into()));
                    break;
                }
            };
            self.measure(&decision.events);
            let led = self.led(&decision.events, &about, cause);
            let correlation_of = |led: &Led| led.by.as_ref().unwrap_or(cause).correlation.clone();
            let noted = decision.events.iter().zip(&led);
            let noted: Vec<_> = noted
                .map(|((task, _), led)| (task.clone(), correlation_of(led)))
                .collect();
            let beside = self.entries_beside(decision.trust, decision.accounts, cause);
            let changes = beside.len() as u64;
            let accepts = load::accepts(&decision.events);
            let entries: Vec<_> = decision
                .events
                .into_iter()
                .zip(led)
                .map(|((task, event), led)| Entry {
                    agent: agent_of(&event),
                    task: Some(task),
                    event,
                    led,
                })
                .chain(beside)
                .collect();
            let mut effects: Vec<_> = decision
                .effects
                .into_iter()
                .map(|e| Released::Effect(Box::new(e)))
                .chain(accepts.then_some(Released::Accepted))
                .collect();
            if matches!(decision.answer, Answer::Stale) {
                self.args.ctx.metrics.refused("stale_attempt");
            }
            if let Some(reply) = reply.take() {
                effects.push(Released::Answer(decision.answer, reply));
            }
            if let Some(last) = self
                .partition
                .commit_applied(entries, cause, effects)
                .await?
            {
                self.note_trail(noted, Position(last.0.saturating_sub(changes)));
                self.written
                    .push_back((last, self.partition.state().applied()));
            }
            if decision.more {
                match repeat {
                    Some(command) => next = Some(command),
                    None => self.me.cast(Message::Due)?,
                }
            }
        }
        self.release();
        self.arm();
        Ok(())
    }

    /// New work is refused while the disk is full or meshd is about to end; what is under way goes on.
    fn admit(&self, command: &Command) -> Result<(), Problem> {
        if !command.is_new_work() {
            return Ok(());
        }
        self.check_retired(command)?;
        if self.closed && !matches!(command, Command::Delegate { .. }) {
            return Err(Problem::unavailable(
                "shutting_down",
                "meshd is shutting down; try again",
            ));
        }
        self.store
            .journal
            .admission()
            .map_err(|full| Problem::unavailable("read_only", full.to_string()).retry_after(5))
    }

    /// What the read side knows of tasks that are no longer held here.
    ///
    /// # Errors
    /// It does not know yet: it is being rebuilt.
    fn known(&mut self, command: &Command) -> Result<Known, LookupError> {
        let lookups = self.partition.state().lookups(command);
        let mut known = Known {
            removing: self.removing(command),
            ..Known::default()
        };
        if lookups.tasks.is_empty() && lookups.keys.is_empty() {
            return Ok(known);
        }
        if reads::is_behind(&self.store, self.forgotten) {
            return Err(LookupError::Behind);
        }
        for task in lookups.tasks {
            if let Some(record) = reads::task_record(&self.store, &task)? {
                known.tasks.insert(task, record);
            }
        }
        for (by, key) in lookups.keys {
            if let Some(record) = reads::task_by_key(&self.store, &by, &key)? {
                known.keys.insert((by, key), record);
            }
        }
        Ok(known)
    }

    /// Decides on something as soon as the read side knows what it takes.
    fn when_known(&self, command: Command, cause: Cause, reply: Option<Reply>) {
        let me = self.me.clone();
        reads::when_caught_up(&self.store, move |there| {
            if let Err(error) = there {
                return answer(reply, Err(error.into()));
            }
            let command = Box::new(command);
            // If we ended meanwhile, the caller learns it from the reply that is dropped.
            let _ended = me.cast(Message::Command {
                command,
                cause,
                reply,
            });
        });
    }

    fn note_refusal(&self, command: &'static str, refusal: &Refusal) {
        if matches!(refusal, Refusal::Stale(_)) {
            self.args.ctx.metrics.refused("stale_attempt");
        }
        tracing::debug!(command, %refusal, "refused");
    }

    fn arm(&mut self) {
        let of_tasks = self.partition.state().next_timer();
        let due = of_tasks.into_iter().chain(self.live.next_timer()).min();
        if self.timer.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        self.timer = due.map(|at| {
            let me = self.me.clone();
            let alarm = self.args.ctx.alarms.set(at, move || {
                let _gone = me.cast(Message::Due);
            });
            (at, alarm)
        });
    }
}

fn answer(reply: Option<Reply>, value: Result<Answer, Problem>) {
    if let Some(reply) = reply {
        let _caller_gone = reply.send(value);
    }
}

/// Names an attempt as the machine does.
pub(crate) fn attempt_ref(
    task: TaskId,
    attempt: AttemptNo,
    epoch: mesh_messages::Epoch,
) -> AttemptRef {
    AttemptRef {
        task,
        attempt,
        epoch,
    }
}
