//! One decision under way: events are applied as they are made, so that each step sees the ones before it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mesh_messages::access::TaskFacts;
use mesh_messages::budget::BudgetStep;
use mesh_messages::events::TaskEvent;
use mesh_messages::task::{Task, TaskState};
use mesh_messages::trust::TrustChange;
use mesh_messages::{AgentId, Epoch, FailureClass, InstanceNo, TaskId};

use super::budgets;
use super::command::{Answer, AttemptOutcome, Context, Decision, Effect, Live, Trusting};
use super::gates;
use super::index::{instance_of, judges};
use super::state::Tasks;
use crate::access::{Recipient, has_recipients, keeps_from};
use crate::gate::account_of;
use crate::routing::{FleetAgent, InstanceKey, Load, Occupancy};

/// Events after which a decision stops to look for more. Commands add up to some 2000 of their own, and one append of
/// the journal holds 4096.
pub(crate) const EVENTS_MAX: usize = 1024;
/// The same in bytes of what escalations tell of their tasks. One append holds 4 MiB, and a submission takes up to 2 of them.
const TOLD_BYTES_MAX: usize = 1024 * 1024;

pub(crate) struct Tx<'a> {
    pub(crate) tasks: &'a mut Tasks,
    pub(crate) live: &'a mut Live,
    pub(crate) ctx: Context<'a>,
    pub(crate) more: bool,
    random: u64,
    told_bytes: usize,
    events: Vec<(TaskId, TaskEvent)>,
    effects: Vec<Effect>,
    ended: Vec<TaskId>,
    trust: Vec<Trusting>,
    accounts: Vec<TaskEvent>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(tasks: &'a mut Tasks, live: &'a mut Live, ctx: Context<'a>) -> Self {
        Self {
            tasks,
            live,
            ctx,
            more: false,
            random: ctx.random,
            told_bytes: 0,
            events: Vec::new(),
            effects: Vec::new(),
            ended: Vec::new(),
            trust: Vec::new(),
            accounts: Vec::new(),
        }
    }

    /// The next random bits (`SplitMix64` over the ones that the decision was given).
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Whether what else could be decided has to wait for the next decision. Notes that there is more.
    pub(crate) fn is_full(&mut self) -> bool {
        let full = self.events.len() >= EVENTS_MAX || self.told_bytes >= TOLD_BYTES_MAX;
        self.more |= full;
        full
    }

    /// Counts what the next events tell, in bytes.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.told_bytes += bytes;
    }

    /// Makes an event happen.
    pub(crate) fn emit(&mut self, id: &TaskId, event: TaskEvent) {
        if let Some(counted) = budgets::settlement(self.tasks, id, &event, self.ctx.now) {
            self.emit(id, counted);
        }
        let had = self.tasks.entry(id).and_then(instance_of);
        self.tasks
            .apply(id, &event)
            .expect("an event that was just decided fits its task");
        self.report(had, id, &event);
        self.events.push((id.clone(), event));
        let Some(entry) = self.tasks.entry(id) else {
            return;
        };
        let state = entry.task().state;
        let of_task = !matches!(
            self.events.last(),
            Some((_, TaskEvent::Gate { .. } | TaskEvent::Budget { .. }))
        );
        if of_task && state.is_terminal() {
            self.ended.push(id.clone());
            self.effects.push(Effect::TaskEnded(id.clone()));
            if state == TaskState::DeadLettered {
                self.effects.push(Effect::Escalate(id.clone()));
            }
            self.answer_asker(id);
            self.take_up(id);
            self.team_on(id);
        }
    }

    /// Tells an agent that is still there how the attempt it had has ended, if it has.
    fn report(&mut self, had: Option<InstanceKey>, id: &TaskId, event: &TaskEvent) {
        let Some(key) = had.filter(|key| self.live.fleet.has_instance(key)) else {
            return;
        };
        let class = match event {
            TaskEvent::Succeeded { .. } => None,
            TaskEvent::AttemptFailed { failure, .. } | TaskEvent::DeadLettered { failure, .. } => {
                Some(failure.class)
            }
            TaskEvent::Cancelled { .. } => Some(FailureClass::Cancelled),
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
            | TaskEvent::Escalation { .. }
            | TaskEvent::Team { .. }
            | TaskEvent::Approved { .. }
            | TaskEvent::Retried { .. } => return,
        };
        let outcome = match class {
            None => AttemptOutcome::Succeeded,
            Some(class) if class.is_scored() => return,
            Some(class) => AttemptOutcome::Unscored(class),
        };
        let task = id.clone();
        self.effects
            .push(Effect::ReportToAgent { key, task, outcome });
    }

    /// Makes a change of trust happen.
    pub(crate) fn trusts(&mut self, change: Option<TrustChange>, task: Option<&TaskId>) {
        let Some(change) = change else {
            return;
        };
        self.tasks.trust_mut().apply(&change);
        let after = task.and_then(|task| self.events.iter().rposition(|(of, _)| of == task));
        self.trust.push(Trusting { change, after });
    }

    /// Makes happen to accounts what is on record of no task.
    pub(crate) fn account(&mut self, step: BudgetStep) {
        let (at, step) = (self.ctx.now, Box::new(step));
        self.tasks.budgets_mut().keep(at, &step);
        self.accounts.push(TaskEvent::Budget { at, step });
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Tells whoever delegated a child how it ended, if that attempt is still under way.
    pub(crate) fn answer_asker(&mut self, child: &TaskId) {
        let Some(asker) = self.live.askers.remove(child) else {
            return;
        };
        let current = self.tasks.entry(&asker.parent.task).is_some_and(|parent| {
            parent
                .record
                .attempt()
                .is_some_and(|a| a.number == asker.parent.attempt && a.epoch == asker.parent.epoch)
        });
        if current && let Some(child) = self.tasks.get(child) {
            let child = Box::new(child.clone());
            self.effects.push(Effect::ChildEnded { asker, child });
        }
    }

    /// Asks the instance that has a task's attempt to drop it. Must come before the event that ends the attempt.
    pub(crate) fn stop_attempt(&mut self, id: &TaskId, reason: &str) {
        let Some(entry) = self.tasks.entry(id) else {
            return;
        };
        let Some(key) = instance_of(entry) else {
            return;
        };
        let attempt = entry.record.last_attempt;
        if self.live.fleet.has_instance(&key) {
            let held = self.live.releasing.entry(key.clone()).or_default();
            held.insert((id.clone(), attempt));
            self.keep_claims(&key, id, attempt);
        }
        let (task, reason) = (id.clone(), reason.to_owned());
        self.effects.push(Effect::CancelAttempt {
            key,
            task,
            attempt,
            reason,
        });
    }

    /// Ends a task that has not ended, for a reason that is not its own.
    pub(crate) fn cancel(&mut self, id: &TaskId, reason: String) {
        self.stop_attempt(id, &reason);
        let at = self.ctx.now;
        self.emit(id, TaskEvent::Cancelled { at, reason });
    }

    /// Carries the ends of tasks on to those that hang on them: children and dependents.
    pub(crate) fn carry_on(&mut self) {
        while let Some(ended) = self.ended.pop() {
            self.end_children_of(&ended);
            self.end_dependents_of(&ended);
            if self.is_full() {
                return;
            }
        }
        while let Some(id) = self.tasks.index().unblocked.first().cloned() {
            if self.is_full() {
                return;
            }
            self.emit(
                &id,
                TaskEvent::Waiting {
                    state: TaskState::Queued,
                    waiting_for: None,
                },
            );
        }
    }

    /// Does what earlier decisions left over because their group was full.
    pub(crate) fn catch_up(&mut self) {
        let index = self.tasks.index();
        let upper = index.children.keys().chain(index.dependents.keys());
        let gone: Vec<_> = upper
            .filter(|id| self.tasks.live(id).is_none())
            .cloned()
            .collect();
        self.ended.extend(gone);
        let escalated: Vec<_> = self.tasks.index().escalated.values().cloned().collect();
        for id in escalated {
            self.end_children_of_escalated(&id);
        }
        self.end_rest_of_gone();
        self.carry_on();
    }

    fn end_children_of(&mut self, parent: &TaskId) {
        for child in self
            .tasks
            .index()
            .children
            .get(parent)
            .cloned()
            .unwrap_or_default()
        {
            if self.is_full() {
                return;
            }
            self.cancel(&child, format!("its parent {parent} has ended"));
        }
    }

    fn end_dependents_of(&mut self, id: &TaskId) {
        let state = match self
            .tasks
            .get(id)
            .or_else(|| self.ctx.known.tasks.get(id).map(|r| &r.task))
        {
            Some(task) => task.state.name(),
            None => "ended",
        };
        for dependent in self
            .tasks
            .index()
            .dependents
            .get(id)
            .cloned()
            .unwrap_or_default()
        {
            if self.is_full() {
                return;
            }
            self.cancel(
                &dependent,
                format!("task {id}, on which it depends, is {state}"),
            );
        }
    }

    pub(crate) fn finish(self, answer: Answer) -> Decision {
        self.tasks.count(self.trust.len() + self.accounts.len());
        Decision {
            events: self.events,
            trust: self.trust,
            accounts: self.accounts,
            effects: self.effects,
            answer,
            more: self.more,
        }
    }
}

