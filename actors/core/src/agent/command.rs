//! What an agent's machine takes in, and what it answers.

use std::sync::Arc;

use mesh_messages::agent::{Lifecycle, QuarantineKind};
use mesh_messages::events::AgentEvent;
use mesh_messages::identity::KeyProof;
use mesh_messages::{AgentId, Epoch, Failure, InstanceNo, Severity, TaskId, Timestamp};
use mesh_supervision_core::fault::{FaultConfig, FaultRefusal};
use serde_json::Value;

use super::VersionRefusal;

/// Everything that can happen to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentCommand {
    /// The actor has just started: what ran in an earlier life is gone.
    Boot,
    /// Run it.
    Start,
    /// Stop it in order.
    Stop,
    /// Stop and start it.
    Restart,
    /// Give it no work.
    Pause,
    /// Give it work again.
    Resume,
    /// Isolate it.
    Quarantine {
        /// The kind of cause.
        kind: QuarantineKind,
        /// How bad.
        severity: Severity,
        /// In words.
        description: String,
    },
    /// Bring it back from quarantine.
    Recover {
        /// Also when exhausted.
        force: bool,
    },
    /// End it for good.
    Terminate {
        /// Why.
        reason: String,
    },
    /// Change the number of replicas.
    Scale {
        /// How many.
        replicas: u32,
    },
    /// Exchange its version.
    Upgrade {
        /// To which.
        target: Option<String>,
        /// Also to an older one.
        forceful: bool,
        /// Back, rather than on.
        rollback: bool,
        /// How, for the record: `soft`, `hard`, `rollback`.
        kind: String,
    },
    /// An instance shook hands.
    Handshaken {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// Its hooks.
        hooks: Vec<String>,
        /// How it proved its key, where it has one.
        proven: Option<Box<KeyProof>>,
    },
    /// An instance shook hands and serves, both at once: it has nothing to do in between.
    Up {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// Its hooks.
        hooks: Vec<String>,
        /// How it proved its key, where it has one.
        proven: Option<Box<KeyProof>>,
    },
    /// An instance serves.
    Ready {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
    },
    /// An instance that is told to hand on its state has said what it is, or why it cannot.
    Saved {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What it is, `null` when that is nothing.
        answer: Result<Arc<Value>, String>,
    },
    /// An instance ended.
    Ended {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// How; `None` when it ended as it was told.
        failure: Option<Failure>,
    },
    /// The fault policy's timer is due.
    Timer {
        /// Which arming.
        token: u64,
    },
    /// What ended as nobody's failure has rested long enough.
    Rested,
    /// Agents that it needs may have come to serve.
    NeedsChanged,
    /// An attempt is to be delivered to an instance.
    Offered {
        /// The task.
        task: TaskId,
        /// The incarnation it is for.
        epoch: Epoch,
    },
    /// An attempt that was delivered to it has ended, not by a scored failure.
    AttemptEnded {
        /// The task.
        task: TaskId,
        /// Whether it succeeded.
        ok: bool,
    },
    /// Scored failures turned out to be the fault of a task.
    Refund {
        /// How many.
        failures: u32,
    },
    /// The policy in force has changed.
    Configure(Box<FaultConfig>),
    /// meshd is about to end: instances stop in order, nothing is started any more, nothing counts.
    Close,
}

/// What must be done once the events are durable.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEffect {
    /// Start an instance.
    Spawn {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// The version to run.
        version: String,
        /// The version before, when this start is an upgrade.
        upgraded_from: Option<String>,
    },
    /// Stop an instance.
    Stop {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// At once, or after its work.
        how: StopKind,
    },
    /// Let an instance end that was asked for its state: that is dealt with.
    Kept {
        /// Its incarnation.
        epoch: Epoch,
    },
    /// Tell the instances that they get no work for now, or get it again.
    Paused(bool),
    /// Tell the task machine that an incarnation is gone, and why.
    Down {
        /// Which.
        instance: InstanceNo,
        /// Its incarnation.
        epoch: Epoch,
        /// What its attempts ended with.
        failure: Failure,
    },
    /// Call back at the given time, instead of any earlier call.
    Arm {
        /// Which arming.
        token: u64,
        /// When.
        at: Timestamp,
    },
    /// Forget the call.
    Disarm,
    /// Send [`AgentCommand::Rested`] at the given time, instead of any earlier order to do so.
    Rest {
        /// When.
        until: Timestamp,
    },
    /// Deliver the offered attempt.
    Deliver,
    /// Refuse the offered attempt.
    Decline {
        /// Why.
        reason: String,
    },
    /// Revoke its tokens, hold its mail.
    Isolate,
    /// Its mail may flow again.
    Release,
    /// Seal its persistent memory, drop the rest.
    Seal,
    /// The parent has failed, too.
    Escalate {
        /// Why.
        reason: String,
    },
    /// An upgrade is over.
    UpgradeDone {
        /// Why the old version is back; `None` when the new one runs.
        error: Option<String>,
    },
}

/// How an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// It finishes its work within the drain limit, then its hook, then its end.
    Drain,
    /// The same, and in between it is asked for its state.
    HandOver,
    /// Its whole tree is killed now.
    Kill,
}

/// Why a command was not carried out. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentRefusal {
    /// The fault policy says no.
    #[error("agent {agent} cannot be ordered to {order}: {source}")]
    Policy {
        /// Who.
        agent: AgentId,
        /// What was wanted.
        order: &'static str,
        /// Why not.
        source: FaultRefusal,
    },
    /// The version says no.
    #[error(transparent)]
    Version(#[from] VersionRefusal),
    /// An upgrade is under way.
    #[error("agent {0} is being upgraded; wait for the end")]
    Upgrading(AgentId),
    /// No version is registered.
    #[error("agent {0} has no registered version")]
    NoVersion(AgentId),
    /// It is not running, so there is nothing to pause or upgrade in place.
    #[error("agent {agent} is {from}; it cannot become {to}")]
    Illegal {
        /// Who.
        agent: AgentId,
        /// Its stage.
        from: Lifecycle,
        /// The stage asked for.
        to: Lifecycle,
    },
}

/// What a command led to.
#[derive(Debug, Default)]
pub struct Decision {
    /// What happened.
    pub events: Vec<AgentEvent>,
    /// What follows when it is durable.
    pub effects: Vec<AgentEffect>,
}
