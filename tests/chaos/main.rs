//! Chaos: actors of a real tree are killed and stopped while work is under way, and nothing that was promised is broken.
//!
//! One process, one tree per test, agents compiled in, so that whatever happens can be counted. Every run prints its seed;
//! `MESH_CHAOS_SEED` replays it (as far as threads allow), `MESH_CHAOS_STEPS` makes it longer. The checks are those of
//! [`history`] and [`ledger`], the same for every test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test that calls them"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test that fails shows its seed, and what it did to whom"
)]

mod agents;
mod escalation;
mod history;
mod journal;
mod ledger;
mod load;
mod parts;
mod prey;
mod world;
