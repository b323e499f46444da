//! The shared nouns of meshd: identifiers, time, failure classes, records, the KLP envelope, manifests, tasks, events.
//!
//! Data only. No clock, no randomness, no I/O, no async; whatever crosses from one crate to another is a type of this one.

pub mod access;
pub mod address;
pub mod agent;
pub mod budget;
pub mod bus;
pub mod capability;
pub mod certificate;
pub mod chaos;
pub mod claim;
pub mod dependency;
pub mod erasure;
pub mod escalation;
pub mod events;
pub mod failure;
pub mod gate;
pub mod governance;
pub mod identity;
pub mod ids;
pub mod inbox;
pub mod json;
pub mod klp;
pub mod limits;
pub mod liveness;
pub mod manifest;
pub mod plan;
pub mod policy;
pub mod problem;
pub mod profile;
pub mod quality;
pub mod record;
pub mod schedule;
pub mod schema;
pub mod secret;
pub mod service;
pub mod signal;
pub mod split;
pub mod system;
pub mod task;
pub mod team;
pub mod time;
pub mod trust;
pub mod units;
pub mod workflow;

pub use failure::{Failure, FailureClass, Severity, TaskConsequence};
pub use ids::{
    AgentId, AttemptNo, Epoch, InstanceNo, PlanId, Position, ScheduleId, ServiceId, TaskId,
    WorkflowRunId,
};
pub use record::{NewRecord, PartitionId, Record, RecordBody, RecordHeader};
pub use time::Timestamp;
