//! What the past says of an agent, as it is asked for.

use mesh_actors_core::routing::{AgentQuality, TypeRecord};
use mesh_actors_core::task::Tasks;
use mesh_messages::AgentId;

/// What the past says of an agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentRecord {
    /// By type of task.
    pub(crate) types: Vec<(String, TypeRecord)>,
    /// How good its verified results are.
    pub(crate) quality: AgentQuality,
}

impl AgentRecord {
    pub(super) fn of(tasks: &Tasks, agent: &AgentId) -> Self {
        let types = tasks.stats().agent(agent);
        Self {
            types: types.map(|(kind, r)| (kind.to_owned(), *r)).collect(),
            quality: tasks.qualities().agent(agent).cloned().unwrap_or_default(),
        }
    }
}
