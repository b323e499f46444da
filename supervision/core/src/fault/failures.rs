//! Failures: counted first, then answered by the first row of the table that matches.

use std::time::Duration;

use super::{
    CRASHES_KEPT_MAX, Failure, FaultEffect, FaultPolicy, FaultState, HOUR, Permit,
    QuarantineReason, QuarantineRecord, ReasonKind, Severity, Turn, recovery,
};
use crate::{Timestamp, time::nanos};

/// Whether a quarantine is one more step towards exhaustion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The next recovery is the next attempt.
    Next,
    /// So it is, and the number of failures alone led here.
    Counted,
    /// As it was.
    Same,
}

impl FaultPolicy {
    pub(super) fn failure(&mut self, failure: Failure, turn: &mut Turn<'_>) {
        if !failure.scored {
            return self.ended_without_verdict(turn);
        }
        if self.record.state == FaultState::Terminated {
            return;
        }
        let reason = self.count(failure, turn.now);
        let critical = reason.severity == Severity::Critical;
        match self.record.state {
            FaultState::Quarantined => {
                let was_exhausted = self.is_exhausted();
                self.worsen(reason, turn);
                if !was_exhausted {
                    self.escalate_if_exhausted(turn);
                }
                if critical {
                    self.convict();
                }
            }
            FaultState::Running
            | FaultState::Backoff
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Recovering
            | FaultState::Stopped
                if critical =>
            {
                self.quarantine(reason, Attempt::Same, turn);
                self.escalate_if_exhausted(turn);
            }
            FaultState::Stopped | FaultState::Terminated => {}
            FaultState::Recovering => {
                self.quarantine(reason, Attempt::Next, turn);
                self.escalate_if_exhausted(turn);
            }
            FaultState::Running | FaultState::Backoff | FaultState::Open | FaultState::HalfOpen
                if self.is_over_threshold() =>
            {
                self.quarantine(reason, Attempt::Counted, turn);
                self.escalate_if_exhausted(turn);
            }
            FaultState::Running | FaultState::Backoff if self.is_over_max_crashes() => {
                self.open(turn);
            }
            FaultState::Running if self.config.auto_restart => self.back_off(turn),
            FaultState::Running => {
                self.go(FaultState::Stopped, turn);
                turn.effects.push(FaultEffect::Stop);
            }
            FaultState::Backoff => self.back_off(turn),
            FaultState::Open => {
                // The same cool-down from now on; only a failed trial doubles it.
                self.disarm(turn);
                self.arm(turn.now.plus(self.record.last_delay), turn);
            }
            FaultState::HalfOpen => self.open(turn),
        }
    }

    fn count(&mut self, failure: Failure, now: Timestamp) -> QuarantineReason {
        let record = &mut self.record;
        if record.state == FaultState::Running && now.since(record.since) >= HOUR {
            // The timer may not have been delivered yet.
            record.recovery_attempt = 0;
        }
        let mut severity = failure.severity;
        if failure.kind == ReasonKind::ResourceAbuse {
            record.resource_failures = record.resource_failures.saturating_add(1);
            if record.resource_failures > 1 {
                severity = severity.max(Severity::High);
            }
        }
        record.score = record.score.saturating_add(1);
        record.worst = record.worst.max(Some(severity));
        remember(&mut record.crashes, now, self.config.crash_window);
        remember(&mut record.hour, now, HOUR);
        let Failure {
            kind, description, ..
        } = failure;
        let reason = QuarantineReason {
            kind,
            description,
            timestamp: now,
            severity,
        };
        record.reason = Some(reason.clone());
        reason
    }

    /// No refund leads out of its quarantine any more.
    pub(super) fn convict(&mut self) {
        if let Some(quarantine) = &mut self.record.quarantine {
            quarantine.counted = false;
        }
    }

