//! The runs, as their events make them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use mesh_messages::claim::TaskClaim;
use mesh_messages::events::WorkflowEvent;
use mesh_messages::schedule::Scheduled;
use mesh_messages::task::TaskState;
use mesh_messages::workflow::{ParentStep, StepState, UnitOutcome, WorkflowDocument, WorkflowRun};
use mesh_messages::{Failure, TaskId, Timestamp, WorkflowRunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Plan, Work};
use super::schedule::Schedules;
use super::stored::Plans;
use crate::task::json_len;
use crate::trail::Trail;

mod trail;

mod fold;

use fold::fold_step;

/// Most documents that are kept by name for others to refer to; the one that was used longest ago goes first.
pub const NAMES_MAX: usize = 1000;

/// One unit of a step: a task, a call or a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unit {
    pub(crate) input: Value,
    pub(crate) item: Option<Value>,
    /// Its task, or the key of its call; `None` for runs.
    pub(crate) task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<TaskClaim>,
    pub(crate) outcome: Option<UnitOutcome>,
    /// When it last succeeded, in the order of the run; a failure in a later round takes nothing back.
    pub(crate) done: Option<u64>,
    /// What it made in the round before.
    pub(crate) last_output: Option<Value>,
    pub(crate) undo: Option<UndoRun>,
}

/// A compensation under way, or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UndoRun {
    pub(crate) task: TaskId,
    pub(crate) input: Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<TaskClaim>,
    pub(crate) ended: bool,
    pub(crate) error: Option<Failure>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepRun {
    /// `blocked` before it begins, `running` while it goes on, then how it ended.
    pub(crate) state: StepState,
    pub(crate) round: u32,
    pub(crate) units: Vec<Unit>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) ends_at: Option<Timestamp>,
    /// Why it cannot succeed any more, or did not.
    pub(crate) error: Option<Failure>,
}

impl Default for StepRun {
    fn default() -> Self {
        Self {
            state: StepState::Blocked,
            round: 0,
            units: Vec::new(),
            started_at: None,
            ended_at: None,
            ends_at: None,
            error: None,
        }
    }
}

impl StepRun {
    pub(crate) fn is_running(&self) -> bool {
        self.state == StepState::Running
    }

    /// What it made: a list under `forEach`.
    pub(crate) fn output(&self, each: bool) -> Value {
        let of = |unit: &Unit| unit.outcome.as_ref().and_then(UnitOutcome::output).cloned();
        let never = self.units.is_empty() && self.state != StepState::Succeeded;
        if each && (never || matches!(self.state, StepState::Skipped | StepState::Blocked)) {
            Value::Null
        } else if each {
            let items = self.units.iter().map(|unit| of(unit).unwrap_or_default());
            Value::Array(items.collect())
        } else if self.state.is_terminal() && self.state != StepState::Succeeded {
            // Also where an earlier round made something.
            Value::Null
        } else {
            let unit = self.units.first();
            unit.and_then(|unit| of(unit).or_else(|| unit.last_output.clone()))
                .unwrap_or_default()
        }
    }
}

/// How a run will end, once what it has under way has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) to: TaskState,
    pub(crate) error: Failure,
    pub(crate) compensate: bool,
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub(crate) id: WorkflowRunId,
    document: Arc<WorkflowDocument>,
    #[serde(skip, default = "Plan::nothing")]
    pub(crate) plan: Arc<Plan>,
    pub(crate) input: Value,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
    pub(crate) key: Option<String>,
    pub(crate) request: String,
    pub(crate) parent: Option<ParentStep>,
    #[serde(default)]
    pub(crate) scheduled: Option<Scheduled>,
    pub(crate) steps: Vec<StepRun>,
    pub(crate) ending: Option<Ending>,
    /// Units that are runs and have been started, by step and index, as of each step's latest round.
    pub(crate) children: BTreeSet<(usize, usize)>,
    /// How often something of it has succeeded: the order for taking back.
    pub(crate) successes: u64,
    /// Bytes of its outputs.
    pub(crate) bytes: usize,
    /// What is shown, once it has ended.
    pub(crate) ended: Option<Box<WorkflowRun>>,
    /// Its last record, and the request that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trail: Option<Trail>,
}

