//! What people may want, and when they may not.

use super::{
    FaultEffect, FaultPolicy, FaultRefusal, FaultState, Order, QuarantineReason, ReasonKind, Turn,
    failures::Attempt,
};

impl FaultPolicy {
    pub(super) fn order(&mut self, order: Order, turn: &mut Turn<'_>) -> Result<(), FaultRefusal> {
        let state = self.record.state;
        match (order, state) {
            // Already so.
            (Order::Terminate, FaultState::Terminated) | (Order::Stop, FaultState::Stopped) => {
                Ok(())
            }
            (_, FaultState::Terminated) => Err(FaultRefusal::Terminated),
            (Order::Terminate, _) => {
                self.go(FaultState::Terminated, turn);
                turn.effects.push(FaultEffect::Stop);
                Ok(())
            }
            (
                Order::Quarantine {
                    kind,
                    severity,
                    description,
                },
                _,
            ) => {
                let reason = QuarantineReason {
                    kind,
                    description,
                    timestamp: turn.now,
                    severity,
                };
                self.record.reason = Some(reason.clone());
                self.order_quarantine(reason, turn);
                Ok(())
            }
            (Order::Recover { force }, FaultState::Quarantined) => {
                if self.is_exhausted() && !force {
                    return Err(FaultRefusal::MaxRetriesExceeded);
                }
                self.try_to_recover(turn);
                Ok(())
            }
            (Order::Recover { .. }, _) => Err(FaultRefusal::NotQuarantined),
            (
                Order::Start | Order::Stop | Order::Restart | Order::Resume,
                FaultState::Quarantined,
            ) => Err(FaultRefusal::Quarantined),
            // A recovery that was called off has no verdict yet, so it begins again.
            (Order::Start, FaultState::Stopped) if self.record.quarantine.is_some() => {
                self.try_to_recover(turn);
                Ok(())
            }
            (Order::Start, FaultState::Stopped) => {
                self.go(FaultState::Running, turn);
                self.start(turn);
                self.arm_running(turn);
                Ok(())
            }
            (Order::Restart | Order::Resume, FaultState::Stopped) => Err(FaultRefusal::Stopped),
            (Order::Stop, _) => {
                self.go(FaultState::Stopped, turn);
                // Its score stays, so the next failure comes back here; and so does a quarantine that it was on trial for.
                turn.effects.push(FaultEffect::Stop);
                Ok(())
            }
            (Order::Resume, _) => {
                turn.effects.push(FaultEffect::Resume);
                Ok(())
            }
            (Order::Start | Order::Restart, FaultState::Backoff | FaultState::Open) => {
                let at = self.record.timer.map_or(turn.now, |timer| timer.at);
                Err(FaultRefusal::NextAttemptAt { state, at })
            }
            (Order::Start, FaultState::Running) => Err(FaultRefusal::AlreadyRunning),
            (Order::Start | Order::Restart, FaultState::HalfOpen | FaultState::Recovering) => {
                Err(FaultRefusal::OnTrial { state })
            }
            (Order::Restart, FaultState::Running) => {
                let epoch = self.next_epoch();
                turn.effects.push(FaultEffect::Restart { epoch });
                self.arm_running(turn);
                Ok(())
            }
        }
    }

    fn order_quarantine(&mut self, reason: QuarantineReason, turn: &mut Turn<'_>) {
        if self.record.state == FaultState::Quarantined {
            self.worsen(reason, turn);
            return self.convict();
        }
        // Whoever names a cause wants it treated like that cause; who just wants it isolated decides when it ends.
        let attempt = if reason.kind == ReasonKind::Manual {
            Attempt::Same
        } else {
            Attempt::Next
        };
        self.quarantine(reason, attempt, turn);
    }
}
