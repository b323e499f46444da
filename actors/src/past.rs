//! How things stood when the log had got to some record, folded anew from the records up to there. All of it blocks on the disk.

use mesh_actors_core::past::{AgentPast, Gaps, TaskPast, Unreadable};
use mesh_actors_core::projection::{self, AuditIndex, ProjectFailure};
use mesh_messages::events::partition;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{PastAt, PastState};
use mesh_messages::task::Task;
use mesh_messages::{Position, Record, TaskId, Timestamp};
use mesh_persistence::ContentError;

use crate::operations::PastAbout as About;
use crate::partition::payload_of;
use crate::reads::{LookupError, StoreReader};
use crate::store::OpenStore;

/// Records of one task that are folded: 10 000 attempts would have fewer.
const RECORDS_MAX: usize = 100_000;
/// A page ends with the task that makes it larger than this.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most tasks of one page: each is folded from its own records.
const TASKS_MAX: usize = 200;

/// Why the past cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PastError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the content of a record cannot be read")]
    Content(#[from] ContentError),
    #[error("the log has {size} records; record {at} is not one of them")]
    NotYet { at: Position, size: u64 },
    #[error("the log begins after {moment}")]
    Before { moment: Timestamp },
    #[error("at record {at} there was no {what}")]
    NotThere { at: Position, what: String },
}

impl From<PastError> for Problem {
    fn from(error: PastError) -> Self {
        let text = error.to_string();
        match error {
            PastError::Lookup(error) => error.into(),
            PastError::NotYet { .. } | PastError::Before { .. } => {
                Self::invalid("out_of_range", "at", text)
            }
            PastError::NotThere { .. } => Self::new(ProblemKind::NotFound, "not_found_then", text),
            PastError::Unreadable(_) | PastError::Content(_) => Self::internal(text),
        }
    }
}

/// The state of what is asked about, as of a record.
pub(crate) fn state_at(
    store: &OpenStore,
    at: PastAt,
    about: &About,
) -> Result<PastState, PastError> {
    let size = store.journal.durable().borrow().size();
    let at = match at {
        PastAt::Record(at) => at,
        PastAt::Moment(moment) => last_until(store, moment, size)?,
    };
    let last = store.journal.get(at).map_err(LookupError::from)?;
    let Some(last) = last.filter(|_| at.0 < size) else {
        return Err(PastError::NotYet { at, size });
    };
    let empty = PastState {
        at,
        time: last.header.time,
        task: None,
        agent: None,
        items: None,
        next_cursor: None,
        erased: 0,
        elsewhere: 0,
    };
    match about {
        About::Task(id) => {
            let (task, gaps) = task_at(store, at, id)?;
            let what = || format!("task {id}");
            if task.is_none() && gaps == Gaps::default() {
                return Err(PastError::NotThere { at, what: what() });
            }
            Ok(with(PastState { task, ..empty }, gaps))
        }
        About::Agent(id) => {
            let mut past = AgentPast::new(id.clone());
            let records = store
                .journal
                .read_partition(&partition::agent(id), Position(0));
            for record in records.map_err(LookupError::from)? {
                let record = record.map_err(LookupError::from)?;
                if record.header.position > at {
                    break;
                }
                let payload = payload_of(&record, &store.content)?;
                past.take(&record.header, payload.as_deref())?;
            }
            let (agent, gaps) = past.agent();
            if agent.is_none() {
                let what = format!("agent {id}");
                return Err(PastError::NotThere { at, what });
            }
            Ok(with(PastState { agent, ..empty }, gaps))
        }
        About::Tasks { after, limit } => {
            let page = tasks_at(store, at, *after, *limit)?;
            let gaps = page.gaps;
            let state = PastState {
                items: Some(page.tasks),
                next_cursor: page.next.map(|position| position.to_string()),
                ..empty
            };
            Ok(with(state, gaps))
        }
    }
}

/// The last record that is not younger than this moment: times grow from record to record.
fn last_until(store: &OpenStore, moment: Timestamp, size: u64) -> Result<Position, PastError> {
    let (mut known, mut beyond) = (0, size);
    while known < beyond {
        let middle = known + (beyond - known) / 2;
        let record = store.journal.get(Position(middle));
        match record.map_err(LookupError::from)? {
            Some(record) if record.header.time <= moment => known = middle + 1,
            _ => beyond = middle,
        }
    }
    let last = known.checked_sub(1).map(Position);
    last.ok_or(PastError::Before { moment })
}

fn with(state: PastState, gaps: Gaps) -> PastState {
    PastState {
        erased: gaps.erased,
        elsewhere: gaps.elsewhere,
        ..state
    }
}

/// Bytes of something as JSON.
fn size_of_json<T: serde::Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(0, |text| text.len())
}

struct TasksThen {
    tasks: Vec<Task>,
    next: Option<Position>,
    gaps: Gaps,
}

fn tasks_at(
    store: &OpenStore,
    at: Position,
    after: Option<Position>,
    limit: usize,
) -> Result<TasksThen, PastError> {
    let limit = limit.clamp(1, TASKS_MAX);
    let index = AuditIndex::Kind("task.submitted");
    let found = audit_page(store, index, after, limit + 1)?;
    let mut then = TasksThen {
        tasks: Vec::new(),
        next: None,
        gaps: Gaps::default(),
    };
    let there: Vec<Position> = found
        .into_iter()
        .filter(|position| *position <= at)
        .collect();
    then.next = (there.len() > limit).then(|| there[limit - 1]);
    let last = there.len().min(limit).saturating_sub(1);
    let mut bytes = 0;
    for (index, position) in there.into_iter().take(limit).enumerate() {
        let record: Option<Record> = store.journal.get(position).map_err(LookupError::from)?;
        let Some(id) = record.and_then(|record| record.header.task) else {
            continue;
        };
        let (task, gaps) = task_at(store, at, &id)?;
        then.gaps.erased += gaps.erased;
        then.gaps.elsewhere += gaps.elsewhere;
        bytes += task.as_ref().map_or(0, size_of_json);
        then.tasks.extend(task);
        if bytes > PAGE_BYTES_MAX && index < last {
            then.next = Some(position);
            break;
        }
    }
    Ok(then)
}

fn task_at(
    store: &OpenStore,
    at: Position,
    id: &TaskId,
) -> Result<(Option<Task>, Gaps), PastError> {
    let mut past = TaskPast::new(id.clone());
    for position in audit_page(store, AuditIndex::Task(id), None, RECORDS_MAX)? {
        if position > at {
            break;
        }
        if let Some(record) = store.journal.get(position).map_err(LookupError::from)? {
            // What is not the task's own record is passed over; its payload need not be fetched.
            let own = record.header.partition == partition::TASKS;
            let payload = if own {
                payload_of(&record, &store.content)?
            } else {
                None
            };
            past.take(&record.header, payload.as_deref())?;
        }
    }
    Ok(past.task())
}

fn audit_page(
    store: &OpenStore,
    index: AuditIndex<'_>,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Position>, PastError> {
    projection::audit_page(&StoreReader(store), index, after, limit)
        .map_err(|error| LookupError::from(ProjectFailure::View(error)).into())
}
