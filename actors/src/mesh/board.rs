//! The board: tasks by column, what each agent has in hand, and how work flows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::projection::{self, EndedRow};
use mesh_messages::AgentId;
use mesh_messages::problem::Problem;
use mesh_messages::system::{Board, BoardAgent, BoardCard, BoardColumn, BoardFlow, BoardInstance};
use mesh_messages::task::{Task, TaskState, WaitReason};

use super::Mesh;
use super::talk::{OF_CARD, messages_about};
use super::views::instances;
use crate::clock::now;
use crate::operations::{Operations as _, PageRequest, TaskFilter};
use crate::reads::{self, LookupError, StoreReader};
use crate::store::OpenStore;

/// The columns of the board, in order.
const COLUMNS: [&str; 6] = [
    "Backlog",
    "Ready",
    "In progress",
    "Review",
    "Blocked",
    "Done",
];
/// How far back the flow of work is looked at: long enough for a rate, short enough to be of now.
const WINDOW: Duration = Duration::from_hours(1);
/// Ended tasks that are looked at for it; a board is looked at again and again.
const ENDED_MAX: usize = 10_000;
/// Of them, those that one look into the view takes.
const ENDED_PAGE: usize = 1000;

impl Mesh {
    pub(super) async fn board_of(&self, cards: usize) -> Result<Board, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let since = now().minus(WINDOW);
        let (totals, ended) = reads::blocking(Arc::clone(&store), move |store| {
            let totals: Result<Vec<u64>, _> = COLUMNS
                .iter()
                .map(|name| projection::column_count(&StoreReader(store), name))
                .collect();
            Ok::<_, LookupError>((totals?, ended_since(store, since)?))
        })
        .await?;
        let mut columns = Vec::new();
        for (name, total) in COLUMNS.into_iter().zip(totals) {
            let wip =
                (name == "In progress").then(|| u64::from(self.ctx.settings.max_parallel_tasks));
            let mut cards = self.cards_of(name, cards).await?;
            if name != "Done" {
                let ids = cards.iter().map(|card| card.id.clone()).collect();
                let said = messages_about(&store, ids, OF_CARD).await?;
                for (card, said) in cards.iter_mut().zip(said) {
                    card.messages = said;
                }
            }
            columns.push(BoardColumn {
                name: name.to_owned(),
                wip,
                cards,
                total,
            });
        }
        Ok(Board {
            columns,
            agents: self.agents_of_board(&ended).await?,
            flow: flow(ended.iter()),
        })
    }

    async fn cards_of(&self, column: &str, limit: usize) -> Result<Vec<BoardCard>, Problem> {
        let filter = TaskFilter {
            column: Some(column.to_owned()),
            ..TaskFilter::default()
        };
        let page = PageRequest {
            limit,
            cursor: None,
        };
        let mut shown = Vec::new();
        for task in self.task_page(filter, page).await?.items {
            // What is held says why it waits, which the read side cannot know.
            let task = match task.state {
                TaskState::Queued | TaskState::Running | TaskState::Blocked => {
                    self.orchestrator.view(&task.id).await?.unwrap_or(task)
                }
                _ => task,
            };
            shown.push(card(task));
        }
        Ok(shown)
    }

    async fn agents_of_board(&self, ended: &[EndedRow]) -> Result<Vec<BoardAgent>, Problem> {
        let mut by_agent: BTreeMap<&AgentId, Vec<&EndedRow>> = BTreeMap::new();
        for row in ended {
            if let Some(agent) = &row.agent {
                by_agent.entry(agent).or_default().push(row);
            }
        }
        let mut agents = Vec::new();
        for entry in self.ctx.directory.all() {
            let state = entry.state();
            let Some(manifest) = state.manifest() else {
                continue;
            };
            let wip = manifest.concurrency.get();
            let record = self.agent_insights(entry.id.as_str()).await?;
            let shown = instances(&entry, now()).into_iter();
            agents.push(BoardAgent {
                agent_id: entry.id.clone(),
                instances: shown
                    .map(|shown| BoardInstance {
                        instance: shown.instance,
                        wip,
                        tasks: shown.assigned_tasks,
                    })
                    .collect(),
                attempts: record.attempts,
                failure_rate: share(record.attempts - record.succeeded, record.attempts),
                quality: record.quality,
                cycle_time_ms: mean(&record.by_type),
                flow: flow(by_agent.get(&entry.id).into_iter().flatten().copied()),
            });
        }
        Ok(agents)
    }
}

