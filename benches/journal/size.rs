//! What size costs: a mesh with more and more finished tasks, started again in a process of its own each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_actors::operations::{PageRequest, TaskFilter};
use mesh_benches::{Goal, Report, Samples, Unit, number, resident_bytes};
use mesh_messages::task::TaskState;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::world::{self, Failed, done, spec, submit};

/// Open tasks that are there beside the finished ones.
const OPEN: usize = 10_000;
/// Tasks of one array.
const ARRAY: usize = 500;
/// Arrays in flight while filling.
const ARRAYS: usize = 4;
/// How often latencies are taken.
const LOOKS: usize = 200;
/// More than this is not flat.
const FLAT: f64 = 1.5;

const STEP: &str = "MESH_BENCH_STEP";

/// What a process of its own is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    data: PathBuf,
    what: What,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum What {
    /// Finish so many tasks more, and leave so many more open.
    Fill { finish: usize, open: usize },
    /// Start, look around, and end in order or not.
    Look { orderly: bool },
}

/// What it finds out.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    ready: Duration,
    resident: u64,
    /// From the start until lists answer: after a kill the read side is checked first.
    readable: Duration,
    submit: Duration,
    list: Duration,
    filtered: Duration,
    done: Duration,
}

/// The step that this process was started for, if it was.
pub(crate) fn step() -> Option<Step> {
    serde_json::from_str(&std::env::var(STEP).ok()?).ok()
}

#[expect(
    clippy::print_stdout,
    reason = "what a process of its own found out is read from its output"
)]
pub(crate) async fn run_step(step: Step) -> Result<(), Failed> {
    let seen = match step.what {
        What::Fill { finish, open } => {
            fill(&step.data, finish, open).await?;
            Seen::default()
        }
        What::Look { orderly } => look(&step.data, orderly).await?,
    };
    println!("{}", serde_json::to_string(&seen)?);
    if let What::Look { orderly: false } = step.what {
        // As after a kill: nothing is closed.
        std::process::abort();
    }
    Ok(())
}

async fn fill(data: &Path, finish: usize, open: usize) -> Result<(), Failed> {
    let mesh = world::start(data).await?;
    let ops = mesh.operations();
    world::native(&*ops).await?;
    let work = async |worker: usize| {
        for _ in (worker..finish.div_ceil(ARRAY)).step_by(ARRAYS) {
            let ids = submit(&*ops, vec![spec("noop"); ARRAY.min(finish)]).await?;
            for id in &ids {
                done(&*ops, id).await?;
            }
        }
        Ok::<_, Failed>(())
    };
    let workers: Vec<_> = (0..ARRAYS).map(work).collect();
    for ended in futures::future::join_all(workers).await {
        ended?;
    }
    for _ in 0..open / ARRAY {
        submit(&*ops, vec![spec("nobody"); ARRAY]).await?;
    }
    // The next start shall find the read side where it would be after a quiet minute.
    let page = PageRequest {
        limit: 1,
        cursor: None,
    };
    while ops.tasks(TaskFilter::default(), page).await.is_err() {
        tokio::task::yield_now().await;
    }
    mesh.drain(Duration::ZERO).await;
    mesh.stop().await;
    Ok(())
}

async fn look(data: &Path, orderly: bool) -> Result<Seen, Failed> {
    let begin = Instant::now();
    let mesh = world::start(data).await?;
    let ready = begin.elapsed();
    let ops = mesh.operations();
    let resident = resident_bytes()?;
    let mut seen = Seen {
        ready,
        resident,
        ..Seen::default()
    };
    let page = PageRequest {
        limit: 1,
        cursor: None,
    };
    // Each try waits by itself, and gives up after a while.
    while ops.tasks(TaskFilter::default(), page).await.is_err() {
        tokio::task::yield_now().await;
    }
    seen.readable = begin.elapsed();
    let list = async |filter: TaskFilter| {
        let mut samples = Samples::default();
        for _ in 0..LOOKS {
            let begin = Instant::now();
            let page = PageRequest {
                limit: 100,
                cursor: None,
            };
            let page = ops.tasks(filter.clone(), page).await;
            page.map_err(|problem| format!("{problem:?}"))?;
            samples.push(begin.elapsed());
        }
        Ok::<_, Failed>(samples.p50())
    };
    seen.list = list(TaskFilter::default()).await?;
    seen.filtered = list(TaskFilter {
        state: Some(TaskState::Succeeded),
        ..TaskFilter::default()
    })
    .await?;
    let (mut submits, mut dones) = (Samples::default(), Samples::default());
    for _ in 0..LOOKS {
        let begin = Instant::now();
        let ids = submit(&*ops, vec![spec("noop")]).await?;
        submits.push(begin.elapsed());
        for id in &ids {
            done(&*ops, id).await?;
        }
        dones.push(begin.elapsed());
    }
    (seen.submit, seen.done) = (submits.p50(), dones.p50());
    if orderly {
        mesh.drain(Duration::ZERO).await;
        mesh.stop().await;
    }
    Ok(seen)
}

