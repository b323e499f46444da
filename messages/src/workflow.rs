//! Workflows: the document that people write, and a run as it is shown.
//!
//! A document is a directed graph of steps. A step is a task for an agent, a call of a plain service, another workflow,
//! or a person's approval. A text `${…}` anywhere in an `input` is a CEL expression over what the run has so far.
//!
//! These are the forms alone; whether a document makes sense as a whole is decided where expressions can be read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::claim::TaskClaim;
use crate::escalation::EscalationStep;
use crate::ids::{AgentId, TaskId, WorkflowRunId};
use crate::inbox::{AnswerRole, AskKind, PermissionAsked};
use crate::task::{Priority, RetrySpec, TaskContract};
use crate::team::TeamOrder;
use crate::trust::TrustNeed;
use crate::{Failure, FailureClass};

mod graph;
mod view;

pub use graph::mermaid;
pub use view::{StepKind, StepState, StepView, WorkflowCheck, WorkflowRun};

/// Most steps of a document, those of the documents inside it included: what one person can still read is far below.
pub const STEPS_MAX: usize = 1000;
/// Most items of one `forEach`: as many as a task may have children.
pub const ITEMS_MAX: usize = 1000;
/// Most rounds of one `repeat`.
pub const ROUNDS_MAX: u32 = 1000;
/// Deepest nesting of workflows in workflows.
pub const NESTING_MAX: usize = 4;
/// Most steps that one step may name in `after`.
pub const AFTER_MAX: usize = 256;
/// Longest id of a step, in bytes.
pub const STEP_ID_MAX: usize = 63;
/// Largest document in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
/// Longest time limit of a step: 30 days, as for tasks.
pub const STEP_TIMEOUT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Longest text that an approval shows, in bytes.
pub const APPROVAL_TEXT_MAX: usize = 4096;
/// Most headers of a service call.
pub const SERVICE_HEADERS_MAX: usize = 16;

/// A workflow as its author writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkflowDocument {
    /// What it is called.
    #[serde(default = "unnamed")]
    pub name: String,
    /// Which version of it this is.
    #[serde(default)]
    pub version: DocumentVersion,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The steps; their order says nothing but the order in which they are shown.
    pub steps: Vec<WorkflowStep>,
    /// What the run answers: any JSON with expressions in it. Without it, the outputs of the steps that no other step
    /// follows, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

fn unnamed() -> String {
    "workflow".to_owned()
}

/// The version of a document: a text or a whole number, kept as text.
///
/// Documents with a fraction are refused, as its text is lost (1.10 is read as 1.1). Those of earlier logs are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DocumentVersion(pub String);

impl Default for DocumentVersion {
    fn default() -> Self {
        Self("1".to_owned())
    }
}

impl std::fmt::Display for DocumentVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DocumentVersion {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        match Value::deserialize(reader)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(serde::de::Error::custom(format!(
                "{other} is neither a text nor a number"
            ))),
        }
    }
}

impl JsonSchema for DocumentVersion {
    fn schema_name() -> Cow<'static, str> {
        "DocumentVersion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"] })
    }
}

/// One step. It is exactly one of: a task (`requirements` or `type`), a `service`, a `workflow`, a `team`, an `approval`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkflowStep {
    /// Its name within the document.
    pub id: String,
    /// A task: capabilities that the agent must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// A task: what kind of work it is. Without it, the first requirement.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A task: only this agent may get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// A task: this agent before all others that can do it, while it can take the task at once and has not failed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<AgentId>,
    /// A plain HTTP service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Another workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<SubWorkflow>,
    /// A team of the agents that there are when the step begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamOrder>,
    /// A person's approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Steps that must have ended before it begins. Steps that its expressions name are waited for, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// A condition; when it is false the step is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Condition>")]
    pub when: Option<Value>,
    /// A list; the step is done once for each of its items, all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Items>")]
    pub for_each: Option<Value>,
    /// Does the step again until a condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// How long the whole step may take, in milliseconds; without it, as long as its tasks may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub timeout_ms: Option<u64>,
    /// What its failure means for the run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_error: OnError,
    /// What takes its effect back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Compensation>,
    /// A task: how urgent it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// A task: when and how often to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// A task: what its output must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<TaskContract>,
    /// A task: who takes it up when it has failed for good, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Vec<EscalationStep>>,
    /// A task: resources that it has for itself; their names may hold expressions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<TaskClaim>,
    /// A task: trust that the agent must have earned: `true` for the configuration's `trust_threshold`, or the least level,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustNeed>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Only its schema is used: a condition is a boolean, or a text with an expression.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Condition {
    Constant(bool),
    Expression(String),
}

/// Only its schema is used: items are a list, or a text with an expression.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Items {
    List(Vec<Value>),
    Expression(String),
}

/// An HTTP service: it gets the input as JSON, and its answer is the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Service {
    /// The URL of a plain one, to which the input is posted; or a registered one as `id/endpoint`, or `id` where it has only
    /// one endpoint.
    Url(String),
    /// A plain one, in full.
    Call(ServiceCall),
    /// A registered one, in full.
    Registered(RegisteredCall),
}

/// How a registered service is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegisteredCall {
    /// Which.
    pub id: String,
    /// Which endpoint; the only one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl std::fmt::Display for RegisteredCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "{}/{endpoint}", self.id),
            None => f.write_str(&self.id),
        }
    }
}

