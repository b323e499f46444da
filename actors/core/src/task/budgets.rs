//! Budgets, as the task machine uses them; the ledger itself is [`crate::budget`].
//!
//! Nothing is delivered for which nothing could be set aside. A task that cannot have it leaves its line and is parked; one
//! question about the account is in the inbox; and the task goes back into its line when there is enough for it.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::budget::{
    Amounts, BudgetStep, BudgetView, Dimension, Limits, Shortage, TaskBudget, Usage, agent_account,
    task_account,
};
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::inbox::{AnswerRole, AskKind, Ruling};
use mesh_messages::task::{
    ATTEMPT_TIMEOUT_DEFAULT_MS, DEADLINE_DEFAULT_MS, Priority, TaskSpec, TaskState, WaitReason,
    WaitingFor,
};
use mesh_messages::trust::TrustLevel;
use mesh_messages::workflow::ApprovalSpec;
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskId, Timestamp};

use super::attempt::current;
use super::command::{Answer, AttemptRef, Context, Live, Refusal};
use super::dispatch::demand;
use super::index::{GroupKey, group_of};
use super::state::Tasks;
use super::submit::digest_of;
use super::tx::Tx;
use crate::budget::Terms;
use crate::routing::{Demand, FleetAgent, Gate, InstanceKey};

/// Who is named as having asked.
const ASKER: &str = "meshd";
/// The answer that ends a task instead of raising its budget.
const CANCEL: &str = "cancel";
/// How much longer than the window a question about it can be answered: the end of the window comes first.
const QUESTION_GRACE: Duration = Duration::from_hours(1);

/// The nearest account of a task, its own or one above.
pub(crate) fn nearest(tasks: &Tasks, from: Option<&TaskId>) -> Option<String> {
    if tasks.budgets().is_empty() {
        return None;
    }
    let mut at = from;
    while let Some(id) = at {
        let account = task_account(id);
        if tasks.budgets().has(&account) {
            return Some(account);
        }
        at = tasks.get(id)?.spec.parent.as_ref();
    }
    None
}

/// The accounts with windows that an agent's work is counted on.
fn terms_of(ctx: Context<'_>, id: &AgentId, agent: &FleetAgent) -> Vec<Terms> {
    let own = agent.limits.map(|limits| (agent_account(id), limits));
    let shared = [("team", &agent.team), ("provider", &agent.account)];
    let shared = shared.into_iter().filter_map(|(kind, name)| {
        let name = format!("{kind}:{}", name.as_ref()?);
        let limits = *ctx.config.policy.budgets.get(&name)?;
        Some((name, limits?))
    });
    let all = own.into_iter().chain(shared);
    all.map(|(account, budget)| Terms {
        account,
        limits: budget.limits(),
        per_ms: budget.per_ms,
    })
    .collect()
}

/// What an attempt of a task on an agent is expected to use.
fn need(tasks: &Tasks, id: &TaskId, nearest: Option<&str>, agent: Option<&FleetAgent>) -> Amounts {
    let reserve = tasks.budgets().expected(nearest);
    let entry = tasks.entry(id);
    let spec = entry.map(|entry| &entry.task().spec);
    let declared = entry.into_iter().flat_map(|entry| entry.needs.iter());
    let price = declared.filter_map(|need| agent?.prices.get(need)).max();
    Amounts {
        calls: reserve.calls.unwrap_or(1).max(1),
        tokens: reserve.tokens.unwrap_or(0),
        money: reserve.money.or(price.copied()).unwrap_or_default(),
        wall_time_ms: spec
            .and_then(|spec| spec.timeout_ms)
            .unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS),
        attempts: 1,
    }
}

/// What is missing for an attempt of a task on an agent.
pub(crate) fn short_on(
    tasks: &Tasks,
    ctx: Context<'_>,
    id: &TaskId,
    (agent_id, agent): (&AgentId, &FleetAgent),
) -> Option<Shortage> {
    let terms = terms_of(ctx, agent_id, agent);
    let nearest = nearest(tasks, Some(id));
    if terms.is_empty() && nearest.is_none() {
        return None;
    }
    let need = need(tasks, id, nearest.as_deref(), Some(agent));
    let ledger = tasks.budgets();
    let (charges, _) = ledger.charges(nearest.as_deref(), &terms, &need, ctx.now);
    ledger.short(&charges, &terms, ctx.now)
}

