//! Very many agents crash at once; another one keeps working.

use std::cell::Cell;
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Samples, Unit};

use crate::restart::micros;
use crate::world::{Failed, World, agents_wanted};

/// As the default policy's first delay.
const DELAY: Duration = Duration::from_millis(200);
/// How many tasks are submitted at once.
const BATCH: usize = 100;
/// How long the sibling is watched in peace.
const PEACE: usize = 500;

/// One task of the sibling, from its submission to its end.
async fn task(world: &World) -> Result<Duration, Failed> {
    let (ops, begin) = (world.ops(), Instant::now());
    let ids = world.submit(&[("sibling-0".to_owned(), "quick")]).await?;
    for id in ids {
        let ended = ops.wait_task(id.as_str(), Duration::from_mins(1)).await;
        let ended = ended.map_err(|problem| format!("{problem:?}"))?;
        if !ended.state.is_terminal() {
            return Err("a task of the sibling did not end".into());
        }
    }
    Ok(begin.elapsed())
}

fn agent(n: usize) -> String {
    format!("agent-{n}")
}

/// Waits until each agent runs in another incarnation than its first.
async fn all_back(world: &World, agents: usize, begin: Instant) -> Result<Duration, Failed> {
    /// Between two looks at one that is not back yet.
    const PAUSE: Duration = Duration::from_millis(5);
    let ops = world.ops();
    for n in 0..agents {
        let id = agent(n);
        loop {
            let instances = ops.agent_instances(&id).await;
            let instances = instances.map_err(|problem| format!("{id}: {problem:?}"))?;
            if instances.iter().any(|instance| instance.epoch.0 > 1) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(begin.elapsed())
}

pub(crate) async fn run(report: &mut Report) -> Result<(), Failed> {
    let agents = agents_wanted();
    let mut world = World::start(DELAY).await?;
    world.agents("sibling", 1).await?;
    world.agents("agent", agents).await?;
    let mut peace = Samples::default();
    for _ in 0..PEACE {
        peace.push(task(&world).await?);
    }
    while world.notes.try_recv().is_ok() {}
    let all: Vec<_> = (0..agents).map(|n| (agent(n), "storm")).collect();
    for batch in all.chunks(BATCH) {
        world.submit(batch).await?;
    }
    for _ in 0..agents {
        world.notes.recv().await.ok_or("the worker is gone")?;
    }
    let begin = Instant::now();
    world.storm.send_replace(true);
    let is_over = Cell::new(false);
    let settled = async {
        let took = all_back(&world, agents, begin).await;
        is_over.set(true);
        took
    };
    // The task that is under way at the end counts: it may be the only one, and have waited all the time.
    let sibling = async {
        let mut storm = Samples::default();
        while !is_over.get() {
            storm.push(task(&world).await?);
        }
        Ok(storm)
    };
    let (took, storm) = tokio::try_join!(settled, sibling)?;
    report.row(
        &format!("storm of {agents} agents: all restarted by their policies"),
        Unit::Micros,
        micros(took),
        ("the policy's delay", micros(DELAY)),
        Goal::None,
    );
    report.row(
        &format!("storm of {agents} agents: sibling's task, p99"),
        Unit::Micros,
        micros(storm.p99()),
        ("undisturbed", micros(peace.p99())),
        Goal::Times(2.0),
    );
    world.mesh.stop().await;
    Ok(())
}
