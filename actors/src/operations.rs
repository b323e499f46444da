//! What can be asked of a mesh. The HTTP layer speaks to this trait and to nothing else.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::address::Address;
use mesh_messages::agent::{
    AgentRegistration, AgentStatus, AgentStatusKind, AgentSummary, InstanceView, Page, PolicyValue,
    RecoveryResult, SandboxView,
};
use mesh_messages::certificate::Credentials;
use mesh_messages::chaos::{ChaosAnswer, ChaosOrder};
use mesh_messages::claim::Claim;
use mesh_messages::dependency::{DependencyGraph, StartOrder, StopOrder};
use mesh_messages::erasure::{ErasureOrder, ErasureReport};
use mesh_messages::gate::ProviderGate;
use mesh_messages::identity::DidKey;
use mesh_messages::policy::{PolicyDocument, PolicyInForce};
use mesh_messages::problem::Problem;
use mesh_messages::schedule::Schedule;
use mesh_messages::secret::{SecretInfo, SecretWrite};
use mesh_messages::system::{
    AuditEntry, AuditFilter, AuditTrace, Board, Caller, HealthReport, IssuedToken, KeyInfo,
    KeyRotation, MemoryEntry, MemoryStats, MeshEvent, NodeInfo, PastAt, PastState, RotatedKey,
    SystemStatus, TokenInfo, TokenOrder,
};
use mesh_messages::task::{Task, TaskExplanation, TaskReceipt, TaskSpec, TaskState};
use mesh_messages::workflow::{WorkflowCheck, WorkflowRun};
use mesh_messages::{AgentId, Failure, Position, Severity, TaskId};

pub use mesh_persistence::VaultCopy;

mod action;
mod budget;
mod bus;
mod governance;
mod inbox;
mod insights;
mod limits;
mod past;
mod plans;
mod profiles;
mod refusals;
mod services;
mod signal;
mod split;
mod trust;
mod upgrade;
mod workflows;

pub use action::Action;
pub use budget::BudgetOperations;
pub use bus::BusOperations;
pub use governance::GovernanceOperations;
pub use inbox::{InboxOperations, InboxQuery};
pub use insights::{AgentInsights, CapabilityInsight, TypeInsight};
pub use limits::LimitOperations;
pub use past::{PastAbout, TraceFrom};
pub use plans::{PlanOperations, PlanOrder, PlanWork};
pub use profiles::ProfileOperations;
pub use refusals::RefusalOperations;
pub use services::ServiceOperations;
pub use signal::SignalOperations;
pub use split::SplitOperations;
pub use trust::TrustOperations;
pub use upgrade::{UpgradeRequest, UpgradeResult, UpgradeType};
pub use workflows::{ScheduleOrder, WorkflowOrder};

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessAnswer {
    /// The line of the co-signature.
    Signed(String),
    /// The proof has to begin at this size.
    Conflict(u64),
}

/// Where a bundle comes from.
#[derive(Debug, Clone)]
pub enum BundleSource {
    /// A tar archive.
    Tar(Vec<u8>),
    /// A manifest, and a directory of this host with the bundle's other files.
    Manifest {
        /// The manifest, JSON.
        manifest: Value,
        /// The directory; without it the bundle is the manifest alone.
        path: Option<PathBuf>,
    },
}

/// What to do with an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentVerb {
    /// Run it.
    Start(StartOrder),
    /// Stop it in order.
    Stop(StopOrder),
    /// Stop, then start it.
    Restart,
    /// Give it no work; it stays up.
    Pause,
    /// Give it work again.
    Resume,
    /// Isolate it.
    Quarantine(QuarantineOrder),
    /// Bring it back from quarantine.
    Recover {
        /// Also when its automatic recoveries are exhausted; an admin's right.
        force: bool,
    },
    /// Exchange its version.
    Upgrade(UpgradeRequest),
    /// Go back to an earlier version.
    Rollback(UpgradeRequest),
    /// End it for good.
    Terminate,
    /// Change the number of replicas.
    Scale {
        /// How many.
        replicas: u32,
    },
}

