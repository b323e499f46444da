//! Damage is told, never passed over.

use super::*;

/// What a journal says when everything is asked of it; `None` when it refuses anywhere.
fn testimony(dir: &Path) -> Option<(Vec<Record>, String)> {
    let journal = try_open(dir).ok()?;
    let records = read_all(&journal).ok()?;
    let note = journal.checkpoint().ok()?.note;
    for record in &records {
        journal
            .inclusion_proof(record.header.position, records.len() as u64)
            .ok()?;
    }
    Some((records, note))
}

#[test]
fn a_flipped_bit_anywhere_is_told_or_harmless() {
    let dir = fast_dir();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let journal = open(&live);
    settle(
        &journal,
        append(&journal, &A, &["{\"n\":1}".into(), "{\"n\":2}".into()]).last,
    );
    settle(&journal, append(&journal, &B, &["{\"n\":3}".into()]).last);
    journal.erase(&[Position(1)]).unwrap();
    journal.checkpoint().unwrap();
    drop(journal);
    let truth = testimony(&live).unwrap();
    let used = fs::read(&segments(&live)[0])
        .unwrap()
        .iter()
        .rposition(|&byte| byte != 0)
        .unwrap()
        + 1;
    let segment = Path::new("log").join(segment::file_name(0));
    let mut refused = 0;
    for name in [
        segment.as_path(),
        Path::new("tail"),
        Path::new("erased"),
        Path::new("hashes"),
        Path::new("checkpoint"),
    ] {
        let len = fs::read(live.join(name)).unwrap().len().min(used + 16);
        for at in 0..len {
            // The second state has no tail mark, as after a power cut before it was ever written back.
            for without_tail in [false, true] {
                // With the mark it is easier to tell, so a sample is enough.
                if !without_tail && !at.is_multiple_of(5) {
                    continue;
                }
                if copy.exists() {
                    fs::remove_dir_all(&copy).unwrap();
                }
                copy_dir(&live, &copy);
                let mut bytes = fs::read(copy.join(name)).unwrap();
                bytes[at] ^= 1 << (at % 8);
                fs::write(copy.join(name), bytes).unwrap();
                if without_tail {
                    fs::remove_file(copy.join("tail")).unwrap();
                }
                match testimony(&copy) {
                    Some(told) => assert_eq!(told, truth, "{} at {at}", name.display()),
                    None => refused += 1,
                }
            }
        }
    }
    assert!(refused > used, "{refused} of {used}");
}

#[test]
fn damage_in_an_older_segment_is_told_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for _ in 0..16 {
        settle(&journal, append(&journal, &A, &["x".repeat(30_000)]).last);
    }
    drop(journal);
    let path = &segments(dir.path())[1];
    let good = fs::read(path).unwrap();
    for at in [600, 20_000, 60_000] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
        let told = try_open(dir.path()).map(|journal| read_all(&journal).is_err());
        assert!(told.unwrap_or(true), "byte {at}");
    }
    fs::write(path, &good[..50_000]).unwrap();
    let error = read_all(&open(dir.path())).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    fs::write(path, good).unwrap();
    assert_eq!(read_all(&open(dir.path())).unwrap().len(), 16);
}

#[test]
fn a_missing_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for _ in 0..16 {
        settle(&journal, append(&journal, &A, &["x".repeat(30_000)]).last);
    }
    drop(journal);
    let all = segments(dir.path());
    assert!(all.len() >= 4);
    let aside = dir.path().join("aside");
    for path in [&all[0], &all[1], &all[all.len() - 1]] {
        fs::rename(path, &aside).unwrap();
        assert!(
            matches!(try_open(dir.path()), Err(OpenError::Corrupt { .. })),
            "{}",
            path.display()
        );
        fs::rename(&aside, path).unwrap();
    }
    for path in &all {
        fs::remove_file(path).unwrap();
    }
    assert!(matches!(
        try_open(dir.path()),
        Err(OpenError::Corrupt { .. })
    ));
}

