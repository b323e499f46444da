//! A full disk: a small tmpfs, so these need root. Without it they say that they were skipped.

use std::io::Write as _;
use std::process::Command;

use super::*;

/// A mounted tmpfs of one MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            writeln!(std::io::stderr(), "SKIPPED: a tmpfs cannot be mounted here").unwrap();
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_refuses_new_work_keeps_what_it_took_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let (dir, filler) = (disk.0.path().join("journal"), disk.0.path().join("filler"));
    let journal = open(&dir);
    journal.admission().unwrap();
    // Fill what is left beside the active segment and the spare.
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let payload = "x".repeat(20_000);
    let mut last = Position(0);
    let mut refused_admission_at = None;
    let error = loop {
        match journal.append(&A, journal.next_seq(&A), vec![record("test", &payload)]) {
            Ok(appended) => last = appended.last,
            Err(AppendError::Busy { .. }) => {}
            Err(error) => break error,
        }
        settle(&journal, last);
        // Whoever allocates the next segment is given the time to find that it does not fit.
        if !dir.join("log/spare").exists() {
            wait_until(|| journal.admission().is_err() || dir.join("log/spare").exists());
        }
        if journal.admission().is_err() {
            refused_admission_at.get_or_insert(last);
        }
    };
    assert!(matches!(error, AppendError::ReadOnly(_)), "{error}");
    // Progress still fitted when new work was refused already.
    assert!(refused_admission_at.is_some_and(|at| at < last));
    assert!(journal.durable().borrow().failed.is_none());
    // A smaller record still fits.
    settle(&journal, append(&journal, &A, &["{}".into()]).last);
    drop(journal);

    let journal = open(&dir);
    assert!(journal.admission().is_err());
    assert_eq!(read_all(&journal).unwrap().len() as u64, last.0 + 2);
    fs::remove_file(&filler).unwrap();
    wait_until(|| journal.admission().is_ok());
    settle(&journal, append(&journal, &A, &[payload]).last);
    assert_eq!(read_all(&journal).unwrap().len() as u64, last.0 + 3);
}