/// Whether an agent could have a task if it had the budget.
fn is_open(demand: &Demand<'_>, id: &AgentId, agent: &FleetAgent) -> bool {
    let open = matches!(agent.gate(), Gate::Free | Gate::Permit);
    open && (demand.trust.least == TrustLevel::NONE || demand.trust_in(id) >= demand.trust.least)
}

/// What keeps a task from every agent that could have it otherwise; `None` when a budget is not the reason.
fn short_for(tasks: &Tasks, live: &Live, ctx: Context<'_>, id: &TaskId) -> Option<Shortage> {
    let entry = tasks.entry(id)?;
    let demand = demand(tasks, entry, ctx);
    let mut found: Option<Shortage> = None;
    for (agent_id, agent) in live.fleet.capable(demand.needs, demand.only) {
        if !is_open(&demand, agent_id, agent) {
            continue;
        }
        let shortage = short_on(tasks, ctx, id, (agent_id, agent))?;
        // Of several, the one that ends by itself, and soonest.
        let sooner = found.as_ref().is_none_or(|held| {
            let end = |one: &Shortage| (one.until.is_none(), one.until);
            end(&shortage) < end(held)
        });
        if sooner {
            found = Some(shortage);
        }
    }
    found
}

/// The event that counts what an attempt used, before the event that ends it.
pub(crate) fn settlement(
    tasks: &Tasks,
    id: &TaskId,
    event: &TaskEvent,
    now: Timestamp,
) -> Option<TaskEvent> {
    let never_had = match event {
        TaskEvent::AttemptFailed {
            failure,
            ended_instance: false,
            ..
        } => failure.class == FailureClass::Lost,
        TaskEvent::AttemptFailed { .. }
        | TaskEvent::Succeeded { .. }
        | TaskEvent::Cancelled { .. }
        | TaskEvent::DeadLettered { .. } => false,
        _ => return None,
    };
    let (number, told) = tasks.budgets().held(id)?;
    let entry = tasks.entry(id)?;
    let attempt = entry.record.attempt().filter(|a| a.number == number)?;
    let never_had = never_had && entry.task().state == TaskState::Assigned;
    let used = if never_had {
        Amounts::default()
    } else {
        let took = now.since(attempt.started_at).as_millis();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        used(tasks.budgets().reserved_for(id), told, took)
    };
    let attempt = number;
    let step = Box::new(BudgetStep::Settled { attempt, used });
    Some(TaskEvent::Budget { at: now, step })
}

/// What is counted: what meshd measured, and of the rest what the agent told; all that was set aside, if it told nothing.
fn used(reserved: Amounts, told: Usage, took_ms: u64) -> Amounts {
    let mut used = Amounts {
        attempts: 1,
        // That it is stopped a moment after its time is not its doing.
        wall_time_ms: match reserved.wall_time_ms {
            0 => took_ms,
            bound => took_ms.min(bound),
        },
        ..Amounts::default()
    };
    for d in [Dimension::Calls, Dimension::Tokens, Dimension::Money] {
        used.set(d, told.get(d).unwrap_or(reserved.get(d)));
    }
    used.calls = used.calls.max(1);
    used
}

/// What a budget asks beyond what is left above it, in words and by field.
pub(crate) fn over_ask(
    tasks: &Tasks,
    budget: &TaskBudget,
    parent: Option<&TaskId>,
    taken: &mut BTreeMap<String, Amounts>,
    now: Timestamp,
) -> Option<(String, String)> {
    let above = nearest(tasks, parent);
    let (above, limits): (_, Limits) = (above.as_deref(), budget.limits());
    if let Some((d, left, owner)) = tasks.budgets().over_ask(&limits, above, taken, now) {
        let asked = limits.get(d).unwrap_or(0);
        let (asked, left) = (d.show(asked), d.show(left));
        let why = format!("asks for {asked}, and {left} is left of {owner}; ask for less");
        return Some((format!(".{d}"), why));
    }
    tasks.budgets().plan(&limits, above, taken);
    None
}

impl Tasks {
    /// All accounts of tasks, and those with windows that agents or the operator bound.
    pub fn budget_views(&self, live: &Live, ctx: Context<'_>) -> Vec<BudgetView> {
        let mut terms: BTreeMap<String, Terms> = BTreeMap::new();
        let shared = ctx.config.policy.budgets.iter();
        for (account, budget) in shared {
            if let Some(budget) = budget {
                let one = Terms {
                    account: account.clone(),
                    limits: budget.limits(),
                    per_ms: budget.per_ms,
                };
                terms.insert(account.clone(), one);
            }
        }
        for (id, agent) in live.fleet.agents() {
            for one in terms_of(ctx, id, agent) {
                terms.insert(one.account.clone(), one);
            }
        }
        self.budgets().views(&terms, ctx.now)
    }
}

