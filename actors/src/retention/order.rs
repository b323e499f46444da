//! Erasing by order: a task, or the tasks and messages of somebody.
//!
//! The order is on record before anything is erased. Tasks go the way of retention: they are removed from all views first.
//! Snapshots of what is erased from are dropped, because they hold it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ractor::ActorProcessingErr;
use serde_json::Value;

use mesh_actors_core::projection::{self, EndedRow, ProjectFailure, TaskFilter};
use mesh_actors_core::retention::BATCH_MAX;
use mesh_messages::address::Address;
use mesh_messages::bus::PastMessage;
use mesh_messages::erasure::{ErasureOrder, ErasureReport, REASON_MAX};
use mesh_messages::events::{BusEvent, RetentionEvent, partition};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{Position, TaskId, Timestamp};

use super::{RetentionError, RetentionMessage, RetentionShell, dependencies, goes_on};
use crate::clock::now;
use crate::partition::{Cause, payload_of};
use crate::reads::{self, LookupError, StoreReader};
use crate::slot::Slot;
use crate::store::OpenStore;

/// How long an order may take: it reads the log.
const ERASE_LIMIT: Duration = Duration::from_mins(5);
/// Messages that are younger protect from being replayed, also after a restart: twice the window of clocks.
const MESSAGE_AGE_MIN: Duration = Duration::from_mins(10);
/// Tasks that one order takes at most; the answer names the rest as pending.
const TASKS_MAX: usize = 100_000;
/// Rows that are looked at in one step.
const STEP: usize = 1000;

/// The only way to have something erased. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RetentionHandle {
    pub(super) slot: Slot<RetentionMessage>,
}

impl Default for RetentionHandle {
    fn default() -> Self {
        Self {
            slot: Slot::new("retention"),
        }
    }
}

impl RetentionHandle {
    /// Erases what an order says; answers when it is erased.
    ///
    /// # Errors
    /// What is wrong with the order; `task_not_found`, `task_not_ended`; or that it could not be done now.
    pub(crate) async fn erase(
        &self,
        by: &str,
        order: ErasureOrder,
    ) -> Result<ErasureReport, Problem> {
        check(&order)?;
        let (by, order) = (Cause::by(by), Box::new(order));
        self.slot
            .call(ERASE_LIMIT, |reply| RetentionMessage::Erase {
                order,
                by,
                reply,
            })
            .await?
    }
}

fn check(order: &ErasureOrder) -> Result<(), Problem> {
    if order.task.is_some() == order.subject.is_some() {
        let detail = "name either a task or a subject";
        return Err(Problem::invalid("invalid_erasure", "task", detail));
    }
    let reason = order.reason.trim();
    if reason.is_empty() || reason.len() > REASON_MAX || reason.chars().any(char::is_control) {
        let detail = format!("expected 1 to {REASON_MAX} bytes without control characters");
        return Err(Problem::invalid("invalid_reason", "reason", detail));
    }
    Ok(())
}

/// What an order means, as things are.
#[derive(Debug, Default)]
struct Plan {
    tasks: Vec<TaskId>,
    messages: Vec<Position>,
    report: ErasureReport,
}

impl RetentionShell {
    /// Takes an order, and carries it out.
    pub(super) async fn take_order(
        &mut self,
        order: &ErasureOrder,
        by: &Cause,
    ) -> Result<Result<ErasureReport, Problem>, ActorProcessingErr> {
        if let Err(full) = self.store.journal.admission() {
            let full = Problem::unavailable("read_only", full.to_string()).retry_after(5);
            return Ok(Err(full));
        }
        // What an earlier order left unfinished goes first: the log says which one an end belongs to by their order.
        self.resume_orders().await?;
        if !self.partition.state().orders.is_empty() {
            return Ok(Err(failed()));
        }
        let plan = match self.planned(order, false).await? {
            Ok(plan) => plan,
            Err(problem) => return Ok(Err(problem)),
        };
        let ordered = RetentionEvent::Ordered {
            by: by.actor.clone(),
            reason: order.reason.trim().to_owned(),
            task: order.task.clone(),
            subject: order.subject.as_ref().map(ToString::to_string),
            open: true,
            names: true,
        };
        self.commit(ordered, by).await?;
        let report = self.carry_out(plan, by.correlation.clone()).await?;
        Ok(report.ok_or_else(failed))
    }

