//! What the mesh says of itself: status, health, events, audit, tokens, memory, nodes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{FaultView, HealthLevel, Lifecycle, QuarantineRecord};
use crate::capability::Narrowing;
use crate::identity::DidKey;
use crate::ids::{AgentId, Epoch, InstanceNo, Position, TaskId};
use crate::task::Task;
use crate::time::Timestamp;

mod board;
mod past;
mod tokens;

pub use board::{Board, BoardAgent, BoardCard, BoardColumn, BoardFlow, BoardInstance};
pub use past::PastAt;
pub use tokens::{IssuedToken, TokenInfo, TokenKind, TokenOrder};

/// `GET /v1/health` and part of `/status`: aggregates know four levels.
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
pub enum OverallHealth {
    /// No warning.
    #[default]
    Healthy,
    /// One or two warnings.
    Degraded,
    /// More than two warnings.
    Warning,
    /// Anything critical.
    Critical,
}

impl OverallHealth {
    /// All levels, from the best to the worst.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Warning, Self::Critical];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Fixed cut-offs: any critical is critical, more than two warnings a warning, one or two degraded.
    pub fn of(levels: impl IntoIterator<Item = HealthLevel>) -> Self {
        let (mut warnings, mut criticals) = (0_usize, 0_usize);
        for level in levels {
            match level {
                HealthLevel::Healthy => {}
                HealthLevel::Warning => warnings += 1,
                HealthLevel::Critical => criticals += 1,
            }
        }
        match (criticals, warnings) {
            (1.., _) => Self::Critical,
            (0, 3..) => Self::Warning,
            (0, 1..) => Self::Degraded,
            (0, 0) => Self::Healthy,
        }
    }
}

/// One health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What was checked: `journal`, `projections`, `disk`, `agent:<id>`.
    pub name: String,
    /// The result.
    pub status: HealthLevel,
    /// In words.
    pub detail: String,
    /// Since when it is of this level, as far as this run of meshd has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// All checks together.
    pub status: OverallHealth,
    /// Each check.
    pub checks: Vec<HealthCheck>,
    /// The checks that are not healthy, in words.
    pub issues: Vec<String>,
    /// When it was made.
    pub timestamp: Timestamp,
}

/// `POST /v1/keys/node/rotate`: another key for the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// The old key is in wrong hands: nothing that it signs is believed any more, and tokens that rest on it end.
    #[serde(default)]
    pub compromised: bool,
    /// Why, for the record. At most 256 characters.
    #[serde(default)]
    pub reason: String,
}

/// The answer to a [`KeyRotation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotatedKey {
    /// The node's name, which stays: its first key.
    pub node: DidKey,
    /// The key in force.
    pub key: DidKey,
    /// The key before it.
    pub replaces: DidKey,
    /// How many records the last tree has that the key before it speaks for.
    pub size: u64,
    /// How many tokens ended with it.
    pub ended_tokens: u64,
    /// The note that both keys signed.
    pub succession: String,
}

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemStatus {
    /// `meshd`'s version.
    pub version: String,
    /// The node's name, which is its log's: its first key, `did:key:…`.
    pub node: String,
    /// The key that signs for it now; absent from a meshd that does not know of any other than the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Names this run.
    pub run_id: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Milliseconds.
    pub uptime: u64,
    /// All together.
    pub health: OverallHealth,
    /// What keeps it from being healthy.
    pub issues: Vec<String>,
    /// Whether new work is taken; if not, why.
    pub accepting: bool,
    /// Why new work is not taken.
    pub refusing_because: Option<String>,
    /// Actors of the tree, by name, and whether they run.
    pub components: Vec<ComponentStatus>,
    /// Agents by `AgentStatus.status`.
    pub agents: BTreeMap<String, u64>,
    /// Registered services by status.
    #[serde(default)]
    pub services: BTreeMap<String, u64>,
    /// Tasks by state.
    pub tasks: BTreeMap<String, u64>,
    /// The journal.
    pub journal: JournalStatus,
    /// Whether the data directory is readable without a key.
    #[serde(default = "AtRest::none")]
    pub encryption: AtRest,
    /// What the operator granted beyond the default, and what this machine cannot enforce.
    pub warnings: Vec<String>,
    /// Stale messages that were refused since the start, by kind.
    pub refused: BTreeMap<String, u64>,
}

