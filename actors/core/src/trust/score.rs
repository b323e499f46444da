//! The arithmetic of trust, in whole numbers: equal histories give equal levels on every machine.
//!
//! Exponential smoothing with two rates: a good outcome takes a score a small part of the way up to 1, a bad one a large part
//! of the way down to 0. That is the forgetting of beta reputation (Jøsang and Ismail, "The Beta Reputation System", 2002)
//! with different weights for good and bad outcomes, since trust is lost sooner than won (Slovic, "Perceived Risk, Trust,
//! and Democracy", 1993). Between outcomes a score drifts to where an unknown agent stands, with a half-life.

use std::time::Duration;

use mesh_messages::trust::{TrustEvidence, TrustLevel};
use mesh_messages::{FailureClass, Severity, Timestamp};
use serde::{Deserialize, Serialize};

/// The score of an agent of which nothing is known: above the default threshold of 0.7, so that the first task of a new mesh
/// finds somebody, and so little above it that one broken contract is too much.
pub const START: TrustLevel = TrustLevel::from_millionths(750_000);

/// Parts of the way up to 1 that a result takes which another agent verified, a command in the agent's own sandbox, or a
/// schema alone: it tells the form of an output, not whether it is right. From one broken contract below the starting score
/// back to 0.7 it takes 6, 12 or 24 of them.
const UP_AGENT: u32 = 16;
const UP_COMMAND: u32 = 32;
const UP_SCHEMA: u32 = 64;

/// What of a score is left after a broken contract: meshd or a verifier saw a result that is wrong.
const AFTER_CONTRACT: (u32, u32) = (3, 4);
/// What is left after a crash, a hang, an exceeded limit or lost time: it may be the task's doing.
const AFTER_STUMBLE: (u32, u32) = (15, 16);

/// In which time half of the distance to the resting place is gone: deeds count for more than time.
pub const HALF_LIFE: Duration = Duration::from_hours(7 * 24);
/// Time counts in whole steps of this.
pub(super) const STEP: Duration = Duration::from_hours(1);
/// What of the distance is left after one step, in parts of 2³²: 2³² · 2^(−1/168).
const LEFT_AFTER_STEP: u64 = 4_277_283_299;
/// Steps after which nothing is left of any distance: half of a million, 20 times and more.
const STEPS_MAX: u64 = 168 * 24;

/// A level at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Score {
    /// What it was.
    pub(super) level: TrustLevel,
    /// From when on time counts.
    pub(super) since: Timestamp,
}

impl Score {
    /// What it is now, and from when on time counts: what is left of a step is not lost.
    pub(super) fn at(self, now: Timestamp, rest: TrustLevel) -> Self {
        let step = u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX);
        let steps = now.as_millis().saturating_sub(self.since.as_millis()) / step;
        Self {
            level: drifted(self.level, rest, steps),
            since: Timestamp::from_millis(self.since.as_millis() + steps * step),
        }
    }

    /// When time alone has brought it up to `least`, if ever: at `now` at the earliest.
    pub(super) fn reaches(
        self,
        least: TrustLevel,
        now: Timestamp,
        rest: TrustLevel,
    ) -> Option<Timestamp> {
        let here = self.at(now, rest);
        if here.level >= least {
            return Some(now);
        }
        if rest < least {
            return None;
        }
        // The first step with which it is there: what is left of a distance never grows.
        let (mut low, mut high) = (1, STEPS_MAX);
        while low < high {
            let middle = low.midpoint(high);
            if drifted(here.level, rest, middle) >= least {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let step = u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX);
        Some(Timestamp::from_millis(
            here.since.as_millis().saturating_add(low * step),
        ))
    }
}

fn drifted(level: TrustLevel, rest: TrustLevel, steps: u64) -> TrustLevel {
    let distance = u64::from(level.millionths().abs_diff(rest.millionths()));
    // Below 2²⁰ times below 2³²: it fits.
    let left = u32::try_from((distance * left_after(steps)) >> 32).unwrap_or(u32::MAX);
    TrustLevel::from_millionths(if level < rest {
        rest.millionths() - left
    } else {
        rest.millionths() + left
    })
}

/// What is left of a distance after so many steps, in parts of 2³².
fn left_after(steps: u64) -> u64 {
    if steps >= STEPS_MAX {
        return 0;
    }
    let (mut left, mut power, mut steps) = (1_u64 << 32, LEFT_AFTER_STEP, steps);
    while steps > 0 {
        if steps & 1 == 1 {
            left = (left * power) >> 32;
        }
        power = (power * power) >> 32;
        steps >>= 1;
    }
    left
}

/// After a result that was verified.
pub(super) fn raised(level: TrustLevel, by: TrustEvidence) -> TrustLevel {
    let part = match by {
        TrustEvidence::Agent => UP_AGENT,
        TrustEvidence::Command => UP_COMMAND,
        TrustEvidence::Schema => UP_SCHEMA,
    };
    let missing = TrustLevel::FULL.millionths() - level.millionths();
    TrustLevel::from_millionths(level.millionths() + missing / part)
}

/// What is left of a score after a failure of this class; `None` when it tells nothing of the agent.
///
/// What breaks rules lowers the conduct instead, by the record in the agent's own log.
pub(super) const fn left_of(class: FailureClass) -> Option<(u32, u32)> {
    match class {
        FailureClass::Contract => Some(AFTER_CONTRACT),
        FailureClass::Crash
        | FailureClass::Hang
        | FailureClass::Resource
        | FailureClass::Timeout => Some(AFTER_STUMBLE),
        FailureClass::Start
        | FailureClass::Unavailable
        | FailureClass::Quota
        | FailureClass::Refusal
        | FailureClass::Declined
        | FailureClass::Auth
        | FailureClass::Policy
        | FailureClass::Lost
        | FailureClass::Cancelled => None,
    }
}

/// What is left of the conduct after something this bad.
pub(super) const fn left_after_misdeed(severity: Severity) -> (u32, u32) {
    match severity {
        Severity::Low => (3, 4),
        Severity::Medium => (1, 2),
        Severity::High => (1, 4),
        Severity::Critical => (0, 1),
    }
}

/// The part of a level that is left, rounded down.
pub(super) fn lowered(level: TrustLevel, (left, of): (u32, u32)) -> TrustLevel {
    TrustLevel::from_millionths(level.millionths() * left / of)
}
