//! What can be asked about of the log.

use mesh_messages::{AgentId, Position, TaskId};

/// What is asked about of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PastAbout {
    /// A task.
    Task(TaskId),
    /// An agent.
    Agent(AgentId),
    /// The tasks that had been submitted.
    Tasks {
        /// The submission that the page begins behind.
        after: Option<Position>,
        /// How many.
        limit: usize,
    },
}

/// Where a trace begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceFrom {
    /// At a record.
    Record(Position),
    /// At the first record of a task.
    Task(TaskId),
}
