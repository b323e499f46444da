//! The directory of agents: which ids are given out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use mesh_messages::AgentId;
use mesh_messages::events::RegistryEvent;

/// Most agents of one node. Each costs an actor, a partition and a place in every listing.
pub const AGENTS_MAX: usize = 10_000;

/// The ids that are given out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegistryState {
    /// Them.
    pub agents: BTreeSet<AgentId>,
}

/// The directory is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{AGENTS_MAX} agents are registered, which is the most; remove one first")]
pub struct Full;

impl RegistryState {
    /// Takes an event in.
    pub fn apply(&mut self, event: &RegistryEvent) {
        match event {
            RegistryEvent::Listed { agent } => {
                self.agents.insert(agent.clone());
            }
            RegistryEvent::Unlisted { agent } => {
                self.agents.remove(agent);
            }
        }
    }

    /// What giving out this id leads to; nothing when it is given out already.
    ///
    /// # Errors
    /// [`Full`].
    pub fn list(&self, agent: &AgentId) -> Result<Option<RegistryEvent>, Full> {
        if self.agents.contains(agent) {
            return Ok(None);
        }
        if self.agents.len() >= AGENTS_MAX {
            return Err(Full);
        }
        Ok(Some(RegistryEvent::Listed {
            agent: agent.clone(),
        }))
    }

    /// What taking this id back leads to; nothing when it is not given out.
    pub fn unlist(&self, agent: &AgentId) -> Option<RegistryEvent> {
        self.agents
            .contains(agent)
            .then(|| RegistryEvent::Unlisted {
                agent: agent.clone(),
            })
    }
}
