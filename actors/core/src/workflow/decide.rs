//! The one entrance: commands become events and effects.

use std::sync::Arc;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::schedule::Scheduled;
use mesh_messages::task::{TaskSpec, TaskState};
use mesh_messages::workflow::{ParentStep, ServiceTarget, StepState, UnitOutcome};
use mesh_messages::{Failure, FailureClass, TaskId, Timestamp, WorkflowRunId};
use serde_json::Value;

use super::advance::advance;
use super::drafting::{self, Draft};
use super::plan::{Plan, Work};
use super::schedule::{self, ScheduleCommand, ScheduleRefusal};
use super::state::{Run, Workflows};
use super::stored::{self, PlanCommand, PlanRefusal};
use super::team::Candidate;
use crate::task::json_len;

/// Most runs that have not ended, those of steps included: what start-up and memory can cope with.
pub const LIVE_RUNS_MAX: usize = 20_000;
/// Most bytes of outputs of one run: its end is one record, and whoever looks at it gets it whole.
pub const RUN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events after which a decision stops to look for more. One append of the journal holds 4096.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Bytes of events after which it stops, those apart that are large enough to lie beside the journal: one append takes 4 MiB.
const EVENTS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A run to be started.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id, made by the caller.
    pub id: WorkflowRunId,
    /// Its document, checked.
    pub plan: Arc<Plan>,
    /// What it works on.
    pub input: Value,
    /// In whose name.
    pub by: String,
    /// Two submissions of one caller under one key are one run.
    pub key: Option<String>,
    /// Digest of the submission.
    pub request: String,
    /// The schedule that begins it.
    pub scheduled: Option<Scheduled>,
}

/// What can be asked.
#[derive(Debug, Clone)]
pub enum Command {
    /// Start a run.
    Start(Box<NewRun>),
    /// A task or call of a step has ended.
    Ended {
        /// Which.
        task: TaskId,
        /// How.
        outcome: UnitOutcome,
    },
    /// These agents are there, of which a team is to be drafted.
    Drafted {
        /// For what.
        draft: Box<Draft>,
        /// All of them.
        fleet: Vec<Candidate>,
    },
    /// End a run.
    Cancel {
        /// Which.
        run: WorkflowRunId,
        /// Who and why.
        reason: String,
    },
    /// Make, change or remove a schedule.
    Schedule(ScheduleCommand),
    /// Write, start or remove a plan.
    Plan(PlanCommand),
    /// Time has passed, or an earlier decision left something over.
    Tick,
}

/// A task to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id: a second submission finds the first task.
    pub task: TaskId,
    /// In whose name.
    pub by: String,
    /// What it is.
    pub spec: TaskSpec,
}

/// A service to be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its key: a service that gets it twice can tell.
    pub task: TaskId,
    /// Whom, and how.
    pub call: ServiceTarget,
    /// In whose name.
    pub by: String,
    /// With what.
    pub input: Value,
    /// How long it may take; as long as an attempt of a task when absent.
    pub timeout_ms: Option<u64>,
}

/// Something to be done once the events of its decision are durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Submit a task; its end is told by [`Command::Ended`].
    Submit(Box<Job>),
    /// Call a service; likewise.
    Call(Box<Call>),
    /// Say which agents there are, by [`Command::Drafted`].
    Draft(Box<Draft>),
    /// End a task or call; its end is told likewise. One that was never begun ends as cancelled.
    Cancel {
        /// Which.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// A run has ended: wake who waits for it.
    RunEnded(WorkflowRunId),
}

/// What the caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Done,
    /// The run, and whether it was there before.
    Run {
        /// Which.
        id: WorkflowRunId,
        /// Whether it was there before.
        replayed: bool,
    },
    /// The plan is as was asked for.
    Plan {
        /// Whether it was before.
        replayed: bool,
    },
    /// The schedule is as was asked for.
    Schedule {
        /// Whether it was before.
        replayed: bool,
    },
}

