//! The ledger of budgets, as a machine of its own.
//!
//! ```text
//!            reserve (before an attempt is delivered)      settle (after it)
//!   left ─────────────────────────────────────► reserved ──────────────────► used
//!    ▲                                             │ what was not used          │ a window rolls over
//!    ├─────────────────────────────────────────────┘                            │
//!    └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A task with a budget is an account; so is each agent, team and provider whose use is bounded within windows of time. A
//! child's own budget is carved out of what is left of the task's above it: as long as the child is open it counts there as
//! reserved, and when it is closed what it used is counted and the rest is given back. What a child's budget does not bound
//! is counted in the nearest account above that does.
//!
//! All of it is a function of what was recorded: [`Ledger::apply`] keeps, and the other methods only look.

use std::collections::BTreeMap;

use mesh_messages::budget::{
    AMOUNT_MAX, Amounts, BudgetStep, Charge, Dimension, Limits, Money, Shortage, TaskBudget, Usage,
    task_account,
};
use mesh_messages::{AttemptNo, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use account::Account;

/// What an account is told that has a window: its bounds are the manifest's or the operator's, and not the ledger's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Its name.
    pub account: String,
    /// Its bounds.
    pub limits: Limits,
    /// Its window.
    pub per_ms: u64,
}

/// Who asks for what an attempt takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seeker {
    /// The nearest account of its task, its own or one above.
    pub nearest: Option<String>,
    /// The tasks above its own: what their attempts hold of wall time runs beside it.
    pub beside: Vec<TaskId>,
    /// What its agent declares as the price: of accounts with windows, whatever its task says, no less is set aside.
    pub price: Money,
    /// Milliseconds that an attempt may take as its agent declares, when the task says nothing.
    pub time_ms: Option<u64>,
}

/// What is set aside for the attempt under way of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    attempt: AttemptNo,
    charges: Vec<Charge>,
    #[serde(default)]
    told: Usage,
}

/// All accounts, and all that is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    #[serde(default)]
    accounts: BTreeMap<String, Account>,
    #[serde(default)]
    holds: BTreeMap<TaskId, Hold>,
    /// What each task waits for.
    #[serde(default)]
    waiting: BTreeMap<TaskId, Shortage>,
    /// What each open question is about.
    #[serde(default)]
    questions: BTreeMap<TaskId, Shortage>,
}

