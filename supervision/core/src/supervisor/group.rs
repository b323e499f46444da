//! Plans: what is done to several children, one after the other.

use super::{
    ChildState, Effect, Phase, Refusal, Restart, Seat, StartCause, Supervisor, Turn,
    requests::Waiter,
};

/// Stop the children from a seat on in reverse order, then start them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    from: Seat,
    stage: Stage,
    /// Whether this is the first start of all, whose failure ends the supervisor.
    boot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All from `below` on are down.
    Stopping { below: Seat },
    /// All before `at` have been started.
    Starting { at: Seat },
}

impl Supervisor {
    pub(super) fn boot(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.phase, Phase::New) {
            let stage = Stage::Starting {
                at: Seat::default(),
            };
            self.phase = Phase::Serving(Some(Plan {
                from: Seat::default(),
                stage,
                boot: true,
            }));
            self.go_on_planning(turn);
        }
    }

    /// Begins a restart of the group, in place of the plan under way.
    pub(super) fn restart_group(&mut self, from: Seat, turn: &mut Turn<'_>) {
        // The plan under way concerns only children from `from` on that it has not started yet, or later ones.
        let boot = self.plan().is_some_and(|plan| plan.boot);
        let stage = Stage::Stopping {
            below: self.seat_last.next(),
        };
        self.phase = Phase::Serving(Some(Plan { from, stage, boot }));
        self.go_on_planning(turn);
    }

    /// Whether the child is one that the plan is about to stop and start again.
    pub(super) fn plan_will_restart(&self, seat: Seat) -> bool {
        self.plan()
            .is_some_and(|plan| matches!(plan.stage, Stage::Stopping { .. }) && seat >= plan.from)
    }

    /// The start of this child is over, whatever came of it.
    pub(super) fn plan_started(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        if let Phase::Serving(Some(plan)) = &mut self.phase
            && let Stage::Starting { at } = &mut plan.stage
            && *at == seat
        {
            *at = seat.next();
            self.go_on_planning(turn);
        }
    }

    /// The restart of this child failed; if the plan waits for it, the retry makes a new plan.
    ///
    /// Whoever still waits for the start of a child that the group has taken down is told so, for until the retry,
    /// which may never come, nothing will start it.
    pub(super) fn plan_failed(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        let Some(Plan {
            stage: Stage::Starting { at },
            ..
        }) = self.plan()
        else {
            return;
        };
        if at != seat {
            return;
        }
        self.phase = Phase::Serving(None);
        let mut never_ran = Vec::new();
        for (&later, child) in self.children.range_mut(seat.next()..) {
            if child.state == ChildState::Down
                && let Some(waiter) = child.waiter.take()
            {
                if matches!(waiter, Waiter::Add(_)) {
                    never_ran.push(later);
                }
                waiter.answer(Err(Refusal::Terminated(child.spec.id.clone())), turn);
            }
        }
        for later in never_ran {
            self.forget(later, turn);
        }
    }

    pub(super) fn go_on_planning(&mut self, turn: &mut Turn<'_>) {
        while let Some(plan) = self.plan() {
            let next = match plan.stage {
                Stage::Stopping { below } => self.plan_stop((plan.from, below), plan.boot, turn),
                Stage::Starting { at } => self.plan_start(at, plan.boot, turn),
            };
            let Some(stage) = next else { return };
            if let Phase::Serving(Some(plan)) = &mut self.phase {
                plan.stage = stage;
            }
        }
    }

    /// Stops the last child that is not down; `None` when that one has to be waited for.
    fn plan_stop(
        &mut self,
        (from, below): (Seat, Seat),
        boot: bool,
        turn: &mut Turn<'_>,
    ) -> Option<Stage> {
        let Some((&seat, child)) = self.children.range_mut(from..below).next_back() else {
            return Some(Stage::Starting { at: from });
        };
        match child.state {
            // A change listed it, or else it would not be here any more: a temporary child is not restarted.
            ChildState::Down if !boot && child.spec.restart == Restart::Temporary => {
                self.forget(seat, turn);
            }
            ChildState::Down => {}
            ChildState::Restarting { .. } => child.state = ChildState::Down,
            ChildState::Stopping { .. } => {
                self.plan_at(Stage::Stopping { below: seat.next() });
                return None;
            }
            ChildState::Starting { .. } | ChildState::Running { .. } => {
                self.plan_at(Stage::Stopping { below: seat.next() });
                self.ask_to_stop(seat, false, turn);
                return None;
            }
        }
        Some(Stage::Stopping { below: seat })
    }

    /// Starts the next child that is down; `None` when it has to be waited for, or the plan is done.
    fn plan_start(&mut self, at: Seat, boot: bool, turn: &mut Turn<'_>) -> Option<Stage> {
        let Some((&seat, child)) = self.children.range(at..).next() else {
            self.phase = Phase::Serving(None);
            if boot {
                turn.emit(Effect::Ready);
            }
            return None;
        };
        match child.state {
            ChildState::Down => {
                let cause = match child.waiter {
                    // It was taken down by the group during its very first start.
                    Some(Waiter::Add(_)) => StartCause::Add,
                    Some(Waiter::Start(_) | Waiter::Terminate(_)) | None if boot => {
                        StartCause::Boot
                    }
                    Some(Waiter::Start(_) | Waiter::Terminate(_)) | None => StartCause::Restart,
                };
                self.plan_at(Stage::Starting { at: seat });
                self.start(seat, cause, turn);
                None
            }
            // Somebody else's start; its outcome moves the plan on.
            ChildState::Starting { .. } => {
                self.plan_at(Stage::Starting { at: seat });
                None
            }
            ChildState::Running { .. }
            | ChildState::Restarting { .. }
            | ChildState::Stopping { .. } => Some(Stage::Starting { at: seat.next() }),
        }
    }

    fn plan_at(&mut self, stage: Stage) {
        if let Phase::Serving(Some(plan)) = &mut self.phase {
            plan.stage = stage;
        }
    }

    fn plan(&self) -> Option<Plan> {
        match &self.phase {
            Phase::Serving(plan) => *plan,
            Phase::New | Phase::Ending(_) | Phase::Ended => None,
        }
    }
}
