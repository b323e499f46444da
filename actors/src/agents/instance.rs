//! One incarnation of one replica: owns the sandboxed process (or the native behaviour) and its session.
//!
//! ```text
//!  Starting ──handshake, hooks──► Ready ──stop──► Draining ──idle, or late──► Stopping ──► gone
//!     └── late, refused, exits ──► gone              (kill: from anywhere, at once)
//! ```
//!
//! Whatever ends it, it tells its agent's actor exactly once, and by then nothing of its process tree is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use mesh_messages::klp::{ControlVerb, Envelope};
use mesh_messages::manifest::{AgentManifest, RuntimeKind};
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, TaskId, Timestamp,
};
use mesh_sandbox::{Child, ExitStatus};

use super::agent::AgentMessage;
use super::delivery::{ChildOutcome, Delivery, Mail};
use super::lines::{Input, LINES_IN_MAX, LINES_OUT_MAX, WriteEnd, read_lines, write_lines};
use super::live::{InstanceLive, LogTail};
use super::process::{exit_failure, launch};
use super::services::Services;
use super::spawn::{Start, plan_start};
use crate::clock::now;
use crate::context::Context;

mod flights;
mod session;
mod work;

/// How long a process may live on after it closed its output, before it is ended.
const MUTE_MAX: Duration = Duration::from_secs(2);
/// Malformed lines of one incarnation after which it counts as flooding.
const BAD_LINES_MAX: u64 = 1000;

/// What an instance is made of.
#[derive(Debug)]
pub(crate) struct InstanceArgs {
    pub(crate) ctx: Arc<Context>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) owner: ActorRef<AgentMessage>,
    pub(crate) agent: AgentId,
    pub(crate) instance: InstanceNo,
    pub(crate) epoch: Epoch,
    pub(crate) manifest: Arc<AgentManifest>,
    pub(crate) digest: String,
    pub(crate) upgraded_from: Option<String>,
    pub(crate) live: Arc<InstanceLive>,
    pub(crate) log: Arc<LogTail>,
}

/// What an instance is told.
#[derive(Debug, RactorMessage)]
pub(crate) enum InstanceMessage {
    /// Do this attempt. Refused unless ready.
    Deliver(Box<Delivery>),
    /// Give up an attempt.
    CancelAttempt {
        /// Of which task.
        task: TaskId,
        /// Which one.
        attempt: AttemptNo,
        /// Why; the failure its process ends with if it does not let go.
        reason: Failure,
    },
    /// A delegated task ended.
    Child(Box<ChildOutcome>),
    /// A message for the agent.
    Mail(Mail),
    /// A hook of the agent's life that waits for nothing, such as `pause`.
    Control(ControlVerb),
    /// Finish what is in hand, then end.
    Drain,
    /// End at once.
    Kill,
    /// The sandbox stands, or not. From the start-up task.
    Launched(Box<Launched>),
    /// A line came. From the reader.
    Line(Input),
    /// A line is to be written. From side tasks.
    Write(Vec<u8>),
    /// The agent does not read, or has closed its input. From the writer.
    WriterEnded(WriteEnd),
    /// The process is gone, all of it. From the waiter.
    Exited(ExitStatus),
    /// A process of a `command` task is gone. From its runner.
    TaskExited {
        /// Its task.
        task: TaskId,
        /// Its attempt.
        attempt: AttemptNo,
        /// What came of it.
        result: Result<serde_json::Value, Failure>,
    },
    /// Something is due.
    Due,
}

/// What the start-up task brings.
#[derive(Debug)]
pub(crate) struct Launched(pub(crate) Result<(Child, super::process::Pipes, Option<u32>), Failure>);

/// An attempt in hand.
#[derive(Debug)]
struct Flight {
    attempt: AttemptNo,
    /// When the process is ended because the agent did not give the attempt up, and what it ends with.
    give_up: Option<(Timestamp, Failure)>,
}

