//! One account of the ledger.

use std::time::Duration;

use mesh_messages::budget::{AMOUNT_MAX, Amounts, Dimension, Limits, Usage};
use mesh_messages::{TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use super::kept::Kept;

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Account {
    /// A task's bounds, raises included; nothing of others, whose bounds come with [`Terms`].
    #[serde(default)]
    pub(super) limits: Limits,
    /// Whose budget it was carved from, or whom it draws on for what it does not bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) above: Option<String>,
    /// What was set aside for children with budgets of their own.
    #[serde(default, skip_serializing_if = "Kept::is_empty")]
    pub(super) carved: Kept<String>,
    /// Accounts right below it.
    #[serde(default)]
    pub(super) below: u32,
    /// What is set aside for each attempt under way.
    #[serde(default, skip_serializing_if = "Kept::is_empty")]
    pub(super) held: Kept<TaskId>,
    #[serde(default)]
    pub(super) used: Amounts,
    /// What was added to the window under way.
    #[serde(default)]
    pub(super) extra: Amounts,
    /// Since when the window under way is counted, and its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<(Timestamp, u64)>,
    /// What a task said that each attempt needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reserve: Option<Usage>,
    /// The task has ended; it goes when nothing hangs on it.
    #[serde(default)]
    pub(super) closed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) question: Option<TaskId>,
    /// How often somebody was asked.
    #[serde(default)]
    pub(super) asked: u32,
    /// Who was asked left it as it is; nobody is asked again within the window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) declined: bool,
}

impl Account {
    pub(super) fn window_over(&self, now: Timestamp) -> bool {
        self.window_end().is_some_and(|end| now >= end)
    }

    pub(super) fn window_end(&self) -> Option<Timestamp> {
        self.window
            .map(|(since, per)| since.plus(Duration::from_millis(per)))
    }

    pub(super) fn used(&self, now: Timestamp) -> Amounts {
        if self.window_over(now) {
            Amounts::default()
        } else {
            self.used
        }
    }

    pub(super) fn extra(&self, now: Timestamp) -> Amounts {
        if self.window_over(now) {
            Amounts::default()
        } else {
            self.extra
        }
    }

    pub(super) fn reserved(&self) -> Amounts {
        let mut sum = Amounts::default();
        for d in Dimension::ALL {
            sum.set(d, self.reserved_of(d, &[]));
        }
        sum
    }

    /// What is set aside of one dimension, as one sees it that runs beside the attempts of `beside`.
    pub(super) fn reserved_of(&self, d: Dimension, beside: &[TaskId]) -> u64 {
        let sum = self.held.sum(d).saturating_add(self.carved.sum(d));
        if d != Dimension::WallTimeMs {
            return sum.min(AMOUNT_MAX);
        }
        let own = beside.iter().filter_map(|task| self.held.get(task));
        let own = own.map(|held| held.get(d)).sum();
        sum.saturating_sub(own).min(AMOUNT_MAX)
    }

    /// Begins a window if none is under way.
    pub(super) fn roll(&mut self, at: Timestamp, per_ms: Option<u64>) {
        let Some(per) = per_ms else { return };
        if self.window.is_none() || self.window_over(at) {
            self.used = Amounts::default();
            self.extra = Amounts::default();
            self.declined = false;
            self.window = Some((at, per));
        } else if let Some((since, _)) = self.window {
            // Another length holds from the window's beginning.
            self.window = Some((since, per));
        }
    }
}
