//! What an instance is doing right now: written by its actor, read by everybody. Never journalled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use mesh_egress::Bounds;
use mesh_messages::agent::HealthLevel;
use mesh_messages::{AttemptNo, Epoch, InstanceNo, TaskId, Timestamp};
use mesh_sandbox::{ChildHandle, Level, Usage};

use super::policy::InstanceBounds;
use super::strain::Ledger;
use crate::operations::LogLine;

/// Lines of log kept per instance: enough to see why something died, little enough for a thousand instances.
pub const LOG_LINES_MAX: usize = 200;
/// Longest log line, in bytes; the rest is cut.
pub const LOG_LINE_BYTES_MAX: usize = 4096;

/// One instance, live.
#[derive(Debug, Default)]
pub struct InstanceLive {
    inner: Mutex<Inner>,
    // Counts on from one incarnation to the next.
    refused: Arc<AtomicU64>,
    // Whether its processes are to stand still.
    still: AtomicBool,
    // Held while they are made to, or get other limits.
    settling: Mutex<()>,
    // What its ways out are held to.
    egress: Arc<Bounds>,
    // What it was kept from.
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Inner {
    // A `command` instance has one for each task.
    processes: BTreeMap<u64, ChildHandle>,
    uid: Option<u32>,
    tasks: Vec<(TaskId, AttemptNo)>,
    last_activity: Option<Timestamp>,
    level: HealthLevel,
    // Why it gets no further work for now.
    drained: Option<String>,
    // CPU time and when it was read, for the rate between two readings.
    sample: Option<(Timestamp, u64)>,
    cpu: Option<f64>,
    limits: Option<InstanceBounds>,
    // What a policy set while it ran.
    wanted: Option<InstanceBounds>,
    // With which each process was started, or what it has got since.
    limited: BTreeMap<u64, InstanceBounds>,
    frozen: Option<Level>,
}

/// A reading of [`InstanceLive`].
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The first process that meshd started, as the host numbers it.
    pub pid: Option<u32>,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// What it has in hand.
    pub tasks: Vec<TaskId>,
    /// When it last said something.
    pub last_activity: Option<Timestamp>,
    /// Its messages that were refused, also those of the replica's earlier incarnations.
    pub refused: u64,
    /// How it is.
    pub level: HealthLevel,
    /// Megabytes.
    pub memory: Option<f64>,
    /// Percent of one core since the last reading but one.
    pub cpu: Option<f64>,
    /// Its limits, once it has a process.
    pub limits: Option<InstanceBounds>,
    /// Who holds its processes still, while they stand still.
    pub frozen: Option<Level>,
}

/// The shortest time between two readings of processor time that gives a rate worth showing.
const SAMPLE_MIN_MS: u128 = 200;

impl Inner {
    fn is_unsettled(&self) -> bool {
        let Some(wanted) = self.wanted else {
            return false;
        };
        let stale = |number| self.limited.get(number) != Some(&wanted);
        self.limits.is_some_and(|limits| limits != wanted) || self.processes.keys().any(stale)
    }
}

