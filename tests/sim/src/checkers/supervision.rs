//! A supervisor starts and stops what OTP's rules say, in their order, and nothing else.
//!
//! The account is one of *dues*: what a failure entitles to a restart, what has to be stopped for it, which request
//! is open. A start or a stop without a due, or before those that go first, is a breach; so is a due that nobody works
//! on when the supervisor has nothing left to wait for.

mod effects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mesh_supervision_core::Timestamp;
use mesh_supervision_core::supervisor::{
    AutoShutdown, ChildId, ChildSpec, ChildStatus, DEFERRED_MAX, ExitReason, Flags, Incarnation,
    Input, Limit, Request, RequestId, Restart, Strategy, Supervisor,
};

use super::{Verdict, ensure};
use crate::edges::Edges;

/// Where a child stands, from what was said to and by its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Down,
    Starting(Why),
    Up,
    Asked(Limit),
    Retrying,
}

/// For what a child is being started; decides what its failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Boot,
    Add,
    Order,
    Restart,
}

#[derive(Debug, Clone)]
struct Kid {
    spec: ChildSpec,
    stand: Stand,
    incarnation: Option<Incarnation>,
    /// It has to be started, by the boot or by a restart.
    due_start: Option<Why>,
    /// It has to be stopped, because its group restarts.
    due_stop: bool,
    /// It will be started again when it has stopped, by request.
    bounce: bool,
    /// It was added and never ran.
    fresh: bool,
}

impl Kid {
    const fn new(spec: ChildSpec) -> Self {
        Self {
            spec,
            stand: Stand::Down,
            incarnation: None,
            due_start: None,
            due_stop: false,
            bounce: false,
            fresh: false,
        }
    }

    const fn is_there(&self) -> bool {
        matches!(self.stand, Stand::Starting(_) | Stand::Up | Stand::Asked(_))
    }
}

/// How a supervisor has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Stopped,
    AutoShutdown,
    Escalated(ChildId),
    BootFailed(ChildId),
}

/// The account of one supervisor.
#[derive(Debug, Clone)]
pub(crate) struct SupervisionCheck {
    flags: Flags,
    /// In the order of their starts.
    kids: Vec<Kid>,
    /// Every restart that was granted; never pruned, so that the window is recounted each time.
    restarts: Vec<Timestamp>,
    step: Step,
    /// Not all children have been started yet.
    booting: bool,
    /// A significant child has ended by itself, and what that means is not known yet.
    significant_ended: bool,
    ending: Option<Ending>,
    ended: bool,
    requests: BTreeMap<RequestId, Request>,
    last_incarnation: u64,
}

/// What the step under way may lead to.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    /// A restart, as this one within the window.
    granted: Option<u32>,
    /// No more restart.
    exceeded: bool,
    /// Nothing: its input was stale.
    stale: bool,
}

const SCOPE: &str = "supervision: whom a failure concerns";
const ORDER: &str = "supervision: the order of starts and stops";
const WINDOW: &str = "supervision: the restart intensity is exact";
const TYPES: &str = "supervision: restart types are honoured";
const OLD: &str = "supervision: no old incarnation is acted on";
const REQUESTS: &str = "supervision: every request is answered once";
const STUCK: &str = "nothing waits without a deadline: supervision";

impl SupervisionCheck {
    pub(crate) fn new(flags: Flags, specs: &[ChildSpec]) -> Self {
        Self {
            flags,
            kids: specs.iter().cloned().map(Kid::new).collect(),
            restarts: Vec::new(),
            step: Step::default(),
            booting: false,
            significant_ended: false,
            ending: None,
            ended: false,
            requests: BTreeMap::new(),
            last_incarnation: 0,
        }
    }

    fn place(&self, id: &ChildId) -> Option<usize> {
        self.kids.iter().position(|kid| kid.spec.id == *id)
    }

    fn current(&self, id: &ChildId, incarnation: Incarnation) -> Option<usize> {
        self.place(id)
            .filter(|&at| self.kids[at].incarnation == Some(incarnation))
            .filter(|&at| self.kids[at].is_there() || self.kids[at].stand == Stand::Retrying)
    }

