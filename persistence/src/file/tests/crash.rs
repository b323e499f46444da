//! What is left after a crash at any point: the acknowledged records, whole groups, nothing else.

use super::*;

/// A journal of four acknowledged groups, and what the file of its segment became by one more group of five.
struct Crash {
    dir: tempfile::TempDir,
    before: PathBuf,
    after: PathBuf,
    acked: Vec<Record>,
    all: Vec<Record>,
    /// Where the last group lies in the segment's file.
    from: usize,
    to: usize,
}

fn crash() -> Crash {
    let dir = fast_dir();
    let (live, before, after) = (
        dir.path().join("live"),
        dir.path().join("before"),
        dir.path().join("after"),
    );
    let journal = open(&live);
    fill(&journal, 4);
    let acked = read_all(&journal).unwrap();
    copy_dir(&live, &before);
    let payloads: Vec<_> = (0..5).map(|n| format!("{{\"last\":{n}}}")).collect();
    settle(&journal, append(&journal, &A, &payloads).last);
    let all = read_all(&journal).unwrap();
    drop(journal);
    copy_dir(&live, &after);
    let [old, new] = [&before, &after].map(|dir| fs::read(&segments(dir)[0]).unwrap());
    let from = old.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let to = new.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    assert!(from.is_multiple_of(8) && to.is_multiple_of(8));
    assert!((acked.len(), all.len()) == (12, 17));
    Crash {
        dir,
        before,
        after,
        acked,
        all,
        from,
        to,
    }
}

impl Crash {
    /// A copy of one of the states, in which `change` has been done to the segment.
    fn state(&self, state: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let copy = self.dir.path().join("copy");
        if copy.exists() {
            fs::remove_dir_all(&copy).unwrap();
        }
        copy_dir(state, &copy);
        let path = &segments(&copy)[0];
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        copy
    }
}

#[test]
fn a_write_cut_at_any_byte_leaves_exactly_what_was_acknowledged() {
    let crash = crash();
    let new = fs::read(&segments(&crash.after)[0]).unwrap();
    for cut in crash.from..=crash.to {
        let dir = crash.state(&crash.before, |bytes| {
            bytes[crash.from..cut].copy_from_slice(&new[crash.from..cut]);
        });
        match try_open(&dir) {
            Ok(journal) => {
                let expected = if cut == crash.to {
                    &crash.all
                } else {
                    &crash.acked
                };
                assert_eq!(&read_all(&journal).unwrap(), expected, "cut at {cut}");
                // The log goes on from there, and is whole when it is opened again.
                let last = append(&journal, &A, &["{}".into()]).last;
                assert_eq!(last.0, expected.len() as u64);
                settle(&journal, last);
                drop(journal);
                assert_eq!(read_all(&open(&dir)).unwrap().len(), expected.len() + 1);
            }
            // No disk cuts within eight bytes; there a torn end cannot be told from a flipped bit.
            Err(OpenError::Corrupt { .. }) => assert!(cut > crash.to - 8 && cut < crash.to),
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
}

#[test]
fn sectors_written_out_of_order_are_an_unfinished_write() {
    let crash = crash();
    let new = fs::read(&segments(&crash.after)[0]).unwrap();
    let first = crash.from / 512 * 512;
    let sectors: Vec<_> = (first..crash.to).step_by(512).collect();
    assert!(sectors.len() > 3);
    for missing in sectors {
        let dir = crash.state(&crash.before, |bytes| {
            bytes[crash.from..crash.to].copy_from_slice(&new[crash.from..crash.to]);
            bytes[missing.max(crash.from)..(missing + 512).min(crash.to)].fill(0);
        });
        assert_eq!(read_all(&open(&dir)).unwrap(), crash.acked);
    }
}

#[test]
fn a_file_cut_short_before_the_acknowledgement_loses_the_unfinished_group_only() {
    let crash = crash();
    let new = fs::read(&segments(&crash.after)[0]).unwrap();
    for len in (crash.from..crash.to).step_by(61) {
        let dir = crash.state(&crash.before, |bytes| {
            bytes.truncate(len);
            bytes[crash.from..].copy_from_slice(&new[crash.from..len]);
        });
        let journal = open(&dir);
        assert_eq!(read_all(&journal).unwrap(), crash.acked);
        drop(journal);
        assert_eq!(
            fs::metadata(&segments(&dir)[0]).unwrap().len(),
            SEGMENT_BYTES_MIN
        );
    }
}

#[test]
fn an_acknowledged_group_is_never_cut() {
    let crash = crash();
    for cut in crash.from..crash.to {
        // The tail mark was written after the sync.
        let dir = crash.state(&crash.after, |bytes| bytes[cut..].fill(0));
        assert!(
            matches!(try_open(&dir), Err(OpenError::Corrupt { .. })),
            "cut at {cut}"
        );
    }
    let dir = crash.state(&crash.after, |bytes| bytes.truncate(crash.from));
    assert!(matches!(try_open(&dir), Err(OpenError::Corrupt { .. })));
}

#[test]
fn after_a_failed_sync_the_journal_takes_nothing_and_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 2);
    let acked = read_all(&journal).unwrap();
    journal
        .shared
        .faults
        .fail_sync
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let lost = append(&journal, &A, &["{}".into()]).last;
    let durable = journal.durable();
    wait_until(|| durable.borrow().failed.is_some());
    assert!(!durable.borrow().covers(lost));
    let error = journal
        .append(&A, journal.next_seq(&A), vec![record("test", "{}")])
        .unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)));
    assert!(matches!(
        journal.checkpoint(),
        Err(CheckpointError::Failed(_))
    ));
    assert_eq!(read_all(&journal).unwrap(), acked);
    drop(journal);
    assert!(read_all(&open(dir.path())).unwrap().starts_with(&acked));
}

#[test]
fn an_interrupted_erasure_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    settle(
        &journal,
        append(&journal, &A, &["{\"s\":\"secret\"}".into()]).last,
    );
    drop(journal);
    let (mut list, _) = ErasedFile::open(&dir.path().join("erased"))
        .unwrap()
        .unwrap();
    list.add(&[0]).unwrap();
    drop(list);
    let journal = open(dir.path());
    assert_eq!(journal.get(Position(0)).unwrap().unwrap().body, None);
    let bytes = fs::read(&segments(dir.path())[0]).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[test]
fn an_interrupted_rotation_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 2);
    let acked = read_all(&journal).unwrap();
    drop(journal);
    // The head of the next segment was being written into the spare, and an allocation was under way.
    let spare = dir.path().join("log/spare");
    let mut bytes = fs::read(&spare).unwrap();
    bytes[..100].fill(0x11);
    fs::write(&spare, bytes).unwrap();
    fs::write(dir.path().join("log/.tmpXYZ"), b"half").unwrap();
    let journal = open(dir.path());
    assert_eq!(read_all(&journal).unwrap(), acked);
    for _ in 0..8 {
        settle(&journal, append(&journal, &A, &["x".repeat(30_000)]).last);
    }
    drop(journal);
    assert!(segments(dir.path()).len() > 1);
    assert_eq!(read_all(&open(dir.path())).unwrap().len(), acked.len() + 8);
}