    /// Takes failures back that were a task's fault, and with them what followed from their number alone.
    ///
    /// The hour forgets by age alone, so what it led to stays.
    pub(super) fn refund(&mut self, failures: u32, turn: &mut Turn<'_>) {
        let record = &mut self.record;
        record.score = record.score.saturating_sub(failures);
        let left = record.crashes.len().saturating_sub(failures as usize);
        record.crashes.truncate(left);
        let counted = record.quarantine.as_ref().is_some_and(|q| q.counted);
        match self.record.state {
            FaultState::Quarantined if counted && !self.is_over_threshold() => {
                self.record.quarantine = None;
                self.record.recovery_attempt = self.record.recovery_attempt.saturating_sub(1);
                if self.is_over_max_crashes() {
                    self.open(turn);
                } else {
                    self.close_breaker(turn);
                }
                turn.effects.push(FaultEffect::Acquitted);
            }
            FaultState::Open if !self.is_over_max_crashes() => {
                self.record.cool_downs = self.record.cool_downs.saturating_sub(1);
                self.close_breaker(turn);
            }
            FaultState::Running
            | FaultState::Backoff
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Quarantined
            | FaultState::Recovering
            | FaultState::Stopped
            | FaultState::Terminated => {}
        }
    }

    /// What the failures that are left allow: a restart after a delay, as after any of them.
    fn close_breaker(&mut self, turn: &mut Turn<'_>) {
        if self.config.auto_restart {
            self.back_off(turn);
        } else {
            self.go(FaultState::Stopped, turn);
            turn.effects.push(FaultEffect::Stop);
        }
    }

    fn is_over_threshold(&self) -> bool {
        self.record.score >= self.config.quarantine_threshold
            || exceeds(self.record.hour.len(), self.config.hourly_max)
    }

    fn is_over_max_crashes(&self) -> bool {
        exceeds(self.record.crashes.len(), self.config.max_crashes)
    }

    /// Waits for the next delay of the ladder, less up to half of it.
    fn back_off(&mut self, turn: &mut Turn<'_>) {
        let full = self.config.backoff.delay(self.record.backoffs);
        let delay = equal_jitter(full, turn.random);
        self.record.backoffs = self.record.backoffs.saturating_add(1);
        self.record.last_delay = delay;
        if self.record.state == FaultState::Backoff {
            self.disarm(turn);
        } else {
            self.go(FaultState::Backoff, turn);
        }
        self.arm(turn.now.plus(delay), turn);
    }

    fn open(&mut self, turn: &mut Turn<'_>) {
        let delay = self.config.cool_down.delay(self.record.cool_downs);
        self.record.cool_downs = self.record.cool_downs.saturating_add(1);
        self.record.last_delay = delay;
        self.go(FaultState::Open, turn);
        self.arm(turn.now.plus(delay), turn);
    }

    /// Enters quarantine from any other state.
    pub(super) fn quarantine(
        &mut self,
        reason: QuarantineReason,
        attempt: Attempt,
        turn: &mut Turn<'_>,
    ) {
        let failed_before = match self.record.state {
            FaultState::Recovering => self
                .record
                .quarantine
                .as_ref()
                .map_or(0, |before| before.retry_count)
                .saturating_add(1),
            FaultState::Running
            | FaultState::Backoff
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Quarantined
            | FaultState::Stopped
            | FaultState::Terminated => self.record.recovery_attempt,
        };
        if attempt != Attempt::Same {
            self.record.recovery_attempt = self.record.recovery_attempt.saturating_add(1);
        }
        let severity = self
            .record
            .worst
            .map_or(reason.severity, |worst| worst.max(reason.severity));
        self.record.worst = Some(severity);
        let allowed = retries(&reason, severity);
        // What was allowed before the recovery that failed is not widened by how it failed.
        let before = self
            .record
            .quarantine
            .as_ref()
            .map(|before| before.max_retries);
        let max_retries = before.map_or(allowed, |before| before.min(allowed));
        self.record.quarantine = Some(QuarantineRecord {
            quarantined_at: turn.now,
            reason: QuarantineReason { severity, ..reason },
            retry_count: failed_before,
            max_retries,
            counted: attempt == Attempt::Counted,
        });
        self.go(FaultState::Quarantined, turn);
        self.isolate(turn);
        let k = self.record.recovery_attempt;
        if !self.is_exhausted() && k > 0 && max_retries > 0 {
            let delay = recovery(severity)
                .1
                .saturating_mul(1_u32.checked_shl(k - 1).unwrap_or(u32::MAX));
            self.arm(turn.now.plus(delay), turn);
        }
    }

