//! Agents as they are registered, supervised and shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dependency::Unmet;
use crate::failure::Severity;
use crate::ids::{AgentId, Epoch, InstanceNo, TaskId};
use crate::limits::InstanceLimits;
use crate::time::Timestamp;

/// Most replicas of one agent on one node: each costs processes, descriptors and memory.
pub const REPLICAS_MAX: u32 = 256;
/// Most tasks that one instance may have in flight.
pub const CONCURRENCY_MAX: u32 = 1024;

/// The nine stages of an agent's life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// A manifest exists.
    Defined,
    /// Accepted by the registry and the security validator. Also: stopped, or between two starts.
    Registered,
    /// Its sandbox and process exist.
    Activated,
    /// It has advertised its profile.
    Handshaken,
    /// It serves tasks and messages.
    Executing,
    /// Its version is being exchanged.
    Upgrading,
    /// Isolated: executes nothing, receives nothing, holds no valid token.
    Quarantined,
    /// Ended; its persistent memory is sealed.
    Terminated,
    /// Its final trace is complete.
    Audited,
}

impl Lifecycle {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defined => "defined",
            Self::Registered => "registered",
            Self::Activated => "activated",
            Self::Handshaken => "handshaken",
            Self::Executing => "executing",
            Self::Upgrading => "upgrading",
            Self::Quarantined => "quarantined",
            Self::Terminated => "terminated",
            Self::Audited => "audited",
        }
    }

    /// Whether the step from here to `to` is one that the lifecycle allows.
    pub const fn may_become(self, to: Self) -> bool {
        use Lifecycle as L;
        match (self, to) {
            (L::Defined, to) => matches!(to, L::Registered),
            (L::Registered, L::Activated | L::Registered)
            | (L::Activated, L::Handshaken | L::Registered | L::Activated)
            | (L::Handshaken | L::Upgrading, L::Executing | L::Registered | L::Activated)
            | (L::Executing, L::Upgrading | L::Registered | L::Activated)
            | (L::Quarantined, L::Activated | L::Terminated)
            | (L::Terminated, L::Audited) => true,
            (from, L::Quarantined | L::Terminated) => !matches!(
                from,
                L::Defined | L::Quarantined | L::Terminated | L::Audited
            ),
            _ => false,
        }
    }
}

impl std::fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Ready, without work.
    Idle,
    /// At work.
    Busy,
    /// Not reachable.
    Offline,
}

/// An agent's status in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatusKind {
    /// Known, and neither quarantined nor terminated.
    Active,
    /// Isolated.
    Quarantined,
    /// Ended.
    Terminated,
    /// No such agent.
    NotFound,
}

/// Health of one agent: three levels.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HealthLevel {
    /// Nothing to see.
    #[default]
    Healthy,
    /// Drains and is watched.
    Warning,
    /// Is restarted.
    Critical,
}

/// An agent's health: measured by meshd, joined with what the agent says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// The level.
    pub status: HealthLevel,
    /// Milliseconds since its oldest ready instance started.
    pub uptime: u64,
    /// Megabytes of all its processes.
    pub memory_usage: f64,
    /// Percent of one core, over the last sample; absent until there are two samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage: Option<f64>,
    /// When it last said or did something.
    pub last_activity: Option<Timestamp>,
    /// Its failures, grouped.
    pub errors: Vec<ErrorSummary>,
}

/// Failures and findings that are the same but for numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorSummary {
    /// The failure's class, or the finding.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The last of them.
    pub last_occurrence: Timestamp,
    /// What it said.
    pub message: String,
}

/// The states of an agent's fault policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// Runs, or starts.
    Running,
    /// Waits before a restart.
    Backoff,
    /// Its breaker is open: nothing starts until the cool-down ends.
    Open,
    /// On probation with one permit.
    HalfOpen,
    /// Isolated.
    Quarantined,
    /// On probation after quarantine, with one permit.
    Recovering,
    /// Stopped by order, or down with `autoRestart: false`.
    #[default]
    Stopped,
    /// Ended.
    Terminated,
}

impl FaultState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Quarantined => "quarantined",
            Self::Recovering => "recovering",
            Self::Stopped => "stopped",
            Self::Terminated => "terminated",
        }
    }
}

/// Why an agent was quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineKind {
    /// It kept crashing.
    Crash,
    /// It exceeded its limits.
    ResourceAbuse,
    /// It broke the rules.
    SecurityViolation,
    /// Somebody ordered it.
    Manual,
}

/// Why an agent is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineReason {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: QuarantineKind,
    /// In words.
    pub description: String,
    /// When the cause happened.
    pub timestamp: Timestamp,
    /// How bad it is.
    pub severity: Severity,
}

/// The record of one quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineRecord {
    /// Who.
    pub agent_id: AgentId,
    /// Since when.
    pub quarantined_at: Timestamp,
    /// Why.
    pub reason: QuarantineReason,
    /// Automatic recoveries so far.
    pub retry_count: u32,
    /// Automatic recoveries that its severity allows.
    pub max_retries: u32,
    /// The bundle that was quarantined; recovery starts this one and no other.
    pub manifest_digest: String,
}

/// The answer to `recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryResult {
    /// Whether the agent was started again.
    pub success: bool,
    /// Why not: `max_retries_exceeded`, or what the start said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What supervision shows of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultView {
    /// The policy's state.
    pub state: FaultState,
    /// Scored failures since the last stable period.
    pub score: u32,
    /// Scored failures inside the restart window.
    pub crashes_in_window: u32,
    /// When the next start is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it is where it is.
    pub reason: Option<String>,
    /// The quarantine that it is in or recovers from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineRecord>,
}

