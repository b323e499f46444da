//! What a fault policy allows.

use std::time::Duration;

use super::record::Severity;

/// How many restart times are kept at most, so that a record stays small whatever it is configured to.
pub const CRASHES_KEPT_MAX: usize = 1_000;

/// The window of [`FaultConfig::hourly_max`], and how long an agent must run without a scored failure before its
/// recovery attempts are forgotten.
pub const HOUR: Duration = Duration::from_hours(1);

/// What one agent may do wrong before what happens. The defaults are meshd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultConfig {
    /// How many scored failures within [`FaultConfig::crash_window`] are answered by a restart; the next one opens
    /// the breaker. 3.
    pub max_crashes: u32,
    /// The window, both edges included. 60 s.
    pub crash_window: Duration,
    /// The score that quarantines. 5.
    pub quarantine_threshold: u32,
    /// Whether it is restarted at all. True.
    pub auto_restart: bool,
    /// How many scored failures within an hour are borne; one more quarantines. 12.
    pub hourly_max: u32,
    /// The delays before restarts, doubling from `base` to `cap`; each is shortened by up to half by jitter.
    /// 200 ms to 30 s.
    pub backoff: Ladder,
    /// The times for which the breaker stays open, doubling from `base` to `cap`. 5 s to 60 s.
    pub cool_down: Ladder,
    /// How long a half-open agent must be up and idle to be trusted again. 10 s.
    pub half_open_idle: Duration,
    /// The least time up after which its score is forgotten; twice the last delay when that is longer. 60 s.
    pub stable_min: Duration,
    /// How long an agent in recovery must be up before it counts as recovered. 60 s.
    pub recovering: Duration,
    /// Whether an exhausted agent is its parent's failure too. False.
    pub essential: bool,
}

/// Delays that double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    /// The first.
    pub base: Duration,
    /// The longest.
    pub cap: Duration,
}

impl Ladder {
    /// The delay after `doublings` earlier ones.
    pub fn delay(&self, doublings: u32) -> Duration {
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self {
            max_crashes: 3,
            crash_window: Duration::from_mins(1),
            quarantine_threshold: 5,
            auto_restart: true,
            hourly_max: 12,
            backoff: Ladder {
                base: Duration::from_millis(200),
                cap: Duration::from_secs(30),
            },
            cool_down: Ladder {
                base: Duration::from_secs(5),
                cap: Duration::from_mins(1),
            },
            half_open_idle: Duration::from_secs(10),
            stable_min: Duration::from_mins(1),
            recovering: Duration::from_mins(1),
            essential: false,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultConfigError {
    /// A time is zero; the agent would be started without pause.
    #[error("{field} is zero")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// A cap is below its base.
    #[error("the cap of {field} is below its base")]
    CapBelowBase {
        /// Which.
        field: &'static str,
    },
    /// A limit would need more failures to be remembered than [`CRASHES_KEPT_MAX`].
    #[error("{field} is above {CRASHES_KEPT_MAX}")]
    TooLarge {
        /// Which.
        field: &'static str,
    },
}

impl FaultConfig {
    /// Checks that every wait has a length and every limit can be kept.
    ///
    /// # Errors
    /// The first [`FaultConfigError`] found.
    pub fn check(&self) -> Result<(), FaultConfigError> {
        let times = [
            ("crash_window", self.crash_window),
            ("backoff", self.backoff.base),
            ("cool_down", self.cool_down.base),
            ("half_open_idle", self.half_open_idle),
            ("stable_min", self.stable_min),
            ("recovering", self.recovering),
        ];
        if let Some((field, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(FaultConfigError::Zero { field });
        }
        if self.quarantine_threshold == 0 {
            return Err(FaultConfigError::Zero {
                field: "quarantine_threshold",
            });
        }
        for (field, ladder) in [("backoff", self.backoff), ("cool_down", self.cool_down)] {
            if ladder.cap < ladder.base {
                return Err(FaultConfigError::CapBelowBase { field });
            }
        }
        for (field, limit) in [
            ("max_crashes", self.max_crashes),
            ("hourly_max", self.hourly_max),
        ] {
            if usize::try_from(limit).is_ok_and(|limit| limit >= CRASHES_KEPT_MAX) {
                return Err(FaultConfigError::TooLarge { field });
            }
        }
        Ok(())
    }
}

/// How many recovery attempts are made by themselves after a quarantine of this severity, and after which delay the
/// first; each further delay doubles.
pub const fn recovery(severity: Severity) -> (u32, Duration) {
    match severity {
        Severity::Low => (5, Duration::from_secs(30)),
        Severity::Medium => (3, Duration::from_mins(1)),
        Severity::High => (1, Duration::from_mins(5)),
        Severity::Critical => (0, Duration::MAX),
    }
}
