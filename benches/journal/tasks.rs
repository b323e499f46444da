//! Whole tasks: submitted, acknowledged, assigned, done, their results durable.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use mesh_actors::Operations;
use mesh_actors::mesh::Mesh;
use mesh_benches::{Goal, Report, Samples, Unit, number};
use tokio::net::TcpListener;

use crate::disk;
use crate::http::Connection;
use crate::world::{self, Failed, done, spec, submit};

const IN_FLIGHT: usize = 256;
const TASKS: usize = 10_000;
const WARM_UP: usize = 1000;
/// Tasks of an array.
const ARRAY: usize = 100;
/// How often a task has to wait for the disk: its submission, its assignment's delivery, its result.
const SYNCS: usize = 2;

/// What a run gave.
struct Ran {
    took: Duration,
    each: Samples,
}

pub(crate) async fn in_process(report: &mut Report) -> Result<(), Failed> {
    let dir = disk::dir()?;
    let data = dir.path().join("data");
    let mesh = world::start(&data).await?;
    let ops = mesh.operations();
    world::native(&*ops).await?;
    one_by_one(&ops, 1, 200).await?;
    let ran = one_by_one(&ops, 1, 1000).await?;
    let alone = ran.each.p50();
    one_by_one(&ops, IN_FLIGHT, WARM_UP).await?;
    let before = world::log_bytes(&data)?;
    let ran = one_by_one(&ops, IN_FLIGHT, TASKS).await?;
    let bytes = (world::log_bytes(&data)? - before) / TASKS as u64;
    let limit = limit(dir.path(), bytes)?;
    row(
        report,
        "tasks in process, native agent",
        &ran,
        limit,
        Goal::Share(0.5),
    );
    let arrays = arrays(&ops, TASKS).await?;
    row(
        report,
        "the same, submitted in arrays of 100",
        &arrays,
        limit,
        Goal::None,
    );
    report.row(
        "a task alone, submitted to done, p50",
        Unit::Micros,
        alone.as_secs_f64() * 1e6,
        ("with 256 in flight", ran.each.p50().as_secs_f64() * 1e6),
        Goal::None,
    );
    report.row(
        "bytes of the log for a task",
        Unit::Bytes,
        number(bytes),
        ("its input", number(world::PAYLOAD as u64)),
        Goal::None,
    );
    end(mesh).await;
    Ok(())
}

pub(crate) async fn by_process(report: &mut Report) -> Result<(), Failed> {
    let dir = disk::dir()?;
    let data = dir.path().join("data");
    let mesh = world::start(&data).await?;
    let ops = mesh.operations();
    world::processes(&*ops, 2).await?;
    one_by_one(&ops, IN_FLIGHT, WARM_UP).await?;
    let before = world::log_bytes(&data)?;
    let ran = one_by_one(&ops, IN_FLIGHT, TASKS).await?;
    let bytes = (world::log_bytes(&data)? - before) / TASKS as u64;
    let limit = limit(dir.path(), bytes)?;
    row(
        report,
        "tasks in process, two agents in processes of their own",
        &ran,
        limit,
        Goal::None,
    );
    end(mesh).await;
    Ok(())
}

pub(crate) async fn over_http(report: &mut Report) -> Result<(), Failed> {
    let dir = disk::dir()?;
    let data = dir.path().join("data");
    let mesh = world::start(&data).await?;
    let ops = mesh.operations();
    world::native(&*ops).await?;
    let token = std::fs::read_to_string(mesh.token_file())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let config = mesh_api::ApiConfig {
        connections_max: 2 * IN_FLIGHT,
        ..mesh_api::ApiConfig::default()
    };
    let served = tokio::spawn(mesh_api::serve(listener, Arc::clone(&ops), config, async {
        drop(stopped.await);
    }));
    let body = serde_json::to_string(&spec("noop"))?;
    let ran = http_one_by_one(address, token.trim(), &body, TASKS / 2).await?;
    let bytes = world::log_bytes(&data)? / (TASKS as u64 / 2);
    let limit = limit(dir.path(), bytes)?;
    row(
        report,
        "tasks over HTTP, one by one",
        &ran,
        limit,
        Goal::None,
    );
    let array = format!("[{}]", vec![body; ARRAY].join(","));
    let ran = http_arrays(&ops, address, token.trim(), &array).await?;
    row(
        report,
        "tasks over HTTP, in arrays of 100",
        &ran,
        limit,
        Goal::None,
    );
    drop(stop);
    served.await??;
    end(mesh).await;
    Ok(())
}

/// Tasks per second that the disk allows: their bytes, each waiting for the disk as often as it must, together with all
/// others in flight.
fn limit(dir: &Path, bytes: u64) -> Result<f64, Failed> {
    let rounds = TASKS / IN_FLIGHT;
    let batch = usize::try_from(bytes)? * IN_FLIGHT / SYNCS;
    let took = disk::limit(dir, &vec![batch; rounds * SYNCS])?;
    Ok(number((rounds * IN_FLIGHT) as u64) / took.as_secs_f64())
}

