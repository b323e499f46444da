//! One sandbox's groups, one in each hierarchy in use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{Ability, Hierarchies};
use crate::plan::Control;
use crate::probe::CgroupKind;
use crate::spec::Limits;

/// Longest wait for the kernel to finish what was asked of a group.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks at a group that version 1 gives no notice of.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The period over which processor time is dealt out, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// The groups of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    places: BTreeMap<Ability, (CgroupKind, PathBuf)>,
    /// The disks that it may use, for the limit on how fast.
    #[serde(default)]
    pub(super) devices: Vec<String>,
}

impl Group {
    /// Makes a group called `name` in every hierarchy in use, but for one that could only limit the use of these `devices`:
    /// it is made when there is such a limit.
    pub(crate) fn create(host: &Hierarchies, name: &str, devices: Vec<String>) -> io::Result<Self> {
        let mut group = Self {
            places: BTreeMap::new(),
            devices,
        };
        for ability in Ability::ALL {
            let Some(hierarchy) = host.get(ability) else {
                continue;
            };
            let path = hierarchy.parent.join(name);
            if ability != Ability::Io
                && !group.directories().contains(&path.as_path())
                && let Err(error) = fs::create_dir(&path)
            {
                group.remove().ok();
                return Err(error);
            }
            group.places.insert(ability, (hierarchy.kind, path));
        }
        Ok(group)
    }

    /// The group that lies in one directory, as a sweep finds it.
    pub(crate) fn found(kind: CgroupKind, path: PathBuf) -> Self {
        let places = Ability::ALL
            .into_iter()
            .map(|ability| (ability, (kind, path.clone())))
            .collect();
        Self {
            places,
            devices: Vec::new(),
        }
    }

    /// A group in no hierarchy.
    #[cfg(test)]
    pub(crate) const fn found_nowhere() -> Self {
        Self {
            places: BTreeMap::new(),
            devices: Vec::new(),
        }
    }

    fn directories(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = self
            .places
            .values()
            .map(|(_, path)| path.as_path())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    pub(super) fn place(&self, ability: Ability) -> Option<(CgroupKind, &Path)> {
        self.places
            .get(&ability)
            .map(|(kind, path)| (*kind, path.as_path()))
    }

    /// Whether this directory of the group is there: one that only limits the use of disks may not be.
    fn is_made(&self, path: &Path) -> bool {
        let others = self
            .places
            .iter()
            .any(|(ability, (_, place))| *ability != Ability::Io && place == path);
        others || path.is_dir()
    }

    /// Moves a process in.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.directories()
            .into_iter()
            .filter(|path| self.is_made(path))
            .try_for_each(|path| write(path, "cgroup.procs", pid))
    }

    /// Lets the group pay for a process's memory from now on. False when no group accounts for memory.
    pub(crate) fn charge(&self, pid: u32) -> io::Result<bool> {
        let Some((_, path)) = self.place(Ability::Memory) else {
            return Ok(false);
        };
        write(path, "cgroup.procs", pid)?;
        Ok(true)
    }

