//! One command at work.

use std::collections::BTreeMap;

use mesh_messages::agent::Lifecycle;
use mesh_messages::events::AgentEvent;
use mesh_messages::{AgentId, Epoch, InstanceNo, Timestamp};
use mesh_supervision_core::fault::FaultRefusal;

use super::Around;
use crate::agent::{AgentEffect, AgentRefusal, AgentState, Decision};

/// One command at work: the state as its events will leave it.
pub(super) struct Turn<'a> {
    pub(super) state: &'a AgentState,
    pub(super) now: Timestamp,
    pub(super) random: u64,
    pub(super) around: &'a Around<'a>,
    pub(super) instances: BTreeMap<InstanceNo, (Epoch, Lifecycle)>,
    pub(super) replicas: u32,
    pub(super) epoch: Epoch,
    /// What the fault policy was told.
    pub(super) inputs: Vec<String>,
    pub(super) out: Decision,
}

impl Turn<'_> {
    pub(super) fn is_current(&self, instance: InstanceNo, epoch: Epoch) -> bool {
        self.instances
            .get(&instance)
            .is_some_and(|(e, _)| *e == epoch)
    }

    pub(super) fn version(&self, agent: &AgentId) -> Result<String, AgentRefusal> {
        let none = || AgentRefusal::NoVersion(agent.clone());
        self.state.current.clone().ok_or_else(none)
    }

    /// Only what serves can be paused, or exchange its version in place.
    pub(super) fn must_be_executing(
        &self,
        agent: &AgentId,
        to: Lifecycle,
    ) -> Result<(), AgentRefusal> {
        let from = self.state.stage();
        if from == Lifecycle::Executing {
            return Ok(());
        }
        let agent = agent.clone();
        Err(AgentRefusal::Illegal { agent, from, to })
    }

    pub(super) fn desire(&mut self, running: bool, paused: bool) {
        let same = (self.state.running, self.state.paused, self.state.replicas)
            == (running, paused, self.replicas);
        if !same {
            let replicas = self.replicas;
            self.out.events.push(AgentEvent::DesiredChanged {
                running,
                paused,
                replicas,
            });
        }
    }

    pub(super) fn lifecycle(&mut self, from: Lifecycle, to: Lifecycle) {
        self.out
            .events
            .push(AgentEvent::LifecycleChanged { from, to });
    }

    /// The trace of a terminated agent is complete when the last of its instances is gone. The last event of a turn.
    pub(super) fn audit(&mut self) {
        let ends_now = |event: &AgentEvent| matches!(event, AgentEvent::Terminated { .. });
        let terminated =
            self.state.stage() == Lifecycle::Terminated || self.out.events.iter().any(ends_now);
        if terminated && self.instances.is_empty() {
            let records = self.state.records + self.out.events.len() as u64 + 1;
            self.out.events.push(AgentEvent::Audited { records });
            self.out.effects.push(AgentEffect::Seal);
        }
    }
}

/// The refusal of an order that comes too late.
pub(super) fn over(agent: &AgentId, order: &'static str) -> AgentRefusal {
    AgentRefusal::Policy {
        agent: agent.clone(),
        order,
        source: FaultRefusal::Terminated,
    }
}
