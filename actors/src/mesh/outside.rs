//! What the bus needs of the rest of the mesh: who there is, how to reach them, what becomes of tasks.

use std::sync::Arc;

use async_trait::async_trait;

use mesh_actors_core::agent::{AgentCommand, AgentState};
use mesh_actors_core::bus::{AgentEntry as BusEntry, Destination, Presence, Snapshot};
use mesh_messages::access::TaskFacts;
use mesh_messages::address::Address;
use mesh_messages::agent::{FaultState, Lifecycle, QuarantineKind};
use mesh_messages::identity::DidKey;
use mesh_messages::klp::{Envelope, SecurityAlert, TaskResult};
use mesh_messages::manifest::{AgentManifest, Need, TopicPolicy};
use mesh_messages::problem::Problem;
use mesh_messages::task::TaskState;
use mesh_messages::{AgentId, Epoch, Failure, FailureClass, Severity};

use super::access::limits_of;
use super::permissions;
use super::services::secret_text;
use crate::agents::agent::AgentMessage;
use crate::agents::delivery::Mail;
use crate::bus::{self, NoRoute, Speaker, TaskAnswer, TaskOrder, Waiter};
use crate::context::Context;
use crate::directory::AgentEntry;
use crate::orchestrator::OrchestratorHandle;
use crate::partition::Cause;
use crate::sentinel::SentinelHandle;

/// What a posted message that becomes a task is called in the audit.
const MESSAGES: &str = "/v1/messages";

/// What the bus needs to know, answered from the directory and the task machine.
#[derive(Debug, Clone)]
pub(crate) struct BusOutside {
    pub(crate) ctx: Arc<Context>,
    pub(crate) sentinel: SentinelHandle,
    pub(crate) orchestrator: OrchestratorHandle,
}

impl bus::Directory for BusOutside {
    fn snapshot(&self) -> Arc<Snapshot> {
        let agents = self.ctx.directory.all();
        let agents = agents
            .iter()
            .filter_map(|entry| {
                let state = entry.state();
                let manifest = state.manifest()?;
                let found = BusEntry {
                    version: manifest.version.to_string(),
                    persona: manifest.persona,
                    capabilities: manifest.capabilities.clone(),
                    presence: presence(&state),
                };
                Some((entry.id.clone(), found))
            })
            .collect();
        Arc::new(Snapshot {
            agents,
            node: vec![self.ctx.node.did.to_string()],
        })
    }

    fn presence(&self, agent: &AgentId) -> Presence {
        let entry = self.ctx.directory.get(agent.as_str());
        // One without a manifest has never been registered.
        let state = entry.map(|entry| entry.state());
        let known = state.filter(|state| state.manifest().is_some());
        known.map_or(Presence::Gone, |state| presence(&state))
    }

    fn speaker(&self, sender: &Address) -> Option<Speaker> {
        let id = bus::agent_of(sender).or_else(|| self.meant_by(sender))?;
        let state = self.ctx.directory.get(id.as_str())?.state();
        let silenced = match (state.fault_state(), state.stage()) {
            (_, Lifecycle::Terminated | Lifecycle::Audited) => Some("was terminated"),
            (FaultState::Quarantined, _) => Some("is quarantined"),
            _ => None,
        };
        Some(Speaker { id, silenced })
    }

    fn topics(&self, agent: &AgentId, epoch: Option<Epoch>) -> TopicPolicy {
        let state = permissions::state(&self.ctx, agent);
        let manifest = permissions::manifest(state.as_deref(), epoch);
        manifest.map_or_else(TopicPolicy::default, |manifest| {
            manifest.security.topics_left()
        })
    }

    fn missing(&self, agent: &AgentId, epoch: Option<Epoch>, needs: Vec<Need>) -> Option<Need> {
        permissions::missing(&self.ctx, (agent, epoch), needs)
    }
}

fn presence(state: &AgentState) -> Presence {
    match (state.fault_state(), state.stage()) {
        (_, Lifecycle::Terminated | Lifecycle::Audited) => Presence::Gone,
        (FaultState::Quarantined, _) => Presence::Away,
        _ if state.ready().next().is_some() => Presence::Up,
        _ => Presence::Away,
    }
}

impl bus::Delivery for BusOutside {
    fn deliver(
        &self,
        agent: &AgentId,
        envelope: Envelope,
        reply: Option<Waiter>,
    ) -> Result<(), NoRoute> {
        let entry = self.ctx.directory.get(agent.as_str()).ok_or(NoRoute)?;
        if entry.state().ready().next().is_none() {
            return Err(NoRoute);
        }
        let mail = Mail {
            envelope: Box::new(envelope),
            reply,
            epoch: None,
        };
        entry
            .slot
            .cast(AgentMessage::Mail(mail))
            .map_err(|_| NoRoute)
    }

    fn incarnations(&self, agent: &AgentId) -> Vec<Epoch> {
        let Some(entry) = self.ctx.directory.get(agent.as_str()) else {
            return Vec::new();
        };
        let state = entry.state();
        if presence(&state) != Presence::Up {
            return Vec::new();
        }
        state.ready().map(|(_, instance)| instance.epoch).collect()
    }

