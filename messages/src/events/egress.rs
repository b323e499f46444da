//! What the record of a refused connection holds.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, Epoch, InstanceNo};

/// What an agent was not let out to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressDenial {
    /// Which agent.
    pub agent: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// The kind of refusal, such as `domain_not_allowed`.
    pub code: String,
    /// The host it asked for.
    pub host: String,
    /// The port; 0 when it could not be read.
    pub port: u16,
    /// The rule that decided.
    pub rule: Option<String>,
    /// In words.
    pub reason: String,
    /// How often, since the last record of it.
    pub count: u64,
}
