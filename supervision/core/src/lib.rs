//! Pure decisions of supervision: what to start, what to stop, when to give up.
//!
//! Two machines, both of the shape `step(now, …, input, &mut effects)`: time and chance come in with the input,
//! what must be done goes out as effects, and the outcome of an effect comes back as an input.
//!
//! - [`supervisor`]: a complete OTP supervisor, from `one_for_one` to significant children.
//! - [`fault`]: the fault policy of one agent: restart window, backoff, circuit breaker, quarantine and recovery.
//!
//! There is no clock, no randomness, no I/O and no hash order in this crate, so the same inputs always give the same
//! decisions.

pub mod fault;
pub mod supervisor;
mod time;

pub use time::Timestamp;