impl PartialEq for Run {
    /// The plan follows from the document.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.document == other.document
            && (&self.input, &self.by, self.at, &self.key, &self.request)
                == (
                    &other.input,
                    &other.by,
                    other.at,
                    &other.key,
                    &other.request,
                )
            && (&self.parent, &self.steps, &self.ending, &self.children)
                == (&other.parent, &other.steps, &other.ending, &other.children)
            && self.scheduled == other.scheduled
            && (self.successes, self.bytes, &self.ended)
                == (other.successes, other.bytes, &other.ended)
    }
}

impl Run {
    /// Its id.
    pub fn id(&self) -> &WorkflowRunId {
        &self.id
    }
}

/// Where a task belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) run: WorkflowRunId,
    pub(crate) step: usize,
    pub(crate) index: usize,
    /// Whether it takes the step back.
    pub(crate) undo: bool,
}

/// What follows from the runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// Tasks and calls that have not ended.
    pub(crate) open: BTreeMap<TaskId, Place>,
    pub(crate) timers: BTreeSet<(Timestamp, WorkflowRunId, usize)>,
    pub(crate) keys: BTreeMap<(String, String), WorkflowRunId>,
    /// Runs at which to look again.
    pub(crate) dirty: BTreeSet<WorkflowRunId>,
    /// Runs that have not ended.
    pub(crate) live: usize,
    plans: BTreeMap<String, Weak<Plan>>,
}

/// Every run that has not ended, or whose end the read side does not show yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Workflows {
    runs: BTreeMap<WorkflowRunId, Run>,
    /// The newest document of each name.
    names: BTreeMap<String, Arc<WorkflowDocument>>,
    /// The order in which names were used.
    recent: VecDeque<String>,
    applied: u64,
    /// Runs that have ended, with the number of the event that ended them.
    ended: VecDeque<(u64, WorkflowRunId)>,
    pub(crate) schedules: Schedules,
    pub(crate) plans: Plans,
    #[serde(skip)]
    pub(crate) index: Index,
}

impl PartialEq for Workflows {
    /// The index follows from the rest.
    fn eq(&self, other: &Self) -> bool {
        (&self.runs, &self.names, &self.recent) == (&other.runs, &other.names, &other.recent)
            && (self.applied, &self.ended) == (other.applied, &other.ended)
            && (&self.schedules, &self.plans) == (&other.schedules, &other.plans)
    }
}

/// As it is stored: without what follows from it.
#[derive(Deserialize)]
struct Stored {
    runs: BTreeMap<WorkflowRunId, Run>,
    names: BTreeMap<String, Arc<WorkflowDocument>>,
    recent: VecDeque<String>,
    applied: u64,
    ended: VecDeque<(u64, WorkflowRunId)>,
    #[serde(default)]
    schedules: Schedules,
    #[serde(default)]
    plans: Plans,
}

impl From<Stored> for Workflows {
    fn from(stored: Stored) -> Self {
        let mut state = Self {
            runs: BTreeMap::new(),
            names: stored.names,
            recent: stored.recent,
            applied: stored.applied,
            ended: stored.ended,
            schedules: stored.schedules,
            plans: stored.plans,
            index: Index::default(),
        };
        for (id, mut run) in stored.runs {
            run.plan = state.index.plan(Arc::clone(&run.document));
            run.document = Arc::clone(&run.plan.document);
            state.index.insert(&run);
            state.index.dirty.insert(id.clone());
            state.runs.insert(id, run);
        }
        state
    }
}

impl Index {
    /// The plan of a document; runs of one document share it.
    pub(crate) fn plan(&mut self, document: Arc<WorkflowDocument>) -> Arc<Plan> {
        let digest = super::digest_of(&document);
        if let Some(plan) = self.plans.get(&digest).and_then(Weak::upgrade) {
            return plan;
        }
        self.plans.retain(|_, plan| plan.strong_count() > 0);
        let plan = Arc::new(Plan::make(document, &mut Vec::new()));
        self.keep(&plan);
        plan
    }

    fn keep(&mut self, plan: &Arc<Plan>) {
        self.plans.insert(plan.digest.clone(), Arc::downgrade(plan));
        for step in &plan.steps {
            if let Work::Run(inner) = &step.work {
                self.keep(inner);
            }
        }
    }

    fn insert(&mut self, run: &Run) {
        if let Some(key) = &run.key {
            self.keys
                .insert((run.by.clone(), key.clone()), run.id.clone());
        }
        if run.ended.is_some() {
            return;
        }
        self.live += 1;
        for (number, step) in run.steps.iter().enumerate() {
            self.open_step(run, number, step);
        }
    }

