//! A running sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cgroup::Group;
use crate::image::Image;
use crate::launch::Inner;
use crate::plan as control;
use crate::plan::{Level, SandboxReport};
use crate::spec::Limits;
use crate::wire::{self, Control};

/// Longest wait for processes that were told to stop; on a machine in trouble the rest stop when they get to run.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Pause between two looks at them.
const STOP_LOOK: Duration = Duration::from_millis(5);

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitStatus {
    /// What it returned, when it returned.
    pub code: Option<i32>,
    /// The signal that ended it, when one did.
    pub signal: Option<i32>,
    /// Whether the kernel ended any of its processes for want of memory.
    pub oom: bool,
}

impl ExitStatus {
    /// Whether it returned zero.
    #[must_use]
    pub const fn success(&self) -> bool {
        matches!(self.code, Some(0))
    }
}

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time so far, in milliseconds.
    pub cpu_ms: u64,
    /// Memory now, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads now, the two of the sandbox itself included.
    pub pids: u64,
}

/// What came of changing one limit of a running sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSet {
    /// Which.
    pub control: control::Control,
    /// Why it does not hold now; absent when the kernel holds it from here on.
    pub problem: Option<String>,
}

/// How often a sandbox ran into its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Strain {
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// Processes and threads that it was refused.
    pub refused_tasks: u64,
    /// Periods of processor time in which it wanted to run.
    pub periods: u64,
    /// Those of them in which its share was used up.
    pub throttled: u64,
    /// Bytes in its home, when that is an image in which no more fits; else 0.
    #[serde(default)]
    pub home_full: u64,
}

impl Strain {
    pub(crate) fn of(group: &Group) -> Self {
        let (periods, throttled) = group.throttled().unwrap_or_default();
        Self {
            oom_kills: group.oom_kills(),
            refused_tasks: group.refused_tasks(),
            periods,
            throttled,
            home_full: 0,
        }
    }
}

/// What control over a living sandbox goes through.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) control: OwnedFd,
    /// Pid 1 of the sandbox, by descriptor: ids are reused.
    pub(crate) init: OwnedFd,
    pub(crate) init_pid: u32,
    pub(crate) group: Group,
    /// Its home, where that is an image, as long as it lives.
    pub(crate) home: Mutex<Option<Image>>,
    /// What it was kept from in all its life, once it has ended: its groups are gone then.
    pub(crate) strain: OnceLock<Strain>,
}

impl Shared {
    pub(crate) fn home(&self) -> MutexGuard<'_, Option<Image>> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has been kept from so far.
    pub(crate) fn strained(&self) -> Strain {
        Strain {
            home_full: self.home().as_ref().and_then(Image::full).unwrap_or(0),
            ..Strain::of(&self.group)
        }
    }
}

/// A running sandbox. Dropping it ends the sandbox.
#[derive(Debug)]
pub struct Child {
    /// The agent's standard input; never blocks. Dropping it is end of file for the agent.
    pub stdin: Option<OwnedFd>,
    /// The agent's standard output; never blocks.
    pub stdout: Option<OwnedFd>,
    /// The agent's standard error; never blocks.
    pub stderr: Option<OwnedFd>,
    /// The proxy's listener within the sandbox's network, where [`crate::NetworkAccess::Proxy`] was planned. Whoever
    /// accepts on it serves the agent; it blocks.
    pub listener: Option<OwnedFd>,
    handle: ChildHandle,
    report: SandboxReport,
}

/// Control over a running sandbox. Cheap to clone; it does not keep the sandbox alive.
#[derive(Debug, Clone)]
pub struct ChildHandle {
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<ExitStatus>>,
    // Keeps the spawner thread, whose end would be the helper's.
    launcher: Arc<Inner>,
}

impl Child {
    pub(crate) fn new(
        launcher: Arc<Inner>,
        shared: Arc<Shared>,
        stdio: [OwnedFd; 3],
        ended: watch::Receiver<Option<ExitStatus>>,
        report: SandboxReport,
    ) -> Self {
        let [stdin, stdout, stderr] = stdio.map(Some);
        let handle = ChildHandle {
            shared,
            ended,
            launcher,
        };
        Self {
            stdin,
            stdout,
            stderr,
            listener: None,
            handle,
            report,
        }
    }

