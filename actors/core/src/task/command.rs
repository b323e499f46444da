//! What can be asked of the task machine, what it answers, and what is to be done outside of it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::budget::Usage;
use mesh_messages::claim::{ClaimMode, TaskClaim};
use mesh_messages::events::TaskEvent;
use mesh_messages::gate::ProviderGate;
use mesh_messages::inbox::{AnswerRole, InboxAnswer};
use mesh_messages::klp::{ClaimOp, ClaimReply};
use mesh_messages::split::SplitPart;
use mesh_messages::task::{
    AcceptanceCheck, CheckReport, Task, TaskAssignment, TaskReceipt, TaskSpec,
};
use mesh_messages::trust::{TrustChange, TrustReset};
use mesh_messages::{AgentId, AttemptNo, Epoch, Failure, FailureClass, TaskId, Timestamp};
use serde_json::Value;

use super::config::TaskConfig;
use super::record::TaskRecord;
pub use super::refusal::Refusal;
use crate::routing::{Fleet, FleetAgent, InstanceKey};

/// A task to be accepted, under the id that it shall get.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its id, made by the caller.
    pub id: TaskId,
    /// Whether the id was made for this submission alone, so that nothing can be known of it. What is known of other ids is
    /// looked up: who chose them may submit them again.
    pub fresh: bool,
    /// As its submitter wrote it.
    pub spec: TaskSpec,
    /// The message that it came with, if its sender signed it with a key of their own. It is kept on record only.
    pub envelope: Option<Box<Value>>,
}

/// One attempt, as whoever reports about it names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptRef {
    /// The task.
    pub task: TaskId,
    /// The attempt's number.
    pub attempt: AttemptNo,
    /// The incarnation that has it.
    pub epoch: Epoch,
}

/// An attempt that delegates, and how it names the delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The delegating attempt.
    pub parent: AttemptRef,
    /// The instance that has it.
    pub key: InstanceKey,
    /// The id of the `TASK_REQUEST`; the reply names it.
    pub request: String,
}

/// Who answers what a task asks a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// Their name in the audit.
    pub name: String,
    /// As whom they may answer.
    pub role: AnswerRole,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Accept tasks, all or none.
    Submit {
        /// In whose name: idempotency keys are kept apart by it.
        by: String,
        /// The tasks; later ones may depend on earlier ones.
        tasks: Vec<NewTask>,
    },
    /// Accept a child of a task on behalf of the agent that has it.
    Delegate {
        /// Who asks, and how it will know the answer.
        asker: Asker,
        /// As the agent wrote it.
        spec: Box<TaskSpec>,
        /// As [`NewTask::envelope`].
        envelope: Option<Box<Value>>,
    },
    /// An instance has begun an attempt. One that is over is not begun again: the instance is told to drop it.
    AttemptStarted {
        /// Which.
        attempt: AttemptRef,
        /// The instance that says so.
        key: InstanceKey,
    },
    /// Take, keep or give back a named resource on behalf of an attempt.
    Claim {
        /// Who asks, and how it will know an answer that comes later.
        asker: Asker,
        /// What it asks.
        op: Box<ClaimOp>,
    },
    /// The result of an attempt is there, and is being checked.
    AttemptChecking {
        /// Which.
        attempt: AttemptRef,
        /// The instance that says so.
        key: InstanceKey,
        /// The checks that are to be made.
        checks: Vec<AcceptanceCheck>,
    },
    /// The result of an attempt was checked; its end follows.
    AttemptChecked {
        /// Which.
        attempt: AttemptRef,
        /// The instance that says so.
        key: InstanceKey,
        /// How the checks went.
        checks: Vec<CheckReport>,
    },
    /// The agent says what an attempt has used so far.
    AttemptUsed {
        /// Which.
        attempt: AttemptRef,
        /// The instance that says so.
        key: InstanceKey,
        /// Running totals.
        usage: Usage,
        /// Whether its end follows, so that it is not cut off.
        last: bool,
    },
    /// An attempt has ended.
    AttemptEnded {
        /// Which.
        attempt: AttemptRef,
        /// The instance that says so; `None` when it is reported from outside its channel.
        key: Option<InstanceKey>,
        /// How.
        result: Result<Value, Failure>,
    },
    /// An incarnation is gone, and with it whatever it had in flight.
    InstanceDown {
        /// Which.
        key: InstanceKey,
        /// Why; the class decides what becomes of its tasks.
        failure: Failure,
    },
    /// End a task.
    Cancel {
        /// Which.
        task: TaskId,
        /// Who and why.
        reason: String,
    },
    /// Give a failed task another round of attempts.
    Retry {
        /// Which.
        task: TaskId,
    },
    /// Have a task that nobody has begun done as several.
    Split {
        /// Which.
        task: TaskId,
        /// Who says so.
        by: String,
        /// As what.
        parts: Vec<SplitPart>,
    },
    /// Answer what a task asks a person.
    Approve {
        /// Which.
        task: TaskId,
        /// Who.
        by: Answerer,
        /// What they say.
        answer: InboxAnswer,
    },
    /// Set the trust in an agent by an admin's word.
    ResetTrust {
        /// Whose.
        agent: AgentId,
        /// Who says so.
        by: String,
        /// To what, and why.
        reset: TrustReset,
    },
    /// Try a provider's account now, before the time of its gate has come.
    TryGate {
        /// Which.
        account: String,
    },
    /// Time has passed.
    Tick,
    /// The fleet is different now.
    Fleet(FleetChange),
    /// All of this has happened, in this order; what follows is decided once, for all of it.
    News(Vec<FleetNews>),
    /// meshd starts: every attempt of its last life is lost.
    Recover,
    /// These attempts, and no others, are in the hands of agents.
    Reconcile {
        /// Of this agent; of all agents when `None`.
        agent: Option<AgentId>,
        /// Each with the instance that has it.
        present: BTreeSet<(InstanceKey, TaskId, AttemptNo)>,
    },
}