fn process(data: &Path, what: What) -> Result<Seen, Failed> {
    let step = Step {
        data: data.to_owned(),
        what,
    };
    let ran = Command::new(std::env::current_exe()?)
        .env(STEP, serde_json::to_string(&step)?)
        .output()?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    let seen = printed.lines().last().map(serde_json::from_str);
    if let Some(Ok(seen)) = seen {
        return Ok(seen);
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("{what:?} failed: {printed}{said}").into())
}

/// How many finished tasks there are in the end: `MESH_BENCH_TASKS`, or a million.
fn wanted() -> usize {
    let told = std::env::var("MESH_BENCH_TASKS").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(1_000_000)
}

pub(crate) fn run(report: &mut Report) -> Result<(), Failed> {
    let dir = disk::dir()?;
    let data = dir.path().join("data");
    let (mut finished, mut first): (usize, Option<Seen>) = (0, None);
    let mut bytes_before = 0;
    for target in [1000, 10_000, 100_000, 1_000_000] {
        if target > wanted() {
            break;
        }
        let open = if first.is_none() { OPEN } else { 0 };
        let finish = target - finished;
        let begin = Instant::now();
        process(&data, What::Fill { finish, open })?;
        let filled = number(finish as u64) / begin.elapsed().as_secs_f64();
        finished = target;
        let (log, views) = (
            size_of(&data.join("journal"))?,
            size_of(&data.join("projections"))?,
        );
        let orderly = process(&data, What::Look { orderly: false })?;
        let killed = process(&data, What::Look { orderly: true })?;
        rows(report, target, &orderly, &killed, first.as_ref());
        report.row(
            &format!("{target} finished: bytes of the log for each since before"),
            Unit::Bytes,
            number(log.saturating_sub(bytes_before)) / number(finish as u64),
            (
                "bytes of the projections for each",
                number(views) / number(target as u64),
            ),
            Goal::None,
        );
        report.row(
            &format!("{target} finished: filled"),
            Unit::PerSecond,
            filled,
            ("itself", filled),
            Goal::None,
        );
        bytes_before = log;
        first.get_or_insert(orderly);
    }
    Ok(())
}

fn rows(report: &mut Report, target: usize, orderly: &Seen, killed: &Seen, first: Option<&Seen>) {
    const READY: Duration = Duration::from_secs(2);
    const RESIDENT: u64 = 300 * 1024 * 1024;
    let micros = |took: Duration| took.as_secs_f64() * 1e6;
    let what = format!("{target} finished and {OPEN} open tasks");
    for (after, seen) in [("an orderly end", orderly), ("a kill", killed)] {
        report.row(
            &format!("{what}: ready after {after}"),
            Unit::Micros,
            micros(seen.ready),
            ("2 s", micros(READY)),
            Goal::AtMost,
        );
        report.row(
            &format!("{what}: lists answer after {after}"),
            Unit::Micros,
            micros(seen.readable),
            ("ready", micros(seen.ready)),
            Goal::None,
        );
        report.row(
            &format!("{what}: resident when ready after {after}"),
            Unit::Bytes,
            number(seen.resident),
            ("300 MiB", number(RESIDENT)),
            Goal::AtMost,
        );
    }
    let first = first.unwrap_or(orderly);
    for (name, ours, base) in [
        ("acknowledge a submission", orderly.submit, first.submit),
        ("do a task", orderly.done, first.done),
        ("list 100 tasks", orderly.list, first.list),
        ("list 100 of a state", orderly.filtered, first.filtered),
    ] {
        report.row(
            &format!("{what}: {name}, p50"),
            Unit::Micros,
            micros(ours),
            ("with 1000 finished", micros(base)),
            Goal::Times(FLAT),
        );
    }
}

/// Bytes of the blocks below a directory.
fn size_of(dir: &Path) -> Result<u64, Failed> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            size_of(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(sum)
}
