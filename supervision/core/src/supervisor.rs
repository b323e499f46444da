//! A complete OTP supervisor as a pure machine.
//!
//! ```text
//!             Request, Stop                     Reply, Report
//!   callers ────────────────►  Supervisor::step ───────────────► callers, observers
//!             Started, Exited,                  Start, Stop, Kill,
//!   shell   ────────────────►                   ArmLimit, RetryStart, End ──► shell
//!             LimitReached, RetryStart
//! ```
//!
//! The machine never blocks: a start or a stop is an effect whose outcome comes back as an input that names the child
//! and its [`Incarnation`]; what names an incarnation that is over is dropped and counted. What OTP serialises by
//! blocking its process, this machine serialises with a *plan* (start these, or stop those and start them again, one
//! after the other) and with a bounded queue of requests that wait for it.
//!
//! It deliberately holds no clock, no code that starts children, and no notion of what a child is.

mod ending;
mod group;
mod io;
mod lifecycle;
mod report;
mod requests;
mod spec;
mod stopping;
mod window;

use std::collections::{BTreeMap, VecDeque};

pub use io::{Effect, ExitReason, Incarnation, Input, Limit, Refusal, Reply, Request, RequestId};
pub use report::{End, Report};
pub use requests::DEFERRED_MAX;
pub use spec::{
    AutoShutdown, CHILD_ID_LEN_MAX, ChildId, ChildKind, ChildSpec, Flags, Restart, Shutdown,
    SpecError, Strategy,
};

use self::{ending::Ending, group::Plan, requests::Waiter, window::RestartWindow};
use crate::Timestamp;

/// A supervisor. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    flags: Flags,
    children: BTreeMap<Seat, Child>,
    /// Invariant: the inverse of `children`.
    seats: BTreeMap<ChildId, Seat>,
    restarts: RestartWindow,
    phase: Phase,
    /// A significant child has ended by itself, and whether that ends the supervisor is still to be decided.
    significant_ended: bool,
    deferred: VecDeque<(RequestId, Request)>,
    seat_last: Seat,
    incarnation_last: u64,
    stale_count: u64,
}

/// A child's place in the order of starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Seat(u64);

impl Seat {
    const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    /// With a plan, requests wait.
    Serving(Option<Plan>),
    Ending(Ending),
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Child {
    spec: ChildSpec,
    state: ChildState,
    waiter: Option<Waiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChildState {
    Down,
    Starting {
        incarnation: Incarnation,
        cause: StartCause,
    },
    Running {
        incarnation: Incarnation,
    },
    /// A restart failed, and will be tried again.
    Restarting {
        incarnation: Incarnation,
    },
    /// Will be started when it is down, if `bounce`.
    Stopping {
        incarnation: Incarnation,
        limit: Limit,
        /// When it is killed, if it was asked.
        until: Timestamp,
        bounce: bool,
    },
}

impl ChildState {
    const fn incarnation(self) -> Option<Incarnation> {
        match self {
            Self::Down => None,
            Self::Starting { incarnation, .. }
            | Self::Running { incarnation }
            | Self::Restarting { incarnation }
            | Self::Stopping { incarnation, .. } => Some(incarnation),
        }
    }
}

/// Why a child is being started; decides what its failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartCause {
    /// With the supervisor.
    Boot,
    /// Just added; never ran.
    Add,
    /// By request.
    Order,
    /// After it, or a sibling, failed.
    Restart,
}

/// What a child is doing, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChildStatus {
    /// Not running, and not about to.
    Down,
    /// Its start is under way.
    Starting,
    /// It runs.
    Running,
    /// Its restart failed and is about to be tried again.
    Restarting,
    /// It was told to stop.
    Stopping,
}

/// One child, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildView<'a> {
    /// Its spec.
    pub spec: &'a ChildSpec,
    /// What it is doing.
    pub status: ChildStatus,
    /// Its current, or last failed, start.
    pub incarnation: Option<Incarnation>,
}

/// How many children there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Specs. In a [`Strategy::Dynamic`] supervisor each member has its own; OTP counts one template for all of them.
    pub specs: usize,
    /// Children that run.
    pub active: usize,
    /// Specs of workers.
    pub workers: usize,
    /// Specs of supervisors.
    pub supervisors: usize,
}

/// One call of [`Supervisor::step`].
struct Turn<'a> {
    now: Timestamp,
    effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
    fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }
}

