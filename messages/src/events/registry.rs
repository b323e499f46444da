//! The directory of agents, the operator's policy, and who governs it.

use serde::{Deserialize, Serialize};

use crate::budget::AccountBudget;
use crate::governance::GovernanceUpdate;
use crate::identity::DidKey;
use crate::ids::AgentId;
use crate::policy::OperatorPolicy;

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
}

kinds!(RegistryEvent {
    Listed => "agent.listed",
    Unlisted => "agent.unlisted",
    PolicyApplied => "policy.applied",
    BudgetApplied => "budget.applied",
    Governed => "governance.updated",
});
