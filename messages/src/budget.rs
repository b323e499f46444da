//! Budgets: how much tasks, agents, teams and providers' accounts may use up, and what was used.
//!
//! All amounts are whole numbers. Money is kept in millionths of a unit that is the operator's own; meshd knows no currency.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, AttemptNo, Epoch, TaskId};
use crate::time::Timestamp;

mod money;

pub use money::Money;

/// Largest limit and amount in any dimension: what every reader of JSON takes exactly.
pub const AMOUNT_MAX: u64 = (1 << 53) - 1;

/// What can be used up.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Dimension {
    /// Calls: attempts that were delivered, and what agents tell beyond that.
    Calls,
    /// Tokens of a model, as agents tell.
    Tokens,
    /// Money, as agents tell; in millionths wherever it is a plain number.
    Money,
    /// Milliseconds in which agents had attempts in hand.
    WallTimeMs,
    /// Attempts that were delivered.
    Attempts,
    /// Of a task: attempts that were begun anew after one that failed or lost its instance. Of all else: instances that
    /// ended by a failure, each of which asks for a restart.
    Restarts,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Calls,
        Self::Tokens,
        Self::Money,
        Self::WallTimeMs,
        Self::Attempts,
        Self::Restarts,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Tokens => "tokens",
            Self::Money => "money",
            Self::WallTimeMs => "wallTimeMs",
            Self::Attempts => "attempts",
            Self::Restarts => "restarts",
        }
    }

    /// An amount of it for people.
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Money => Money::from_micros(amount).to_string(),
            Self::Calls | Self::Tokens | Self::WallTimeMs | Self::Attempts | Self::Restarts => {
                amount.to_string()
            }
        }
    }

    /// An amount of it as people write it.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(self, text: &str) -> Result<u64, &'static str> {
        match self {
            Self::Money => text.parse::<Money>().map(Money::micros),
            Self::Calls | Self::Tokens | Self::WallTimeMs | Self::Attempts | Self::Restarts => text
                .parse()
                .ok()
                .filter(|amount| *amount <= AMOUNT_MAX)
                .ok_or("expected a whole number"),
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount in every dimension.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// Calls.
    pub calls: u64,
    /// Tokens.
    pub tokens: u64,
    /// Money.
    pub money: Money,
    /// Milliseconds of work.
    pub wall_time_ms: u64,
    /// Attempts.
    pub attempts: u64,
    /// Restarts.
    pub restarts: u64,
}

impl Amounts {
    /// How much of one dimension.
    pub const fn get(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Calls => self.calls,
            Dimension::Tokens => self.tokens,
            Dimension::Money => self.money.micros(),
            Dimension::WallTimeMs => self.wall_time_ms,
            Dimension::Attempts => self.attempts,
            Dimension::Restarts => self.restarts,
        }
    }

    /// Sets how much of one dimension.
    pub const fn set(&mut self, dimension: Dimension, amount: u64) {
        match dimension {
            Dimension::Calls => self.calls = amount,
            Dimension::Tokens => self.tokens = amount,
            Dimension::Money => self.money = Money::from_micros(amount),
            Dimension::WallTimeMs => self.wall_time_ms = amount,
            Dimension::Attempts => self.attempts = amount,
            Dimension::Restarts => self.restarts = amount,
        }
    }

    /// Adds, up to [`AMOUNT_MAX`] in each dimension.
    pub fn add(&mut self, other: &Self) {
        for d in Dimension::ALL {
            self.set(d, self.get(d).saturating_add(other.get(d)).min(AMOUNT_MAX));
        }
    }

    /// Takes away, down to nothing in each dimension.
    pub fn sub(&mut self, other: &Self) {
        for d in Dimension::ALL {
            self.set(d, self.get(d).saturating_sub(other.get(d)));
        }
    }
}

/// How much may be used; what is absent is not bounded.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub calls: Option<u64>,
    /// Tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub tokens: Option<u64>,
    /// Money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Milliseconds of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub wall_time_ms: Option<u64>,
    /// Attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub attempts: Option<u64>,
    /// Restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub restarts: Option<u64>,
}

