//! What the bus needs of the rest of the mesh, as traits: who there is, how to reach them, what becomes of tasks.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::oneshot;

use mesh_actors_core::bus::{Presence, Snapshot};
use mesh_messages::address::Address;
use mesh_messages::identity::DidKey;
use mesh_messages::klp::{Envelope, SecurityAlert, TaskResult};
use mesh_messages::manifest::{Need, TopicPolicy};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::task::TaskSpec;
use mesh_messages::{AgentId, Epoch, TaskId};

/// An agent of this node, as whoever speaks in its name is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Which.
    pub id: AgentId,
    /// Why it may say nothing, if so: it is quarantined, or was terminated.
    pub silenced: Option<&'static str>,
}

/// Says who there is.
pub trait Directory: Send + Sync + Debug + 'static {
    /// All agents and this node's names. Never waits.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Whether one agent is there, `Gone` when nobody knows it. Never waits, and costs the same whatever the number of
    /// agents.
    fn presence(&self, agent: &AgentId) -> Presence;

    /// The agent whose word it is what this sender says, in whatever spelling; `None` when it is nobody's here. Never waits.
    fn speaker(&self, sender: &Address) -> Option<Speaker>;

    /// Which topics an agent may use, as the manifest of this incarnation says, if it lives; else as the one in force does.
    /// They differ while a new version is about to take the place of another. Never waits.
    fn topics(&self, agent: &AgentId, epoch: Option<Epoch>) -> TopicPolicy;

    /// The first of what is needed that the permissions of the same manifest do not leave. Never waits.
    fn missing(&self, agent: &AgentId, epoch: Option<Epoch>, needs: Vec<Need>) -> Option<Need>;
}

/// No instance of the agent takes mail now, whatever the directory said a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no instance of the agent takes mail")]
pub struct NoRoute;

/// Who waits for the answer to a message.
#[derive(Debug)]
pub struct Waiter {
    /// Where the answer goes when it is on the disk.
    pub answer: oneshot::Sender<Envelope>,
    /// The id of the request that they wait with.
    pub correlation: Option<String>,
}

/// Hands messages to agents.
pub trait Delivery: Send + Sync + Debug + 'static {
    /// Hands a message to one ready instance of an agent. Never waits.
    ///
    /// `reply` gets the agent's message that names this one in `in_reply_to`, journalled; it is dropped when none will come.
    ///
    /// # Errors
    /// [`NoRoute`]; the message was not handed over.
    fn deliver(
        &self,
        agent: &AgentId,
        envelope: Envelope,
        reply: Option<Waiter>,
    ) -> Result<(), NoRoute>;

    /// The incarnations of an agent that take messages now. Never waits.
    fn incarnations(&self, agent: &AgentId) -> Vec<Epoch>;

    /// Hands a message to one incarnation of an agent and to no other. Never waits.
    ///
    /// # Errors
    /// [`NoRoute`]; the message was not handed over.
    fn deliver_to(&self, agent: &AgentId, epoch: Epoch, envelope: Envelope) -> Result<(), NoRoute>;
}

/// A task that came as a message.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOrder {
    /// Whom it is submitted by.
    pub caller: Caller,
    /// The task. Its idempotency key is the message's id, so that one message is one task.
    pub spec: TaskSpec,
    /// The agent that the message is addressed to by its own name; no other may get the task.
    pub only: Option<AgentId>,
    /// How long its sender waits.
    pub wait: Duration,
    /// The message whole, if its sender signed it.
    pub envelope: Option<Box<Value>>,
}

/// How far a task came while its sender waited.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskAnswer {
    /// It ended.
    Ended(TaskId, TaskResult),
    /// It goes on.
    Running(TaskId),
}

/// Turns messages into tasks.
#[async_trait]
pub trait TaskGateway: Send + Sync + Debug + 'static {
    /// Submits a task and waits for its end, at most [`TaskOrder::wait`].
    ///
    /// # Errors
    /// Why it is not accepted.
    async fn submit_and_wait(&self, order: TaskOrder) -> Result<TaskAnswer, Problem>;
}

/// Knows whose key is whose.
pub trait Keys: Send + Sync + Debug + 'static {
    /// The key of an agent, a user or a node; `None` when it has none that is known.
    fn key_of(&self, address: &Address) -> Option<DidKey>;
    /// Whether nothing counts as this sender's that it did not sign itself, with the key above.
    fn must_sign(&self, sender: &Address) -> bool;
    /// The token that a reference such as `vault://name@kai` stands for, where the sender may use it; `None` when no vault
    /// holds it for the sender.
    fn resolve(&self, reference: &str, sender: &Address) -> Option<zeroize::Zeroizing<String>>;
}

/// Hears of alarms.
pub trait Alarms: Send + Sync + Debug + 'static {
    /// Somebody raised an alarm; it is journalled. Never waits.
    fn alert(&self, from: &Address, alert: SecurityAlert);
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Who there is.
    pub directory: Arc<dyn Directory>,
    /// How to reach them.
    pub delivery: Arc<dyn Delivery>,
    /// What becomes of tasks.
    pub tasks: Arc<dyn TaskGateway>,
    /// Whose key is whose.
    pub keys: Arc<dyn Keys>,
    /// Who hears of alarms.
    pub alarms: Arc<dyn Alarms>,
}