/// The body of `quarantine`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuarantineOrder {
    /// The kind; `manual` when absent.
    #[serde(rename = "type", default = "manual")]
    pub kind: mesh_messages::agent::QuarantineKind,
    /// Why.
    #[serde(default)]
    pub description: String,
    /// How bad; `medium` when absent.
    #[serde(default = "medium")]
    pub severity: Severity,
}

fn manual() -> mesh_messages::agent::QuarantineKind {
    mesh_messages::agent::QuarantineKind::Manual
}
fn medium() -> Severity {
    Severity::Medium
}

/// What a verb led to.
#[derive(Debug, Clone, PartialEq)]
pub enum VerbOutcome {
    /// The agent's status afterwards.
    Status(Box<AgentStatus>),
    /// Of `recover`.
    Recovery(RecoveryResult),
    /// Of `upgrade` and `rollback`.
    Upgrade(UpgradeResult),
}

/// `GET /v1/agents/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentProfile {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its persona.
    #[serde(rename = "type")]
    pub kind: String,
    /// The version in force.
    pub version: String,
    /// All registered versions.
    pub versions: Vec<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Digest of the bundle in force.
    pub digest: String,
    /// The manifest in force.
    pub manifest: Value,
    /// Measured performance.
    pub performance: AgentInsights,
    /// Its status.
    pub health: AgentStatus,
    /// Who registered it.
    pub owner: String,
    /// When it was registered first.
    pub created_at: mesh_messages::Timestamp,
    /// When something about it last changed.
    pub updated_at: mesh_messages::Timestamp,
}

/// Which agents to list.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// With this capability.
    pub capability: Option<String>,
    /// With this persona.
    pub persona: Option<String>,
    /// With this status.
    pub status: Option<AgentStatusKind>,
    /// With this tag.
    pub tag: Option<String>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// In this state.
    pub state: Option<TaskState>,
    /// Of this type.
    pub kind: Option<String>,
    /// Last assigned to this agent.
    pub agent: Option<AgentId>,
    /// In this column of the board.
    pub column: Option<String>,
}

/// Which page of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<'a> {
    /// Rows, 1 to [`PAGE_MAX`].
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<&'a str>,
}

/// Rows of a page when the caller names no number.
pub const PAGE_DEFAULT: usize = 100;
/// Most rows of a page: more would make one answer megabytes.
pub const PAGE_MAX: usize = 1000;

/// What a submission led to.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitOutcome {
    /// One per task, in the order of the submission.
    pub receipts: Vec<TaskReceipt>,
    /// Whether all of them were there before (same idempotency keys, same content).
    pub replayed: bool,
}

/// The outcome that somebody reports for an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutcomeReport {
    /// The attempt it is the outcome of.
    pub attempt: mesh_messages::AttemptNo,
    /// The epoch of the agent that made the attempt.
    pub epoch: mesh_messages::Epoch,
    /// The result, when it succeeded.
    #[serde(default)]
    pub output: Option<Value>,
    /// The failure, when it did not.
    #[serde(default)]
    pub error: Option<Failure>,
}

/// A line of an agent's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When meshd read it.
    pub time: mesh_messages::Timestamp,
    /// Of which replica.
    pub instance: mesh_messages::InstanceNo,
    /// Of which incarnation.
    pub epoch: mesh_messages::Epoch,
    /// The line, cut at a stated length.
    pub line: String,
}

/// A live feed of events. When `recv` answers `Lagged`, the reader resumes from the journal by position.
pub type EventFeed = tokio::sync::broadcast::Receiver<std::sync::Arc<MeshEvent>>;

/// One agent's part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOf {
    /// Whose.
    pub agent: AgentId,
    /// How many records a witness saw: the export then proves that the log continues that one.
    pub witnessed: Option<u64>,
}

/// Something large on its way, piece by piece; an error ends it, and what came before is then no whole.
pub type ChunkStream = tokio::sync::mpsc::Receiver<Result<Vec<u8>, Problem>>;

