//! Who waits for a budget: how a task is parked and goes on, and how a person is asked and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::budget::{Amounts, BudgetStep, Dimension, Shortage};
use mesh_messages::events::TaskEvent;
use mesh_messages::inbox::{AnswerRole, AskKind, Ruling};
use mesh_messages::task::{
    DEADLINE_DEFAULT_MS, Priority, TaskSpec, TaskState, WaitReason, WaitingFor,
};
use mesh_messages::workflow::ApprovalSpec;
use mesh_messages::{AgentId, TaskId};

use super::{beside, is_open, need, seeker, short_for, short_on, terms_of};
use crate::routing::FleetAgent;
use crate::task::command::Refusal;
use crate::task::dispatch::demand;
use crate::task::index::{GroupKey, group_of};
use crate::task::state::Tasks;
use crate::task::submit::digest_of;
use crate::task::tx::Tx;

/// Who is named as having asked.
const ASKER: &str = "meshd";
/// The answer that ends a task, or leaves an account as it is, instead of raising its budget.
pub const CANCEL: &str = "cancel";
/// How much longer than the window a question about it can be answered: the end of the window comes first.
const QUESTION_GRACE: Duration = Duration::from_hours(1);

/// Whether a task is a question about an account, which is no child that anybody delegated.
pub(crate) fn is_question(by: &str, spec: &TaskSpec) -> bool {
    by == ASKER && spec.approval.is_some()
}

/// The account about which a task asks a person, if it does.
pub fn account_asked_about<'t>(by: &str, spec: &'t TaskSpec) -> Option<&'t str> {
    let account = is_question(by, spec).then(|| spec.input.get("account"))?;
    account.and_then(serde_json::Value::as_str)
}

/// Tasks of one line that need the same of the same accounts.
type Alike = (
    GroupKey,
    Amounts,
    (Option<String>, Vec<TaskId>),
    Option<String>,
);

