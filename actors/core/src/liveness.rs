//! Liveness by progress: is what an agent does getting anywhere?
//!
//! [`Watch`] is the watch over one incarnation of an agent. Time, and what its lines mean, go in; findings come out, each
//! with the one action that is bound to it. It knows nothing of processes, pipes or tasks beyond their ids.
//!
//! | finding | when | limit | action, unless the policy says otherwise |
//! |---|---|---|---|
//! | `heartbeat` | nothing in hand, silent for longer than the declared `ttl` | `heartbeat.ttl` | end (always) |
//! | `health_check` | the `health` hook was called and has not answered | `heartbeat.ttl`, or 15 s | end (always) |
//! | `silence` | a task in hand, no call in flight, no line | none, unless declared | end |
//! | `overrun` | an announced call outlasts its bound | its bound, at most 1 h | cancel |
//! | `repetition` | identical calls, and nothing new between them | 250, over at least 2 min | cancel |
//! | `stall` | lines keep coming, progress does not move | 30 min | alert |
//!
//! What keeps the honest slow agent out of this table:
//!
//! - A call in flight (a delegated task, an announced call within its bound) is a reason to be silent and a reason to get
//!   nowhere. Neither clock runs meanwhile. A call that was never made before counts as movement when it ends.
//! - Silence in a task is nothing to go by unless the agent's policy says so: a program that computes for an hour is silent.
//! - A call counts as repeated only when the earlier identical one has been answered: a hundred equal tasks delegated at
//!   once are a fan-out, not a loop. And only when it goes on for a while: a quick loop is only quick.
//!
//! An attempt has each finding once, and none at all after one that ends or cancels it. What is kept of an attempt is
//! bounded by [`CALLS_MAX`] and [`RECENT_MAX`], whatever the agent says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::liveness::{Finding, FindingAction, FindingKind};
use mesh_messages::{AttemptNo, TaskId, Timestamp};

mod condition;
mod scope;
#[cfg(test)]
mod tests;

pub use condition::{CONFIRM, Change, Condition, REPORT_FRESH};
use scope::Scope;

/// Calls of one attempt that are followed at once: as many as a task may have children, and some.
pub const CALLS_MAX: usize = 1024;
/// Different calls of one attempt that are remembered: a loop over more of them looks like work, and is left to the
/// other findings.
pub const RECENT_MAX: usize = 8;
/// Lines that move nothing which it takes for a stall: a sign of life now and then is not talk.
pub const STALL_LINES_MIN: u64 = 3;

/// What an agent may do before it counts as getting nowhere, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest silence with a task in hand; `None`: as long as it likes.
    pub silence: Option<Duration>,
    /// What follows.
    pub on_silence: FindingAction,
    /// Longest talk that moves nothing.
    pub stall: Duration,
    /// What follows.
    pub on_stall: FindingAction,
    /// Identical calls that are one too many.
    pub repetition: u32,
    /// Least time that they take.
    pub repetition_over: Duration,
    /// What follows.
    pub on_repetition: FindingAction,
    /// Longest bound of an announced call; longer ones are cut to this.
    pub call_max: Duration,
    /// What follows when a call outlasts its bound.
    pub on_overrun: FindingAction,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: None,
            on_silence: FindingAction::End,
            stall: Duration::from_mins(30),
            on_stall: FindingAction::Alert,
            repetition: 250,
            repetition_over: Duration::from_mins(2),
            on_repetition: FindingAction::Cancel,
            call_max: Duration::from_hours(1),
            on_overrun: FindingAction::Cancel,
        }
    }
}

impl Limits {
    /// The one action that is bound to a finding.
    pub const fn action(&self, finding: FindingKind) -> FindingAction {
        match finding {
            FindingKind::Heartbeat | FindingKind::HealthCheck => FindingAction::End,
            FindingKind::Silence => self.on_silence,
            FindingKind::Overrun => self.on_overrun,
            FindingKind::Repetition => self.on_repetition,
            FindingKind::Stall => self.on_stall,
        }
    }
}

