//! What agents run: processes that start or do not, work or do not, and end when they are told or when they are killed.

mod reports;
mod work;

use std::collections::{BTreeMap, VecDeque};

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::task::{AttemptRef, Command};
use mesh_messages::agent::Lifecycle;
use mesh_messages::task::TaskSpec;
use mesh_messages::{AttemptNo, Epoch, Failure, FailureClass, InstanceNo, TaskId};
use serde_json::json;

use super::agents::ToAgent;
use super::{Event, World};
use crate::checkers::{Verdict, ensure};

/// How long a start may take before it is given up.
const START_LIMIT: u64 = 2000;
/// How long work may go on after an order to stop, and how long the process may then take to leave.
const DRAIN_LIMIT: u64 = 1500;
const STOP_LIMIT: u64 = 800;
/// How long the kernel takes at most to end what is killed.
const KILL_LIMIT: u64 = 10;
/// How long an agent may take to let go of an attempt.
const CANCEL_LIMIT: u64 = 500;
/// Crashes happen on this grid half of the time, so that edges of windows are met.
pub(crate) const CRASH_GRID: u64 = 50;
/// Reports of one process that may wait: it has a few tasks in hand at most, and two reports for each.
const REPORTS_WAITING_MAX: usize = 200;

const NO_OUTLIVING: &str = "no process of an agent outlives its instance";
const QUARANTINE: &str = "a quarantined agent executes and receives nothing";

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Draining,
    Stopping,
    /// Its end is under way: the kernel has been asked.
    Doomed,
    /// It is gone; its session still has something to report.
    Gone,
}

#[derive(Debug)]
struct Flight {
    attempt: AttemptNo,
    spec: TaskSpec,
    delegated: bool,
}

/// Why a process ends. What is known first, counts.
#[derive(Debug)]
enum Cause {
    /// It does not, yet.
    Unknown,
    /// It is nobody's failure: it was asked to, or was done.
    Order,
    Failure(Failure),
}

impl Cause {
    fn settle(&mut self, failure: Option<Failure>) {
        if matches!(self, Self::Unknown) {
            *self = failure.map_or(Self::Order, Self::Failure);
        }
    }
}

/// One incarnation of a replica, and its session with meshd.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) instance: InstanceNo,
    phase: Phase,
    flights: BTreeMap<TaskId, Flight>,
    reports: VecDeque<Command>,
    /// The report that waits for its answer, and how often it was made.
    waits: Option<(u64, u32)>,
    /// When at the latest it has to be gone.
    must_end: Option<u64>,
    cause: Cause,
}

/// What happens to a process.
#[derive(Debug)]
pub(crate) enum ProcessEvent {
    Shake,
    Serve,
    /// It ends by itself.
    Dies(FailureClass),
    /// Its start takes too long.
    TooSlow,
    /// Some work on a task is done, for good or ill.
    Work(TaskId, AttemptNo),
    /// It lets go of a cancelled attempt.
    LetGo(TaskId, AttemptNo),
    /// It should have let go by now.
    GiveUp(TaskId, AttemptNo),
    /// It has finished as it was asked.
    Leaves,
    DrainOver,
    StopOver,
    /// The kernel is done with it.
    Ended,
    /// A report was answered.
    Answer(u64),
    /// A report was not answered.
    NoAnswer(u64),
    /// A delegation was refused.
    Refused(TaskId, AttemptNo),
}

impl Process {
    const fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Gone)
    }
}

impl World {
    fn plan(&mut self, agent: usize, epoch: Epoch, after: u64, event: ProcessEvent) {
        let event = Event::Process {
            agent,
            epoch,
            event,
        };
        self.queue.at(self.now + after, event);
    }

    /// A process is started.
    pub(crate) fn spawn(&mut self, agent: usize, instance: InstanceNo, epoch: Epoch) -> Verdict {
        self.starts.performed(agent, epoch)?;
        let twin = self
            .processes
            .iter()
            .find(|((of, _), p)| *of == agent && p.instance == instance && p.is_alive());
        ensure(twin.is_none(), NO_OUTLIVING, || {
            format!("replica {instance} of agent {agent} runs twice: {twin:?}")
        })?;
        self.processes.insert(
            (agent, epoch),
            Process {
                instance,
                phase: Phase::Starting,
                flights: BTreeMap::new(),
                reports: VecDeque::new(),
                waits: None,
                must_end: None,
                cause: Cause::Unknown,
            },
        );
        let fate = if self.faults_left == 0 {
            99
        } else {
            self.random.between(0, 99)
        };
        let takes = self.random.between(1, 80);
        match fate {
            0..=4 => self.plan(agent, epoch, takes, ProcessEvent::Dies(FailureClass::Start)),
            5..=6 => self.plan(agent, epoch, START_LIMIT, ProcessEvent::TooSlow),
            7..=13 => {
                self.plan(agent, epoch, takes, ProcessEvent::Shake);
                let slow = self.random.between(500, START_LIMIT - 100);
                self.plan(agent, epoch, takes + slow, ProcessEvent::Serve);
            }
            _ => {
                self.plan(agent, epoch, takes, ProcessEvent::Shake);
                let more = self.random.between(0, 40);
                self.plan(agent, epoch, takes + more, ProcessEvent::Serve);
            }
        }
        Ok(())
    }

