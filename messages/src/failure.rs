//! One vocabulary of failure, for retry, trust, breaker, quarantine, budgets and every screen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why an attempt, an instance or a request failed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The process died, or the behaviour panicked.
    Crash,
    /// It could not be started, or did not shake hands in time.
    Start,
    /// It lives but makes no progress.
    Hang,
    /// A limit was exceeded, out of memory above all.
    Resource,
    /// The attempt's time ran out.
    Timeout,
    /// It said that it cannot serve now.
    Unavailable,
    /// The result breaks its schema, its checks or the protocol.
    Contract,
    /// A provider's limit was reached.
    Quota,
    /// It refused, for good: nobody is to do it.
    Refusal,
    /// It declined: another agent may do it.
    Declined,
    /// It was not allowed to.
    Auth,
    /// It broke the sandbox's or the mesh's rules.
    Policy,
    /// meshd or a node died under it.
    Lost,
    /// Somebody cancelled it.
    Cancelled,
}

/// What a failed attempt means for its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskConsequence {
    /// Try again while attempts and deadline last.
    Retry,
    /// Try again without using up an attempt, at most [`LOST_RETRIES_MAX`] times.
    RetryFree,
    /// Wait behind the provider's gate.
    Park,
    /// Offer it to another agent, without using up an attempt.
    Elsewhere,
    /// The task has ended.
    Final,
}

/// How often a task may be lost before it counts as poisonous to its host.
pub const LOST_RETRIES_MAX: u32 = 20;

/// Longest pause before an attempt that follows a lost one: the agent is not at fault, and what took it is back by then.
pub const LOST_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How bad a failure is; orders quarantine and recovery.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Passing.
    Low,
    /// An ordinary crash.
    Medium,
    /// Repeated abuse or a broken rule.
    High,
    /// Forged identity, tampering: never recovers by itself.
    Critical,
}

impl FailureClass {
    /// All classes, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::Start,
        Self::Hang,
        Self::Resource,
        Self::Timeout,
        Self::Unavailable,
        Self::Contract,
        Self::Quota,
        Self::Refusal,
        Self::Declined,
        Self::Auth,
        Self::Policy,
        Self::Lost,
        Self::Cancelled,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Start => "start",
            Self::Hang => "hang",
            Self::Resource => "resource",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Contract => "contract",
            Self::Quota => "quota",
            Self::Refusal => "refusal",
            Self::Declined => "declined",
            Self::Auth => "auth",
            Self::Policy => "policy",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
        }
    }

    /// What it means for the task.
    pub const fn consequence(self) -> TaskConsequence {
        match self {
            Self::Crash
            | Self::Start
            | Self::Hang
            | Self::Resource
            | Self::Timeout
            | Self::Unavailable
            | Self::Contract => TaskConsequence::Retry,
            Self::Lost => TaskConsequence::RetryFree,
            Self::Quota => TaskConsequence::Park,
            Self::Declined => TaskConsequence::Elsewhere,
            Self::Refusal | Self::Auth | Self::Policy | Self::Cancelled => TaskConsequence::Final,
        }
    }

    /// Whether it counts against the agent's score (and therefore ends its instance).
    pub const fn is_scored(self) -> bool {
        matches!(
            self,
            Self::Crash | Self::Start | Self::Hang | Self::Resource | Self::Policy
        )
    }

    /// How bad one such failure is; a repeated `resource` failure is raised to high by the fault policy.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Crash | Self::Start | Self::Hang | Self::Resource => Severity::Medium,
            Self::Policy => Severity::High,
            Self::Timeout
            | Self::Unavailable
            | Self::Contract
            | Self::Quota
            | Self::Refusal
            | Self::Declined
            | Self::Auth
            | Self::Lost
            | Self::Cancelled => Severity::Low,
        }
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure as it is stored, shown and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// What happened, for people. Never holds a secret.
    pub message: String,
    /// Whether trying again can help.
    pub retryable: bool,
    /// For how long nobody need try, as a provider said whose limit was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Of class `contract`: whether it came before meshd checked a result, such as by the agent's own word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchecked: bool,
}

impl Failure {
    /// A failure with the retryability of its class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        let retryable = !matches!(class.consequence(), TaskConsequence::Final);
        Self {
            class,
            message: message.into(),
            retryable,
            retry_after_ms: None,
            unchecked: false,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}
