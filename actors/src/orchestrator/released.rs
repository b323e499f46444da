//! What waits until the journal has what led to it.

use std::collections::BTreeSet;

use ractor::RpcReplyPort;

use mesh_actors_core::task::{Answer, Effect};
use mesh_messages::TaskId;
use mesh_messages::budget::BudgetView;
use mesh_messages::claim::Claim;
use mesh_messages::gate::ProviderGate;
use mesh_messages::task::{Task, TaskExplanation};
use mesh_messages::trust::AgentTrust;

use super::Reply;

/// What is released when the journal has it.
#[derive(Debug)]
pub(super) enum Released {
    Effect(Box<Effect>),
    Answer(Answer, Reply),
    Taken(RpcReplyPort<()>),
    Accepted,
    Retired(BTreeSet<TaskId>, RpcReplyPort<BTreeSet<TaskId>>),
    Views(Vec<Option<Task>>, RpcReplyPort<Vec<Option<Task>>>),
    Claims(Vec<Claim>, RpcReplyPort<Vec<Claim>>),
    Trust(Vec<AgentTrust>, RpcReplyPort<Vec<AgentTrust>>),
    Gates(Vec<ProviderGate>, RpcReplyPort<Vec<ProviderGate>>),
    Budgets(Vec<BudgetView>, RpcReplyPort<Vec<BudgetView>>),
    Why(
        Option<Box<TaskExplanation>>,
        RpcReplyPort<Option<TaskExplanation>>,
    ),
}
