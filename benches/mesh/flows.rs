//! What a workflow costs while ever more of them run at once: memory of each, and time for each of its steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use mesh_actors::operations::WorkflowOrder;
use mesh_benches::{Goal, Report, Unit, fresh, number, resident_bytes};
use mesh_messages::task::TaskState;
use serde_json::{Value, json};

use crate::world::{Failed, World, admin, agents_wanted};

/// Steps of each workflow, one after the other.
const STEPS: usize = 10;
/// Runs that are started at once; they share the journal's syncs.
const AT_ONCE: usize = 64;
/// Agents that do the steps.
const WORKERS: usize = 16;
/// How long it may take at most until a run has ended.
const PATIENCE: Duration = Duration::from_hours(1);

/// What a fresh process measures with so many runs.
pub(crate) const BYTES: &str = "flow-bytes";
/// The same.
pub(crate) const MICROS: &str = "flow-micros";
/// The same, but few of them at a time.
pub(crate) const WAVES: &str = "flow-waves";
/// How many are under way at a time where it is few.
const WAVE: usize = 100;

fn document() -> Value {
    let steps: Vec<Value> = (0..STEPS)
        .map(|nth| match nth {
            0 => json!({"id": "s0", "requirements": ["work"], "input": "${input}"}),
            _ => json!({
                "id": format!("s{nth}"), "requirements": ["work"], "after": [format!("s{}", nth - 1)],
                "input": {"way": "${input.way}", "before": format!("${{steps.s{}.output}}", nth - 1)},
            }),
        })
        .collect();
    json!({"name": "chain", "version": "1", "steps": steps})
}

/// Starts so many runs, each of which then waits for an agent in its first step.
async fn start(world: &World, count: usize) -> Result<Vec<String>, Failed> {
    let ops = world.ops();
    let document = document();
    let started = stream::iter(0..count)
        .map(|_| {
            let (ops, workflow) = (Arc::clone(&ops), document.clone());
            let order = WorkflowOrder {
                workflow,
                input: json!({"way": "on"}),
                idempotency_key: None,
                deploy_later: true,
            };
            async move { ops.start_workflow(&admin(), order).await }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let ids = started.into_iter().map(|run| match run {
        Ok((run, _)) => Ok(run.id.to_string()),
        Err(problem) => Err(format!("{problem:?}").into()),
    });
    ids.collect()
}

/// How many bytes each of so many runs takes while it waits.
pub(crate) async fn bytes_each(count: usize) -> Result<f64, Failed> {
    let world = World::start(Duration::from_millis(200)).await?;
    // What the first one takes is the workflow's, which all share.
    start(&world, 1).await?;
    let before = resident_bytes()?;
    start(&world, count).await?;
    Ok(number(resident_bytes()?.saturating_sub(before)) / number(count as u64))
}

/// How many microseconds each step takes, with so many runs that are all under way from the beginning.
pub(crate) async fn micros_each(count: usize) -> Result<f64, Failed> {
    let mut world = World::start(Duration::from_millis(200)).await?;
    let runs = start(&world, count).await?;
    let begin = Instant::now();
    world.agents("worker", WORKERS).await?;
    ended(&world, runs).await?;
    let steps = number((count * STEPS) as u64);
    while world.notes.try_recv().is_ok() {}
    Ok(begin.elapsed().as_secs_f64() * 1e6 / steps)
}

/// Waits until all of these have succeeded.
async fn ended(world: &World, runs: Vec<String>) -> Result<(), Failed> {
    let ops = world.ops();
    for run in runs {
        let ended = ops.wait_workflow(&run, PATIENCE).await;
        let ended = ended.map_err(|problem| format!("{problem:?}"))?;
        if ended.state != TaskState::Succeeded {
            return Err(format!("run {run} is {:?}", ended.state).into());
        }
    }
    Ok(())
}

/// How many microseconds each step takes where as many runs come one wave after the other: what the log and the view hold is
/// the same in the end, but few are under way at a time. What is done of a wave while the rest of it is started is not timed,
/// so this is rather too short.
pub(crate) async fn micros_in_waves(count: usize) -> Result<f64, Failed> {
    let mut world = World::start(Duration::from_millis(200)).await?;
    world.agents("worker", WORKERS).await?;
    let (mut left, mut took) = (count, Duration::ZERO);
    while left > 0 {
        let wave = left.min(WAVE);
        left -= wave;
        let runs = start(&world, wave).await?;
        let begin = Instant::now();
        ended(&world, runs).await?;
        took += begin.elapsed();
        while world.notes.try_recv().is_ok() {}
    }
    Ok(took.as_secs_f64() * 1e6 / number((count * STEPS) as u64))
}

pub(crate) fn run(report: &mut Report) -> Result<(), Failed> {
    let most = agents_wanted();
    let few = (most / 100).max(10);
    let (bytes, micros) = (fresh(BYTES, few * 10)?, fresh(MICROS, few)?);
    for runs in [few * 10, most] {
        let name = format!("a running workflow of {STEPS} steps: time of a step, {runs} runs");
        let baseline = (&*format!("of {few} runs"), micros);
        let micros = fresh(MICROS, runs)?;
        report.row(&name, Unit::Micros, micros, baseline, Goal::Times(1.5));
        let name = format!("{name}, all at once");
        let baseline = fresh(WAVES, runs)?;
        let named = format!("of as many, {WAVE} at a time");
        report.row(
            &name,
            Unit::Micros,
            micros,
            (&*named, baseline),
            Goal::Times(1.5),
        );
    }
    let name = format!("a running workflow of {STEPS} steps: memory, {most} runs");
    let baseline = (&*format!("of {} runs", few * 10), bytes);
    report.row(
        &name,
        Unit::Bytes,
        fresh(BYTES, most)?,
        baseline,
        Goal::Times(1.5),
    );
    Ok(())
}
