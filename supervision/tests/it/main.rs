//! Real ractor actors under a real supervisor, in virtual time.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that gives up fails its test"
)]

mod admin;
mod bench;
mod blocking;
mod ends;
mod erlang;
mod pools;
mod restarts;
mod stopping;
mod traps;
mod trees;
