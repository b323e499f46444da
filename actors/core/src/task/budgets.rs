//! Budgets, as the task machine uses them; the ledger itself is [`crate::budget`].
//!
//! Nothing is delivered for which nothing could be set aside. A task that cannot have it leaves its line and is parked; one
//! question about the account is in the inbox; and the task goes back into its line when there is enough for it.

use std::collections::BTreeMap;

use mesh_messages::budget::{
    Amounts, BudgetStep, BudgetView, Charge, Dimension, Limits, Shortage, TaskBudget, Usage,
    agent_account, task_account,
};
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::task::{ATTEMPT_TIMEOUT_DEFAULT_MS, TaskState};
use mesh_messages::trust::TrustLevel;
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskId, Timestamp};

use super::attempt::current;
use super::command::{Answer, AttemptRef, Context, Live};
use super::dispatch::demand;
use super::state::Tasks;
use super::submit::DEPTH_MAX;
use super::tx::Tx;
use crate::budget::{Seeker, Terms};
use crate::routing::{Demand, FleetAgent, Gate, InstanceKey};

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

/// The tasks above one, the nearest first.
fn above(tasks: &Tasks, from: Option<&TaskId>) -> Vec<TaskId> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(id) = at.filter(|_| found.len() <= DEPTH_MAX as usize) {
        found.push(id.clone());
        at = tasks.get(id).and_then(|task| task.spec.parent.as_ref());
    }
    found
}

/// Who asks when a task is to be given to an agent; without one, on whatever agent.
fn seeker(tasks: &Tasks, id: &TaskId, agent: Option<&FleetAgent>) -> Seeker {
    let entry = tasks.entry(id);
    let declared = entry.into_iter().flat_map(|entry| entry.needs.iter());
    let price = declared.filter_map(|need| agent?.prices.get(need)).max();
    let time_ms = entry
        .zip(agent)
        .and_then(|(entry, agent)| agent.time_for(&entry.needs));
    Seeker {
        nearest: nearest(tasks, Some(id)),
        beside: beside(tasks, id),
        price: price.copied().unwrap_or_default(),
        time_ms,
    }
}

/// The tasks above one, beside whose attempts it runs.
fn beside(tasks: &Tasks, id: &TaskId) -> Vec<TaskId> {
    let parent = tasks.get(id).and_then(|task| task.spec.parent.as_ref());
    above(tasks, parent)
}

/// What an attempt of a task is expected to use.
fn need(tasks: &Tasks, id: &TaskId, seeker: &Seeker) -> Amounts {
    let reserve = tasks.budgets().expected(seeker.nearest.as_deref());
    let spec = tasks.get(id).map(|task| &task.spec);
    Amounts {
        calls: reserve.calls.unwrap_or(1).max(1),
        tokens: reserve.tokens.unwrap_or(0),
        money: reserve.money.unwrap_or(seeker.price),
        wall_time_ms: spec
            .and_then(|spec| spec.timeout_ms)
            .or(seeker.time_ms)
            .unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS),
        attempts: 1,
        restarts: tasks.record(id).map_or(0, |record| record.anew.into()),
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
    if terms.is_empty() && nearest(tasks, Some(id)).is_none() {
        return None;
    }
    let seeker = seeker(tasks, id, Some(agent));
    let need = need(tasks, id, &seeker);
    let ledger = tasks.budgets();
    let (charges, _) = ledger.charges(&seeker, &terms, &need, ctx.now);
    ledger.short(&charges, &terms, &seeker.beside, ctx.now)
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
        restarts: reserved.restarts,
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
    let (beside, above) = (above(tasks, parent), nearest(tasks, parent));
    let (above, limits): (_, Limits) = (above.as_deref(), budget.limits());
    let inherited = tasks.budgets().expected(above);
    for d in Dimension::ALL {
        if let (Some(least), Some(bound)) = (inherited.get(d), limits.get(d))
            && least > bound
        {
            let (bound, least) = (d.show(bound), d.show(least));
            let why = format!(
                "asks for {bound}, and a budget above it sets {least} aside for each attempt; ask for as much at least"
            );
            return Some((format!(".{d}"), why));
        }
    }
    let over = tasks.budgets();
    let over = over.over_ask(&limits, (above, &beside), taken, now);
    if let Some((d, left, owner)) = over {
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
    /// With `only`, that one alone, if it is there.
    pub fn budget_views(
        &self,
        live: &Live,
        ctx: Context<'_>,
        only: Option<&str>,
    ) -> Vec<BudgetView> {
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
        let mut views = self.budgets().views(&terms, only, ctx.now);
        for view in &mut views {
            view.question = view.question.take().filter(|q| self.live(q).is_some());
        }
        views
    }
}

/// Counts that an instance ended by a failure, which asks for a restart, in the accounts that bound those.
pub(crate) fn restarted(tx: &mut Tx<'_>, (agent, _, epoch): &InstanceKey, failure: &Failure) {
    let Some(held) = tx.live.fleet.agent(agent) else {
        return;
    };
    if !failure.class.is_scored() {
        return;
    }
    let bounding = terms_of(tx.ctx, agent, held).into_iter();
    let bounding = bounding.filter(|terms| terms.limits.restarts.is_some());
    let charges: Vec<_> = bounding
        .map(|terms| Charge {
            account: terms.account,
            amounts: Amounts {
                restarts: 1,
                ..Amounts::default()
            },
            dimensions: vec![Dimension::Restarts],
            per_ms: Some(terms.per_ms),
        })
        .collect();
    if !charges.is_empty() {
        tx.account(BudgetStep::Restarted {
            agent: agent.clone(),
            epoch: *epoch,
            charges,
        });
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
        let seeker = seeker(self.tasks, id, held);
        let need = need(self.tasks, id, &seeker);
        let ledger = self.tasks.budgets();
        let (charges, wall) = ledger.charges(&seeker, &terms, &need, self.ctx.now);
        if charges.is_empty() {
            return;
        }
        let wall_time_ms = wall.filter(|wall| *wall <= need.wall_time_ms);
        self.budget(
            id,
            BudgetStep::Reserved {
                attempt,
                charges,
                wall_time_ms,
            },
        );
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

mod line;

pub use line::{CANCEL, account_asked_about};
pub(crate) use line::{Ruled, is_question, read_answer};
