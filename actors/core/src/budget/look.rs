//! What is asked of the ledger.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::budget::{
    Amounts, BudgetView, Dimension, Limits, Shortage, TASKS_SHOWN_MAX, Usage,
};
use mesh_messages::{AttemptNo, TaskId, Timestamp};

use super::{Ledger, Terms};

impl Ledger {
    /// The attempt of a task for which something is set aside, and what its agent has told of it.
    pub fn held(&self, task: &TaskId) -> Option<(AttemptNo, Usage)> {
        self.holds.get(task).map(|hold| (hold.attempt, hold.told))
    }

    /// The most that is set aside for the attempt of a task in any account, as it was before its agent told anything.
    pub fn reserved_for(&self, task: &TaskId) -> Amounts {
        let mut most = Amounts::default();
        let charges = self.holds.get(task).into_iter().flat_map(|h| &h.charges);
        for charge in charges {
            for d in Dimension::ALL {
                most.set(d, most.get(d).max(charge.amounts.get(d)));
            }
        }
        most
    }

    /// What the attempt of a task has used beyond what its accounts have.
    pub fn overdrawn(&self, task: &TaskId, terms: &[Terms], now: Timestamp) -> Option<Shortage> {
        let hold = self.holds.get(task)?;
        hold.charges.iter().find_map(|charge| {
            let of = terms.iter().find(|one| one.account == charge.account);
            charge.dimensions.iter().find_map(|d| {
                let account = self.accounts.get(&charge.account)?;
                // Only what this attempt did is a reason to cut it off.
                let own = account.held.get(task)?.get(*d);
                let shortage = self.shortage(&charge.account, of, *d, 1, now);
                let bounded = of.map_or(account.limits, |of| of.limits).get(*d).is_some();
                let over = shortage.used.saturating_add(shortage.reserved) > shortage.limit;
                (bounded && over && own > charge.amounts.get(*d)).then_some(shortage)
            })
        })
    }

    /// What is missing where an attempt was bound by wall time; the account that has the least left.
    pub fn wall_spent(&self, task: &TaskId, terms: &[Terms], now: Timestamp) -> Option<Shortage> {
        let d = Dimension::WallTimeMs;
        let charges = self.holds.get(task).into_iter().flat_map(|h| &h.charges);
        let bounded = charges.filter_map(|charge| {
            let of = terms.iter().find(|one| one.account == charge.account);
            let left = self.left(&charge.account, of, d, now)?;
            let counts = charge.dimensions.contains(&d);
            counts.then_some((left, &charge.account, of))
        });
        let (_, account, of) = bounded.min_by_key(|(left, ..)| *left)?;
        Some(self.shortage(account, of, d, 1, now))
    }

    /// What a task said that each attempt under it needs: the nearest account's that says something.
    pub fn expected(&self, nearest: Option<&str>) -> Usage {
        let mut at = nearest.and_then(|name| self.accounts.get(name));
        while let Some(account) = at {
            if let Some(reserve) = account.reserve {
                return reserve;
            }
            at = account.above.as_ref().and_then(|a| self.accounts.get(a));
        }
        Usage::default()
    }

    /// What a task waits for.
    pub fn wait_of(&self, task: &TaskId) -> Option<&Shortage> {
        self.waiting.get(task)
    }

    /// All that wait, and for what.
    pub fn waiting(&self) -> impl Iterator<Item = (&TaskId, &Shortage)> {
        self.waiting.iter()
    }

    /// A task waits for no budget any more.
    pub fn waits_no_more(&mut self, task: &TaskId) {
        self.waiting.remove(task);
    }

    /// What is left of what somebody waits for; `None` when it is not bounded any more.
    pub fn left_of(&self, about: &Shortage, terms: Option<&Terms>, now: Timestamp) -> Option<u64> {
        self.left(&about.account, terms, about.dimension, now)
    }

    /// The open question about an account, and how often somebody was asked.
    pub fn question_about(&self, account: &str) -> (Option<&TaskId>, u32) {
        self.accounts
            .get(account)
            .map_or((None, 0), |held| (held.question.as_ref(), held.asked))
    }

    /// What an open question is about.
    pub fn question(&self, task: &TaskId) -> Option<&Shortage> {
        self.questions.get(task)
    }

    /// Open questions about accounts for which nobody waits.
    pub fn idle_questions(&self) -> Vec<TaskId> {
        if self.questions.is_empty() {
            return Vec::new();
        }
        let waited: BTreeSet<_> = self.waiting.values().map(|s| &s.account).collect();
        let idle = self.questions.iter();
        let idle = idle.filter(|(_, about)| !waited.contains(&about.account));
        idle.map(|(question, _)| question.clone()).collect()
    }

    /// When the next window ends for which somebody waits.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.waiting.values().filter_map(|about| about.until).min()
    }

    /// All accounts, by name: those of tasks, and those with these terms.
    pub fn views(&self, terms: &BTreeMap<String, Terms>, now: Timestamp) -> Vec<BudgetView> {
        let tasks = self.accounts.iter();
        let tasks = tasks.filter(|(_, account)| account.window.is_none());
        let names: BTreeSet<&String> = tasks.map(|(name, _)| name).chain(terms.keys()).collect();
        let views = names
            .into_iter()
            .map(|name| self.view(name, terms.get(name), now));
        views.filter(|view| !view.limits.is_empty()).collect()
    }

    fn view(&self, name: &str, terms: Option<&Terms>, now: Timestamp) -> BudgetView {
        let held = self.accounts.get(name).cloned().unwrap_or_default();
        let bounds = terms.map_or(held.limits, |terms| terms.limits);
        let (mut limits, mut left) = (Limits::default(), Limits::default());
        for d in Dimension::ALL {
            if let Some(bound) = bounds.get(d) {
                limits.set(d, bound.saturating_add(held.extra(now).get(d)));
                left.set(d, self.left(name, terms, d, now).unwrap_or(0));
            }
        }
        let waiting = self.waiting.iter().filter(|(_, s)| s.account == name);
        BudgetView {
            account: name.to_owned(),
            limits,
            used: held.used(now),
            reserved: held.reserved(),
            left,
            per_ms: terms.map(|terms| terms.per_ms),
            until: held.window_end().filter(|end| *end > now),
            question: held.question.clone(),
            waiting: waiting
                .map(|(task, _)| task.clone())
                .take(TASKS_SHOWN_MAX)
                .collect(),
            attempts: held.held.keys().take(TASKS_SHOWN_MAX).cloned().collect(),
        }
    }
}