/// Whether the data directory is readable without a key, seen from meshd. What encrypts the disk below is not seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AtRest {
    /// Who holds it.
    pub level: AtRestLevel,
    /// By what; empty when nobody does.
    pub mechanism: String,
}

/// Who keeps data at rest from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AtRestLevel {
    /// The kernel.
    Kernel,
    /// Nobody: it is as readable as the disk below it.
    None,
}

impl AtRest {
    /// Nobody keeps it from being read.
    pub fn none() -> Self {
        Self {
            level: AtRestLevel::None,
            mechanism: String::new(),
        }
    }

    /// The kernel does.
    pub fn kernel(mechanism: impl Into<String>) -> Self {
        Self {
            level: AtRestLevel::Kernel,
            mechanism: mechanism.into(),
        }
    }
}

impl std::fmt::Display for AtRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.level {
            AtRestLevel::Kernel => write!(f, "kernel ({})", self.mechanism),
            AtRestLevel::None => f.write_str("none"),
        }
    }
}

/// One actor of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Its registered name.
    pub name: String,
    /// Its supervisor's name.
    pub parent: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// How often it was restarted.
    pub restarts: u64,
}

/// The journal's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalStatus {
    /// Records that are durable.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// How far the projections are.
    pub projected: Option<Position>,
    /// The last checkpoint's size.
    pub checkpoint_size: u64,
}

/// One record as the audit shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Its index in the log.
    pub position: Position,
    /// When.
    pub time: Timestamp,
    /// What happened; for lifecycle events one of eleven fixed names.
    pub kind: String,
    /// Which agent it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Which task it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Who caused it.
    pub actor: String,
    /// The record that led to it.
    pub cause: Option<Position>,
    /// What one request led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// The payload's commitment.
    pub commitment: String,
    /// The payload; absent once erased.
    pub payload: Option<Value>,
}

/// A record, what led to it, and what it led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditTrace {
    /// The way to it from what all began with, oldest first.
    pub causes: Vec<AuditEntry>,
    /// The record.
    pub record: AuditEntry,
    /// All that it led to, directly or over others, oldest first.
    pub effects: Vec<AuditEntry>,
    /// Whether it led to more than is shown.
    pub more: bool,
}

/// How something stood when the log had got to a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastState {
    /// The last record that was taken in.
    pub at: Position,
    /// Its time.
    pub time: Timestamp,
    /// The task that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The agent that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<PastAgent>,
    /// Tasks that had been submitted, oldest first, when neither was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Task>>,
    /// Where the next page of them begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Records whose payloads were erased since, so that what they said is missing here.
    pub erased: u64,
    /// Records whose payloads lie in the content store, which an export does not hold.
    pub elsewhere: u64,
}

/// An agent as it stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastAgent {
    /// Its id.
    pub id: AgentId,
    /// The version in force.
    pub version: String,
    /// Digest of its bundle.
    pub digest: String,
    /// Its stage.
    pub lifecycle: Lifecycle,
    /// Whether it was to run.
    pub running: bool,
    /// Whether it was to take no work.
    pub paused: bool,
    /// How many replicas it was to have.
    pub replicas: u32,
    /// The last epoch given out.
    pub epoch: Epoch,
    /// What was to be seen of its fault policy.
    pub fault: Option<FaultView>,
    /// The quarantine it was in, or last in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineRecord>,
    /// Its replicas.
    pub instances: Vec<PastInstance>,
    /// Who had registered it.
    pub owner: String,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When something about it had last changed.
    pub updated_at: Timestamp,
}

/// One replica as it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastInstance {
    /// Its number, from 0.
    pub instance: InstanceNo,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its own stage.
    pub lifecycle: Lifecycle,
    /// What it ran.
    pub version: String,
    /// When it was started.
    pub activated_at: Timestamp,
}

