//! What a crash costs among ever more children.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use mesh_benches::{Goal, Report, Samples, Unit};
use mesh_supervision::{REQUESTS_MAX, Strategy, Supervisor, SupervisorHandle, SupervisorSpec};
use tokio::sync::mpsc;

use crate::restart::{micros, patient};
use crate::victim::{Back, Probe, Tell};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const CRASHES: usize = 5_000;
/// More than this is not flat.
const FLAT: f64 = 2.0;

/// A pool of victims, all of which have started.
pub(crate) async fn pool(
    size: usize,
) -> Result<(SupervisorHandle, Vec<Back>, mpsc::UnboundedReceiver<Back>), Box<dyn std::error::Error>>
{
    let (sender, mut back) = mpsc::unbounded_channel();
    let flags = mesh_supervision::Flags {
        strategy: Strategy::Dynamic,
        // And a sibling.
        children_max: size + 1,
        ..patient()
    };
    let (supervisor, _join) = Supervisor::spawn(None, SupervisorSpec::new(flags)).await?;
    let adding = stream::iter(0..size).for_each_concurrent(REQUESTS_MAX / 2, |n| {
        let added = supervisor.add(Probe::new(&sender).child(format!("victim-{n}")));
        async move { drop(added.await) }
    });
    adding.await;
    let mut victims = Vec::with_capacity(size);
    while victims.len() < size {
        victims.push(back.recv().await.ok_or("not all have started")?);
    }
    Ok((supervisor, victims, back))
}

pub(crate) async fn run(report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let mut smallest = None;
    for size in SIZES {
        let (supervisor, mut victims, mut back) = pool(size).await?;
        let mut samples = Samples::default();
        // Here and there: a step that shares no divisor with the sizes visits them all.
        let step = 7_919;
        for n in 0..CRASHES {
            let at = n * step % size;
            victims[at].victim.send_message(Tell::Panic)?;
            let next = back.recv().await.ok_or("the victim did not come back")?;
            samples.push(next.took.unwrap_or_default());
            victims[at] = next;
        }
        let p50 = micros(samples.p50());
        let base = *smallest.get_or_insert(p50);
        report.row(
            &format!("restart among {size} children, p50"),
            Unit::Micros,
            p50,
            (&format!("among {}", SIZES[0]), base),
            Goal::Times(FLAT),
        );
        supervisor.stop(Duration::from_mins(1)).await;
    }
    Ok(())
}