impl Command {
    /// Whether more is to be done than before: refused while nothing new is taken.
    pub const fn is_new_work(&self) -> bool {
        matches!(
            self,
            Self::Submit { .. } | Self::Delegate { .. } | Self::Retry { .. } | Self::Split { .. }
        )
    }

    /// Its name, for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Delegate { .. } => "delegate",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::Claim { .. } => "claim",
            Self::AttemptChecking { .. } => "attempt_checking",
            Self::AttemptChecked { .. } => "attempt_checked",
            Self::AttemptUsed { .. } => "attempt_used",
            Self::AttemptEnded { .. } => "attempt_ended",
            Self::InstanceDown { .. } => "instance_down",
            Self::Cancel { .. } => "cancel",
            Self::Retry { .. } => "retry",
            Self::Split { .. } => "split",
            Self::Approve { .. } => "approve",
            Self::ResetTrust { .. } => "reset_trust",
            Self::TryGate { .. } => "try_gate",
            Self::Tick => "tick",
            Self::Fleet(_) => "fleet",
            Self::News(_) => "news",
            Self::Recover => "recover",
            Self::Reconcile { .. } => "reconcile",
        }
    }
}

/// What the agents' actors have to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum FleetNews {
    /// As [`Command::Fleet`].
    Changed(FleetChange),
    /// As [`Command::InstanceDown`].
    Down {
        /// Which.
        key: InstanceKey,
        /// Why.
        failure: Failure,
    },
}

/// How the fleet changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetChange {
    /// An agent is like this now.
    Agent(AgentId, Box<FleetAgent>),
    /// An agent was removed.
    Gone(AgentId),
    /// Every registered agent has been announced.
    Complete,
}

/// What is true of this run of meshd only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live {
    /// The agents as they announce themselves. Changed by [`Command::Fleet`] and [`Command::InstanceDown`] alone.
    pub(crate) fleet: Fleet,
    /// Attempts that ended here but hold their instance's slot until the instance says that it has dropped them.
    pub(crate) releasing: BTreeMap<InstanceKey, BTreeSet<(TaskId, AttemptNo)>>,
    /// Resources that such attempts had: what works on them may still be at it.
    pub(crate) leaving: BTreeMap<String, BTreeMap<(InstanceKey, TaskId, AttemptNo), ClaimMode>>,
    /// Instances that are gone, and why, whose attempts were too many to end in one decision.
    pub(crate) gone: BTreeMap<InstanceKey, Failure>,
    /// Who gets the outcome of a delegated child.
    pub(crate) askers: BTreeMap<TaskId, Asker>,
    /// When time will have given an agent the trust that a task waits for.
    pub(crate) trust_due: Option<Timestamp>,
    /// When the next window ends for which a task waits.
    pub(crate) window_due: Option<Timestamp>,
}

impl Live {
    /// The agents as they announced themselves.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// When a [`Command::Tick`] is due for what is no task's own, besides [`Tasks::next_timer`](super::Tasks::next_timer).
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.trust_due.into_iter().chain(self.window_due).min()
    }
}

