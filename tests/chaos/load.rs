//! Work for the agents of a world, and what must have become of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_actors::operations::{PageRequest, TaskFilter};
use mesh_messages::TaskId;
use mesh_messages::problem::ProblemKind;
use mesh_messages::task::{RetrySpec, Task, TaskSpec, TaskState};
use mesh_tests::Random;
use serde_json::json;

use crate::history::History;
use crate::ledger::Way;
use crate::world::{PATIENCE, World, admin, until};

/// Largest submission.
const BATCH_MAX: u64 = 9;
/// How long an attempt at a task may take that never ends by itself.
const NEVER_MS: u64 = 300;

/// The tasks of one run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Load {
    acknowledged: Arc<Mutex<BTreeMap<TaskId, (u64, Way)>>>,
}

fn spec(n: u64, way: Way) -> TaskSpec {
    let short = RetrySpec {
        max_attempts: Some(2),
        ..RetrySpec::default()
    };
    TaskSpec {
        kind: Some("work".to_owned()),
        input: way.input(n),
        idempotency_key: Some(format!("task-{n}")),
        timeout_ms: (way == Way::Never).then_some(NEVER_MS),
        retry: (way == Way::Never).then_some(short),
        ..TaskSpec::default()
    }
}

impl Load {
    /// Everything that was acknowledged.
    pub(crate) fn acknowledged(&self) -> BTreeMap<TaskId, (u64, Way)> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Submits these tasks as one, again and again until it is acknowledged: under its keys that is one submission.
    pub(crate) async fn submit(&self, world: &World, tasks: &[(u64, Way)]) {
        let ops = world.ops();
        let specs: Vec<_> = tasks.iter().map(|(n, way)| spec(*n, *way)).collect();
        let outcome = until("a submission is acknowledged", async || {
            match ops.submit_tasks(&admin(), specs.clone()).await {
                Ok(outcome) => Some(outcome),
                Err(problem) => {
                    // What is being restarted says so, and nothing else.
                    let passing = matches!(
                        problem.kind,
                        ProblemKind::Unavailable | ProblemKind::Timeout
                    );
                    assert!(passing, "{problem:?}");
                    None
                }
            }
        })
        .await;
        let mut all = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert_eq!(outcome.receipts.len(), tasks.len());
        for (receipt, task) in outcome.receipts.iter().zip(tasks) {
            let before = all.insert(receipt.id.clone(), *task);
            assert_eq!(before, None, "{} stands for two tasks", receipt.id);
        }
    }

    /// Submits so many tasks in batches of a few, in any of these ways.
    pub(crate) async fn pour(&self, world: &World, mut random: Random, count: u64, ways: &[Way]) {
        let mut next = 0;
        while next < count {
            let end = count.min(next + random.between(1, BATCH_MAX));
            let pick = |_| ways[usize::try_from(random.between(0, ways.len() as u64)).unwrap()];
            let batch: Vec<_> = (next..end).zip((next..end).map(pick)).collect();
            self.submit(world, &batch).await;
            next = end;
        }
    }

    /// Some tasks that were acknowledged are found, and so is every one of them in the list. Whoever asks while a part is
    /// restarted may be told to come again, but never that there is no such task.
    pub(crate) async fn assert_reads_show_everything(&self, world: &World, random: &mut Random) {
        let ops = world.ops();
        let acknowledged: Vec<_> = self.acknowledged().into_keys().collect();
        for _ in 0..3.min(acknowledged.len()) {
            let id = &acknowledged
                [usize::try_from(random.between(0, acknowledged.len() as u64)).unwrap()];
            until("a task is found", async || {
                found(ops.task(id.as_str()).await)
            })
            .await;
        }
        let listed: BTreeSet<_> = self
            .list(world)
            .await
            .into_iter()
            .map(|task| task.id)
            .collect();
        let lacking: Vec<_> = acknowledged
            .iter()
            .filter(|id| !listed.contains(*id))
            .collect();
        assert!(
            lacking.is_empty(),
            "acknowledged, and not in the list: {lacking:?}"
        );
    }

    /// All tasks, page by page.
    async fn list(&self, world: &World) -> Vec<Task> {
        let ops = world.ops();
        until("a whole list", async || {
            let mut all = Vec::new();
            let mut cursor: Option<String> = None;
            loop {
                let page = PageRequest {
                    limit: 100,
                    cursor: cursor.as_deref(),
                };
                let page = found(ops.tasks(TaskFilter::default(), page).await)?;
                all.extend(page.items);
                cursor = page.next_cursor;
                if cursor.is_none() {
                    return Some(all);
                }
            }
        })
        .await
    }

    /// Waits until everything that was acknowledged has ended, and gives the tasks by number.
    pub(crate) async fn ended(&self, world: &World) -> BTreeMap<u64, (Way, Task)> {
        let ops = world.ops();
        let mut ended = BTreeMap::new();
        for (id, (n, way)) in self.acknowledged() {
            let mut seen = None;
            let end = tokio::time::timeout(
                PATIENCE,
                until("a task ends", async || {
                    let wait = Duration::from_secs(2);
                    let task = found(ops.wait_task(id.as_str(), wait).await)?;
                    seen = Some(task.clone());
                    task.state.is_terminal().then_some(task)
                }),
            );
            let Ok(task) = end.await else {
                let why = ops.explain_task(id.as_str()).await;
                panic!("task {n} ({way:?}) does not end: {seen:#?}, {why:#?}");
            };
            ended.insert(n, (way, task));
        }
        ended
    }

    /// Everything has ended as it had to, exactly once; the log proves it.
    pub(crate) async fn assert_all_is_well(&self, world: &World) -> History {
        for (n, (way, task)) in self.ended(world).await {
            if way == Way::Never {
                assert_eq!(task.state, TaskState::DeadLettered, "{task:#?}");
            } else {
                assert_eq!(task.state, TaskState::Succeeded, "{task:#?}");
                assert_eq!(task.output, Some(json!({ "n": n })));
            }
        }
        self.assert_exactly_once(world).await
    }

    /// Everything ends exactly once, in whatever way; the log proves it.
    pub(crate) async fn assert_exactly_once(&self, world: &World) -> History {
        let ended = self.ended(world).await;
        let history = History::of(&*world.ops()).await;
        history.assert_every_task_ended_once(&self.acknowledged().into_keys().collect());
        history.assert_epochs_rise();
        if let Some(n) = world.ledger.run_twice_at_once().first() {
            let (way, task) = &ended[n];
            let events = history.task(&task.id);
            panic!("task {n} ({way:?}) was run twice at the same time: {events:#?}");
        }
        // The list, which is made by another part, says the same as the tasks themselves.
        let listed: BTreeMap<_, _> = self
            .list(world)
            .await
            .into_iter()
            .map(|t| (t.id, t.state))
            .collect();
        for (_, task) in ended.values() {
            assert_eq!(listed.get(&task.id), Some(&task.state), "{}", task.id);
        }
        history
    }
}

/// What was asked for; `None` when it is to be asked for again.
pub(crate) fn found<T>(answer: Result<T, mesh_messages::problem::Problem>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(problem) => {
            let passing = matches!(
                problem.kind,
                ProblemKind::Unavailable | ProblemKind::Timeout
            );
            assert!(passing, "{problem:?}");
            None
        }
    }
}
