//! The shells of the tree: an actor each, thin around the pure cores.
//!
//! Start at [`mesh::Mesh`], which assembles the tree and implements [`Operations`], the only thing that the HTTP layer
//! speaks to. Every actor that owns durable state does so through [`partition::Partition`].

pub mod agents;
pub mod context;
pub mod directory;
pub mod metrics;
pub mod bus;
pub mod clock;
pub mod memory;
pub mod journal;
mod names;
pub mod registry;
mod projector;
pub mod mesh;
mod tree;
pub mod health;
pub mod operations;
pub mod orchestrator;
pub mod partition;
pub(crate) mod reads;
pub mod sentinel;
pub mod slot;
pub mod store;
#[cfg(test)]
mod testing;

pub use operations::{Action, Operations};

/// The hidden first argument with which a sandbox runs one of the image's built-in agents.
pub const BUILTIN_VERB: &str = "__agent";
