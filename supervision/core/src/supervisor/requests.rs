//! What callers want.

use super::{
    Child, ChildId, ChildSpec, ChildState, Effect, Flags, Phase, Refusal, Reply, Request,
    RequestId, Restart, Seat, SpecError, StartCause, Strategy, Supervisor, Turn,
};

/// How many requests wait for a child in transition or a restart of the group. Their callers wait for the answer
/// anyway, so more would only hide latency.
pub const DEFERRED_MAX: usize = 256;

/// Who is told when the child's transition is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// The child was just added.
    Add(RequestId),
    /// The child is started by order.
    Start(RequestId),
    /// The child is stopped by order.
    Terminate(RequestId),
}

impl Waiter {
    pub(super) fn answer(self, result: Result<Reply, Refusal>, turn: &mut Turn<'_>) {
        let (Self::Add(id) | Self::Start(id) | Self::Terminate(id)) = self;
        turn.emit(Effect::Reply { id, result });
    }
}

/// What is to be done about a request right now.
enum Verdict {
    Answer(Result<Reply, Refusal>),
    /// A waiter was left with the child.
    Pending,
    /// The child is in transition.
    Wait,
}

impl Supervisor {
    pub(super) fn request(&mut self, id: RequestId, request: Request, turn: &mut Turn<'_>) {
        match &self.phase {
            Phase::Ending(_) | Phase::Ended => {
                turn.emit(Effect::Reply {
                    id,
                    result: Err(Refusal::ShuttingDown),
                });
            }
            Phase::New | Phase::Serving(Some(_)) => self.defer(id, request, turn),
            Phase::Serving(None) => self.serve(id, request, turn),
        }
    }

    /// Serves what has waited, unless a plan is under way still.
    pub(super) fn serve_deferred(&mut self, turn: &mut Turn<'_>) {
        if self.deferred.is_empty() || self.phase != Phase::Serving(None) {
            return;
        }
        for (id, request) in std::mem::take(&mut self.deferred) {
            self.serve(id, request, turn);
        }
    }

    fn defer(&mut self, id: RequestId, request: Request, turn: &mut Turn<'_>) {
        if self.deferred.len() >= DEFERRED_MAX {
            turn.emit(Effect::Reply {
                id,
                result: Err(Refusal::Busy),
            });
        } else {
            self.deferred.push_back((id, request));
        }
    }

    fn serve(&mut self, id: RequestId, request: Request, turn: &mut Turn<'_>) {
        let verdict = match &request {
            Request::Add { spec } => self.add(id, spec, turn),
            Request::Start { child } => self.start_order(id, child, turn),
            Request::Restart { child } => self.restart_order(id, child, turn),
            Request::Terminate { child } => self.terminate(id, child, turn),
            Request::Delete { child } => self.delete(child, turn),
            Request::Change { flags, specs } => {
                Verdict::Answer(self.change(id, *flags, specs, turn).map_err(Refusal::from))
            }
        };
        match verdict {
            Verdict::Answer(result) => turn.emit(Effect::Reply { id, result }),
            Verdict::Pending => {}
            Verdict::Wait => self.defer(id, request, turn),
        }
    }

    fn find(&mut self, child: &ChildId) -> Result<(Seat, &mut Child), Refusal> {
        self.seats
            .get(child)
            .and_then(|&seat| self.children.get_mut(&seat).map(|child| (seat, child)))
            .ok_or_else(|| Refusal::NotFound(child.clone()))
    }

    fn add(&mut self, id: RequestId, spec: &ChildSpec, turn: &mut Turn<'_>) -> Verdict {
        if let Err(wrong) = self.flags.check_spec(spec) {
            return Verdict::Answer(Err(wrong.into()));
        }
        if let Ok((_, child)) = self.find(&spec.id) {
            return match child.state {
                ChildState::Running { incarnation } => {
                    Verdict::Answer(Err(Refusal::AlreadyStarted {
                        child: spec.id.clone(),
                        incarnation,
                    }))
                }
                ChildState::Down | ChildState::Restarting { .. } => {
                    Verdict::Answer(Err(Refusal::AlreadyPresent(spec.id.clone())))
                }
                ChildState::Starting { .. } | ChildState::Stopping { .. } => Verdict::Wait,
            };
        }
        let (given, max) = (self.children.len() + 1, self.flags.children_max);
        if given > max {
            return Verdict::Answer(Err(SpecError::TooMany { given, max }.into()));
        }
        turn.emit(Effect::Adopt {
            request: id,
            child: spec.id.clone(),
        });
        let seat = self.insert(spec.clone());
        if let Some(child) = self.children.get_mut(&seat) {
            child.waiter = Some(Waiter::Add(id));
        }
        self.start(seat, StartCause::Add, turn);
        Verdict::Pending
    }

