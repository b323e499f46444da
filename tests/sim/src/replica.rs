//! The second reader of the log: folds what is on the disk from its stored bytes, as a restart would, and keeps what
//! the machines have forgotten.
//!
//! What the owners have in memory has to be the same as this, whenever all that they appended is on the disk.

use std::collections::BTreeMap;

use mesh_actors_core::agent::AgentState;
use mesh_actors_core::registry::RegistryState;
use mesh_actors_core::sentinel::SentinelState;
use mesh_actors_core::task::{Known, Lookups, TaskRecord, Tasks};
use mesh_messages::TaskId;
use mesh_messages::events::TaskEvent;
use serde::de::DeserializeOwned;

use crate::checkers::{Breach, Verdict, breach};
use crate::journal::Stored;
use crate::world::Part;

/// What the log says.
#[derive(Debug, Default, Clone)]
pub(crate) struct Replica {
    /// Records that were folded.
    pub(crate) next: usize,
    pub(crate) agents: BTreeMap<usize, AgentState>,
    pub(crate) tasks: Tasks,
    pub(crate) registry: RegistryState,
    pub(crate) sentinel: SentinelState,
    /// Tasks that have ended, as the read side shows them.
    pub(crate) archive: BTreeMap<TaskId, TaskRecord>,
    keys: BTreeMap<(String, String), TaskId>,
}

fn decode<E: DeserializeOwned>(record: &Stored) -> Result<E, Breach> {
    serde_json::from_slice(&record.payload).map_err(|error| Breach {
        promise: "replay: what was stored can be read",
        what: format!("{}: {error}", record.header.kind),
    })
}

impl Replica {
    /// Takes the next record in.
    pub(crate) fn fold(&mut self, record: &Stored) -> Verdict {
        self.next += 1;
        match record.part {
            Part::Journal => Ok(()),
            Part::Agent(agent) => {
                let event = decode(record)?;
                self.agents
                    .entry(agent)
                    .or_default()
                    .apply(&record.header, &event);
                Ok(())
            }
            Part::Registry => {
                self.registry.apply(&decode(record)?);
                Ok(())
            }
            Part::Sentinel => {
                self.sentinel.apply(&record.header, &decode(record)?);
                Ok(())
            }
            Part::Orchestrator => self.task(record),
        }
    }

    fn task(&mut self, record: &Stored) -> Verdict {
        let event: TaskEvent = decode(record)?;
        if let TaskEvent::Trust(change) = &event {
            self.tasks.apply_trust(change);
            return Ok(());
        }
        if let (TaskEvent::Budget { at, step }, None) = (&event, &record.header.task) {
            self.tasks.apply_account(*at, step);
            return Ok(());
        }
        let Some(id) = &record.header.task else {
            return breach(
                "replay: what was stored can be read",
                "a task's record without task",
            );
        };
        if let Err(misfit) = self.tasks.apply(id, &event) {
            return breach("replay: what was stored fits", format!("{id}: {misfit}"));
        }
        let Some(now) = self.tasks.record(id) else {
            return Ok(());
        };
        if let Some(key) = &now.task.spec.idempotency_key {
            let key = (now.task.submitted_by.clone(), key.clone());
            self.keys.insert(key, id.clone());
        }
        if now.task.state.is_terminal() {
            self.archive.insert(id.clone(), now.clone());
        } else {
            self.archive.remove(id);
        }
        Ok(())
    }

    /// What the read side answers.
    pub(crate) fn known(&self, lookups: Lookups) -> Known {
        let mut known = Known::default();
        for id in lookups.tasks {
            if let Some(record) = self.archive.get(&id) {
                known.tasks.insert(id, record.clone());
            }
        }
        for key in lookups.keys {
            let record = self.keys.get(&key).and_then(|id| self.archive.get(id));
            if let Some(record) = record {
                known.keys.insert(key, record.clone());
            }
        }
        known
    }
}
