//! Everything that is journalled: the durable facts of agents, tasks, messages, memory and access.
//!
//! Each enum is the whole vocabulary of one kind of partition. A variant's serialised tag is the record's `kind`; its
//! content is the payload. Lifecycle events bear eleven fixed names, from `created` to `error`. Variants are only ever added; a change of
//! content raises [`KIND_VERSION`] and gets an upcast.

mod after;
mod egress;

pub use after::AfterFailure;
pub use egress::EgressDenial;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{
    ControlLevel, FaultDecision, FaultView, HealthLevel, Lifecycle, QuarantineRecord, SandboxView,
};
use crate::budget::BudgetStep;
use crate::claim::ClaimStep;
use crate::escalation::EscalationMove;
use crate::failure::Failure;
use crate::gate::ProviderGate;
use crate::identity::KeyProof;
use crate::ids::{AttemptNo, Epoch, InstanceNo};
use crate::inbox::Ruling;
use crate::limits::{Breach, InstanceLimits};
use crate::liveness::{Finding, HealthAction};
use crate::task::{
    AcceptanceCheck, CandidateReport, CheckReport, RetrySpec, TaskAssignment, TaskSpec, TaskState,
    WaitingFor,
};
use crate::team::TeamStep;
use crate::time::Timestamp;
use crate::trust::TrustChange;

/// Version of every payload that this build writes.
pub const KIND_VERSION: u16 = 1;

/// The kind of the record that another key signs for the log. Verifiers go by it.
pub const KEY_ROTATED: &str = "key.rotated";

/// Names of the partitions.
pub mod partition {
    use crate::ids::AgentId;
    use crate::record::PartitionId;

    /// The directory of agents: ids given out and taken back.
    pub const REGISTRY: PartitionId = PartitionId::from_static("registry");
    /// The task machine.
    pub const TASKS: PartitionId = PartitionId::from_static("tasks/0");
    /// Messages and topics.
    pub const BUS: PartitionId = PartitionId::from_static("bus");
    /// Persistent memory of agents.
    pub const MEMORY: PartitionId = PartitionId::from_static("memory");
    /// Tokens, denials.
    pub const SENTINEL: PartitionId = PartitionId::from_static("sentinel");
    /// Ended tasks that were removed.
    pub const RETENTION: PartitionId = PartitionId::from_static("retention");
    /// Runs of workflows.
    pub const WORKFLOWS: PartitionId = PartitionId::from_static("workflows");
    /// Starts and stops of meshd itself, health alerts.
    pub const NODE: PartitionId = PartitionId::from_static("node");
    /// Prefix of the partitions that hold one agent each.
    pub const AGENT_PREFIX: &str = "agent/";

    /// The partition of one agent.
    pub fn agent(id: &AgentId) -> PartitionId {
        PartitionId(format!("{AGENT_PREFIX}{id}").into())
    }
}

macro_rules! kinds {
    ($name:ident { $($variant:ident => $kind:literal),+ $(,)? }) => {
        impl $name {
            /// The record kind of this event.
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $kind),+ }
            }
        }
    };
}

mod bus;
mod memory;
mod node;
mod registry;
mod retention;
mod sentinel;
mod workflow;

pub use bus::BusEvent;
pub use memory::MemoryEvent;
pub use node::{LogCut, NodeEvent, Restoration};
pub use registry::RegistryEvent;
pub use retention::{DOOMED_RECORDS_MAX, RetentionEvent};
pub use sentinel::{AuditCount, AuditCounts, CallNote, LogSuccession, SentinelEvent};
pub use workflow::WorkflowEvent;