/// What was asked, in so few bytes that many can be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a call of this kind that asks for this.
    pub fn of(kind: &str, asked: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(kind.len() as u64).to_le_bytes());
        hasher.update(kind.as_bytes());
        hasher.update(asked);
        let mut short = [0; 8];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(short)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A call that an agent makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Names it among those in flight.
    pub id: String,
    /// What it is, for people.
    pub name: String,
    /// What it asks for.
    pub what: Fingerprint,
    /// How long it may take; `None` where somebody else sees to that.
    pub bound: Option<Duration>,
    /// Whether its end is a step forward when it is the first of its kind.
    pub moves: bool,
    /// Whether it only waits for its turn: that is nothing new, and never the same again.
    pub waits: bool,
}

/// What happens to an agent, as far as liveness is concerned. Without a task it concerns the instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// It serves from now on.
    Ready,
    /// It has an attempt in hand.
    Begun {
        /// Of which task.
        task: TaskId,
        /// Which.
        attempt: AttemptNo,
    },
    /// It has let go of a task, one way or the other.
    Ended {
        /// Which.
        task: TaskId,
    },
    /// It says how far it is.
    Progress {
        /// With which task.
        task: TaskId,
        /// 0 to 1.
        fraction: f64,
    },
    /// It makes a call, or says again that one is in flight.
    Called {
        /// On behalf of which task.
        task: Option<TaskId>,
        /// Which.
        call: Call,
    },
    /// A call has ended.
    Answered {
        /// On behalf of which task it was made.
        task: Option<TaskId>,
        /// Which.
        id: String,
    },
    /// It wrote a line, whatever was in it. Comes after what the line meant.
    Line,
    /// Its `health` hook has not answered in time.
    Unanswered {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Time has passed.
    Due,
}

/// The watch over one incarnation.
#[derive(Debug, Clone)]
pub struct Watch {
    limits: Limits,
    ttl: Option<Duration>,
    // The latest time that was seen: a clock that is set back delays findings and makes none.
    now: Timestamp,
    ready: bool,
    idle: Scope,
    attempts: BTreeMap<TaskId, Scope>,
    // It is to be ended: whatever else it does is of no interest.
    over: bool,
}

impl Watch {
    /// A watch that begins now; with a `ttl` where the agent declared a heartbeat.
    pub fn new(limits: Limits, ttl: Option<Duration>, now: Timestamp) -> Self {
        Self {
            limits,
            ttl,
            now,
            ready: false,
            idle: Scope::new(None, now),
            attempts: BTreeMap::new(),
            over: false,
        }
    }

    /// Whether one more call can be followed.
    pub fn takes_call(&self, task: Option<&TaskId>, id: &str) -> bool {
        self.scope(task).is_none_or(|scope| scope.takes_call(id))
    }

    /// Takes one input in, and appends what it shows to `findings`.
    pub fn step(&mut self, now: Timestamp, input: Input, findings: &mut Vec<Finding>) {
        self.now = self.now.max(now);
        if self.over {
            return;
        }
        let (now, limits) = (self.now, self.limits);
        let before = findings.len();
        match input {
            Input::Ready => {
                self.ready = true;
                self.idle.heard = now;
            }
            Input::Begun { task, attempt } => {
                self.attempts
                    .insert(task.clone(), Scope::new(Some((task, attempt)), now));
            }
            Input::Ended { task } => {
                self.attempts.remove(&task);
                self.idle.heard = now;
            }
            Input::Progress { task, fraction } => {
                if let Some(scope) = self.attempts.get_mut(&task) {
                    scope.progress(now, fraction);
                }
            }
            Input::Called { task, call } => {
                if let Some(scope) = self.scope_mut(task.as_ref()) {
                    findings.extend(scope.called(now, &limits, call));
                }
            }
            Input::Answered { task, id } => {
                if let Some(scope) = self.scope_mut(task.as_ref()) {
                    scope.answered(now, &id);
                }
            }
            Input::Line => {
                self.idle.heard = now;
                for scope in self.attempts.values_mut() {
                    findings.extend(scope.line(now, &limits));
                }
            }
            Input::Unanswered { limit } => {
                let text = format!("did not answer `health` within {}", spoken(limit));
                let shown = Shown {
                    lasted: limit,
                    limit,
                    ..Shown::default()
                };
                findings.extend(
                    self.idle
                        .find(&limits, FindingKind::HealthCheck, shown, text),
                );
            }
            Input::Due => {}
        }
        self.look(findings);
        self.over = findings[before..]
            .iter()
            .any(|finding| finding.action == FindingAction::End);
        if self.over {
            // One end is enough; what else was found with it changes nothing.
            let end = findings[before..]
                .iter()
                .position(|finding| finding.action == FindingAction::End);
            findings.truncate(before + end.map_or(0, |end| end + 1));
        }
    }