    /// Sets those limits that this machine enforces; the plan has reported the others.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        self.limit_each(limits)
            .into_iter()
            .try_for_each(|(_, set)| set.map(drop))
    }

    /// Sets each limit that is given, and says of each whether a group holds it.
    pub(crate) fn limit_each(&self, limits: &Limits) -> Vec<(Control, io::Result<bool>)> {
        let on = |ability, set: &dyn Fn(CgroupKind, &Path) -> io::Result<()>| {
            self.place(ability)
                .map_or(Ok(false), |(kind, path)| set(kind, path).map(|()| true))
        };
        let mut done = Vec::new();
        if let Some(bytes) = limits.memory_bytes {
            let set = |kind, path: &Path| limit_memory(kind, path, bytes);
            done.push((Control::Memory, on(Ability::Memory, &set)));
        }
        if let Some(millicores) = limits.cpu_millicores {
            let set = |kind, path: &Path| limit_cpu(kind, path, millicores);
            done.push((Control::Cpu, on(Ability::Cpu, &set)));
        }
        if let Some(pids) = limits.pids {
            // The two helper processes are counted too, and are not the agent's.
            let set = |_, path: &Path| write(path, "pids.max", u64::from(pids) + 2);
            done.push((Control::Pids, on(Ability::Pids, &set)));
        }
        if let Some(bytes) = limits.io_bytes_per_second {
            done.push((Control::Io, self.limit_io(Some(bytes))));
        }
        done
    }

    /// How often the kernel refused a process or thread for the limit.
    pub(crate) fn refused_tasks(&self) -> u64 {
        self.place(Ability::Pids)
            .and_then(|(_, path)| keyed(path, "pids.events", "max"))
            .unwrap_or(0)
    }

    /// Periods in which it wanted to run, and those of them in which it had used up its share before their end.
    pub(crate) fn throttled(&self) -> Option<(u64, u64)> {
        let (_, path) = self.place(Ability::Cpu)?;
        Some((
            keyed(path, "cpu.stat", "nr_periods")?,
            keyed(path, "cpu.stat", "nr_throttled")?,
        ))
    }

    /// How many processes the kernel ended for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.place(Ability::Memory).map_or(0, |(kind, path)| {
            let file = if kind == CgroupKind::V2 {
                "memory.events"
            } else {
                "memory.oom_control"
            };
            keyed(path, file, "oom_kill").unwrap_or(0)
        })
    }

    /// Processor time used so far.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        match self.place(Ability::CpuAccount)? {
            (CgroupKind::V2, path) => {
                keyed(path, "cpu.stat", "usage_usec").map(Duration::from_micros)
            }
            (_, path) => number(path, "cpuacct.usage").map(Duration::from_nanos),
        }
    }

    /// Memory in use now, in bytes.
    pub(crate) fn memory(&self) -> Option<u64> {
        let (kind, path) = self.place(Ability::Memory)?;
        number(
            path,
            if kind == CgroupKind::V2 {
                "memory.current"
            } else {
                "memory.usage_in_bytes"
            },
        )
    }

    /// Processes and threads now.
    pub(crate) fn tasks(&self) -> Option<u64> {
        self.place(Ability::Pids)
            .and_then(|(_, path)| number(path, "pids.current"))
    }

    /// Stops or resumes every process at once, and waits until it is so. False when no group can.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<bool> {
        let Some((kind, path)) = self.place(Ability::Freeze) else {
            return Ok(false);
        };
        let v2 = kind == CgroupKind::V2;
        let settled = || {
            if v2 {
                return keyed(path, "cgroup.events", "frozen") == Some(u64::from(frozen));
            }
            let state = fs::read_to_string(path.join("freezer.state")).unwrap_or_default();
            state.trim() == if frozen { "FROZEN" } else { "THAWED" }
        };
        if v2 {
            write(path, "cgroup.freeze", u8::from(frozen))?;
        } else {
            write(
                path,
                "freezer.state",
                if frozen { "FROZEN" } else { "THAWED" },
            )?;
        }
        if settle(settled) {
            Ok(true)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    /// Ends every process in the groups and waits until none is left.
    ///
    /// A process that is already dying counts as left until its parent has been told.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.end_all()?;
        let empty = || self.end_all().is_ok() && self.members().is_empty();
        if settle(empty) {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    fn end_all(&self) -> io::Result<()> {
        let unified = self
            .places
            .values()
            .find(|(kind, _)| *kind == CgroupKind::V2);
        if let Some((_, path)) = unified {
            // Missing before Linux 5.14; the walk below then does it.
            write(path, "cgroup.kill", 1).ok();
        }
        for pid in self.members() {
            end_member(pid, || self.members().contains(&pid))?;
        }
        self.release();
        Ok(())
    }

    /// Lets killed processes die: version 1 holds even those until they are thawed.
    pub(crate) fn release(&self) {
        if let Some((CgroupKind::V1, path)) = self.place(Ability::Freeze) {
            // Gone or never frozen is just as well.
            write(path, "freezer.state", "THAWED").ok();
        }
    }

    pub(super) fn members(&self) -> Vec<i32> {
        let mut members: Vec<i32> = self
            .directories()
            .into_iter()
            .filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Removes the groups, waiting for the kernel to let go of the dead.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.directories().into_iter().try_for_each(|path| {
            let mut answer = Ok(());
            let gone = settle(|| {
                answer = fs::remove_dir(path);
                !matches!(&answer, Err(error) if error.raw_os_error() == Some(libc::EBUSY))
            });
            match answer {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(_) if !gone => Err(io::ErrorKind::TimedOut.into()),
                answer => answer,
            }
        })
    }
}

/// Kills `pid` only when it still is what `check` says after it has been pinned down: ids are reused.
fn end_member(pid: i32, check: impl Fn() -> bool) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if !check() {
        return Ok(());
    }
    match pidfd_send_signal(&fd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn limit_cpu(kind: CgroupKind, path: &Path, millicores: u32) -> io::Result<()> {
    let quota = u64::from(millicores) * CPU_PERIOD_US / 1000;
    if kind == CgroupKind::V2 {
        return write(path, "cpu.max", format!("{quota} {CPU_PERIOD_US}"));
    }
    write(path, "cpu.cfs_period_us", CPU_PERIOD_US)?;
    write(path, "cpu.cfs_quota_us", quota)
}

fn limit_memory(kind: CgroupKind, path: &Path, bytes: u64) -> io::Result<()> {
    if kind == CgroupKind::V2 {
        write(path, "memory.max", bytes)?;
        // Absent without swap, and then there is nothing to limit.
        return optional(write(path, "memory.swap.max", 0));
    }
    // With swap counted, its limit may never be below the other: the order depends on the direction.
    let plain = || write(path, "memory.limit_in_bytes", bytes);
    let with_swap = || optional(write(path, "memory.memsw.limit_in_bytes", bytes));
    if plain().is_ok() {
        return with_swap();
    }
    with_swap()?;
    plain()
}

fn optional(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

/// Writes to a file that the kernel made, and never makes one.
pub(super) fn write(group: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    use std::io::Write;
    let mut open = fs::OpenOptions::new().write(true).open(group.join(file))?;
    open.write_all(value.to_string().as_bytes())
}

fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The number after `key` in a file of `key number` lines.
fn keyed(group: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Looks until `done` or the time is over.
fn settle(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > SETTLE_MAX {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until a descriptor is readable or its other end is gone; false when the time is over first.
pub(crate) fn wait_readable(fd: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
        let time = left
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