impl Limits {
    /// The bound of one dimension.
    pub fn get(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Calls => self.calls,
            Dimension::Tokens => self.tokens,
            Dimension::Money => self.money.map(Money::micros),
            Dimension::WallTimeMs => self.wall_time_ms,
            Dimension::Attempts => self.attempts,
            Dimension::Restarts => self.restarts,
        }
    }

    /// Sets the bound of one dimension.
    pub fn set(&mut self, dimension: Dimension, bound: u64) {
        match dimension {
            Dimension::Calls => self.calls = Some(bound),
            Dimension::Tokens => self.tokens = Some(bound),
            Dimension::Money => self.money = Some(Money::from_micros(bound)),
            Dimension::WallTimeMs => self.wall_time_ms = Some(bound),
            Dimension::Attempts => self.attempts = Some(bound),
            Dimension::Restarts => self.restarts = Some(bound),
        }
    }

    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first bound that is none, and what is wrong with it.
    pub fn misfit(&self) -> Option<(Dimension, String)> {
        Dimension::ALL.into_iter().find_map(|d| {
            let wrong = self.get(d).is_some_and(|b| b == 0 || b > AMOUNT_MAX);
            wrong.then(|| {
                (
                    d,
                    format!("must be more than 0, and at most {}", d.show(AMOUNT_MAX)),
                )
            })
        })
    }
}

/// What an agent says that an attempt has used so far: running totals, so that the same may be said twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Usage {
    /// Calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = AMOUNT_MAX))]
    pub calls: Option<u64>,
    /// Tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = AMOUNT_MAX))]
    pub tokens: Option<u64>,
    /// Money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
}

impl Usage {
    /// The larger of both in each dimension. What was told once is not taken back.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            calls: self.calls.max(other.calls),
            tokens: self.tokens.max(other.tokens),
            money: self.money.max(other.money),
        }
    }

    /// What is told of one dimension.
    pub fn get(&self, dimension: Dimension) -> Option<u64> {
        let told = match dimension {
            Dimension::Calls => self.calls,
            Dimension::Tokens => self.tokens,
            Dimension::Money => self.money.map(Money::micros),
            Dimension::WallTimeMs | Dimension::Attempts | Dimension::Restarts => None,
        };
        told.map(|told| told.min(AMOUNT_MAX))
    }
}

/// What an attempt is expected to use, and so is set aside for it; what is absent is one call, no tokens, and the price that
/// the agent declares for the capability.
pub type Reserve = Usage;

/// What a task and everything under it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskBudget {
    /// Calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub calls: Option<u64>,
    /// Tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub tokens: Option<u64>,
    /// Money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Milliseconds in which agents have attempts in hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub wall_time_ms: Option<u64>,
    /// Attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub attempts: Option<u64>,
    /// Restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub restarts: Option<u64>,
    /// What is set aside for each attempt before it is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
}

impl TaskBudget {
    /// The bounds alone.
    pub const fn limits(&self) -> Limits {
        Limits {
            calls: self.calls,
            tokens: self.tokens,
            money: self.money,
            wall_time_ms: self.wall_time_ms,
            attempts: self.attempts,
            restarts: self.restarts,
        }
    }
}

/// What an account that is not a task's may use within each window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountBudget {
    /// Calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub calls: Option<u64>,
    /// Tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub tokens: Option<u64>,
    /// Money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Milliseconds of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub wall_time_ms: Option<u64>,
    /// Attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub attempts: Option<u64>,
    /// Restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub restarts: Option<u64>,
    /// The window's length, in milliseconds. It begins with the first attempt after the one before is over.
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub per_ms: u64,
}

impl AccountBudget {
    /// The bounds alone.
    pub const fn limits(&self) -> Limits {
        Limits {
            calls: self.calls,
            tokens: self.tokens,
            money: self.money,
            wall_time_ms: self.wall_time_ms,
            attempts: self.attempts,
            restarts: self.restarts,
        }
    }
}

/// What an attempt takes from one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    /// `task:<id>`, `agent:<id>`, `team:<name>` or `provider:<name>`.
    pub account: String,
    /// How much is set aside.
    pub amounts: Amounts,
    /// Of what it counts.
    pub dimensions: Vec<Dimension>,
    /// The account's window, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_ms: Option<u64>,
}

