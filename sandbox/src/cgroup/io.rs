//! How fast a sandbox reads from and writes to disks.
//!
//! The kernel counts for each block device, so the devices behind the directories that a sandbox may use are looked up. Some
//! file systems have none: what lies in memory, on other machines, or on several disks as one.
//!
//! Version 1 counts only what a process reads and what it writes past the page cache; version 2 also what the kernel writes
//! for it later. There the group lies in a hierarchy of its own, which nobody enters who has no such limit: entering costs
//! time at each start.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::group::write;
use super::{Ability, Group, Hierarchies};
use crate::probe::{CgroupKind, Controller};

/// Rounds in which members are moved into a group that was made while they run: each round finds only what was born in the
/// one before.
const ROUNDS_MAX: u32 = 100;

/// A limit for the trial; nothing runs under it.
const TRIAL_BYTES_PER_SECOND: u64 = 1 << 30;

/// Two trials of one process, as tests have them, do not get into each other's way.
static TRIALS: AtomicU32 = AtomicU32::new(0);

const NO_DEVICE: &str = "the data directory lies on no single block device";
const DEVICE_REMEDY: &str =
    "put the data directory on a file system that has a disk or partition for itself (ext4, xfs)";

/// The files of version 1, for reading and writing.
const V1_FILES: [&str; 2] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
];

/// The block devices behind these paths, as the kernel numbers them; whole ones, as only they can be limited.
pub(crate) fn devices<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let mut found: Vec<String> = paths.into_iter().filter_map(device).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn device(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok()?.dev();
    let number = format!(
        "{}:{}",
        rustix::fs::major(number),
        rustix::fs::minor(number)
    );
    let about = PathBuf::from("/sys/dev/block").join(&number);
    if !about.join("partition").exists() {
        return about.exists().then_some(number);
    }
    let disk = fs::canonicalize(about).ok()?;
    let number = fs::read_to_string(disk.parent()?.join("dev")).ok()?;
    Some(number.trim().to_owned())
}

/// Whether the kernel lets such a limit be set on the devices behind the data directory, found by doing it.
pub(crate) fn trial(host: &Hierarchies, data: &Path) -> Controller {
    let mut controller = host.controller(Ability::Io);
    let Some(place) = host.get(Ability::Io) else {
        return controller;
    };
    let devices = devices([data]);
    let mut fail = |detail: String, remedy: &str| {
        controller.finding.works = false;
        controller.finding.detail = detail;
        controller.finding.remedy = Some(remedy.to_owned());
    };
    if devices.is_empty() {
        fail(NO_DEVICE.to_owned(), DEVICE_REMEDY);
        return controller;
    }
    let number = TRIALS.fetch_add(1, Ordering::Relaxed);
    let name = format!(".io-{}-{number}", std::process::id());
    let path = place.parent.join(name);
    let tried = fs::create_dir(&path).and_then(|()| {
        let set = limit(place.kind, &path, &devices, Some(TRIAL_BYTES_PER_SECOND));
        fs::remove_dir(&path)?;
        set
    });
    if let Err(error) = tried {
        let remedy = "use a kernel with CONFIG_BLK_DEV_THROTTLING";
        fail(format!("the kernel refuses it: {error}"), remedy);
    }
    controller
}

/// Sets the limit of a group, or takes it away.
fn limit(kind: CgroupKind, path: &Path, devices: &[String], bytes: Option<u64>) -> io::Result<()> {
    for device in devices {
        if kind == CgroupKind::V2 {
            let text = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
            write(path, "io.max", format!("{device} rbps={text} wbps={text}"))?;
            continue;
        }
        for file in V1_FILES {
            // Zero takes it away.
            write(path, file, format!("{device} {}", bytes.unwrap_or(0)))?;
        }
    }
    Ok(())
}

impl Group {
    /// Lets all processes together read and write at most so many bytes a second each way; without a number as many as they
    /// can. False when no group or no device can be had.
    pub(crate) fn limit_io(&self, bytes: Option<u64>) -> io::Result<bool> {
        let Some((kind, path)) = self.place(Ability::Io) else {
            return Ok(false);
        };
        if self.devices.is_empty() {
            return Ok(false);
        }
        if bytes.is_some() {
            self.enter_io(path)?;
        } else if !path.is_dir() {
            return Ok(true);
        }
        limit(kind, path, &self.devices, bytes)?;
        Ok(true)
    }

    /// Makes the group when it is not there yet, and moves everybody in.
    fn enter_io(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            // Whoever made it may not have got everybody in.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            answer => answer?,
        }
        for _ in 0..ROUNDS_MAX {
            let inside = fs::read_to_string(path.join("cgroup.procs"))?;
            let outside = self.members().into_iter().filter(|pid| {
                let pid = pid.to_string();
                !inside.lines().any(|line| line == pid)
            });
            let outside: Vec<i32> = outside.collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match write(path, "cgroup.procs", pid) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    answer => answer?,
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_has_no_device_and_one_device_counts_once() {
        assert_eq!(
            devices([Path::new("/proc"), Path::new("/no/such/path")]),
            Vec::<String>::new()
        );
        let twice = devices([Path::new("/"), Path::new("/")]);
        assert!(twice.len() <= 1, "{twice:?}");
    }
}