/// Who holds which slots: the state's attempts, and those that instances have not dropped yet.
pub(crate) struct Slots<'a> {
    pub(crate) tasks: &'a Tasks,
    pub(crate) live: &'a Live,
    /// Instances that are kept free for tasks that have to be alone.
    pub(crate) kept: &'a BTreeSet<InstanceKey>,
    /// The task that looks for a slot.
    pub(crate) seeker: Option<&'a TaskId>,
    ctx: Context<'a>,
    accounts: Accounts,
}

/// How many attempts are under way on each account, once somebody has asked.
pub(crate) type Accounts = Rc<OnceCell<BTreeMap<String, u32>>>;

impl<'a> Slots<'a> {
    pub(crate) fn new(
        (tasks, live, ctx): (&'a Tasks, &'a Live, Context<'a>),
        kept: &'a BTreeSet<InstanceKey>,
        seeker: Option<&'a TaskId>,
    ) -> Self {
        Self {
            tasks,
            live,
            ctx,
            kept,
            seeker,
            accounts: Accounts::default(),
        }
    }

    /// The same with what was counted for another task, between which no attempt was begun.
    pub(crate) fn counted(self, accounts: &Accounts) -> Self {
        let accounts = Rc::clone(accounts);
        Self { accounts, ..self }
    }

    /// How many tasks an instance has in hand. One that waits for its children is among them, since the agent keeps it in
    /// mind; only to its own descendants it gives its slot, or an agent that delegates to itself would wait for ever. One
    /// whose result another agent is to check gives it to checks, too, or two that check each other's work would.
    fn in_hand(&self, key: &InstanceKey) -> usize {
        let Some(in_flight) = self.tasks.index().in_flight.get(key) else {
            return 0;
        };
        let mut given: BTreeSet<_> = self
            .ancestors()
            .filter(|id| in_flight.contains(*id) && !self.tasks.is_at_work(id))
            .collect();
        if self.seeks_to_judge() {
            given.extend(in_flight.iter().filter(|id| self.tasks.is_judged(id)));
        }
        in_flight.len() - given.len()
    }

    /// Whether the task that looks for a slot checks the work of another.
    fn seeks_to_judge(&self) -> bool {
        let seeker = self.seeker.and_then(|id| self.tasks.entry(id));
        seeker.and_then(judges).is_some()
    }

    fn suspect_in_hand(&self, key: &InstanceKey) -> bool {
        let suspects = self.tasks.index().suspects.get(key);
        suspects.into_iter().flatten().any(|suspect| {
            if self.seeks_to_judge() && self.tasks.is_judged(suspect) {
                return false;
            }
            self.tasks.is_at_work(suspect) || self.ancestors().all(|above| above != suspect)
        })
    }

    /// The tasks above the one that looks for a slot.
    fn ancestors(&self) -> impl Iterator<Item = &TaskId> {
        let parent_of = |id: &TaskId| {
            self.tasks
                .get(id)
                .and_then(|task| task.spec.parent.as_ref())
        };
        std::iter::successors(self.seeker.and_then(parent_of), move |id| parent_of(id))
    }

    /// The operator's rule that keeps the task from an agent.
    fn kept_from(&self, id: &AgentId, agent: &FleetAgent) -> Option<String> {
        let task = self.tasks.get(self.seeker?)?;
        kept_from(self.ctx, task, (id, agent))
    }

    fn gated(&self, id: &AgentId, agent: &FleetAgent) -> Option<String> {
        let gates = self.tasks.gates();
        if gates.is_empty() {
            return None;
        }
        let gate = gates.get(&account_of(id, agent.account.as_deref()))?;
        let loads = self
            .accounts
            .get_or_init(|| gates::at_work(self.tasks, self.live));
        gates::barred(gate, loads.get(&gate.account).copied().unwrap_or_default())
    }

    fn count(&self, key: &InstanceKey) -> u32 {
        let releasing = self.live.releasing.get(key).map_or(0, BTreeSet::len);
        u32::try_from(self.in_hand(key) + releasing).unwrap_or(u32::MAX)
    }
}

impl Occupancy for Slots<'_> {
    fn on_instance(&self, key: &InstanceKey) -> Load {
        Load {
            at_work: self.count(key),
            kept: self.suspect_in_hand(key) || self.kept.contains(key),
        }
    }

