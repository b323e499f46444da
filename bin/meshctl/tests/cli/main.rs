//! meshctl as its users see it: the binary, its exit codes, its two streams, and what it asks of meshd.

mod agents;
mod audit;
mod backup;
mod daemon;
mod events;
mod run;
mod stub;
mod tasks;
