//! Ends what an earlier run of meshd left, and nothing else.
//!
//! A sandbox dies with meshd by itself. This is for what the kernel could not end then: processes frozen by
//! a version 1 group, groups that were still busy, records.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Hierarchies, wait_readable};

/// Ending of the records' file names.
const SUFFIX: &str = ".sandbox.json";

/// Longest wait for one killed process.
const DEATH_MAX: Duration = Duration::from_secs(5);

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepReport {
    /// Processes that were still alive and were ended.
    pub killed: u64,
    /// Sandboxes whose remains were removed.
    pub removed: u64,
    /// What could not be removed, in words. The next sweep tries again.
    pub failed: Vec<String>,
}

/// A process, so that it can be told from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: u32,
    /// Ticks from boot to its start.
    started: u64,
}

/// What a later run needs to know about a living sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Ids and start times mean nothing in another boot.
    boot: String,
    processes: Vec<Identity>,
    group: Group,
}

/// The record of one living sandbox.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    entry: Entry,
}

impl Record {
    pub(crate) fn new(run_dir: &Path, name: &str, group: Group) -> Self {
        let entry = Entry {
            boot: boot(),
            processes: Vec::new(),
            group,
        };
        Self {
            path: run_dir.join(format!("{name}{SUFFIX}")),
            entry,
        }
    }

    /// Adds a process of the sandbox and writes the record.
    pub(crate) fn add(&mut self, pid: u32) -> io::Result<()> {
        let started = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        self.entry.processes.push(Identity { pid, started });
        // Whole or not at all: a sweep must never read half a record.
        let draft = self.path.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(&self.entry)?)?;
        fs::rename(&draft, &self.path)
    }

    /// Forgets a sandbox of which nothing is left.
    pub(crate) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a sandbox's record could not be removed");
        }
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Ends and removes the remains of every run but `current`.
pub(crate) fn sweep(run_dir: &Path, current: &str, hierarchies: &Hierarchies) -> SweepReport {
    let mut report = SweepReport::default();
    let foreign = |name: &str| !name.starts_with(&format!("{current}."));
    for path in files(run_dir) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !name.ends_with(SUFFIX) || !foreign(name) {
            continue;
        }
        match end(&path) {
            Ok(killed) => {
                report.killed += killed;
                report.removed += 1;
            }
            Err(error) => report.failed.push(format!("{}: {error}", path.display())),
        }
    }
    // Groups without a record: a run that died between the two.
    for hierarchy in hierarchies.parents() {
        for path in files(&hierarchy.parent) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if !path.is_dir() || name.starts_with('.') || !foreign(name) {
                continue;
            }
            let group = Group::found(hierarchy.kind, path.clone());
            match group.kill().and_then(|()| group.remove()) {
                Ok(()) => report.removed += 1,
                Err(error) => report.failed.push(format!("{}: {error}", path.display())),
            }
        }
    }
    report
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn end(path: &Path) -> io::Result<u64> {
    let entry: Entry = serde_json::from_slice(&fs::read(path)?)?;
    let mut killed = 0;
    if entry.boot == boot() {
        // The groups first: what version 1 has frozen cannot die.
        entry.group.release();
        // Pid 1 was recorded last; with it goes everything inside.
        for identity in entry.processes.iter().rev() {
            killed += u64::from(end_process(*identity)?);
        }
        entry.group.kill()?;
        entry.group.remove()?;
    }
    fs::remove_file(path)?;
    Ok(killed)
}

/// Ends a process if it still is the recorded one.
fn end_process(identity: Identity) -> io::Result<bool> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(false);
    };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    // The descriptor holds on to the process, so what is read now is about that process or says "gone".
    if start_time(identity.pid) != Some(identity.started) {
        return Ok(false);
    }
    if wait_readable(&fd, Some(Duration::ZERO))? {
        // Dead already; only its new parent has not collected it yet.
        return Ok(false);
    }
    match pidfd_send_signal(&fd, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    if wait_readable(&fd, Some(DEATH_MAX))? {
        Ok(true)
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> std::process::Child {
        Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn record(dir: &Path, name: &str, pid: u32) -> Record {
        let mut record = Record::new(dir, name, Group::found_nowhere());
        record.add(pid).unwrap();
        record
    }

    #[test]
    fn a_recorded_process_of_an_earlier_run_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        record(dir.path(), "old.a", child.id());
        let report = sweep(dir.path(), "new", &Hierarchies::default());
        let expected = SweepReport {
            killed: 1,
            removed: 1,
            failed: Vec::new(),
        };
        assert_eq!(report, expected);
        assert!(!child.wait().unwrap().success());
        assert!(files(dir.path()).is_empty());
    }

    /// daemon-16.
    #[test]
    fn a_stranger_with_a_recorded_id_survives() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        let mut record = record(dir.path(), "old.a", child.id());
        // The id as an earlier process had it.
        record.entry.processes[0].started -= 1;
        fs::write(&record.path, serde_json::to_vec(&record.entry).unwrap()).unwrap();
        let report = sweep(dir.path(), "new", &Hierarchies::default());
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive && report.killed == 0, "{report:?}");
    }

    #[test]
    fn records_of_another_boot_are_removed_without_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        let mut record = record(dir.path(), "old.a", child.id());
        record.entry.boot = "another".into();
        fs::write(&record.path, serde_json::to_vec(&record.entry).unwrap()).unwrap();
        let report = sweep(dir.path(), "new", &Hierarchies::default());
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            alive && report.killed == 0 && report.removed == 1,
            "{report:?}"
        );
    }

    #[test]
    fn the_current_run_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        record(dir.path(), "now.a", child.id());
        let report = sweep(dir.path(), "now", &Hierarchies::default());
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive && report == SweepReport::default(), "{report:?}");
    }
}