    fn has_declined(&self, key: &InstanceKey) -> bool {
        let record = self.seeker.and_then(|seeker| self.tasks.record(seeker));
        record.is_some_and(|record| record.declined.contains(key))
    }

    fn on_agent(&self, agent: &AgentId) -> u32 {
        let keys: BTreeSet<_> = keys_of(&self.tasks.index().in_flight, agent)
            .chain(keys_of(&self.live.releasing, agent))
            .collect();
        keys.into_iter().map(|key| self.count(key)).sum()
    }

    fn barred(&self, id: &AgentId, agent: &FleetAgent) -> Option<String> {
        self.kept_from(id, agent)
            .or_else(|| self.gated(id, agent))
            .or_else(|| {
                let short = budgets::short_on(self.tasks, self.ctx, self.seeker?, (id, agent))?;
                Some(short.to_string())
            })
    }

    fn has_suspect(&self, agent: &AgentId) -> bool {
        keys_of(&self.tasks.index().in_flight, agent).any(|key| self.suspect_in_hand(key))
    }
}

/// The operator's rule that keeps a task from an agent.
pub(crate) fn kept_from(
    ctx: Context<'_>,
    task: &Task,
    (id, agent): (&AgentId, &FleetAgent),
) -> Option<String> {
    let policy = &ctx.config.policy;
    if !has_recipients(policy, &task.submitted_by) {
        return None;
    }
    let to = Recipient::Agent(id.to_string(), agent.capabilities.clone());
    keeps_from(policy, &task.submitted_by, &TaskFacts::of(&task.spec), &to)
}

pub(crate) fn keys_of<'m, V>(
    map: &'m BTreeMap<InstanceKey, V>,
    agent: &'m AgentId,
) -> impl Iterator<Item = &'m InstanceKey> {
    let first = (agent.clone(), InstanceNo(0), Epoch(0));
    map.range(first..)
        .map(|(key, _)| key)
        .take_while(move |(id, ..)| id == agent)
}
