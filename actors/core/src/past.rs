//! How a task or an agent stood when the log had got to some record: the same folds as ever, over its records up to there.
//!
//! Pure, and small: of a log of any length, only what is asked about is held.

use mesh_messages::events::{AgentEvent, KIND_VERSION, TaskEvent, partition};
use mesh_messages::system::PastAgent;
use mesh_messages::task::Task;
use mesh_messages::{AgentId, RecordHeader, TaskId, Timestamp};
use serde::de::DeserializeOwned;

use crate::agent::AgentState;
use crate::task::TaskRecord;

/// How a large payload begins that lies elsewhere; an export holds no more of it.
const ELSEWHERE: &[u8] = br#"{"$content":"#;

/// A record that this version cannot read, so what follows from it is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {position} of kind {kind} cannot be read: {detail}")]
pub struct Unreadable {
    /// Where.
    pub position: u64,
    /// Its kind.
    pub kind: String,
    /// What is wrong.
    pub detail: String,
}

/// What was not there to be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gaps {
    /// Records whose payload was erased.
    pub erased: u64,
    /// Records whose payload lies elsewhere.
    pub elsewhere: u64,
}

/// A task in the past.
#[derive(Debug)]
pub struct TaskPast {
    id: TaskId,
    record: Option<TaskRecord>,
    gaps: Gaps,
    time: Option<Timestamp>,
}

impl TaskPast {
    /// Before its first record.
    pub fn new(id: TaskId) -> Self {
        Self {
            id,
            record: None,
            gaps: Gaps::default(),
            time: None,
        }
    }

    /// Takes a record in; those of others are passed over. They must come in their order.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn take(
        &mut self,
        header: &RecordHeader,
        payload: Option<&[u8]>,
    ) -> Result<(), Unreadable> {
        if header.partition != partition::TASKS || header.task.as_ref() != Some(&self.id) {
            return Ok(());
        }
        self.time = Some(header.time);
        let Some(event) = read::<TaskEvent>(header, payload, &mut self.gaps)? else {
            return Ok(());
        };
        match &mut self.record {
            // What an erased record before it led to does not fit any more, and changes nothing.
            Some(record) => drop(record.fold(&event)),
            None => self.record = TaskRecord::first(&self.id, &event).ok(),
        }
        Ok(())
    }

    /// As it stood; `None` when there was none, or its submission was erased.
    pub fn task(self) -> (Option<Task>, Gaps) {
        (self.record.map(|record| record.task), self.gaps)
    }

    /// Whether there was any record of it.
    pub fn is_known(&self) -> bool {
        self.time.is_some()
    }
}

/// An agent in the past.
#[derive(Debug)]
pub struct AgentPast {
    id: AgentId,
    state: AgentState,
    gaps: Gaps,
}

impl AgentPast {
    /// Before its first record.
    pub fn new(id: AgentId) -> Self {
        Self {
            id,
            state: AgentState::default(),
            gaps: Gaps::default(),
        }
    }

    /// Takes a record in; those of others are passed over. They must come in their order.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn take(
        &mut self,
        header: &RecordHeader,
        payload: Option<&[u8]>,
    ) -> Result<(), Unreadable> {
        if header.partition != partition::agent(&self.id) {
            return Ok(());
        }
        if let Some(event) = read::<AgentEvent>(header, payload, &mut self.gaps)? {
            self.state.apply(header, &event);
        }
        Ok(())
    }

    /// As it stood; `None` when it was not registered.
    pub fn agent(self) -> (Option<PastAgent>, Gaps) {
        let state = &self.state;
        let shown = state.version().map(|version| PastAgent {
            id: self.id.clone(),
            version: version.manifest.version.to_string(),
            digest: version.digest.clone(),
            lifecycle: state.stage(),
            running: state.running,
            paused: state.paused,
            replicas: state.replicas,
            epoch: state.epoch,
            fault: state.fault.clone(),
            quarantine: state.quarantine.clone(),
            instances: state
                .instances
                .iter()
                .map(|(no, instance)| mesh_messages::system::PastInstance {
                    instance: *no,
                    epoch: instance.epoch,
                    lifecycle: instance.stage,
                    version: instance.version.clone(),
                    activated_at: instance.activated_at,
                })
                .collect(),
            owner: state.owner.clone(),
            created_at: state.created_at,
            updated_at: state.updated_at,
        });
        (shown, self.gaps)
    }
}

fn read<T: DeserializeOwned>(
    header: &RecordHeader,
    payload: Option<&[u8]>,
    gaps: &mut Gaps,
) -> Result<Option<T>, Unreadable> {
    let Some(payload) = payload else {
        gaps.erased += 1;
        return Ok(None);
    };
    if payload.starts_with(ELSEWHERE) {
        gaps.elsewhere += 1;
        return Ok(None);
    }
    let unreadable = |detail: String| Unreadable {
        position: header.position.0,
        kind: header.kind.to_string(),
        detail,
    };
    if header.kv > KIND_VERSION {
        let detail = format!(
            "its version is {}; this one reads {KIND_VERSION}",
            header.kv
        );
        return Err(unreadable(detail));
    }
    serde_json::from_slice(payload)
        .map(Some)
        .map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
