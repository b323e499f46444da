//! What an idle child costs, each kind measured in a process of its own.

use std::time::Duration;

use mesh_benches::{Goal, Report, Unit, fresh, number, resident_bytes};
use mesh_supervision::{Child, Started, Strategy, Supervisor, SupervisorSpec};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::restart::patient;

const CHILDREN: usize = 100_000;

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
pub(crate) async fn bytes_each(
    what: &str,
    count: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut actors = Vec::with_capacity(count);
    let mut flags = patient();
    flags.strategy = Strategy::Dynamic;
    flags.children_max = count;
    let (supervisor, _join) = Supervisor::spawn(None, SupervisorSpec::new(flags)).await?;
    supervisor.counts().await?;
    let before = resident_bytes()?;
    for n in 0..count {
        if what == "supervised" {
            let child = Child::worker(format!("idle-{n}"), |context| async move {
                let spawned = Actor::spawn_linked(None, Idle, (), context.supervisor).await?;
                Ok(Started::from(spawned))
            });
            supervisor.add(child).await?;
        } else {
            actors.push(Actor::spawn(None, Idle, ()).await?);
        }
    }
    // Whatever is still being started up or torn down around them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = resident_bytes()?;
    Ok(number(after.saturating_sub(before)) / number(count as u64))
}

pub(crate) fn run(report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let bare = fresh("bare", CHILDREN)?;
    report.row(
        "memory of an idle child",
        Unit::Bytes,
        fresh("supervised", CHILDREN)?,
        ("bare ractor actor", bare),
        Goal::Times(2.5),
    );
    Ok(())
}
