//! The state of the partition `tasks/0`: a fold over its events, with indexes on top.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_messages::budget::BudgetStep;
use mesh_messages::escalation::EscalationMove;
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::task::{Task, TaskState, WaitReason};
use mesh_messages::trust::TrustChange;
use mesh_messages::{AgentId, Position, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use super::attempt::POISON_KILLS;
use super::budgets;
use super::claims::Claims;
use super::escalate::is_step;
use super::index::{Index, instance_of, judges};
use super::record::{Misfit, TaskRecord};
use super::teams::{is_teams, stands_for, team_of};
use super::turns::Served;
use super::tx::keys_of;
use crate::budget::Ledger;
use crate::gate::Gates;
use crate::routing::{InstanceKey, Qualities, Stats};
use crate::trail::Trail;
use crate::trust::Trust;

/// A task that the machine holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) record: TaskRecord,
    /// Order of submission.
    pub(crate) seq: u64,
    /// Number of the last event that changed it, as [`Tasks::applied`] counts.
    pub(crate) last_event: u64,
    /// Tasks that still have to succeed before it can start.
    pub(crate) pending: BTreeSet<TaskId>,
    /// How many children it ever had in this round.
    pub(crate) children: usize,
    /// What its agent must be able to do, sorted.
    pub(crate) needs: Arc<[String]>,
    /// Who submitted the tree that it is part of. Slots are shared out among these.
    #[serde(default)]
    pub(crate) tenant: Arc<str>,
    /// Its last record, and the request that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trail: Option<Trail>,
}

impl Entry {
    fn new(record: TaskRecord, seq: u64, tenant: Arc<str>) -> Self {
        let mut needs = record.task.spec.needs();
        needs.sort();
        needs.dedup();
        Self {
            record,
            seq,
            last_event: 0,
            pending: BTreeSet::new(),
            children: 0,
            needs: needs.into(),
            tenant,
            trail: None,
        }
    }

    pub(crate) fn task(&self) -> &Task {
        &self.record.task
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.record.task.state.is_terminal()
    }
}

/// What a snapshot holds; the indexes are made anew.
#[derive(Deserialize)]
struct Stored {
    entries: BTreeMap<TaskId, Entry>,
    next_seq: u64,
    applied: u64,
    stats: Stats,
    #[serde(default)]
    acquitted: BTreeMap<AgentId, u64>,
    #[serde(default)]
    claims: Claims,
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    gates: Gates,
    #[serde(default)]
    budgets: Ledger,
    #[serde(default)]
    served: Served,
    #[serde(default)]
    qualities: Qualities,
}

/// All tasks that have not ended, and those that ended so lately that the read side may not show it yet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Tasks {
    entries: BTreeMap<TaskId, Entry>,
    next_seq: u64,
    applied: u64,
    stats: Stats,
    /// How much each agent had done well when failures were last taken off its score for a poisonous task.
    acquitted: BTreeMap<AgentId, u64>,
    claims: Claims,
    trust: Trust,
    gates: Gates,
    budgets: Ledger,
    served: Served,
    qualities: Qualities,
    #[serde(skip)]
    index: Index,
}

impl From<Stored> for Tasks {
    fn from(mut stored: Stored) -> Self {
        let mut index = Index::default();
        for (id, entry) in &mut stored.entries {
            if entry.tenant.is_empty() {
                // A snapshot of a version that did not know who a tree belongs to.
                entry.tenant = entry.task().submitted_by.as_str().into();
            }
            index.insert(id, entry);
        }
        let Stored {
            entries,
            next_seq,
            applied,
            stats,
            acquitted,
            claims,
            trust,
            gates,
            budgets,
            served,
            qualities,
        } = stored;
        Self {
            entries,
            next_seq,
            applied,
            stats,
            acquitted,
            claims,
            trust,
            gates,
            budgets,
            served,
            qualities,
            index,
        }
    }
}