    /// Goes on with orders that a restart or a failure interrupted, from their beginning: what is erased already is so
    /// once more.
    pub(super) async fn resume_orders(&mut self) -> Result<(), ActorProcessingErr> {
        while let Some(open) = self.partition.state().orders.front().cloned() {
            let order = ErasureOrder {
                task: open.task,
                subject: open.subject.and_then(|subject| subject.parse().ok()),
                reason: open.reason,
            };
            let plan = match self.planned(&order, true).await? {
                Ok(plan) => plan,
                // It is not there any more, so nothing of it is left to plan.
                Err(problem) if problem.kind == ProblemKind::NotFound => Plan::default(),
                // What it is about goes on, or cannot be read now: it stays open, and is looked at again.
                Err(problem) => {
                    tracing::warn!(%problem, order = open.record.0, "an order to erase has to wait");
                    return Ok(());
                }
            };
            if self.carry_out(plan, open.correlation).await?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What an order means now. Of one that is gone on with, what is removed already needs no plan.
    async fn planned(
        &mut self,
        order: &ErasureOrder,
        again: bool,
    ) -> Result<Result<Plan, Problem>, ActorProcessingErr> {
        if let Err(behind) = reads::caught_up(&self.store).await {
            return Ok(Err(behind.into()));
        }
        let wanted = match self.bus.wanted_records().await {
            Ok(wanted) => wanted,
            Err(problem) => return Ok(Err(problem)),
        };
        let (meant, at) = (order.clone(), now());
        let plan = self.told(move |store| plan(store, (&meant, &wanted), at, again));
        let mut plan = match plan.await? {
            Some(Ok(plan)) => plan,
            Some(Err(problem)) => return Ok(Err(problem)),
            None => return Ok(Err(failed())),
        };
        if plan.tasks.is_empty() {
            return Ok(Ok(plan));
        }
        let retired = match self.retired(plan.tasks.clone()).await {
            Ok(retired) => retired,
            Err(problem) => return Ok(Err(problem)),
        };
        let goes_on = plan.tasks.iter().filter(|task| !retired.contains(task));
        plan.report.pending_tasks.extend(goes_on.cloned());
        plan.tasks = retired;
        match &order.task {
            Some(task) if plan.tasks.is_empty() => Ok(Err(not_ended(task))),
            _ => Ok(Ok(plan)),
        }
    }

    /// Carries out the oldest open order; `None` when it has to be gone on with.
    async fn carry_out(
        &mut self,
        mut plan: Plan,
        correlation: Option<String>,
    ) -> Result<Option<ErasureReport>, ActorProcessingErr> {
        let then = |shell: &Self| Cause {
            correlation: correlation.clone(),
            ..shell.last_cause()
        };
        for tasks in plan.tasks.chunks(BATCH_MAX) {
            let tasks = tasks.to_vec();
            self.commit(RetentionEvent::Removed { tasks }, &then(self))
                .await?;
        }
        // What an earlier incarnation left unfinished is among them.
        let some_tasks = !self.partition.state().unerased.is_empty();
        if some_tasks {
            let dropped = self.told(|store| Ok(store.journal.drop_snapshots(&partition::TASKS)?));
            if dropped.await?.is_none() || !self.marked().await? {
                return Ok(None);
            }
        }
        let Some(records) = self.erase_removed(&then(self)).await? else {
            return Ok(None);
        };
        // They may have been made anew in between, with what was not erased yet.
        if some_tasks && !self.marked().await? {
            return Ok(None);
        }
        let messages = std::mem::take(&mut plan.messages);
        let count = messages.len() as u64;
        if count > 0 {
            // Dead letters hold what they are about whole, and would bring it into the next snapshot.
            let records = messages.iter().copied().collect();
            if let Err(problem) = self.bus.forget_dead(records).await {
                tracing::warn!(%problem, "dead letters of what is to be erased are kept yet");
                return Ok(None);
            }
            if !self.doom(&messages, &then(self)).await? {
                return Ok(None);
            }
            self.name(&messages, &then(self)).await?;
            let erased = self.told(move |store| {
                store.journal.drop_snapshots(&partition::BUS)?;
                Ok(store.journal.erase(&messages)?)
            });
            if erased.await?.is_none() {
                return Ok(None);
            }
            let event = RetentionEvent::MessagesErased { records: count };
            self.commit(event, &then(self)).await?;
        }
        if !self.remove_doomed().await? {
            return Ok(None);
        }
        let tasks = plan.tasks.len() as u64;
        let done = RetentionEvent::Done {
            tasks,
            messages: count,
        };
        self.commit(done, &then(self)).await?;
        Ok(Some(ErasureReport {
            tasks,
            messages: count,
            records: records + count,
            ..plan.report
        }))
    }
}

impl RetentionShell {
    /// Has the views made anew at the next start: their files may hold until then what was removed from them.
    async fn marked(&self) -> Result<bool, ActorProcessingErr> {
        let marked = self.told(|store| {
            let marked = store.projections.remake_when_opened();
            Ok(marked.map_err(ProjectFailure::View)?)
        });
        Ok(marked.await?.is_some())
    }
}

fn failed() -> Problem {
    let detail = "not everything is erased yet; ask again";
    Problem::unavailable("erase_failed", detail)
}

fn not_ended(task: &TaskId) -> Problem {
    let detail =
        format!("task {task}, the one that delegated it, or one that depends on it, has not ended");
    Problem::new(ProblemKind::Conflict, "task_not_ended", detail)
}

/// What is meant, or why nothing is.
fn plan(
    store: &OpenStore,
    (order, wanted): (&ErasureOrder, &BTreeSet<Position>),
    now: Timestamp,
    again: bool,
) -> Result<Result<Plan, Problem>, RetentionError> {
    let mut plan = Plan::default();
    let needed = dependencies(store)?;
    // An order drops the snapshots, and only they know any more how a task ended that retention removed.
    for task in &needed {
        if projection::removed(&StoreReader(store), task)?.is_some() {
            let detail = format!(
                "an open task depends on {task}, which retention removed; ask again when it has ended"
            );
            let problem = Problem::new(ProblemKind::Conflict, "task_not_ended", detail);
            return Ok(Err(problem));
        }
    }
    match (&order.task, &order.subject) {
        (Some(task), _) if again && projection::removed(&StoreReader(store), task)?.is_some() => {}
        (Some(task), _) => {
            let Some(row) = reads::task_row(store, task)? else {
                return Ok(Err(Problem::task_not_found(task.as_str())));
            };
            let ended = EndedRow {
                id: task.clone(),
                at: row.updated_at,
                bytes: 0,
                last: row.updated,
                parent: row.record.task.spec.parent.clone(),
                submitted_at: row.record.task.submitted_at,
                state: row.record.task.state,
                agent: None,
            };
            let goes_on = !row.record.task.state.is_terminal() || goes_on(store, &ended)?;
            if goes_on || needed.contains(task) {
                return Ok(Err(not_ended(task)));
            }
            plan.tasks.push(task.clone());
        }
        (None, Some(subject)) => tasks_of(store, subject, &needed, &mut plan)?,
        (None, None) => {}
    }
    messages_of(store, (order, wanted), now, &mut plan)?;
    Ok(Ok(plan))
}

/// The tasks that somebody submitted: those that have ended, and those that have not.
fn tasks_of(
    store: &OpenStore,
    subject: &Address,
    needed: &BTreeSet<TaskId>,
    plan: &mut Plan,
) -> Result<(), RetentionError> {
    let (names, reader) = (names_of(subject), StoreReader(store));
    let mut cursor: Option<Vec<u8>> = None;
    loop {
        let page = projection::task_page(&reader, &TaskFilter::default(), cursor.as_deref(), STEP)?;
        for task in page.rows {
            let task = task.record.task;
            if !names.contains(&task.submitted_by) {
                continue;
            }
            let row = EndedRow {
                id: task.id.clone(),
                at: Timestamp::ZERO,
                bytes: 0,
                last: Position(0),
                parent: task.spec.parent.clone(),
                submitted_at: task.submitted_at,
                state: task.state,
                agent: None,
            };
            let goes = task.state.is_terminal() && plan.tasks.len() < TASKS_MAX;
            if goes && !needed.contains(&task.id) && !goes_on(store, &row)? {
                plan.tasks.push(task.id);
            } else {
                plan.report.pending_tasks.push(task.id);
            }
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

/// How somebody may be named in a record.
fn names_of(subject: &Address) -> BTreeSet<String> {
    let mut names = BTreeSet::from([subject.to_string()]);
    match subject {
        Address::Role { role, name } if &**role == "user" => {
            names.insert(format!("kai://user.{name}"));
        }
        Address::Role { role, name } if &**role == "agent" => {
            names.insert(format!("kai://agent.{name}"));
        }
        Address::Agent { id, .. } => {
            names.insert(format!("agent:{id}"));
        }
        _ => {}
    }
    names
}

/// A record by which publications of the past were put into a queue holds copies of them.
fn filled_with(
    messages: &[PastMessage],
    (names, wanted): (&BTreeSet<String>, &BTreeSet<Position>),
    record: Position,
    plan: &mut Plan,
) {
    let meant = |past: &PastMessage| {
        let from = past.envelope.get("from").and_then(Value::as_str);
        from.is_some_and(|from| names.contains(from))
    };
    // What still waits is pending by the record of its publication.
    let waits = messages.iter().any(|past| wanted.contains(&past.record));
    if messages.iter().any(meant) && !waits {
        plan.messages.push(record);
    }
}

/// The records of messages that are meant: old enough, and, where they were to reach an agent or stand in a durable
/// subscription (`wanted`), no longer on their way.
fn messages_of(
    store: &OpenStore,
    (order, wanted): (&ErasureOrder, &BTreeSet<Position>),
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), RetentionError> {
    let names = order.subject.as_ref().map(names_of).unwrap_or_default();
    let records = store.journal.read_partition(&partition::BUS, Position(0));
    // By message and sender: the records of it, and whether it is still on its way to an agent.
    let mut meant: BTreeMap<(String, String), (Vec<Position>, bool, bool)> = BTreeMap::new();
    for record in records.map_err(LookupError::from)? {
        let record = record.map_err(LookupError::from)?;
        let Some(payload) = payload_of(&record, &store.content)? else {
            continue;
        };
        let Ok(event) = serde_json::from_slice::<BusEvent>(&payload) else {
            continue;
        };
        let (message, from, to, envelope) = match &event {
            BusEvent::Sent {
                message,
                from,
                to,
                envelope,
                ..
            }
            | BusEvent::Received {
                message,
                from,
                to,
                envelope,
                ..
            } => (message, from, to, Some(envelope)),
            BusEvent::DeadLettered {
                message, from, to, ..
            } => (message, from, to, None),
            BusEvent::Alerted { message, from, .. } => (message, from, from, None),
            BusEvent::Filled { messages, .. } => {
                filled_with(messages, (&names, wanted), record.header.position, plan);
                continue;
            }
            // These hold no content.
            BusEvent::Taken { .. }
            | BusEvent::Subscribed { .. }
            | BusEvent::Made { .. }
            | BusEvent::Removed { .. }
            | BusEvent::HandedOut { .. }
            | BusEvent::Acked { .. }
            | BusEvent::Extended { .. }
            | BusEvent::Returned { .. }
            | BusEvent::DeadSettled { .. } => continue,
        };
        let task = envelope
            .and_then(|e| e.get("task_id"))
            .and_then(Value::as_str);
        let of_task = task.is_some() && task == order.task.as_ref().map(TaskId::as_str);
        let key = (message.clone(), from.clone());
        let known = meant.contains_key(&key);
        if !(known || of_task || names.contains(from) || names.contains(to)) {
            continue;
        }
        let to_agent = matches!(to.parse(), Ok(Address::Agent { .. }));
        let (positions, under_way, young) = meant.entry(key).or_default();
        positions.push(record.header.position);
        match event {
            BusEvent::Sent { .. } => *under_way |= to_agent,
            _ => *under_way = false,
        }
        *young |= now.since(record.header.time) < MESSAGE_AGE_MIN;
    }
    for (positions, under_way, young) in meant.into_values() {
        let waits = positions.iter().any(|position| wanted.contains(position));
        if under_way || young || waits {
            plan.report.pending_messages += 1;
        } else {
            plan.messages.extend(positions);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_of_a_subjects_publications_in_queues_are_meant_once_nobody_waits_for_them() {
        let past = |from: &str, record: u64| PastMessage {
            record: Position(record),
            at: Timestamp::default(),
            envelope: json!({"from": from}),
        };
        let names = BTreeSet::from(["user:vera".to_owned()]);
        let meant = |messages: &[PastMessage], wanted: &[u64]| {
            let wanted = wanted.iter().copied().map(Position).collect();
            let mut plan = Plan::default();
            filled_with(messages, (&names, &wanted), Position(9), &mut plan);
            plan.messages
        };
        assert_eq!(meant(&[past("user:vera", 3)], &[]), [Position(9)]);
        assert_eq!(meant(&[past("user:vera", 3)], &[4]), [Position(9)]);
        assert_eq!(meant(&[past("user:vera", 3)], &[3]), [], "it still waits");
        assert_eq!(meant(&[past("user:ada", 3)], &[]), [], "it is another's");
        let both = [past("user:ada", 2), past("user:vera", 3)];
        assert_eq!(meant(&both, &[]), [Position(9)]);
        assert_eq!(meant(&[], &[]), []);
    }
}
