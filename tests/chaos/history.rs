//! What the journal must say after whatever happened: checked on the exported log, which anybody could check.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use mesh_actors::Operations;
use mesh_messages::escalation::EscalationMove;
use mesh_messages::events::{AfterFailure, AgentEvent, TaskEvent, partition};
use mesh_messages::identity::SigningKey;
use mesh_messages::team::TeamStep;
use mesh_messages::{AgentId, RecordHeader, TaskId};
use mesh_persistence::verify;
use serde_json::Value;

use crate::world::until;

/// A whole log, verified.
pub(crate) struct History {
    records: Vec<(RecordHeader, Value)>,
}

/// The exported log.
async fn exported(ops: &dyn Operations) -> Option<Vec<u8>> {
    let mut chunks = ops.export_audit(None, true).await.ok()?;
    let mut all = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        all.extend(chunk.ok()?);
    }
    Some(all)
}

impl History {
    /// Exports the log, verifies every record of it, and reads it. An export that a restart cuts off is begun anew.
    pub(crate) async fn of(ops: &dyn Operations) -> Self {
        let export = until("an export", async || exported(ops).await).await;
        let key = SigningKey::from_secret(&[7; 32]).public();
        let report = verify(Cursor::new(&export), Some(&key), None).unwrap();
        let text = String::from_utf8(export).unwrap();
        let mut records: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter_map(|line| {
                let header = serde_json::from_str(line.get("record")?.as_str()?).unwrap();
                let payload = line["payload"]
                    .as_str()
                    .map(|text| serde_json::from_str(text).unwrap());
                Some((header, payload.unwrap_or_default()))
            })
            .collect();
        assert_eq!(
            records.len() as u64,
            report.size,
            "every record is in the export"
        );
        records.sort_by_key(|(header, _): &(RecordHeader, Value)| header.position);
        Self { records }
    }

    fn tasks(&self) -> BTreeMap<TaskId, Vec<TaskEvent>> {
        let mut tasks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (header, payload) in self
            .records
            .iter()
            .filter(|(header, _)| header.partition == partition::TASKS)
        {
            let event: TaskEvent = serde_json::from_value(payload.clone()).unwrap();
            // It tells of an agent, or of accounts.
            let Some(task) = header.task.clone() else {
                continue;
            };
            tasks.entry(task).or_default().push(event);
        }
        tasks
    }

    /// Every task that was acknowledged is there, and every task that is there ends exactly once, with nothing after it; its
    /// attempts are numbered without gaps, and each begins after the one before it has ended.
    pub(crate) fn assert_every_task_ended_once(&self, acknowledged: &BTreeSet<TaskId>) {
        let tasks = self.tasks();
        for id in acknowledged {
            assert!(
                tasks.contains_key(id),
                "{id} was acknowledged and is not in the log"
            );
        }
        for (id, events) in &tasks {
            let ends = events.iter().filter(|event| is_end(event)).count();
            assert_eq!(ends, 1, "{id} ended {ends} times: {events:#?}");
            assert!(
                events.last().is_some_and(is_end),
                "{id} went on after its end: {events:#?}"
            );
            let mut under_way = None;
            let mut last = 0;
            for event in events {
                match event {
                    TaskEvent::Assigned { assignment, .. } => {
                        assert_eq!(
                            under_way, None,
                            "{id}: an attempt began before the last one ended: {events:#?}"
                        );
                        assert_eq!(assignment.attempt.0, last + 1, "{id}: {events:#?}");
                        last = assignment.attempt.0;
                        under_way = Some(last);
                    }
                    TaskEvent::AttemptFailed { attempt, .. }
                    | TaskEvent::Succeeded { attempt, .. } => {
                        assert_eq!(under_way, Some(attempt.0), "{id}: {events:#?}");
                        under_way = None;
                    }
                    _ => {}
                }
            }
        }
    }

    /// What happened to one task.
    pub(crate) fn task(&self, id: &TaskId) -> Vec<TaskEvent> {
        self.tasks().remove(id).unwrap_or_default()
    }

    /// The incarnations of each agent, in the order of their records.
    pub(crate) fn epochs(&self) -> BTreeMap<AgentId, Vec<u64>> {
        let mut epochs: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (header, payload) in &self.records {
            if header.kind == "activated" {
                let event: AgentEvent = serde_json::from_value(payload.clone()).unwrap();
                if let AgentEvent::Activated { epoch, .. } = event {
                    epochs
                        .entry(header.agent.clone().unwrap())
                        .or_default()
                        .push(epoch.0);
                }
            }
        }
        epochs
    }

    /// No incarnation comes twice, and none comes after a later one.
    pub(crate) fn assert_epochs_rise(&self) {
        for (agent, epochs) in self.epochs() {
            assert!(epochs.is_sorted_by(|a, b| a < b), "{agent}: {epochs:?}");
        }
    }

    /// How many records of a kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.records
            .iter()
            .filter(|(header, _)| header.kind == kind)
            .count()
    }
}

fn is_end(event: &TaskEvent) -> bool {
    match event {
        TaskEvent::Succeeded { .. }
        | TaskEvent::Cancelled { .. }
        | TaskEvent::Approved { .. }
        | TaskEvent::DeadLettered { .. } => true,
        TaskEvent::AttemptFailed { then, .. } => {
            matches!(
                then,
                AfterFailure::Fail | AfterFailure::DeadLetter | AfterFailure::Cancel
            )
        }
        TaskEvent::Escalation { step, .. } => matches!(
            step,
            EscalationMove::Done { .. } | EscalationMove::Dropped { .. }
        ),
        TaskEvent::Team { step, .. } => match &**step {
            TeamStep::Done { .. } => true,
            TeamStep::Failed { escalates, .. } => !escalates,
            TeamStep::Formed(_)
            | TeamStep::Began
            | TeamStep::Phase(_)
            | TeamStep::Disbanded { .. } => false,
        },
        TaskEvent::Submitted { .. }
        | TaskEvent::Waiting { .. }
        | TaskEvent::Assigned { .. }
        | TaskEvent::Started { .. }
        | TaskEvent::Checking { .. }
        | TaskEvent::Checked { .. }
        | TaskEvent::Claim { .. }
        | TaskEvent::Trust(_)
        | TaskEvent::Gate { .. }
        | TaskEvent::Budget { .. }
        | TaskEvent::Retried { .. } => false,
    }
}