impl Tx<'_> {
    pub(crate) fn budget(&mut self, id: &TaskId, step: BudgetStep) {
        let (at, step) = (self.ctx.now, Box::new(step));
        self.emit(id, TaskEvent::Budget { at, step });
    }

    /// Sets aside what the attempt that was just assigned is expected to use.
    pub(crate) fn reserve(&mut self, id: &TaskId, agent: &AgentId, attempt: AttemptNo) {
        let held = self.live.fleet.agent(agent);
        let terms = held.map_or_else(Vec::new, |held| terms_of(self.ctx, agent, held));
        let nearest = nearest(self.tasks, Some(id));
        let need = need(self.tasks, id, nearest.as_deref(), held);
        let ledger = self.tasks.budgets();
        let (charges, wall) = ledger.charges(nearest.as_deref(), &terms, &need, self.ctx.now);
        if charges.is_empty() {
            return;
        }
        let wall_time_ms = wall.filter(|wall| *wall < need.wall_time_ms);
        self.budget(
            id,
            BudgetStep::Reserved {
                attempt,
                charges,
                wall_time_ms,
            },
        );
    }

    /// Parks a task that cannot be given out for want of budget; false when that is not why.
    pub(crate) fn park_if_short(&mut self, id: &TaskId) -> bool {
        if !self.live.fleet.is_complete() {
            return false;
        }
        let Some(shortage) = short_for(self.tasks, self.live, self.ctx, id) else {
            return false;
        };
        let (open, _) = self.tasks.budgets().question_about(&shortage.account);
        let open = open.cloned();
        let asked = if open.is_none() {
            Some(self.ask(&shortage))
        } else {
            None
        };
        let waiting_for = WaitingFor {
            reason: WaitReason::Budget,
            detail: shortage.to_string(),
            until: shortage.until,
            agents: Vec::new(),
            tasks: open.or_else(|| asked.clone()).into_iter().collect(),
        };
        self.budget(
            id,
            BudgetStep::Short {
                shortage,
                question: asked,
            },
        );
        let (state, waiting_for) = (TaskState::Parked, Some(waiting_for));
        self.emit(id, TaskEvent::Waiting { state, waiting_for });
        true
    }

    /// Puts a question about an account into the inbox.
    fn ask(&mut self, shortage: &Shortage) -> TaskId {
        let (now, d) = (self.ctx.now, shortage.dimension);
        let random = (self.random(), self.random());
        let id = TaskId::new(format!("b-{:016x}{:016x}", random.0, random.1))
            .expect("a prefix and 32 hexadecimal digits are a task id");
        let owner = shortage.account.strip_prefix("task:");
        let owner = owner.and_then(|task| TaskId::new(task).ok());
        let parent = owner.and_then(|task| self.tasks.live(&task));
        let (parent, depth, until) = match parent {
            Some(entry) => {
                let task = entry.task();
                (
                    Some(task.id.clone()),
                    entry.record.depth + 1,
                    Some(task.deadline_at),
                )
            }
            None => (None, 0, shortage.until.map(|at| at.plus(QUESTION_GRACE))),
        };
        let end = if parent.is_some() {
            "end the task"
        } else {
            "leave it as it is"
        };
        let message =
            format!("{shortage}. Answer by how much to raise its {d}, or \"{CANCEL}\" to {end}.");
        let role = if parent.is_some() {
            AnswerRole::Operator
        } else {
            AnswerRole::Admin
        };
        let spec = TaskSpec {
            input: serde_json::to_value(shortage).unwrap_or_default(),
            priority: Priority::High,
            parent,
            approval: Some(ApprovalSpec {
                kind: AskKind::Question,
                message,
                ..ApprovalSpec::default()
            }),
            ..TaskSpec::default()
        };
        let ruling = Ruling {
            role,
            ..Ruling::default()
        };
        let default = now.plus(Duration::from_millis(DEADLINE_DEFAULT_MS));
        let event = TaskEvent::Submitted {
            digest: digest_of(&spec),
            spec: Box::new(spec),
            by: ASKER.to_owned(),
            at: now,
            deadline_at: until.unwrap_or(default),
            retry: self.ctx.config.retry.to_spec(),
            depth,
            ruling: Some(ruling)
                .filter(|r| *r != Ruling::default())
                .map(Box::new),
        };
        self.emit(&id, event);
        id
    }

    /// Puts back into their lines the tasks for which there is enough now.
    pub(crate) fn pay(&mut self) {
        for id in self.paid() {
            if self.is_full() {
                return;
            }
            let (state, waiting_for) = (TaskState::Queued, None);
            self.emit(&id, TaskEvent::Waiting { state, waiting_for });
        }
    }

    fn paid(&self) -> Vec<TaskId> {
        let (tasks, ctx, ledger) = (&*self.tasks, self.ctx, self.tasks.budgets());
        let mut line: Vec<_> = ledger.waiting().collect();
        let place = |id: &TaskId| tasks.entry(id).map(super::index::place);
        line.sort_by_cached_key(|(id, _)| place(id));
        let mut planned: BTreeMap<(&str, Dimension), u64> = BTreeMap::new();
        let mut others: BTreeMap<GroupKey, bool> = BTreeMap::new();
        let mut paid = Vec::new();
        for (id, about) in line {
            let (account, d) = (about.account.as_str(), about.dimension);
            let taken = planned.entry((account, d)).or_default();
            let terms = self.terms_of_account(account);
            let is_task = account.starts_with("task:");
            let left = ledger.left_of(about, terms.as_ref(), ctx.now);
            let fits = left.is_some_and(|left| about.wanted <= left.saturating_sub(*taken));
            let over = about.until.is_some_and(|until| until <= ctx.now);
            // Until all agents and the policy are there, their bounds are not known.
            let known = is_task || self.live.fleet.is_complete();
            // What is not bounded any more holds nobody up, and another agent may have enough.
            let goes = (known && (fits || left.is_none()))
                || over
                || (known && !is_task && self.others_can(&mut others, id));
            if goes {
                let need = need(tasks, id, nearest(tasks, Some(id)).as_deref(), None);
                *taken = taken.saturating_add(need.get(d).max(about.wanted));
                paid.push(id.clone());
            }
        }
        paid
    }

    /// Whether some agent has enough for a task, and for those that stand in one line with it.
    fn others_can(&self, seen: &mut BTreeMap<GroupKey, bool>, id: &TaskId) -> bool {
        let (tasks, ctx) = (&*self.tasks, self.ctx);
        let Some(entry) = tasks.entry(id) else {
            return false;
        };
        *seen.entry(group_of(entry)).or_insert_with(|| {
            let demand = demand(tasks, entry, ctx);
            let capable = self.live.fleet.capable(demand.needs, demand.only);
            let mut open = capable.filter(|(agent, held)| is_open(&demand, agent, held));
            open.any(|agent| short_on(tasks, ctx, id, agent).is_none())
        })
    }

    fn terms_of_account(&self, account: &str) -> Option<Terms> {
        let limits = match account.split_once(':') {
            Some(("agent", name)) => {
                let id = AgentId::new(name).ok()?;
                self.live.fleet.agent(&id)?.limits?
            }
            Some(("task", _)) | None => return None,
            Some(_) => (*self.ctx.config.policy.budgets.get(account)?)?,
        };
        Some(Terms {
            account: account.to_owned(),
            limits: limits.limits(),
            per_ms: limits.per_ms,
        })
    }

    /// Takes back questions to which nobody needs an answer any more.
    pub(crate) fn withdraw_questions(&mut self) {
        for question in self.tasks.budgets().idle_questions() {
            if self.is_full() {
                return;
            }
            if self.tasks.live(&question).is_some() {
                self.cancel(&question, "no task waits for it any more".to_owned());
            }
        }
        self.carry_on();
    }

    /// The accounts with windows of the agent that has a task's attempt.
    fn terms_under_way(&self, id: &TaskId) -> Vec<Terms> {
        let attempt = self.tasks.record(id).and_then(|record| record.attempt());
        let agent = attempt.and_then(|attempt| {
            let agent = self.live.fleet.agent(&attempt.agent_id)?;
            Some(terms_of(self.ctx, &attempt.agent_id, agent))
        });
        agent.unwrap_or_default()
    }

    /// What is missing where the attempt's time was bound by a budget, and is over.
    pub(crate) fn wall_spent(&self, id: &TaskId) -> Option<Shortage> {
        self.tasks.record(id)?.wall_bound_ms?;
        let terms = self.terms_under_way(id);
        self.tasks.budgets().wall_spent(id, &terms, self.ctx.now)
    }

    /// Ends an attempt that has used up a budget. It costs the task no attempt; it waits for the budget like any other.
    pub(crate) fn cut_off(&mut self, id: &TaskId, shortage: &Shortage) {
        let account = &shortage.account;
        let message = format!(
            "it was cut off: the budget of {account} has no {} left for it",
            shortage.dimension
        );
        let Some(attempt) = self.tasks.record(id).map(|record| record.last_attempt) else {
            return;
        };
        self.stop_attempt(id, &message);
        let at = self.ctx.now;
        let event = TaskEvent::AttemptFailed {
            attempt,
            at,
            failure: Failure::new(FailureClass::Quota, message),
            ended_instance: false,
            alone: false,
            then: AfterFailure::Retry { at },
        };
        self.emit(id, event);
        let (state, waiting_for) = (TaskState::Queued, None);
        self.emit(id, TaskEvent::Waiting { state, waiting_for });
    }
}

