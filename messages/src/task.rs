//! Tasks as they are submitted, stored and shown.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::{Amounts, TaskBudget};
use crate::capability::Limits;
use crate::claim::TaskClaim;
use crate::escalation::{ESCALATION, Escalation, EscalationStep};
use crate::failure::Failure;
use crate::ids::{AgentId, AttemptNo, Epoch, InstanceNo, TaskId};
use crate::team::{TeamWish, Teamwork};
use crate::time::Timestamp;
use crate::trust::TrustNeed;
use crate::workflow::ApprovalSpec;

mod answers;

pub use answers::{Progress, TaskExplanation, TaskMessage, TaskReceipt};

/// Most tasks that one submission may hold.
pub const TASKS_PER_SUBMIT_MAX: usize = 1000;
/// Most capabilities one task may require: each is matched against every candidate.
pub const REQUIREMENTS_MAX: usize = 32;
/// Largest input or output of a task, in bytes of JSON: it has to fit in one KLP envelope (1 MiB) with its head.
pub const TASK_DATA_MAX: usize = 1024 * 1024 - 16 * 1024;
/// A task's deadline when it names none.
pub const DEADLINE_DEFAULT_MS: u64 = 24 * 60 * 60 * 1000;
/// An attempt's time limit when its task names none.
pub const ATTEMPT_TIMEOUT_DEFAULT_MS: u64 = 10 * 60 * 1000;

/// How urgent a task or message is.
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
pub enum Priority {
    /// May wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before normal work.
    High,
    /// Before everything else.
    Critical,
}

/// How the pauses between attempts grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DelayStrategy {
    /// Doubling: base, 2 × base, 4 × base…
    #[default]
    Exponential,
    /// base, 2 × base, 3 × base…
    Linear,
    /// Always base.
    Fixed,
}

/// When and how often a failed attempt is followed by another. What is absent comes from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetrySpec {
    /// Attempts in all, the first included; from 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How pauses grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_strategy: Option<DelayStrategy>,
    /// The first pause, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_delay_ms: Option<u64>,
    /// Whether each pause is spread over its upper half, so that retries do not come in herds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
}

/// What a result must satisfy to count.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskContract {
    /// JSON Schema of the output; an output that breaks it fails the attempt as `contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Acceptance checks, made in this order once the output has its form; the first that does not pass fails the
    /// attempt as `contract`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<AcceptanceCheck>,
}

/// Most checks of one contract.
pub const CHECKS_MAX: usize = 16;
/// Most words of a check's command.
pub const CHECK_WORDS_MAX: usize = 64;
/// Longest word of a check's command, in bytes.
pub const CHECK_WORD_BYTES_MAX: usize = 8192;
/// Longest name of a check, in bytes.
pub const CHECK_NAME_MAX: usize = 64;
/// How long a check may take when it does not say.
pub const CHECK_TIMEOUT_DEFAULT_MS: u64 = 60 * 1000;
/// Most bytes of evidence that are kept of one check: enough for the last lines of a test's report.
pub const EVIDENCE_BYTES_MAX: usize = 2048;

/// One acceptance check: a `command`, or `requirements` of an agent that verifies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptanceCheck {
    /// What it is called; each of a contract's has its own name.
    pub name: String,
    /// A program and its arguments. It runs in the sandbox of the agent that did the work, gets the output as JSON on its
    /// standard input, and passes by exiting with 0; what it writes on standard output is its evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Capabilities of the agent that verifies. It gets `{check, task, action, input, output}` and answers
    /// `{ok, reason}`. An agent never verifies its own work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// How long it may take, in milliseconds; when absent, 60 s for a command, and for an agent as long as the attempt. The
    /// attempt's own limit holds, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Which.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// What shows it: the last of what a command wrote, or the reason of an agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// The task of the agent that verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
}