    /// Control over it from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ChildHandle {
        self.handle.clone()
    }

    /// What is enforced in it.
    #[must_use]
    pub const fn report(&self) -> &SandboxReport {
        &self.report
    }
}

impl std::ops::Deref for Child {
    type Target = ChildHandle;

    fn deref(&self) -> &ChildHandle {
        &self.handle
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        self.handle.kill().ok();
    }
}

impl ChildHandle {
    pub(crate) fn launcher(&self) -> &Inner {
        &self.launcher
    }

    pub(crate) fn group(&self) -> &Group {
        &self.shared.group
    }

    /// Pid 1 of the sandbox as the host sees it. For people to look at; never signal it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.init_pid
    }

    /// Waits for the end. When it returns, no process of the sandbox is alive and its groups are gone.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        let answer = ended.wait_for(Option::is_some).await;
        // The publisher is the conductor thread, which publishes before it ends unless it panicked.
        let status = answer.ok().and_then(|status| *status);
        status.unwrap_or(ExitStatus {
            code: None,
            signal: Some(libc::SIGKILL),
            oom: false,
        })
    }

    /// How it ended, when it has.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Asks the agent to end: `SIGTERM` to its first process. No error when it already has.
    ///
    /// # Errors
    /// When the sandbox does not take messages although it lives.
    pub fn terminate(&self) -> io::Result<()> {
        self.tell(&Control::Terminate)
    }

    /// Sends a signal to its first process. No error when that has ended.
    ///
    /// # Errors
    /// When the sandbox does not take messages although it lives.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.tell(&Control::Signal(signal.as_raw()))
    }

    /// Ends every process of the sandbox. Returns at once; [`ChildHandle::wait`] says when it is done. May be called
    /// any number of times.
    ///
    /// # Errors
    /// When the kernel refuses the signal.
    pub fn kill(&self) -> io::Result<()> {
        let killed = match pidfd_send_signal(&self.shared.init, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        self.shared.group.release();
        killed
    }

    /// Stops every process; [`ChildHandle::thaw`] lets them go on. Answers who enforces it: without a control
    /// group the processes get `SIGSTOP`, and one being born meanwhile may slip through.
    ///
    /// # Errors
    /// When the kernel did not stop them in time, or the sandbox is gone.
    pub fn freeze(&self) -> io::Result<Level> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`ChildHandle::freeze`].
    pub fn thaw(&self) -> io::Result<Level> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<Level> {
        if self.shared.group.freeze(frozen)? {
            return Ok(Level::Kernel);
        }
        if frozen {
            self.stop_all()?;
        } else {
            self.tell(&Control::Continue)?;
        }
        Ok(Level::Advisory)
    }

    /// Stops by signals, and returns when all have stopped: one that has its signal does no more work, but may have to wait
    /// for a processor to take it.
    fn stop_all(&self) -> io::Result<()> {
        let until = Instant::now() + STOP_MAX;
        loop {
            self.tell(&Control::Stop)?;
            let pid1 = self.shared.init_pid;
            let runs = |pid: &u32| {
                *pid != pid1 && state(*pid).is_some_and(|state| !"TtZX".contains(state))
            };
            if !family(pid1).iter().any(runs) || Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(STOP_LOOK);
        }
    }

    /// Changes the limits of processor, memory, processes and use of disks while it runs, each on its own: one that cannot be
    /// changed keeps none of the others from it. Those that are `None` stay as they are, but for that of disks,
    /// which is taken away.
    #[must_use]
    pub fn set_limits(&self, limits: &Limits) -> Vec<LimitSet> {
        let set = |(control, answer): (control::Control, io::Result<bool>)| LimitSet {
            control,
            problem: match answer {
                Ok(true) => None,
                Ok(false) => {
                    Some("no control group holds it; it holds from the next start on".to_owned())
                }
                Err(error) => Some(format!("the kernel refused it: {error}")),
            },
        };
        let group = &self.shared.group;
        let mut answers = group.limit_each(limits);
        if limits.io_bytes_per_second.is_none() {
            // The one limit that there may be none of: taken away, or never set.
            let answer = match group.limit_io(None) {
                // Where the kernel knows no such limit, there is none to take away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                answer => answer.map(|_| true),
            };
            answers.push((control::Control::Io, answer));
        }
        if let (Some(home), Some(bytes)) = (self.shared.home().as_ref(), limits.disk_bytes) {
            answers.push((control::Control::Disk, home.set_bytes(bytes).map(|()| true)));
        }
        answers.into_iter().map(set).collect()
    }

    /// What it has been kept from so far, as far as a control group counts it; after its end, in all its life.
    #[must_use]
    pub fn strain(&self) -> Strain {
        let last = self.shared.strain.get().copied();
        last.unwrap_or_else(|| self.shared.strained())
    }

    /// What it uses now. From the control groups, else summed over the processes that live.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let group = &self.shared.group;
        let from_group = (group.cpu_time(), group.memory(), group.tasks());
        let summed = match from_group {
            (Some(_), Some(_), Some(_)) => Usage {
                cpu_ms: 0,
                memory_bytes: 0,
                pids: 0,
            },
            _ => summed(self.shared.init_pid),
        };
        let (cpu, memory, pids) = from_group;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Usage {
            cpu_ms: cpu.map_or(summed.cpu_ms, millis),
            memory_bytes: memory.unwrap_or(summed.memory_bytes),
            pids: pids.unwrap_or(summed.pids),
        }
    }

    /// Bytes on the disk of this directory that its processes hold in open files without a name, which nobody finds by
    /// looking there. What a process of meshd's own user hides from it (`PR_SET_DUMPABLE`), or maps without having it
    /// open, is not seen.
    ///
    /// # Errors
    /// When the directory is not there.
    pub fn nameless_bytes(&self, directory: &Path) -> io::Result<u64> {
        let device = fs::metadata(directory)?.dev();
        Ok(nameless(&family(self.shared.init_pid), device))
    }

    fn tell(&self, message: &Control) -> io::Result<()> {
        match wire::send(self.shared.control.as_fd(), message, &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            answer => answer,
        }
    }
}

