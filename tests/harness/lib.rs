//! Runs the real `meshd` and `meshctl` for tests that see no more than their users do.
//!
//! A [`Home`] is a place for a daemon to live in; [`Home::start`] makes it a [`Daemon`], and its end, by signal or by
//! `kill -9`, gives the home back for the next life. Agents come as [`Bundle`]s, most of them badly behaved on purpose
//! (`agents/rogue.py`). Nothing here sleeps to synchronise: [`eventually`] waits for a state and says what it saw instead.
//!
//! Whatever fails here fails the test that uses it, so functions panic with what they saw rather than return errors.

#![expect(
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "every function of a harness panics when the expectation it states does not hold"
)]

mod binaries;
mod bundle;
mod daemon;
mod disk;
mod http;
mod meshctl;
mod outside;
mod processes;
mod random;
mod skip;
mod slots;
mod verbs;
mod wait;

pub use binaries::{MESHCTL, MESHD, binary};
pub use bundle::{Bundle, Marker};
pub use daemon::{Daemon, Ended, Home};
pub use disk::{FileSystem, LoopDisk, deny, shim};
pub use http::{Answer, Client, Event, Events};
pub use meshctl::{Ran, meshctl};
pub use outside::Outside;
pub use processes::{Process, descendants, marked, survivors};
pub use random::Random;
pub use skip::{has_program, has_python, is_root, skip};
pub use wait::eventually;
