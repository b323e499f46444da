//! Tests of the embedded journal against real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_messages::{PartitionId, Position, Record};

use super::*;
use crate::testing::{clock, key, record};
use crate::verify_checkpoint;

mod crash;
mod damage;
mod partition;
mod space;

const A: PartitionId = PartitionId::from_static("agents");
const B: PartitionId = PartitionId::from_static("tasks/0");

fn options() -> FileJournalOptions {
    FileJournalOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
    }
}

fn try_open(dir: &Path) -> Result<FileJournal, OpenError> {
    FileJournal::open(dir, &options(), key(), clock())
}

/// Opens it, also when it was closed a moment ago: until a program that another test starts has come to its `exec`, the
/// fork of this process holds every lock that was held when it was made.
#[track_caller]
fn open(dir: &Path) -> FileJournal {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match try_open(dir) {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Appends records with such payloads as one group.
fn append(journal: &FileJournal, partition: &PartitionId, payloads: &[String]) -> Appended {
    loop {
        let records = payloads
            .iter()
            .map(|payload| record("test", payload))
            .collect();
        match journal.append(partition, journal.next_seq(partition), records) {
            Ok(appended) => return appended,
            // The next segment is just being allocated.
            Err(AppendError::Busy { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until everything appended is durable; there is a bound so that a bug cannot hang the tests.
#[track_caller]
fn settle(journal: &FileJournal, last: Position) {
    let durable = journal.durable();
    wait_until(|| durable.borrow().covers(last));
}

#[track_caller]
fn wait_until(reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !reached() {
        assert!(Instant::now() < deadline, "not reached in time");
        std::thread::yield_now();
    }
}

/// Appends `count` groups of three to two partitions, each durable before the next.
fn fill(journal: &FileJournal, count: usize) {
    for n in 0..count {
        let partition = if n.is_multiple_of(2) { &A } else { &B };
        let payloads: Vec<_> = (0..3).map(|i| format!("{{\"n\":{n},\"i\":{i}}}")).collect();
        settle(journal, append(journal, partition, &payloads).last);
    }
}

fn read_all(journal: &FileJournal) -> Result<Vec<Record>, ReadError> {
    journal.read(Position(0))?.collect()
}

/// A directory in memory where there is one: the exhaustive tests open thousands of journals, and sync each.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Copies a journal's directory, as a crash leaves it.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The segments of a journal, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
    paths.sort();
    paths
}

#[test]
fn records_survive_reopening_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let filler = "x".repeat(10_000);
    for n in 0..40 {
        let partition = if n % 4 == 0 { &A } else { &B };
        append(
            &journal,
            partition,
            &[format!("\"{n}{filler}\""), "{}".into()],
        );
    }
    settle(&journal, Position(79));
    let before = read_all(&journal).unwrap();
    let root = journal.root(80).unwrap();
    assert_eq!(before.len(), 80);
    drop(journal);
    assert!(segments(dir.path()).len() >= 4);

    let journal = open(dir.path());
    assert_eq!(read_all(&journal).unwrap(), before);
    assert_eq!((journal.next_seq(&A), journal.next_seq(&B)), (20, 60));
    assert_eq!(journal.root(80).unwrap(), root);
    for (position, record) in before.iter().enumerate() {
        let position = Position(position as u64);
        assert_eq!(record.header.position, position);
        assert_eq!(journal.get(position).unwrap().as_ref(), Some(record));
    }
    assert!(journal.get(Position(80)).unwrap().is_none());
    let times: Vec<_> = before
        .iter()
        .map(|r| (r.header.time, r.header.lc))
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    let of_a: Vec<_> = journal
        .read_partition(&A, Position(10))
        .unwrap()
        .map(|r| r.unwrap().header.seq)
        .collect();
    assert_eq!(of_a, (4..20).collect::<Vec<_>>());
    // The clock of this run begins at the same time again; records may not.
    settle(&journal, append(&journal, &A, &["{}".into()]).last);
    let last = journal.get(Position(80)).unwrap().unwrap();
    assert!((last.header.time, last.header.lc) > times[79]);
}

#[test]
fn stale_and_impossible_appends_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 1);
    let refused = |seq, records| journal.append(&A, seq, records).unwrap_err();
    let fenced = refused(2, vec![record("test", "{}")]);
    assert!(matches!(
        fenced,
        AppendError::Fenced {
            expected: 2,
            current: 3,
            ..
        }
    ));
    assert!(matches!(refused(3, vec![]), AppendError::Empty));
    let long = "x".repeat(32 * 1024 + 1);
    assert!(matches!(
        refused(3, vec![record("test", &long)]),
        AppendError::TooLarge { .. }
    ));
    // Each fits, all of them do not fit a segment of this size.
    let many = || record("test", &"x".repeat(32 * 1024));
    let error = refused(3, vec![many(), many(), many(), many()]);
    assert!(matches!(
        error,
        AppendError::TooLarge { what: "append", .. }
    ));
    let mut binary = record("test", "");
    binary.payload = vec![0xff];
    let error = refused(3, vec![record("test", "{}"), binary]);
    assert!(matches!(error, AppendError::NotUtf8 { index: 1 }));
    assert_eq!(journal.next_seq(&A), 3);
    settle(&journal, append(&journal, &A, &["{}".into()]).last);
    assert_eq!(read_all(&journal).unwrap().len(), 4);
}

#[test]
fn a_full_queue_refuses_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileJournalOptions {
        segment_bytes: SEGMENT_BYTES_MAX,
    };
    let journal = FileJournal::open(dir.path(), &options, key(), clock()).unwrap();
    let payload = "x".repeat(32 * 1024);
    let held = journal.shared.faults.hold_sync.lock().unwrap();
    let mut last = Position(0);
    let error = loop {
        match journal.append(&A, journal.next_seq(&A), vec![record("test", &payload)]) {
            Ok(appended) => last = appended.last,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Busy { .. }));
    assert!(last.0 >= (QUEUE_BYTES_MAX / (40 * 1024)) as u64);
    drop(held);
    settle(&journal, last);
    settle(&journal, append(&journal, &A, &["{}".into()]).last);
}

#[test]
fn one_process_at_a_time_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let pid = std::process::id();
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { pid: Some(found), .. } if found == pid));
    drop(journal);
    open(dir.path());
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("journal");
    let journal = open(&dir);
    fill(&journal, 1);
    journal.checkpoint().unwrap();
    journal
        .save_snapshot(
            &A,
            &Snapshot {
                next: Position(1),
                next_seq: 1,
                state: vec![],
            },
        )
        .unwrap();
    let mut open_dirs = vec![dir];
    while let Some(path) = open_dirs.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            expected,
            "{}",
            path.display()
        );
        if metadata.is_dir() {
            open_dirs.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
}