/// Takes in what an agent says that its attempt has used so far. With `last`, its result follows, which is not thrown away.
pub(crate) fn told(
    tx: &mut Tx<'_>,
    named: &AttemptRef,
    key: &InstanceKey,
    usage: Usage,
    last: bool,
) -> Answer {
    if current(tx, named, Some(key)).is_none() {
        return Answer::Done;
    }
    let id = &named.task;
    let Some((attempt, before)) = tx.tasks.budgets().held(id) else {
        return Answer::Done;
    };
    if before.max(usage) == before {
        return Answer::Done;
    }
    tx.budget(id, BudgetStep::Told { attempt, usage });
    let terms = tx.terms_under_way(id);
    let over = tx.tasks.budgets().overdrawn(id, &terms, tx.ctx.now);
    if let Some(shortage) = over.filter(|_| !last) {
        tx.cut_off(id, &shortage);
        tx.settle();
    }
    Answer::Done
}

/// What follows from the answer to a question about an account.
pub(crate) enum Ruled {
    /// It has so much more.
    Raise(Shortage, u64),
    /// Its task ends; an account that is no task's stays as it is.
    End(Option<TaskId>),
}

/// Reads the answer to a question about an account; `None` when the question is about none.
pub(crate) fn read_answer(
    tasks: &Tasks,
    question: &TaskId,
    answer: Option<&str>,
) -> Result<Option<Ruled>, Refusal> {
    let Some(about) = tasks.budgets().question(question) else {
        return Ok(None);
    };
    let text = answer.map(str::trim).filter(|text| *text != CANCEL);
    let Some(text) = text else {
        let task = about.account.strip_prefix("task:");
        let task = task.and_then(|task| TaskId::new(task).ok());
        return Ok(Some(Ruled::End(task)));
    };
    match about.dimension.parse(text) {
        Ok(by) if by > 0 => Ok(Some(Ruled::Raise(about.clone(), by))),
        _ => Err(Refusal::Unfit(format!(
            "must be by how much to raise {}, an amount of more than 0, or \"{CANCEL}\"",
            about.dimension
        ))),
    }
}