    /// Takes in what the supervisor is about to be told.
    pub(crate) fn before(&mut self, now: Timestamp, input: &Input, edges: &mut Edges) {
        self.step = Step::default();
        match input {
            Input::Boot => {
                self.booting = true;
                for kid in &mut self.kids {
                    kid.due_start = Some(Why::Boot);
                }
            }
            Input::Started { child, incarnation } => match self.current(child, *incarnation) {
                Some(at) if matches!(self.kids[at].stand, Stand::Starting(_)) => {
                    (self.kids[at].stand, self.kids[at].fresh) = (Stand::Up, false);
                }
                Some(at) if matches!(self.kids[at].stand, Stand::Asked(_)) => {
                    edges.hit("supervisor", "a start wins against its own stop");
                }
                Some(_) | None => self.step.stale = true,
            },
            Input::Ignored { child, incarnation } => match self.current(child, *incarnation) {
                Some(at) => {
                    edges.hit("supervisor", "a start is ignored");
                    match self.kids[at].stand {
                        // It was listed while it was down, and is so again.
                        Stand::Starting(Why::Order) => self.kids[at].stand = Stand::Down,
                        Stand::Starting(_) => self.rest(at),
                        Stand::Asked(_) => self.stopped(at),
                        Stand::Down | Stand::Up | Stand::Retrying => self.step.stale = true,
                    }
                }
                None => self.step.stale = true,
            },
            Input::StartFailed {
                child, incarnation, ..
            } => match self.current(child, *incarnation) {
                Some(at) => self.start_failed(at, edges),
                None => self.step.stale = true,
            },
            Input::Exited {
                child,
                incarnation,
                reason,
            } => self.gone((child, *incarnation), reason, now, edges),
            Input::RetryStart { child, incarnation } => match self.current(child, *incarnation) {
                Some(at) if self.kids[at].stand == Stand::Retrying => {
                    if self.ending.is_none() {
                        edges.hit("supervisor", "a failed restart is tried again");
                        self.kids[at].stand = Stand::Down;
                        self.restart(at, now, edges);
                    }
                }
                Some(_) | None => self.step.stale = true,
            },
            Input::LimitReached {
                child,
                incarnation,
                limit,
            } => match self.current(child, *incarnation) {
                Some(at) if self.kids[at].stand == Stand::Asked(*limit) => match limit {
                    // The kill that has to follow is seen as an effect.
                    Limit::Asked => edges.hit("supervisor", "an overdue child is killed"),
                    Limit::Killed => {
                        edges.hit("supervisor", "a killed child that stays is abandoned");
                        self.stopped(at);
                    }
                },
                Some(_) | None => self.step.stale = true,
            },
            Input::Request { id, request } => {
                self.requests.insert(*id, request.clone());
            }
            Input::Stop { .. } => {
                if self.ending.is_none() {
                    edges.hit("supervisor", "end by order");
                    self.ends(Ending::Stopped);
                }
            }
        }
        self.decide(edges);
    }

    /// The end of a child, or news of one that is no longer there.
    fn gone(
        &mut self,
        (child, incarnation): (&ChildId, Incarnation),
        reason: &ExitReason,
        now: Timestamp,
        edges: &mut Edges,
    ) {
        let Some(at) = self.current(child, incarnation) else {
            edges.hit("supervisor", "a stale exit is dropped");
            self.step.stale = true;
            return;
        };
        match self.kids[at].stand {
            Stand::Up => self.exited(at, reason, now, edges),
            Stand::Starting(_) => self.start_failed(at, edges),
            Stand::Asked(_) => self.stopped(at),
            Stand::Down | Stand::Retrying => self.step.stale = true,
        }
    }

    fn ends(&mut self, how: Ending) {
        self.ending = Some(how);
        for kid in &mut self.kids {
            (kid.due_start, kid.due_stop, kid.bounce) = (None, false, false);
        }
    }

    fn start_failed(&mut self, at: usize, edges: &mut Edges) {
        match self.kids[at].stand {
            Stand::Starting(why) => match why {
                Why::Add => {
                    edges.hit("supervisor", "a first start fails: forgotten");
                    self.kids.remove(at);
                }
                Why::Order => {
                    edges.hit("supervisor", "a start by order fails: down");
                    // Also when its group was just about to stop it.
                    (self.kids[at].stand, self.kids[at].due_stop) = (Stand::Down, false);
                }
                Why::Boot => {
                    edges.hit("supervisor", "end by a failed boot");
                    self.kids[at].stand = Stand::Down;
                    let id = self.kids[at].spec.id.clone();
                    self.ends(Ending::BootFailed(id));
                }
                Why::Restart if self.kids[at].due_stop => {
                    // The group that restarts meanwhile starts it again, so there is nothing to be tried again.
                    (self.kids[at].stand, self.kids[at].due_stop) = (Stand::Down, false);
                }
                Why::Restart => {
                    self.kids[at].stand = Stand::Retrying;
                    // Whom the group was still to start after it, the retry starts. Until then they are down, and may
                    // be started by order or deleted.
                    for kid in &mut self.kids {
                        kid.due_start.take_if(|why| *why == Why::Restart);
                    }
                }
            },
            Stand::Asked(_) => self.stopped(at),
            Stand::Down | Stand::Up | Stand::Retrying => self.step.stale = true,
        }
    }