/// The question about an account that a person can still answer. One whose records were erased is none.
fn open_question<'t>(tasks: &'t Tasks, account: &str) -> Option<&'t TaskId> {
    let question = tasks.budgets().question_about(account);
    question.filter(|question| tasks.live(question).is_some())
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
    /// Parks a task that cannot be given out for want of budget; false when that is not why.
    pub(crate) fn park_if_short(&mut self, id: &TaskId) -> bool {
        if !self.live.fleet.is_complete() {
            return false;
        }
        let Some(shortage) = short_for(self.tasks, self.live, self.ctx, id) else {
            return false;
        };
        let open = open_question(self.tasks, &shortage.account).cloned();
        let asked = if open.is_none() && self.is_to_ask(id, &shortage) {
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
            envelope: None,
        };
        self.emit(&id, event);
        id
    }

    /// Whether a person is to be asked about what a task misses: not where somebody left it as it is, and not where the end of
    /// attempts under way may be enough.
    fn is_to_ask(&self, id: &TaskId, shortage: &Shortage) -> bool {
        let (tasks, account) = (&*self.tasks, shortage.account.as_str());
        let ledger = tasks.budgets();
        if ledger.is_declined(account, self.ctx.now) {
            return false;
        }
        // Who has tasks below it may wait for the very one that is short.
        let ends = |task: &TaskId| task != id && !tasks.index().children.contains_key(task);
        let passing = ledger.passing(account, shortage.dimension, ends);
        let stays = shortage.reserved.saturating_sub(passing);
        let stays = stays.saturating_add(shortage.used);
        stays.saturating_add(shortage.wanted) > shortage.limit
    }

    /// Puts back into their lines the tasks for which there is enough now. Where there is not, and nobody is asked any more,
    /// somebody is asked again.
    pub(crate) fn pay(&mut self) {
        let (paid, unasked) = self.paid();
        for id in paid {
            if self.is_full() {
                return;
            }
            self.back_in_line(&id);
        }
        for id in unasked {
            if self.is_full() {
                return;
            }
            // When no budget is the reason any more, the line is where the reason is found.
            if !self.park_if_short(&id) {
                self.back_in_line(&id);
            }
        }
    }

    fn back_in_line(&mut self, id: &TaskId) {
        let (state, waiting_for) = (TaskState::Queued, None);
        self.emit(id, TaskEvent::Waiting { state, waiting_for });
    }

    /// Who has enough now, and of each account about which nobody is asked the first that has not.
    fn paid(&self) -> (Vec<TaskId>, Vec<TaskId>) {
        let (tasks, ctx, ledger) = (&*self.tasks, self.ctx, self.tasks.budgets());
        let mut line: Vec<_> = ledger.waiting().collect();
        let place = |id: &TaskId| tasks.entry(id).map(crate::task::index::place);
        line.sort_by_cached_key(|(id, _)| place(id));
        let mut planned: BTreeMap<(&str, Dimension), u64> = BTreeMap::new();
        let mut others: BTreeMap<Alike, bool> = BTreeMap::new();
        let mut looked: BTreeSet<&str> = BTreeSet::new();
        let (mut paid, mut unasked) = (Vec::new(), Vec::new());
        for (id, about) in line {
            let (account, d) = (about.account.as_str(), about.dimension);
            let is_task = account.starts_with("task:");
            // Until all agents and the policy are there, their bounds are not known.
            if !is_task && !self.live.fleet.is_complete() {
                continue;
            }
            let taken = planned.entry((account, d)).or_default();
            let terms = self.terms_of_account(account);
            let beside = beside(tasks, id);
            let left = ledger.left_of(about, terms.as_ref(), &beside, ctx.now);
            // What is not bounded any more holds nobody up, and another agent may have enough.
            let fits = left.is_none_or(|left| about.wanted <= left.saturating_sub(*taken));
            let spoken_for = (*taken > 0).then_some(account);
            if fits || (!is_task && self.others_can(&mut others, id, spoken_for)) {
                // Restarts of instances are not what the tasks that wait for them will use.
                if is_task || d != Dimension::Restarts {
                    *taken = taken.saturating_add(about.wanted);
                }
                paid.push(id.clone());
            } else if looked.insert(account)
                && self.live.fleet.is_complete()
                && open_question(tasks, account).is_none()
            {
                let shortage = ledger.shortage_now(about, terms.as_ref(), &beside, ctx.now);
                if *taken == 0 && self.is_to_ask(id, &shortage) {
                    unasked.push(id.clone());
                }
            }
        }
        (paid, unasked)
    }

    /// Whether some agent has enough for a task, and for those that need the same and stand in one line with it.
    /// What is left in the account that is `spoken_for` goes to others.
    fn others_can(
        &self,
        seen: &mut BTreeMap<Alike, bool>,
        id: &TaskId,
        spoken_for: Option<&str>,
    ) -> bool {
        let (tasks, ctx) = (&*self.tasks, self.ctx);
        let Some(entry) = tasks.entry(id) else {
            return false;
        };
        let seeker = seeker(tasks, id, None);
        let need = need(tasks, id, &seeker);
        let above = (seeker.nearest, seeker.beside);
        let alike = (group_of(entry), need, above, spoken_for.map(str::to_owned));
        let apart = |(agent, held): &(&AgentId, &FleetAgent)| {
            let terms = terms_of(ctx, agent, held);
            !terms
                .iter()
                .any(|one| Some(one.account.as_str()) == spoken_for)
        };
        *seen.entry(alike).or_insert_with(|| {
            let demand = demand(tasks, entry, ctx);
            let capable = self.live.fleet.capable(demand.needs, demand.only);
            let mut open = capable.filter(|(agent, held)| is_open(&demand, agent, held));
            open.any(|agent| apart(&agent) && short_on(tasks, ctx, id, agent).is_none())
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

    /// Ends the task of an account that is not to be raised.
    pub(crate) fn end_for_want(&mut self, task: Option<TaskId>, who: &str) {
        if let Some(task) = task.filter(|task| self.tasks.live(task).is_some()) {
            let reason = format!("its budget is exhausted, and {who} did not raise it");
            self.cancel(&task, reason);
        }
    }
}