/// A task as its submitter writes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskSpec {
    /// What kind of work it is; the `action` that the agent sees. Without it, the first requirement.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Capabilities that the agent must have, all of them. Without any, the type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// Only this agent may get it; any capable one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// What the agent gets.
    #[serde(default)]
    pub input: Value,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// How long after submission it must have ended, in milliseconds; 24 h when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How long one attempt may take, in milliseconds; 10 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Two submissions of one caller under one key are one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When and how often to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// What the output must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<TaskContract>,
    /// Tasks that must have succeeded before this one starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    /// Trust that the agent must have earned: `true` for the configuration's `trust_threshold`, or the least level, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustNeed>,
    /// This agent before all others that can do it, while it can take the task at once and has not failed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<AgentId>,
    /// Another agent than this one, where there is one that can do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoid: Option<AgentId>,
    /// What it and everything under it may use. When that is used up, it waits, and a person is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<TaskBudget>,
    /// Resources that each attempt has for itself from before it is delivered until it ends: all of them, or it waits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<TaskClaim>,
    /// Who takes it up when it has failed for good, one after the other; what the operator's policy says when absent, and
    /// nobody when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Vec<EscalationStep>>,
    /// The task that was escalated, of which this is the question or the follow-up. Written by meshd alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalates: Option<TaskId>,
    /// Whether several agents may do it between them when no registered one has all of its requirements; `auto` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamWish>,
    /// The task on whose behalf it runs; it inherits that task's remaining deadline and is cancelled with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// What whoever works on it may hand on: every task on its behalf is held to all of these. A narrowed token adds its
    /// own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Limits>,
    /// A person's answer instead of an agent's work: the task waits for `approve`, and goes to no agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSpec>,
    /// Free marks for finding it again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl TaskSpec {
    /// What the agent sees as `action`: the type, else the first requirement, else nothing.
    pub fn action(&self) -> &str {
        if self.escalates.is_some() && self.approval.is_none() {
            return ESCALATION;
        }
        self.kind
            .as_deref()
            .or_else(|| self.requirements.first().map(String::as_str))
            .or_else(|| self.approval.as_ref().map(|_| "approval"))
            .unwrap_or("")
    }
    /// The capabilities that an agent must have: the requirements, else the type.
    pub fn needs(&self) -> Vec<String> {
        if self.requirements.is_empty() {
            self.kind.iter().cloned().collect()
        } else {
            self.requirements.clone()
        }
    }
}

/// Where a task stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Ready to run; waits for a free slot.
    Queued,
    /// An agent was chosen.
    Assigned,
    /// The agent has it.
    Running,
    /// Waits for another task or a person.
    Blocked,
    /// Waits for an agent, a breaker or a quota.
    Parked,
    /// Failed, and will be tried again.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended by a failure that trying again cannot mend.
    Failed,
    /// Ended by somebody's wish.
    Cancelled,
    /// Ended because its attempts or its time are used up.
    DeadLettered,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Blocked,
        Self::Parked,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::DeadLettered,
    ];
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Parked => "parked",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::DeadLettered => "dead_lettered",
        }
    }
    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::DeadLettered
        )
    }
    /// Whether an agent has it.
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Assigned | Self::Running)
    }
    /// The board column of such tasks, those that are looked at by others apart: see [`Task::column`].
    pub const fn column(self) -> &'static str {
        match self {
            Self::Parked => "Backlog",
            Self::Queued => "Ready",
            Self::Assigned | Self::Running | Self::Retrying => "In progress",
            Self::Blocked => "Blocked",
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::DeadLettered => "Done",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|x| x.name() == s)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|x| x.name()).collect();
                format!("must be one of {}", names.join(", "))
            })
    }
}

/// Why a task does not move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// The kind of wait.
    pub reason: WaitReason,
    /// The wait in words: for whom, for what.
    pub detail: String,
    /// When it ends by itself, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The agents it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentId>,
    /// The tasks it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskId>,
}

/// The kinds of waits.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// No registered agent has the capabilities.
    NoAgent,
    /// Capable agents exist, but none of them runs.
    AgentDown,
    /// Capable agents' breakers are open or they are in quarantine.
    Breaker,
    /// All capable instances are at their limit.
    Capacity,
    /// The mesh runs `max_parallel_tasks` already.
    ParallelLimit,
    /// Suspected of ending its instances, it waits for one that is free of other work.
    Isolation,
    /// Other tasks have to succeed first.
    Dependency,
    /// A person has to approve it.
    Approval,
    /// A pause before the next attempt.
    Retry,
    /// The limit of a provider's account was reached, and its gate is not open yet.
    Quota,
    /// Its result is being checked.
    Check,
    /// Another attempt holds a resource that it claims.
    Claim,
    /// Capable agents exist, but none of them has earned the trust that it needs.
    Trust,
    /// A budget that it draws on is exhausted; the detail names the account, and `tasks` the question in the inbox.
    Budget,
    /// It has failed for good, and somebody was asked to take it up: `tasks` names the question, or the follow-up.
    Escalation,
    /// A team does it: `agents` have its parts, `tasks` are those that have not ended.
    Team,
}