    /// A child that ran has ended by itself.
    fn exited(&mut self, at: usize, reason: &ExitReason, now: Timestamp, edges: &mut Edges) {
        let (restart, significant) = (self.kids[at].spec.restart, self.kids[at].spec.significant);
        self.kids[at].stand = Stand::Down;
        if self.ending.is_some() {
            return self.rest(at);
        }
        if self.kids[at].due_stop || self.kids[at].due_start.is_some() {
            edges.hit(
                "supervisor",
                "a second failure within a group restart counts once",
            );
            self.kids[at].due_stop = false;
            if restart == Restart::Temporary {
                self.kids.remove(at);
            }
            return;
        }
        let abnormal = !matches!(reason, ExitReason::Normal | ExitReason::Shutdown(_));
        edges.hit(
            "restart type",
            match (restart, abnormal) {
                (Restart::Permanent, true) => "permanent, abnormal end: restarted",
                (Restart::Permanent, false) => "permanent, normal end: restarted",
                (Restart::Transient, true) => "transient, abnormal end: restarted",
                (Restart::Transient, false) => "transient, normal end: down",
                (Restart::Temporary, true) => "temporary, abnormal end: forgotten",
                (Restart::Temporary, false) => "temporary, normal end: forgotten",
            },
        );
        let wanted = match restart {
            Restart::Permanent => true,
            Restart::Transient => abnormal,
            Restart::Temporary => false,
        };
        if wanted {
            return self.restart(at, now, edges);
        }
        self.rest(at);
        self.significant_ended |= significant;
    }

    /// Whether children are being started, or stopped to be started, one after the other.
    fn in_sequence(&self) -> bool {
        let grouped = matches!(
            self.flags.strategy,
            Strategy::OneForAll | Strategy::RestForOne
        );
        let counts = |why| match why {
            Why::Boot => true,
            Why::Restart => grouped,
            Why::Add | Why::Order => false,
        };
        self.kids.iter().any(|kid| {
            let starting = matches!(kid.stand, Stand::Starting(why) if counts(why));
            starting || kid.due_stop || kid.due_start.is_some_and(counts)
        })
    }

    /// Whether the end of a significant child ends the supervisor, once nothing under way may still change that.
    fn decide(&mut self, edges: &mut Edges) {
        if !self.significant_ended || self.ending.is_some() || self.in_sequence() {
            return;
        }
        let significant = || self.kids.iter().filter(|kid| kid.spec.significant);
        let stays = significant().any(|kid| matches!(kid.stand, Stand::Up | Stand::Retrying));
        let moves = significant().any(|kid| kid.is_there() || kid.due_start.is_some());
        let edge = match self.flags.auto_shutdown {
            AutoShutdown::Never => None,
            AutoShutdown::AnySignificant => Some("auto shutdown: the first significant child"),
            AutoShutdown::AllSignificant if stays => None,
            AutoShutdown::AllSignificant if moves => return,
            AutoShutdown::AllSignificant => Some("auto shutdown: the last significant child"),
        };
        self.significant_ended = false;
        if let Some(edge) = edge {
            edges.hit("supervisor", edge);
            self.ends(Ending::AutoShutdown);
        }
    }

    /// The child at this place is entitled to a restart, if the window allows one more.
    fn restart(&mut self, at: usize, now: Timestamp, edges: &mut Edges) {
        self.restarts.push(now);
        let period = self.flags.period;
        let within = self
            .restarts
            .iter()
            .filter(|then| now.since(**then) <= period)
            .count();
        if self.restarts.iter().any(|then| now.since(*then) == period) {
            edges.hit("supervisor", "a restart exactly a period old still counts");
        }
        let within = u32::try_from(within).unwrap_or(u32::MAX);
        if within > self.flags.intensity {
            edges.hit("supervisor", "end by intensity");
            self.step.exceeded = true;
            let id = self.kids[at].spec.id.clone();
            return self.ends(Ending::Escalated(id));
        }
        self.step.granted = Some(within);
        let (from, edge) = match self.flags.strategy {
            Strategy::OneForOne => (None, "one_for_one restarts one"),
            Strategy::Dynamic => (None, "a pool restarts one"),
            Strategy::OneForAll => (Some(0), "one_for_all restarts all"),
            Strategy::RestForOne => (Some(at), "rest_for_one restarts the rest"),
        };
        edges.hit("supervisor", edge);
        let Some(from) = from else {
            self.kids[at].due_start = Some(Why::Restart);
            return;
        };
        for kid in &mut self.kids[from..] {
            kid.due_stop = kid.is_there();
            // Whom the boot has not come to yet, it still starts. Else a temporary child is not restarted but forgotten.
            let awaited = kid.due_start == Some(Why::Boot);
            let goes = kid.spec.restart == Restart::Temporary && !awaited;
            // While not all have been started once, a failed start is a failed boot.
            let why = if self.booting {
                Why::Boot
            } else {
                Why::Restart
            };
            kid.due_start = (!goes).then_some(why);
            if kid.stand == Stand::Retrying {
                kid.stand = Stand::Down;
            }
        }
    }