/// Pid 1 and all its descendants, as far as they can be seen.
fn family(init: u32) -> Vec<u32> {
    /// More processes than any sandbox should have; a bound for the walk, not a limit.
    const WALK_MAX: usize = 65_536;
    let mut family = Vec::new();
    let mut open = vec![init];
    while let Some(pid) = open.pop() {
        if family.len() >= WALK_MAX || Pid::from_raw(pid.cast_signed()).is_none() {
            break;
        }
        family.push(pid);
        // A child is that of a thread, and any thread may have some.
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let pids = children.split_whitespace();
            open.extend(pids.filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    family
}

/// Adds up pid 1 and all its descendants.
fn summed(init: u32) -> Usage {
    let page = rustix::param::page_size() as u64;
    let tick = 1000 / rustix::param::clock_ticks_per_second().max(1);
    let mut usage = Usage {
        cpu_ms: 0,
        memory_bytes: 0,
        pids: 0,
    };
    for (ticks, threads, pages) in family(init).into_iter().filter_map(stat) {
        usage.cpu_ms += ticks * tick;
        usage.memory_bytes += pages * page;
        usage.pids += threads;
    }
    usage
}

/// Bytes on the disk of files that have no name any more and that these processes hold open, on this device.
fn nameless(family: &[u32], device: u64) -> u64 {
    /// The kernel counts blocks of this size, whatever the file system's are.
    const BLOCK_BYTES: u64 = 512;
    let open = family.iter().flat_map(|pid| {
        // Of another's, or of one that is just gone: nothing to be seen.
        let entries = fs::read_dir(format!("/proc/{pid}/fd"));
        entries.into_iter().flatten().flatten()
    });
    let files: BTreeMap<u64, u64> = open
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(|meta| meta.is_file() && meta.nlink() == 0 && meta.dev() == device)
        .map(|meta| (meta.ino(), meta.blocks() * BLOCK_BYTES))
        .collect();
    files.into_values().sum()
}

/// What a process does just now, in the kernel's letter.
fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Processor ticks (its own and its ended children's), threads and resident pages of a process.
fn stat(pid: u32) -> Option<(u64, u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = (11..=14).filter_map(number).sum();
    Some((ticks, number(17)?, number(21)?))
}