/// The life of one agent. Partition `agent/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AgentEvent {
    /// A definition was seen for the first time.
    #[serde(rename = "created")]
    Created {
        /// Its human name.
        name: String,
    },
    /// A version was accepted. The first one is in force at once; a later one waits for `upgrade`.
    #[serde(rename = "registered")]
    Registered {
        /// The manifest as it was parsed.
        manifest: Box<crate::manifest::AgentManifest>,
        /// Digest of the bundle, `blake3:` + hex.
        digest: String,
    },
    /// A process and its sandbox are about to exist. Written before anything starts.
    #[serde(rename = "activated")]
    Activated {
        /// Which replica.
        instance: InstanceNo,
        /// Its new incarnation.
        epoch: Epoch,
        /// The version it runs.
        version: String,
        /// What is enforced around it; absent for native agents.
        sandbox: Option<SandboxView>,
    },
    /// It advertised its profile.
    #[serde(rename = "handshaken")]
    Handshaken {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// The hooks it named.
        hooks: Vec<String>,
        /// How it proved its key, where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proven: Option<Box<KeyProof>>,
    },
    /// It serves.
    #[serde(rename = "started")]
    Started {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
    },
    /// An incarnation ended as it was told to.
    #[serde(rename = "instance.stopped")]
    InstanceStopped {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// Why it was stopped.
        reason: String,
    },
    /// An incarnation failed.
    #[serde(rename = "error")]
    InstanceFailed {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// How.
        failure: Failure,
    },
    /// It lives and was found to get nowhere. Written before anything is done about it.
    #[serde(rename = "health.finding")]
    Finding {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// What was found, what shows it, and what is done.
        finding: Finding,
    },
    /// The limits of a running instance were changed, by a policy that is on record before this.
    #[serde(rename = "limits.changed")]
    LimitsChanged {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// What they are now.
        limits: InstanceLimits,
        /// What does not hold yet, and why; it holds from the next start on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_yet: Vec<String>,
    },
    /// It ran into a limit. Written before anything is done about it.
    #[serde(rename = "limit.breached")]
    LimitBreached {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// Which limit, and what is done.
        breach: Breach,
    },
    /// All processes of an instance stand still, or go on.
    #[serde(rename = "instance.frozen")]
    InstanceFrozen {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// Whether they stand still.
        frozen: bool,
        /// Who holds them; absent when nobody could.
        level: Option<ControlLevel>,
    },
    /// It said what it is before it was stopped, for the next incarnation of its replica.
    #[serde(rename = "state.saved")]
    StateSaved {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// The version that it is of.
        version: String,
        /// What it said.
        state: Arc<Value>,
    },
    /// It took what an earlier one had said, and serves.
    #[serde(rename = "state.restored")]
    StateRestored {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// The one that had said it.
        from: Epoch,
    },
    /// What it is could not be saved, or what was saved could not be taken. Nobody is given it any more.
    #[serde(rename = "state.lost")]
    StateLost {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The level of an instance changed. Written before anything is done about it.
    #[serde(rename = "health.instance")]
    InstanceHealth {
        /// Which replica.
        instance: InstanceNo,
        /// Which incarnation.
        epoch: Epoch,
        /// From.
        from: HealthLevel,
        /// To.
        to: HealthLevel,
        /// What is done.
        action: HealthAction,
        /// Why.
        reason: String,
    },
    /// The fault policy moved.
    #[serde(rename = "fault.changed")]
    FaultChanged {
        /// What people see.
        view: FaultView,
        /// The policy machine's own record; opaque to everyone else.
        record: Value,
        /// What it decided on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision: Option<Box<FaultDecision>>,
    },
    /// It was isolated.
    #[serde(rename = "quarantined")]
    Quarantined {
        /// The record.
        record: QuarantineRecord,
    },
    /// It was let out of quarantine, by an order or by the policy, and is started again.
    #[serde(rename = "recovered")]
    Recovered {
        /// Its score then.
        score: u32,
        /// Whether it is on trial from here on. In records of earlier versions the trial was over.
        #[serde(default)]
        on_trial: bool,
    },
    /// It held out its trial after a quarantine, which is over for good.
    #[serde(rename = "probation.passed")]
    ProbationPassed {
        /// Its score before it was forgiven.
        score: u32,
    },
    /// Another version is in force.
    #[serde(rename = "upgraded")]
    Upgraded {
        /// From.
        from: String,
        /// To.
        to: String,
        /// `soft`, `hard` or `rollback`.
        kind: String,
        /// Whether it holds; false when the new version failed and the old one is back.
        success: bool,
        /// Why not.
        error: Option<String>,
    },
    /// It is to run, or to be stopped.
    #[serde(rename = "desired.changed")]
    DesiredChanged {
        /// Whether it is to run.
        running: bool,
        /// Whether it is to take no work for now.
        paused: bool,
        /// How many replicas.
        replicas: u32,
    },
    /// The lifecycle took a step that no other event implies.
    #[serde(rename = "lifecycle.changed")]
    LifecycleChanged {
        /// From.
        from: Lifecycle,
        /// To.
        to: Lifecycle,
    },
    /// It ended for good.
    #[serde(rename = "terminated")]
    Terminated {
        /// Why.
        reason: String,
    },
    /// Its final trace is complete; nothing follows but a new registration.
    #[serde(rename = "audited")]
    Audited {
        /// Records that concern it, up to here.
        records: u64,
    },
}

