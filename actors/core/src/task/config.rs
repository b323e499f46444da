//! What the operator may change about tasks, and the pauses between attempts.

use std::sync::Arc;
use std::time::Duration;

use mesh_messages::policy::PolicyDocument;
use mesh_messages::task::{DelayStrategy, RetrySpec};
use mesh_messages::trust::TrustLevel;
use serde::{Deserialize, Serialize};

/// Longest pause between two attempts: beyond it a person has looked, or the deadline has come.
pub const RETRY_DELAY_MAX: Duration = Duration::from_mins(10);
/// Most attempts that a retry policy may ask for.
pub const ATTEMPTS_MAX: u32 = 100;

/// When and how often a failed attempt is followed by another; every field is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// How pauses grow.
    pub delay_strategy: DelayStrategy,
    /// The first pause, in milliseconds.
    pub base_delay_ms: u64,
    /// Whether each pause is spread over its upper half.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            delay_strategy: DelayStrategy::Exponential,
            base_delay_ms: 200,
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// What a task asks for, completed by this policy.
    pub fn completed(&self, spec: Option<&RetrySpec>) -> Self {
        let Some(spec) = spec else { return *self };
        Self {
            max_attempts: spec.max_attempts.unwrap_or(self.max_attempts),
            delay_strategy: spec.delay_strategy.unwrap_or(self.delay_strategy),
            base_delay_ms: spec.base_delay_ms.unwrap_or(self.base_delay_ms),
            jitter: spec.jitter.unwrap_or(self.jitter),
        }
    }

    /// The same as it is journalled: every field filled in.
    pub fn to_spec(self) -> RetrySpec {
        RetrySpec {
            max_attempts: Some(self.max_attempts),
            delay_strategy: Some(self.delay_strategy),
            base_delay_ms: Some(self.base_delay_ms),
            jitter: Some(self.jitter),
        }
    }

    /// The pause after the `failed`-th failed attempt (from 1), at most [`RETRY_DELAY_MAX`].
    ///
    /// With jitter it lies between half of the pause and all of it.
    pub fn delay(&self, failed: u32, random: u64) -> Duration {
        let base = self.base_delay_ms;
        let ms = match self.delay_strategy {
            DelayStrategy::Fixed => base,
            DelayStrategy::Linear => base.saturating_mul(u64::from(failed.max(1))),
            DelayStrategy::Exponential => {
                let doublings = failed.saturating_sub(1);
                base.saturating_mul(1_u64.checked_shl(doublings).unwrap_or(u64::MAX))
            }
        };
        let pause = Duration::from_millis(ms).min(RETRY_DELAY_MAX);
        if !self.jitter {
            return pause;
        }
        pause / 2 + below(pause.saturating_sub(pause / 2), random)
    }
}

/// A span from zero to `limit`, both possible, in whole milliseconds.
pub(crate) fn below(limit: Duration, random: u64) -> Duration {
    let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX - 1);
    Duration::from_millis(random % (ms + 1))
}

/// What the operator may change about tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskConfig {
    /// What a task's own retry policy leaves open.
    pub retry: RetryPolicy,
    /// Most tasks that are worked on at one time; tasks that wait for their children do not count.
    pub max_parallel_tasks: u32,
    /// Whether a task that an agent failed is offered to other agents.
    pub fallback_on_error: bool,
    /// The trust that a task needs which asks for it without a number.
    pub trust_threshold: TrustLevel,
    /// Whether agents may delegate to agents.
    pub allow_cross_agent: bool,
    /// The operator's policy, for what it says of requests to people.
    pub policy: Arc<PolicyDocument>,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            max_parallel_tasks: 5,
            fallback_on_error: true,
            trust_threshold: TrustLevel::from_millionths(700_000),
            allow_cross_agent: true,
            policy: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(policy: RetryPolicy, random: u64) -> Vec<u128> {
        (1..=4)
            .map(|failed| policy.delay(failed, random).as_millis())
            .collect()
    }

    #[test]
    fn pauses_grow_as_the_strategy_says() {
        let exact = RetryPolicy {
            jitter: false,
            ..RetryPolicy::default()
        };
        assert_eq!(delays(exact, 7), [200, 400, 800, 1600]);
        let linear = RetryPolicy {
            delay_strategy: DelayStrategy::Linear,
            ..exact
        };
        assert_eq!(delays(linear, 7), [200, 400, 600, 800]);
        let fixed = RetryPolicy {
            delay_strategy: DelayStrategy::Fixed,
            ..exact
        };
        assert_eq!(delays(fixed, 7), [200, 200, 200, 200]);
    }

    #[test]
    fn pauses_are_capped_however_many_attempts_there_were() {
        let exact = RetryPolicy {
            jitter: false,
            ..RetryPolicy::default()
        };
        for failed in [20, 64, 65, u32::MAX] {
            assert_eq!(exact.delay(failed, 0), RETRY_DELAY_MAX);
        }
    }

    #[test]
    fn jitter_spreads_over_the_upper_half_and_reaches_both_ends() {
        let policy = RetryPolicy::default();
        let seen: Vec<_> = (0..=100)
            .map(|random| policy.delay(1, random).as_millis())
            .collect();
        assert_eq!(
            (seen.iter().min(), seen.iter().max()),
            (Some(&100), Some(&200))
        );
    }

    #[test]
    fn a_task_overrides_only_what_it_names() {
        let spec = RetrySpec {
            max_attempts: Some(9),
            ..RetrySpec::default()
        };
        let completed = RetryPolicy::default().completed(Some(&spec));
        assert_eq!(
            completed,
            RetryPolicy {
                max_attempts: 9,
                ..RetryPolicy::default()
            }
        );
        assert_eq!(
            RetryPolicy::default().completed(Some(&completed.to_spec())),
            completed
        );
    }
}
