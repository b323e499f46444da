//! One child: its stop, by request, by force, or not at all.

use super::{
    ChildSpec, ChildState, Effect, ExitReason, Incarnation, Limit, Phase, Refusal, Reply, Report,
    Restart, Seat, Shutdown, StartCause, Supervisor, Turn, requests::Waiter,
};

impl Supervisor {
    /// Asks or kills a child that is starting or running, as its spec says.
    pub(super) fn ask_to_stop(&mut self, seat: Seat, bounce: bool, turn: &mut Turn<'_>) {
        let stop_deadline = self.stop_deadline();
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        let Some(incarnation) = child.state.incarnation() else {
            return;
        };
        let id = child.spec.id.clone();
        let allowed = match child.spec.shutdown {
            Shutdown::BrutalKill => None,
            Shutdown::Timeout(limit) => Some(limit),
            Shutdown::Infinity => Some(self.flags.infinity_cap),
        };
        let Some(allowed) = allowed else {
            child.state = ChildState::Stopping {
                incarnation,
                limit: Limit::Killed,
                until: turn.now,
                bounce,
            };
            return self.kill(seat, turn);
        };
        let deadline = turn.now.plus(allowed).min(stop_deadline);
        child.state = ChildState::Stopping {
            incarnation,
            limit: Limit::Asked,
            until: deadline,
            bounce,
        };
        turn.emit(Effect::Stop {
            child: id.clone(),
            incarnation,
            deadline,
        });
        if deadline <= turn.now {
            if let ChildState::Stopping { limit, .. } = &mut child.state {
                *limit = Limit::Killed;
            }
            return self.kill(seat, turn);
        }
        turn.emit(Effect::ArmLimit {
            child: id,
            incarnation,
            limit: Limit::Asked,
            at: deadline,
        });
    }

    fn kill(&self, seat: Seat, turn: &mut Turn<'_>) {
        let Some(child) = self.children.get(&seat) else {
            return;
        };
        let Some(incarnation) = child.state.incarnation() else {
            return;
        };
        let id = child.spec.id.clone();
        turn.emit(Effect::Kill {
            child: id.clone(),
            incarnation,
        });
        let at = turn.now.plus(self.flags.kill_limit);
        turn.emit(Effect::ArmLimit {
            child: id,
            incarnation,
            limit: Limit::Killed,
            at,
        });
    }

    pub(super) fn limit_reached(&mut self, seat: Seat, reached: Limit, turn: &mut Turn<'_>) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        let ChildState::Stopping {
            incarnation, limit, ..
        } = &mut child.state
        else {
            self.stale_count += 1;
            return;
        };
        let incarnation = *incarnation;
        match (*limit, reached) {
            (Limit::Asked, Limit::Asked) => {
                *limit = Limit::Killed;
                turn.report(Report::Overdue {
                    child: child.spec.id.clone(),
                    incarnation,
                });
                self.kill(seat, turn);
            }
            (Limit::Killed, Limit::Killed) => {
                self.stopped(seat, incarnation, ExitReason::Abandoned, turn);
            }
            (Limit::Asked, Limit::Killed) | (Limit::Killed, Limit::Asked) => self.stale_count += 1,
        }
    }

    /// A child that was told to stop while it was starting never ran, which is what was wanted.
    pub(super) fn start_given_up(
        &mut self,
        seat: Seat,
        incarnation: Incarnation,
        turn: &mut Turn<'_>,
    ) {
        let shutdown = self.children.get(&seat).map(|child| child.spec.shutdown);
        let reason = match shutdown {
            Some(Shutdown::BrutalKill) => ExitReason::Killed,
            Some(Shutdown::Timeout(_) | Shutdown::Infinity) | None => ExitReason::Shutdown(None),
        };
        self.stopped(seat, incarnation, reason, turn);
    }

    /// A child that was told to stop is down.
    pub(super) fn stopped(
        &mut self,
        seat: Seat,
        incarnation: Incarnation,
        reason: ExitReason,
        turn: &mut Turn<'_>,
    ) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        let ChildState::Stopping { bounce, .. } = child.state else {
            return;
        };
        child.state = ChildState::Down;
        let clean = is_clean(&child.spec, &reason);
        let temporary = child.spec.restart == Restart::Temporary;
        turn.report(Report::Stopped {
            child: child.spec.id.clone(),
            incarnation,
            reason,
            clean,
        });
        if let Some(Waiter::Terminate(id)) = child.waiter {
            child.waiter = None;
            turn.emit(Effect::Reply {
                id,
                result: Ok(Reply::Terminated),
            });
        }
        if matches!(self.phase, Phase::Ending(_)) {
            self.rest(seat, turn);
            self.go_on_ending(turn);
        } else if self.plan_will_restart(seat) {
            if temporary {
                self.forget_interrupted(seat, turn);
            }
            self.go_on_planning(turn);
        } else if bounce {
            self.start(seat, StartCause::Order, turn);
        } else {
            self.rest(seat, turn);
        }
    }

    /// Forgets a temporary child that a restart of the group has stopped, and tells who still waited for its start.
    fn forget_interrupted(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        if let Some(child) = self.children.get_mut(&seat) {
            let refusal = Refusal::Terminated(child.spec.id.clone());
            if let Some(waiter) = child.waiter.take() {
                waiter.answer(Err(refusal), turn);
            }
        }
        self.forget(seat, turn);
    }
}

/// Whether that is how the child should end when it is told to: as it was told, or by its own decision if that is not
/// one that would have it restarted.
fn is_clean(spec: &ChildSpec, reason: &ExitReason) -> bool {
    let permanent = spec.restart == Restart::Permanent;
    match (spec.shutdown, reason) {
        (Shutdown::BrutalKill, ExitReason::Killed)
        | (Shutdown::Timeout(_) | Shutdown::Infinity, ExitReason::Shutdown(None)) => true,
        _ => !permanent && !reason.is_abnormal(),
    }
}