/// What a command led to. Its events are applied already.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happened, in order; to be journalled as one group.
    pub events: Vec<WorkflowEvent>,
    /// What to do when that is durable.
    pub effects: Vec<Effect>,
    /// What to tell the caller, also then.
    pub answer: Answer,
    /// Whether there is more to decide than one group holds: send a [`Command::Tick`].
    pub more: bool,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many runs have not ended. Try again later.
    #[error("{live} runs have not ended, and no more than {LIVE_RUNS_MAX} are held")]
    Full {
        /// How many have not.
        live: usize,
    },
    /// The idempotency key stands for another submission. Use another key.
    #[error("idempotency key {key} belongs to run {run}, which was submitted differently")]
    KeyTaken {
        /// The key.
        key: String,
        /// The run that has it.
        run: WorkflowRunId,
    },
    /// Nobody knows the run.
    #[error("Workflow {0} not found")]
    NotFound(WorkflowRunId),
    /// The run has ended already.
    #[error("workflow {run} has ended already: {}", state.name())]
    Ended {
        /// Which.
        run: WorkflowRunId,
        /// How.
        state: TaskState,
    },
    /// It was about a schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleRefusal),
    /// It was about a plan.
    #[error(transparent)]
    Plan(#[from] PlanRefusal),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Full { .. } => Self::unavailable("too_many_workflows", detail),
            Refusal::KeyTaken { .. } => {
                Self::new(ProblemKind::Conflict, "idempotency_conflict", detail)
                    .field("idempotencyKey")
            }
            Refusal::NotFound(_) => Self::new(ProblemKind::NotFound, "workflow_not_found", detail),
            Refusal::Ended { .. } => Self::new(ProblemKind::Conflict, "workflow_ended", detail),
            Refusal::Schedule(refusal) => refusal.into(),
            Refusal::Plan(refusal) => refusal.into(),
        }
    }
}

/// One decision under way.
pub(crate) struct Tx<'a> {
    pub(crate) state: &'a mut Workflows,
    pub(crate) now: Timestamp,
    events: Vec<WorkflowEvent>,
    bytes: usize,
    effects: Vec<Effect>,
}

impl Tx<'_> {
    pub(crate) fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.bytes >= EVENTS_BYTES_MAX
    }

    /// Makes an event happen.
    pub(crate) fn emit(&mut self, event: WorkflowEvent) {
        self.state.apply(&event);
        if let Some(run) = event.run() {
            self.state.index.dirty.insert(run.clone());
        }
        let bytes = json_len(&event);
        self.bytes += if bytes > PAYLOAD_INLINE_MAX { 0 } else { bytes };
        self.events.push(event);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Begins a run.
    pub(crate) fn start(&mut self, new: NewRun, parent: Option<ParentStep>) {
        self.emit(WorkflowEvent::Started {
            document: Box::new((*new.plan.document).clone()),
            digest: new.plan.digest.clone(),
            run: new.id,
            input: new.input,
            by: new.by,
            at: self.now,
            key: new.key,
            request: new.request,
            parent,
            scheduled: new.scheduled,
        });
    }

    /// Begins the end of a run; a second end changes nothing.
    pub(crate) fn end(
        &mut self,
        run: &WorkflowRunId,
        to: TaskState,
        error: Failure,
        compensate: bool,
    ) {
        let held = self.state.run(run);
        if held.is_none_or(|run| run.ended.is_some() || run.ending.is_some()) {
            return;
        }
        self.emit(WorkflowEvent::Ending {
            run: run.clone(),
            to,
            at: self.now,
            error: error.clone(),
            compensate,
        });
        let steps = self.state.run(run).map_or(0, |run| run.steps.len());
        for number in 0..steps {
            self.cancel_open(run, number, &error.message, compensate);
        }
    }

    /// Has everything ended that a step has under way.
    pub(crate) fn cancel_open(
        &mut self,
        run: &WorkflowRunId,
        number: usize,
        reason: &str,
        compensate: bool,
    ) {
        let Some(held) = self.state.run(run) else {
            return;
        };
        let step = &held.steps[number];
        if !step.is_running() {
            return;
        }
        let open = step
            .units
            .iter()
            .enumerate()
            .filter(|(_, unit)| unit.outcome.is_none());
        let mut tasks = Vec::new();
        let mut runs = Vec::new();
        for (index, unit) in open {
            match &unit.task {
                Some(task) => tasks.push(task.clone()),
                None => runs.push(child_run(
                    run,
                    &held.plan.steps[number].id,
                    step.round,
                    index,
                )),
            }
        }
        for task in tasks {
            let reason = reason.to_owned();
            self.effect(Effect::Cancel { task, reason });
        }
        for child in runs {
            if self.state.run(&child).is_some() {
                let error = Failure::new(FailureClass::Cancelled, reason);
                self.end(&child, TaskState::Cancelled, error, compensate);
            }
        }
    }
}

