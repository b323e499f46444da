//! What is watched of one attempt, or of an instance with nothing in hand.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_messages::liveness::{Finding, FindingAction, FindingKind};
use mesh_messages::{AttemptNo, TaskId, Timestamp};

use super::{
    CALLS_MAX, Call, Fingerprint, Limits, RECENT_MAX, STALL_LINES_MIN, Shown, Told, millis, spoken,
};

/// A call in flight.
#[derive(Debug, Clone)]
struct Flying {
    name: String,
    what: Fingerprint,
    since: Timestamp,
    until: Option<Timestamp>,
    /// Its end is a step forward: nothing like it was called before.
    moves: bool,
}

/// A call that was made, and how often since something was new.
#[derive(Debug, Clone)]
struct Recent {
    what: Fingerprint,
    count: u64,
    since: Timestamp,
    /// Those of them that are in flight.
    open: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Scope {
    of: Option<(TaskId, AttemptNo)>,
    /// The last line.
    pub(super) heard: Timestamp,
    /// When something last moved, put off by the time that calls were in flight.
    moved: Timestamp,
    /// Lines since then.
    lines: u64,
    best: Option<f64>,
    flying: BTreeMap<String, Flying>,
    calling_since: Option<Timestamp>,
    // Least recently made first. Invariant: at most `RECENT_MAX`.
    recent: VecDeque<Recent>,
    told: Told,
    // It was cancelled: nothing of it is of interest any more.
    over: bool,
}

impl Scope {
    pub(super) fn new(of: Option<(TaskId, AttemptNo)>, now: Timestamp) -> Self {
        Self {
            of,
            heard: now,
            moved: now,
            lines: 0,
            best: None,
            flying: BTreeMap::new(),
            calling_since: None,
            recent: VecDeque::new(),
            told: Told::new(),
            over: false,
        }
    }

    /// Moves everything that time is counted from by `stood`, and nothing beyond `now`.
    pub(super) fn skip(&mut self, now: Timestamp, stood: Duration) {
        let later = |at: &mut Timestamp| *at = at.plus(stood).min(now).max(*at);
        later(&mut self.heard);
        later(&mut self.moved);
        self.calling_since.iter_mut().for_each(later);
        for recent in &mut self.recent {
            later(&mut recent.since);
        }
        for call in self.flying.values_mut() {
            later(&mut call.since);
            call.until = call.until.map(|until| until.plus(stood));
        }
    }

    pub(super) fn is_calling(&self) -> bool {
        !self.flying.is_empty()
    }

    pub(super) fn takes_call(&self, id: &str) -> bool {
        self.flying.len() < CALLS_MAX || self.flying.contains_key(id)
    }

    /// Only more than ever before is progress: to go back and forth is not.
    pub(super) fn progress(&mut self, now: Timestamp, fraction: f64) {
        if self.best.is_none_or(|best| fraction > best) {
            self.best = Some(fraction);
            self.step_forward(now);
            self.forget_counts();
        }
    }

    pub(super) fn line(&mut self, now: Timestamp, limits: &Limits) -> Option<Finding> {
        self.heard = now;
        // The line that moved something is no line that moved nothing.
        if now == self.moved {
            return None;
        }
        self.lines += 1;
        let lasted = now.since(self.moved);
        if self.is_calling() || self.lines < STALL_LINES_MIN || lasted < limits.stall {
            return None;
        }
        let text = format!(
            "wrote {} lines in {} in which its task did not move; the limit is {}",
            self.lines,
            spoken(lasted),
            spoken(limits.stall)
        );
        let shown = Shown {
            count: self.lines,
            lasted,
            limit: limits.stall,
            ..Shown::default()
        };
        self.find(limits, FindingKind::Stall, shown, text)
    }

    pub(super) fn called(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        call: Call,
    ) -> Option<Finding> {
        let until = |since: Timestamp| {
            call.bound
                .map(|bound| now.plus(bound).min(since.plus(limits.call_max)))
        };
        let full = self.flying.len() >= CALLS_MAX;
        match self.flying.get_mut(&call.id) {
            // Said again: it may take longer, but never longer than any call may.
            Some(known) if known.what == call.what => {
                known.until = until(known.since);
                return None;
            }
            Some(_) => self.answered(now, &call.id),
            None if full => return None,
            None => {}
        }
        let (is_new, finding) = if call.waits {
            (false, None)
        } else {
            self.counted(now, limits, &call)
        };
        self.calling_since.get_or_insert(now);
        self.flying.insert(
            call.id.clone(),
            Flying {
                since: now,
                until: until(now),
                moves: call.moves && is_new,
                name: call.name,
                what: call.what,
            },
        );
        finding
    }