    /// What it waited for came while it stands still: nothing is found now, and it waits for that no more.
    pub fn answered_still(&mut self, now: Timestamp, task: Option<&TaskId>, id: &str) {
        self.now = self.now.max(now);
        let now = self.now;
        if let Some(scope) = self.scope_mut(task) {
            scope.answered(now, id);
        }
    }

    /// It stood still for so long, by order: that time counts for nothing.
    pub fn skip(&mut self, now: Timestamp, stood: Duration) {
        self.now = self.now.max(now);
        for scope in self.attempts.values_mut().chain([&mut self.idle]) {
            scope.skip(self.now, stood);
        }
    }

    /// When [`Input::Due`] may show something that nothing has shown before.
    pub fn due(&self) -> Option<Timestamp> {
        if self.over {
            return None;
        }
        let attempts = self.attempts.values().chain(std::iter::once(&self.idle));
        attempts
            .filter_map(|scope| scope.due(&self.limits))
            .chain(self.heartbeat_due())
            .min()
    }

    /// What the passing of time alone shows.
    fn look(&mut self, findings: &mut Vec<Finding>) {
        let (now, limits) = (self.now, self.limits);
        for scope in self.attempts.values_mut().chain([&mut self.idle]) {
            findings.extend(scope.overrun(now, &limits));
            findings.extend(scope.silent(now, &limits));
        }
        let (Some(due), Some(ttl)) = (self.heartbeat_due(), self.ttl) else {
            return;
        };
        if now >= due {
            let lasted = now.since(self.idle.heard);
            let text = format!(
                "silent for {}, beyond its heartbeat's ttl of {}",
                spoken(lasted),
                spoken(ttl)
            );
            let shown = Shown {
                lasted,
                limit: ttl,
                ..Shown::default()
            };
            findings.extend(self.idle.find(&limits, FindingKind::Heartbeat, shown, text));
        }
    }

    /// Only while it serves, and while nothing is in hand or in flight that explains its silence.
    fn heartbeat_due(&self) -> Option<Timestamp> {
        let waits = self.ready && self.attempts.is_empty() && !self.idle.is_calling();
        let ttl = self.ttl.filter(|_| waits)?;
        Some(self.idle.heard.plus(ttl))
    }

    fn scope(&self, task: Option<&TaskId>) -> Option<&Scope> {
        match task {
            Some(task) => self.attempts.get(task),
            None => Some(&self.idle),
        }
    }

    fn scope_mut(&mut self, task: Option<&TaskId>) -> Option<&mut Scope> {
        match task {
            Some(task) => self.attempts.get_mut(task),
            None => Some(&mut self.idle),
        }
    }
}

/// What shows a finding.
#[derive(Debug, Default)]
struct Shown {
    count: u64,
    lasted: Duration,
    limit: Duration,
    limit_count: Option<u64>,
    call: Option<String>,
}

/// A time as people write it: as coarse as it can be without being wrong.
fn spoken(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (0, ms) => format!("{ms} ms"),
        (s @ 1..60, 0) => format!("{s} s"),
        (s @ 1..60, ms) => format!("{s}.{:01} s", ms / 100),
        (s, _) if s % 60 == 0 => format!("{} min", s / 60),
        (s, _) => format!("{} min {} s", s / 60, s % 60),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The kinds that an attempt was told of.
type Told = BTreeSet<FindingKind>;