impl InstanceLive {
    /// The next incarnation of a replica whose refused messages are counted here.
    pub fn counting(refused: Arc<AtomicU64>) -> Self {
        Self {
            refused,
            ..Self::default()
        }
    }
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    /// A process of it runs from now on.
    pub fn add_process(&self, number: u64, process: ChildHandle, uid: Option<u32>) {
        self.with(|i| {
            i.processes.insert(number, process);
            i.uid = uid;
        });
    }
    /// The processes that meshd started for it and that run.
    pub(crate) fn processes(&self) -> Vec<ChildHandle> {
        let running = |process: &&ChildHandle| process.try_wait().is_none();
        self.with(|i| i.processes.values().filter(running).cloned().collect())
    }
    /// A process of it will start with these limits.
    pub(crate) fn plan_limits(&self, number: u64, limits: InstanceBounds) {
        self.with(|i| {
            i.limited.insert(number, limits);
            let limits = *i.limits.get_or_insert(limits);
            self.bound_egress(i.wanted.unwrap_or(limits));
        });
    }
    fn bound_egress(&self, limits: InstanceBounds) {
        if let Some(way_out) = limits.way_out {
            self.egress
                .set(way_out.connections, way_out.bytes_per_second);
        }
    }
    /// What all its ways out are held to together, now and whenever it changes.
    pub(crate) fn egress(&self) -> Arc<Bounds> {
        Arc::clone(&self.egress)
    }
    /// What was seen of the limits that it ran into.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Its processes that run, with the numbers that they have here.
    pub(crate) fn numbered(&self) -> Vec<(u64, ChildHandle)> {
        let running = |process: &ChildHandle| process.try_wait().is_none();
        self.with(|i| {
            let all = i.processes.iter().filter(|(_, process)| running(process));
            all.map(|(number, process)| (*number, process.clone()))
                .collect()
        })
    }
    /// Its limits, once it had a process.
    pub(crate) fn limits(&self) -> Option<InstanceBounds> {
        self.with(|i| i.limits)
    }
    /// Its limits are to be these, also those of a process that is only being started. Answers whether anything is to be done
    /// for it now; once its process runs, ask again.
    pub(crate) fn want_limits(&self, limits: InstanceBounds) -> bool {
        self.with(|i| {
            if i.wanted.is_none() && i.limits == Some(limits) {
                return false;
            }
            i.wanted = Some(limits);
            i.is_unsettled()
        })
    }
    /// Whether a process, or what is said of it, differs from the limits that are wanted.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.with(|i| i.is_unsettled())
    }
    /// Gives its processes the limits that were wanted last; blocks until the kernel has done it. `then` is told what they are
    /// from now on and what does not hold yet, in the order in which they changed.
    pub(crate) fn settle_limits(&self, then: impl FnOnce(InstanceBounds, Vec<String>)) {
        let _one_at_a_time = self
            .settling
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((limits, before, processes)) = self.with(|i| {
            let wanted = i.wanted.filter(|_| i.is_unsettled())?;
            let stale = i.limited.iter().filter(|(_, limits)| **limits != wanted);
            let running = stale.filter_map(|(number, _)| i.processes.get(number));
            let processes: Vec<ChildHandle> = running
                .filter(|process| process.try_wait().is_none())
                .cloned()
                .collect();
            for number in i.processes.keys() {
                i.limited.insert(*number, wanted);
            }
            self.bound_egress(wanted);
            Some((wanted, i.limits, processes))
        }) else {
            return;
        };
        let mut not_yet: Vec<String> = processes
            .iter()
            .flat_map(|process| process.set_limits(&limits.kernel))
            .filter_map(|set| Some(format!("{}: {}", set.control, set.problem?)))
            .collect();
        let disk = |bounds: InstanceBounds| bounds.kernel.disk_bytes;
        if !processes.is_empty() && before.is_some_and(|before| disk(before) != disk(limits)) {
            let text = "disk: a single file may be as large as before until the next start";
            not_yet.push(text.to_owned());
        }
        not_yet.sort();
        not_yet.dedup();
        // Whoever reads them may rely on them.
        self.with(|i| i.limits = Some(limits));
        then(limits, not_yet);
    }
    /// Gives one process, which has just started, the limits that were wanted meanwhile; blocks until the kernel has done it.
    /// That they changed is told by whoever settles those of the instance.
    pub(crate) fn settle_process(&self, number: u64) {
        let _one_at_a_time = self
            .settling
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((limits, process)) = self.with(|i| {
            let limits = i
                .wanted
                .filter(|wanted| i.limited.get(&number) != Some(wanted))?;
            let process = i.processes.get(&number)?.clone();
            i.limited.insert(number, limits);
            Some((limits, process))
        }) else {
            return;
        };
        for set in process.set_limits(&limits.kernel) {
            if let Some(problem) = set.problem {
                tracing::debug!(control = %set.control, problem, "a limit does not hold yet");
            }
        }
    }
    /// Whether its processes are to stand still from now on.
    pub(crate) fn want_frozen(&self, frozen: bool) {
        self.still.store(frozen, Ordering::Relaxed);
    }
    /// Whether they are.
    pub(crate) fn is_to_stand_still(&self) -> bool {
        self.still.load(Ordering::Relaxed)
    }
    /// Makes its processes stand still or go on, whichever was wanted last; answers by whom they are held then, the
    /// weakest of all. Blocks until the kernel has done it.
    pub(crate) fn settle_frozen(&self) -> Option<Level> {
        let _one_at_a_time = self
            .settling
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let wanted = self.still.load(Ordering::Relaxed);
        let act = |process: &ChildHandle| {
            if wanted {
                process.freeze()
            } else {
                process.thaw()
            }
        };
        let settle = |process: ChildHandle| {
            act(&process).unwrap_or_else(|error| {
                // One that has ended meanwhile stands still for good.
                tracing::debug!(%error, pid = process.pid(), "could not be frozen or thawed");
                Level::None
            })
        };
        let level = self.processes().into_iter().map(settle).min();
        self.with(|i| i.frozen = level.filter(|_| wanted));
        level
    }
    /// A process of it is gone, all of its tree.
    pub fn remove_process(&self, number: u64) {
        self.with(|i| {
            i.limited.remove(&number);
            i.processes.remove(&number)
        });
    }
    /// Ends whatever runs and waits until it is gone.
    pub(crate) async fn end_processes(&self) {
        let processes = self.with(|i| std::mem::take(&mut i.processes));
        for process in processes.values() {
            if let Err(error) = process.kill() {
                tracing::error!(%error, "cannot kill what a lost instance left");
            }
        }
        for process in processes.values() {
            process.wait().await;
        }
    }
    /// What it has in hand.
    pub fn set_tasks(&self, tasks: Vec<(TaskId, AttemptNo)>) {
        self.with(|i| i.tasks = tasks);
    }
    /// The attempts that it has in hand.
    pub fn attempts(&self) -> Vec<(TaskId, AttemptNo)> {
        self.with(|i| i.tasks.clone())
    }
    /// It said something.
    pub fn active(&self, at: Timestamp) {
        self.with(|i| i.last_activity = Some(at));
    }
    /// A message of it was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
    /// How it is from now on.
    pub(crate) fn set_level(&self, level: HealthLevel) {
        self.with(|i| i.level = level);
    }
    /// Whether it gets no further work for now, and why.
    pub(crate) fn drain(&self, why: Option<String>) {
        self.with(|i| i.drained = why);
    }
    /// Why it gets no further work for now.
    pub fn drained(&self) -> Option<String> {
        self.with(|i| i.drained.clone())
    }
    /// Everything at once, measured now.
    pub fn read(&self, now: Timestamp) -> Reading {
        self.with(|i| {
            let usage = i
                .processes
                .values()
                .filter(|p| p.try_wait().is_none())
                .map(ChildHandle::usage)
                .reduce(|one, other| Usage {
                    cpu_ms: one.cpu_ms + other.cpu_ms,
                    memory_bytes: one.memory_bytes + other.memory_bytes,
                    pids: one.pids + other.pids,
                });
            if let Some(usage) = usage {
                let (then, before) = *i.sample.get_or_insert((now, usage.cpu_ms));
                let passed = now.since(then).as_millis();
                if passed >= SAMPLE_MIN_MS {
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "milliseconds of a process fit a float"
                    )]
                    let rate = usage.cpu_ms.saturating_sub(before) as f64 * 100.0 / passed as f64;
                    i.cpu = Some(rate);
                    i.sample = Some((now, usage.cpu_ms));
                }
            } else {
                // Without a process there is no rate; the next one begins anew.
                (i.sample, i.cpu) = (None, None);
            }
            #[expect(clippy::cast_precision_loss, reason = "bytes of memory fit a float")]
            let memory = usage.map(|u| u.memory_bytes as f64 / (1024.0 * 1024.0));
            Reading {
                pid: i.processes.values().next().map(ChildHandle::pid),
                uid: i.uid,
                tasks: i.tasks.iter().map(|(task, _)| task.clone()).collect(),
                last_activity: i.last_activity,
                refused: self.refused.load(Ordering::Relaxed),
                level: i.level,
                memory,
                cpu: i.cpu,
                limits: i.limits.filter(|_| !i.processes.is_empty()),
                frozen: i.frozen,
            }
        })
    }
}

/// The last lines of an agent's log, of all its instances.
#[derive(Debug, Default)]
pub struct LogTail(Mutex<VecDeque<LogLine>>);

impl LogTail {
    /// Adds a line, cut at [`LOG_LINE_BYTES_MAX`].
    pub fn push(&self, time: Timestamp, instance: InstanceNo, epoch: Epoch, line: &[u8]) {
        let cut = &line[..line.len().min(LOG_LINE_BYTES_MAX)];
        let line = String::from_utf8_lossy(cut).into_owned();
        let mut lines = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if lines.len() >= LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(LogLine {
            time,
            instance,
            epoch,
            line,
        });
    }
    /// The last `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Vec<LogLine> {
        let lines = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        lines
            .iter()
            .skip(lines.len().saturating_sub(count))
            .cloned()
            .collect()
    }
}
