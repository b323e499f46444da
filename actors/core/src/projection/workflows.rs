//! Runs of workflows in the view: all of them by when they were submitted, and those that ended as they ended.

use mesh_messages::events::WorkflowEvent;
use mesh_messages::workflow::WorkflowRun;
use mesh_messages::{RecordHeader, WorkflowRunId};
use serde::{Deserialize, Serialize};

use super::read::Reader;
use super::{ProjectFailure, View, key, read_back, tree, written};

/// Index entries that one page holds at most.
const PAGE_MAX: usize = 1000;

/// What an idempotency key stands for.
#[derive(Debug, Serialize, Deserialize)]
struct KeyRow {
    run: WorkflowRunId,
    by: String,
    key: String,
    request: String,
}

pub(super) fn project<V: View>(
    header: &RecordHeader,
    event: &WorkflowEvent,
    view: &mut V,
) -> Result<(), ProjectFailure<V::Error>> {
    match event {
        WorkflowEvent::Started {
            run, parent: None, ..
        } => {
            let place = key::descending(&["all"], header.position);
            view.put(
                tree::WORKFLOW_INDEX,
                &place,
                run.as_str().as_bytes().to_vec(),
            );
        }
        WorkflowEvent::Ended {
            run,
            view: shown,
            key: own,
            request,
        } => {
            view.put(tree::WORKFLOW, run.as_str().as_bytes(), written(shown)?);
            if let Some(own) = own {
                let row = KeyRow {
                    run: run.clone(),
                    by: shown.submitted_by.clone(),
                    key: own.clone(),
                    request: request.clone(),
                };
                let place = key::prefix(&[&shown.submitted_by, own]);
                view.put(tree::WORKFLOW_KEY, &place, written(&row)?);
            }
        }
        WorkflowEvent::Started { .. }
        | WorkflowEvent::StepStarted { .. }
        | WorkflowEvent::UnitEnded { .. }
        | WorkflowEvent::StepFailing { .. }
        | WorkflowEvent::StepEnded { .. }
        | WorkflowEvent::Ending { .. }
        | WorkflowEvent::Compensating { .. }
        | WorkflowEvent::Compensated { .. }
        | WorkflowEvent::ScheduleCreated { .. }
        | WorkflowEvent::ScheduleChanged { .. }
        | WorkflowEvent::ScheduleFired { .. }
        | WorkflowEvent::ScheduleRemoved { .. }
        | WorkflowEvent::PlanWritten { .. }
        | WorkflowEvent::PlanStarted { .. }
        | WorkflowEvent::PlanRemoved { .. } => {}
    }
    Ok(())
}

/// A run that has ended.
///
/// # Errors
/// [`ProjectFailure`].
pub fn workflow<R: Reader>(
    reader: &R,
    id: &WorkflowRunId,
) -> Result<Option<WorkflowRun>, ProjectFailure<R::Error>> {
    let held = reader.get(tree::WORKFLOW, id.as_str().as_bytes());
    held.map_err(ProjectFailure::View)?
        .map(|bytes| read_back(&bytes))
        .transpose()
}

/// The ended run that an idempotency key of a submitter stands for, and the digest of its submission.
///
/// # Errors
/// [`ProjectFailure`].
pub fn workflow_key<R: Reader>(
    reader: &R,
    by: &str,
    own: &str,
) -> Result<Option<(WorkflowRunId, String)>, ProjectFailure<R::Error>> {
    let held = reader.get(tree::WORKFLOW_KEY, &key::prefix(&[by, own]));
    let row: Option<KeyRow> = held
        .map_err(ProjectFailure::View)?
        .map(|bytes| read_back(&bytes))
        .transpose()?;
    // Keys are made safe and cut; the row knows better.
    let row = row.filter(|row| row.by == by && row.key == own);
    Ok(row.map(|row| (row.run, row.request)))
}

/// Runs, newest first, those of steps apart; and where the next page begins.
///
/// # Errors
/// [`ProjectFailure`].
#[expect(clippy::type_complexity, reason = "a page and its cursor")]
pub fn workflow_page<R: Reader>(
    reader: &R,
    from: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<WorkflowRunId>, Option<Vec<u8>>), ProjectFailure<R::Error>> {
    let prefix = key::prefix(&["all"]);
    let slice = reader.scan(
        tree::WORKFLOW_INDEX,
        &prefix,
        from,
        limit.clamp(1, PAGE_MAX),
    );
    let slice = slice.map_err(ProjectFailure::View)?;
    let ids = slice
        .entries
        .iter()
        .filter_map(|(_, id)| WorkflowRunId::new(String::from_utf8_lossy(id)).ok());
    Ok((ids.collect(), slice.next))
}