/// Whom a step calls.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceTarget {
    /// A plain address.
    Plain(ServiceCall),
    /// A registered service.
    Registered(RegisteredCall),
}

/// How a service is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceCall {
    /// Where, `http://…` or `https://…`.
    pub url: String,
    /// `POST` when absent.
    #[serde(default)]
    pub method: ServiceMethod,
    /// Further headers.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub headers: std::collections::BTreeMap<String, String>,
}

/// The methods of service calls. `GET` and `DELETE` send no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ServiceMethod {
    /// `GET`.
    Get,
    /// `POST`.
    #[default]
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
}

impl ServiceMethod {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl Service {
    /// In full.
    pub fn target(&self) -> ServiceTarget {
        match self {
            Self::Url(text) if !text.contains(':') => {
                let (id, endpoint) = match text.split_once('/') {
                    Some((id, endpoint)) => (id, Some(endpoint.to_owned())),
                    None => (text.as_str(), None),
                };
                let id = id.to_owned();
                ServiceTarget::Registered(RegisteredCall { id, endpoint })
            }
            Self::Url(url) => ServiceTarget::Plain(ServiceCall {
                url: url.clone(),
                method: ServiceMethod::Post,
                headers: std::collections::BTreeMap::new(),
            }),
            Self::Call(call) => ServiceTarget::Plain(call.clone()),
            Self::Registered(call) => ServiceTarget::Registered(call.clone()),
        }
    }
}

/// A workflow as a step: written out, or the name of one that has run here before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SubWorkflow {
    /// The newest one of this name, as it is when the run is submitted.
    Named(String),
    /// Written out.
    Inline(Box<WorkflowDocument>),
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Approval {
    /// `true`: just to approve.
    Asked(bool),
    /// The question.
    Message(String),
    /// In full.
    Full(ApprovalSpec),
}

/// What a person is asked, in full.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovalSpec {
    /// The question, for people.
    #[serde(default)]
    pub message: String,
    /// What is asked for; a yes or no when absent.
    #[serde(default, skip_serializing_if = "AskKind::is_default")]
    pub kind: AskKind,
    /// What would be allowed; of a permission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<PermissionAsked>,
    /// The answers to choose from; of a question. Without them any text is an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// The least role that may answer; `operator` when absent. For what an agent asks, the operator's policy says it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AnswerRole>,
}

impl Approval {
    /// In full.
    pub fn spec(&self) -> ApprovalSpec {
        match self {
            Self::Asked(_) => ApprovalSpec::default(),
            Self::Message(text) => ApprovalSpec {
                message: text.clone(),
                ..ApprovalSpec::default()
            },
            Self::Full(spec) => spec.clone(),
        }
    }

    /// The question.
    pub fn message(&self) -> &str {
        match self {
            Self::Asked(_) => "",
            Self::Message(text) => text,
            Self::Full(spec) => &spec.message,
        }
    }
}

/// Doing a step again, round by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Repeat {
    /// Ends the loop when it holds after a round; `steps.<own id>.output` is that round's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Condition>")]
    pub until: Option<Value>,
    /// Most rounds. A loop without a bound is refused.
    pub max: u32,
}

/// What the failure of a step means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run fails; what is under way is cancelled.
    #[default]
    Fail,
    /// The run goes on; the step's output is null.
    Continue,
    /// The run fails, and what succeeded is taken back, last first.
    Compensate,
}

/// What takes the effect of a step back: a task or a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compensation {
    /// A task: capabilities that the agent must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// A task: what kind of work it is.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A plain HTTP service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// What it gets; the output of the step when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Resources that its task has while it is worked on; their names may hold expressions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<TaskClaim>,
    /// How long it may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub timeout_ms: Option<u64>,
    /// A task: trust that the agent must have earned, as for a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustNeed>,
}

/// The step of a run on whose behalf another run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentStep {
    /// The run.
    pub run: WorkflowRunId,
    /// Its step.
    pub step: String,
    /// Which item of it.
    pub index: u32,
}

/// How one unit of a step ended: a task, a call, or a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitOutcome {
    /// Well.
    Succeeded {
        /// With this.
        output: Value,
    },
    /// Not.
    Failed {
        /// `failed`, `cancelled` or `dead_lettered`.
        state: StepState,
        /// Why.
        error: Failure,
    },
}

impl UnitOutcome {
    /// A failure for good.
    pub fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Failed {
            state: StepState::Failed,
            error: Failure {
                retryable: false,
                ..Failure::new(class, message)
            },
        }
    }

    /// The output of one that succeeded.
    pub fn output(&self) -> Option<&Value> {
        match self {
            Self::Succeeded { output } => Some(output),
            Self::Failed { .. } => None,
        }
    }
}

/// One unit of a step as it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitPlan {
    /// What it gets, expressions written out.
    pub input: Value,
    /// The item of the `forEach`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Value>,
    /// The task that it is; absent for runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What its task claims, expressions written out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<TaskClaim>,
}

/// `POST /v1/workflows`: which workflow, and on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkflowSubmission {
    /// The document, or the name of one that has run here before.
    pub workflow: SubWorkflow,
    /// What the run gets.
    #[serde(default)]
    pub input: Value,
    /// Two submissions of one caller under one key are one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}
