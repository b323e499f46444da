//! Agents: what they are made of, how they are started, what is said to them, and how they end.

pub(crate) mod agent;
pub(crate) mod bounds;
pub(crate) mod bundle;
pub mod delivery;
pub(crate) mod grants;
pub(crate) mod home;
pub(crate) mod instance;
pub(crate) mod lines;
pub mod live;
pub mod native;
pub(crate) mod policy;
pub(crate) mod process;
pub mod services;
pub(crate) mod shortfalls;
pub(crate) mod spawn;
pub(crate) mod strain;
mod users;
