//! Reading one partition: always what a look at every record would find.

use super::*;

fn filtered(journal: &FileJournal, partition: &PartitionId, from: u64) -> Vec<Record> {
    let all = journal.read(Position(from)).unwrap().map(Result::unwrap);
    all.filter(|record| record.header.partition == *partition)
        .collect()
}

fn of(journal: &FileJournal, partition: &PartitionId, from: u64) -> Vec<Record> {
    let read = journal.read_partition(partition, Position(from)).unwrap();
    read.map(Result::unwrap).collect()
}

#[track_caller]
fn agree(journal: &FileJournal, partitions: &[PartitionId]) {
    let size = journal.durable().borrow().size();
    for partition in partitions {
        for from in [0, 1, size / 3, size / 2, size - 1, size, size + 5] {
            assert_eq!(
                of(journal, partition, from),
                filtered(journal, partition, from),
                "{partition} from {from}"
            );
        }
    }
}

/// A log of many segments in which one partition is rare, two are not, and one ended long ago.
fn scattered(dir: &Path) -> Vec<PartitionId> {
    let journal = open(dir);
    let [early, rare] = ["early", "rare"].map(|name| PartitionId(std::borrow::Cow::Borrowed(name)));
    settle(&journal, append(&journal, &early, &["{}".into()]).last);
    for n in 0..120 {
        let partition = if n % 2 == 0 { &A } else { &B };
        let payloads: Vec<_> = (0..2)
            .map(|i| format!("{{\"n\":{n},\"i\":\"{}\"}}", "x".repeat(3000 + i)))
            .collect();
        append(&journal, partition, &payloads);
        let last = append(&journal, partition, &["{}".into()]).last;
        settle(&journal, last);
        if n % 50 == 20 {
            settle(&journal, append(&journal, &rare, &["{}".into()]).last);
        }
    }
    agree(&journal, &[A, B, early.clone(), rare.clone()]);
    vec![
        A,
        B,
        early,
        rare,
        PartitionId(std::borrow::Cow::Borrowed("never")),
    ]
}

#[test]
fn a_partition_is_read_as_it_was_written_now_and_after_reopening() {
    let dir = fast_dir();
    let partitions = scattered(dir.path());
    assert!(segments(dir.path()).len() > 4, "{:?}", segments(dir.path()));
    agree(&open(dir.path()), &partitions);
}

#[test]
fn runs_that_are_missing_damaged_or_of_another_log_are_made_anew() {
    let dir = fast_dir();
    let partitions = scattered(dir.path());
    let runs = dir.path().join("runs");
    agree(&open(dir.path()), &partitions);
    let mut stored: Vec<_> = fs::read_dir(&runs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    stored.sort();
    assert!(stored.len() > 3, "{stored:?}");
    let mut bytes = fs::read(&stored[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&stored[0], bytes).unwrap();
    fs::copy(&stored[2], &stored[1]).unwrap();
    fs::remove_file(&stored[2]).unwrap();
    agree(&open(dir.path()), &partitions);
    fs::remove_dir_all(&runs).unwrap();
    agree(&open(dir.path()), &partitions);
}

#[test]
fn damage_in_a_partition_is_told_and_damage_elsewhere_does_not_hide_it() {
    let dir = fast_dir();
    let partitions = scattered(dir.path());
    let path = &segments(dir.path())[1];
    let mut bytes = fs::read(path).unwrap();
    // In the midst of a payload, of which the segment is full.
    let at = bytes.windows(64).rposition(|w| w == [b'x'; 64]).unwrap();
    bytes[at] = b'y';
    fs::write(path, bytes).unwrap();
    let journal = open(dir.path());
    let failed = |partition| {
        let read = journal.read_partition(partition, Position(0)).unwrap();
        read.filter_map(Result::err).count()
    };
    assert_eq!(failed(&partitions[0]) + failed(&partitions[1]), 1);
    assert_eq!(failed(&partitions[2]) + failed(&partitions[3]), 0);
}