    /// A process is told to stop, or killed.
    pub(crate) fn process_stop(&mut self, agent: usize, epoch: Epoch, kill: bool) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process.phase == Phase::Gone {
            return;
        }
        let limit = if kill {
            KILL_LIMIT
        } else {
            DRAIN_LIMIT + STOP_LIMIT + KILL_LIMIT
        };
        let by = now + limit;
        process.must_end = Some(process.must_end.map_or(by, |before| before.min(by)));
        match process.phase {
            Phase::Ready if !kill && !process.flights.is_empty() => {
                process.phase = Phase::Draining;
                self.plan(agent, epoch, DRAIN_LIMIT, ProcessEvent::DrainOver);
            }
            Phase::Ready if !kill => self.ask_to_leave(agent, epoch),
            Phase::Draining | Phase::Stopping if !kill => {}
            Phase::Doomed | Phase::Gone => {}
            Phase::Starting | Phase::Ready | Phase::Draining | Phase::Stopping => {
                self.doom(agent, epoch, None);
            }
        }
    }

    fn ask_to_leave(&mut self, agent: usize, epoch: Epoch) {
        if let Some(process) = self.processes.get_mut(&(agent, epoch)) {
            process.phase = Phase::Stopping;
            self.plan(agent, epoch, STOP_LIMIT, ProcessEvent::StopOver);
            if self.random.percent(85) {
                let takes = self.random.between(1, 200);
                self.plan(agent, epoch, takes, ProcessEvent::Leaves);
            }
        }
    }

    /// The kernel is asked to end it.
    fn doom(&mut self, agent: usize, epoch: Epoch, failure: Option<Failure>) {
        let takes = self.random.between(0, KILL_LIMIT);
        // Some break a rule as they are ended, and that is heard whatever they were ended for.
        let breaks = self.faults_left > 0 && self.random.percent(4);
        let failure = failure.or_else(|| {
            breaks.then(|| Failure::new(FailureClass::Policy, "it broke a rule as it was ended"))
        });
        if let Some(process) = self.processes.get_mut(&(agent, epoch))
            && !matches!(process.phase, Phase::Doomed | Phase::Gone)
        {
            process.phase = Phase::Doomed;
            process.cause.settle(failure);
            self.plan(agent, epoch, takes, ProcessEvent::Ended);
        }
    }

    /// A process is gone. What it had in hand and never read is given back, the rest ends with it.
    fn gone(&mut self, agent: usize, epoch: Epoch, failure: Option<Failure>) {
        let unread = self.random.percent(20);
        let id = self.ids[agent].clone();
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process.phase == Phase::Gone {
            return;
        }
        process.phase = Phase::Gone;
        process.cause.settle(failure);
        let key = (id, process.instance, epoch);
        for (task, flight) in std::mem::take(&mut process.flights) {
            if unread {
                let attempt = AttemptRef {
                    task,
                    attempt: flight.attempt,
                    epoch,
                };
                let failure = Failure::new(FailureClass::Lost, "it ended before it read of it");
                process.reports.push_back(Command::AttemptEnded {
                    attempt,
                    key: Some(key.clone()),
                    result: Err(failure),
                });
            }
        }
        self.report_next(agent, epoch);
    }

    /// An agent's process dies for a reason.
    pub(crate) fn process_dies(&mut self, agent: usize, epoch: Epoch, class: FailureClass) {
        let Some(process) = self.processes.get(&(agent, epoch)) else {
            return;
        };
        let told = matches!(
            process.phase,
            Phase::Draining | Phase::Stopping | Phase::Doomed
        );
        let failure = Failure::new(class, "it ended");
        self.edges
            .hit_named("instance end", format_args!("{class}"));
        // What it was told to stop for is what it ends with.
        let heard = !told || class == FailureClass::Policy;
        self.gone(agent, epoch, heard.then_some(failure));
    }

    pub(crate) fn process_event(&mut self, agent: usize, epoch: Epoch, event: ProcessEvent) {
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        let (phase, instance) = (process.phase, process.instance);
        match event {
            ProcessEvent::Answer(serial) => self.report_answered(agent, epoch, serial),
            ProcessEvent::NoAnswer(serial) => self.report_again(agent, epoch, serial),
            ProcessEvent::Ended if phase == Phase::Doomed => self.gone(agent, epoch, None),
            _ if matches!(phase, Phase::Doomed | Phase::Gone) => {}
            ProcessEvent::Shake if phase == Phase::Starting => self.shakes(agent, epoch),
            ProcessEvent::Serve if phase == Phase::Starting => {
                process.phase = Phase::Ready;
                self.say(agent, epoch, AgentCommand::Ready { instance, epoch });
            }
            ProcessEvent::Dies(class) => self.process_dies(agent, epoch, class),
            ProcessEvent::TooSlow if phase == Phase::Starting => {
                let late = Failure::new(FailureClass::Start, "it was not ready in time");
                self.doom(agent, epoch, Some(late));
            }
            ProcessEvent::Work(task, attempt) => self.work(agent, epoch, &task, attempt),
            ProcessEvent::LetGo(task, attempt) => {
                // Some finish what they were to drop.
                let result = if self.random.percent(15) {
                    Ok(json!("late"))
                } else {
                    Err(Failure::new(FailureClass::Cancelled, "it let go"))
                };
                self.land(agent, epoch, (&task, attempt), result);
            }
            ProcessEvent::GiveUp(task, attempt) => {
                let held = process
                    .flights
                    .get(&task)
                    .is_some_and(|f| f.attempt == attempt);
                if held {
                    self.edges
                        .hit_named("instance end", format_args!("it did not let go"));
                    let held = Failure::new(FailureClass::Lost, "it did not let go in time");
                    self.doom(agent, epoch, Some(held));
                }
            }
            ProcessEvent::Refused(task, attempt) => {
                self.land(agent, epoch, (&task, attempt), Ok(json!("alone")));
            }
            ProcessEvent::Leaves if phase == Phase::Stopping => self.gone(agent, epoch, None),
            ProcessEvent::DrainOver if phase == Phase::Draining => {
                self.ask_to_leave(agent, epoch);
            }
            ProcessEvent::StopOver if phase == Phase::Stopping => self.doom(agent, epoch, None),
            ProcessEvent::Shake
            | ProcessEvent::Serve
            | ProcessEvent::TooSlow
            | ProcessEvent::Leaves
            | ProcessEvent::DrainOver
            | ProcessEvent::StopOver
            | ProcessEvent::Ended => {}
        }
    }

    /// A process says something to its agent's actor.
    /// It has shaken hands. Some serve at once, and say both in one.
    fn shakes(&mut self, agent: usize, epoch: Epoch) {
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        let (instance, hooks) = (process.instance, Vec::new());
        let mut said = vec![if self.random.percent(50) {
            process.phase = Phase::Ready;
            AgentCommand::Up {
                instance,
                epoch,
                hooks,
                proven: None,
            }
        } else {
            AgentCommand::Handshaken {
                instance,
                epoch,
                hooks,
                proven: None,
            }
        }];
        // Somebody ends the agent for good just then; orders at random seldom meet a time so short.
        if self.random.percent(4) {
            let reason = "before it served".to_owned();
            let at = self.random.index(2);
            said.insert(at, AgentCommand::Terminate { reason });
        }
        for command in said {
            self.say(agent, epoch, command);
        }
    }

    fn say(&mut self, agent: usize, epoch: Epoch, command: AgentCommand) {
        let at = self.now + self.random.between(0, 2);
        let lane = (2 << 40 | epoch.0, agent as u64);
        let message = ToAgent::Command(command);
        self.queue
            .in_lane(lane, at, Event::Agent { agent, message });
    }

    /// Processes that are being started, stopped or exchanged.
    pub(crate) fn moving_processes(&self) -> Vec<(usize, Epoch)> {
        let moves = |(key, process): (&(usize, Epoch), &Process)| {
            let upgrading = self.seats[key.0].published.stage() == Lifecycle::Upgrading;
            let moves = upgrading || !matches!(process.phase, Phase::Ready | Phase::Gone);
            moves.then_some(*key)
        };
        self.processes.iter().filter_map(moves).collect()
    }

    /// What holds for every process at any time.
    pub(crate) fn audit_processes(&self) -> Verdict {
        for ((agent, epoch), process) in &self.processes {
            let context = || format!("{epoch} of agent {agent}: {process:?}");
            let overdue = process
                .must_end
                .is_some_and(|by| self.now > by + KILL_LIMIT);
            ensure(!overdue || !process.is_alive(), NO_OUTLIVING, context)?;
            ensure(
                process.reports.len() <= REPORTS_WAITING_MAX,
                "every queue is bounded: reports",
                context,
            )?;
            let seat = &self.seats[*agent];
            let isolated = seat
                .isolated_since
                .is_some_and(|since| self.now > since + 2 * KILL_LIMIT);
            ensure(!isolated || !process.is_alive(), QUARANTINE, context)?;
            let known = seat.shell.as_ref().is_some_and(|shell| {
                let of = shell.owned.state.instances.get(&process.instance);
                of.is_some_and(|i| i.epoch == *epoch)
            });
            ensure(known, NO_OUTLIVING, || {
                format!("its agent knows nothing of it: {}", context())
            })?;
        }
        Ok(())
    }
}
