//! What the mesh adds to the delay that the fault policy wants.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_actors::operations::EventFeed;
use mesh_benches::{Goal, Report, Samples, Unit};
use serde_json::Value;

use crate::worker::Note;
use crate::world::{Failed, World, agents_wanted};

const CRASHES: usize = 300;
/// As the default policy's first delay.
const DELAY: Duration = Duration::from_millis(200);
/// Shorter, where the size of the mesh is what matters.
const DELAY_SHORT: Duration = Duration::from_millis(20);
/// How much a crash of an agent writes, more or less.
const RECORD: usize = 4096;
/// What a restart may take beyond one sync.
const ALLOWED: Duration = Duration::from_millis(1);
/// How many agents are there at first besides the one that crashes; ten times as many each time after.
const SMALLEST: usize = 100;
/// A restart takes a fraction of this; without it, a benchmark that missed the restart would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than this is not flat.
const FLAT: f64 = 2.0;

/// What a crash took beyond the policy's delay.
#[derive(Default)]
struct Added {
    /// Until the start of the next incarnation was durable and ordered.
    start: Samples,
    /// Until it handled its first task.
    task: Samples,
}

/// What the feed says about the agent's next start.
struct Restart {
    delay: Duration,
    activated: Instant,
}

/// Reads the feed until the agent is started again.
async fn restarted(feed: &mut EventFeed, agent: &str) -> Result<Restart, Failed> {
    let (changed, activated) = (
        format!("agent.{agent}.fault.changed"),
        format!("agent.{agent}.activated"),
    );
    let mut delay = None;
    loop {
        let event = feed.recv().await?;
        if event.topic == changed {
            delay = policy_delay(&event.data).or(delay);
        } else if event.topic == activated
            && let Some(delay) = delay
        {
            return Ok(Restart {
                delay,
                activated: Instant::now(),
            });
        }
    }
}

/// How long after the failure the policy wants the next start, to the millisecond below.
fn policy_delay(data: &Value) -> Option<Duration> {
    // Only the change that orders a wait says when that is over.
    data.pointer("/payload/view/nextAttemptAt")?.as_str()?;
    let delay = data.pointer("/payload/record/lastDelay")?.as_u64()?;
    Some(Duration::from_millis(delay))
}

/// Makes the agent crash so often, a task waiting for it each time.
async fn crashes(world: &mut World, agent: &str, count: usize) -> Result<Added, Failed> {
    let mut added = Added::default();
    let mut feed = world.ops().subscribe();
    for _ in 0..count {
        let tasks = [(agent.to_owned(), "panic"), (agent.to_owned(), "quick")];
        world.submit(&tasks).await?;
        let restart = tokio::time::timeout(PATIENCE, restarted(&mut feed, agent)).await;
        let restart = restart.map_err(|_| format!("{agent} was not seen to restart"))??;
        let (mut panicked, mut works) = (None, None);
        while panicked.is_none() || works.is_none() {
            match world.notes.recv().await.ok_or("the worker is gone")? {
                Note::Panics(at) => panicked = Some(at),
                Note::Works(at) => works = Some(at),
            }
        }
        if let (Some(panicked), Some(works)) = (panicked, works) {
            let beyond = |at: Instant| (at - panicked).saturating_sub(restart.delay);
            added.start.push(beyond(restart.activated));
            added.task.push(beyond(works));
        }
    }
    Ok(added)
}

/// What a sync of so little takes on the mesh's own disk.
fn syncs(dir: &Path, count: usize) -> Result<Samples, Failed> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("bench-sync"))?;
    let mut samples = Samples::default();
    for _ in 0..count {
        file.write_all(&[7; RECORD])?;
        let begin = Instant::now();
        file.sync_data()?;
        samples.push(begin.elapsed());
    }
    Ok(samples)
}

pub(crate) async fn run(report: &mut Report) -> Result<(), Failed> {
    let mut world = World::start(DELAY).await?;
    world.agents("agent", 1).await?;
    let mut sync = syncs(world.dir.path(), CRASHES)?;
    let added = crashes(&mut world, "agent-0", CRASHES).await?;
    sync.append(syncs(world.dir.path(), CRASHES)?);
    report.row(
        "fdatasync of 4 KiB, p50 and p99",
        Unit::Micros,
        micros(sync.p50()),
        ("p99", micros(sync.p99())),
        Goal::None,
    );
    let allowed = micros(sync.p50() + ALLOWED);
    for (name, samples) in [("next start", &added.start), ("first task", &added.task)] {
        report.row(
            &format!("added to the policy's delay until the {name}, p50"),
            Unit::Micros,
            micros(samples.p50()),
            ("one fdatasync + 1 ms", allowed),
            Goal::AtMost,
        );
        report.row(
            &format!("added to the policy's delay until the {name}, p99"),
            Unit::Micros,
            micros(samples.p99()),
            ("one fdatasync + 1 ms", allowed),
            Goal::None,
        );
    }
    world.mesh.stop().await;
    Ok(())
}

/// The same among ever more agents.
pub(crate) async fn scale(report: &mut Report) -> Result<(), Failed> {
    let mut world = World::start(DELAY_SHORT).await?;
    let (mut there, mut smallest) = (0, None);
    let sizes = std::iter::successors(Some(SMALLEST), |size| Some(size * 10));
    for size in sizes.take_while(|size| *size <= agents_wanted()) {
        world.agents(&format!("idle-{size}"), size - there).await?;
        there = size;
        let agent = format!("crashing-{size}");
        world.agents(&agent, 1).await?;
        let added = crashes(&mut world, &format!("{agent}-0"), CRASHES).await?;
        let p50 = micros(added.task.p50());
        let base = *smallest.get_or_insert(p50);
        report.row(
            &format!("added until the first task among {size} agents, p50"),
            Unit::Micros,
            p50,
            (&format!("among {SMALLEST}"), base),
            Goal::Times(FLAT),
        );
    }
    world.mesh.stop().await;
    Ok(())
}

/// In microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