#[test]
fn a_log_behind_or_beside_its_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (live, old) = (dir.path().join("live"), dir.path().join("old"));
    let journal = open(&live);
    fill(&journal, 2);
    copy_dir(&live, &old);
    fill(&journal, 1);
    journal.checkpoint().unwrap();
    drop(journal);
    // The old state comes back, and with it an old tail mark; only the checkpoint knows better.
    fs::copy(live.join("checkpoint"), old.join("checkpoint")).unwrap();
    let error = try_open(&old).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::BehindCheckpoint {
                checkpoint: 9,
                size: 6
            }
        ),
        "{error}"
    );
    // As many records, but others.
    fs::remove_file(old.join("checkpoint")).unwrap();
    let journal = open(&old);
    fill(&journal, 1);
    drop(journal);
    fs::copy(live.join("checkpoint"), old.join("checkpoint")).unwrap();
    assert!(matches!(try_open(&old), Err(OpenError::Corrupt { .. })));
    // More records, but others.
    fs::remove_file(old.join("checkpoint")).unwrap();
    let journal = open(&old);
    fill(&journal, 1);
    drop(journal);
    fs::copy(live.join("checkpoint"), old.join("checkpoint")).unwrap();
    let told = try_open(&old).map(|journal| journal.checkpoint().is_err());
    assert!(told.unwrap_or(true));
}

#[test]
fn newer_formats_and_other_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let other = mesh_messages::identity::SigningKey::from_secret(&[8; 32]);
    let error = FileJournal::open(dir.path(), &options(), other, clock()).unwrap_err();
    assert!(matches!(error, OpenError::OtherLog { .. }), "{error}");
    let path = &segments(dir.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    fs::write(path, bytes).unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    let small = FileJournalOptions { segment_bytes: 1 };
    let error = FileJournal::open(dir.path(), &small, key(), clock()).unwrap_err();
    assert!(matches!(error, OpenError::SegmentBytes(1)));
}

#[test]
fn damaged_snapshots_give_way_to_older_ones() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 2);
    let snapshot = |next: u64| Snapshot {
        next: Position(next),
        next_seq: next,
        state: vec![7; 100],
    };
    let early = journal.save_snapshot(&B, &snapshot(7)).unwrap_err();
    assert!(matches!(
        early,
        SnapshotError::NotDurable { durable: 6, .. }
    ));
    assert_eq!(journal.load_snapshot(&B).unwrap(), None);
    for next in 1..=4 {
        journal.save_snapshot(&B, &snapshot(next)).unwrap();
    }
    assert_eq!(journal.load_snapshot(&B).unwrap(), Some(snapshot(4)));
    assert_eq!(journal.load_snapshot(&A).unwrap(), None);
    let files = dir.path().join("snapshots/tasks%2f0");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 2);
    let newest = files.join(format!("{:020}.snap", 4));
    let good = fs::read(&newest).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&newest, bytes).unwrap();
        assert_eq!(
            journal.load_snapshot(&B).unwrap(),
            Some(snapshot(3)),
            "byte {at}"
        );
    }
    fs::write(&newest, &good[..50]).unwrap();
    fs::write(files.join(format!("{:020}.snap", 3)), b"").unwrap();
    assert_eq!(journal.load_snapshot(&B).unwrap(), None);
    // One partition's snapshot is no other's.
    fs::create_dir(dir.path().join("snapshots/agents")).unwrap();
    fs::write(
        dir.path()
            .join("snapshots/agents")
            .join(format!("{:020}.snap", 4)),
        good,
    )
    .unwrap();
    assert_eq!(journal.load_snapshot(&A).unwrap(), None);
}

#[test]
fn a_lost_sector_with_sound_groups_behind_it_is_told_also_without_the_tail_mark() {
    let dir = fast_dir();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let journal = open(&live);
    let group = [format!("{{\"text\":\"{}\"}}", "x".repeat(4096))];
    // How much of the segment is in use after each group.
    let mut ends = Vec::new();
    for _ in 0..3 {
        settle(&journal, append(&journal, &A, &group).last);
        let bytes = fs::read(&segments(&live)[0]).unwrap();
        ends.push(bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    }
    drop(journal);
    let first = ends[0].next_multiple_of(512);
    let sectors: Vec<_> = (first..ends[1] - 512).step_by(512).collect();
    assert!(sectors.len() > 4);
    for sector in sectors {
        if copy.exists() {
            fs::remove_dir_all(&copy).unwrap();
        }
        copy_dir(&live, &copy);
        fs::remove_file(copy.join("tail")).unwrap();
        let path = &segments(&copy)[0];
        let mut bytes = fs::read(path).unwrap();
        bytes[sector..sector + 512].fill(0);
        fs::write(path, &bytes).unwrap();
        let refused = try_open(&copy).unwrap_err();
        assert!(
            matches!(refused, OpenError::Corrupt { .. }),
            "{sector}: {refused:?}"
        );
        assert_eq!(fs::read(path).unwrap(), bytes, "nothing was changed");
    }
}