/// Which audit records to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditFilter {
    /// Only of this agent.
    pub agent: Option<AgentId>,
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this kind; one that ends with a full stop means all that begin so.
    pub kind: Option<String>,
    /// Only what this caller did, such as `user:admin`.
    #[serde(default)]
    pub actor: Option<String>,
    /// Only what this record led to.
    #[serde(default)]
    pub cause: Option<Position>,
    /// Only what one request led to.
    #[serde(default)]
    pub correlation: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
}

/// One event of the live stream; `id` is what `Last-Event-ID` takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshEvent {
    /// The record's position; absent for volatile events such as progress.
    pub id: Option<Position>,
    /// `agent.<id>.<kind>`, `task.<kind>`, `node.<kind>`…
    pub topic: String,
    /// When.
    pub time: Timestamp,
    /// What.
    pub data: Value,
}

/// A role. Each includes what the one before may do, save `agent` and `publisher`, which stand apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, submits and cancels tasks, starts and stops agents.
    Operator,
    /// Everything.
    Admin,
    /// What an agent may do: submit, report, send.
    Agent,
    /// Registers agents.
    Publisher,
}

impl Role {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Agent => "agent",
            Self::Publisher => "publisher",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [
            Self::Viewer,
            Self::Operator,
            Self::Admin,
            Self::Agent,
            Self::Publisher,
        ]
        .into_iter()
        .find(|r| r.name() == s)
        .ok_or_else(|| "must be one of viewer, operator, admin, agent, publisher".to_owned())
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name in the audit, such as `user:admin`.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whether it sits on this host.
    pub loopback: bool,
    /// What its token was narrowed to; empty for a token as it was issued.
    pub narrowed: Vec<Narrowing>,
}

/// A public key and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyInfo {
    /// The key.
    pub key: DidKey,
    /// Whose it is, as an address such as `user:ada` or `agent:echo`.
    pub owner: String,
    /// Since when.
    pub registered: Timestamp,
    /// Until when; absent while it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// Why it does not hold any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One entry of an agent's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryEntry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// When it was written.
    pub updated_at: Timestamp,
    /// Until when it can be read.
    pub expires_at: Option<Timestamp>,
    /// Whether it is on disk.
    pub persistent: bool,
}

/// An agent's memory in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStats {
    /// The context's id: the agent's.
    pub id: AgentId,
    /// `volatile`, `persistent`, `hybrid`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The backend named in the manifest.
    pub backend: String,
    /// Megabytes.
    pub size: f64,
    /// Entries.
    pub entry_count: u64,
    /// When it was last used.
    pub last_accessed: Option<Timestamp>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Its key.
    pub id: String,
    /// Its state: `up`.
    pub state: String,
    /// Its version.
    pub version: String,
    /// Its address.
    pub url: String,
    /// Its agents.
    pub agents: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthLevel::{Critical, Healthy, Warning};

    #[test]
    fn overall_health_has_exactly_these_cut_offs() {
        let cases: [(&[HealthLevel], OverallHealth); 7] = [
            (&[], OverallHealth::Healthy),
            (&[Healthy, Healthy], OverallHealth::Healthy),
            (&[Warning], OverallHealth::Degraded),
            (&[Warning, Warning, Healthy], OverallHealth::Degraded),
            (&[Warning, Warning, Warning], OverallHealth::Warning),
            (&[Critical], OverallHealth::Critical),
            (
                &[Warning, Warning, Warning, Critical],
                OverallHealth::Critical,
            ),
        ];
        for (levels, expected) in cases {
            assert_eq!(
                OverallHealth::of(levels.iter().copied()),
                expected,
                "{levels:?}"
            );
        }
        for level in OverallHealth::ALL {
            assert_eq!(serde_json::to_value(level).unwrap(), level.name());
            assert_eq!(OverallHealth::named(level.name()), Some(level));
        }
    }
}
