//! One incarnation of one replica: owns the sandboxed process (or the native behaviour) and its session.
//!
//! ```text
//!  Starting ──handshake, hooks──► Ready ──stop──► Draining ──idle, or late──► Stopping
//!     │                             │                │                           │
//!     └──────────┬──────────────────┴────────────────┴───────────────────────────┘
//!      late, told, misbehaved                 the process exits
//!                ▼                                   ▼
//!              Killed ──all of it is gone──► gone ◄──its last words are read── Exited
//! ```
//!
//! Whatever ends it, it tells its agent's actor exactly once, and by then nothing of its process tree is alive and what
//! it had to report has been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::RactorMessage;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use mesh_actors_core::agent::{SavedState, Terms};
use mesh_actors_core::liveness::{Condition, Watch};
use mesh_messages::address::Address;
use mesh_messages::identity::KeyProof;
use mesh_messages::klp::{ControlVerb, KlpError};
use mesh_messages::liveness::Finding;
use mesh_messages::manifest::{AgentManifest, RuntimeKind};
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, TaskId, Timestamp,
};
use mesh_sandbox::{Child, ExitStatus};

use super::agent::AgentMessage;
use super::delivery::{ChildOutcome, ClaimAnswer, Delivery, Mail};
use super::lines::{Input, LINES_IN_MAX, WriteEnd};
use super::live::{InstanceLive, LogTail};
use super::policy::effective;
use super::process::Stdin;
use super::services::Services;
use crate::alarms::Alarm;
use crate::bus::Waiter;
use crate::clock::now;
use crate::context::Context;
use crate::partition::Cause;
use crate::secrets::Blotter;

mod chaos;
mod checks;
mod claims;
mod flights;
mod handover;
mod identity;
mod life;
mod permitted;
mod refusals;
mod reports;
mod session;
mod still;
mod strain;
mod token;
mod watch;
mod work;

pub(crate) use chaos::{Missed, Strike};
use reports::Reports;

/// How long a process may live on after it closed its output or its input, before it is ended. One that is about to
/// exit closes them, too.
const MUTE_MAX: Duration = Duration::from_secs(2);
/// How long what a process wrote before its end is waited for. It lies in a pipe already, so reading it takes no time
/// unless the agent wrote faster than it may, or the machine is busy. The end of a pipe
/// that no process holds any more is certain to come, so this is for what cannot happen.
const LAST_WORDS_MAX: Duration = Duration::from_secs(30);
/// When a process that was killed is killed again. Once is enough unless the kernel is in trouble.
const KILL_AGAIN: Duration = Duration::from_secs(5);
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
    /// What an earlier incarnation handed on.
    pub(crate) restore: Option<SavedState>,
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
        /// Why.
        reason: Failure,
    },
    /// A delegated task ended.
    Child(Box<ChildOutcome>),
    /// A resource that an attempt waited for is its own, or will not be.
    Claim(Box<ClaimAnswer>),
    /// A message for the agent.
    Mail(Mail),
    /// A blow on the conversation.
    Strike {
        /// Which.
        strike: Strike,
        /// Whether it fell.
        reply: RpcReplyPort<Result<(), Missed>>,
    },
    /// The node has another key; what the agent is told of it.
    NodeKey(Arc<serde_json::Value>),
    /// A hook of the agent's life that waits for nothing, such as `pause`.
    Control(ControlVerb),
    /// Finish what is in hand, then end.
    Drain,
    /// The same, and in between it says what it is.
    HandOver,
    /// What it said is dealt with.
    Kept,
    /// End at once.
    Kill,
    /// The sandbox stands, or not. From the start-up task.
    Launched(Box<Launched>),
    /// A line came. From the reader.
    Line(Input),
    /// A line is to be written, the answer to what was asked aside; and the call that it answers, if it is watched.
    Answer(Vec<u8>, Option<(TaskId, String)>),
    /// Act upon what was found. It is on record.
    Act(Box<Finding>),
    /// End for this. It is on record.
    End(Failure),
    /// A line could not be passed on. From side tasks.
    Refused {
        /// Its id.
        line: String,
        /// Why.
        error: KlpError,
        /// It is on record already, as a denial.
        recorded: bool,
    },
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
    /// A result was checked. From whoever checked it.
    Checked(Box<checks::Checked>),
    /// Something is due.
    Due,
}

impl InstanceMessage {
    /// The task that it is about, if it is about one.
    fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Deliver(delivery) => Some(&delivery.task),
            Self::CancelAttempt { task, .. } | Self::TaskExited { task, .. } => Some(task),
            Self::Child(outcome) => Some(&outcome.parent),
            Self::Claim(answer) => Some(&answer.task),
            Self::Checked(checked) => Some(&checked.task),
            Self::Mail(_)
            | Self::Strike { .. }
            | Self::Control(_)
            | Self::NodeKey(_)
            | Self::Drain
            | Self::HandOver
            | Self::Kept
            | Self::Kill
            | Self::Launched(_)
            | Self::Line(_)
            | Self::Answer(..)
            | Self::Act(_)
            | Self::End(_)
            | Self::Refused { .. }
            | Self::WriterEnded(_)
            | Self::Exited(_)
            | Self::Due => None,
        }
    }
}

