//! The directory of agents and of services, the operator's policy, and who governs it.

use serde::{Deserialize, Serialize};

use crate::budget::AccountBudget;
use crate::governance::GovernanceUpdate;
use crate::identity::DidKey;
use crate::ids::{AgentId, ServiceId};
use crate::policy::OperatorPolicy;
use crate::service::{ServiceCalled, ServiceDefinition, ServiceOrigin};
use crate::time::Timestamp;

/// The directory. Partition `registry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RegistryEvent {
    /// An id was given out.
    #[serde(rename = "agent.listed")]
    Listed {
        /// To whom.
        agent: AgentId,
    },
    /// An id was taken back: the agent was removed, and what was applied to it alone with it.
    #[serde(rename = "agent.unlisted")]
    Unlisted {
        /// From whom.
        agent: AgentId,
    },
    /// The operator's policy for all agents, or for one, was replaced.
    #[serde(rename = "policy.applied")]
    PolicyApplied {
        /// For whom; for all agents when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
        /// What it is now; an empty one takes it back.
        policy: OperatorPolicy,
    },
    /// What may be used on an account that agents share was replaced.
    #[serde(rename = "budget.applied")]
    BudgetApplied {
        /// `provider:<name>` or `team:<name>`.
        account: String,
        /// What it is now; absent when nothing bounds it any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<AccountBudget>,
    },
    /// An update that admins signed was accepted. It is here whole, so that whoever has their keys can check it.
    #[serde(rename = "governance.updated")]
    Governed {
        /// As it was submitted.
        update: Box<GovernanceUpdate>,
        /// The admins whose signatures hold.
        signers: Vec<DidKey>,
    },
    /// A service was registered.
    #[serde(rename = "service.registered")]
    ServiceRegistered {
        /// What it is, and its id.
        definition: Box<ServiceDefinition>,
        /// Where that comes from.
        #[serde(default)]
        origin: ServiceOrigin,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// The definition of a service was replaced.
    #[serde(rename = "service.updated")]
    ServiceUpdated {
        /// What it is now, and its id.
        definition: Box<ServiceDefinition>,
        /// Where that comes from.
        #[serde(default)]
        origin: ServiceOrigin,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A service was removed.
    #[serde(rename = "service.removed")]
    ServiceRemoved {
        /// Which.
        service: ServiceId,
        /// By whom.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A check of a service failed that had passed before, or was the first one.
    #[serde(rename = "service.unhealthy")]
    ServiceUnhealthy {
        /// Which.
        service: ServiceId,
        /// What the check found.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// A check of a service passed that had failed before, or was the first one.
    #[serde(rename = "service.recovered")]
    ServiceRecovered {
        /// Which.
        service: ServiceId,
        /// When.
        at: Timestamp,
    },
    /// A service was called, or the call was refused before it was made.
    #[serde(rename = "service.called")]
    ServiceCalled(Box<ServiceCalled>),
}

kinds!(RegistryEvent {
    Listed => "agent.listed",
    Unlisted => "agent.unlisted",
    PolicyApplied => "policy.applied",
    BudgetApplied => "budget.applied",
    Governed => "governance.updated",
    ServiceRegistered => "service.registered",
    ServiceUpdated => "service.updated",
    ServiceRemoved => "service.removed",
    ServiceUnhealthy => "service.unhealthy",
    ServiceRecovered => "service.recovered",
    ServiceCalled => "service.called",
});