/// The same text for the same unit, whenever it is asked for.
pub(crate) fn derived(parts: [&str; 5]) -> String {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let hex = hash.finalize().to_hex();
    format!("w-{}", &hex[..40])
}

/// The id of the task of a unit, or of its compensation.
pub(crate) fn unit_task(
    run: &WorkflowRunId,
    step: &str,
    round: u32,
    index: usize,
    undo: bool,
) -> TaskId {
    let kind = if undo { "undo" } else { "do" };
    let text = derived([
        kind,
        run.as_str(),
        step,
        &round.to_string(),
        &index.to_string(),
    ]);
    TaskId::new(text).expect("a prefix and 40 hexadecimal digits are a task id")
}

/// The id of the run of a unit.
pub(crate) fn child_run(
    run: &WorkflowRunId,
    step: &str,
    round: u32,
    index: usize,
) -> WorkflowRunId {
    let text = derived([
        "run",
        run.as_str(),
        step,
        &round.to_string(),
        &index.to_string(),
    ]);
    WorkflowRunId::new(text).expect("a prefix and 40 hexadecimal digits are a run's id")
}

impl Workflows {
    /// Decides on a command, and applies the events that follow from it.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub fn decide(&mut self, command: Command, now: Timestamp) -> Result<Decision, Refusal> {
        let mut tx = Tx {
            state: self,
            now,
            events: Vec::new(),
            bytes: 0,
            effects: Vec::new(),
        };
        let answer = match command {
            Command::Start(new) => start(&mut tx, *new)?,
            Command::Ended { task, outcome } => {
                ended(&mut tx, &task, outcome);
                Answer::Done
            }
            Command::Drafted { draft, fleet } => {
                drafting::drafted(&mut tx, &draft, &fleet);
                Answer::Done
            }
            Command::Cancel { run, reason } => cancel(&mut tx, &run, reason)?,
            Command::Schedule(command) => schedule::decide(&mut tx, command)?,
            Command::Plan(command) => stored::decide(&mut tx, command)?,
            Command::Tick => {
                tick(&mut tx);
                schedule::fire_due(&mut tx);
                Answer::Done
            }
        };
        while !tx.is_full() {
            if let Some(run) = tx.state.index.dirty.pop_first() {
                advance(&mut tx, &run);
            } else if let Some(waits) = tx.state.schedules.take_next() {
                schedule::begin_waiting(&mut tx, &waits);
            } else {
                break;
            }
        }
        let (events, effects) = (tx.events, tx.effects);
        let due = self.next_timer().is_some_and(|at| at <= now);
        Ok(Decision {
            more: !self.index.dirty.is_empty() || self.schedules.has_to_look() || due,
            events,
            effects,
            answer,
        })
    }
}

fn start(tx: &mut Tx<'_>, new: NewRun) -> Result<Answer, Refusal> {
    if let Some(key) = &new.key
        && let Some(held) = tx.state.by_key(&new.by, key)
    {
        if held.request != new.request {
            return Err(Refusal::KeyTaken {
                key: key.clone(),
                run: held.id.clone(),
            });
        }
        let id = held.id.clone();
        return Ok(Answer::Run { id, replayed: true });
    }
    let live = tx.state.index.live;
    if live >= LIVE_RUNS_MAX {
        return Err(Refusal::Full { live });
    }
    let id = new.id.clone();
    tx.start(new, None);
    Ok(Answer::Run {
        id,
        replayed: false,
    })
}