    /// A child that was told to stop is gone.
    fn stopped(&mut self, at: usize) {
        let kid = &mut self.kids[at];
        kid.due_stop = false;
        kid.stand = Stand::Down;
        // A restart of its group that began meanwhile starts it, once.
        let bounce = std::mem::take(&mut kid.bounce);
        if kid.due_start.is_some() {
            return;
        }
        if bounce {
            kid.due_start = Some(Why::Order);
            return;
        }
        self.rest(at);
    }

    /// Down for good; temporary children and those of a pool are forgotten.
    fn rest(&mut self, at: usize) {
        let kid = &mut self.kids[at];
        kid.stand = Stand::Down;
        kid.due_start = None;
        if kid.spec.restart == Restart::Temporary || self.flags.strategy == Strategy::Dynamic {
            self.kids.remove(at);
        }
    }

    fn open(&self, matches: impl Fn(&Request) -> bool) -> bool {
        self.requests.values().any(matches)
    }

    /// Compares the account with what the supervisor shows, after a step.
    pub(crate) fn after(&self, machine: &Supervisor) -> Verdict {
        // Whose restart failed is down at once when its group, or everything, is being stopped.
        let stopping = self.ending.is_some()
            || self.kids.iter().any(|kid| {
                kid.due_stop || (matches!(kid.stand, Stand::Asked(_)) && kid.due_start.is_some())
            });
        let ours: Vec<_> = self
            .kids
            .iter()
            .map(|kid| {
                let status = match kid.stand {
                    Stand::Down => ChildStatus::Down,
                    Stand::Starting(_) => ChildStatus::Starting,
                    Stand::Up => ChildStatus::Running,
                    Stand::Asked(_) => ChildStatus::Stopping,
                    Stand::Retrying if stopping => ChildStatus::Down,
                    Stand::Retrying => ChildStatus::Restarting,
                };
                (&kid.spec.id, status)
            })
            .collect();
        let theirs: Vec<_> = machine
            .children()
            .map(|view| match view.status {
                ChildStatus::Restarting if stopping => (&view.spec.id, ChildStatus::Down),
                status => (&view.spec.id, status),
            })
            .collect();
        ensure(self.ended || ours == theirs, SCOPE, || {
            format!("children are {theirs:?}, by our account {ours:?}")
        })?;
        ensure(machine.has_ended() == self.ended, ORDER, || {
            "it ended without saying so".to_owned()
        })?;
        let busy = self.kids.iter().any(|kid| match kid.stand {
            Stand::Starting(_) | Stand::Asked(_) => true,
            Stand::Retrying => self.ending.is_none(),
            Stand::Down | Stand::Up => false,
        });
        if busy || self.ended {
            return self.bounded();
        }
        ensure(self.ending.is_none(), STUCK, || {
            format!("it ends by {:?} and waits for nobody", self.ending)
        })?;
        let due = self
            .kids
            .iter()
            .find(|kid| kid.due_start.is_some() || kid.due_stop);
        ensure(due.is_none(), STUCK, || {
            format!("nobody starts or stops {due:?}")
        })?;
        ensure(self.requests.is_empty(), STUCK, || {
            format!("nobody answers {:?}", self.requests)
        })
    }

    fn bounded(&self) -> Verdict {
        let max = DEFERRED_MAX + self.kids.len();
        ensure(
            self.requests.len() <= max,
            "every queue is bounded: requests of a supervisor",
            || format!("{} wait", self.requests.len()),
        )
    }

    /// The children that are there, by this account.
    pub(crate) fn there(&self) -> BTreeSet<(ChildId, Incarnation)> {
        self.kids
            .iter()
            .filter(|kid| kid.is_there())
            .filter_map(|kid| Some((kid.spec.id.clone(), kid.incarnation?)))
            .collect()
    }
}