impl Tx<'_> {
    /// Gives an account more, before the question about it is closed.
    pub(crate) fn raise(&mut self, question: &TaskId, about: &Shortage, by: u64, who: &str) {
        let terms = self.terms_of_account(&about.account);
        let step = BudgetStep::Raised {
            account: about.account.clone(),
            dimension: about.dimension,
            by,
            who: who.to_owned(),
            per_ms: terms.map(|terms| terms.per_ms),
        };
        self.budget(question, step);
    }

    /// Has the first that waits for an account looked at again: when it is still not enough, somebody is asked again.
    pub(crate) fn look_again(&mut self, account: &str) {
        let tasks = &*self.tasks;
        let waiting = tasks.budgets().waiting();
        let waiting = waiting.filter(|(_, about)| about.account == account);
        let place = |id: &TaskId| tasks.entry(id).map(super::index::place);
        let first = waiting.map(|(id, _)| id.clone()).min_by_key(|id| place(id));
        if let Some(id) = first {
            let (state, waiting_for) = (TaskState::Queued, None);
            self.emit(&id, TaskEvent::Waiting { state, waiting_for });
        }
    }

    /// Ends the task of an account that is not to be raised.
    pub(crate) fn end_for_want(&mut self, task: Option<TaskId>, who: &str) {
        if let Some(task) = task.filter(|task| self.tasks.live(task).is_some()) {
            let reason = format!("its budget is exhausted, and {who} did not raise it");
            self.cancel(&task, reason);
        }
    }
}