impl Tasks {
    /// Takes an event of a task in. Never decides.
    ///
    /// # Errors
    /// [`Misfit`] when the event cannot happen to the task; nothing but the count of events changes then.
    pub fn apply(&mut self, id: &TaskId, event: &TaskEvent) -> Result<(), Misfit> {
        self.applied += 1;
        if let TaskEvent::Gate { gate, .. } = event {
            // The task that it was noted with may have ended long ago.
            self.gates.put(gate);
            return Ok(());
        }
        if let Some(entry) = self.entries.get_mut(id) {
            self.index.remove(id, entry);
            let folded = entry.record.fold(event);
            if folded.is_ok() {
                entry.last_event = self.applied;
                note_dependencies(entry, event);
                note_success_or_failure(&mut self.stats, entry, event);
                self.qualities.note(entry.task(), &entry.needs, event);
            }
            let poisoned = folded.is_ok() && is_poisoning(entry, event);
            let blamed = if poisoned {
                entry.record.killed_on.clone()
            } else {
                Vec::new()
            };
            self.index.insert(id, entry);
            folded?;
            if let TaskEvent::Assigned { .. } = event {
                self.served.note(&entry.tenant);
            }
            note_claims(&mut self.claims, id, entry, event);
            for agent in blamed {
                if self.may_be_acquitted(&agent) {
                    let done = self.stats.successes(&agent);
                    self.acquitted.insert(agent, done);
                }
            }
        } else {
            let record = TaskRecord::first(id, event)?;
            let task = &record.task;
            let tenant = self.tenant_of(&task.submitted_by, task.spec.parent.as_ref());
            let mut entry = Entry::new(record, self.next_seq, tenant);
            self.next_seq += 1;
            entry.last_event = self.applied;
            note_dependencies(&mut entry, event);
            self.index.insert(id, &entry);
            if let (TaskEvent::Submitted { by, spec, .. }, Some(parent)) =
                (event, &entry.task().spec.parent)
                && !budgets::is_question(by, spec)
                && !is_step(spec)
                && let Some(parent) = self.entries.get_mut(parent)
            {
                parent.children += 1;
            }
            self.entries.insert(id.clone(), entry);
        }
        let done = self.entries.get(id).map(|entry| entry.task().state);
        if done == Some(TaskState::Succeeded) {
            self.release_dependents(id);
        }
        self.keep_accounts(id, event);
        Ok(())
    }

    /// Who submitted the tree that a new task belongs to. What is above it is held as long as it has not ended.
    pub(crate) fn tenant_of(&self, by: &str, parent: Option<&TaskId>) -> Arc<str> {
        let parent = parent.and_then(|parent| self.entries.get(parent));
        parent.map_or_else(|| by.into(), |parent| Arc::clone(&parent.tenant))
    }

    /// Who had how many turns.
    pub(crate) fn served(&self) -> &Served {
        &self.served
    }

    /// How many tasks have not ended of those that somebody submitted, with all below them.
    pub(crate) fn live_of(&self, tenant: &str) -> usize {
        self.index.live.get(tenant).copied().unwrap_or(0)
    }

    /// What an event means for the accounts of budgets.
    fn keep_accounts(&mut self, id: &TaskId, event: &TaskEvent) {
        if let TaskEvent::Budget { at, step } = event {
            return self.budgets.apply(id, *at, step);
        }
        let Some(task) = self.entries.get(id).map(Entry::task) else {
            return;
        };
        let waits = task.waiting_for.as_ref();
        let waits = waits.is_some_and(|waits| waits.reason == WaitReason::Budget);
        if let TaskEvent::Approved { .. } = event {
            self.budgets.answered(id);
        }
        if task.state.is_terminal() {
            self.budgets.close(id);
        } else if !waits {
            self.budgets.waits_no_more(id);
        }
        let Some(budget) = task.spec.budget else {
            return;
        };
        if let TaskEvent::Submitted { .. } | TaskEvent::Retried { .. } = event {
            let above = budgets::nearest(self, task.spec.parent.as_ref());
            self.budgets.reopen(id, &budget, above.as_deref());
        }
    }

    /// What tasks, agents and those who share an account have used.
    pub fn budgets(&self) -> &Ledger {
        &self.budgets
    }

    /// Takes in what happened to accounts and is on record of no task, as it is read back from the log.
    pub fn apply_account(&mut self, at: Timestamp, step: &BudgetStep) {
        self.applied += 1;
        self.budgets.keep(at, step);
    }

    /// The accounts while something is decided that is on record of no task; it is counted when the decision is complete.
    pub(crate) fn budgets_mut(&mut self) -> &mut Ledger {
        &mut self.budgets
    }

    /// Takes a change of trust in as it is read back from the log.
    pub fn apply_trust(&mut self, change: &TrustChange) {
        self.applied += 1;
        self.trust.apply(change);
    }

    /// Takes a change of trust in while it is decided on; it is counted when the decision is complete, as its record comes
    /// after those of the tasks.
    pub(crate) fn trust_mut(&mut self) -> &mut Trust {
        &mut self.trust
    }

    pub(crate) fn count(&mut self, changes: usize) {
        self.applied += changes as u64;
    }

