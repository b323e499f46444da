//! What is asked of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::budget::{
    AccountNote, Amounts, BudgetView, Dimension, Limits, Shortage, TASKS_SHOWN_MAX, Usage,
};
use mesh_messages::{AttemptNo, TaskId, Timestamp};

use super::{Account, Ledger, Terms};

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
                let shortage = self.shortage(&charge.account, of, (*d, &[]), 1, now);
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
            let left = self.left(&charge.account, of, (d, &[]), now)?;
            let counts = charge.dimensions.contains(&d);
            counts.then_some((left, &charge.account, of))
        });
        let (_, account, of) = bounded.min_by_key(|(left, ..)| *left)?;
        Some(self.shortage(account, of, (d, &[]), 1, now))
    }

    /// What tasks said that each attempt under them needs: the most that any account from the nearest upwards says.
    pub fn expected(&self, nearest: Option<&str>) -> Usage {
        let mut most = Usage::default();
        let mut at = nearest.and_then(|name| self.accounts.get(name));
        while let Some(account) = at {
            most = most.max(account.reserve.unwrap_or_default());
            at = account.above.as_ref().and_then(|a| self.accounts.get(a));
        }
        most
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

    /// What is missing now of what somebody waits for; its limit is 0 where it is not bounded any more.
    pub fn shortage_now(
        &self,
        about: &Shortage,
        terms: Option<&Terms>,
        beside: &[TaskId],
        now: Timestamp,
    ) -> Shortage {
        let of = (about.dimension, beside);
        self.shortage(&about.account, terms, of, about.wanted, now)
    }

    /// What is left of what somebody waits for; `None` when it is not bounded any more.
    pub fn left_of(
        &self,
        about: &Shortage,
        terms: Option<&Terms>,
        beside: &[TaskId],
        now: Timestamp,
    ) -> Option<u64> {
        self.left(&about.account, terms, (about.dimension, beside), now)
    }

    /// The question about an account that was put last and not answered.
    pub fn question_about(&self, account: &str) -> Option<&TaskId> {
        self.accounts.get(account)?.question.as_ref()
    }

    /// Whether somebody left the account as it is, in the window under way.
    pub fn is_declined(&self, account: &str, now: Timestamp) -> bool {
        let held = self.accounts.get(account);
        held.is_some_and(|held| held.declined && !held.window_over(now))
    }

    /// A person has answered a question. One that raised nothing has left the account as it is.
    pub fn answered(&mut self, question: &TaskId) {
        if let Some(about) = self.questions.get(question)
            && let Some(account) = self.accounts.get_mut(&about.account)
            && account.question.as_ref() == Some(question)
        {
            account.declined = !about.account.starts_with("task:");
        }
    }

    /// What is set aside in an account of one dimension for attempts that come to an end without the one that waits.
    pub fn passing(&self, account: &str, d: Dimension, ends: impl Fn(&TaskId) -> bool) -> u64 {
        let held = self.accounts.get(account);
        let held = held.into_iter().flat_map(|held| held.held.iter());
        held.filter(|(task, _)| ends(task))
            .fold(0, |sum, (_, amounts)| sum.saturating_add(amounts.get(d)))
    }

    /// How the accounts stand whose windows go on, or ended so lately that the next one may not have begun, and in which
    /// anything happened.
    pub fn notes(&self, now: Timestamp) -> Vec<AccountNote> {
        let accounts = self.accounts.iter();
        let running = accounts.filter(|(_, account)| {
            let window = account.window;
            window.is_some_and(|(since, per)| now < since.plus(Duration::from_millis(2 * per)))
        });
        let noted = running.filter_map(|(name, account)| {
            let (since, per_ms) = account.window?;
            Some(AccountNote {
                account: name.clone(),
                since,
                per_ms,
                used: account.used,
                extra: account.extra,
                declined: account.declined,
            })
        });
        let untouched = Amounts::default();
        noted
            .filter(|note| note.used != untouched || note.extra != untouched || note.declined)
            .collect()
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

    /// When the next window ends for which somebody waits. A window that is over opens anew with what is delivered next.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let accounts: BTreeSet<_> = self.waiting.values().map(|about| &about.account).collect();
        let held = accounts
            .into_iter()
            .filter_map(|name| self.accounts.get(name));
        held.filter_map(|account| account.window_end().filter(|end| *end > now))
            .min()
    }

    /// All accounts, by name: those of tasks, and those with these terms. With `only`, at most that one.
    pub fn views(
        &self,
        terms: &BTreeMap<String, Terms>,
        only: Option<&str>,
        now: Timestamp,
    ) -> Vec<BudgetView> {
        let mut waiting: BTreeMap<&str, Vec<TaskId>> = BTreeMap::new();
        let asked = |name: &str| only.is_none_or(|only| only == name);
        for (task, about) in self.waiting.iter().filter(|(_, s)| asked(&s.account)) {
            let shown = waiting.entry(&about.account).or_default();
            if shown.len() < TASKS_SHOWN_MAX {
                shown.push(task.clone());
            }
        }
        let tasks = self.accounts.iter();
        let tasks = tasks.filter(|(_, account)| account.window.is_none());
        let names: BTreeSet<&String> = tasks.map(|(name, _)| name).chain(terms.keys()).collect();
        let names = names.into_iter().filter(|name| asked(name));
        let views = names.map(|name| {
            let waiting = waiting.remove(name.as_str()).unwrap_or_default();
            self.view(name, terms.get(name), waiting, now)
        });
        views.filter(|view| !view.limits.is_empty()).collect()
    }

    fn view(
        &self,
        name: &str,
        terms: Option<&Terms>,
        waiting: Vec<TaskId>,
        now: Timestamp,
    ) -> BudgetView {
        let none = Account::default();
        let held = self.accounts.get(name).unwrap_or(&none);
        let bounds = terms.map_or(held.limits, |terms| terms.limits);
        let (mut limits, mut left) = (Limits::default(), Limits::default());
        for d in Dimension::ALL {
            if let Some(bound) = bounds.get(d) {
                limits.set(d, bound.saturating_add(held.extra(now).get(d)));
                left.set(d, self.left(name, terms, (d, &[]), now).unwrap_or(0));
            }
        }
        BudgetView {
            account: name.to_owned(),
            limits,
            used: held.used(now),
            reserved: held.reserved(),
            left,
            per_ms: terms.map(|terms| terms.per_ms),
            until: held.window_end().filter(|end| *end > now),
            question: held.question.clone(),
            waiting,
            attempts: held.held.keys().take(TASKS_SHOWN_MAX).cloned().collect(),
        }
    }
}
