//! The journal alone: so many appends of one record of 1 KiB in flight, against a plain file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Unit, number};
use mesh_messages::identity::SigningKey;
use mesh_messages::{NewRecord, PartitionId, Position};
use mesh_persistence::{AppendError, FileJournal, FileJournalOptions, Journal};

use crate::disk;
use crate::world::{Failed, PAYLOAD};

const PARTITION: PartitionId = PartitionId::from_static("bench");
/// The journal runs for so long, at each number in flight.
const FOR: Duration = Duration::from_secs(3);
/// Bytes of a record beside its header and payload.
const FRAMES: usize = 32;

pub(crate) async fn run(report: &mut Report) -> Result<(), Failed> {
    for in_flight in [1, 64, 256, 1024] {
        let dir = disk::dir()?;
        let journal = FileJournal::open(
            &dir.path().join("journal"),
            &FileJournalOptions::default(),
            SigningKey::from_secret(&[7; 32]),
            Arc::new(mesh_actors::clock::now),
        )?;
        let (took, batches) = drive(&journal, in_flight).await?;
        let first = journal.get(Position(0))?.ok_or("the log is empty")?;
        drop(journal);
        let each = first.header_bytes.len() + PAYLOAD + FRAMES;
        let records: usize = batches.iter().sum();
        let sizes: Vec<usize> = batches.iter().map(|count| count * each).collect();
        let limit = disk::limit(dir.path(), &sizes)?;
        report.row(
            &format!(
                "journal, {in_flight} in flight, {:.0} records a sync",
                number(records as u64) / number(batches.len() as u64)
            ),
            Unit::PerSecond,
            number(records as u64) / took.as_secs_f64(),
            (
                "the same bytes and syncs",
                number(records as u64) / limit.as_secs_f64(),
            ),
            Goal::Share(0.8),
        );
    }
    Ok(())
}

/// Keeps so many appends in flight; how long it took, and how many records each advance of durability brought.
async fn drive(journal: &FileJournal, in_flight: u64) -> Result<(Duration, Vec<usize>), Failed> {
    let record = || NewRecord {
        kind: "task.submitted".into(),
        kind_version: 1,
        agent: None,
        task: None,
        actor: "user:bench".to_owned(),
        cause: None,
        after: None,
        correlation: None,
        payload: vec![b'x'; PAYLOAD],
    };
    let (mut appended, mut durable) = (0, 0);
    let mut news = journal.durable();
    let mut batches = Vec::new();
    let begin = Instant::now();
    loop {
        let more = begin.elapsed() < FOR;
        while more && appended - durable < in_flight {
            match journal.append(&PARTITION, appended, vec![record()]) {
                Ok(_) => appended += 1,
                Err(AppendError::Busy { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if appended == durable {
            if more {
                // The next segment is not there yet.
                tokio::task::yield_now().await;
                continue;
            }
            return Ok((begin.elapsed(), batches));
        }
        news.changed().await?;
        let state = news.borrow_and_update().clone();
        if let Some(failed) = state.failed {
            return Err(failed.into());
        }
        batches.push(usize::try_from(state.size() - durable)?);
        durable = state.size();
    }
}
