//! Schedules: what becomes of each planned time.
//!
//! ```text
//!  planned time comes ─┬─ long ago: meshd did not run ──► missed, or made up for (`missed`)
//!                      └─ now ─┬─ no run of it is under way ─────────────► started
//!                              └─ one is (`overlap`) ──► skipped | waiting ─► started | started beside it
//! ```
//!
//! Every planned time gets one `schedule.fired` that says what became of it; one that waits gets another when it begins.

use std::sync::Arc;
use std::time::Duration;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schedule::{Firing, FiringOutcome, Missed, Overlap, ScheduleTerms, Scheduled};
use mesh_messages::task::{TASK_DATA_MAX, TaskState};
use mesh_messages::{Failure, FailureClass, ScheduleId, Timestamp, WorkflowRunId};

use super::cron::{Timing, TimingError};
use super::decide::{Answer, LIVE_RUNS_MAX, NewRun, Tx, derived};
use super::plan::Plan;
use crate::task::json_len;

mod held;

pub(crate) use held::Schedules;

/// Most schedules: each is looked at after every start, and each holds a document.
pub const SCHEDULES_MAX: usize = 1000;
/// Most planned times that one firing makes up for: all of them begin in one group of records.
pub const CATCH_UP_MAX: usize = 50;
/// Most planned times of one schedule that wait for earlier runs; beyond it they are left out.
pub const WAITING_MAX: usize = 100;
/// Most runs of one schedule side by side; beyond it planned times are left out.
const RUNNING_MAX: usize = 100;
/// Missed times that are counted; of more it is only known that there are at least so many.
const COUNTED_MAX: usize = 1000;
/// A planned time that is decided on later than this was missed: a restart and a busy machine fit in.
const LATE: Duration = Duration::from_mins(1);

/// A schedule to be made.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name.
    pub id: ScheduleId,
    /// When and how it fires.
    pub terms: ScheduleTerms,
    /// What its runs do, checked.
    pub plan: Arc<Plan>,
    /// In whose name.
    pub by: String,
    /// Whether it begins paused.
    pub paused: bool,
}

/// What can be asked about schedules.
#[derive(Debug, Clone)]
pub enum ScheduleCommand {
    /// Make one. The same one again changes nothing.
    Create(Box<NewSchedule>),
    /// Have it fire no more for now, or again. Times that pass while it is paused were never planned.
    Pause {
        /// Which.
        id: ScheduleId,
        /// Whether it is to be paused.
        paused: bool,
        /// By whom.
        by: String,
    },
    /// Remove one. Its runs go on, what waits for them does not begin.
    Remove {
        /// Which.
        id: ScheduleId,
        /// By whom.
        by: String,
    },
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleRefusal {
    /// Nobody knows it.
    #[error("Schedule {0} not found")]
    NotFound(ScheduleId),
    /// Another one has this name. Remove that one, or use another name.
    #[error("schedule {0} is there already, and is another one")]
    Exists(ScheduleId),
    /// Too many.
    #[error("there are {SCHEDULES_MAX} schedules, and no more are held")]
    Full,
    /// Its times make no sense. Correct them.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// Its rules contradict each other. Correct them.
    #[error(
        "missed: all needs overlap to be queue or allow; otherwise all but one of what is made up for would be left out"
    )]
    AllNeedsRoom,
    /// Its input is too large.
    #[error("input: has {bytes} bytes; at most {TASK_DATA_MAX} are accepted")]
    Input {
        /// How large.
        bytes: usize,
    },
}

impl From<ScheduleRefusal> for Problem {
    fn from(refusal: ScheduleRefusal) -> Self {
        let detail = refusal.to_string();
        let invalid =
            |field: &str, detail: String| Self::invalid("invalid_schedule", field, detail);
        match refusal {
            ScheduleRefusal::NotFound(_) => {
                Self::new(ProblemKind::NotFound, "schedule_not_found", detail)
            }
            ScheduleRefusal::Exists(_) => {
                Self::new(ProblemKind::Conflict, "schedule_exists", detail).field("id")
            }
            ScheduleRefusal::Full => Self::new(ProblemKind::Conflict, "too_many_schedules", detail),
            ScheduleRefusal::Timing(error) => {
                invalid(error.field(), format!("{}: {detail}", error.field()))
            }
            ScheduleRefusal::AllNeedsRoom => invalid("overlap", detail),
            ScheduleRefusal::Input { .. } => invalid("input", detail),
        }
    }
}

pub(crate) fn decide(tx: &mut Tx<'_>, command: ScheduleCommand) -> Result<Answer, ScheduleRefusal> {
    match command {
        ScheduleCommand::Create(new) => create(tx, *new),
        ScheduleCommand::Pause { id, paused, by } => pause(tx, id, paused, by),
        ScheduleCommand::Remove { id, by } => {
            if !tx.state.schedules.held.contains_key(&id) {
                return Err(ScheduleRefusal::NotFound(id));
            }
            let at = tx.now;
            let schedule = id;
            tx.emit(WorkflowEvent::ScheduleRemoved { schedule, by, at });
            Ok(Answer::Schedule { replayed: false })
        }
    }
}