    fn open_step(&mut self, run: &Run, number: usize, step: &StepRun) {
        let place = |index: usize, undo: bool| Place {
            run: run.id.clone(),
            step: number,
            index,
            undo,
        };
        for (index, unit) in step.units.iter().enumerate() {
            if let Some(task) = unit.task.as_ref().filter(|_| unit.outcome.is_none()) {
                self.open.insert(task.clone(), place(index, false));
            }
            if let Some(undo) = unit.undo.as_ref().filter(|undo| !undo.ended) {
                self.open.insert(undo.task.clone(), place(index, true));
            }
        }
        if let Some(at) = step
            .ends_at
            .filter(|_| step.is_running() && step.error.is_none())
        {
            self.timers.insert((at, run.id.clone(), number));
        }
    }

    fn close_step(&mut self, run: &Run, number: usize, step: &StepRun) {
        for unit in &step.units {
            unit.task.as_ref().map(|task| self.open.remove(task));
            unit.undo.as_ref().map(|undo| self.open.remove(&undo.task));
        }
        if let Some(at) = step.ends_at {
            self.timers.remove(&(at, run.id.clone(), number));
        }
    }
}

impl Plan {
    /// The plan of no steps: stands in until the right one is made.
    pub(crate) fn nothing() -> Arc<Self> {
        let document = WorkflowDocument {
            name: String::new(),
            version: mesh_messages::workflow::DocumentVersion::default(),
            description: None,
            steps: Vec::new(),
            output: None,
        };
        Arc::new(Self::make(Arc::new(document), &mut Vec::new()))
    }
}

impl Workflows {
    /// A run that is held.
    pub fn run(&self, id: &WorkflowRunId) -> Option<&Run> {
        self.runs.get(id)
    }

