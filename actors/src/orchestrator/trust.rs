//! Trust: its records, and what is shown of it.

use std::collections::BTreeSet;

use mesh_actors_core::task::Trusting;
use mesh_messages::AgentId;
use mesh_messages::events::TaskEvent;
use mesh_messages::trust::{AgentTrust, TrustCause};

use super::Shell;
use crate::clock::now;
use crate::partition::{Cause, Entry, Led};

impl Shell {
    /// How far agents are trusted: those that are registered, and those of which anything was ever seen.
    pub(super) fn trust_views(&self, agent: Option<&AgentId>) -> Vec<AgentTrust> {
        let trust = self.partition.state().trust();
        let registered = self.live.fleet().agents().map(|(id, _)| id);
        let known: BTreeSet<&AgentId> = match agent {
            Some(agent) => [agent].into(),
            None => registered.chain(trust.agents()).collect(),
        };
        let known = known
            .into_iter()
            .filter(|id| trust.knows(id) || self.live.fleet().agent(id).is_some());
        let threshold = self.config.trust_threshold;
        let view = |id: &AgentId| {
            let declared = self.live.fleet().agent(id).map(|agent| &agent.capabilities);
            let declared = declared.into_iter().flatten();
            trust.view(id, declared, threshold, now(), agent.is_some())
        };
        known.map(view).collect()
    }

    /// The records of the changes of one decision, which `cause` led to.
    pub(super) fn entries_of_trust(
        &self,
        changes: Vec<Trusting>,
        cause: &Cause,
    ) -> Vec<Entry<TaskEvent>> {
        let entry = |trusting: Trusting| Entry {
            agent: Some(trusting.change.agent.clone()),
            task: None,
            led: self.led_to_trust(&trusting, cause),
            event: TaskEvent::Trust(Box::new(trusting.change)),
        };
        changes.into_iter().map(entry).collect()
    }

    /// What led to a change of trust: an event of the same decision, a record of the agent's own log, or what led to the
    /// decision.
    fn led_to_trust(&self, trusting: &Trusting, cause: &Cause) -> Led {
        if let TrustCause::Reset { .. } = trusting.change.cause {
            return Led::default();
        }
        let task = match &trusting.change.cause {
            TrustCause::Verified { task, .. } | TrustCause::Failed { task, .. } => Some(task),
            TrustCause::Violation { .. } | TrustCause::Version | TrustCause::Reset { .. } => None,
        };
        let trail = task.and_then(|task| self.partition.state().trail(task));
        let record = match trusting.change.cause {
            TrustCause::Violation { record, .. } => Some(record),
            _ => cause.cause,
        };
        let by = Cause {
            cause: record,
            ..Cause::after("meshd", trail)
        };
        Led {
            by: Some(by),
            after: trusting.after.and_then(|index| u32::try_from(index).ok()),
        }
    }
}
