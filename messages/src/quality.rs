//! How good results are that were verified, as it is kept and shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of the tasks at which an agent handed in a result that was verified, how many passed.
///
/// A result is verified when its task's contract has acceptance checks or an output schema, and the task was not submitted
/// by an agent. What agents say of their own work counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// Tasks, each once, however often the agent tried.
    pub verified: u64,
    /// Those at which its first result passed.
    pub passed_first: u64,
    /// Those at which one of its results passed in the end.
    pub passed: u64,
}

impl Quality {
    /// Nothing was verified yet.
    pub fn is_empty(&self) -> bool {
        self.verified == 0
    }

    /// Share of first results that passed, 0 to 1; `None` before the first.
    pub fn first_rate(&self) -> Option<f64> {
        rate(self.passed_first, self.verified)
    }

    /// Share of tasks that passed in the end, 0 to 1; `None` before the first.
    pub fn rate(&self) -> Option<f64> {
        rate(self.passed, self.verified)
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            verified: self.verified.saturating_add(other.verified),
            passed_first: self.passed_first.saturating_add(other.passed_first),
            passed: self.passed.saturating_add(other.passed),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tasks fit a float")]
fn rate(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}