    /// Something bad, or an order, while already in quarantine. An order never escalates, so that is up to the caller.
    pub(super) fn worsen(&mut self, reason: QuarantineReason, turn: &mut Turn<'_>) {
        let Some(quarantine) = &mut self.record.quarantine else {
            return;
        };
        let manual = reason.kind == ReasonKind::Manual;
        let allowed = if manual {
            0
        } else {
            recovery(reason.severity).0
        };
        let severity = quarantine.reason.severity.max(reason.severity);
        if reason.severity > quarantine.reason.severity || manual {
            quarantine.reason = QuarantineReason { severity, ..reason };
        }
        quarantine.max_retries = quarantine.max_retries.min(allowed);
        self.record.worst = self.record.worst.max(Some(severity));
        // A manual order without any attempt so far is not exhausted, but nothing recovers by itself any more.
        if self.is_exhausted() || manual {
            self.disarm(turn);
        }
    }

    pub(super) fn isolate(&self, turn: &mut Turn<'_>) {
        if let Some(quarantine) = &self.record.quarantine {
            let (reason, exhausted) = (quarantine.reason.clone(), self.is_exhausted());
            turn.effects
                .push(FaultEffect::Isolate { reason, exhausted });
        }
    }

    fn escalate_if_exhausted(&self, turn: &mut Turn<'_>) {
        if self.config.essential
            && self.is_exhausted()
            && let Some(quarantine) = &self.record.quarantine
        {
            turn.effects.push(FaultEffect::Escalate {
                reason: quarantine.reason.clone(),
            });
        }
    }

    /// Whatever was under way on trial is over and proved nothing.
    pub(super) fn ended_without_verdict(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.record.permit, Some(Permit::Taken(_))) {
            return;
        }
        self.record.permit = Some(Permit::Free);
        // It has to be idle for a while from now on before idleness speaks for it.
        let idle = turn.now.plus(self.config.half_open_idle);
        if self.record.timer.is_none_or(|timer| timer.at < idle) {
            self.disarm(turn);
            self.arm(idle, turn);
        }
    }
}

/// How many recoveries are tried by themselves.
fn retries(reason: &QuarantineReason, severity: Severity) -> u32 {
    if reason.kind == ReasonKind::Manual {
        0
    } else {
        recovery(severity).0
    }
}

fn remember(times: &mut Vec<Timestamp>, now: Timestamp, window: Duration) {
    times.push(now);
    // Both edges count. A clock that went back keeps entries longer, never shorter.
    times.retain(|&time| now.since(time) <= window);
    if times.len() > CRASHES_KEPT_MAX {
        times.remove(0);
    }
}

fn exceeds(count: usize, max: u32) -> bool {
    u32::try_from(count).map_or(true, |count| count > max)
}

/// Half of the delay, and a random part of the other half.
fn equal_jitter(delay: Duration, random: u64) -> Duration {
    let whole = nanos(delay);
    let half = whole / 2;
    let part = (u128::from(whole - half) * u128::from(random)) >> 64;
    // `part` is below `whole - half`, a u64; one nanosecond is added so that the whole delay can be reached.
    let part = u64::try_from(part).unwrap_or(u64::MAX).saturating_add(1);
    Duration::from_nanos(half.saturating_add(part).min(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_away_at_most_half() {
        let delay = Duration::from_millis(200);
        assert_eq!(equal_jitter(delay, u64::MAX), delay);
        assert_eq!(equal_jitter(delay, 0), Duration::from_nanos(100_000_001));
        for random in [1, 1 << 20, 1 << 40, 1 << 63] {
            let jittered = equal_jitter(delay, random);
            assert!(delay / 2 < jittered && jittered <= delay, "{jittered:?}");
        }
    }
}