#[test]
fn readers_and_writers_work_at_the_same_time() {
    const EACH: u64 = 150;
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let partitions = ["p0", "p1", "p2"].map(PartitionId::from_static);
    std::thread::scope(|scope| {
        for partition in &partitions {
            scope.spawn(|| {
                for seq in 0..EACH {
                    let payload = format!("{{\"seq\":{seq},\"pad\":\"{}\"}}", "y".repeat(900));
                    // A new segment may just be being allocated.
                    while let Err(error) =
                        journal.append(partition, seq, vec![record("test", &payload)])
                    {
                        assert!(matches!(error, AppendError::Busy { .. }), "{error}");
                        std::thread::yield_now();
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut seen = 0;
            while seen < EACH * 3 {
                let records = journal.read(Position(seen)).unwrap();
                for record in records {
                    assert_eq!(record.unwrap().header.position, Position(seen));
                    seen += 1;
                }
            }
        });
    });
    for partition in &partitions {
        let seqs: Vec<_> = journal
            .read_partition(partition, Position(0))
            .unwrap()
            .map(|record| record.unwrap().header.seq)
            .collect();
        assert_eq!(seqs, (0..EACH).collect::<Vec<_>>());
    }
    assert!(segments(dir.path()).len() > 2);
}

#[test]
fn erased_payloads_are_gone_and_proofs_stay() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    settle(
        &journal,
        append(&journal, &A, &["{\"s\":\"secret-1\"}".into(), "{}".into()]).last,
    );
    settle(
        &journal,
        append(&journal, &A, &["{\"s\":\"secret-2\"}".into()]).last,
    );
    let root = journal.root(3).unwrap();
    assert!(matches!(
        journal.erase(&[Position(3)]),
        Err(EraseError::NotDurable(Position(3)))
    ));
    journal.erase(&[Position(0), Position(2)]).unwrap();
    journal.erase(&[Position(0)]).unwrap();
    let check = |journal: &FileJournal| {
        let bodies: Vec<_> = read_all(journal)
            .unwrap()
            .into_iter()
            .map(|r| r.body.is_some())
            .collect();
        assert_eq!(bodies, [false, true, false]);
        assert_eq!(journal.root(3).unwrap(), root);
        let bytes = fs::read(&segments(dir.path())[0]).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"secret-"));
    };
    check(&journal);
    drop(journal);
    check(&open(dir.path()));
}

