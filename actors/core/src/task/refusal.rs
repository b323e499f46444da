//! Why a command of the task machine is not carried out, and what whoever asked is told.

use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::FieldError;
use mesh_messages::task::TaskState;
use mesh_messages::{AgentId, TaskId};

use super::asks::OPEN_ASKS_MAX;
use super::command::AttemptRef;

/// Why nothing was done. The state is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The tasks make no sense. Correct them.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid {
        /// All that is wrong.
        errors: Vec<FieldError>,
    },
    /// The submission is larger than one group of the journal. Split it.
    #[error(
        "the tasks have {bytes} bytes together, at most {limit} fit in one submission; split it"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// Too many tasks have not ended. Try again later.
    #[error("{live} tasks have not ended, and no more than {limit} are held")]
    Full {
        /// How many have not.
        live: usize,
        /// How many may be.
        limit: usize,
    },
    /// One submitter has too many tasks that have not ended. Try again later.
    #[error(
        "{live} tasks of {submitter}, and of agents at work for it, have not ended, and no more than {limit} of one submitter are held"
    )]
    FullForOne {
        /// Whose they are.
        submitter: String,
        /// How many have not.
        live: usize,
        /// How many may be.
        limit: usize,
    },
    /// The idempotency key stands for another task. Use another key.
    #[error("idempotency key {key} belongs to task {task}, which has another content")]
    KeyTaken {
        /// The key.
        key: String,
        /// The task that has it.
        task: TaskId,
    },
    /// A task has this id already. Choose another, or let one be made.
    #[error("task {0} exists already")]
    IdTaken(TaskId),
    /// Nobody knows the task.
    #[error("Task {0} not found")]
    NotFound(TaskId),
    /// The task has ended already.
    #[error("task {task} has ended already: {}", state.name())]
    Ended {
        /// The task.
        task: TaskId,
        /// How.
        state: TaskState,
    },
    /// The task cannot be given another round.
    #[error("task {task} cannot be retried: {why}")]
    NotRetryable {
        /// The task.
        task: TaskId,
        /// Why not.
        why: String,
    },
    /// The task cannot be split.
    #[error("task {task} cannot be split: {why}")]
    NotSplittable {
        /// The task.
        task: TaskId,
        /// Why not.
        why: String,
    },
    /// The task asks no person, or was answered already.
    #[error("task {task} is {} and waits for no approval", state.name())]
    NotAsking {
        /// The task.
        task: TaskId,
        /// Where it stands.
        state: TaskState,
    },
    /// Somebody else has to answer.
    #[error("Insufficient permissions")]
    NotEntitled(TaskId),
    /// The answer is none to this question.
    #[error("answer: {0}")]
    Unfit(String),
    /// An agent asks too much.
    #[error("{by} has {OPEN_ASKS_MAX} open questions; have some answered or cancelled first")]
    TooManyAsks {
        /// Who.
        by: String,
    },
    /// The report concerns an attempt that is over, or never was. Count it and forget it.
    #[error("attempt {} of task {} in epoch {} is not under way", .0.attempt, .0.task, .0.epoch)]
    Stale(AttemptRef),
    /// Its contract has checks, and only what its agent hands in can be checked.
    #[error(
        "task {0} has a contract with checks, which are made of what its agent hands in; a result from elsewhere is not taken"
    )]
    NeedsChecks(TaskId),
    /// Nothing holds up who uses the account.
    #[error("no gate is closed before {0}")]
    NoGate(String),
    /// The trust in the agent stands where the order would have it.
    #[error("the trust in {0} is what it would be set to already")]
    NothingToReset(AgentId),
    /// Agents may not delegate to agents here.
    #[error("agents may not delegate to agents here (allow_cross_agent is false)")]
    CrossAgent,
    /// The task on whose behalf it would be is held to limits, of which this one does not leave it.
    #[error("Insufficient permissions")]
    Confined(usize),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Invalid { errors } => {
                let field = errors
                    .first()
                    .map(|error| error.path.clone())
                    .unwrap_or_default();
                let all = errors.iter().map(ToString::to_string).collect();
                Self::invalid("invalid_task", field, detail).errors(all)
            }
            Refusal::TooLarge { .. } => {
                Self::new(ProblemKind::TooLarge, "submission_too_large", detail)
            }
            Refusal::Full { .. } | Refusal::FullForOne { .. } => {
                Self::unavailable("too_many_tasks", detail)
            }
            Refusal::KeyTaken { .. } => {
                Self::new(ProblemKind::Conflict, "idempotency_conflict", detail)
                    .field("idempotencyKey")
            }
            Refusal::IdTaken(_) => Self::new(ProblemKind::Conflict, "task_exists", detail),
            Refusal::NotFound(task) => Self::task_not_found(task.as_str()),
            Refusal::Ended { .. } => Self::new(ProblemKind::Conflict, "task_ended", detail),
            Refusal::NotRetryable { .. } => {
                Self::new(ProblemKind::Conflict, "task_not_retryable", detail)
            }
            Refusal::NotSplittable { .. } => {
                Self::new(ProblemKind::Conflict, "task_not_splittable", detail)
            }
            Refusal::NotAsking { .. } => {
                Self::new(ProblemKind::Conflict, "not_waiting_for_approval", detail)
            }
            Refusal::NotEntitled(_) => Self::new(ProblemKind::Forbidden, "forbidden", detail),
            Refusal::Unfit(_) => Self::invalid("invalid_answer", "answer", detail),
            Refusal::TooManyAsks { .. } => Self::unavailable("too_many_asks", detail),
            Refusal::Stale(_) => Self::new(ProblemKind::Conflict, "stale_attempt", detail),
            Refusal::NeedsChecks(_) => Self::new(ProblemKind::Conflict, "needs_checks", detail),
            Refusal::NoGate(_) => Self::new(ProblemKind::NotFound, "gate_not_found", detail),
            Refusal::NothingToReset(_) => {
                Self::new(ProblemKind::Conflict, "nothing_to_reset", detail)
            }
            Refusal::Confined(nth) => Self::new(ProblemKind::Forbidden, "forbidden", detail)
                .errors(vec![format!("denied by within[{nth}]")]),
            Refusal::CrossAgent => Self::new(ProblemKind::Forbidden, "cross_agent_off", detail),
        }
    }
}
