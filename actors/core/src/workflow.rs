//! Workflows: documents are checked and planned, runs are decided.
//!
//! ```text
//!  a run    Queued → Running ⇄ Blocked (only people can bring it on) → Succeeded
//!                       └──► ending: what is under way is cancelled and waited for,
//!                            then what succeeded is taken back, last first ──► Failed | Cancelled
//!
//!  a step   Blocked (others come first) ─┬─► Skipped (its condition is false)
//!                                        └─► Running: a unit per item, each a task, a call or a run
//!                                              │  ▲
//!                                              ▼  └── another round (repeat)
//!                                  Succeeded | Failed | Cancelled | DeadLettered
//! ```
//!
//! [`Workflows`] is a fold over the events of its partition. [`Workflows::decide`] turns a [`Command`] into events and
//! applies them; [`Workflows::apply`] replays them. A run is pinned to its document. What a step gets is written into the
//! event that begins it, and never computed again. The tasks of steps live in the task machine, under ids that follow from
//! run, step, round and index; so asking for one twice finds it, and its end, told twice, counts once.
//!
//! A schedule fires in the same partition: what becomes of a planned time and the run that it begins are one group of
//! events, so that no kill can part them, and the id of that run follows from schedule and planned time.
//!
//! Nobody here reads a clock, and the shell performs the [`Effect`]s.

mod advance;
mod check;
mod cron;
mod decide;
mod drafting;
pub mod expr;
mod open;
mod plan;
mod schedule;
mod state;
mod stored;
pub mod team;
mod template;
#[cfg(test)]
mod tests;
mod units;
mod view;

pub use check::{ERRORS_MAX, Offers, Serves, Surroundings, check, document_schema};
pub use cron::{Timing, TimingError};
pub use decide::{
    Answer, Call, Command, Decision, Effect, Job, LIVE_RUNS_MAX, NewRun, RUN_BYTES_MAX, Refusal,
};
pub use drafting::Draft;
pub use plan::{Plan, digest_of};
pub use schedule::{
    CATCH_UP_MAX, NewSchedule, SCHEDULES_MAX, ScheduleCommand, ScheduleRefusal, WAITING_MAX,
};
pub use state::{NAMES_MAX, Run, Workflows};
pub use stored::{
    NewPlan, PLANS_BYTES_MAX, PLANS_MAX, PlanCommand, PlanRefusal, VERSIONS_KEPT_MAX,
};
pub use units::STEP_BYTES_MAX;
