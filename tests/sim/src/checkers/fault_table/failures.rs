//! The rows of the table that begin with a failure, or with one that is taken back.

use mesh_supervision_core::Timestamp;
use mesh_supervision_core::fault::{FaultState, ReasonKind, Severity};

use super::{FaultTable, HOUR, Ward};
use crate::checkers::fault_rules::recoveries;
use crate::edges::Edges;

impl FaultTable {
    /// The rows that begin with a scored failure. Counts first, then takes the first row that matches.
    pub(super) fn failure(
        &mut self,
        now: Timestamp,
        (severity, kind): (Severity, ReasonKind),
        edges: &mut Edges,
    ) {
        if self.state == FaultState::Terminated {
            return;
        }
        if self.state == FaultState::Running && now.since(self.since) >= HOUR {
            self.attempt = 0;
        }
        let mut severity = severity;
        if kind == ReasonKind::ResourceAbuse {
            self.abuses += 1;
            if self.abuses > 1 {
                severity = severity.max(Severity::High);
            }
        }
        self.score += 1;
        self.worst = self.worst.max(Some(severity));
        let window = self.config.crash_window;
        for (times, window) in [(&mut self.crashes, window), (&mut self.hour, HOUR)] {
            times.push(now);
            times.retain(|then| now.since(*then) <= window);
        }
        let live = !matches!(
            self.state,
            FaultState::Quarantined | FaultState::Stopped | FaultState::Terminated
        );
        let critical = severity == Severity::Critical;
        match self.state {
            FaultState::Quarantined => {
                edges.hit("fault table", "quarantined, a worse failure: quarantined");
                let was_exhausted = self.exhausted();
                self.worsen((severity, kind));
                self.step.escalates |= self.config.essential && self.exhausted() && !was_exhausted;
                if critical && let Some(ward) = &mut self.ward {
                    ward.counted = false;
                }
            }
            _ if critical => {
                edges.hit("fault table", "any, critical failure: quarantined");
                self.quarantine(now, (severity, kind), false, false);
                self.step.escalates |= self.config.essential && self.exhausted();
            }
            FaultState::Recovering => {
                edges.hit("fault table", "recovering, scored failure: quarantined");
                self.quarantine(now, (severity, kind), true, false);
                self.step.escalates |= self.config.essential && self.exhausted();
            }
            _ if live && self.over_score() => {
                edges.hit(
                    "fault table",
                    if self.score >= self.config.quarantine_threshold {
                        "live, score at the threshold: quarantined"
                    } else {
                        "live, more than the hour bears: quarantined"
                    },
                );
                self.quarantine(now, (severity, kind), true, true);
                self.step.escalates |= self.config.essential && self.exhausted();
            }
            FaultState::Running | FaultState::Backoff if self.over_crashes() => {
                edges.hit(
                    "fault table",
                    "running or backoff, too many in the window: open",
                );
                self.open(now);
            }
            FaultState::Running if self.config.auto_restart => {
                edges.hit("fault table", "running, scored failure: backoff");
                self.back_off(now);
            }
            FaultState::Running => {
                edges.hit(
                    "fault table",
                    "running, scored failure, no auto_restart: stopped",
                );
                self.stop(now);
            }
            FaultState::Backoff => {
                edges.hit(
                    "fault table",
                    "backoff, failure of another replica: backoff",
                );
                self.back_off(now);
            }
            FaultState::Open => {
                edges.hit("fault table", "open, failure of another replica: open");
                self.at(now.plus(self.last_delay));
            }
            FaultState::HalfOpen => {
                edges.hit("fault table", "half_open, scored failure: open");
                self.open(now);
            }
            FaultState::Stopped | FaultState::Terminated => {
                edges.hit("fault table", "stopped, scored failure: counted");
            }
        }
    }

    pub(super) fn quarantine(
        &mut self,
        now: Timestamp,
        (severity, kind): (Severity, ReasonKind),
        next: bool,
        counted: bool,
    ) {
        let failed = match (self.state, &self.ward) {
            (FaultState::Recovering, Some(ward)) => ward.failed + 1,
            (FaultState::Recovering, None) => 1,
            _ => self.attempt,
        };
        self.attempt += u32::from(next);
        let severity = self.worst.map_or(severity, |worst| worst.max(severity));
        self.worst = Some(severity);
        let manual = kind == ReasonKind::Manual;
        let allowed = if manual { 0 } else { recoveries(severity).0 };
        let attempts = self
            .ward
            .as_ref()
            .map_or(allowed, |ward| ward.attempts.min(allowed));
        self.ward = Some(Ward {
            severity,
            failed,
            attempts,
            counted,
        });
        self.go(FaultState::Quarantined, now);
        self.step.isolates = true;
        if !self.exhausted() && self.attempt > 0 && attempts > 0 {
            let first = recoveries(severity).1;
            self.at(now.plus(first.saturating_mul(1 << (self.attempt - 1).min(30))));
        }
    }

    pub(super) fn worsen(&mut self, (severity, kind): (Severity, ReasonKind)) {
        let manual = kind == ReasonKind::Manual;
        let allowed = if manual { 0 } else { recoveries(severity).0 };
        let Some(ward) = &mut self.ward else { return };
        ward.severity = ward.severity.max(severity);
        ward.attempts = ward.attempts.min(allowed);
        self.worst = self.worst.max(Some(ward.severity));
        if self.exhausted() || manual {
            self.due = None;
        }
    }

    pub(super) fn refund(&mut self, now: Timestamp, failures: u32, edges: &mut Edges) {
        self.score = self.score.saturating_sub(failures);
        let left = self.crashes.len().saturating_sub(failures as usize);
        self.crashes.truncate(left);
        let counted = self.ward.as_ref().is_some_and(|ward| ward.counted);
        match self.state {
            FaultState::Quarantined if counted && !self.over_score() => {
                edges.hit("fault table", "quarantined by count, refunded: out again");
                self.ward = None;
                self.attempt = self.attempt.saturating_sub(1);
                if self.over_crashes() {
                    self.open(now);
                } else {
                    self.close_breaker(now);
                }
            }
            FaultState::Open if !self.over_crashes() => {
                edges.hit("fault table", "open, refunded: backoff");
                self.cool_downs = self.cool_downs.saturating_sub(1);
                self.close_breaker(now);
            }
            _ => edges.hit("fault table", "refunded elsewhere: counted down"),
        }
    }

    pub(super) fn close_breaker(&mut self, now: Timestamp) {
        if self.config.auto_restart {
            self.back_off(now);
        } else {
            self.stop(now);
        }
    }
}
