//! Tasks, as the outside asks for them.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_actors_core::projection;
use mesh_messages::TaskId;
use mesh_messages::agent::Page;
use mesh_messages::problem::Problem;
use mesh_messages::task::{Task, TaskExplanation};

use super::Mesh;
use crate::context::Context;
use crate::operations::{OutcomeReport, PageRequest, TaskFilter};
use crate::orchestrator::OrchestratorHandle;
use crate::reads::{self, LookupError, StoreReader};

/// How often a waiter looks for itself although nobody told it of an end.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A task's id, or that there is no such task: what is no id is nobody's.
pub(super) fn task_id(text: &str) -> Result<TaskId, Problem> {
    TaskId::new(text).map_err(|_| Problem::task_not_found(text))
}

/// A task, from the machine that holds it, else from the read side.
pub(crate) async fn find(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
    id: &TaskId,
) -> Result<Task, Problem> {
    let found = find_all(ctx, orchestrator, vec![id.clone()]).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Problem::task_not_found(id.as_str()))
}

/// Gives a task another round. One that is not there is told as it is when it is asked for: removed, or never known.
pub(super) async fn retried(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
    by: &str,
    task: TaskId,
) -> Result<Task, Problem> {
    match orchestrator.retry(by, task.clone()).await {
        Err(problem) if problem.code == "task_not_found" => {
            find(ctx, orchestrator, &task).await?;
            Err(problem)
        }
        retried => retried,
    }
}

/// Reports the outcome of an attempt; the task afterwards.
pub(super) async fn reported(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
    by: &str,
    (task, outcome): (TaskId, OutcomeReport),
) -> Result<Task, Problem> {
    // An unknown task is not found, rather than a stale attempt.
    find(ctx, orchestrator, &task).await?;
    orchestrator.outcome(by, task.clone(), outcome).await?;
    find(ctx, orchestrator, &task).await
}

/// Tasks in the order of their ids, all of which must be known.
async fn find_all(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
    ids: Vec<TaskId>,
) -> Result<Vec<Task>, Problem> {
    let views = orchestrator.views(ids.clone()).await?;
    if let Some(tasks) = views.iter().cloned().collect() {
        return Ok(tasks);
    }
    let store = ctx.store.get()?;
    reads::caught_up(&store).await?;
    let rows = reads::blocking(store, move |store| {
        let rows = ids.into_iter().zip(views).map(|(id, view)| {
            if let Some(task) = view {
                return Ok(Ok(task));
            }
            Ok(match reads::task_row(store, &id)? {
                Some(row) => Ok(row.record.task),
                None => Err((projection::removed(&StoreReader(store), &id)?, id)),
            })
        });
        rows.collect::<Result<Vec<_>, LookupError>>()
    });
    rows.await?
        .into_iter()
        .map(|row| {
            row.map_err(|(removed, id)| match removed {
                Some(removed) => Problem::task_removed(id.as_str(), removed.at),
                None => Problem::task_not_found(id.as_str()),
            })
        })
        .collect()
}

/// Tasks once all of them have ended, or as they are when the time is up.
pub(super) async fn wait_ended(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
    ids: &[TaskId],
    wait: Duration,
) -> Result<Vec<Task>, Problem> {
    let until = tokio::time::Instant::now() + wait;
    // Before the first look, so that no end falls between the two.
    let mut ends = orchestrator.ends_of(ids);
    let mut tasks = find_all(ctx, orchestrator, ids.to_vec()).await?;
    loop {
        let mut open: BTreeMap<TaskId, Vec<usize>> = BTreeMap::new();
        for (at, task) in tasks.iter().enumerate() {
            if !task.state.is_terminal() {
                open.entry(task.id.clone()).or_default().push(at);
            }
        }
        if open.is_empty() || tokio::time::Instant::now() >= until {
            return Ok(tasks);
        }
        let next_look = until.min(tokio::time::Instant::now() + LOOK_AGAIN);
        ends = ends.with(open.keys());
        while !open.is_empty() {
            // It is time to look, or one has ended that the machine has forgotten already.
            let Ok((_, Some(task))) = tokio::time::timeout_at(next_look, ends.next()).await else {
                break;
            };
            // One that was given another round since is open again.
            let places = if task.state.is_terminal() {
                open.remove(&task.id)
            } else {
                None
            };
            for at in places.unwrap_or_default() {
                tasks[at].clone_from(&task);
            }
        }
        let late = open.keys().cloned().collect();
        for task in find_all(ctx, orchestrator, late).await? {
            for at in open.remove(&task.id).unwrap_or_default() {
                tasks[at].clone_from(&task);
            }
        }
    }
}

impl Mesh {
    pub(super) async fn task_page(
        &self,
        filter: TaskFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<Task>, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let filter = projection::TaskFilter {
            state: filter.state,
            kind: filter.kind,
            agent: filter.agent,
            column: filter.column,
            inbox: None,
        };
        let from = page.cursor.map(decode_cursor).transpose()?;
        let limit = page.limit;
        let found = reads::blocking(store, move |store| {
            projection::task_page(&StoreReader(store), &filter, from.as_deref(), limit)
                .map_err(LookupError::from)
        })
        .await?;
        let items = found
            .rows
            .into_iter()
            .map(|row| self.orchestrator.with_progress(row.record.task))
            .collect();
        Ok(Page {
            items: self.waiting_as_of_now(items).await?,
            next_cursor: found.next.map(hex::encode),
        })
    }

    /// The same tasks, those that wait with what they wait for now: what was recorded names the kind of the wait, and its
    /// times go on without a record, such as those of a provider's gate.
    async fn waiting_as_of_now(&self, mut tasks: Vec<Task>) -> Result<Vec<Task>, Problem> {
        let waits = |task: &Task| !task.state.is_terminal() && task.waiting_for.is_some();
        let waiting: Vec<_> = tasks.iter_mut().filter(|task| waits(task)).collect();
        if waiting.is_empty() {
            return Ok(tasks);
        }
        let ids = waiting.iter().map(|task| task.id.clone()).collect();
        let views = self.orchestrator.views(ids).await?;
        for (task, view) in waiting.into_iter().zip(views) {
            // One that went on meanwhile is shown as it was found: the page is of one moment, by its filter.
            if let Some(view) = view.filter(|view| view.state == task.state) {
                task.waiting_for = view.waiting_for;
            }
        }
        Ok(tasks)
    }

    pub(super) async fn explanation(&self, id: &TaskId) -> Result<TaskExplanation, Problem> {
        if let Some(why) = self.orchestrator.explain(id).await? {
            return Ok(why);
        }
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let wanted = id.clone();
        let row = reads::blocking(store, move |store| reads::task_row(store, &wanted)).await?;
        row.map(|row| row.record.explanation())
            .ok_or_else(|| Problem::task_not_found(id.as_str()))
    }
}

/// A cursor is the place in the index, in hex: opaque to whoever gets it.
pub(super) fn decode_cursor(cursor: &str) -> Result<Vec<u8>, Problem> {
    hex::decode(cursor).map_err(|_| bad_cursor())
}

/// The answer to a cursor that was never given out.
pub(super) fn bad_cursor() -> Problem {
    Problem::new(
        mesh_messages::problem::ProblemKind::Malformed,
        "invalid_cursor",
        "cursor: is none that was given out; begin without one",
    )
    .field("cursor")
}
