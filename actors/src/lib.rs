//! The shells of the tree: an actor each, thin around the pure cores.
//!
//! Start at [`mesh::Mesh`], which assembles the tree and implements [`Operations`], the only thing that the HTTP layer
//! speaks to. Every actor that owns durable state does so through [`partition::Partition`].

pub mod agents;
pub mod alarms;
pub mod alerts;
pub mod bus;
pub mod clock;
pub mod context;
pub mod desk;
pub mod directory;
mod few;
pub mod health;
pub mod journal;
pub mod kept;
pub mod memory;
pub mod mesh;
pub mod metrics;
mod names;
pub mod operations;
pub mod orchestrator;
pub mod outbound;
pub mod partition;
mod past;
mod projector;
pub(crate) mod reads;
pub mod registry;
pub mod request;
mod retention;
pub mod secrets;
pub mod sentinel;
pub mod slot;
pub mod store;
#[cfg(test)]
mod testing;
mod tree;
pub mod workflows;

pub use operations::{Action, Operations};

/// The hidden first argument with which a sandbox runs one of the image's built-in agents.
pub const BUILTIN_VERB: &str = "__agent";
