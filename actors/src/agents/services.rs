//! What an agent's session can ask of the rest of the mesh.

use async_trait::async_trait;
use zeroize::Zeroizing;

use mesh_actors_core::routing::InstanceKey;
use mesh_messages::address::Address;
use mesh_messages::capability::Limits;
use mesh_messages::events::{EgressDenial, SentinelEvent};
use mesh_messages::identity::DidKey;
use mesh_messages::klp::{
    ClaimOp, ClaimReply, Envelope, KlpError, MemoryOp, MemoryReply, SessionToken, TaskRequest,
};
use mesh_messages::manifest::Need;
use mesh_messages::problem::Problem;
use mesh_messages::task::TaskSpec;
use mesh_messages::{AgentId, AttemptNo, Epoch, Failure, InstanceNo, Position, TaskId};

use super::delivery::AttemptNews;
use crate::directory::AgentEntry;
use crate::operations::Action;
use crate::partition::Cause;

/// A delegation as an agent asked for it.
#[derive(Debug, Clone)]
pub struct Delegation {
    /// Who asks.
    pub agent: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// The task on whose behalf.
    pub parent: TaskId,
    /// The attempt at it that is in hand.
    pub attempt: AttemptNo,
    /// The request's id; the same id for the same parent is the same child.
    pub request: String,
    /// What is to be done.
    pub task: TaskRequest,
    /// The last agent to be asked.
    pub avoid: Option<AgentId>,
    /// A token that it bears: then its bearer has to be allowed this, too.
    pub token: Option<BearerText>,
    /// What the task, and all on its behalf, is held to.
    pub within: Vec<Limits>,
    /// The line that asks for it, if it bears a signature.
    pub line: Option<Box<Envelope>>,
}

/// A token, or a reference to one, on its way to whoever checks it. It is shown to nobody.
#[derive(Clone)]
pub struct BearerText(Zeroizing<String>);

impl BearerText {
    /// Takes it.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// What it is.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for BearerText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Delegation {
    /// Whether it checks a result of the agent's. No agent can write such an id.
    pub(crate) fn verifies(&self) -> bool {
        self.request.contains('\n')
    }

    /// The task that it asks for.
    pub fn spec(&self) -> TaskSpec {
        TaskSpec {
            kind: self.task.action.clone(),
            requirements: self.task.requirements.clone(),
            input: self.task.input.clone(),
            deadline_ms: self.task.deadline_ms,
            timeout_ms: self.task.timeout_ms,
            avoid: self.avoid.clone(),
            approval: self.task.approval.clone(),
            budget: self.task.budget,
            escalate: self.task.escalate.clone(),
            claims: self.task.claims.clone(),
            trust: self.task.trust,
            within: self.within.clone(),
            ..TaskSpec::default()
        }
    }
}

/// What an agent asks of a named resource.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who asks.
    pub key: InstanceKey,
    /// The task on whose behalf.
    pub task: TaskId,
    /// The attempt at it that is in hand.
    pub attempt: AttemptNo,
    /// The request's id, by which an answer that comes later is known.
    pub request: String,
    /// What it asks.
    pub op: ClaimOp,
}

/// What an agent's session can ask of the rest of the mesh. Each call waits for a part that is being restarted.
#[async_trait]
pub trait Services: Send + Sync + std::fmt::Debug + 'static {
    /// Reports on attempts, in order. Returns when the task machine has it all, or will never want it.
    async fn report(&self, agent: &AgentId, instance: InstanceNo, news: Vec<AttemptNews>);
    /// Has something done for a task; the outcome comes later as a `ChildOutcome`.
    async fn delegate(&self, delegation: Delegation) -> Result<TaskId, KlpError>;
    /// Whether all agents that have a task, or that it waits for, were told to stand still.
    async fn stands_still(&self, task: &TaskId) -> bool;
    /// Ends a task that was delegated, and whose outcome nobody waits for any more.
    fn give_up(&self, task: TaskId, why: String);
    /// Takes, keeps or gives back a resource; `None` when it waits, and the answer comes later as a `ClaimAnswer`. A request
    /// that waits may be said again, with what is left of its time; it keeps its place.
    async fn claim(&self, request: ClaimRequest) -> Option<ClaimReply>;
    /// Reads or changes the agent's memory, or reads that of `owner` where it is shared.
    async fn memory(&self, agent: &AgentId, owner: &AgentId, op: MemoryOp) -> MemoryReply;
    /// Passes on what an agent says to others; the answer, if there is one at once.
    async fn pass_on(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        envelope: Envelope,
    ) -> Result<Option<Envelope>, KlpError>;
    /// Journals an agent's answer to somebody who waits for it; as it is to be handed to them.
    async fn answered(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        (asker, envelope): (&Address, Envelope),
    ) -> Result<Envelope, KlpError>;
    /// An agent signed this line itself: said once, it is not to be posted again. Never waits.
    fn heard(&self, agent: &AgentId, line: &Envelope);

    /// A token of the role `agent` for one incarnation; those that it was given before go on until their end, the last of
    /// them at least.
    ///
    /// # Errors
    /// The agent is isolated or terminated, or the system gives no randomness.
    fn open_session(&self, agent: &AgentId, epoch: Epoch) -> Result<SessionToken, KlpError>;
    /// What an incarnation was given opens nothing any more, from now on.
    fn close_session(&self, agent: &AgentId, epoch: Epoch);
    /// The key that is registered as the agent's own.
    fn key_of(&self, agent: &AgentId) -> Option<DidKey>;
    /// The agent's condition has changed; the entry says how it stands.
    fn fleet_changed(&self, entry: &AgentEntry);
    /// The agent was removed.
    fn fleet_gone(&self, agent: &AgentId);
    /// Every registered agent has published its state.
    fn fleet_complete(&self);
    /// An instance of the agent serves from now on.
    fn agent_ready(&self, agent: &AgentId);
    /// An incarnation is gone; its attempts ended with this failure, which this record says.
    fn instance_down(&self, key: InstanceKey, failure: Failure, record: Option<Position>);
    /// No instance of the agent is left: what it remembered for this run is forgotten.
    fn idle(&self, agent: &AgentId);
    /// The agent is isolated: its tokens are void, its mail is held.
    fn isolate(&self, agent: &AgentId);
    /// The agent is no longer isolated.
    fn release(&self, agent: &AgentId);
    /// The agent is terminated: its persistent memory is sealed, the rest dropped.
    fn seal(&self, agent: &AgentId);
    /// An essential agent is exhausted: the mesh fails with it.
    fn escalate(&self, agent: &AgentId, reason: &str);
    /// A line of an agent was refused, for the reason that the code says.
    fn line_refused(&self, agent: &AgentId, code: &str);
    /// An agent says that it calls something, or that a call is over; `led` is what its task stands on.
    fn called(&self, event: SentinelEvent, led: Option<Cause>);
    /// The manifest of an agent lacks the permission for what it asked; the audit says so.
    fn lacks(&self, agent: &AgentId, action: Action, resource: &str, need: &Need) -> Problem;
    /// An agent was not let out.
    fn egress_denied(&self, denial: EgressDenial);
    /// An upgrade has ended, with this error if it failed.
    fn upgrade_done(&self, agent: &AgentId, error: Option<String>);
}
