//! The store against real files, with a projector that counts records by kind and keeps the last payload.

use std::fs;
use std::path::Path;

use mesh_messages::{PartitionId, RecordBody};

use super::generation::open_sled;
use super::*;
use crate::testing::{memory_journal, record};

const PARTITION: PartitionId = PartitionId::from_static("p");
const SECOND: Duration = Duration::from_secs(30);

struct Counter {
    version: u32,
}

impl Projector for Counter {
    fn version(&self) -> u32 {
        self.version
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        Box::new(Count::default())
    }
}

/// Puts off to the end of a pass what it counts.
#[derive(Default)]
struct Count(std::collections::BTreeMap<Vec<u8>, u64>);

impl Pass for Count {
    fn finish(self: Box<Self>, view: &mut dyn View) -> Result<(), ProjectError> {
        for (kind, more) in self.0 {
            let count = view
                .get("counts", &kind)?
                .map_or(0, |count| u64::from_be_bytes(count.try_into().unwrap()));
            view.put("counts", &kind, (count + more).to_be_bytes().to_vec());
        }
        Ok(())
    }

    fn project(&mut self, record: &Record, view: &mut dyn View) -> Result<usize, ProjectError> {
        let kind = record.header.kind.as_bytes();
        *self.0.entry(kind.to_vec()).or_default() += 1;
        let RecordBody { payload, .. } = record.body.clone().unwrap();
        let taken = payload.len();
        view.put("payloads", &record.header.position.0.to_be_bytes(), payload);
        if record.header.position.0 >= 10 {
            view.delete("payloads", &(record.header.position.0 - 10).to_be_bytes());
        }
        Ok(taken)
    }
}

fn open(dir: &Path, journal: &dyn Journal, version: u32) -> ProjectionStore {
    let size = journal.durable().borrow().size();
    ProjectionStore::open(dir, version, journal.log_id(), size).unwrap()
}

fn fill(journal: &dyn Journal, count: u64) {
    for _ in 0..count {
        let seq = journal.next_seq(&PARTITION);
        let kind = if seq.is_multiple_of(3) {
            "third"
        } else {
            "other"
        };
        journal
            .append(
                &PARTITION,
                seq,
                vec![record(kind, &format!("{{\"n\":{seq}}}"))],
            )
            .unwrap();
    }
}

fn catch_up_all(store: &ProjectionStore, journal: &dyn Journal) {
    let size = journal.durable().borrow().size();
    catch_up(store, journal, &Counter { version: 1 }, size).unwrap();
}

#[track_caller]
fn check(store: &ProjectionStore, records: u64) {
    assert_eq!(store.next_position().unwrap(), records);
    let count = store.get("counts", b"third").unwrap().unwrap();
    assert_eq!(
        u64::from_be_bytes(count.try_into().unwrap()),
        records.div_ceil(3)
    );
    let page = store.scan("payloads", b"", None, 100).unwrap();
    let first = records.saturating_sub(10);
    assert_eq!(page.entries.len() as u64, records - first);
    assert_eq!(page.entries[0].0, first.to_be_bytes());
    assert_eq!(page.entries[0].1, format!("{{\"n\":{first}}}").into_bytes());
}

#[test]
fn a_closed_store_goes_on_where_it_was() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 700);
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    check(&store, 700);
    drop(store);
    fill(&journal, 5);
    let store = open(dir.path(), &journal, 1);
    check(&store, 700);
    catch_up_all(&store, &journal);
    check(&store, 705);
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 10);
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.scan("payloads", b"", cursor.as_deref(), 3).unwrap();
        assert!(page.entries.len() <= 3);
        seen.extend(
            page.entries
                .into_iter()
                .map(|(key, _)| u64::from_be_bytes(key.try_into().unwrap())),
        );
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    let range = store
        .range("payloads", &2_u64.to_be_bytes(), &5_u64.to_be_bytes(), 100)
        .unwrap();
    assert_eq!(range.entries.len(), 3);
    assert_eq!(
        store.scan("count", b"", None, 100).unwrap(),
        Page::default()
    );
}

#[test]
fn another_version_a_shorter_log_or_another_log_begin_anew() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 20);
    let fresh = || {
        let store = open(dir.path(), &journal, 1);
        catch_up_all(&store, &journal);
        check(&store, 20);
    };
    fresh();
    assert_eq!(open(dir.path(), &journal, 2).next_position().unwrap(), 0);
    fresh();
    let store = ProjectionStore::open(dir.path(), 1, journal.log_id(), 19).unwrap();
    assert_eq!(store.next_position().unwrap(), 0);
    drop(store);
    fresh();
    let store = ProjectionStore::open(dir.path(), 1, "did:key:other", 20).unwrap();
    assert_eq!(store.next_position().unwrap(), 0);
}

/// Every file of the newest generation.
fn store_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for generation in fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if generation
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("generation")
        {
            files.extend(
                fs::read_dir(generation)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    files.retain(|path| path.is_file());
    files
}

#[test]
fn a_destroyed_store_is_rebuilt() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 300);
    drop(open(dir.path(), &journal, 1));
    for attempt in 0..8_u8 {
        let store = open(dir.path(), &journal, 1);
        catch_up_all(&store, &journal);
        check(&store, 300);
        drop(store);
        // As after a crash: nothing says that it was closed in order.
        fs::remove_file(dir.path().join(CLEAN_NAME)).unwrap();
        for file in store_files(dir.path()) {
            let mut bytes = fs::read(&file).unwrap();
            if attempt == 0 {
                bytes.fill(0xff);
            } else {
                let at = bytes.len() * usize::from(attempt) / 9;
                bytes[at..].fill(attempt);
            }
            fs::write(&file, bytes).unwrap();
        }
        let store = open(dir.path(), &journal, 1);
        catch_up_all(&store, &journal);
        check(&store, 300);
    }
}