/// What the start-up task brings.
#[derive(Debug)]
pub(crate) struct Launched(pub(crate) Result<(Child, super::process::Pipes, Option<u32>), Failure>);

/// An attempt in hand.
#[derive(Debug)]
struct Flight {
    attempt: AttemptNo,
    /// What the agent does for it follows from this.
    led: Cause,
    /// How much had been written to the agent when its request was.
    behind: u64,
    /// The agent ended before it read of it.
    unread: bool,
    /// It is to be given up.
    give_up: Option<GiveUp>,
    /// What is checked once its result is there.
    work: checks::Checkable,
}

#[derive(Debug)]
struct GiveUp {
    /// When the process is ended because the agent has not let go.
    until: Timestamp,
    /// The `CONTROL` that said so.
    control: String,
    reason: Failure,
    /// It was found to get nowhere, so nobody else has ended the attempt yet.
    found: bool,
}

/// A message that somebody waits to have answered.
#[derive(Debug)]
struct Awaited {
    by: Waiter,
    /// Whom the answer is for.
    asker: Address,
}

/// A `CONTROL` that waits for its answer.
#[derive(Debug)]
struct Asked {
    verb: ControlVerb,
    limit: Duration,
    until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    /// It finishes what it has in hand.
    Draining {
        until: Timestamp,
    },
    /// It was told to end.
    Stopping {
        until: Timestamp,
    },
    /// It is being ended, and nothing it still says counts.
    Killed {
        again: Timestamp,
    },
    /// Its process is gone; what it wrote before is still being read.
    Exited {
        until: Timestamp,
    },
}

/// What the instance runs beside the tasks of a runtime without a conversation.
#[derive(Debug)]
enum Process {
    /// Nothing, or nothing any more.
    Absent,
    /// The start-up task is at work, and will bring a process or none.
    Launching,
    /// Its process, until its end was told.
    Running(Child),
}

