//! What the past says of an agent with one type of task. Folded from the journal, part of the task machine's state.

use std::collections::BTreeMap;

use mesh_messages::{AgentId, FailureClass};
use serde::{Deserialize, Serialize};

/// Most (agent, type) pairs that are kept. Types are free text of the submitters; what comes later is not counted.
pub const PAIRS_MAX: usize = 20_000;

/// The share of the newest attempt in [`TypeRecord::recent_failures`] is 1 / 2^3, so about the last eight count.
const RECENT_SHIFT: u32 = 3;

/// An agent's record with one type of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TypeRecord {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed by the agent's doing.
    pub failed: u64,
    /// Milliseconds of all that succeeded, together.
    pub succeeded_ms: u64,
    /// Share of failures among the newest attempts, in 1/65536; an integer so that every replay agrees on it.
    recent: u32,
}

impl TypeRecord {
    /// Attempts that count.
    pub fn attempts(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// Estimated probability of success, smoothed so that no record means one half (Laplace's rule of succession).
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn confidence(&self) -> f64 {
        (self.succeeded as f64 + 1.0) / (self.attempts() as f64 + 2.0)
    }

    /// Mean milliseconds of the attempts that succeeded.
    pub fn mean_duration_ms(&self) -> Option<u64> {
        self.succeeded_ms.checked_div(self.succeeded)
    }

    /// Share of failures among the last few attempts, 0 to 1.
    pub fn recent_failures(&self) -> f64 {
        f64::from(self.recent) / 65536.0
    }

    /// Whether a failure of this class says anything about the agent.
    pub(crate) fn counts(class: FailureClass) -> bool {
        !matches!(
            class,
            FailureClass::Lost
                | FailureClass::Cancelled
                | FailureClass::Quota
                | FailureClass::Declined
        )
    }

    /// Counts an attempt that succeeded after `ms` milliseconds.
    pub(crate) fn note_success(&mut self, ms: u64) {
        self.succeeded += 1;
        self.succeeded_ms = self.succeeded_ms.saturating_add(ms);
        self.count(false);
    }

    /// Counts an attempt that failed by the agent's doing.
    pub(crate) fn note_failure(&mut self) {
        self.failed += 1;
        self.count(true);
    }

    fn count(&mut self, failed: bool) {
        let newest = if failed { 65536 >> RECENT_SHIFT } else { 0 };
        self.recent = self.recent - (self.recent >> RECENT_SHIFT) + newest;
    }
}

/// Every agent's record with every type of task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stats {
    by_agent: BTreeMap<AgentId, BTreeMap<String, TypeRecord>>,
}

impl Stats {
    /// The record of an agent with a type; empty when there is none.
    pub fn of(&self, agent: &AgentId, kind: &str) -> TypeRecord {
        self.by_agent
            .get(agent)
            .and_then(|types| types.get(kind))
            .copied()
            .unwrap_or_default()
    }

    /// All records of an agent, by type.
    pub fn agent(&self, agent: &AgentId) -> impl Iterator<Item = (&str, &TypeRecord)> {
        self.by_agent
            .get(agent)
            .into_iter()
            .flatten()
            .map(|(kind, record)| (kind.as_str(), record))
    }

    /// Attempts of an agent that succeeded, of every type.
    pub fn successes(&self, agent: &AgentId) -> u64 {
        self.agent(agent).map(|(_, record)| record.succeeded).sum()
    }

    /// All records, by agent and type.
    pub fn all(&self) -> impl Iterator<Item = (&AgentId, &str, &TypeRecord)> {
        self.by_agent
            .iter()
            .flat_map(|(agent, types)| types.iter().map(move |(kind, r)| (agent, kind.as_str(), r)))
    }

    /// Counts an attempt that succeeded after `ms` milliseconds.
    pub(crate) fn succeeded(&mut self, agent: &AgentId, kind: &str, ms: u64) {
        if let Some(record) = self.slot(agent, kind) {
            record.note_success(ms);
        }
    }

    /// Counts an attempt that failed, if its class says anything about the agent.
    pub(crate) fn failed(&mut self, agent: &AgentId, kind: &str, class: FailureClass) {
        if !TypeRecord::counts(class) {
            return;
        }
        if let Some(record) = self.slot(agent, kind) {
            record.note_failure();
        }
    }

    fn slot(&mut self, agent: &AgentId, kind: &str) -> Option<&mut TypeRecord> {
        let known = self
            .by_agent
            .get(agent)
            .is_some_and(|types| types.contains_key(kind));
        if !known && self.by_agent.values().map(BTreeMap::len).sum::<usize>() >= PAIRS_MAX {
            return None;
        }
        Some(
            self.by_agent
                .entry(agent.clone())
                .or_default()
                .entry(kind.to_owned())
                .or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_starts_at_one_half_and_follows_the_record() {
        let agent = AgentId::new("a").unwrap();
        let mut stats = Stats::default();
        assert!((stats.of(&agent, "t").confidence() - 0.5).abs() < 1e-9);
        for _ in 0..8 {
            stats.succeeded(&agent, "t", 100);
        }
        assert!((stats.of(&agent, "t").confidence() - 0.9).abs() < 1e-9);
        assert_eq!(stats.of(&agent, "t").mean_duration_ms(), Some(100));
        assert_eq!(stats.of(&agent, "other").mean_duration_ms(), None);
    }

    #[test]
    fn recent_failures_fade_while_later_attempts_succeed() {
        let agent = AgentId::new("a").unwrap();
        let mut stats = Stats::default();
        stats.failed(&agent, "t", FailureClass::Crash);
        let mut last = stats.of(&agent, "t").recent_failures();
        assert!(last > 0.1);
        for _ in 0..8 {
            stats.succeeded(&agent, "t", 1);
            let now = stats.of(&agent, "t").recent_failures();
            assert!(now < last);
            last = now;
        }
    }

    #[test]
    fn what_is_not_the_agents_doing_is_not_counted() {
        let agent = AgentId::new("a").unwrap();
        let mut stats = Stats::default();
        for class in [
            FailureClass::Lost,
            FailureClass::Cancelled,
            FailureClass::Quota,
            FailureClass::Declined,
        ] {
            stats.failed(&agent, "t", class);
        }
        assert_eq!(stats, Stats::default());
    }
}