/// Everything that the outside can ask of a mesh.
#[async_trait]
pub trait Operations:
    PlanOperations
    + BusOperations
    + InboxOperations
    + GovernanceOperations
    + TrustOperations
    + RefusalOperations
    + ServiceOperations
    + SplitOperations
    + LimitOperations
    + SignalOperations
    + ProfileOperations
    + BudgetOperations
{
    /// Who presents this token, or, without one, this certificate. Every failure is the same `Invalid authentication`.
    fn authenticate(&self, given: Credentials<'_>) -> Result<Caller, Problem>;
    /// Whether the caller may do this; a refusal is audited. The rate limit of the caller is charged here, too.
    async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem>;

    /// Registers a bundle; starts it unless told not to.
    async fn register_agent(
        &self,
        caller: &Caller,
        bundle: BundleSource,
        start: bool,
    ) -> Result<AgentRegistration, Problem>;
    /// Lists agents, ordered by id.
    async fn agents(
        &self,
        filter: AgentFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AgentSummary>, Problem>;
    /// One agent in full.
    async fn agent(&self, id: &str) -> Result<AgentProfile, Problem>;
    /// Its status; an unknown id is an answer, not an error.
    async fn agent_status(&self, id: &str) -> Result<AgentStatus, Problem>;
    /// Drains, stops and forgets it. Its audit stays.
    async fn remove_agent(&self, caller: &Caller, id: &str) -> Result<(), Problem>;
    /// Does something with it and answers when it is done or under way as far as the verb promises.
    async fn agent_verb(
        &self,
        caller: &Caller,
        id: &str,
        verb: AgentVerb,
    ) -> Result<VerbOutcome, Problem>;
    /// Its records.
    async fn agent_history(
        &self,
        id: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem>;
    /// What its tasks say of it.
    async fn agent_insights(&self, id: &str) -> Result<AgentInsights, Problem>;
    /// The last lines of its log, oldest first.
    async fn agent_logs(&self, id: &str, tail: usize) -> Result<Vec<LogLine>, Problem>;
    /// The policy in force and where each value came from.
    async fn agent_policy(&self, id: &str) -> Result<Vec<PolicyValue>, Problem>;
    /// What the operator applied, and what therefore holds for an agent that overrides nothing.
    async fn policies(&self) -> Result<PolicyInForce, Problem>;
    /// Replaces the scopes that the document names, all or none; answers when that is durable.
    async fn apply_policy(
        &self,
        caller: &Caller,
        document: PolicyDocument,
    ) -> Result<PolicyInForce, Problem>;
    /// Its replicas.
    async fn agent_instances(&self, id: &str) -> Result<Vec<InstanceView>, Problem>;
    /// What is enforced around it (as of its last start; before that, what a start would get).
    async fn agent_sandbox(&self, id: &str) -> Result<SandboxView, Problem>;

    /// Accepts tasks, all or none; answers when they are durable.
    async fn submit_tasks(
        &self,
        caller: &Caller,
        specs: Vec<TaskSpec>,
    ) -> Result<SubmitOutcome, Problem>;
    /// Lists tasks, newest first.
    async fn tasks(&self, filter: TaskFilter, page: PageRequest<'_>)
    -> Result<Page<Task>, Problem>;
    /// One task.
    async fn task(&self, id: &str) -> Result<Task, Problem>;
    /// The task once it has ended, or as it is when the time is up.
    async fn wait_task(&self, id: &str, wait: Duration) -> Result<Task, Problem>;
    /// Tasks, in the order of their ids, once all of them have ended, or as they are when the time is up.
    async fn wait_tasks(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Task>, Problem>;
    /// Ends it; its process, too. A task that has ended already is a conflict.
    async fn cancel_task(&self, caller: &Caller, id: &str, reason: &str) -> Result<Task, Problem>;
    /// Gives a failed or dead-lettered task another round.
    async fn retry_task(&self, caller: &Caller, id: &str) -> Result<Task, Problem>;
    /// Takes the outcome of an attempt from outside its channel.
    async fn report_outcome(
        &self,
        caller: &Caller,
        id: &str,
        outcome: OutcomeReport,
    ) -> Result<Task, Problem>;

    /// Says whether a workflow makes sense; changes nothing.
    async fn check_workflow(
        &self,
        caller: &Caller,
        order: &WorkflowOrder,
    ) -> Result<WorkflowCheck, Problem>;
    /// Starts a run; answers when it is durable, with the run and whether it was there before.
    async fn start_workflow(
        &self,
        caller: &Caller,
        order: WorkflowOrder,
    ) -> Result<(WorkflowRun, bool), Problem>;
    /// Lists runs, newest first, those of steps apart.
    async fn workflows(&self, page: PageRequest<'_>) -> Result<Page<WorkflowRun>, Problem>;
    /// One run.
    async fn workflow(&self, id: &str) -> Result<WorkflowRun, Problem>;
    /// The run once it has ended, or as it is when the time is up.
    async fn wait_workflow(&self, id: &str, wait: Duration) -> Result<WorkflowRun, Problem>;
    /// Has a run ended, and what it has under way.
    async fn cancel_workflow(
        &self,
        caller: &Caller,
        id: &str,
        reason: &str,
    ) -> Result<WorkflowRun, Problem>;

    /// Who holds which resource, and who waits for it, by name.
    async fn claims(&self) -> Result<Vec<Claim>, Problem>;
    /// The gates before providers' accounts that are not open, by account.
    async fn gates(&self) -> Result<Vec<ProviderGate>, Problem>;
    /// Has a provider's account tried now, before its gate's time has come.
    async fn try_gate(&self, caller: &Caller, account: &str) -> Result<ProviderGate, Problem>;
    /// Makes a schedule; answers when it is durable, with it and whether it was there before.
    async fn create_schedule(
        &self,
        caller: &Caller,
        order: ScheduleOrder,
    ) -> Result<(Schedule, bool), Problem>;
    /// All schedules by name, without their documents.
    async fn schedules(&self) -> Result<Vec<Schedule>, Problem>;
    /// One schedule.
    async fn schedule(&self, id: &str) -> Result<Schedule, Problem>;
    /// Has it begin nothing, or go on.
    async fn pause_schedule(
        &self,
        caller: &Caller,
        id: &str,
        paused: bool,
    ) -> Result<Schedule, Problem>;
    /// Removes it; its runs go on.
    async fn remove_schedule(&self, caller: &Caller, id: &str) -> Result<(), Problem>;

    /// Why it was given to whom, or why it waits.
    async fn explain_task(&self, id: &str) -> Result<TaskExplanation, Problem>;
    /// Its records.
    async fn task_events(
        &self,
        id: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem>;
    /// The registered agents, and what they need of each other.
    async fn dependencies(&self) -> Result<DependencyGraph, Problem>;
    /// The board, with at most `cards` cards a column.
    async fn board(&self, cards: usize) -> Result<Board, Problem>;

    /// Takes one KLP envelope; answers with the reply, or with a receipt when none is expected, or none came within
    /// `wait` (five seconds when it is not given).
    async fn send_message(
        &self,
        caller: &Caller,
        envelope: Value,
        wait: Option<Duration>,
    ) -> Result<Value, Problem>;

    /// The live feed, from now on.
    fn subscribe(&self) -> EventFeed;
    /// Events after a position, oldest first, at most `limit`: what a resuming reader missed.
    async fn events_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<MeshEvent>, Problem>;

    /// Audit records, oldest first.
    async fn audit(
        &self,
        filter: AuditFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem>;
    /// A record, what led to it, and what it led to.
    async fn audit_trace(&self, from: TraceFrom) -> Result<AuditTrace, Problem>;
    /// How something stood when the log had got to a record.
    async fn past_state(&self, at: PastAt, about: PastAbout) -> Result<PastState, Problem>;
    /// Erases content for ever, by order; answers when it is erased.
    async fn erase(&self, caller: &Caller, order: ErasureOrder) -> Result<ErasureReport, Problem>;
    /// A fresh signed checkpoint, as a C2SP note.
    async fn checkpoint(&self) -> Result<String, Problem>;
    /// `{index, size, path[], root}`: proof that the record at `index` is in the tree of `size` (the current one when absent).
    async fn inclusion_proof(&self, index: Position, size: Option<u64>) -> Result<Value, Problem>;
    /// `{from, to, path[]}`: proof that the tree of `to` extends that of `from`.
    async fn consistency_proof(&self, from: u64, to: Option<u64>) -> Result<Value, Problem>;
    /// Starts an export, with what agents remember or without; chunks of JSON Lines come through the channel, an error ends it.
    async fn export_audit(
        &self,
        of: Option<ExportOf>,
        memory: bool,
    ) -> Result<ChunkStream, Problem>;
    /// Starts an export of agents, assignments, relationships and insights as an SQL script; ends as the other does.
    async fn export_sql(&self) -> Result<ChunkStream, Problem>;
    /// Starts a backup as of now, a tar, with or without the encrypted vault; ends as the exports do.
    async fn backup(&self, vault: VaultCopy) -> Result<ChunkStream, Problem>;

    /// Whether the journal takes writes and the tree runs; cheap, never waits.
    fn alive(&self) -> bool;
    /// `/status`.
    async fn status(&self) -> Result<SystemStatus, Problem>;
    /// `/v1/health`.
    async fn health(&self) -> Result<HealthReport, Problem>;
    /// `/metrics`, Prometheus text.
    async fn metrics(&self) -> Result<String, Problem>;
    /// Learned insights: per agent and type.
    async fn insights(&self) -> Result<Value, Problem>;
    /// This node.
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Problem>;

    /// An agent's memory, ordered by key.
    async fn memory_list(
        &self,
        agent: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<MemoryEntry>, Problem>;
    /// One entry.
    async fn memory_get(&self, agent: &str, key: &str) -> Result<MemoryEntry, Problem>;
    /// Writes one entry.
    async fn memory_set(
        &self,
        caller: &Caller,
        agent: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem>;
    /// Deletes one entry; false when it was not there.
    async fn memory_delete(&self, caller: &Caller, agent: &str, key: &str)
    -> Result<bool, Problem>;
    /// In numbers.
    async fn memory_stats(&self, agent: &str) -> Result<MemoryStats, Problem>;

    /// Issues a token.
    async fn issue_token(&self, caller: &Caller, order: TokenOrder)
    -> Result<IssuedToken, Problem>;
    /// Lists tokens.
    async fn tokens(&self) -> Result<Vec<TokenInfo>, Problem>;
    /// Voids a token.
    async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Problem>;

    /// Lists public keys and whose they are, those of the past included.
    async fn keys(&self) -> Result<Vec<KeyInfo>, Problem>;
    /// Registers a key as somebody's; the one before it does not hold any more.
    async fn register_key(
        &self,
        caller: &Caller,
        key: DidKey,
        owner: Address,
    ) -> Result<KeyInfo, Problem>;
    /// Revokes a key, for ever.
    async fn revoke_key(
        &self,
        caller: &Caller,
        key: DidKey,
        reason: String,
    ) -> Result<KeyInfo, Problem>;
    /// Gives this node another key, which signs for its log from here on.
    async fn rotate_key(&self, caller: &Caller, order: KeyRotation) -> Result<RotatedKey, Problem>;
    /// The notes that say which keys took over from the log's first one, one after the other; empty while that one signs.
    fn successions(&self) -> String;
    /// Takes in that another key signs for another log: a request as to a witness, with the succession as its note.
    async fn witness_succession(&self, by: &Caller, body: &str) -> Result<WitnessAnswer, Problem>;
    /// The bytes of a C2SP tile of the audit log, by its path after `tile/`.
    async fn audit_tile(&self, path: &str) -> Result<Vec<u8>, Problem>;
    /// Co-signs another log's checkpoint: a C2SP request to a witness.
    async fn witness(&self, by: &Caller, body: &str) -> Result<WitnessAnswer, Problem>;

    /// Lists secrets, without their values.
    async fn secrets(&self) -> Result<Vec<SecretInfo>, Problem>;
    /// Sets a secret; answers when that is durable.
    async fn set_secret(
        &self,
        caller: &Caller,
        name: &str,
        secret: SecretWrite,
    ) -> Result<SecretInfo, Problem>;
    /// Deletes a secret; answers when that is durable.
    async fn delete_secret(&self, caller: &Caller, name: &str) -> Result<(), Problem>;

    /// Hurts one instance or one part on purpose, where the operator has switched that on.
    async fn strike(&self, caller: &Caller, order: ChaosOrder) -> Result<ChaosAnswer, Problem>;
}