const CLEAN_NAME: &str = "clean";

#[test]
fn entries_that_went_missing_are_noticed_after_a_crash() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 30);
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    drop(store);
    fs::remove_file(dir.path().join(CLEAN_NAME)).unwrap();
    {
        let db = open_sled(dir.path(), 0).unwrap();
        db.remove(b"counts\0third").unwrap().unwrap();
        db.flush().unwrap();
    }
    let store = open(dir.path(), &journal, 1);
    assert_eq!(store.claimed_position().unwrap(), 30);
    store.check_entries();
    assert_eq!(store.next_position().unwrap(), 0);
    catch_up_all(&store, &journal);
    check(&store, 30);
}

#[test]
fn a_store_that_was_not_closed_in_order_shows_nothing_before_it_is_checked() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 30);
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    drop(store);
    fs::remove_file(dir.path().join(CLEAN_NAME)).unwrap();
    // Closed unchecked, it still counts as not closed in order.
    for _ in 0..2 {
        let store = open(dir.path(), &journal, 1);
        assert!(matches!(
            store.next_position(),
            Err(ProjectionError::Unchecked)
        ));
        assert!(store.get("counts", b"third").is_err());
        assert!(store.scan("counts", b"", None, 1).is_err());
    }
    let store = open(dir.path(), &journal, 1);
    store.check_entries();
    check(&store, 30);
}

#[test]
fn a_store_that_is_begun_anew_is_never_seen_with_less_than_before() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 30);
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    store.reset();
    let rebuilding = |store: &ProjectionStore| {
        let got = store.get("counts", b"third");
        let page = store.scan("counts", b"", None, 1);
        matches!(got, Err(ProjectionError::Rebuilding))
            && matches!(page, Err(ProjectionError::Rebuilding))
    };
    assert!(rebuilding(&store));
    assert_eq!(store.next_position().unwrap(), 0);
    catch_up(&store, &journal, &Counter { version: 1 }, 29).unwrap();
    assert!(store.next_position().unwrap() == 30 || rebuilding(&store));
    catch_up_all(&store, &journal);
    check(&store, 30);
}

#[test]
fn entries_beside_a_position_that_knows_of_none_are_noticed() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    fill(&journal, 30);
    let store = open(dir.path(), &journal, 1);
    drop(store);
    let position = || open_sled(dir.path(), 0).unwrap().get(b"\0meta").unwrap();
    let unused = position().unwrap();
    let store = open(dir.path(), &journal, 1);
    catch_up_all(&store, &journal);
    drop(store);
    fs::remove_file(dir.path().join(CLEAN_NAME)).unwrap();
    {
        let db = open_sled(dir.path(), 0).unwrap();
        db.insert(b"\0meta", unused).unwrap().unwrap();
        db.flush().unwrap();
    }
    let store = open(dir.path(), &journal, 1);
    assert!(store.get("counts", b"third").is_err());
    catch_up_all(&store, &journal);
    check(&store, 30);
}

#[tokio::test]
async fn records_are_gathered_unless_somebody_waits_for_them() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), Arc::new(memory_journal()));
    let store = Arc::new(open(dir.path(), &*journal, 1));
    let _following = tokio::spawn(follow(
        Arc::clone(&store),
        Arc::clone(&journal) as Arc<dyn Journal>,
        Arc::new(Counter { version: 1 }),
    ));
    // As many waits as would take a minute if each were for the end of the gathering.
    let begun = std::time::Instant::now();
    for size in 1..=240 {
        fill(&*journal, 1);
        store.wait_for(size, SECOND).await.unwrap();
    }
    let took = begun.elapsed();
    assert!(took < 240 * GATHER_MAX / 2, "{took:?}");
    // Nobody waits, and they come all the same.
    fill(&*journal, 2);
    let come = async {
        while store.next_position().unwrap() < 242 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SECOND, come).await.unwrap();
    check(&store, 242);
}

#[test]
fn a_batch_that_is_not_committed_changes_nothing() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), memory_journal());
    let store = open(dir.path(), &journal, 1);
    let mut batch = store.begin();
    batch.put("t", b"k", b"v".to_vec());
    assert_eq!(batch.get("t", b"k").unwrap().unwrap(), b"v");
    drop(batch);
    assert_eq!(store.get("t", b"k").unwrap(), None);
    assert_eq!(store.next_position().unwrap(), 0);
}

#[tokio::test]
async fn followers_see_what_becomes_durable_and_waiters_are_woken() {
    let (dir, journal) = (tempfile::tempdir().unwrap(), Arc::new(memory_journal()));
    let store = Arc::new(open(dir.path(), &*journal, 1));
    let following = tokio::spawn(follow(
        Arc::clone(&store),
        Arc::clone(&journal) as Arc<dyn Journal>,
        Arc::new(Counter { version: 1 }),
    ));
    fill(&*journal, 3);
    store.wait_for(3, SECOND).await.unwrap();
    check(&store, 3);
    journal.hold();
    fill(&*journal, 2);
    assert_eq!(
        store.wait_for(4, Duration::from_millis(20)).await,
        Err(WaitError::Timeout)
    );
    journal.release();
    store.wait_for(5, SECOND).await.unwrap();
    check(&store, 5);
    journal.fail_next_sync();
    fill(&*journal, 1);
    let error = following.await.unwrap().unwrap_err();
    assert!(matches!(error, FollowError::Journal(_)));
    assert_eq!(store.next_position().unwrap(), 5);
}
