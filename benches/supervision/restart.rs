//! From a panic to the first message that the next incarnation handles.

use std::time::Duration;

use mesh_benches::{Goal, Report, Samples, Unit};
use mesh_supervision::{Flags, Supervisor, SupervisorSpec};
use ractor::Actor;
use tokio::sync::mpsc;

use crate::bare::{Bare, Limit};
use crate::victim::{Back, Probe, Tell};

/// Restarts of a round. The rounds of the two alternate, so that what else the machine does concerns both.
const ROUND: usize = 2_000;
const ROUNDS: usize = 10;
/// Of the first round of each, to be warm.
const WARM_UP: usize = 500;

const PERIOD: Duration = Duration::from_secs(1);

/// Flags that grant every restart.
pub(crate) fn patient() -> Flags {
    Flags {
        intensity: u32::MAX,
        period: PERIOD,
        ..Flags::default()
    }
}

/// Panics one victim so many times, each time when it is back.
async fn round(
    back: &mut mpsc::UnboundedReceiver<Back>,
    first: Back,
    times: usize,
) -> (Samples, Back) {
    let mut samples = Samples::default();
    let mut last = first;
    for _ in 0..times {
        if last.victim.send_message(Tell::Panic).is_err() {
            break;
        }
        let Some(next) = back.recv().await else { break };
        if let Some(took) = next.took {
            samples.push(took);
        }
        last = next;
    }
    (samples, last)
}

/// The victim's first report of all.
async fn first(back: &mut mpsc::UnboundedReceiver<Back>) -> Result<Back, &'static str> {
    back.recv().await.ok_or("the victim did not start")
}

pub(crate) async fn run(report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut back_ours) = mpsc::unbounded_channel();
    let spec = SupervisorSpec::new(patient()).child(Probe::new(&sender).child("victim".to_owned()));
    let (supervisor, _join) = Supervisor::spawn(None, spec).await?;
    let mut last_ours = first(&mut back_ours).await?;

    let (sender, mut back_bare) = mpsc::unbounded_channel();
    let limit = Limit {
        intensity: usize::MAX,
        period: PERIOD,
    };
    let (bare, _join) = Actor::spawn(None, Bare, limit).await?;
    bare.send_message(Probe::new(&sender))?;
    let mut last_bare = first(&mut back_bare).await?;

    (_, last_ours) = round(&mut back_ours, last_ours, WARM_UP).await;
    (_, last_bare) = round(&mut back_bare, last_bare, WARM_UP).await;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        let (samples, last) = round(&mut back_ours, last_ours, ROUND).await;
        ours.append(samples);
        last_ours = last;
        let (samples, last) = round(&mut back_bare, last_bare, ROUND).await;
        theirs.append(samples);
        last_bare = last;
    }
    for (name, quantile, goal) in [("p50", 500, 2.0), ("p99", 990, 3.0)] {
        report.row(
            &format!("restart, panic to first message, {name}"),
            Unit::Micros,
            micros(ours.quantile(quantile)),
            ("bare ractor", micros(theirs.quantile(quantile))),
            Goal::Times(goal),
        );
    }
    supervisor.stop(Duration::from_secs(5)).await;
    bare.stop(None);
    Ok(())
}

/// In microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