/// What is missing in an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// Which account.
    pub account: String,
    /// Of what.
    pub dimension: Dimension,
    /// How much was used; of money, in millionths, here and below.
    pub used: u64,
    /// How much is set aside for attempts under way and for children.
    pub reserved: u64,
    /// How much may be used.
    pub limit: u64,
    /// How much the next attempt needs.
    pub wanted: u64,
    /// When the account's window is over, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.dimension;
        write!(
            f,
            "the budget of {} is exhausted: {} of {} {d} used, {} reserved, {} needed",
            self.account,
            d.show(self.used),
            d.show(self.limit),
            d.show(self.reserved),
            d.show(self.wanted),
        )
    }
}

/// What happens to accounts. On record of the task that it is about; of a raise, of the question that was answered; of an
/// agent's restart and of what is noted for good, of no task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    rename_all_fields = "camelCase",
    tag = "step"
)]
pub enum BudgetStep {
    /// Set aside for an attempt, which is delivered after this.
    Reserved {
        /// Which attempt.
        attempt: AttemptNo,
        /// From which accounts, and how much.
        charges: Vec<Charge>,
        /// The longest that the attempt may take, where an account bounds it further than its own limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wall_time_ms: Option<u64>,
    },
    /// The agent says what the attempt under way has used so far.
    Told {
        /// Which attempt.
        attempt: AttemptNo,
        /// How much.
        usage: Usage,
    },
    /// What the attempt used is counted, and the rest is given back.
    Settled {
        /// Which attempt.
        attempt: AttemptNo,
        /// How much.
        used: Amounts,
    },
    /// The task waits for what an account does not have.
    Short {
        /// What is missing.
        shortage: Shortage,
        /// The question in the inbox.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        question: Option<TaskId>,
    },
    /// Somebody gave an account more: a task's for good, another for its window.
    Raised {
        /// Which account.
        account: String,
        /// Of what.
        dimension: Dimension,
        /// How much more.
        by: u64,
        /// Who said so.
        who: String,
        /// The account's window, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per_ms: Option<u64>,
    },
    /// An instance of an agent ended by a failure, and asks for a restart. The record's header names the agent and no task.
    Restarted {
        /// Which agent.
        agent: AgentId,
        /// Which of its incarnations.
        epoch: Epoch,
        /// The accounts on which it is counted.
        charges: Vec<Charge>,
    },
    /// How accounts with windows stand, before records that they follow from are erased. The header names no task.
    Noted {
        /// By account.
        accounts: Vec<AccountNote>,
    },
}

/// How an account with a window stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountNote {
    /// `agent:<id>`, `team:<name>` or `provider:<name>`.
    pub account: String,
    /// When the window under way began.
    pub since: Timestamp,
    /// The window's length, in milliseconds.
    pub per_ms: u64,
    /// How much was used in it.
    pub used: Amounts,
    /// What was added to it by answers.
    pub extra: Amounts,
    /// Whether somebody who was asked left it as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declined: bool,
}

/// One account, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetView {
    /// `task:<id>`, `agent:<id>`, `team:<name>` or `provider:<name>`.
    pub account: String,
    /// How much may be used, what was added by answers included.
    pub limits: Limits,
    /// How much was used, in the window under way if it has one. More than the limit when an agent used more than was set
    /// aside for it.
    pub used: Amounts,
    /// How much is set aside for attempts under way and for children with budgets of their own.
    pub reserved: Amounts,
    /// How much is left.
    pub left: Limits,
    /// The window, in milliseconds, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_ms: Option<u64>,
    /// When the window under way is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The open question about it, in the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<TaskId>,
    /// Tasks that wait for it, at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<TaskId>,
    /// Attempts under way that have something set aside from it, at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<TaskId>,
}

/// Most tasks that a view names: more would not be read.
pub const TASKS_SHOWN_MAX: usize = 100;

/// The account of a task.
pub fn task_account(task: &TaskId) -> String {
    format!("task:{task}")
}

/// The account of an agent.
pub fn agent_account(agent: &AgentId) -> String {
    format!("agent:{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_not_taken_back() {
        let first = Usage {
            calls: Some(3),
            tokens: None,
            money: Some(Money::from_micros(5)),
        };
        let second = Usage {
            calls: Some(2),
            tokens: Some(1),
            money: None,
        };
        let both = first.max(second);
        assert_eq!((both.calls, both.tokens), (Some(3), Some(1)));
        assert_eq!(both.money, Some(Money::from_micros(5)));
    }
}
