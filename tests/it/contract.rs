//! The contract, as a script that follows it word for word: `meshctl` and plain HTTP, in the order of its sections.

mod access;
mod audit;
mod daemon;
mod deploy;
mod events;
mod lifecycle;
mod policy;
mod refusals;
mod tasks;
