//! The task machine: what becomes of every task, from its submission to its one outcome.
//!
//! ```text
//!            ┌─────────► Blocked ─────┐ (dependencies)
//!  submitted ┤                        ▼
//!            └──────────────────► Queued ⇄ Parked (no agent, agent down, breaker)
//!                                  ▲  │      ▲
//!                   Retrying(at) ──┘  ▼      │ (a provider's gate)
//!                        ▲        Assigned → Running ──► Succeeded
//!                        └───────────┴──────────┴──────► Failed | DeadLettered
//!  any that has not ended ─────────────────────────────► Cancelled | DeadLettered (deadline)
//!  what would be Failed | DeadLettered ──► Blocked (escalated) ──► Queued | Succeeded | as it would have been
//! ```
//!
//! [`Tasks`] is a fold over the partition's events. [`Tasks::decide`] turns a [`Command`] into events and applies them;
//! [`Tasks::apply`] replays them. What holds for one run of meshd only (the fleet, slots that are being released, who
//! waits for a child) is in [`Live`]. Execution is at least once, the outcome is accepted exactly once: every report
//! names its attempt and epoch, and what is over is refused as stale.
//!
//! Nobody here reads a clock, and the shell performs the [`Effect`]s.

mod asks;
mod attempt;
mod budgets;
mod claims;
mod command;
mod config;
mod control;
mod decide;
mod decline;
mod dispatch;
mod escalate;
mod explain;
mod gates;
mod index;
mod load;
mod lookups;
mod record;
mod refusal;
mod split;
mod standing;
mod state;
mod submit;
mod teams;
#[cfg(test)]
mod tests;
mod turns;
mod tx;
mod validate;

pub use asks::{OPEN_ASKS_MAX, POLICY};
pub use attempt::POISON_KILLS;
pub use budgets::{CANCEL, account_asked_about};
pub use claims::{CLAIMS_OF_TASK_MAX, Claims, RESOURCES_MAX, WAITERS_MAX};
pub use command::{
    Answer, Answerer, Asker, AttemptOutcome, AttemptRef, Command, Context, Decision, Delivery,
    Effect, FleetChange, FleetNews, Known, Live, Lookups, NewTask, Refusal, Trusting,
};
pub(crate) use config::below;
pub use config::{ATTEMPTS_MAX, RETRY_DELAY_MAX, RetryPolicy, TaskConfig};
pub use decline::DECLINES_MAX;
pub use load::{AgentLoad, BACKLOG_HIGH, BACKLOG_LOW, Load, Notice, Said};
pub(crate) use record::who_answers;
pub use record::{Misfit, TaskRecord};
pub use state::Tasks;
pub use submit::{CHILDREN_MAX, DEPTH_MAX, LIVE_TASKS_MAX, LIVE_TASKS_OF_ONE_MAX};
pub use validate::{DEPENDENCIES_MAX, IDEMPOTENCY_KEY_MAX, LABELS_MAX, SCHEMA_MAX, SPAN_MS_MAX};
pub(crate) use validate::{Report, json_len, own_labels, validate};