fn create(tx: &mut Tx<'_>, mut new: NewSchedule) -> Result<Answer, ScheduleRefusal> {
    let timing = Timing::read(&new.terms.cron, &new.terms.time_zone)?;
    timing.zone().clone_into(&mut new.terms.time_zone);
    let narrow = matches!(new.terms.overlap, Overlap::Skip | Overlap::CancelPrevious);
    if new.terms.missed == Missed::All && narrow {
        return Err(ScheduleRefusal::AllNeedsRoom);
    }
    let bytes = json_len(&new.terms.input);
    if bytes > TASK_DATA_MAX {
        return Err(ScheduleRefusal::Input { bytes });
    }
    if let Some(held) = tx.state.schedules.held.get(&new.id) {
        let same = held.terms == new.terms && *held.document == *new.plan.document();
        return if same {
            Ok(Answer::Schedule { replayed: true })
        } else {
            Err(ScheduleRefusal::Exists(new.id))
        };
    }
    if tx.state.schedules.held.len() >= SCHEDULES_MAX {
        return Err(ScheduleRefusal::Full);
    }
    let next = timing.after(tx.now).filter(|_| !new.paused);
    tx.emit(WorkflowEvent::ScheduleCreated {
        schedule: new.id,
        terms: Box::new(new.terms),
        document: Box::new(new.plan.document().clone()),
        by: new.by,
        at: tx.now,
        next,
        paused: new.paused,
    });
    Ok(Answer::Schedule { replayed: false })
}

fn pause(
    tx: &mut Tx<'_>,
    id: ScheduleId,
    paused: bool,
    by: String,
) -> Result<Answer, ScheduleRefusal> {
    let Some(held) = tx.state.schedules.held.get(&id) else {
        return Err(ScheduleRefusal::NotFound(id));
    };
    if held.paused == paused {
        return Ok(Answer::Schedule { replayed: true });
    }
    let next = held.next_after(&held.timing()?, tx.now).filter(|_| !paused);
    tx.emit(WorkflowEvent::ScheduleChanged {
        schedule: id,
        by,
        at: tx.now,
        paused,
        next,
    });
    Ok(Answer::Schedule { replayed: false })
}

/// Decides on every planned time that has come.
pub(crate) fn fire_due(tx: &mut Tx<'_>) {
    while let Some((at, id)) = tx.state.schedules.due.first().cloned() {
        if at > tx.now || tx.is_full() {
            return;
        }
        fire(tx, &id, at);
    }
}

fn fire(tx: &mut Tx<'_>, id: &ScheduleId, first: Timestamp) {
    let Some(held) = tx.state.schedules.held.get(id) else {
        return;
    };
    let (missed_rule, by) = (held.terms.missed, held.by.clone());
    let Ok(timing) = held.timing() else {
        // It could be read when it was made: this build has lost its zone. Nobody is surprised by silence that is told.
        return tx.emit(WorkflowEvent::ScheduleChanged {
            schedule: id.clone(),
            by,
            at: tx.now,
            paused: true,
            next: None,
        });
    };
    let next = held.next_after(&timing, tx.now);
    let come = timing.between(first, tx.now, COUNTED_MAX);
    let on_time = come.partition_point(|planned| tx.now.since(*planned) > LATE);
    let (missed, on_time) = come.split_at(on_time);
    let made_up_for = match missed_rule {
        Missed::Skip => 0,
        Missed::Once => missed.len().min(1),
        Missed::All => missed.len().min(CATCH_UP_MAX),
    };
    let (passed, made_up_for) = missed.split_at(missed.len() - made_up_for);
    if let Some(planned) = passed.last() {
        let reason = "meshd did not run, or was too busy, when its time came";
        let times = u32::try_from(passed.len()).ok().filter(|times| *times > 1);
        let firing = Firing {
            times,
            ..firing(tx, *planned, FiringOutcome::Missed, Some(reason))
        };
        told(tx, id, firing, next);
    }
    for planned in made_up_for.iter().chain(on_time) {
        launch(tx, id, *planned, next);
    }
    if come.is_empty() {
        // The pattern was read differently by an earlier build; it goes on by this one's reading.
        tx.emit(WorkflowEvent::ScheduleChanged {
            schedule: id.clone(),
            by,
            at: tx.now,
            paused: false,
            next,
        });
    }
}

fn firing(tx: &Tx<'_>, planned: Timestamp, outcome: FiringOutcome, reason: Option<&str>) -> Firing {
    Firing {
        planned,
        at: tx.now,
        outcome,
        run: None,
        times: None,
        reason: reason.map(str::to_owned),
    }
}