    /// Counts a call among those like it; whether there was none.
    fn counted(&mut self, now: Timestamp, limits: &Limits, call: &Call) -> (bool, Option<Finding>) {
        let known = self.recent.iter().position(|r| r.what == call.what);
        let Some(mut recent) = known.and_then(|at| self.recent.remove(at)) else {
            self.forget_counts();
            if self.recent.len() >= RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(Recent {
                what: call.what,
                count: 1,
                since: now,
                open: 1,
            });
            return (true, None);
        };
        let again = recent.open == 0;
        recent.open = recent.open.saturating_add(1);
        if again {
            if recent.count == 0 {
                recent.since = now;
            }
            recent.count += 1;
        }
        let (count, lasted) = (recent.count, now.since(recent.since));
        self.recent.push_back(recent);
        let enough = count >= u64::from(limits.repetition) && lasted >= limits.repetition_over;
        // Without a task there is nothing that could be given up, and nothing that could progress.
        if !again || !enough || self.of.is_none() {
            return (false, None);
        }
        let text = format!(
            "made the same call ({}) {count} times in {} and nothing new; the limit is {} over at least {}",
            call.name,
            spoken(lasted),
            limits.repetition,
            spoken(limits.repetition_over)
        );
        let shown = Shown {
            count,
            lasted,
            limit: limits.repetition_over,
            limit_count: Some(u64::from(limits.repetition)),
            call: Some(format!("{} {}", call.name, call.what)),
        };
        let finding = self.find(limits, FindingKind::Repetition, shown, text);
        (false, finding)
    }

    pub(super) fn answered(&mut self, now: Timestamp, id: &str) {
        if let Some(call) = self.flying.remove(id) {
            self.landed(now, &call);
        }
    }

    fn landed(&mut self, now: Timestamp, call: &Flying) {
        if let Some(recent) = self.recent.iter_mut().find(|r| r.what == call.what) {
            recent.open = recent.open.saturating_sub(1);
        }
        // Whoever waited for an answer has it only now.
        self.heard = self.heard.max(now);
        if call.moves {
            self.step_forward(now);
        }
        if self.flying.is_empty()
            && let Some(since) = self.calling_since.take()
        {
            // The time of the wait does not count.
            let waited = now.since(since.max(self.moved));
            self.moved = self.moved.plus(waited);
        }
    }

    /// Calls that outlast their bounds. They explain nothing any more, so they are forgotten.
    pub(super) fn overrun(&mut self, now: Timestamp, limits: &Limits) -> Option<Finding> {
        let mut first = None;
        while let Some((id, until)) = self
            .flying
            .iter()
            .filter_map(|(id, call)| Some((id.clone(), call.until?)))
            .find(|(_, until)| now >= *until)
        {
            let Some(call) = self.flying.remove(&id) else {
                break;
            };
            let bound = until.since(call.since);
            let lasted = now.since(call.since);
            // A call that never ends is no step forward.
            let ended = Flying {
                moves: false,
                ..call
            };
            self.landed(now, &ended);
            let text = format!(
                "a call that it announced ({}) lasts for {}; its bound was {}",
                ended.name,
                spoken(lasted),
                spoken(bound)
            );
            let shown = Shown {
                lasted,
                limit: bound,
                call: Some(format!("{} {}", ended.name, ended.what)),
                ..Shown::default()
            };
            let finding = self.find(limits, FindingKind::Overrun, shown, text);
            first = first.or(finding);
        }
        first
    }

    pub(super) fn silent(&mut self, now: Timestamp, limits: &Limits) -> Option<Finding> {
        let limit = limits.silence?;
        let lasted = now.since(self.heard);
        if self.of.is_none() || self.is_calling() || lasted < limit {
            return None;
        }
        let text = format!(
            "silent for {} with a task in hand; the limit is {}",
            spoken(lasted),
            spoken(limit)
        );
        let shown = Shown {
            lasted,
            limit,
            ..Shown::default()
        };
        self.find(limits, FindingKind::Silence, shown, text)
    }

    pub(super) fn due(&self, limits: &Limits) -> Option<Timestamp> {
        let bounds = self.flying.values().filter_map(|call| call.until);
        let silence = limits.silence.filter(|_| {
            self.of.is_some()
                && !self.is_calling()
                && !self.over
                && !self.told.contains(&FindingKind::Silence)
                && limits.on_silence != FindingAction::Off
        });
        bounds
            .chain(silence.map(|limit| self.heard.plus(limit)))
            .min()
    }

    /// Makes a finding, unless it is not looked for, was made before, or comes too late.
    pub(super) fn find(
        &mut self,
        limits: &Limits,
        finding: FindingKind,
        shown: Shown,
        detail: String,
    ) -> Option<Finding> {
        let action = match limits.action(finding) {
            FindingAction::Off => return None,
            // There is nothing to give up but the instance.
            FindingAction::Cancel if self.of.is_none() => FindingAction::End,
            action => action,
        };
        if self.over || !self.told.insert(finding) {
            return None;
        }
        self.over = matches!(action, FindingAction::End | FindingAction::Cancel);
        let (task, attempt) = self.of.clone().unzip();
        Some(Finding {
            finding,
            action,
            task,
            attempt,
            count: shown.count,
            lasted_ms: millis(shown.lasted),
            limit_ms: millis(shown.limit),
            limit_count: shown.limit_count,
            call: shown.call,
            detail,
        })
    }

    fn step_forward(&mut self, now: Timestamp) {
        self.moved = now;
        self.lines = 0;
    }

    fn forget_counts(&mut self) {
        for recent in &mut self.recent {
            recent.count = 0;
        }
    }

    /// What is remembered, in numbers: calls in flight, and different calls.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.flying.len(), self.recent.len())
    }
}