impl Ledger {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.waiting.is_empty() && self.questions.is_empty()
    }

    /// Opens the account of a task, below another one. Whether it can be carved from there was asked before.
    pub fn open(&mut self, task: &TaskId, budget: &TaskBudget, above: Option<&str>) {
        let name = task_account(task);
        let limits = budget.limits();
        self.carve(&name, &limits, above);
        if let Some(above) = above.and_then(|above| self.accounts.get_mut(above)) {
            above.below += 1;
        }
        let account = Account {
            limits,
            above: above.map(str::to_owned),
            reserve: budget.reserve,
            ..Account::default()
        };
        self.accounts.insert(name, account);
    }

    /// Sets aside what an account may use in the accounts above that bound the same.
    fn carve(&mut self, name: &str, limits: &Limits, above: Option<&str>) {
        let name = name.to_owned();
        for d in Dimension::ALL {
            if let (Some(bound), Some(owner)) = (limits.get(d), self.bounding(above, d))
                && let Some(owner) = self.accounts.get_mut(&owner)
            {
                let mut carved = owner.carved.get(&name).copied().unwrap_or_default();
                carved.set(d, bound);
                owner.carved.insert(name.clone(), carved);
            }
        }
    }

    /// The nearest account, from this one upwards, that bounds a dimension.
    fn bounding(&self, from: Option<&str>, d: Dimension) -> Option<String> {
        let mut at = from;
        while let Some(name) = at {
            let account = self.accounts.get(name)?;
            if account.limits.get(d).is_some() {
                return Some(name.to_owned());
            }
            at = account.above.as_deref();
        }
        None
    }

    /// Whether a task has an account.
    pub fn has(&self, account: &str) -> bool {
        self.accounts.contains_key(account)
    }

    /// What a task's budget asks beyond what is left above it: of what, how much is left, and whose it is.
    pub fn over_ask(
        &self,
        limits: &Limits,
        (above, beside): (Option<&str>, &[TaskId]),
        taken: &BTreeMap<String, Amounts>,
        now: Timestamp,
    ) -> Option<(Dimension, u64, String)> {
        Dimension::ALL.into_iter().find_map(|d| {
            let asked = limits.get(d)?;
            let owner = self.bounding(above, d)?;
            let taken = taken.get(&owner).map_or(0, |taken| taken.get(d));
            let left = self.left(&owner, None, (d, beside), now)?;
            let left = left.saturating_sub(taken);
            (asked > left).then_some((d, left, owner))
        })
    }

    /// Counts what a budget asks in the accounts that it would be carved from.
    pub fn plan(
        &self,
        limits: &Limits,
        above: Option<&str>,
        taken: &mut BTreeMap<String, Amounts>,
    ) {
        for d in Dimension::ALL {
            if let (Some(asked), Some(owner)) = (limits.get(d), self.bounding(above, d)) {
                let sum = taken.entry(owner).or_default();
                sum.set(d, sum.get(d).saturating_add(asked));
            }
        }
    }

    /// What is left of one dimension for one that runs beside the attempts of `beside`; `None` when the account does not bound
    /// it.
    fn left(
        &self,
        account: &str,
        terms: Option<&Terms>,
        (d, beside): (Dimension, &[TaskId]),
        now: Timestamp,
    ) -> Option<u64> {
        let held = self.accounts.get(account);
        let bound = match terms {
            Some(terms) => terms.limits.get(d)?,
            None => held?.limits.get(d)?,
        };
        let Some(held) = held else { return Some(bound) };
        let limit = bound.saturating_add(held.extra(now).get(d));
        Some(
            limit
                .saturating_sub(held.used(now).get(d))
                .saturating_sub(held.reserved_of(d, beside)),
        )
    }

    /// What an attempt takes: from the accounts of tasks, from the nearest upwards, and from those with windows. With it, how
    /// much wall time is left to it, where that is bounded.
    ///
    /// Wall time is what is left where that is less than `need` has; the attempt is cut off then. What the attempts of the
    /// tasks above it hold does not stand in its way: they may wait for it, and so they are counted side by side.
    pub fn charges(
        &self,
        seeker: &Seeker,
        terms: &[Terms],
        need: &Amounts,
        now: Timestamp,
    ) -> (Vec<Charge>, Option<u64>) {
        let nearest = seeker.nearest.as_deref();
        let mut charges: Vec<Charge> = Vec::new();
        for d in Dimension::ALL {
            let Some(account) = self.bounding(nearest, d) else {
                continue;
            };
            match charges.iter_mut().find(|one| one.account == account) {
                Some(charge) => charge.dimensions.push(d),
                None => charges.push(Charge {
                    account,
                    amounts: Amounts::default(),
                    dimensions: vec![d],
                    per_ms: None,
                }),
            }
        }
        for terms in terms {
            charges.push(Charge {
                account: terms.account.clone(),
                amounts: Amounts::default(),
                dimensions: Dimension::ALL.to_vec(),
                per_ms: Some(terms.per_ms),
            });
        }
        let mut need = *need;
        let wall = Dimension::WallTimeMs;
        let left = charges.iter().filter_map(|charge| {
            let terms = terms.iter().find(|one| one.account == charge.account);
            let bounds = charge.dimensions.contains(&wall);
            bounds
                .then(|| self.left(&charge.account, terms, (wall, &seeker.beside), now))
                .flatten()
        });
        let bound = left.min();
        if let Some(bound) = bound {
            need.wall_time_ms = need.wall_time_ms.min(bound);
        }
        for charge in &mut charges {
            for d in &charge.dimensions {
                charge.amounts.set(*d, need.get(*d));
            }
            if charge.per_ms.is_some() {
                charge.amounts.money = need.money.max(seeker.price);
                // It is instances that are counted there, when they end.
                charge.amounts.restarts = 0;
            }
        }
        (charges, bound)
    }

    /// What these accounts miss; `None` when all of it can be set aside. Nothing is given out where nothing is left.
    pub fn short(
        &self,
        charges: &[Charge],
        terms: &[Terms],
        beside: &[TaskId],
        now: Timestamp,
    ) -> Option<Shortage> {
        charges.iter().find_map(|charge| {
            let terms = terms.iter().find(|one| one.account == charge.account);
            charge.dimensions.iter().find_map(|d| {
                let amount = charge.amounts.get(*d);
                // What a task does for the first time is no restart.
                if *d == Dimension::Restarts && charge.per_ms.is_none() && amount == 0 {
                    return None;
                }
                let left = self.left(&charge.account, terms, (*d, beside), now)?;
                let wanted = amount.max(1);
                let of = (*d, beside);
                (wanted > left).then(|| self.shortage(&charge.account, terms, of, wanted, now))
            })
        })
    }

    fn shortage(
        &self,
        account: &str,
        terms: Option<&Terms>,
        (d, beside): (Dimension, &[TaskId]),
        wanted: u64,
        now: Timestamp,
    ) -> Shortage {
        let none = Account::default();
        let held = self.accounts.get(account).unwrap_or(&none);
        let bound = terms.map_or(held.limits, |terms| terms.limits).get(d);
        Shortage {
            account: account.to_owned(),
            dimension: d,
            used: held.used(now).get(d),
            reserved: held.reserved_of(d, beside),
            limit: bound.unwrap_or(0).saturating_add(held.extra(now).get(d)),
            wanted,
            until: held.window_end().filter(|end| *end > now),
        }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, task: &TaskId, at: Timestamp, step: &BudgetStep) {
        match step {
            BudgetStep::Reserved {
                attempt, charges, ..
            } => self.reserve(task, at, *attempt, charges),
            BudgetStep::Told { attempt, usage } => self.told(task, *attempt, *usage),
            BudgetStep::Settled { attempt, used } => self.settle(task, at, *attempt, used),
            BudgetStep::Short { shortage, question } => {
                self.waiting.insert(task.clone(), shortage.clone());
                if let Some(question) = question {
                    let account = self.accounts.entry(shortage.account.clone()).or_default();
                    account.asked += 1;
                    // One that was forgotten without having been answered is none any more.
                    if let Some(before) = account.question.replace(question.clone()) {
                        self.questions.remove(&before);
                    }
                    self.questions.insert(question.clone(), shortage.clone());
                }
            }
            BudgetStep::Raised {
                account,
                dimension,
                by,
                per_ms,
                ..
            } => {
                self.raise(account, at, *dimension, *by, *per_ms);
                if let Some(account) = self.accounts.get_mut(account) {
                    // It is answered: what follows from the answer's own record is no refusal.
                    account.question = None;
                    account.declined = false;
                }
            }
            BudgetStep::Restarted { .. } | BudgetStep::Noted { .. } => self.keep(at, step),
        }
    }

    /// Takes in what is on record of no task.
    pub fn keep(&mut self, at: Timestamp, step: &BudgetStep) {
        match step {
            BudgetStep::Restarted { charges, .. } => {
                for charge in charges {
                    let account = self.accounts.entry(charge.account.clone()).or_default();
                    account.roll(at, charge.per_ms);
                    account.used.add(&charge.amounts);
                }
            }
            BudgetStep::Noted { accounts } => {
                for note in accounts {
                    let account = self.accounts.entry(note.account.clone()).or_default();
                    account.window = Some((note.since, note.per_ms));
                    account.used = note.used;
                    account.extra = note.extra;
                    account.declined = note.declined;
                }
            }
            BudgetStep::Reserved { .. }
            | BudgetStep::Told { .. }
            | BudgetStep::Settled { .. }
            | BudgetStep::Short { .. }
            | BudgetStep::Raised { .. } => {}
        }
    }

    fn reserve(&mut self, task: &TaskId, at: Timestamp, attempt: AttemptNo, charges: &[Charge]) {
        for charge in charges {
            let account = self.accounts.entry(charge.account.clone()).or_default();
            account.roll(at, charge.per_ms);
            account.held.insert(task.clone(), charge.amounts);
        }
        let hold = Hold {
            attempt,
            charges: charges.to_vec(),
            told: Usage::default(),
        };
        self.holds.insert(task.clone(), hold);
    }

    fn told(&mut self, task: &TaskId, attempt: AttemptNo, usage: Usage) {
        let Some(hold) = self.holds.get_mut(task).filter(|h| h.attempt == attempt) else {
            return;
        };
        hold.told = hold.told.max(usage);
        let told = hold.told;
        let mut touched = Vec::new();
        for charge in &hold.charges {
            let Some(account) = self.accounts.get_mut(&charge.account) else {
                continue;
            };
            let Some(mut held) = account.held.get(task).copied() else {
                continue;
            };
            for d in &charge.dimensions {
                let more = told.get(*d).unwrap_or(0).max(charge.amounts.get(*d));
                held.set(*d, more.max(held.get(*d)));
            }
            account.held.insert(task.clone(), held);
            touched.push(charge.account.clone());
        }
        for account in touched {
            self.widen(&account);
        }
    }

    fn settle(&mut self, task: &TaskId, at: Timestamp, attempt: AttemptNo, used: &Amounts) {
        // Counted once: whoever comes again finds nothing set aside.
        if self.holds.get(task).is_none_or(|h| h.attempt != attempt) {
            return;
        }
        let Some(hold) = self.holds.remove(task) else {
            return;
        };
        for charge in &hold.charges {
            let Some(account) = self.accounts.get_mut(&charge.account) else {
                continue;
            };
            account.roll(at, charge.per_ms);
            account.held.remove(task);
            let mut counted = Amounts::default();
            for d in &charge.dimensions {
                // What nobody told is counted as it was set aside there.
                let set_aside = match d {
                    Dimension::WallTimeMs | Dimension::Attempts => None,
                    Dimension::Restarts => Some(charge.amounts.get(*d)),
                    Dimension::Calls | Dimension::Tokens | Dimension::Money => {
                        Some(charge.amounts.get(*d)).filter(|_| hold.told.get(*d).is_none())
                    }
                };
                counted.set(
                    *d,
                    set_aside.map_or(used.get(*d), |most| most.min(used.get(*d))),
                );
            }
            account.used.add(&counted);
        }
        for charge in &hold.charges {
            self.widen(&charge.account);
            self.drop_if_done(&charge.account);
        }
    }

    /// What a child used beyond its budget counts above it at once, not only when it is closed.
    fn widen(&mut self, name: &str) {
        let Some(account) = self.accounts.get(name) else {
            return;
        };
        let (above, limits) = (account.above.clone(), account.limits);
        let (used, reserved) = (account.used, account.reserved());
        for d in Dimension::ALL {
            let Some(limit) = limits.get(d) else { continue };
            let total = used.get(d).saturating_add(reserved.get(d));
            let Some(owner) = self.bounding(above.as_deref(), d) else {
                continue;
            };
            let held = self.accounts.get_mut(&owner);
            let Some(carved) = held.map(|held| &mut held.carved) else {
                continue;
            };
            let Some(mut amounts) = carved.get(&name.to_owned()).copied() else {
                continue;
            };
            let wanted = limit.max(total).min(AMOUNT_MAX);
            if amounts.get(d) != wanted {
                amounts.set(d, wanted);
                carved.insert(name.to_owned(), amounts);
                self.widen(&owner);
            }
        }
    }

    fn raise(&mut self, name: &str, at: Timestamp, d: Dimension, by: u64, per_ms: Option<u64>) {
        if per_ms.is_some() {
            let account = self.accounts.entry(name.to_owned()).or_default();
            account.roll(at, per_ms);
            let extra = account.extra.get(d).saturating_add(by);
            account.extra.set(d, extra.min(AMOUNT_MAX));
            return;
        }
        // What is given to a child is given to all above it that bound the same, so that it is there.
        let mut raised = Vec::new();
        let mut at = self.bounding(Some(name), d);
        while let Some(owner) = at {
            let Some(account) = self.accounts.get_mut(&owner) else {
                break;
            };
            let bound = account.limits.get(d).unwrap_or(0).saturating_add(by);
            account.limits.set(d, bound.min(AMOUNT_MAX));
            let above = account.above.clone();
            at = self.bounding(above.as_deref(), d);
            raised.push(owner);
        }
        for account in raised {
            self.widen(&account);
        }
    }

    /// The task of an account has ended.
    pub fn close(&mut self, task: &TaskId) {
        self.waiting.remove(task);
        if let Some(about) = self.questions.remove(task)
            && let Some(account) = self.accounts.get_mut(&about.account)
            && account.question.as_ref() == Some(task)
        {
            account.question = None;
        }
        let name = task_account(task);
        if let Some(account) = self.accounts.get_mut(&name) {
            account.closed = true;
            self.drop_if_done(&name);
        }
    }

    /// A task that was given another round begins with its budget anew, unless its account is still there.
    pub fn reopen(&mut self, task: &TaskId, budget: &TaskBudget, above: Option<&str>) {
        match self.accounts.get_mut(&task_account(task)) {
            Some(account) => account.closed = false,
            None => self.open(task, budget, above),
        }
    }

    /// Counts a closed account above it, once nothing hangs on it.
    fn drop_if_done(&mut self, name: &str) {
        let done =
            |account: &Account| account.closed && account.held.is_empty() && account.below == 0;
        if !self.accounts.get(name).is_some_and(done) {
            return;
        }
        let Some(account) = self.accounts.remove(name) else {
            return;
        };
        for d in Dimension::ALL {
            if account.limits.get(d).is_none() {
                continue;
            }
            let Some(owner) = self.bounding(account.above.as_deref(), d) else {
                continue;
            };
            if let Some(owner) = self.accounts.get_mut(&owner) {
                owner.carved.remove(&name.to_owned());
                let used = owner.used.get(d).saturating_add(account.used.get(d));
                owner.used.set(d, used.min(AMOUNT_MAX));
            }
        }
        if let Some(above) = account.above {
            if let Some(above) = self.accounts.get_mut(&above) {
                above.below = above.below.saturating_sub(1);
            }
            self.drop_if_done(&above);
        }
    }
}

mod account;
mod kept;
mod look;
#[cfg(test)]
mod tests;
