//! What people are asked: approvals, questions and permissions.
//!
//! A question is a task with an `approval`, so it is durable, expires, is answered once and wakes whoever waits for it in
//! the way every task does. The inbox shows these tasks as what they are to a person.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::TaskId;
use crate::task::{Priority, Task, TaskState};
use crate::time::Timestamp;

/// Most answers that a question may offer: a person has to read them all.
pub const CHOICES_MAX: usize = 32;
/// Longest of them, of an answer, and of what a permission names, in bytes.
pub const ANSWER_BYTES_MAX: usize = 4096;
/// Most rules of one scope of the operator's policy: each question is matched against them in turn.
pub const RULES_MAX: usize = 256;

/// What is asked for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AskKind {
    /// A yes or no to what was done or is to be done.
    #[default]
    Approval,
    /// An answer in words, or one of several.
    Question,
    /// Leave to do something that is named.
    Permission,
}

impl AskKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Approval, Self::Question, Self::Permission];
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Question => "question",
            Self::Permission => "permission",
        }
    }
    /// Whether it is the kind that is meant when none is named.
    pub fn is_default(&self) -> bool {
        *self == Self::Approval
    }
}

/// What an agent wants to be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PermissionAsked {
    /// What it wants to do, such as `file.delete`; the operator's policy rules on this name.
    pub action: String,
    /// On what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

/// The least role whose bearer may answer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AnswerRole {
    /// Operators and admins.
    #[default]
    Operator,
    /// Admins alone.
    Admin,
}

impl AnswerRole {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What the operator's policy makes of what an agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleDecision {
    /// Yes, at once, without asking anybody.
    Allow,
    /// No, at once.
    Deny,
    /// A person is asked.
    Ask,
}

/// One rule about what agents ask. The first that matches decides; what none matches, an operator is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// Which requests: a permission's `action`, or a beginning of it and `*`; `approval` or `question` for the others.
    pub action: String,
    /// What becomes of them.
    pub decision: RuleDecision,
    /// Who may answer when a person is asked; operators and admins when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AnswerRole>,
}

impl ApprovalRule {
    /// Whether it speaks of this name.
    pub fn matches(&self, name: &str) -> bool {
        match self.action.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => self.action == name,
        }
    }
}

/// What was ruled on a request when it came in. It is recorded with it, and a later policy does not change it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ruling {
    /// Who may answer.
    pub role: AnswerRole,
    /// The answer, when policy gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<bool>,
    /// The rule, as `default.approvals[2]`; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// How a request was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    /// When.
    pub at: Timestamp,
    /// Who: a person, or `policy`.
    pub by: String,
    /// Whether it was approved.
    pub approve: bool,
    /// The answer to a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Where a request stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum InboxState {
    /// It waits for an answer.
    Open,
    /// Yes, or an answer.
    Approved,
    /// No.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// Whoever asked does not want to know any more.
    Withdrawn,
}

impl InboxState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Approved,
        Self::Denied,
        Self::Expired,
        Self::Withdrawn,
    ];
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Of a task; `None` when it asks nobody.
    pub fn of(task: &Task) -> Option<Self> {
        task.spec.approval.as_ref()?;
        Some(match task.state {
            TaskState::Succeeded => Self::Approved,
            TaskState::Failed => Self::Denied,
            TaskState::DeadLettered => Self::Expired,
            TaskState::Cancelled => Self::Withdrawn,
            TaskState::Queued
            | TaskState::Assigned
            | TaskState::Running
            | TaskState::Blocked
            | TaskState::Parked
            | TaskState::Retrying => Self::Open,
        })
    }
}

impl fmt::Display for InboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InboxState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name);
                format!("must be one of {}", names.join(", "))
            })
    }
}

/// One request in the inbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxItem {
    /// Its id, which is that of the task that waits for the answer.
    pub id: TaskId,
    /// Where it stands.
    pub state: InboxState,
    /// What is asked for.
    pub kind: AskKind,
    /// The question, for people.
    pub message: String,
    /// What would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<PermissionAsked>,
    /// The answers to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// What the question is about, as whoever asks says.
    #[serde(default)]
    pub about: Value,
    /// Who asks: `agent:<id>`, or the person whose workflow or task it is.
    pub asked_by: String,
    /// The task on whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// How urgent it is.
    pub priority: Priority,
    /// The least role that may answer.
    pub role: AnswerRole,
    /// The rule of the operator's policy that says so, or that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Since when.
    pub asked_at: Timestamp,
    /// Until when it can be answered.
    pub expires_at: Timestamp,
    /// The answer, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxAnswer {
    /// Whether it is approved; a question that is answered is approved, one that is declined is not.
    pub approve: bool,
    /// The answer to a question; one of its choices, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ANSWER_BYTES_MAX))]
    pub answer: Option<String>,
    /// Why, in words; it stays with the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ANSWER_BYTES_MAX))]
    pub comment: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_speaks_of_a_name_or_of_all_that_begin_alike() {
        let rule = |action: &str| ApprovalRule {
            action: action.to_owned(),
            decision: RuleDecision::Ask,
            role: None,
        };
        for (action, name, matches) in [
            ("file.delete", "file.delete", true),
            ("file.delete", "file.delete.all", false),
            ("file.*", "file.delete", true),
            ("file.*", "filer", false),
            ("*", "anything", true),
        ] {
            assert_eq!(rule(action).matches(name), matches, "{action} {name}");
        }
    }
}