/// The state of the actor.
#[derive(Debug)]
pub(crate) struct Session {
    args: InstanceArgs,
    me: ActorRef<InstanceMessage>,
    phase: Phase,
    hand: handover::Hand,
    start_until: Timestamp,
    process: Process,
    out: Option<mpsc::Sender<Vec<u8>>>,
    stdin: Option<Stdin>,
    // Bytes that were queued for it so far.
    queued: u64,
    lines: Arc<Semaphore>,
    hooks: BTreeSet<ControlVerb>,
    // Hooks still to be called before it is ready, in order.
    opening: Vec<(ControlVerb, serde_json::Value)>,
    asked: BTreeMap<String, Asked>,
    flights: BTreeMap<TaskId, Flight>,
    /// What must not be seen in what it says of itself.
    blotter: Blotter,
    /// Claims that wait for their answer, by request; dropped when it is there.
    claims: BTreeMap<String, oneshot::Sender<()>>,
    running: BTreeMap<TaskId, work::Running>,
    // Verifying agents that have not answered yet, by the request that asked.
    verifiers: BTreeMap<(TaskId, String), oneshot::Sender<ChildOutcome>>,
    mail: BTreeMap<String, Awaited>,
    // Hands were shaken.
    shook: bool,
    // What its key has to sign before they are.
    challenge: Option<identity::Challenge>,
    // How it proved its key, until that is told.
    proven: Option<Box<KeyProof>>,
    // The tokens that it was given, if any.
    pass: Option<token::Pass>,
    next_id: u64,
    bad_lines: u64,
    watch: Watch,
    condition: Condition,
    terms: Terms,
    next_health: Option<Timestamp>,
    still: still::Still,
    // When it is ended for having closed a pipe, and which.
    mute: Option<(Timestamp, &'static str)>,
    // Its output was read to its end.
    heard_out: bool,
    // What it ends for. One that we ended ends for that, whatever its exit status says.
    verdict: Option<Failure>,
    reports: Reports,
    ended: bool,
    timer: Option<Alarm>,
    tasks: Vec<JoinHandle<()>>,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct InstanceActor;

impl Actor for InstanceActor {
    type Msg = InstanceMessage;
    // On the heap: the loop of an actor keeps room for it more than once.
    type State = Box<Session>;
    type Arguments = InstanceArgs;

    async fn pre_start(
        &self,
        me: ActorRef<InstanceMessage>,
        args: InstanceArgs,
    ) -> Result<Box<Session>, ActorProcessingErr> {
        let start_until = now().plus(args.ctx.settings.start_timeout);
        let reports = Reports::new(&args.services, &args.agent, args.instance);
        let liveness = effective(&args.manifest, &args.ctx).liveness;
        Ok(Box::new(Session {
            me,
            phase: Phase::Starting,
            hand: handover::Hand::default(),
            start_until,
            process: Process::Absent,
            out: None,
            stdin: None,
            queued: 0,
            lines: Arc::new(Semaphore::new(LINES_IN_MAX)),
            hooks: BTreeSet::new(),
            opening: Vec::new(),
            asked: BTreeMap::new(),
            flights: BTreeMap::new(),
            blotter: Blotter::new(&args.ctx.secrets, &args.manifest),
            claims: BTreeMap::new(),
            running: BTreeMap::new(),
            verifiers: BTreeMap::new(),
            mail: BTreeMap::new(),
            shook: false,
            challenge: None,
            proven: None,
            pass: None,
            next_id: 0,
            bad_lines: 0,
            watch: watch::watch(&args.manifest, liveness, now()),
            condition: Condition::default(),
            terms: Terms::of(&args.manifest),
            next_health: None,
            still: still::Still::default(),
            mute: None,
            heard_out: false,
            verdict: None,
            reports,
            ended: false,
            timer: None,
            tasks: Vec::new(),
            args,
        }))
    }

    async fn post_start(
        &self,
        _me: ActorRef<InstanceMessage>,
        state: &mut Box<Session>,
    ) -> Result<(), ActorProcessingErr> {
        match state.args.manifest.resolved_runtime().kind {
            RuntimeKind::Klp => state.start_process(),
            RuntimeKind::Command => state.start_command(),
            RuntimeKind::Native => state.start_native(),
        }
        if state.args.manifest.resolved_runtime().kind != RuntimeKind::Native {
            state.spawn(state.watch_strain());
        }
        state.arm();
        Ok(())
    }

    #[tracing::instrument(
        level = "info",
        name = "instance",
        skip_all,
        fields(
            agent = %state.args.agent,
            instance = %state.args.instance,
            epoch = %state.args.epoch,
            task = message.task().map(tracing::field::display),
        )
    )]
    async fn handle(
        &self,
        me: ActorRef<InstanceMessage>,
        message: InstanceMessage,
        state: &mut Box<Session>,
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
        state: &mut Box<Session>,
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
            InstanceMessage::Claim(answer) => self.claim_answered(*answer),
            InstanceMessage::Mail(mail) => self.mail(mail),
            InstanceMessage::Control(ControlVerb::Pause) => self.pause(),
            InstanceMessage::Control(ControlVerb::Resume) => self.resume(),
            InstanceMessage::Control(verb) => {
                if self.hooks.contains(&verb) {
                    self.control(verb, serde_json::Value::Null, None, None);
                }
            }
            InstanceMessage::NodeKey(told) => {
                if self.hooks.contains(&ControlVerb::NodeKey) {
                    self.control(ControlVerb::NodeKey, (*told).clone(), None, None);
                }
            }
            InstanceMessage::Strike { strike, reply } => {
                let struck = self.strike(strike);
                let _caller_gone = reply.send(struck);
            }
            InstanceMessage::Drain => self.drain(),
            InstanceMessage::HandOver => self.hand_over(),
            InstanceMessage::Kept => self.let_go(),
            InstanceMessage::Kill => self.kill(None),
            InstanceMessage::Launched(launched) => self.launched(*launched),
            InstanceMessage::Line(input) => self.input(input),
            InstanceMessage::Answer(line, call) => self.answer(line, call),
            InstanceMessage::Act(finding) => self.act(*finding),
            InstanceMessage::End(failure) => self.kill(Some(failure)),
            InstanceMessage::Refused {
                line,
                error,
                recorded,
            } => self.refused(Some(line), &error, recorded),
            InstanceMessage::WriterEnded(WriteEnd::Stalled) => self.kill(Some(Failure::new(
                FailureClass::Hang,
                "does not read its input",
            ))),
            InstanceMessage::WriterEnded(WriteEnd::Closed) => {
                // Not when we closed the queue ourselves.
                if self.out.take().is_some() {
                    self.muted("closed its input");
                }
            }
            InstanceMessage::Exited(status) => self.exited(status),
            InstanceMessage::TaskExited {
                task,
                attempt,
                result,
            } => {
                self.task_exited(&task, attempt, result);
            }
            InstanceMessage::Checked(checked) => self.checked(*checked),
            InstanceMessage::Due => self.due(),
        }
    }

    /// Whether it has a process that is spoken with, rather than one for each task.
    fn converses(&self) -> bool {
        matches!(self.process, Process::Running(_))
    }

    /// Runs a task that ends with this instance.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.retain(|t| !t.is_finished());
        self.tasks.push(ractor::concurrency::spawn(task));
    }

    fn release(&mut self) {
        self.timer = None;
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.running.clear();
        self.process = Process::Absent;
    }
}
