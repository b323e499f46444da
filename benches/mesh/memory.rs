//! What an idle agent costs, measured in a process of its own.

use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Unit, fresh, number, resident_bytes};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::world::{Failed, World, agents_wanted};

const FLEET: u64 = 100_000;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// It is there, and that is all.
struct Idle;

impl Actor for Idle {
    type Msg = String;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<String>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Starts so many, and says how many bytes each takes.
pub(crate) async fn bytes_each(what: &str, count: usize) -> Result<f64, Failed> {
    if what == "bare" {
        let before = resident_bytes()?;
        let mut actors = Vec::with_capacity(count);
        for _ in 0..count {
            actors.push(Actor::spawn(None, Idle, ()).await?);
        }
        return Ok(each(before, count)?);
    }
    let world = World::start(Duration::from_millis(200)).await?;
    let before = resident_bytes()?;
    world.agents("idle", count).await?;
    // Until what is still being written has been written.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(each(before, count)?)
}

fn each(before: u64, count: usize) -> std::io::Result<f64> {
    Ok(number(resident_bytes()?.saturating_sub(before)) / number(count as u64))
}

pub(crate) fn run(report: &mut Report) -> Result<(), Failed> {
    let agents = agents_wanted();
    let bare = fresh("bare", agents)?;
    let agent = fresh("agents", agents)?;
    report.row(
        "memory of an idle native agent",
        Unit::Bytes,
        agent,
        ("bare ractor actor", bare),
        Goal::Times(2.5),
    );
    report.row(
        &format!("memory of {FLEET} idle native agents, from that of {agents}"),
        Unit::Bytes,
        agent * number(FLEET),
        ("3 GiB", 3.0 * GIB),
        Goal::AtMost,
    );
    Ok(())
}
