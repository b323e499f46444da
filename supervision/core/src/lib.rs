//! Pure decisions of supervision: what to start, what to stop, when to give up.
//!
//! Two machines, both of the shape `step(now, …, input, &mut effects)`: time and chance come in with the input,
//! what must be done goes out as effects, and the outcome of an effect comes back as an input.
//!
//! - [`supervisor`]: a complete OTP supervisor, from `one_for_one` to significant children. Knows nothing of what its
//!   children are; `mesh-supervision` makes it one of ractor's actors.
//! - [`fault`]: when what has failed is tried again, and when no more: restart window, backoff, circuit breaker,
//!   quarantine and recovery. What it calls an agent is whatever can be started and told apart by a number.
//!
//! ```
//! use mesh_supervision_core::{Timestamp, supervisor::*};
//!
//! let mut supervisor = Supervisor::new(Flags::default(), vec![ChildSpec::worker("a")])?;
//! let mut effects = Vec::new();
//! supervisor.step(Timestamp::ZERO, Input::Boot, &mut effects);
//! let [Effect::Start { child, incarnation }] = &effects[..] else { panic!("{effects:?}") };
//! let started = Input::Started { child: child.clone(), incarnation: *incarnation };
//! supervisor.step(Timestamp::from_millis(1), started, &mut Vec::new());
//! assert_eq!(supervisor.counts().active, 1);
//! # Ok::<(), SpecError>(())
//! ```
//!
//! There is no clock, no randomness, no I/O and no hash order in this crate, so the same inputs always give the same
//! decisions.

pub mod fault;
pub mod supervisor;
mod time;

pub use time::Timestamp;
