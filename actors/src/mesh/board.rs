//! The board: tasks by column, what each agent has in hand, and how work flows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::projection::{self, EndedRow};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Board, BoardAgent, BoardCard, BoardColumn, BoardFlow, BoardInstance};
use mesh_messages::task::{Task, TaskState, WaitReason};
use mesh_messages::{AgentId, InstanceNo, TaskId};

use super::Mesh;
use super::talk::{OF_CARD, messages_about};
use super::views::instances;
use crate::clock::now;
use crate::operations::Operations as _;
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

/// What the read side has of the board, all read at once.
struct Found {
    totals: [u64; COLUMNS.len()],
    /// Each with the place of the column in which it was found.
    tasks: Vec<(usize, Task)>,
    ended: Vec<EndedRow>,
}

impl Mesh {
    /// The board of one moment: what the read side has of it is brought to how the tasks stand when the orchestrator is
    /// asked for all of them at once. Each is one card, in the column of the state that the card shows, and the instances
    /// have in hand what their cards say.
    pub(super) async fn board_of(&self, cards: usize) -> Result<Board, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let since = now().minus(WINDOW);
        let reading = move |store: &OpenStore| found(store, cards, since);
        let found = reads::blocking(Arc::clone(&store), reading).await?;
        let mut totals = found.totals;
        let mut columns: [Vec<BoardCard>; COLUMNS.len()] = Default::default();
        let mut in_hand: BTreeMap<TaskId, Option<(AgentId, InstanceNo)>> = BTreeMap::new();
        for (from, task) in self.as_of_now(found.tasks).await? {
            let column = task.column();
            if let Some(to) = COLUMNS.iter().position(|name| *name == column) {
                // It moved since it was counted.
                totals[from] = totals[from].saturating_sub(1);
                totals[to] = totals[to].saturating_add(1);
                let holder = task
                    .assignment
                    .as_ref()
                    .filter(|_| task.state.is_in_flight());
                let holder = holder.map(|held| (held.agent_id.clone(), held.instance));
                in_hand.insert(task.id.clone(), holder);
                if columns[to].len() < cards {
                    columns[to].push(card(task));
                }
            }
        }
        let mut shown = Vec::new();
        for ((name, total), mut cards) in COLUMNS.into_iter().zip(totals).zip(columns) {
            let wip =
                (name == "In progress").then(|| u64::from(self.ctx.settings.max_parallel_tasks));
            if name != "Done" {
                let ids = cards.iter().map(|card| card.id.clone()).collect();
                let said = messages_about(&store, ids, OF_CARD).await?;
                for (card, said) in cards.iter_mut().zip(said) {
                    card.messages = said;
                }
            }
            shown.push(BoardColumn {
                name: name.to_owned(),
                wip,
                // A card may stand for a task that the count had not seen yet.
                total: total.max(cards.len() as u64),
                cards,
            });
        }
        Ok(Board {
            columns: shown,
            agents: self.agents_of_board(&found.ended, &in_hand).await?,
            flow: flow(found.ended.iter()),
        })
    }

    /// How these tasks stand now, all at one moment.
    async fn as_of_now(&self, found: Vec<(usize, Task)>) -> Result<Vec<(usize, Task)>, Problem> {
        let open = found.iter().filter(|(_, task)| !task.state.is_terminal());
        let ids = open.map(|(_, task)| task.id.clone());
        let views = self.orchestrator.views(ids.collect()).await?;
        let mut views = views.into_iter();
        let mut tasks = Vec::new();
        for (place, task) in found {
            let task = if task.state.is_terminal() {
                task
            } else {
                match views.next().flatten() {
                    Some(view) => view,
                    // It ended meanwhile, and is the read side's.
                    None => match self.task(task.id.as_str()).await {
                        Ok(ended) => ended,
                        Err(gone) if gone.kind == ProblemKind::NotFound => continue,
                        Err(problem) => return Err(problem),
                    },
                }
            };
            tasks.push((place, task));
        }
        Ok(tasks)
    }

    async fn agents_of_board(
        &self,
        ended: &[EndedRow],
        in_hand: &BTreeMap<TaskId, Option<(AgentId, InstanceNo)>>,
    ) -> Result<Vec<BoardAgent>, Problem> {
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
                        tasks: held_by((&entry.id, shown.instance), shown.assigned_tasks, in_hand),
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

/// What an instance has in hand: of tasks on the board, what their cards say, of others what it says itself.
fn held_by(
    holder: (&AgentId, InstanceNo),
    own: Vec<TaskId>,
    in_hand: &BTreeMap<TaskId, Option<(AgentId, InstanceNo)>>,
) -> Vec<TaskId> {
    let is_its = |with: &Option<(AgentId, InstanceNo)>| {
        with.as_ref()
            .is_some_and(|(agent, instance)| (agent, *instance) == holder)
    };
    let cards = in_hand.iter().filter(|(_, with)| is_its(with));
    let others = own.into_iter().filter(|task| !in_hand.contains_key(task));
    cards.map(|(task, _)| task.clone()).chain(others).collect()
}

/// The counts and the first cards of each column, and what ended lately.
fn found(
    store: &OpenStore,
    cards: usize,
    since: mesh_messages::Timestamp,
) -> Result<Found, LookupError> {
    let reader = StoreReader(store);
    let mut totals = [0; COLUMNS.len()];
    let mut tasks: BTreeMap<TaskId, (usize, Task)> = BTreeMap::new();
    let mut order = Vec::new();
    // In the order in which work goes on: what moves meanwhile is found twice rather than not at all.
    for (place, name) in COLUMNS.into_iter().enumerate() {
        let filter = projection::TaskFilter {
            column: Some(name.to_owned()),
            ..projection::TaskFilter::default()
        };
        totals[place] = projection::column_count(&reader, name)?;
        for row in projection::task_page(&reader, &filter, None, cards)?.rows {
            let task = row.record.task;
            let id = task.id.clone();
            match tasks.insert(id.clone(), (place, task)) {
                Some((earlier, _)) => totals[earlier] = totals[earlier].saturating_sub(1),
                None => order.push(id),
            }
        }
    }
    let tasks = order.iter().filter_map(|id| tasks.remove(id)).collect();
    Ok(Found {
        totals,
        tasks,
        ended: ended_since(store, since)?,
    })
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