/// The kind of [`AgentEvent::StateSaved`]: like the records of memory, it holds what others told the agent.
pub const STATE_SAVED: &str = "state.saved";

kinds!(AgentEvent {
    Created => "created",
    Registered => "registered",
    Activated => "activated",
    Handshaken => "handshaken",
    Started => "started",
    InstanceStopped => "instance.stopped",
    InstanceFailed => "error",
    Finding => "health.finding",
    LimitsChanged => "limits.changed",
    LimitBreached => "limit.breached",
    InstanceFrozen => "instance.frozen",
    StateSaved => "state.saved",
    StateRestored => "state.restored",
    StateLost => "state.lost",
    InstanceHealth => "health.instance",
    FaultChanged => "fault.changed",
    Quarantined => "quarantined",
    Recovered => "recovered",
    ProbationPassed => "probation.passed",
    Upgraded => "upgraded",
    DesiredChanged => "desired.changed",
    LifecycleChanged => "lifecycle.changed",
    Terminated => "terminated",
    Audited => "audited",
});

/// The life of tasks. Partition `tasks/<n>`; the record's header names the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TaskEvent {
    /// Accepted.
    #[serde(rename = "task.submitted")]
    Submitted {
        /// As it was written.
        spec: Box<TaskSpec>,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
        /// When it must have ended.
        deadline_at: Timestamp,
        /// The retry policy in force, every field filled in.
        retry: RetrySpec,
        /// How many delegations lie above it.
        depth: u32,
        /// Digest of the specification, to tell a replayed submission from another one under the same key.
        digest: String,
        /// What the operator's policy says of it, when it asks a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ruling: Option<Box<Ruling>>,
        /// The `TASK_REQUEST` that it came with, whole, if its sender signed it with a key of their own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        envelope: Option<Box<Value>>,
    },
    /// It waits, or waits no more (`queued` without a reason).
    #[serde(rename = "task.waiting")]
    Waiting {
        /// Queued, blocked or parked.
        state: TaskState,
        /// For what.
        waiting_for: Option<WaitingFor>,
    },
    /// An agent was chosen; the attempt exists.
    #[serde(rename = "task.assigned")]
    Assigned {
        /// Who and why.
        assignment: TaskAssignment,
        /// Everybody who was looked at.
        candidates: Vec<CandidateReport>,
        /// Milliseconds that the attempt may take as the agent declares it for what the task needs, where the task says nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit_ms: Option<u64>,
    },
    /// The agent has it.
    #[serde(rename = "task.started")]
    Started {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
    },
    /// An attempt failed.
    #[serde(rename = "task.attempt_failed")]
    AttemptFailed {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
        /// How.
        failure: Failure,
        /// Whether the attempt's instance ended with it.
        ended_instance: bool,
        /// Whether it was the only task that the instance had in flight.
        alone: bool,
        /// What follows.
        then: AfterFailure,
    },
    /// The result of an attempt is there, and is being checked.
    #[serde(rename = "task.checking")]
    Checking {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
        /// The checks that are to be made, in order.
        checks: Vec<AcceptanceCheck>,
    },
    /// The result of an attempt was checked. What follows is decided with it.
    #[serde(rename = "task.checked")]
    Checked {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
        /// What was checked, and how it went.
        checks: Vec<CheckReport>,
    },
    /// An attempt takes a named resource, waits for it, or gives it back. With an attempt its claims end, too.
    #[serde(rename = "task.claim")]
    Claim {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
        /// The name of the resource.
        resource: String,
        /// What became of it.
        step: ClaimStep,
    },
    /// The gate before a provider's account moved. On record of the task that ran into the account's limit last.
    #[serde(rename = "task.gate")]
    Gate {
        /// When.
        at: Timestamp,
        /// Where it stands now.
        gate: Box<ProviderGate>,
    },
    /// Something happened to the accounts that the task draws on.
    #[serde(rename = "task.budget")]
    Budget {
        /// When.
        at: Timestamp,
        /// What.
        step: Box<BudgetStep>,
    },
    /// It ended well.
    #[serde(rename = "task.succeeded")]
    Succeeded {
        /// Which attempt.
        attempt: AttemptNo,
        /// When.
        at: Timestamp,
        /// The result.
        output: Value,
    },
    /// Somebody ended it.
    #[serde(rename = "task.cancelled")]
    Cancelled {
        /// When.
        at: Timestamp,
        /// Who and why.
        reason: String,
    },
    /// It ended without a last attempt: its time was up, or a dependency failed.
    #[serde(rename = "task.dead_lettered")]
    DeadLettered {
        /// When.
        at: Timestamp,
        /// Why.
        failure: Failure,
    },
    /// A person answered what the task asks.
    #[serde(rename = "task.approved")]
    Approved {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
        /// Whether it is approved.
        approve: bool,
        /// In words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
        /// The answer to a question.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// A task that failed for good is escalated, or what came of that.
    #[serde(rename = "task.escalation")]
    Escalation {
        /// When.
        at: Timestamp,
        /// What.
        step: EscalationMove,
    },
    /// A team does what no single agent can, or what came of that.
    #[serde(rename = "task.team")]
    Team {
        /// When.
        at: Timestamp,
        /// What.
        step: Box<TeamStep>,
    },
    /// Somebody gave a failed task another round of attempts.
    #[serde(rename = "task.retried")]
    Retried {
        /// When.
        at: Timestamp,
        /// Its new deadline.
        deadline_at: Timestamp,
        /// The machine's own record of it, for those who no longer hold the task; opaque to everyone else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<Box<Value>>,
    },
    /// The trust in an agent changed. The record's header names the agent and no task.
    #[serde(rename = "trust.changed")]
    Trust(Box<TrustChange>),
}

kinds!(TaskEvent {
    Submitted => "task.submitted",
    Waiting => "task.waiting",
    Assigned => "task.assigned",
    Started => "task.started",
    AttemptFailed => "task.attempt_failed",
    Checking => "task.checking",
    Checked => "task.checked",
    Claim => "task.claim",
    Gate => "task.gate",
    Budget => "task.budget",
    Succeeded => "task.succeeded",
    Cancelled => "task.cancelled",
    DeadLettered => "task.dead_lettered",
    Approved => "task.approved",
    Escalation => "task.escalation",
    Team => "task.team",
    Retried => "task.retried",
    Trust => "trust.changed",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_event_is_its_serialised_tag() {
        let events = [
            AgentEvent::Created { name: "a".into() },
            AgentEvent::Audited { records: 1 },
            AgentEvent::InstanceFailed {
                instance: InstanceNo(0),
                epoch: Epoch(1),
                failure: Failure::new(crate::FailureClass::Crash, "x"),
            },
        ];
        for event in events {
            let value = serde_json::to_value(&event).expect("serialisable");
            assert!(
                value.get(event.kind()).is_some(),
                "{} in {value}",
                event.kind()
            );
        }
    }
}
