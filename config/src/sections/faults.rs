//! Restarts, backoff, breaker and recovery.

use mesh_messages::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Restarts, backoff, breaker and recovery of agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SupervisionConfig {
    /// Window of `max_crashes`.
    pub crash_window: Span,
    /// Scored failures within an hour that are borne; one more quarantines.
    #[schemars(range(min = 1, max = 999))]
    pub hourly_max: u32,
    /// Delay before the first restart; it doubles.
    pub backoff_base: Span,
    /// Longest delay before a restart.
    pub backoff_max: Span,
    /// Time for which the breaker first stays open; it doubles.
    pub cool_down_base: Span,
    /// Longest time for which the breaker stays open.
    pub cool_down_max: Span,
    /// Time that a half-open agent must be up and idle to be trusted again.
    pub half_open_idle: Span,
    /// Least time up after which an agent's score is forgotten.
    pub stable_after: Span,
    /// Time that an agent in recovery must be up to count as recovered.
    pub recovering: Span,
    /// Time from the start of an instance to its handshake.
    pub start_timeout: Span,
    /// Time that an instance gets to end by itself; then it is killed.
    pub stop_timeout: Span,
    /// Time that an instance gets to drop a cancelled task; then it is killed.
    pub cancel_timeout: Span,
    /// Lines that are read per second from one instance. A faster one waits; nothing is lost.
    #[schemars(range(min = 1))]
    pub lines_per_second: u32,
}

impl Default for SupervisionConfig {
    fn default() -> Self {
        Self {
            crash_window: Span::from_secs(60),
            hourly_max: 12,
            backoff_base: Span::from_millis(200),
            backoff_max: Span::from_secs(30),
            cool_down_base: Span::from_secs(5),
            cool_down_max: Span::from_secs(60),
            half_open_idle: Span::from_secs(10),
            stable_after: Span::from_secs(60),
            recovering: Span::from_secs(60),
            start_timeout: Span::from_secs(10),
            stop_timeout: Span::from_secs(10),
            cancel_timeout: Span::from_secs(5),
            // Far above what an agent at work writes; a loop of prints does not fill the disk.
            lines_per_second: 10_000,
        }
    }
}
