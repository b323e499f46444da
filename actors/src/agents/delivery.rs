//! What passes between the orchestrator, an agent's actor and its instances.

use std::sync::Arc;

use serde_json::Value;

use mesh_messages::budget::Usage;
use mesh_messages::claim::TaskClaim;
use mesh_messages::klp::{ClaimReply, Envelope};
use mesh_messages::task::{AcceptanceCheck, CheckReport, Priority, Progress, TaskContract};
use mesh_messages::{AgentId, AttemptNo, Epoch, Failure, InstanceNo, TaskId, Timestamp};

use crate::bus::Waiter;
use crate::partition::Cause;

/// An attempt, on its way to an instance.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: AttemptNo,
    /// The agent it is for.
    pub agent: AgentId,
    /// The replica.
    pub instance: InstanceNo,
    /// The incarnation; any other drops it.
    pub epoch: Epoch,
    /// What the agent sees as `action`.
    pub action: String,
    /// The capabilities that it needs.
    pub needs: Vec<String>,
    /// What it gets.
    pub input: Arc<Value>,
    /// How urgent it is.
    pub priority: Priority,
    /// What the result must satisfy.
    pub contract: Option<Arc<TaskContract>>,
    /// What it has for itself until it ends, each with its token.
    pub claims: Vec<TaskClaim>,
    /// When the attempt's time is up.
    pub attempt_until: Timestamp,
    /// What the agent does for it follows from this.
    pub led: Cause,
}

/// The outcome of a delegated task, on its way back to the instance that asked.
#[derive(Debug, Clone)]
pub struct ChildOutcome {
    /// The task on whose behalf it was asked.
    pub parent: TaskId,
    /// The request's id, as the agent wrote it.
    pub request: String,
    /// The delegated task.
    pub child: TaskId,
    /// The agent that had it last.
    pub by: Option<AgentId>,
    /// How it ended.
    pub result: Result<Value, Failure>,
}

/// What became of a resource that an attempt waited for, on its way back to the instance that asked.
#[derive(Debug, Clone)]
pub struct ClaimAnswer {
    /// The task on whose behalf it was asked.
    pub task: TaskId,
    /// The request's id, as the agent wrote it.
    pub request: String,
    /// What became of it.
    pub reply: ClaimReply,
}

/// What an instance tells the orchestrator. Each names the incarnation and the attempt it speaks of.
#[derive(Debug, Clone)]
pub enum AttemptNews {
    /// The agent signed this `TASK_RESULT` itself; it is put on record before the end of the attempt, which follows.
    Said {
        /// The task.
        task: TaskId,
        /// The line.
        line: Box<Envelope>,
        /// What the attempt stands on.
        led: Cause,
    },
    /// The agent has it.
    Started {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
    },
    /// How far it is. Never journalled.
    Progress {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
        /// How far.
        progress: Progress,
    },
    /// Its result is there, and is being checked.
    Checking {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
        /// The checks that are to be made.
        checks: Vec<AcceptanceCheck>,
    },
    /// Its result was checked; its end follows.
    Checked {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
        /// How the checks went.
        checks: Vec<CheckReport>,
    },
    /// What the agent says that it has used so far.
    Used {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
        /// Running totals.
        usage: Usage,
        /// Whether its end follows.
        last: bool,
    },
    /// It ended.
    Ended {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptNo,
        /// Of which incarnation.
        epoch: Epoch,
        /// How.
        result: Result<Value, Failure>,
    },
}

/// Why mail could not be given to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// It is not running.
    #[error("no instance of the agent is ready")]
    NotReady,
    /// It does not read.
    #[error("the agent does not read its input")]
    NotReading,
}

/// A message for an agent, and where its answer goes.
#[derive(Debug)]
pub struct Mail {
    /// The message.
    pub envelope: Box<Envelope>,
    /// Where a message that says `in_reply_to` goes; without it nobody waits.
    pub reply: Option<Waiter>,
    /// The incarnation that it is for; any that serves when absent.
    pub epoch: Option<Epoch>,
}
