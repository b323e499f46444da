//! The schedules, as their events make them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::schedule::{
    FIRINGS_KEPT_MAX, Firing, FiringOutcome, Schedule, ScheduleTerms, UPCOMING_SHOWN, Upcoming,
};
use mesh_messages::workflow::WorkflowDocument;
use mesh_messages::{ScheduleId, Timestamp, WorkflowRunId};
use serde::{Deserialize, Serialize};

use crate::workflow::cron::{Timing, TimingError};
use crate::workflow::plan::digest_of;
use crate::workflow::state::Workflows;

/// A schedule that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(super) terms: ScheduleTerms,
    pub(super) document: Arc<WorkflowDocument>,
    pub(super) by: String,
    pub(super) at: Timestamp,
    pub(super) paused: bool,
    pub(super) next: Option<Timestamp>,
    pub(super) running: BTreeSet<WorkflowRunId>,
    pub(super) waiting: VecDeque<Timestamp>,
    /// Newest last.
    pub(super) recent: VecDeque<Firing>,
    /// The latest planned time that was decided on. None up to it is decided on again, whatever the clock says.
    #[serde(default)]
    last: Option<Timestamp>,
}

/// All schedules, as their events make them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(
    from = "BTreeMap<ScheduleId, Held>",
    into = "BTreeMap<ScheduleId, Held>"
)]
pub(crate) struct Schedules {
    pub(super) held: BTreeMap<ScheduleId, Held>,
    /// When each fires next.
    pub(super) due: BTreeSet<(Timestamp, ScheduleId)>,
    /// Those of which something that waits may begin.
    to_look_at: BTreeSet<ScheduleId>,
    /// Those of which something waits for any run to end: no more are held.
    crowded_out: BTreeSet<ScheduleId>,
}

impl PartialEq for Schedules {
    /// The rest follows.
    fn eq(&self, other: &Self) -> bool {
        self.held == other.held
    }
}

impl From<Schedules> for BTreeMap<ScheduleId, Held> {
    fn from(schedules: Schedules) -> Self {
        schedules.held
    }
}

impl From<BTreeMap<ScheduleId, Held>> for Schedules {
    fn from(held: BTreeMap<ScheduleId, Held>) -> Self {
        let due = held
            .iter()
            .filter_map(|(id, held)| Some((held.next?, id.clone())))
            .collect();
        let mut schedules = Self {
            held,
            due,
            to_look_at: BTreeSet::new(),
            crowded_out: BTreeSet::new(),
        };
        schedules.look_again();
        schedules
    }
}

impl Schedules {
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(crate) fn take_next(&mut self) -> Option<ScheduleId> {
        self.to_look_at.pop_first()
    }

    pub(crate) fn has_to_look(&self) -> bool {
        !self.to_look_at.is_empty()
    }

    pub(crate) fn look_again(&mut self) {
        self.to_look_at = self
            .held
            .iter()
            .filter(|(_, held)| !held.waiting.is_empty())
            .map(|(id, _)| id.clone())
            .collect();
    }

    /// Something of it waits until any run has ended.
    pub(super) fn crowd_out(&mut self, id: &ScheduleId) {
        self.crowded_out.insert(id.clone());
    }

    /// A run has ended, so that there is room for another.
    pub(crate) fn there_is_room(&mut self) {
        self.to_look_at.append(&mut self.crowded_out);
    }

    /// One of its runs has ended.
    pub(crate) fn run_ended(&mut self, id: &ScheduleId, run: &WorkflowRunId) {
        let Some(held) = self.held.get_mut(id) else {
            return;
        };
        held.running.remove(run);
        if !held.waiting.is_empty() {
            self.to_look_at.insert(id.clone());
        }
    }

