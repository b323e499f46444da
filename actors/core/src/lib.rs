//! The pure decisions of the mesh: state machines that fold events and decide on commands.
//!
//! No async, no actor, no clock, no randomness of their own, no hash order: time and chance are inputs, so the same
//! journal always gives the same state and the same inputs the same decision.

pub mod access;
pub mod agent;
pub mod budget;
pub mod bus;
pub mod dependencies;
pub mod gate;
pub mod governance;
pub mod liveness;
pub mod memory;
pub mod past;
pub mod projection;
pub mod registry;
pub mod retention;
pub mod routing;
pub mod sentinel;
pub mod service;
pub mod task;
pub mod trail;
pub mod trust;
pub mod workflow;
