//! Who there is, and whom an address means.
//!
//! | address | means |
//! |---|---|
//! | `kai://agent.<id>`, `agent:<id>` | that agent |
//! | `kai://node.<this node>/agent.<id>` | that agent |
//! | `kai://node.<this node>` | the daemon |
//! | `user:<name>`, `kai://user.<…>` | a person, who reads the event stream |
//! | `topic://a.b` | whoever subscribed |
//! | `<role>:<name>` | the agent whose id is `<name>`; else one that has the capability `<name>` |
//! | anything else | nobody |
//!
//! Among several agents with the capability, the one that is chosen is up rather than away, then has `<role>` as its
//! persona or among its capabilities, then comes first by id. The same directory always gives the same choice.

use std::collections::BTreeMap;

use mesh_messages::AgentId;
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::klp::{CapabilityQuery, CapabilityReply, FoundAgent};
use mesh_messages::manifest::Persona;

/// Whether an agent can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// An instance of it serves.
    Up,
    /// It is quarantined, stopped, or being restarted: its mail is held.
    Away,
    /// It was terminated: it gets nothing any more.
    Gone,
}

/// What the bus knows of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEntry {
    /// The version in force.
    pub version: String,
    /// What kind of helper it is.
    pub persona: Persona,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Whether it can be reached.
    pub presence: Presence,
}

/// All agents at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By id.
    pub agents: BTreeMap<AgentId, AgentEntry>,
    /// The names of this node: its key, and what people call it.
    pub node: Vec<String>,
}

/// Whom an address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// One agent.
    Agent {
        /// Which.
        id: AgentId,
        /// Whether it can be reached.
        presence: Presence,
        /// The capability by which it was found, if it was not named itself.
        capability: Option<String>,
    },
    /// The daemon.
    Node,
    /// Somebody who reads the event stream.
    Person,
    /// Whoever subscribed.
    Topic(TopicPattern),
}

/// Nobody has this address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressUnknown {
    /// It names an agent that does not exist.
    #[error("Agent {0} not found")]
    Agent(String),
    /// It names another node.
    #[error("{0} is another node, and none is connected")]
    Node(String),
    /// It names nobody.
    #[error("nobody has the address {0}")]
    Nobody(String),
}

impl Snapshot {
    /// Whom an address means.
    ///
    /// # Errors
    /// [`AddressUnknown`].
    pub fn resolve(&self, address: &Address) -> Result<Destination, AddressUnknown> {
        match address {
            Address::Agent {
                node: Some(node), ..
            } if !self.is_here(node) => Err(AddressUnknown::Node(node.to_string())),
            Address::Agent { id, .. } => self.named(id.as_str()),
            Address::Node(node) if self.is_here(node) => Ok(Destination::Node),
            Address::Node(node) => Err(AddressUnknown::Node(node.to_string())),
            Address::Role { role, name } => match &**role {
                "agent" => self.named(name),
                "user" => Ok(Destination::Person),
                role => self.by_role(role, name),
            },
            Address::Kai(path) if path.starts_with("user.") => Ok(Destination::Person),
            Address::Topic(topic) => Ok(Destination::Topic(topic.clone())),
            Address::Kai(_) | Address::Policy(_) => {
                Err(AddressUnknown::Nobody(address.to_string()))
            }
        }
    }

    fn is_here(&self, node: &str) -> bool {
        self.node.iter().any(|name| name == node)
    }

    fn named(&self, id: &str) -> Result<Destination, AddressUnknown> {
        let (id, entry) = self
            .agents
            .get_key_value(id)
            .ok_or_else(|| AddressUnknown::Agent(id.to_owned()))?;
        Ok(Destination::Agent {
            id: id.clone(),
            presence: entry.presence,
            capability: None,
        })
    }

    fn by_role(&self, role: &str, name: &str) -> Result<Destination, AddressUnknown> {
        if let Ok(named) = self.named(name) {
            return Ok(named);
        }
        let (id, entry) = self
            .agents
            .iter()
            .filter(|(_, entry)| entry.presence != Presence::Gone && entry.can(name))
            // The first minimum wins, and the ids come in order.
            .min_by_key(|(_, entry)| (entry.presence, !entry.plays(role)))
            .ok_or_else(|| AddressUnknown::Nobody(format!("{role}:{name}")))?;
        Ok(Destination::Agent {
            id: id.clone(),
            presence: entry.presence,
            capability: Some(name.to_owned()),
        })
    }

    /// Who can do all that is asked for. Agents that are away are named, too: they come back.
    pub fn query(&self, query: &CapabilityQuery) -> CapabilityReply {
        let agents = self
            .agents
            .iter()
            .filter(|(_, entry)| entry.presence != Presence::Gone)
            .filter(|(_, entry)| query.persona.is_none_or(|persona| persona == entry.persona))
            .filter(|(_, entry)| query.capabilities.iter().all(|c| entry.can(c)))
            .take(FOUND_MAX)
            .map(|(id, entry)| FoundAgent {
                id: id.clone(),
                version: entry.version.clone(),
                capabilities: entry.capabilities.clone(),
                persona: entry.persona,
            })
            .collect();
        CapabilityReply { agents }
    }
}

/// Most agents that an answer names, so that it fits into one envelope. Who wants fewer asks more precisely.
pub const FOUND_MAX: usize = 500;

impl AgentEntry {
    fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    fn plays(&self, role: &str) -> bool {
        let persona = serde_json::to_value(self.persona);
        self.can(role)
            || persona.is_ok_and(|p| p.as_str().is_some_and(|p| p.eq_ignore_ascii_case(role)))
    }
}
