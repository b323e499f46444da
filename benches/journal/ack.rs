//! How long a single submission takes until it is acknowledged, against one sync of a file.

use std::time::Instant;

use mesh_benches::{Goal, Report, Samples, Unit};

use crate::disk::{self, Before};
use crate::world::{self, Failed, spec, submit};

const TASKS: usize = 2000;
/// Bytes of the record of a submission, more or less.
const RECORD: usize = 2048;

pub(crate) async fn run(report: &mut Report) -> Result<(), Failed> {
    let dir = disk::dir()?;
    let data = dir.path().join("data");
    let mesh = world::start(&data).await?;
    let ops = mesh.operations();
    let mut acks = Samples::default();
    for n in 0..TASKS + 100 {
        let begin = Instant::now();
        // Nobody can do it, so there is nothing beside the acknowledgement.
        submit(&*ops, vec![spec("nobody")]).await?;
        if n >= 100 {
            acks.push(begin.elapsed());
        }
    }
    mesh.drain(std::time::Duration::ZERO).await;
    mesh.stop().await;
    let (_, grown) = disk::append(dir.path(), Before::Empty, &[RECORD; TASKS])?;
    let (_, written) = disk::append(dir.path(), Before::Written, &[RECORD; TASKS])?;
    let micros = |took: std::time::Duration| took.as_secs_f64() * 1e6;
    for (name, file, goal) in [
        ("one sync of a written file", &written, Goal::Times(1.3)),
        ("one sync of a file that grows", &grown, Goal::None),
    ] {
        report.row(
            "submit to acknowledge, one at a time, p50",
            Unit::Micros,
            micros(acks.p50()),
            (name, micros(file.p50())),
            goal,
        );
    }
    report.row(
        "submit to acknowledge, one at a time, p99",
        Unit::Micros,
        micros(acks.p99()),
        ("one sync of a written file", micros(written.p99())),
        Goal::None,
    );
    Ok(())
}
