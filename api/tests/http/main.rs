//! The HTTP surface against a mesh that remembers what it was asked.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod access;
mod agents;
mod bodies;
mod chaos;
mod document;
mod errors;
mod events;
mod fake;
mod plans;
mod reads;
mod schedules;
mod server;
mod services;
mod support;
mod tasks;
mod workflows;