#[test]
fn checkpoints_only_grow() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.checkpoint().unwrap().size, 0);
    fill(&journal, 2);
    let first = journal.checkpoint().unwrap();
    assert_eq!((first.size, first.root), (6, journal.root(6).unwrap()));
    assert_eq!(journal.checkpoint().unwrap(), first);
    let claim = verify_checkpoint(&first.note, &key().public()).unwrap();
    assert_eq!((claim.size, claim.root), (first.size, first.root));
    drop(journal);
    let journal = open(dir.path());
    assert_eq!(journal.checkpoint().unwrap(), first);
    fill(&journal, 1);
    let second = journal.checkpoint().unwrap();
    assert_eq!(second.size, 9);
    let proof = journal.consistency_proof(6, 9).unwrap();
    tlog_tiles::check_tree(&proof, 9, second.root, 6, first.root).unwrap();
}

#[test]
fn lost_hashes_of_the_tree_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 20);
    let (root, proof) = (
        journal.root(60).unwrap(),
        journal.inclusion_proof(Position(7), 50).unwrap(),
    );
    drop(journal);
    let path = dir.path().join("hashes");
    let good = fs::read(&path).unwrap();
    for damage in 0..3 {
        let mut bytes = good.clone();
        match damage {
            0 => bytes.clear(),
            1 => bytes.truncate(100),
            _ => bytes.fill(1),
        }
        fs::write(&path, bytes).unwrap();
        let journal = open(dir.path());
        // What opening wrote again is damaged once more, while the journal is open.
        if damage == 2 {
            fs::write(&path, vec![2; good.len()]).unwrap();
        }
        assert_eq!(journal.root(60).unwrap(), root);
        assert_eq!(journal.inclusion_proof(Position(7), 50).unwrap(), proof);
        assert!(matches!(
            journal.root(61),
            Err(ProofError::OutOfRange { .. })
        ));
        drop(journal);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn an_erasure_that_failed_is_made_up_for_before_the_next_one() {
    use std::sync::atomic::Ordering;
    let dir = fast_dir();
    let journal = open(dir.path());
    let payloads: Vec<String> = (0..4).map(|n| format!("\"secret {n}\"")).collect();
    settle(&journal, append(&journal, &A, &payloads).last);
    let holds = |n: usize| {
        let secret = payloads[n].as_bytes();
        let log = fs::read(&segments(dir.path())[0]).unwrap();
        log.windows(secret.len()).any(|bytes| bytes == secret)
    };
    let faults = &journal.shared.faults;
    faults.fail_overwrite.store(true, Ordering::SeqCst);
    let refused = journal.erase(&[Position(1)]).unwrap_err();
    assert!(matches!(refused, EraseError::Io { .. }), "{refused:?}");
    assert!(matches!(
        journal.erase(&[Position(2)]),
        Err(EraseError::Io { .. })
    ));
    assert!(holds(1) && holds(2));
    faults.fail_overwrite.store(false, Ordering::SeqCst);
    journal.erase(&[Position(3)]).unwrap();
    assert!(holds(0) && !holds(1) && holds(2) && !holds(3));
}
