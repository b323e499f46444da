//! One child: its start, its end, its restart.

use super::{
    AutoShutdown, ChildState, Effect, End, ExitReason, Incarnation, Limit, Phase, Refusal, Reply,
    Report, Restart, Seat, StartCause, Strategy, Supervisor, Turn,
};

impl Supervisor {
    pub(super) fn start(&mut self, seat: Seat, cause: StartCause, turn: &mut Turn<'_>) {
        self.incarnation_last += 1;
        let incarnation = Incarnation(self.incarnation_last);
        if let Some(child) = self.children.get_mut(&seat) {
            child.state = ChildState::Starting { incarnation, cause };
            turn.emit(Effect::Start {
                child: child.spec.id.clone(),
                incarnation,
            });
        }
    }

    pub(super) fn started(&mut self, seat: Seat, incarnation: Incarnation, turn: &mut Turn<'_>) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        match child.state {
            ChildState::Starting { .. } => {
                child.state = ChildState::Running { incarnation };
                let id = child.spec.id.clone();
                let waiter = child.waiter.take();
                turn.report(Report::Started {
                    child: id,
                    incarnation,
                });
                if let Some(waiter) = waiter {
                    waiter.answer(Ok(Reply::Started(incarnation)), turn);
                }
                self.plan_started(seat, turn);
            }
            // The start won against its own cancellation: what was only asked of the start is now asked of the child.
            ChildState::Stopping { limit, .. } => {
                let child_id = child.spec.id.clone();
                turn.emit(match limit {
                    Limit::Asked => Effect::Stop {
                        child: child_id,
                        incarnation,
                        deadline: turn.now,
                    },
                    Limit::Killed => Effect::Kill {
                        child: child_id,
                        incarnation,
                    },
                });
            }
            ChildState::Down | ChildState::Running { .. } | ChildState::Restarting { .. } => {
                self.stale_count += 1;
            }
        }
    }

    pub(super) fn ignored(&mut self, seat: Seat, incarnation: Incarnation, turn: &mut Turn<'_>) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        match child.state {
            ChildState::Starting { cause, .. } => {
                if let Some(waiter) = child.waiter.take() {
                    waiter.answer(Ok(Reply::Ignored), turn);
                }
                if cause == StartCause::Order {
                    // It was listed while it was down, and is so again, even if temporary.
                    child.state = ChildState::Down;
                } else {
                    self.rest(seat, turn);
                }
                self.plan_started(seat, turn);
            }
            ChildState::Stopping { .. } => self.start_given_up(seat, incarnation, turn),
            ChildState::Down | ChildState::Running { .. } | ChildState::Restarting { .. } => {
                self.stale_count += 1;
            }
        }
    }

    pub(super) fn start_failed(
        &mut self,
        seat: Seat,
        incarnation: Incarnation,
        reason: String,
        turn: &mut Turn<'_>,
    ) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        let cause = match child.state {
            ChildState::Starting { cause, .. } => cause,
            ChildState::Stopping { .. } => return self.start_given_up(seat, incarnation, turn),
            ChildState::Down | ChildState::Running { .. } | ChildState::Restarting { .. } => {
                self.stale_count += 1;
                return;
            }
        };
        let id = child.spec.id.clone();
        turn.report(Report::StartFailed {
            child: id.clone(),
            incarnation,
            reason: reason.clone(),
        });
        if let Some(waiter) = child.waiter.take() {
            waiter.answer(
                Err(Refusal::StartFailed {
                    child: id.clone(),
                    reason: reason.clone(),
                }),
                turn,
            );
        }
        match cause {
            StartCause::Add => {
                self.forget(seat, turn);
                self.plan_started(seat, turn);
            }
            StartCause::Order => {
                child.state = ChildState::Down;
                self.plan_started(seat, turn);
            }
            StartCause::Boot => {
                child.state = ChildState::Down;
                self.end(End::BootFailed { child: id, reason }, None, turn);
            }
            StartCause::Restart => {
                child.state = ChildState::Restarting { incarnation };
                self.plan_failed(seat, turn);
                turn.emit(Effect::RetryStart {
                    child: id,
                    incarnation,
                });
            }
        }
    }

    pub(super) fn retry_start(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        // A restart of the group that has begun meanwhile starts it, too.
        if self.plan_will_restart(seat) {
            return;
        }
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        if matches!(child.state, ChildState::Restarting { .. })
            && matches!(self.phase, Phase::Serving(_))
        {
            child.state = ChildState::Down;
            self.restart(seat, "its restart failed", turn);
        }
    }

    pub(super) fn exited(
        &mut self,
        seat: Seat,
        incarnation: Incarnation,
        reason: ExitReason,
        turn: &mut Turn<'_>,
    ) {
        let Some(child) = self.children.get(&seat) else {
            return;
        };
        match child.state {
            ChildState::Running { .. } => self.ended_by_itself(seat, incarnation, reason, turn),
            ChildState::Starting { .. } => {
                self.start_failed(seat, incarnation, reason.to_string(), turn);
            }
            ChildState::Stopping { .. } => self.stopped(seat, incarnation, reason, turn),
            ChildState::Down | ChildState::Restarting { .. } => self.stale_count += 1,
        }
    }

    fn ended_by_itself(
        &mut self,
        seat: Seat,
        incarnation: Incarnation,
        reason: ExitReason,
        turn: &mut Turn<'_>,
    ) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        child.state = ChildState::Down;
        let restart = child.spec.restart;
        let significant = child.spec.significant;
        turn.report(Report::Exited {
            child: child.spec.id.clone(),
            incarnation,
            reason: reason.clone(),
            restart,
        });
        if matches!(self.phase, Phase::Ending(_)) {
            self.rest(seat, turn);
            return self.go_on_ending(turn);
        }
        if self.plan_will_restart(seat) {
            // The group is being stopped anyway: two crashes at once are one restart of the group.
            if restart == Restart::Temporary {
                self.forget(seat, turn);
            }
            return;
        }
        let wanted = match restart {
            Restart::Permanent => true,
            Restart::Transient => reason.is_abnormal(),
            Restart::Temporary => false,
        };
        if wanted {
            return self.restart(seat, &reason.to_string(), turn);
        }
        self.rest(seat, turn);
        self.significant_ended |= significant;
    }

    /// Restarts the child, and whoever the strategy adds, if the intensity allows. The child is down.
    fn restart(&mut self, seat: Seat, reason: &str, turn: &mut Turn<'_>) {
        let Some(id) = self.children.get(&seat).map(|child| child.spec.id.clone()) else {
            return;
        };
        let (intensity, period) = (self.flags.intensity, self.flags.period);
        match self.restarts.count(turn.now, intensity, period) {
            Err(()) => {
                turn.report(Report::LimitExceeded {
                    child: id.clone(),
                    intensity,
                    period,
                });
                let reason = reason.to_owned();
                self.end(
                    End::Escalated {
                        child: id,
                        reason,
                        intensity,
                        period,
                    },
                    None,
                    turn,
                );
            }
            Ok(restarts_in_window) => {
                turn.report(Report::Restarting {
                    child: id,
                    restarts_in_window,
                });
                match self.flags.strategy {
                    Strategy::OneForOne | Strategy::Dynamic => {
                        self.start(seat, StartCause::Restart, turn);
                    }
                    Strategy::OneForAll => self.restart_group(Seat::default(), turn),
                    Strategy::RestForOne => self.restart_group(seat, turn),
                }
            }
        }
    }

    /// Decides whether the end of a significant child ends the supervisor, as soon as nothing under way can change it.
    ///
    /// OTP hears of that end only when the boot, the restart of a group, a start or a stop is over. Until then a child
    /// that is down may be one that is still to be started, and one that is being started may not come up.
    pub(super) fn decide_auto_shutdown(&mut self, turn: &mut Turn<'_>) {
        if !self.significant_ended || self.phase != Phase::Serving(None) {
            return;
        }
        let over = match self.flags.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => {
                let (mut stays, mut moves) = (false, false);
                for child in self
                    .children
                    .values()
                    .filter(|child| child.spec.significant)
                {
                    match child.state {
                        ChildState::Down => {}
                        ChildState::Running { .. } | ChildState::Restarting { .. } => stays = true,
                        ChildState::Starting { .. } | ChildState::Stopping { .. } => moves = true,
                    }
                }
                if moves && !stays {
                    return;
                }
                !stays
            }
        };
        self.significant_ended = false;
        if over {
            self.end(End::AutoShutdown, None, turn);
        }
    }

    /// Puts a child down for good; temporary and dynamic ones are forgotten.
    pub(super) fn rest(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        let Some(child) = self.children.get_mut(&seat) else {
            return;
        };
        child.state = ChildState::Down;
        if child.spec.restart == Restart::Temporary || self.flags.strategy == Strategy::Dynamic {
            self.forget(seat, turn);
        }
    }
}
