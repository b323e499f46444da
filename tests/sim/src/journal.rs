//! The log: what is appended, what of it is on the disk, and what a crash leaves.
//!
//! The contract is that of `mesh-persistence`: an append names the sequence number that it expects, a group is kept
//! whole or not at all, and only what was synced is sure to be there afterwards. What was written and not synced may
//! or may not survive a crash; nobody was told of it either way.

use std::collections::BTreeMap;

use mesh_messages::events::{
    AgentEvent, KIND_VERSION, RegistryEvent, SentinelEvent, TaskEvent, partition,
};
use mesh_messages::record::RECORD_FORMAT;
use mesh_messages::{AgentId, PartitionId, Position, RecordHeader, TaskId, Timestamp};
use serde::Serialize;

use crate::world::Part;

/// Why an append was not taken. Its owner ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendRefusal {
    /// Another owner has appended since.
    Fenced,
    /// A sync has failed; it has to be opened again.
    Failed,
}

/// One record, as its bytes are stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) part: Part,
    pub(crate) header: RecordHeader,
    pub(crate) payload: Vec<u8>,
}

/// An event of any partition that can be stored.
pub(crate) trait Storable: Serialize {
    fn kind_of(&self) -> &'static str;
}

macro_rules! storable {
    ($($event:ty),+) => { $(impl Storable for $event {
        fn kind_of(&self) -> &'static str {
            self.kind()
        }
    })+ };
}
storable!(AgentEvent, TaskEvent, RegistryEvent, SentinelEvent);

/// The log of a node.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Stored>,
    /// How many records are on the disk.
    pub(crate) durable: usize,
    /// Where the groups end that are not.
    groups: Vec<usize>,
    /// Up to where the sync under way goes.
    syncing: Option<usize>,
    pub(crate) failed: bool,
    /// Which opening of the log this is: news of a sync of an earlier one concern nobody.
    pub(crate) opened: u64,
    seqs: BTreeMap<Part, u64>,
    last_time: Timestamp,
}

impl Log {
    /// Appends a group. Answers with its headers.
    pub(crate) fn append<E: Storable>(
        &mut self,
        (part, partition): (Part, &PartitionId),
        expected: u64,
        now: Timestamp,
        events: &[(E, Option<AgentId>, Option<TaskId>)],
    ) -> Result<Vec<RecordHeader>, AppendRefusal> {
        if self.failed {
            return Err(AppendRefusal::Failed);
        }
        let next = self.seqs.entry(part).or_default();
        if *next != expected {
            return Err(AppendRefusal::Fenced);
        }
        // Hybrid logical time never goes back, whatever the clock does.
        self.last_time = self.last_time.max(now);
        let mut headers = Vec::with_capacity(events.len());
        for (event, agent, task) in events {
            let header = RecordHeader {
                v: RECORD_FORMAT,
                ns: "default".into(),
                log: String::new(),
                position: Position(self.records.len() as u64),
                partition: partition.clone(),
                seq: *next,
                time: self.last_time,
                lc: 0,
                kind: event.kind_of().into(),
                kv: KIND_VERSION,
                agent: agent.clone(),
                task: task.clone(),
                actor: "meshd".to_owned(),
                cause: None,
                correlation: None,
                payload: String::new(),
            };
            *next += 1;
            let payload = serde_json::to_vec(event).unwrap_or_default();
            headers.push(header.clone());
            self.records.push(Stored {
                part,
                header,
                payload,
            });
        }
        self.groups.push(self.records.len());
        Ok(headers)
    }

    /// Begins a sync of all that is appended, unless one is under way or there is nothing to do.
    pub(crate) fn begin_sync(&mut self) -> Option<u64> {
        if self.syncing.is_some() || self.failed || self.durable == self.records.len() {
            return None;
        }
        self.syncing = Some(self.records.len());
        Some(self.opened)
    }

    /// A sync has come to its end.
    pub(crate) fn end_sync(&mut self, ok: bool) {
        if let Some(upto) = self.syncing.take() {
            if ok {
                self.durable = upto;
                self.groups.retain(|end| *end > upto);
            } else {
                self.failed = true;
            }
        }
    }

    /// Whether all of a partition is on the disk.
    pub(crate) fn is_settled(&self, part: Part) -> bool {
        self.records[self.durable..]
            .iter()
            .all(|record| record.part != part)
    }

    /// How many groups wait for the disk.
    pub(crate) fn waiting(&self) -> usize {
        self.groups.len()
    }

    /// What is left after a crash, of meshd or of the machine: what was synced, and the first `lucky` groups of the rest.
    pub(crate) fn reopen(&mut self, lucky: usize) -> usize {
        let keep = self.groups[..lucky.min(self.groups.len())].last().copied();
        let lost = self.groups.len() - lucky.min(self.groups.len());
        for gone in self.records.split_off(keep.unwrap_or(self.durable)) {
            let next = self.seqs.entry(gone.part).or_default();
            *next = gone.header.seq.min(*next);
        }
        self.durable = self.records.len();
        (self.groups, self.syncing, self.failed) = (Vec::new(), None, false);
        self.opened += 1;
        lost
    }

    /// The sequence number that the next record of a partition has.
    pub(crate) fn next_seq(&self, part: Part) -> u64 {
        self.seqs.get(&part).copied().unwrap_or_default()
    }
}

/// The name of a part's partition.
pub(crate) fn partition_of(part: Part, agents: &[AgentId]) -> PartitionId {
    match part {
        Part::Journal => partition::NODE,
        Part::Sentinel => partition::SENTINEL,
        Part::Registry => partition::REGISTRY,
        Part::Orchestrator => partition::TASKS,
        Part::Agent(agent) => agents.get(agent).map_or(partition::NODE, partition::agent),
    }
}