/// What the fault policy decided on: with the record before it, all that the decision needs to be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultDecision {
    /// What it was told, in order: a failure, a timer, an order, a task's end.
    pub inputs: Vec<String>,
    /// Where it stood before.
    pub from: FaultState,
    /// Where it stands now.
    pub to: FaultState,
    /// The moment it was told.
    pub at: Timestamp,
    /// The random bits for the jitter of delays, in hexadecimal.
    pub random: String,
    /// The limits in force.
    pub limits: FaultLimits,
}

/// The limits that a decision of the fault policy was made by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultLimits {
    /// Scored failures within the window that are answered by a restart.
    pub max_crashes: u32,
    /// The window.
    pub crash_window_ms: u64,
    /// The score that quarantines.
    pub quarantine_threshold: u32,
    /// Whether it is restarted at all.
    pub auto_restart: bool,
    /// Scored failures within an hour that are borne.
    pub hourly_max: u32,
    /// First and longest delay of a restart.
    pub backoff_ms: [u64; 2],
    /// First and longest time for which the breaker stays open.
    pub cool_down_ms: [u64; 2],
    /// Whether an exhausted agent is its parent's failure.
    pub essential: bool,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// Its number, from 0.
    pub instance: InstanceNo,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its own stage.
    pub lifecycle: Lifecycle,
    /// What it does.
    pub activity: Activity,
    /// The process that meshd started, as the host numbers it; absent for native agents and idle `command` agents.
    pub pid: Option<u32>,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Since when.
    pub started_at: Timestamp,
    /// What it has in hand.
    pub assigned_tasks: Vec<TaskId>,
    /// Megabytes.
    pub memory_usage: Option<f64>,
    /// Percent of one core.
    pub cpu_usage: Option<f64>,
    /// When it last said or did something.
    pub last_activity: Option<Timestamp>,
    /// Messages of this incarnation that were refused, stale or malformed.
    pub refused_messages: u64,
    /// Present while all its processes stand still, as it is paused: who holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<ControlLevel>,
    /// Its limits as they are now; absent where it has no process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<InstanceLimits>,
}

/// `GET /v1/agents/{id}/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// In one word.
    pub status: AgentStatusKind,
    /// The stage of its life; absent for an unknown agent, like everything below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// What it does: busy when any instance is, offline when none is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// The last epoch given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// The version in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Measured health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// Supervision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultView>,
    /// Whether it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Its replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<InstanceView>>,
    /// What it waits for before it starts; absent when it waits for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Unmet>,
}

impl AgentStatus {
    /// The answer for an id that nobody has.
    pub fn not_found() -> Self {
        Self {
            status: AgentStatusKind::NotFound,
            lifecycle: None,
            activity: None,
            epoch: None,
            uptime: None,
            version: None,
            health: None,
            fault: None,
            paused: None,
            instances: None,
            waiting_for: Vec::new(),
        }
    }
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRegistration {
    /// The agent.
    pub id: AgentId,
    /// Its version.
    pub version: String,
    /// Digest of its bundle, `blake3:` + hex.
    pub digest: String,
    /// Its stage after the request.
    pub lifecycle: Lifecycle,
    /// Instances that are ready.
    pub instances_ready: u32,
    /// Instances that it is to have.
    pub instances_wanted: u32,
    /// When it was registered first.
    pub registered_at: Timestamp,
    /// False when the same content was registered already and nothing was done.
    pub changed: bool,
    /// Remarks on the manifest.
    pub notices: Vec<String>,
}

/// What is enforced around an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxView {
    /// The security profile that holds: `relaxed`, `strict` or `maximum`; `native` for what runs without a sandbox.
    pub profile: String,
    /// The controls that are weaker than was asked for, by name.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Each control.
    pub controls: Vec<ControlView>,
}

/// One control of a sandbox, as it is and not as it was wished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlView {
    /// Its name.
    pub control: String,
    /// What was asked for.
    pub requested: String,
    /// What does it.
    pub mechanism: String,
    /// Who enforces it.
    pub level: ControlLevel,
    /// In words.
    pub detail: String,
}

/// How firmly a control holds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ControlLevel {
    /// Not at all.
    None,
    /// Watched and acted upon, but it can be passed.
    Advisory,
    /// The kernel enforces it.
    Kernel,
}

/// One effective policy value and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyValue {
    /// Its name.
    pub key: String,
    /// The value in force.
    pub value: serde_json::Value,
    /// `default`; `file:…`, `env:…` or `flag:…` for the configuration; `policy` for what was applied to all agents;
    /// `manifest`; `policy:<agent>` for what was applied to this one.
    pub origin: String,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; absent on the last.
    pub next_cursor: Option<String>,
}

/// An agent in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSummary {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// The version in force.
    pub version: String,
    /// Its persona.
    pub persona: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// In one word.
    pub status: AgentStatusKind,
    /// Its stage.
    pub lifecycle: Lifecycle,
    /// What it does.
    pub activity: Activity,
    /// Supervision's state.
    pub fault_state: FaultState,
    /// Ready instances.
    pub instances_ready: u32,
    /// Wanted instances.
    pub instances_wanted: u32,
    /// The last epoch given out.
    pub epoch: Epoch,
    /// The quarantine, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineRecord>,
}
