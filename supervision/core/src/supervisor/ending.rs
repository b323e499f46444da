//! The ordered end of a supervisor.

use super::{
    ChildState, Effect, End, Limit, Phase, Refusal, Report, Seat, Strategy, Supervisor, Turn,
    requests::Waiter,
};
use crate::Timestamp;

/// Children are being stopped, the last one first; those of a dynamic supervisor all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    end: End,
    deadline: Option<Timestamp>,
    /// All from here on are down.
    below: Seat,
}

impl Supervisor {
    pub(super) fn stop(&mut self, deadline: Option<Timestamp>, turn: &mut Turn<'_>) {
        match &mut self.phase {
            Phase::New | Phase::Serving(_) => self.end(End::Stopped, deadline, turn),
            Phase::Ending(ending) => {
                if let Some(deadline) = deadline
                    && ending.deadline.is_none_or(|before| deadline < before)
                {
                    ending.deadline = Some(deadline);
                    self.hurry(deadline, turn);
                }
            }
            Phase::Ended => {}
        }
    }

    /// Starts to stop all children; whoever waits for something else is told so.
    pub(super) fn end(&mut self, end: End, deadline: Option<Timestamp>, turn: &mut Turn<'_>) {
        let below = self.seat_last.next();
        self.phase = Phase::Ending(Ending {
            end,
            deadline,
            below,
        });
        for (id, _) in std::mem::take(&mut self.deferred) {
            turn.emit(Effect::Reply {
                id,
                result: Err(Refusal::ShuttingDown),
            });
        }
        for child in self.children.values_mut() {
            // A stop by order goes on, and is answered when the child is down.
            let gives_up = |waiter: &mut Waiter| !matches!(waiter, Waiter::Terminate(_));
            if let Some(waiter) = child.waiter.take_if(gives_up) {
                waiter.answer(Err(Refusal::ShuttingDown), turn);
            }
        }
        if let Some(deadline) = deadline {
            self.hurry(deadline, turn);
        }
        if self.flags.strategy == Strategy::Dynamic {
            let seats: Vec<Seat> = self.children.keys().copied().collect();
            for seat in seats {
                self.end_child(seat, turn);
            }
        }
        self.go_on_ending(turn);
    }

    pub(super) fn go_on_ending(&mut self, turn: &mut Turn<'_>) {
        while let Phase::Ending(ending) = &mut self.phase {
            if let Some((&seat, child)) = self.children.range(..ending.below).next_back() {
                if child.state == ChildState::Down {
                    ending.below = seat;
                    continue;
                }
                if !self.end_child(seat, turn) {
                    return;
                }
            } else {
                let end = ending.end.clone();
                self.phase = Phase::Ended;
                turn.report(Report::Ended(end.clone()));
                turn.emit(Effect::End(end));
            }
        }
    }

    /// Whether the child is down; if not, it has been told to stop.
    fn end_child(&mut self, seat: Seat, turn: &mut Turn<'_>) -> bool {
        let Some(child) = self.children.get_mut(&seat) else {
            return true;
        };
        match child.state {
            ChildState::Down => true,
            ChildState::Restarting { .. } => {
                child.state = ChildState::Down;
                true
            }
            ChildState::Stopping { .. } => false,
            ChildState::Starting { .. } | ChildState::Running { .. } => {
                self.ask_to_stop(seat, false, turn);
                false
            }
        }
    }

    /// Gives the children that have been asked already no more time than this, and tells them so: they may be
    /// supervisors, who then give their own children less.
    fn hurry(&mut self, deadline: Timestamp, turn: &mut Turn<'_>) {
        for child in self.children.values_mut() {
            if let ChildState::Stopping {
                incarnation,
                limit: Limit::Asked,
                until,
                ..
            } = &mut child.state
                && deadline < *until
            {
                *until = deadline;
                turn.emit(Effect::Stop {
                    child: child.spec.id.clone(),
                    incarnation: *incarnation,
                    deadline,
                });
                turn.emit(Effect::ArmLimit {
                    child: child.spec.id.clone(),
                    incarnation: *incarnation,
                    limit: Limit::Asked,
                    at: deadline,
                });
            }
        }
    }

    /// When everything must have been killed.
    pub(super) const fn stop_deadline(&self) -> Timestamp {
        match &self.phase {
            Phase::Ending(Ending {
                deadline: Some(deadline),
                ..
            }) => *deadline,
            Phase::New | Phase::Serving(_) | Phase::Ending(_) | Phase::Ended => {
                Timestamp::from_nanos(u64::MAX)
            }
        }
    }
}