    /// All runs that are held.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.runs.values()
    }

    /// The newest document of a name.
    pub fn named(&self, name: &str) -> Option<Arc<WorkflowDocument>> {
        self.names.get(name).cloned()
    }

    /// The run that an idempotency key of a submitter stands for, if it is held.
    pub fn by_key(&self, by: &str, key: &str) -> Option<&Run> {
        let id = self.index.keys.get(&(by.to_owned(), key.to_owned()))?;
        self.runs.get(id)
    }

    /// How many events it has taken in.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Looks at every run again: after a replay, what followed from the last events may not have been decided.
    pub fn look_again(&mut self) {
        let live = self.runs.values().filter(|run| run.ended.is_none());
        self.index.dirty = live.map(|run| run.id.clone()).collect();
        self.schedules.look_again();
    }

    /// When something is due next.
    pub fn next_timer(&self) -> Option<Timestamp> {
        let step = self.index.timers.first().map(|(at, ..)| *at);
        step.into_iter().chain(self.schedules.next_due()).min()
    }

    /// Whether a task is one of a step that has not ended.
    pub fn is_open(&self, task: &TaskId) -> bool {
        self.index.open.contains_key(task)
    }

    /// Forgets runs that ended with one of the first `events` events: the read side shows them.
    pub fn evict(&mut self, events: u64) {
        while self.ended.front().is_some_and(|(at, _)| *at <= events) {
            if let Some((_, id)) = self.ended.pop_front()
                && let Some(run) = self.runs.remove(&id)
                && let Some(key) = run.key
            {
                self.index.keys.remove(&(run.by, key));
            }
        }
    }

    /// Takes an event in. What does not fit is left out: the log has lost records, or this is a bug.
    pub fn apply(&mut self, event: &WorkflowEvent) {
        self.applied += 1;
        if let WorkflowEvent::Started { .. } = event {
            return self.started(event);
        }
        let Some(run) = event.run() else {
            self.plans.apply(event);
            return self.schedules.apply(event);
        };
        let Some(mut run) = self.runs.remove(run) else {
            return;
        };
        self.fold(&mut run, event);
        self.runs.insert(run.id.clone(), run);
    }

    fn started(&mut self, event: &WorkflowEvent) {
        let WorkflowEvent::Started {
            run: id,
            document,
            input,
            by,
            at,
            key,
            request,
            parent,
            scheduled,
            ..
        } = event
        else {
            return;
        };
        let plan = self.index.plan(Arc::new((**document).clone()));
        let document = Arc::clone(&plan.document);
        match parent {
            // What was submitted by hand is the newest of its name, whatever older one a schedule goes on with, or a plan
            // that was written long ago.
            None if scheduled.is_none() && !self.plans.began(id) => self.remember(&document),
            None => {}
            Some(parent) => {
                if let Some(above) = self.runs.get_mut(&parent.run)
                    && let Some(number) = above.plan.by_id.get(&parent.step)
                {
                    above.children.insert((*number, parent.index as usize));
                }
            }
        }
        let run = Run {
            id: id.clone(),
            steps: vec![StepRun::default(); document.steps.len()],
            document,
            plan,
            input: input.clone(),
            by: by.clone(),
            at: *at,
            key: key.clone(),
            request: request.clone(),
            parent: parent.clone(),
            scheduled: scheduled.clone(),
            ending: None,
            children: BTreeSet::new(),
            successes: 0,
            bytes: 0,
            ended: None,
            trail: None,
        };
        self.index.insert(&run);
        self.index.dirty.insert(id.clone());
        self.runs.insert(id.clone(), run);
    }

    fn remember(&mut self, document: &Arc<WorkflowDocument>) {
        let name = &document.name;
        if self
            .names
            .insert(name.clone(), Arc::clone(document))
            .is_some()
        {
            // The usual case: the same name again and again.
            if self.recent.back() == Some(name) {
                return;
            }
            self.recent.retain(|known| known != name);
        }
        self.recent.push_back(name.clone());
        while self.recent.len() > NAMES_MAX {
            if let Some(oldest) = self.recent.pop_front() {
                self.names.remove(&oldest);
            }
        }
    }

    fn fold(&mut self, run: &mut Run, event: &WorkflowEvent) {
        let number = |run: &Run, id: &str| run.plan.by_id.get(id).copied();
        match event {
            WorkflowEvent::Started { .. }
            | WorkflowEvent::ScheduleCreated { .. }
            | WorkflowEvent::ScheduleChanged { .. }
            | WorkflowEvent::ScheduleFired { .. }
            | WorkflowEvent::ScheduleRemoved { .. }
            | WorkflowEvent::PlanWritten { .. }
            | WorkflowEvent::PlanStarted { .. }
            | WorkflowEvent::PlanRemoved { .. } => {}
            WorkflowEvent::Ending {
                to,
                error,
                compensate,
                ..
            } => {
                run.ending = Some(Ending {
                    to: *to,
                    error: error.clone(),
                    compensate: *compensate,
                });
            }
            WorkflowEvent::Ended { view, .. } => {
                for (number, step) in run.steps.iter().enumerate() {
                    self.index.close_step(run, number, step);
                }
                run.ended = Some(view.clone());
                run.steps.clear();
                if let Some(scheduled) = &run.scheduled {
                    self.schedules.run_ended(&scheduled.schedule, &run.id);
                }
                self.index.live = self.index.live.saturating_sub(1);
                self.schedules.there_is_room();
                self.ended.push_back((self.applied, run.id.clone()));
            }
            WorkflowEvent::StepStarted { step, .. }
            | WorkflowEvent::UnitEnded { step, .. }
            | WorkflowEvent::StepFailing { step, .. }
            | WorkflowEvent::StepEnded { step, .. }
            | WorkflowEvent::Compensating { step, .. }
            | WorkflowEvent::Compensated { step, .. } => {
                let Some(number) = number(run, step).filter(|n| *n < run.steps.len()) else {
                    return;
                };
                let mut step = std::mem::take(&mut run.steps[number]);
                if matches!(event, WorkflowEvent::StepStarted { .. }) {
                    run.children.retain(|(of, _)| *of != number);
                }
                if let WorkflowEvent::UnitEnded { index, outcome, .. } = event {
                    // What one unit of many does costs no more than that unit.
                    self.unit_ended(run, &mut step, *index as usize, outcome);
                } else {
                    self.index.close_step(run, number, &step);
                    fold_step(&mut step, event);
                    self.index.open_step(run, number, &step);
                }
                run.steps[number] = step;
            }
        }
    }

    fn unit_ended(
        &mut self,
        run: &mut Run,
        step: &mut StepRun,
        index: usize,
        outcome: &UnitOutcome,
    ) {
        let Some(unit) = step.units.get_mut(index) else {
            return;
        };
        unit.task.as_ref().map(|task| self.index.open.remove(task));
        if let Some(output) = outcome.output() {
            run.successes += 1;
            run.bytes += json_len(output);
            unit.done = Some(run.successes);
        }
        unit.outcome = Some(outcome.clone());
        // Whatever follows goes by what it made.
        unit.input = Value::Null;
    }
}