fn row(report: &mut Report, name: &str, ran: &Ran, limit: f64, goal: Goal) {
    let name = format!(
        "{name}, {IN_FLIGHT} in flight, p50 {:.0} ms, p99 {:.0} ms",
        ran.each.p50().as_secs_f64() * 1e3,
        ran.each.p99().as_secs_f64() * 1e3
    );
    let rate = number(ran.each.len() as u64) / ran.took.as_secs_f64();
    let base = ("the same bytes", limit);
    report.row(&name, Unit::PerSecond, rate, base, goal);
}

async fn one_by_one(
    ops: &Arc<dyn Operations>,
    in_flight: usize,
    count: usize,
) -> Result<Ran, Failed> {
    let begin = Instant::now();
    let each = stream::iter(0..count)
        .map(|_| async {
            let begin = Instant::now();
            for id in submit(&**ops, vec![spec("noop")]).await? {
                done(&**ops, &id).await?;
            }
            Ok::<_, Failed>(begin.elapsed())
        })
        .buffer_unordered(in_flight)
        .try_fold(Samples::default(), collect)
        .await?;
    let took = begin.elapsed();
    Ok(Ran { took, each })
}

async fn collect(mut samples: Samples, took: Duration) -> Result<Samples, Failed> {
    samples.push(took);
    Ok(samples)
}

async fn arrays(ops: &Arc<dyn Operations>, count: usize) -> Result<Ran, Failed> {
    let begin = Instant::now();
    let each = stream::iter(0..count / ARRAY)
        .map(|_| async {
            let begin = Instant::now();
            let ids = submit(&**ops, vec![spec("noop"); ARRAY]).await?;
            ended(ops, &ids, begin).await
        })
        .buffer_unordered(IN_FLIGHT.div_ceil(ARRAY))
        .try_fold(Samples::default(), append)
        .await?;
    let took = begin.elapsed();
    Ok(Ran { took, each })
}

async fn append(mut all: Samples, more: Samples) -> Result<Samples, Failed> {
    all.append(more);
    Ok(all)
}

/// Waits for all of these, and says when each ended.
async fn ended(
    ops: &Arc<dyn Operations>,
    ids: &[mesh_messages::TaskId],
    begin: Instant,
) -> Result<Samples, Failed> {
    stream::iter(ids)
        .map(|id| async move {
            done(&**ops, id).await?;
            Ok::<_, Failed>(begin.elapsed())
        })
        .buffer_unordered(ARRAY)
        .try_fold(Samples::default(), collect)
        .await
}

async fn http_one_by_one(
    address: std::net::SocketAddr,
    token: &str,
    body: &str,
    count: usize,
) -> Result<Ran, Failed> {
    let begin = Instant::now();
    let each = stream::iter(0..IN_FLIGHT)
        .map(|_| async {
            let mut samples = Samples::default();
            let mut connection = Connection::open(address, token).await?;
            for _ in 0..count.div_ceil(IN_FLIGHT) {
                let begin = Instant::now();
                let answer = connection.post("/v1/tasks?wait=30s", body).await?;
                if answer["state"] != "succeeded" {
                    return Err(format!("not done: {answer}").into());
                }
                samples.push(begin.elapsed());
            }
            Ok::<_, Failed>(samples)
        })
        .buffer_unordered(IN_FLIGHT)
        .try_fold(Samples::default(), append)
        .await?;
    let took = begin.elapsed();
    Ok(Ran { took, each })
}

async fn http_arrays(
    ops: &Arc<dyn Operations>,
    address: std::net::SocketAddr,
    token: &str,
    array: &str,
) -> Result<Ran, Failed> {
    let clients = IN_FLIGHT.div_ceil(ARRAY);
    let begin = Instant::now();
    let each = stream::iter(0..clients)
        .map(|_| async {
            let mut samples = Samples::default();
            let mut connection = Connection::open(address, token).await?;
            for _ in 0..TASKS / ARRAY / clients {
                let begin = Instant::now();
                let answer = connection.post("/v1/tasks", array).await?;
                let receipts = answer.as_array().ok_or("no array came back")?;
                let ids: Result<Vec<mesh_messages::TaskId>, _> = receipts
                    .iter()
                    .map(|receipt| serde_json::from_value(receipt["id"].clone()))
                    .collect();
                samples.append(ended(ops, &ids?, begin).await?);
            }
            Ok::<_, Failed>(samples)
        })
        .buffer_unordered(clients)
        .try_fold(Samples::default(), append)
        .await?;
    let took = begin.elapsed();
    Ok(Ran { took, each })
}

async fn end(mesh: Mesh) {
    mesh.drain(Duration::ZERO).await;
    mesh.stop().await;
}
