//! Refusals as the outside sees them: one stable code, one text, one place.

use serde::{Deserialize, Serialize};

/// What kind of refusal it is; decides the HTTP status and meshctl's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemKind {
    /// 400: it cannot be read.
    Malformed,
    /// 422: it can be read and makes no sense.
    Invalid,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 413.
    TooLarge,
    /// 429: slow down.
    RateLimited,
    /// 503: not now.
    Unavailable,
    /// 504: it took too long.
    Timeout,
    /// 500: a bug of ours.
    Internal,
}

impl ProblemKind {
    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// Stable and documented (docs/errors.md), such as `agent_not_found`.
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub detail: String,
    /// The field that is wrong.
    pub field: Option<String>,
    /// All that is wrong, when there is more than one thing: `path: message` each.
    pub errors: Vec<String>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl Problem {
    /// A refusal without a field.
    pub fn new(kind: ProblemKind, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            detail: detail.into(),
            field: None,
            errors: Vec::new(),
            retry_after_s: None,
        }
    }
    /// The same, about a field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
    /// The same, with all that is wrong.
    #[must_use]
    pub fn errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }
    /// The same, saying when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
    /// 404 for an agent.
    pub fn agent_not_found(id: &str) -> Self {
        Self::new(
            ProblemKind::NotFound,
            "agent_not_found",
            format!("Agent {id} not found"),
        )
    }
    /// 404 for a task.
    pub fn task_not_found(id: &str) -> Self {
        Self::new(
            ProblemKind::NotFound,
            "task_not_found",
            format!("Task {id} not found"),
        )
    }
    /// 404 for a task that retention removed, at a time.
    pub fn task_removed(id: &str, at: impl std::fmt::Display) -> Self {
        Self::new(
            ProblemKind::NotFound,
            "task_removed",
            format!(
                "Task {id} had ended, and was removed at {at}, by retention or by an order to erase; its records' headers stay in the audit"
            ),
        )
    }
    /// 422 about a field.
    pub fn invalid(
        code: &'static str,
        field: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ProblemKind::Invalid, code, detail).field(field)
    }
    /// 500.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Internal, "internal", detail)
    }
    /// 503, try again soon.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Unavailable, code, detail).retry_after(1)
    }
}
