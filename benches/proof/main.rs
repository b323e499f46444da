//! What proof costs: verifying an export, and hashing and signing while durable work goes on.
//!
//! `cargo bench -p mesh-benches --bench proof [-- verify|cost]`; `MESH_BENCH_RECORDS` (400000) says how many records there are.

use std::io::BufReader;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Unit, is_wanted, machine, number};
use mesh_messages::identity::SigningKey;
use mesh_messages::{AgentId, NewRecord, PartitionId, Position};
use mesh_persistence::{
    AppendError, FileJournal, FileJournalOptions, Hash, Journal, export, verify, wait_durable,
};

const PARTITION: PartitionId = PartitionId::from_static("bench");
/// Bytes of a payload: what a task's records have on average when its input is small.
const PAYLOAD: usize = 256;
/// Records of one append, as a task's submission and assignment are.
const GROUP: usize = 2;
/// Records that a core verifies in a second, at least.
const RECORDS_PER_SECOND: f64 = 200_000.0;
/// How much longer durable work may take with hashing and checkpoints than without.
const COST_MAX: f64 = 1.15;
/// A checkpoint is signed so often while work goes on.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

type Failed = Box<dyn std::error::Error>;

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn main() -> Result<(), Failed> {
    println!("{}", machine());
    let mut report = Report::default();
    let records = match std::env::var("MESH_BENCH_RECORDS") {
        Ok(text) => text.parse()?,
        Err(_) => 400_000,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let told = std::env::var_os("MESH_BENCH_DIR").map(std::path::PathBuf::from);
    let dir = tempfile::tempdir_in(told.unwrap_or_else(std::env::temp_dir))?;
    let journal = FileJournal::open(
        &dir.path().join("journal"),
        &FileJournalOptions::default(),
        SigningKey::from_secret(&[7; 32]),
        Arc::new(mesh_actors::clock::now),
    )?;
    let (took, signing) = runtime.block_on(fill(&journal, records))?;
    if is_wanted("cost") {
        cost(&mut report, &journal, took, signing)?;
    }
    if is_wanted("verify") {
        speed(&mut report, &journal, None)?;
        speed(&mut report, &journal, Some(&AgentId::new("one")?))?;
    }
    println!("\n{}", report.table());
    Ok(())
}

/// Appends so many records as fast as they become durable; how long that took, and how much of it signing.
async fn fill(journal: &FileJournal, records: u64) -> Result<(Duration, Duration), Failed> {
    let one = AgentId::new("one")?;
    let (mut next, mut signing) = (0, Duration::ZERO);
    let begin = Instant::now();
    let mut signed = begin;
    let mut last = Position(0);
    while next < records {
        let group: Vec<NewRecord> = (0..GROUP)
            .map(|n| NewRecord {
                kind: "task.submitted".into(),
                kind_version: 1,
                // One agent has a hundredth of the records.
                agent: (next % 100 == 0 && n == 0).then(|| one.clone()),
                task: None,
                actor: "user:bench".to_owned(),
                cause: Some(last),
                after: None,
                correlation: Some("0190a1b2-0000-7000-8000-000000000001".to_owned()),
                payload: format!("\"{}\"", "x".repeat(PAYLOAD)).into_bytes(),
            })
            .collect();
        match journal.append(&PARTITION, next, group) {
            Ok(appended) => (next, last) = (appended.next_seq, appended.last),
            // As an owner does: it waits until there is room.
            Err(AppendError::Busy { .. }) => wait_durable(&mut journal.durable(), last).await?,
            Err(error) => return Err(error.into()),
        }
        if signed.elapsed() >= CHECKPOINT_EVERY {
            let signs = Instant::now();
            journal.checkpoint()?;
            signing += signs.elapsed();
            signed = Instant::now();
        }
    }
    wait_durable(&mut journal.durable(), last).await?;
    Ok((begin.elapsed(), signing))
}

/// The same work without hashing and signing: what these take alone, on one core, is taken off.
fn cost(
    report: &mut Report,
    journal: &FileJournal,
    took: Duration,
    signing: Duration,
) -> Result<(), Failed> {
    let headers = journal.read(Position(0))?;
    let headers = headers.map(|record| record.map(|record| record.header_bytes));
    let headers: Vec<Vec<u8>> = headers.collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let mut level: Vec<Hash> = headers
        .iter()
        .map(|header| tlog_tiles::record_hash(header))
        .collect();
    // A tree has as many inner nodes as leaves, less one.
    while level.len() > 1 {
        let pairs = level.chunks(2);
        level = pairs
            .map(|pair| match pair {
                [left, right] => tlog_tiles::node_hash(*left, *right),
                [alone] => *alone,
                _ => Hash([0; 32]),
            })
            .collect();
    }
    let proving = begin.elapsed() + signing;
    let records = number(headers.len() as u64);
    report.row(
        &format!(
            "durable records, root {}",
            level.first().ok_or("no records")?
        ),
        Unit::Micros,
        took.as_secs_f64() * 1e6 / records,
        (
            "without hashing and signing",
            took.saturating_sub(proving).as_secs_f64() * 1e6 / records,
        ),
        Goal::Times(COST_MAX),
    );
    Ok(())
}

/// Verifies an export on one core.
fn speed(
    report: &mut Report,
    journal: &FileJournal,
    agent: Option<&AgentId>,
) -> Result<(), Failed> {
    let mut bytes = Vec::new();
    export(journal, agent, &mut bytes)?;
    let key = journal.log_id().parse()?;
    let begin = Instant::now();
    let verified = verify(BufReader::new(bytes.as_slice()), Some(&key), None)?;
    let rate = number(verified.records) / begin.elapsed().as_secs_f64();
    let what = agent.map_or("a whole log", |_| "one agent's");
    report.row(
        &format!(
            "records verified, {what}, {:.0} bytes each",
            number(bytes.len() as u64) / number(verified.records)
        ),
        Unit::PerSecond,
        rate,
        ("the goal", RECORDS_PER_SECOND),
        if agent.is_none() {
            Goal::Share(1.0)
        } else {
            Goal::None
        },
    );
    Ok(())
}