/// A `CONTROL` that waits for its answer.
#[derive(Debug)]
struct Asked {
    verb: ControlVerb,
    until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Draining { until: Timestamp },
    Stopping { until: Timestamp },
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct Session {
    args: InstanceArgs,
    me: ActorRef<InstanceMessage>,
    phase: Phase,
    start_until: Timestamp,
    child: Option<Child>,
    out: Option<mpsc::Sender<Vec<u8>>>,
    lines: Arc<Semaphore>,
    hooks: BTreeSet<ControlVerb>,
    // Hooks still to be called before it is ready, in order.
    opening: Vec<(ControlVerb, serde_json::Value)>,
    asked: BTreeMap<String, Asked>,
    flights: BTreeMap<TaskId, Flight>,
    running: BTreeMap<TaskId, work::Running>,
    mail: BTreeMap<String, oneshot::Sender<Envelope>>,
    // Hands were shaken.
    shook: bool,
    next_id: u64,
    bad_lines: u64,
    last_life: Timestamp,
    next_health: Option<Timestamp>,
    mute_until: Option<Timestamp>,
    // What we ended it for; its exit status then says nothing.
    verdict: Option<Failure>,
    ended: bool,
    timer: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct InstanceActor;

impl Actor for InstanceActor {
    type Msg = InstanceMessage;
    type State = Session;
    type Arguments = InstanceArgs;

    async fn pre_start(
        &self,
        me: ActorRef<InstanceMessage>,
        args: InstanceArgs,
    ) -> Result<Session, ActorProcessingErr> {
        let start_until = now().plus(args.ctx.settings.start_timeout);
        Ok(Session {
            me,
            phase: Phase::Starting,
            start_until,
            child: None,
            out: None,
            lines: Arc::new(Semaphore::new(LINES_IN_MAX)),
            hooks: BTreeSet::new(),
            opening: Vec::new(),
            asked: BTreeMap::new(),
            flights: BTreeMap::new(),
            running: BTreeMap::new(),
            mail: BTreeMap::new(),
            shook: false,
            next_id: 0,
            bad_lines: 0,
            last_life: now(),
            next_health: None,
            mute_until: None,
            verdict: None,
            ended: false,
            timer: None,
            tasks: Vec::new(),
            args,
        })
    }

    async fn post_start(
        &self,
        _me: ActorRef<InstanceMessage>,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        match state.args.manifest.resolved_runtime().kind {
            RuntimeKind::Klp => state.start_process(),
            RuntimeKind::Command => state.start_command(),
            RuntimeKind::Native => state.start_native(),
        }
        state.arm();
        Ok(())
    }

    #[tracing::instrument(
        level = "debug",
        name = "instance",
        skip_all,
        fields(agent = %state.args.agent, instance = %state.args.instance, epoch = %state.args.epoch)
    )]
    async fn handle(
        &self,
        me: ActorRef<InstanceMessage>,
        message: InstanceMessage,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message);
        if state.ended {
            me.stop(None);
        } else {
            state.arm();
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _me: ActorRef<InstanceMessage>,
        state: &mut Session,
    ) -> Result<(), ActorProcessingErr> {
        state.release();
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Also when the actor was killed or panicked, which skips `post_stop`; the child ends its tree by itself.
        self.release();
    }
}

impl Session {
    fn take(&mut self, message: InstanceMessage) {
        match message {
            InstanceMessage::Deliver(delivery) => self.deliver(*delivery),
            InstanceMessage::CancelAttempt {
                task,
                attempt,
                reason,
            } => {
                self.cancel_attempt(&task, attempt, reason);
            }
            InstanceMessage::Child(outcome) => self.child_ended(*outcome),
            InstanceMessage::Mail(mail) => self.mail(mail),
            InstanceMessage::Control(verb) => {
                if self.hooks.contains(&verb) {
                    self.control(verb, serde_json::Value::Null, None, None);
                }
            }
            InstanceMessage::Drain => self.drain(),
            InstanceMessage::Kill => self.kill(None),
            InstanceMessage::Launched(launched) => self.launched(*launched),
            InstanceMessage::Line(input) => self.input(input),
            InstanceMessage::Write(line) => self.write(line),
            InstanceMessage::WriterEnded(WriteEnd::Stalled) => self.kill(Some(Failure::new(
                FailureClass::Hang,
                "does not read its input",
            ))),
            InstanceMessage::WriterEnded(WriteEnd::Closed) => self.out = None,
            InstanceMessage::Exited(status) => self.exited(status),
            InstanceMessage::TaskExited {
                task,
                attempt,
                result,
            } => {
                self.task_exited(&task, attempt, result);
            }
            InstanceMessage::Due => self.due(),
        }
    }