fn ended_since(
    store: &OpenStore,
    since: mesh_messages::Timestamp,
) -> Result<Vec<EndedRow>, LookupError> {
    let mut rows = Vec::new();
    let mut from = Some(projection::ended_from(since));
    while let Some(cursor) = from.take().filter(|_| rows.len() < ENDED_MAX) {
        let (page, next) = projection::ended_page(&StoreReader(store), Some(&cursor), ENDED_PAGE)?;
        rows.extend(page);
        from = next;
    }
    Ok(rows)
}

fn card(task: Task) -> BoardCard {
    let (agent, instance) = task
        .assignment
        .map(|assignment| (assignment.agent_id, assignment.instance))
        .unzip();
    // A team's is with its lead.
    let reason = task.waiting_for.as_ref().map(|waits| waits.reason);
    let team = task
        .teamwork
        .as_ref()
        .filter(|_| reason == Some(WaitReason::Team));
    let agent = team.and_then(|team| team.lead.clone()).or(agent);
    let attempt = task.attempts.last().map_or(0, |attempt| attempt.number.0);
    let progress_at = task.progress.as_ref().map(|progress| progress.at);
    let (progress, note) = task.progress.map_or((None, None), |progress| {
        (Some(progress.fraction), progress.note)
    });
    BoardCard {
        kind: task.spec.action().to_owned(),
        agent,
        instance,
        submitted_at: task.submitted_at,
        ended_at: task.ended_at,
        attempt,
        note,
        error: task.error.filter(|_| task.state != TaskState::Succeeded),
        labels: task.spec.labels,
        progress,
        progress_at,
        messages: Vec::new(),
        id: task.id,
        state: task.state,
        waiting_for: task.waiting_for,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tasks fit a float")]
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

/// The mean over all types, each as often as it succeeded.
#[expect(clippy::cast_precision_loss, reason = "counts of tasks fit a float")]
fn mean(types: &[crate::operations::TypeInsight]) -> Option<f64> {
    let known = types
        .iter()
        .filter_map(|of| Some((of.mean_duration_ms?, of.succeeded as f64)));
    let (sum, count) = known.fold((0.0, 0.0), |(sum, count), (ms, times)| {
        (sum + ms * times, count + times)
    });
    (count > 0.0).then(|| sum / count)
}

fn flow<'r>(ended: impl Iterator<Item = &'r EndedRow> + Clone) -> BoardFlow {
    let failed = ended
        .clone()
        .filter(|row| matches!(row.state, TaskState::Failed | TaskState::DeadLettered));
    let count = ended.clone().count() as u64;
    let mut took: Vec<u64> = ended
        .filter(|row| row.state == TaskState::Succeeded)
        .map(|row| {
            row.at
                .as_millis()
                .saturating_sub(row.submitted_at.as_millis())
        })
        .collect();
    took.sort_unstable();
    let rank = |percent: usize| {
        let last = took.len().checked_sub(1)?;
        took.get(
            (took.len() * percent)
                .div_ceil(100)
                .saturating_sub(1)
                .min(last),
        )
        .copied()
    };
    BoardFlow {
        window_ms: u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX),
        ended: count,
        succeeded: took.len() as u64,
        failure_rate: share(failed.count() as u64, count),
        cycle_time_p50_ms: rank(50),
        cycle_time_p95_ms: rank(95),
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::{Position, TaskId, Timestamp};

    use super::*;

    fn ended(ms: u64, state: TaskState) -> EndedRow {
        EndedRow {
            id: TaskId::new("t").unwrap(),
            at: Timestamp::from_millis(1000 + ms),
            bytes: 1,
            last: Position(1),
            parent: None,
            submitted_at: Timestamp::from_millis(1000),
            state,
            agent: None,
        }
    }

    #[test]
    fn flow_counts_what_ended_and_how_long_the_good_ones_took() {
        assert_eq!(flow([].iter()).failure_rate, None);
        let mut rows: Vec<_> = (1..=20).map(|ms| ended(ms, TaskState::Succeeded)).collect();
        rows.push(ended(9000, TaskState::Failed));
        rows.push(ended(9000, TaskState::Cancelled));
        rows.extend((0..3).map(|_| ended(9000, TaskState::DeadLettered)));
        let flow = flow(rows.iter());
        assert_eq!((flow.ended, flow.succeeded), (25, 20));
        assert_eq!(flow.failure_rate, Some(0.16));
        assert_eq!(flow.cycle_time_p50_ms, Some(10));
        assert_eq!(flow.cycle_time_p95_ms, Some(19));
    }
}