    /// How far the agents are trusted.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    fn release_dependents(&mut self, id: &TaskId) {
        for dependent in self.index.dependents.get(id).cloned().unwrap_or_default() {
            if let Some(entry) = self.entries.get_mut(&dependent) {
                self.index.remove(&dependent, entry);
                entry.pending.remove(id);
                self.index.insert(&dependent, entry);
            }
        }
    }

    /// Events taken in so far. Equals the sequence number that the partition's next record will have, as long as the
    /// state was folded over all of them.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Notes where in the log the last event of a task stands, and for which request the first one was.
    pub fn note(&mut self, id: &TaskId, position: Position, correlation: Option<&str>) {
        if let Some(entry) = self.entries.get_mut(id) {
            Trail::advance(&mut entry.trail, position, correlation);
        }
        self.gates.note(id, position, correlation);
    }

    /// Where the log stands with a task that is held, or that a gate remembers.
    pub fn trail(&self, id: &TaskId) -> Option<&Trail> {
        let held = self.entries.get(id);
        held.map_or_else(|| self.gates.trail(id), |entry| entry.trail.as_ref())
    }

    /// Forgets the ended tasks whose last event is among the first `events`: the read side shows them by now.
    pub fn evict(&mut self, events: u64) {
        let shown = self.index.ended.iter();
        let shown = shown.take_while(|(last, _)| *last <= events);
        // What a part of a team made is needed until the team has ended.
        let wanted = |id: &TaskId| {
            self.get(id)
                .is_some_and(|task| team_of(self, task).is_some())
        };
        let over: Vec<_> = shown
            .map(|(_, id)| id)
            .filter(|id| !wanted(id))
            .cloned()
            .collect();
        for id in over {
            if let Some(entry) = self.entries.remove(&id) {
                self.index.remove(&id, &entry);
            }
        }
    }

    /// A task that is held, as it was journalled. See [`Tasks::view`] for one that explains its wait.
    pub fn get(&self, id: &TaskId) -> Option<&Task> {
        self.entries.get(id).map(Entry::task)
    }

    /// All that the machine knows of a task that it holds.
    pub fn record(&self, id: &TaskId) -> Option<&TaskRecord> {
        self.entries.get(id).map(|entry| &entry.record)
    }

    /// The ids of all tasks that are held, ended ones included.
    pub fn ids(&self) -> impl Iterator<Item = &TaskId> {
        self.entries.keys()
    }

    /// How many of the held tasks are in each state.
    pub fn counts(&self) -> &BTreeMap<TaskState, u64> {
        &self.index.states
    }

    /// Tasks that have not ended.
    pub fn live_count(&self) -> usize {
        self.entries.len() - self.index.ended.len()
    }

    /// When something becomes due by itself.
    pub fn next_timer(&self) -> Option<Timestamp> {
        let of_tasks = self.index.timers.first().map(|(at, ..)| *at);
        let others = [self.claims.next_timer(), self.gates.next_timer()];
        of_tasks
            .into_iter()
            .chain(others.into_iter().flatten())
            .min()
    }

    /// The gates before providers' accounts that are not open.
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Who holds which resource, and who waits for it.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether a poisonous task may be blamed for this agent's failures. An agent with which every task ends badly is not
    /// acquitted twice: it must have done something well since.
    pub(crate) fn may_be_acquitted(&self, agent: &AgentId) -> bool {
        self.acquitted
            .get(agent)
            .is_none_or(|then| self.stats.successes(agent) > *then)
    }

    /// What the past says of the agents.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How good the agents' results are, by what verified them.
    pub fn qualities(&self) -> &Qualities {
        &self.qualities
    }

    /// The tasks that an incarnation has in flight, those that wait for their children included.
    pub fn in_flight_on(&self, key: &InstanceKey) -> impl Iterator<Item = &TaskId> {
        self.index.in_flight.get(key).into_iter().flatten()
    }

    /// The tasks that any incarnation of an agent has in flight.
    pub(crate) fn in_hand_of_agent<'t>(
        &'t self,
        agent: &'t AgentId,
    ) -> impl Iterator<Item = &'t TaskId> {
        keys_of(&self.index.in_flight, agent).flat_map(|key| self.in_flight_on(key))
    }

    /// How many attempts an instance has in hand.
    pub fn in_hand_of(&self, key: &InstanceKey) -> usize {
        self.in_flight_on(key).count()
    }

    /// Whether a task is in flight and does not merely wait for its children.
    pub(crate) fn is_at_work(&self, id: &TaskId) -> bool {
        !self.index.children.contains_key(id)
            && self
                .entries
                .get(id)
                .is_some_and(|e| e.task().state.is_in_flight())
    }

    /// Whether a task's result is there, and another agent was asked to check it.
    pub(crate) fn is_judged(&self, id: &TaskId) -> bool {
        let mut children = self.index.children.get(id).into_iter().flatten();
        children.any(|child| self.entries.get(child).and_then(judges).is_some())
    }

    /// How many tasks are at work in the whole mesh.
    pub fn at_work(&self) -> usize {
        let in_flight: usize = self.index.in_flight.values().map(BTreeSet::len).sum();
        let waiting = self.index.children.keys().filter(|parent| {
            self.entries
                .get(*parent)
                .is_some_and(|e| e.task().state.is_in_flight())
        });
        in_flight - waiting.count()
    }

    pub(crate) fn entry(&self, id: &TaskId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(crate) fn live(&self, id: &TaskId) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.is_live())
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    #[cfg(test)]
    pub(crate) fn rebuilt(&self) -> Self {
        let text = serde_json::to_string(self).expect("serialisable");
        serde_json::from_str(&text).expect("readable")
    }
}