impl Supervisor {
    /// A supervisor of these children, none of them started yet; [`Input::Boot`] does that.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn new(flags: Flags, specs: Vec<ChildSpec>) -> Result<Self, SpecError> {
        flags.check_all(&specs)?;
        let mut supervisor = Self {
            flags,
            children: BTreeMap::new(),
            seats: BTreeMap::new(),
            restarts: RestartWindow::default(),
            phase: Phase::New,
            significant_ended: false,
            deferred: VecDeque::new(),
            seat_last: Seat::default(),
            incarnation_last: 0,
            stale_count: 0,
        };
        for spec in specs {
            supervisor.insert(spec);
        }
        Ok(supervisor)
    }

    /// Applies one input at time `now` and appends what must be done to `effects`.
    ///
    /// Nothing in supervision is decided by chance, so unlike the fault policy's this step takes no random number.
    pub fn step(&mut self, now: Timestamp, input: Input, effects: &mut Vec<Effect>) {
        let turn = &mut Turn { now, effects };
        match input {
            Input::Boot => self.boot(turn),
            Input::Started { child, incarnation } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.started(seat, incarnation, turn);
                }
            }
            Input::Ignored { child, incarnation } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.ignored(seat, incarnation, turn);
                }
            }
            Input::StartFailed {
                child,
                incarnation,
                reason,
            } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.start_failed(seat, incarnation, reason, turn);
                }
            }
            Input::Exited {
                child,
                incarnation,
                reason,
            } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.exited(seat, incarnation, reason, turn);
                }
            }
            Input::RetryStart { child, incarnation } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.retry_start(seat, turn);
                }
            }
            Input::LimitReached {
                child,
                incarnation,
                limit,
            } => {
                if let Some(seat) = self.current(&child, incarnation) {
                    self.limit_reached(seat, limit, turn);
                }
            }
            Input::Request { id, request } => self.request(id, request, turn),
            Input::Stop { deadline } => self.stop(deadline, turn),
        }
        self.decide_auto_shutdown(turn);
        self.serve_deferred(turn);
    }

    /// All children in the order of their starts.
    pub fn children(&self) -> impl DoubleEndedIterator<Item = ChildView<'_>> {
        self.children.values().map(Child::view)
    }

    /// One child.
    pub fn child(&self, id: &ChildId) -> Option<ChildView<'_>> {
        self.seats
            .get(id)
            .and_then(|seat| self.children.get(seat))
            .map(Child::view)
    }

    /// How many children there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            specs: self.children.len(),
            ..Counts::default()
        };
        for child in self.children.values() {
            match child.spec.kind {
                ChildKind::Worker => counts.workers += 1,
                ChildKind::Supervisor => counts.supervisors += 1,
            }
            counts.active += usize::from(matches!(child.state, ChildState::Running { .. }));
        }
        counts
    }

    /// The flags in use.
    pub const fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Whether [`Effect::End`] has been given out.
    pub const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// How many inputs named an incarnation that was over.
    pub const fn stale_count(&self) -> u64 {
        self.stale_count
    }

    fn insert(&mut self, spec: ChildSpec) -> Seat {
        self.seat_last = self.seat_last.next();
        self.seats.insert(spec.id.clone(), self.seat_last);
        self.children.insert(
            self.seat_last,
            Child {
                spec,
                state: ChildState::Down,
                waiter: None,
            },
        );
        self.seat_last
    }

    fn forget(&mut self, seat: Seat, turn: &mut Turn<'_>) {
        if let Some(child) = self.children.remove(&seat) {
            self.seats.remove(&child.spec.id);
            turn.emit(Effect::Forget {
                child: child.spec.id,
            });
        }
    }

    /// The seat of the child, if this is its current incarnation.
    fn current(&mut self, child: &ChildId, incarnation: Incarnation) -> Option<Seat> {
        let seat = self.seats.get(child).copied().filter(|seat| {
            self.children
                .get(seat)
                .and_then(|child| child.state.incarnation())
                == Some(incarnation)
        });
        if seat.is_none() {
            self.stale_count += 1;
        }
        seat
    }
}

impl Child {
    fn view(&self) -> ChildView<'_> {
        let status = match self.state {
            ChildState::Down => ChildStatus::Down,
            ChildState::Starting { .. } => ChildStatus::Starting,
            ChildState::Running { .. } => ChildStatus::Running,
            ChildState::Restarting { .. } => ChildStatus::Restarting,
            ChildState::Stopping { .. } => ChildStatus::Stopping,
        };
        ChildView {
            spec: &self.spec,
            status,
            incarnation: self.state.incarnation(),
        }
    }
}