fn told(tx: &mut Tx<'_>, id: &ScheduleId, firing: Firing, next: Option<Timestamp>) {
    tx.emit(WorkflowEvent::ScheduleFired {
        schedule: id.clone(),
        firing: Box::new(firing),
        next,
    });
}

/// What becomes of a planned time, as the runs before it stand.
fn launch(tx: &mut Tx<'_>, id: &ScheduleId, planned: Timestamp, next: Option<Timestamp>) {
    let Some(held) = tx.state.schedules.held.get(id) else {
        return;
    };
    let free = held.running.is_empty() && held.waiting.is_empty();
    let skip = |tx: &mut Tx<'_>, reason: &str| {
        let firing = firing(tx, planned, FiringOutcome::Skipped, Some(reason));
        told(tx, id, firing, next);
    };
    match held.terms.overlap {
        _ if free => start(tx, id, planned, next),
        Overlap::Skip => {
            let under_way = held.running.iter().next();
            let reason = under_way.map_or_else(String::new, |run| {
                format!("run {run} of an earlier time has not ended")
            });
            skip(tx, &reason);
        }
        Overlap::Allow if held.running.len() >= RUNNING_MAX => {
            skip(tx, &format!("{RUNNING_MAX} runs of it have not ended"));
        }
        Overlap::Allow => start(tx, id, planned, next),
        Overlap::Queue if held.waiting.len() >= WAITING_MAX => {
            skip(tx, &format!("{WAITING_MAX} earlier times wait already"));
        }
        Overlap::Queue => {
            let reason = "runs of earlier times have not ended";
            let firing = firing(tx, planned, FiringOutcome::Waiting, Some(reason));
            told(tx, id, firing, next);
        }
        Overlap::CancelPrevious => replace(tx, id, planned, next),
    }
}

/// Cancels what is under way for an earlier time, and has this one wait for its end.
fn replace(tx: &mut Tx<'_>, id: &ScheduleId, planned: Timestamp, next: Option<Timestamp>) {
    let Some(held) = tx.state.schedules.held.get(id) else {
        return;
    };
    let (running, waiting) = (held.running.clone(), held.waiting.clone());
    for earlier in waiting {
        let reason = "a later time took its place";
        let firing = firing(tx, earlier, FiringOutcome::Skipped, Some(reason));
        told(tx, id, firing, next);
    }
    let reason = "the run of the earlier time is being cancelled";
    let firing = firing(tx, planned, FiringOutcome::Waiting, Some(reason));
    told(tx, id, firing, next);
    for run in running {
        let reason = format!("schedule {id}: the next planned time has come");
        let error = Failure::new(FailureClass::Cancelled, reason);
        tx.end(&run, TaskState::Cancelled, error, false);
    }
}

fn start(tx: &mut Tx<'_>, id: &ScheduleId, planned: Timestamp, next: Option<Timestamp>) {
    let live = tx.state.index.live;
    if live >= LIVE_RUNS_MAX {
        let reason = format!("{live} runs have not ended, and no more are held");
        let firing = firing(tx, planned, FiringOutcome::Skipped, Some(&reason));
        return told(tx, id, firing, next);
    }
    let Some(held) = tx.state.schedules.held.get(id) else {
        return;
    };
    let run = run_of(id, held.at, planned);
    let (document, input, by) = (
        Arc::clone(&held.document),
        held.terms.input.clone(),
        held.by.clone(),
    );
    let plan = tx.state.index.plan(document);
    let firing = Firing {
        run: Some(run.clone()),
        ..firing(tx, planned, FiringOutcome::Started, None)
    };
    told(tx, id, firing, next);
    let schedule = id.clone();
    let new = NewRun {
        id: run,
        plan,
        input,
        by,
        key: None,
        request: String::new(),
        scheduled: Some(Scheduled { schedule, planned }),
    };
    tx.start(new, None);
}

/// The run of a planned time. A schedule that was removed and made again is another one.
fn run_of(id: &ScheduleId, made: Timestamp, planned: Timestamp) -> WorkflowRunId {
    let (made, planned) = (made.as_millis(), planned.as_millis());
    let parts = [
        "scheduled",
        id.as_str(),
        &made.to_string(),
        &planned.to_string(),
        "",
    ];
    WorkflowRunId::new(derived(parts)).expect("a prefix and 40 hexadecimal digits are a run's id")
}

/// Begins what waits for runs that have ended by now.
pub(crate) fn begin_waiting(tx: &mut Tx<'_>, id: &ScheduleId) {
    let Some(held) = tx.state.schedules.held.get(id) else {
        return;
    };
    if held.paused || !held.running.is_empty() {
        return;
    }
    if tx.state.index.live >= LIVE_RUNS_MAX {
        // It was promised to begin, and there will be room: any end of a run has it looked at again.
        return tx.state.schedules.crowd_out(id);
    }
    if let Some(planned) = held.waiting.front().copied() {
        let next = held.next;
        start(tx, id, planned, next);
    }
}