    /// Takes an event about a schedule in; of others it knows nothing.
    pub(crate) fn apply(&mut self, event: &WorkflowEvent) {
        match event {
            WorkflowEvent::ScheduleCreated {
                schedule,
                terms,
                document,
                by,
                at,
                next,
                paused,
            } => {
                let held = Held {
                    terms: (**terms).clone(),
                    document: Arc::new((**document).clone()),
                    by: by.clone(),
                    at: *at,
                    paused: *paused,
                    next: None,
                    running: BTreeSet::new(),
                    waiting: VecDeque::new(),
                    recent: VecDeque::new(),
                    last: None,
                };
                self.held.insert(schedule.clone(), held);
                self.set_next(schedule, *next);
            }
            WorkflowEvent::ScheduleChanged {
                schedule,
                paused,
                next,
                ..
            } => {
                if let Some(held) = self.held.get_mut(schedule) {
                    held.paused = *paused;
                    self.to_look_at.insert(schedule.clone());
                }
                self.set_next(schedule, *next);
            }
            WorkflowEvent::ScheduleFired {
                schedule,
                firing,
                next,
            } => {
                if let Some(held) = self.held.get_mut(schedule) {
                    held.fired(firing);
                }
                self.set_next(schedule, *next);
            }
            WorkflowEvent::ScheduleRemoved { schedule, .. } => {
                self.set_next(schedule, None);
                self.held.remove(schedule);
                self.to_look_at.remove(schedule);
                self.crowded_out.remove(schedule);
            }
            WorkflowEvent::Started { .. }
            | WorkflowEvent::StepStarted { .. }
            | WorkflowEvent::UnitEnded { .. }
            | WorkflowEvent::StepFailing { .. }
            | WorkflowEvent::StepEnded { .. }
            | WorkflowEvent::Ending { .. }
            | WorkflowEvent::Compensating { .. }
            | WorkflowEvent::Compensated { .. }
            | WorkflowEvent::Ended { .. }
            | WorkflowEvent::PlanWritten { .. }
            | WorkflowEvent::PlanStarted { .. }
            | WorkflowEvent::PlanRemoved { .. } => {}
        }
    }

    fn set_next(&mut self, id: &ScheduleId, next: Option<Timestamp>) {
        let Some(held) = self.held.get_mut(id) else {
            return;
        };
        if let Some(before) = held.next.take() {
            self.due.remove(&(before, id.clone()));
        }
        held.next = next;
        if let Some(next) = next {
            self.due.insert((next, id.clone()));
        }
    }
}

impl Held {
    fn fired(&mut self, firing: &Firing) {
        self.last = self.last.max(Some(firing.planned));
        match (firing.outcome, &firing.run) {
            (FiringOutcome::Waiting, _) => self.waiting.push_back(firing.planned),
            (FiringOutcome::Started, Some(run)) => {
                self.waiting.retain(|planned| *planned != firing.planned);
                self.running.insert(run.clone());
            }
            (FiringOutcome::Started, None)
            | (FiringOutcome::Skipped | FiringOutcome::Missed, _) => {
                self.waiting.retain(|planned| *planned != firing.planned);
            }
        }
        // What waited and has begun is one firing, not two.
        self.recent.retain(|known| {
            known.outcome != FiringOutcome::Waiting || known.planned != firing.planned
        });
        self.recent.push_back(firing.clone());
        while self.recent.len() > FIRINGS_KEPT_MAX {
            self.recent.pop_front();
        }
    }

    /// When it fires next: after `now`, and after every time that was decided on, also where the clock was set back since.
    pub(super) fn next_after(&self, timing: &Timing, now: Timestamp) -> Option<Timestamp> {
        // What was held before this was noted has its latest times.
        let shown = self.recent.iter().map(|firing| firing.planned).max();
        timing.after(self.last.max(shown).map_or(now, |last| now.max(last)))
    }

    pub(super) fn timing(&self) -> Result<Timing, TimingError> {
        Timing::read(&self.terms.cron, &self.terms.time_zone)
    }

    fn view(&self, id: &ScheduleId) -> Schedule {
        let mut upcoming = Vec::new();
        if let (Some(next), Ok(timing)) = (self.next, self.timing()) {
            let mut place = Some(next);
            while let Some(at) = place.filter(|_| upcoming.len() < UPCOMING_SHOWN) {
                let local = timing.local(at);
                upcoming.push(Upcoming { at, local });
                place = timing.after(at);
            }
        }
        Schedule {
            id: id.clone(),
            cron: self.terms.cron.clone(),
            time_zone: self.terms.time_zone.clone(),
            missed: self.terms.missed,
            overlap: self.terms.overlap,
            paused: self.paused,
            name: self.document.name.clone(),
            version: self.document.version.0.clone(),
            digest: digest_of(&self.document),
            input: self.terms.input.clone(),
            upcoming,
            running: self.running.iter().cloned().collect(),
            waiting: self.waiting.iter().copied().collect(),
            recent: self.recent.iter().rev().cloned().collect(),
            created_by: self.by.clone(),
            created_at: self.at,
            workflow: Some(Box::new((*self.document).clone())),
        }
    }
}

impl Workflows {
    /// All schedules by name, without their documents.
    pub fn schedules(&self) -> Vec<Schedule> {
        let shown = self.schedules.held.iter();
        shown
            .map(|(id, held)| Schedule {
                workflow: None,
                ..held.view(id)
            })
            .collect()
    }

    /// A schedule, with its document.
    pub fn schedule(&self, id: &ScheduleId) -> Option<Schedule> {
        self.schedules.held.get(id).map(|held| held.view(id))
    }
}
