//! The fault policy: every row of its table, whole stories, and random histories.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that gives up fails its test"
)]

mod bench;
mod histories;
mod orders;
mod refunds;
mod rows;
mod stories;