/// What the read side knows of tasks that the machine no longer holds; see [`Tasks::lookups`](super::Tasks::lookups).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// By id.
    pub tasks: BTreeMap<TaskId, TaskRecord>,
    /// By submitter and idempotency key.
    pub keys: BTreeMap<(String, String), TaskRecord>,
    /// Ended tasks that are about to be removed: nothing new may depend on one.
    pub removing: BTreeSet<TaskId>,
}

/// What the read side has to be asked before a command is decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lookups {
    /// Tasks by id.
    pub tasks: BTreeSet<TaskId>,
    /// Tasks by submitter and idempotency key.
    pub keys: BTreeSet<(String, String)>,
}

/// What a decision may look at besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time.
    pub now: Timestamp,
    /// Random bits; the decision draws all its chances from them.
    pub random: u64,
    /// The operator's settings.
    pub config: &'a TaskConfig,
    /// What the read side answered to the command's lookups.
    pub known: &'a Known,
}

/// A task on its way to an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The incarnation that is to have it.
    pub key: InstanceKey,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: AttemptNo,
    /// What to do.
    pub spec: TaskSpec,
    /// Why this instance.
    pub assignment: TaskAssignment,
    /// What it claims, each with its token.
    pub claims: Vec<TaskClaim>,
    /// When the attempt will be taken back: its time limit, or the task's deadline if that is earlier.
    pub ends_at: Timestamp,
}

/// How an attempt ended, as far as its agent's fault policy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It succeeded.
    Succeeded,
    /// It ended in a way that does not count against the agent.
    Unscored(FailureClass),
}

/// Something to be done once the events of its decision are durable, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Hand an attempt to an instance. An instance that is gone is reported by [`Command::InstanceDown`].
    Deliver(Box<Delivery>),
    /// Tell an instance to drop an attempt. It answers with [`Command::AttemptEnded`] or [`Command::InstanceDown`],
    /// also when it never had the attempt: until then the slot stays taken.
    CancelAttempt {
        /// The instance.
        key: InstanceKey,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptNo,
        /// Why.
        reason: String,
    },
    /// A task has ended: wake who waits for it.
    TaskEnded(TaskId),
    /// A delegated child has ended: answer the attempt that asked for it.
    ChildEnded {
        /// Who asked.
        asker: Asker,
        /// The child with its outcome.
        child: Box<Task>,
    },
    /// Answer an attempt that waited for a resource.
    ClaimAnswered {
        /// Who asked.
        asker: Asker,
        /// What became of it.
        reply: Box<ClaimReply>,
    },
    /// Tell an agent's fault policy how an attempt ended. Scored failures reach it through its instance instead.
    ReportToAgent {
        /// Whose attempt it was.
        key: InstanceKey,
        /// Of which task.
        task: TaskId,
        /// How it ended.
        outcome: AttemptOutcome,
    },
    /// Take these failures off an agent's score: a poisonous task caused them.
    RefundScore {
        /// The agent.
        agent: AgentId,
        /// How many.
        failures: u32,
    },
    /// A task was dead-lettered: somebody has to look at it.
    Escalate(TaskId),
}

/// What the caller is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing.
    Done,
    /// The receipts of a submission, in its order.
    Receipts {
        /// One per task.
        receipts: Vec<TaskReceipt>,
        /// Whether all of them were there before.
        replayed: bool,
    },
    /// The child that a delegation led to.
    Child(TaskId),
    /// What became of a claim; `None` when it waits, and is answered by [`Effect::ClaimAnswered`].
    Claim(Option<Box<ClaimReply>>),
    /// The task as it is now.
    Task(Box<Task>),
    /// The gate as it is now.
    Gate(Box<ProviderGate>),
    /// An instance began an attempt that is over. It is told to drop it; count it like [`Refusal::Stale`].
    Stale,
    /// An instance confirmed that it dropped an attempt. Whatever else it said of it was ignored.
    Dropped,
}

/// A change of trust, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusting {
    /// The change.
    pub change: TrustChange,
    /// Which event of the decision it follows from, by its index; what led to the decision when absent.
    pub after: Option<usize>,
}

/// What a command led to. Its events are applied to the state already.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happened, in order; to be journalled as one group.
    pub events: Vec<(TaskId, TaskEvent)>,
    /// What of the trust in agents changed, in order; to be journalled behind the events, in the same group.
    pub trust: Vec<Trusting>,
    /// What happened to accounts and is on record of no task, in order; to be journalled behind both, in the same group.
    pub accounts: Vec<TaskEvent>,
    /// What to do when that is durable.
    pub effects: Vec<Effect>,
    /// What to tell the caller, also then.
    pub answer: Answer,
    /// Whether there is more to decide than one group holds: repeat a `Recover` or `Reconcile`, else send a `Tick` soon.
    pub more: bool,
}