    fn deliver_to(&self, agent: &AgentId, epoch: Epoch, envelope: Envelope) -> Result<(), NoRoute> {
        let entry = self.ctx.directory.get(agent.as_str()).ok_or(NoRoute)?;
        let mail = Mail {
            envelope: Box::new(envelope),
            reply: None,
            epoch: Some(epoch),
        };
        let told = entry.slot.cast(AgentMessage::Mail(mail));
        told.map_err(|_| NoRoute)
    }
}

impl BusOutside {
    /// The agent that an address means which is not its plain name: whoever writes to that address reaches this agent, so
    /// what is said in its name is the agent's word.
    fn meant_by(&self, sender: &Address) -> Option<AgentId> {
        let other_spelling = match sender {
            Address::Role { role, .. } => !matches!(&**role, "agent" | "user"),
            Address::Agent { node, .. } => node.is_some(),
            Address::Node(_) | Address::Kai(_) | Address::Topic(_) | Address::Policy(_) => false,
        };
        if !other_spelling {
            return None;
        }
        match bus::Directory::snapshot(self).resolve(sender) {
            Ok(Destination::Agent { id, .. }) => Some(id),
            Ok(Destination::Node | Destination::Person | Destination::Topic(_)) | Err(_) => None,
        }
    }
}

#[async_trait]
impl bus::TaskGateway for BusOutside {
    async fn submit_and_wait(&self, order: TaskOrder) -> Result<TaskAnswer, Problem> {
        let mut spec = order.spec;
        spec.agent = order.only;
        spec.within.extend(limits_of(&order.caller));
        let facts = TaskFacts::all_of(&spec);
        let parts = (&*self.ctx, &self.sentinel);
        permissions::may_give(parts, &order.caller, MESSAGES, &facts)?;
        self.sentinel.may_submit(&order.caller, MESSAGES, facts)?;
        let submitted = (self.orchestrator).submit_said(&order.caller.name, spec, order.envelope);
        let task = submitted.await?.id;
        let waited = std::slice::from_ref(&task);
        let ended =
            super::tasks::wait_ended(&self.ctx, &self.orchestrator, waited, order.wait).await?;
        let Some(ended) = ended.into_iter().next() else {
            return Err(Problem::task_not_found(task.as_str()));
        };
        Ok(if ended.state.is_terminal() {
            TaskAnswer::Ended(task, result_of(ended.state, ended.output, ended.error))
        } else {
            TaskAnswer::Running(task)
        })
    }
}

fn result_of(
    state: TaskState,
    output: Option<serde_json::Value>,
    error: Option<Failure>,
) -> TaskResult {
    match (state, error) {
        (TaskState::Succeeded, _) => TaskResult::Done {
            output: output.unwrap_or_default(),
            usage: None,
        },
        (_, Some(error)) => TaskResult::Failed { error, usage: None },
        (state, None) => TaskResult::Failed {
            error: Failure::new(FailureClass::Cancelled, format!("the task ended {state}")),
            usage: None,
        },
    }
}

impl bus::Keys for BusOutside {
    fn key_of(&self, address: &Address) -> Option<DidKey> {
        match address {
            Address::Node(name) if **name == *self.ctx.node.did.to_string() => {
                Some(*self.ctx.node.signer().keys().current())
            }
            _ => {
                let own = self.sentinel.key_of(address);
                own.or_else(|| {
                    self.sentinel
                        .key_of(&Address::agent(self.meant_by(address)?))
                })
            }
        }
    }

    fn must_sign(&self, sender: &Address) -> bool {
        let agent = bus::agent_of(sender).or_else(|| self.meant_by(sender));
        let entry = agent.and_then(|id| self.ctx.directory.get(id.as_str()));
        let signs = |entry: Arc<AgentEntry>| {
            entry
                .state()
                .manifest()
                .is_some_and(AgentManifest::signs_itself)
        };
        entry.is_some_and(signs)
    }

    fn resolve(&self, reference: &str, sender: &Address) -> Option<zeroize::Zeroizing<String>> {
        let name = reference.strip_prefix("vault://")?;
        secret_text(&self.ctx, name, &bus::agent_of(sender)?)
    }
}

impl bus::Alarms for BusOutside {
    fn alert(&self, from: &Address, alert: SecurityAlert) {
        let SecurityAlert {
            severity,
            description,
            agent: about,
            ..
        } = alert;
        tracing::warn!(%from, ?severity, description, agent = ?about, "security alert");
        let Some(sender) = bus::agent_of(from) else {
            return;
        };
        // An agent is believed when it says of itself that it cannot be trusted any more. What it says of others is
        // recorded for people to judge: else any agent could isolate any other.
        let of_itself = about.is_none_or(|about| about == sender);
        let Some(entry) = self.ctx.directory.get(sender.as_str()) else {
            return;
        };
        if !of_itself || severity < Severity::High {
            return;
        }
        let command = AgentCommand::Quarantine {
            kind: QuarantineKind::SecurityViolation,
            description: format!("it raised an alert about itself: {description}"),
            severity,
        };
        let cause = Cause::by(format!("agent:{sender}"));
        let reply = ractor::concurrency::oneshot().0.into();
        let order = AgentMessage::Order {
            command,
            cause,
            reply,
        };
        if entry.slot.cast(order).is_err() {
            tracing::error!(agent = %sender, "an agent that raised an alert about itself could not be isolated");
        }
    }
}