/// One try at a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub number: AttemptNo,
    /// Who was to do it.
    pub agent_id: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// When it was assigned.
    pub started_at: Timestamp,
    /// Milliseconds that it may take, as its agent's profiles say, where the task says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The acceptance checks that were made of its result, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// What is set aside for it in the accounts that it draws on, while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Amounts>,
    /// What it used, where an account counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Amounts>,
}

/// Why this agent: stored with every assignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskAssignment {
    /// The task.
    pub task_id: TaskId,
    /// The agent chosen.
    pub agent_id: AgentId,
    /// Its replica.
    pub instance: InstanceNo,
    /// Its incarnation.
    pub epoch: Epoch,
    /// The attempt this begins.
    pub attempt: AttemptNo,
    /// Estimated probability that it succeeds, 0 to 1, from its record with this type of task.
    pub confidence: f64,
    /// Why it was chosen, for people.
    pub reasoning: Vec<String>,
    /// Expected milliseconds, from past attempts of this type; absent while there are none.
    pub estimated_duration: Option<u64>,
    /// What may go wrong.
    pub risk_factors: Vec<RiskFactor>,
    /// When it was decided.
    pub assigned_at: Timestamp,
    /// `assignedAt` + `estimatedDuration`.
    pub expected_completion: Option<Timestamp>,
}

/// Something that makes an assignment riskier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RiskFactor {
    /// Its name, such as `recent_crashes`.
    pub factor: String,
    /// What it rests on.
    pub detail: String,
}

/// One agent instance as the router saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandidateReport {
    /// The agent.
    pub agent_id: AgentId,
    /// The replica; absent when the agent has none running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceNo>,
    /// Whether it could have been chosen.
    pub eligible: bool,
    /// Higher is better; 0 when not eligible.
    pub score: f64,
    /// What the score or the exclusion rests on.
    pub reasons: Vec<String>,
}

/// A task as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// What it is: type, requirements, input and all that its submitter wrote.
    #[serde(flatten)]
    pub spec: TaskSpec,
    /// The result, once it succeeded.
    #[serde(default)]
    pub output: Option<Value>,
    /// Why it failed, or the last failure while it is tried again.
    #[serde(default)]
    pub error: Option<Failure>,
    /// Every try, oldest first. Only the last [`ATTEMPTS_KEPT_MAX`] are kept.
    pub attempts: Vec<Attempt>,
    /// 0 to 1, as the agent reports it.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Why it does not move, while it does not.
    #[serde(default)]
    pub waiting_for: Option<WaitingFor>,
    /// The latest assignment.
    #[serde(default)]
    pub assignment: Option<TaskAssignment>,
    /// The latest step of its escalation, when it was escalated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<Box<Escalation>>,
    /// The team that does it, or the last one that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teamwork: Option<Box<Teamwork>>,
    /// Who submitted it.
    pub submitted_by: String,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When it must have ended.
    pub deadline_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

impl Task {
    /// The board column that shows it: what waits for the word of a person, or of those who check it, is in review.
    pub fn column(&self) -> &'static str {
        let reason = self.waiting_for.as_ref().map(|waiting| waiting.reason);
        match (self.state, reason) {
            (TaskState::Blocked, _) if self.spec.approval.is_some() => "Review",
            (TaskState::Running, Some(WaitReason::Check)) => "Review",
            (TaskState::Blocked, Some(WaitReason::Team)) => "In progress",
            // Another task has what it claims.
            (TaskState::Parked, Some(WaitReason::Claim)) => "Blocked",
            (state, _) => state.column(),
        }
    }
}

/// How many attempts a task shows: more than any retry policy needs, few enough for every page.
pub const ATTEMPTS_KEPT_MAX: usize = 128;