fn note_dependencies(entry: &mut Entry, event: &TaskEvent) {
    match event {
        TaskEvent::Submitted { spec, .. } => {
            entry.pending = spec.depends_on.iter().cloned().collect();
        }
        TaskEvent::Waiting {
            state: TaskState::Blocked,
            waiting_for: Some(waiting_for),
        } => {
            entry.pending = waiting_for.tasks.iter().cloned().collect();
        }
        TaskEvent::Retried { .. }
        | TaskEvent::Escalation {
            step: EscalationMove::Retried { .. },
            ..
        } => {
            entry.pending.clear();
            entry.children = 0;
        }
        // An attempt that is under way waits for nothing.
        TaskEvent::Checking { .. }
        | TaskEvent::Checked { .. }
        | TaskEvent::Claim { .. }
        | TaskEvent::Trust(_)
        | TaskEvent::Budget { .. }
        | TaskEvent::Gate { .. } => {}
        TaskEvent::Waiting { .. }
        | TaskEvent::Assigned { .. }
        | TaskEvent::Started { .. }
        | TaskEvent::AttemptFailed { .. }
        | TaskEvent::Succeeded { .. }
        | TaskEvent::Cancelled { .. }
        | TaskEvent::Escalation { .. }
        | TaskEvent::Team { .. }
        | TaskEvent::Approved { .. }
        | TaskEvent::DeadLettered { .. } => entry.pending.clear(),
    }
}

/// Claims belong to the attempt under way, and end with it.
fn note_claims(claims: &mut Claims, id: &TaskId, entry: &Entry, event: &TaskEvent) {
    let team = entry.task().teamwork.as_deref();
    let team = team.filter(|_| is_teams(entry)).and_then(stands_for);
    match (event, instance_of(entry).or(team)) {
        (
            TaskEvent::Claim {
                attempt,
                at,
                resource,
                step,
            },
            Some(key),
        ) => claims.apply((id, *attempt, &key), (resource, *at), step),
        (_, Some(_)) => {}
        (_, None) => claims.let_go(id),
    }
}

/// Whether the event is what ends a poisonous task.
fn is_poisoning(entry: &Entry, event: &TaskEvent) -> bool {
    let dead = matches!(
        event,
        TaskEvent::AttemptFailed {
            alone: true,
            ended_instance: true,
            then: AfterFailure::DeadLetter | AfterFailure::Escalate { .. },
            ..
        }
    );
    dead && entry.record.solo_kills >= POISON_KILLS
}

fn note_success_or_failure(stats: &mut Stats, entry: &Entry, event: &TaskEvent) {
    let Some(attempt) = entry.task().attempts.last() else {
        return;
    };
    let kind = entry.task().spec.action();
    match event {
        TaskEvent::Succeeded { at, .. } => {
            let ms = at
                .as_millis()
                .saturating_sub(attempt.started_at.as_millis());
            stats.succeeded(&attempt.agent_id, kind, ms);
        }
        TaskEvent::AttemptFailed { failure, then, .. } => {
            if !matches!(then, AfterFailure::Cancel) {
                stats.failed(&attempt.agent_id, kind, failure.class);
            }
        }
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
        | TaskEvent::Cancelled { .. }
        | TaskEvent::DeadLettered { .. }
        | TaskEvent::Escalation { .. }
        | TaskEvent::Team { .. }
        | TaskEvent::Approved { .. }
        | TaskEvent::Retried { .. } => {}
    }
}