fn ended(tx: &mut Tx<'_>, task: &TaskId, outcome: UnitOutcome) {
    // What was told before is told again after restarts; the first time counts.
    let Some(place) = tx.state.index.open.get(task).cloned() else {
        return;
    };
    let Some(run) = tx.state.run(&place.run) else {
        return;
    };
    let step = run.plan.steps[place.step].id.clone();
    let index = u32::try_from(place.index).unwrap_or(u32::MAX);
    let (id, at) = (place.run, tx.now);
    if place.undo {
        let error = match outcome {
            UnitOutcome::Succeeded { .. } => None,
            UnitOutcome::Failed { error, .. } => Some(error),
        };
        return tx.emit(WorkflowEvent::Compensated {
            run: id,
            step,
            index,
            at,
            error,
        });
    }
    let outcome = bounded(run, outcome);
    tx.emit(WorkflowEvent::UnitEnded {
        run: id,
        step,
        index,
        at,
        outcome,
    });
}

/// The outcome of a unit, or that its output is too much for the run.
pub(crate) fn bounded(run: &Run, outcome: UnitOutcome) -> UnitOutcome {
    let bytes = run.bytes + outcome.output().map_or(0, json_len);
    if bytes <= RUN_BYTES_MAX {
        return outcome;
    }
    let message = format!("the outputs of the run have more than {RUN_BYTES_MAX} bytes together");
    UnitOutcome::failed(FailureClass::Contract, message)
}

fn cancel(tx: &mut Tx<'_>, id: &WorkflowRunId, reason: String) -> Result<Answer, Refusal> {
    let Some(run) = tx.state.run(id) else {
        return Err(Refusal::NotFound(id.clone()));
    };
    if let Some(ended) = &run.ended {
        return Err(Refusal::Ended {
            run: id.clone(),
            state: ended.state,
        });
    }
    let error = Failure::new(FailureClass::Cancelled, reason);
    tx.end(id, TaskState::Cancelled, error, false);
    Ok(Answer::Run {
        id: id.clone(),
        replayed: false,
    })
}

fn tick(tx: &mut Tx<'_>) {
    while let Some((at, run, number)) = tx.state.index.timers.first().cloned() {
        if at > tx.now || tx.is_full() {
            return;
        }
        let error = Failure {
            retryable: false,
            ..Failure::new(FailureClass::Timeout, "the step's time ran out")
        };
        fail_step(tx, &run, number, error);
    }
}

/// A step cannot succeed any more: what it has under way is ended.
pub(crate) fn fail_step(tx: &mut Tx<'_>, run: &WorkflowRunId, number: usize, error: Failure) {
    let Some(held) = tx.state.run(run) else {
        return;
    };
    let plan = &held.plan.steps[number];
    let compensate = plan.on_error == mesh_messages::workflow::OnError::Compensate;
    let reason = error.message.clone();
    tx.emit(WorkflowEvent::StepFailing {
        run: run.clone(),
        step: plan.id.clone(),
        at: tx.now,
        error,
    });
    tx.cancel_open(run, number, &reason, compensate);
}

/// What a step's work is as an effect.
pub(crate) fn effect_for(
    work: &Work,
    task: TaskId,
    by: &str,
    input: Value,
    labels: [(&str, &str); 2],
    timeout_ms: Option<u64>,
) -> Option<Effect> {
    match work {
        Work::Task(spec) => {
            let mut spec = (**spec).clone();
            spec.input = input;
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            spec.labels.extend(labels);
            let by = by.to_owned();
            Some(Effect::Submit(Box::new(Job { task, by, spec })))
        }
        Work::Service(call) => Some(Effect::Call(Box::new(Call {
            task,
            call: call.clone(),
            by: by.to_owned(),
            input,
            timeout_ms,
        }))),
        Work::Run(_) | Work::Team(_) => None,
    }
}

/// A step's state that means it failed.
pub(crate) fn is_bad(state: StepState) -> bool {
    matches!(
        state,
        StepState::Failed | StepState::Cancelled | StepState::DeadLettered
    )
}