    /// Runs a task that ends with this instance.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.retain(|t| !t.is_finished());
        self.tasks.push(ractor::concurrency::spawn(task));
    }

    fn start_process(&mut self) {
        let (ctx, me) = (Arc::clone(&self.args.ctx), self.me.clone());
        let (manifest, digest) = (Arc::clone(&self.args.manifest), self.args.digest.clone());
        let (instance, epoch) = (self.args.instance, self.args.epoch);
        self.spawn(async move {
            let planned = {
                let ctx = Arc::clone(&ctx);
                tokio::task::spawn_blocking(move || {
                    let start = Start {
                        manifest: &manifest,
                        digest: &digest,
                        instance,
                        epoch,
                        process: 0,
                    };
                    plan_start(&ctx, start)
                })
            };
            let result = match planned.await {
                Ok(Ok(plan)) => {
                    let uid = plan.spec().ids.map(|ids| ids.uid);
                    launch(&ctx.launcher, plan)
                        .await
                        .map(|(child, pipes)| (child, pipes, uid))
                }
                Ok(Err(refusal)) => Err(Failure::new(FailureClass::Start, refusal.to_string())),
                Err(_) => Err(Failure::new(FailureClass::Start, "the start was given up")),
            };
            // A dropped answer drops the child, which ends it.
            let _gone = me.cast(InstanceMessage::Launched(Box::new(Launched(result))));
        });
    }

    fn launched(&mut self, Launched(result): Launched) {
        let (child, pipes, uid) = match result {
            Ok(started) => started,
            Err(failure) => return self.finish(Some(failure)),
        };
        let handle = child.handle();
        self.args.live.set_process(Some(handle.clone()), uid);
        self.child = Some(child);
        let (tx, rx) = mpsc::channel(LINES_OUT_MAX);
        self.out = Some(tx);
        let me = self.me.clone();
        self.spawn(async move {
            let end = write_lines(pipes.stdin, rx).await;
            let _gone = me.cast(InstanceMessage::WriterEnded(end));
        });
        let (me, lines) = (self.me.clone(), Arc::clone(&self.lines));
        let rate = self.args.ctx.settings.agent_rate;
        self.spawn(read_lines(pipes.stdout, lines, rate, move |input| {
            me.cast(InstanceMessage::Line(input)).is_ok()
        }));
        self.spawn(super::lines::read_log(
            pipes.stderr,
            self.args.ctx.settings.agent_rate,
            self.log_sink(),
        ));
        let me = self.me.clone();
        // Not among the tasks that end with the instance's work: it brings the end.
        self.spawn(async move {
            let status = handle.wait().await;
            let _gone = me.cast(InstanceMessage::Exited(status));
        });
        if self.verdict.is_some() || matches!(self.phase, Phase::Stopping { .. }) {
            self.kill(None);
        }
    }

    /// Where lines of the agent's log go: to the tail that people look at, and to meshd's own log.
    fn log_sink(&self) -> impl FnMut(Vec<u8>) + Send + use<> {
        let (log, agent) = (Arc::clone(&self.args.log), self.args.agent.clone());
        let (instance, epoch) = (self.args.instance, self.args.epoch);
        move |line| {
            let text = String::from_utf8_lossy(&line);
            tracing::debug!(target: "agent", %agent, %instance, %epoch, "{text}");
            log.push(now(), instance, epoch, &line);
        }
    }

    fn exited(&mut self, status: ExitStatus) {
        let failure = match (self.verdict.take(), self.phase) {
            (Some(verdict), _) => Some(verdict),
            (None, Phase::Stopping { .. } | Phase::Draining { .. }) => None,
            (None, Phase::Starting) => {
                let failure = exit_failure(status);
                let class = if failure.class == FailureClass::Resource {
                    FailureClass::Resource
                } else {
                    FailureClass::Start
                };
                Some(Failure::new(
                    class,
                    format!("before its handshake: {}", failure.message),
                ))
            }
            (None, Phase::Ready) => Some(exit_failure(status)),
        };
        self.finish(failure);
    }

    /// Ends, and tells the owner how. Nothing of the process is alive any more.
    fn finish(&mut self, failure: Option<Failure>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.args.live.set_process(None, None);
        self.args.live.set_tasks(Vec::new());
        let ended = AgentMessage::InstanceEnded {
            instance: self.args.instance,
            epoch: self.args.epoch,
            failure,
        };
        let _owner_gone = self.args.owner.cast(ended);
    }

    /// Ends the process tree now. With a verdict, that is what it ended for; without one, it was told to.
    fn kill(&mut self, verdict: Option<Failure>) {
        match verdict {
            Some(verdict) => {
                self.verdict.get_or_insert(verdict);
            }
            None => self.phase = Phase::Stopping { until: now() },
        }
        self.running.clear();
        if let Some(child) = &self.child {
            if let Err(error) = child.kill() {
                tracing::error!(agent = %self.args.agent, epoch = %self.args.epoch, %error, "cannot kill");
            }
        } else {
            // The start-up task is at work; what it brings is dropped with it. Without one, there is no process.
            let verdict = self.verdict.take();
            self.finish(verdict);
        }
    }

    fn drain(&mut self) {
        match self.phase {
            Phase::Ready if !self.flights.is_empty() => {
                self.phase = Phase::Draining {
                    until: now().plus(self.args.ctx.settings.drain_timeout),
                };
            }
            Phase::Ready => self.shut_down(),
            Phase::Starting => self.kill(None),
            Phase::Draining { .. } | Phase::Stopping { .. } => {}
        }
    }

    /// Tells the agent to end; it is ended when it does not.
    fn shut_down(&mut self) {
        let limit = self.args.ctx.settings.stop_timeout;
        self.phase = Phase::Stopping {
            until: now().plus(limit),
        };
        if self.child.is_none() {
            return self.finish(None);
        }
        self.control(
            ControlVerb::Shutdown,
            serde_json::Value::Null,
            None,
            Some(limit),
        );
        // The queue is closed behind the order, so that an agent that reads to the end of its input ends, too.
        self.out = None;
    }

    fn show_flights(&self) {
        let flights = self
            .flights
            .iter()
            .map(|(task, flight)| (task.clone(), flight.attempt));
        self.args.live.set_tasks(flights.collect());
    }

    fn after_flight(&mut self) {
        self.show_flights();
        if matches!(self.phase, Phase::Draining { .. }) && self.flights.is_empty() {
            self.shut_down();
        }
    }

    /// When something is due next.
    fn next_due(&self) -> Option<Timestamp> {
        let phase = match self.phase {
            Phase::Starting => Some(self.start_until),
            Phase::Ready => None,
            Phase::Draining { until } | Phase::Stopping { until } => Some(until),
        };
        let gives_up = self
            .flights
            .values()
            .filter_map(|f| f.give_up.as_ref().map(|(at, _)| *at));
        let asked = self.asked.values().map(|a| a.until);
        phase
            .into_iter()
            .chain(gives_up)
            .chain(asked)
            .chain(self.mute_until)
            .chain(self.silence_until())
            .chain(self.next_health.filter(|_| self.flights.is_empty()))
            .min()
    }

    fn arm(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let Some(at) = self.next_due() else { return };
        let (me, wait) = (self.me.clone(), at.since(now()));
        self.timer = Some(ractor::concurrency::spawn(async move {
            // A millisecond more, because the clock counts whole ones.
            tokio::time::sleep(wait + Duration::from_millis(1)).await;
            let _gone = me.cast(InstanceMessage::Due);
        }));
    }

    fn due(&mut self) {
        let at = now();
        match self.phase {
            Phase::Starting if at >= self.start_until => {
                let limit = self.args.ctx.settings.start_timeout;
                let late = format!("was not ready within {limit:?}");
                return self.kill(Some(Failure::new(FailureClass::Start, late)));
            }
            Phase::Draining { until } if at >= until => return self.shut_down(),
            Phase::Stopping { until } if at >= until => return self.kill(None),
            Phase::Starting | Phase::Ready | Phase::Draining { .. } | Phase::Stopping { .. } => {}
        }
        let let_go = self
            .flights
            .values()
            .find_map(|f| f.give_up.clone().filter(|(until, _)| at >= *until));
        if let Some((_, failure)) = let_go {
            let text = format!("{}; it did not let go of the task in time", failure.message);
            return self.kill(Some(Failure {
                message: text,
                ..failure
            }));
        }
        if self.mute_until.is_some_and(|until| at >= until) {
            return self.kill(Some(Failure::new(FailureClass::Crash, "closed its output")));
        }
        if let Some(verb) = self.asked.values().find(|a| at >= a.until).map(|a| a.verb) {
            return self.unanswered(verb);
        }
        if self.silence_until().is_some_and(|until| at >= until) {
            let text = "silent beyond its heartbeat's ttl";
            return self.kill(Some(Failure::new(FailureClass::Hang, text)));
        }
        if self.next_health.is_some_and(|next| at >= next) && self.flights.is_empty() {
            self.ask_health();
        }
    }

    fn release(&mut self) {
        for task in self.tasks.drain(..).chain(self.timer.take()) {
            task.abort();
        }
        self.running.clear();
        self.child = None;
    }
}