    fn start_order(&mut self, id: RequestId, child: &ChildId, turn: &mut Turn<'_>) -> Verdict {
        if self.flags.strategy == Strategy::Dynamic {
            return Verdict::Answer(Err(Refusal::Pool));
        }
        match self.find(child) {
            Err(refusal) => Verdict::Answer(Err(refusal)),
            Ok((seat, entry)) => match entry.state {
                ChildState::Down => {
                    entry.waiter = Some(Waiter::Start(id));
                    self.start(seat, StartCause::Order, turn);
                    Verdict::Pending
                }
                ChildState::Running { incarnation } => {
                    Verdict::Answer(Err(Refusal::AlreadyStarted {
                        child: child.clone(),
                        incarnation,
                    }))
                }
                ChildState::Restarting { .. } => {
                    Verdict::Answer(Err(Refusal::Restarting(child.clone())))
                }
                ChildState::Starting { .. } | ChildState::Stopping { .. } => Verdict::Wait,
            },
        }
    }

    fn restart_order(&mut self, id: RequestId, child: &ChildId, turn: &mut Turn<'_>) -> Verdict {
        if self.flags.strategy != Strategy::Dynamic
            && let Ok((seat, entry)) = self.find(child)
            && matches!(entry.state, ChildState::Running { .. })
        {
            // A temporary child would be forgotten by its stop.
            if entry.spec.restart == Restart::Temporary {
                return Verdict::Answer(Err(Refusal::Running(child.clone())));
            }
            entry.waiter = Some(Waiter::Start(id));
            self.ask_to_stop(seat, true, turn);
            return Verdict::Pending;
        }
        self.start_order(id, child, turn)
    }

    fn terminate(&mut self, id: RequestId, child: &ChildId, turn: &mut Turn<'_>) -> Verdict {
        match self.find(child) {
            Err(refusal) => Verdict::Answer(Err(refusal)),
            Ok((seat, entry)) => match entry.state {
                ChildState::Down | ChildState::Restarting { .. } => {
                    self.rest(seat, turn);
                    Verdict::Answer(Ok(Reply::Terminated))
                }
                ChildState::Starting { .. } | ChildState::Running { .. } => {
                    if let Some(waiter) = entry.waiter.replace(Waiter::Terminate(id)) {
                        waiter.answer(Err(Refusal::Terminated(child.clone())), turn);
                    }
                    self.ask_to_stop(seat, false, turn);
                    Verdict::Pending
                }
                ChildState::Stopping { .. } => Verdict::Wait,
            },
        }
    }

    fn delete(&mut self, child: &ChildId, turn: &mut Turn<'_>) -> Verdict {
        if self.flags.strategy == Strategy::Dynamic {
            return Verdict::Answer(Err(Refusal::Pool));
        }
        match self.find(child) {
            Err(refusal) => Verdict::Answer(Err(refusal)),
            Ok((seat, entry)) => match entry.state {
                ChildState::Down => {
                    self.forget(seat, turn);
                    Verdict::Answer(Ok(Reply::Deleted))
                }
                ChildState::Running { .. } => Verdict::Answer(Err(Refusal::Running(child.clone()))),
                ChildState::Restarting { .. } => {
                    Verdict::Answer(Err(Refusal::Restarting(child.clone())))
                }
                ChildState::Starting { .. } | ChildState::Stopping { .. } => Verdict::Wait,
            },
        }
    }

    fn change(
        &mut self,
        id: RequestId,
        flags: Flags,
        specs: &[ChildSpec],
        turn: &mut Turn<'_>,
    ) -> Result<Reply, SpecError> {
        flags.check_all(specs)?;
        if (flags.strategy == Strategy::Dynamic) != (self.flags.strategy == Strategy::Dynamic) {
            return Err(SpecError::StrategyFixed);
        }
        let mut added = specs
            .iter()
            .filter(|spec| !self.seats.contains_key(&spec.id));
        if flags.strategy == Strategy::Dynamic
            && let Some(spec) = added.next()
        {
            return Err(SpecError::NotAMember {
                id: spec.id.clone(),
            });
        }
        let (given, max) = (self.children.len() + added.count(), flags.children_max);
        if given > max {
            return Err(SpecError::TooMany { given, max });
        }
        self.flags = flags;
        for spec in specs {
            turn.emit(Effect::Adopt {
                request: id,
                child: spec.id.clone(),
            });
        }
        self.seat_anew(specs);
        Ok(Reply::Changed)
    }

    /// Gives everybody a new seat: the listed ones in the order of the list, then whoever is not listed, as before.
    fn seat_anew(&mut self, specs: &[ChildSpec]) {
        let mut before = std::mem::take(&mut self.children);
        let seats_before = std::mem::take(&mut self.seats);
        for spec in specs {
            let known = seats_before
                .get(&spec.id)
                .and_then(|seat| before.remove(seat));
            let seat = self.insert(spec.clone());
            if let (Some(known), Some(child)) = (known, self.children.get_mut(&seat)) {
                child.state = known.state;
                child.waiter = known.waiter;
            }
        }
        for child in before.into_values() {
            let seat = self.insert(child.spec.clone());
            self.children.insert(seat, child);
        }
    }
}
