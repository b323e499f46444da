//! What goes wrong, how often, and how.

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::task::{AttemptRef, Command};
use mesh_messages::{AttemptNo, Epoch, Failure, FailureClass};
use mesh_supervision_core::supervisor::ExitReason;
use serde_json::json;

use crate::checkers::Verdict;
use crate::world::agents::ToAgent;
use crate::world::orchestrator::ToOrchestrator;
use crate::world::processes::CRASH_GRID;
use crate::world::{Event, Part, World};

/// One kind of fault.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A worker of the tree ends: killed, by a panic, by an error, or as if it were done.
    Worker,
    /// A supervisor is killed.
    Supervisor,
    /// All workers below a supervisor end at once, or are killed at once.
    Storm,
    /// Somebody adds, starts, stops, restarts, deletes or changes children.
    Meddling,
    /// An agent's process ends, or hangs until it is ended.
    Process,
    /// All processes of all agents end at once.
    Massacre,
    /// A part of meshd panics.
    Part,
    /// The actor of an agent panics.
    AgentActor,
    /// An order to an agent.
    Order,
    /// A report in the name of an attempt that is over.
    Impostor,
    /// Somebody says from outside how an attempt ended.
    Outsider,
    /// A timer that was taken back fires all the same.
    LateTimer,
    /// The next sync fails.
    Sync,
    /// kill -9 of meshd.
    Kill9,
    /// The power goes.
    Power,
    /// The clock is set.
    Clock,
    /// A token is wanted.
    Token,
    /// Nothing goes wrong for a while.
    Calm,
}

const WEIGHTS: [(u64, Fault); 18] = [
    (260, Fault::Worker),
    (20, Fault::Supervisor),
    (16, Fault::Storm),
    (80, Fault::Meddling),
    (260, Fault::Process),
    (6, Fault::Massacre),
    (16, Fault::Part),
    (20, Fault::AgentActor),
    (150, Fault::Order),
    (40, Fault::Impostor),
    (24, Fault::Outsider),
    (20, Fault::LateTimer),
    (3, Fault::Sync),
    (12, Fault::Kill9),
    (4, Fault::Power),
    (16, Fault::Clock),
    (30, Fault::Token),
    (12, Fault::Calm),
];

/// How a process may end; each class that an instance can end with.
const ENDS: [(u64, FailureClass); 6] = [
    (10, FailureClass::Crash),
    (3, FailureClass::Hang),
    (3, FailureClass::Resource),
    (1, FailureClass::Policy),
    (3, FailureClass::Lost),
    (1, FailureClass::Timeout),
];

/// Pauses between faults, in milliseconds.
const PAUSE: (u64, u64) = (10, 900);
/// After the last fault things are put right this often.
const HEAL_EVERY: u64 = 600_000;

impl World {
    /// The next fault.
    pub(crate) fn fault(&mut self) -> Verdict {
        if self.faults_left == 0 {
            let next = self.now + HEAL_EVERY;
            self.queue.at(next, Event::Fault);
            return self.heal();
        }
        self.faults_left -= 1;
        self.calm = false;
        let mut pause = self.random.between(PAUSE.0, PAUSE.1);
        if self.random.percent(40) {
            // On the grid of the tree, so that what it counts meets the edges of its windows.
            pause = (self.now + pause).div_ceil(100) * 100 - self.now;
        }
        let Some(fault) = self.random.weighted(&WEIGHTS) else {
            return Ok(());
        };
        self.trace.note(self.now, format_args!("fault: {fault:?}"));
        match fault {
            Fault::Calm => {
                self.calm = true;
                pause = if self.random.percent(15) {
                    self.random.between(60, 70) * 60_000
                } else {
                    self.random.between(10, 400) * 1000
                };
            }
            other => self.inflict(other)?,
        }
        self.queue.at(self.now + pause, Event::Fault);
        Ok(())
    }

    fn inflict(&mut self, fault: Fault) -> Verdict {
        match fault {
            Fault::Worker => {
                let workers = self.tree.workers();
                if let Some(worker) = self.random.pick(&workers).copied() {
                    return self.worker_ends(worker);
                }
            }
            Fault::Supervisor => {
                let bosses = self.tree.bosses();
                let pod = self.random.pick(&bosses).copied();
                if let Some(pod) = pod.filter(|pod| self.is_meddled_with(*pod)) {
                    return self.kill_node(pod);
                }
            }
            Fault::Storm => return self.storm(),
            Fault::Meddling => {
                let bosses = self.tree.bosses();
                let pod = self.random.pick(&bosses).copied();
                if let Some(pod) = pod.filter(|pod| self.is_meddled_with(*pod)) {
                    for _ in 0..self.random.between(1, 4) {
                        self.meddle(pod);
                    }
                }
            }
            Fault::Process => self.process_fault(),
            Fault::Massacre => {
                for (agent, epoch) in self.processes.keys().copied().collect::<Vec<_>>() {
                    self.process_dies(agent, epoch, FailureClass::Crash);
                }
            }
            Fault::Part => {
                const PARTS: [Part; 4] = [
                    Part::Orchestrator,
                    Part::Orchestrator,
                    Part::Sentinel,
                    Part::Registry,
                ];
                let part = PARTS[self.random.index(PARTS.len())];
                return self.part_panics(part);
            }
            Fault::AgentActor => {
                let agent = self.random.index(self.seats.len());
                return self.part_panics(Part::Agent(agent));
            }
            Fault::Order => {
                // What is not there yet is brought first.
                let agent = self.random.index(self.seats.len());
                self.list(agent)?;
                self.order();
            }
            Fault::Impostor => self.impostor(),
            Fault::Outsider => self.report_outside(),
            Fault::LateTimer => {
                let agent = self.random.index(self.seats.len());
                let token = self.random.between(0, 40);
                let message = if self.random.percent(70) {
                    AgentCommand::Timer { token }
                } else {
                    AgentCommand::Ended {
                        instance: mesh_messages::InstanceNo(0),
                        epoch: Epoch(self.random.between(0, 3)),
                        failure: Some(Failure::new(FailureClass::Crash, "late news")),
                    }
                };
                if self.is_late(agent, &message) {
                    self.tell_agent(agent, ToAgent::Command(message));
                }
            }
            Fault::Sync => self.clients.next_sync_fails = true,
            Fault::Kill9 => return self.kill_9(),
            Fault::Power => return self.power_cut(),
            Fault::Clock => self.set_clock(),
            Fault::Token => {
                let agent = self.random.index(self.seats.len());
                return self.token(agent, true);
            }
            Fault::Calm => {}
        }
        Ok(())
    }

    /// An end of an instance that is there would not be late news but a lie.
    fn is_late(&self, agent: usize, command: &AgentCommand) -> bool {
        let AgentCommand::Ended { epoch, .. } = command else {
            return true;
        };
        !self.processes.contains_key(&(agent, *epoch))
            && self.seats[agent].shell.as_ref().is_none_or(|shell| {
                shell
                    .owned
                    .state
                    .instances
                    .values()
                    .all(|i| i.epoch != *epoch)
            })
    }

    fn worker_ends(&mut self, worker: crate::world::tree::NodeId) -> Verdict {
        let reason = match self.random.between(0, 6) {
            0 => ExitReason::Normal,
            1 => ExitReason::Shutdown(None),
            2 => ExitReason::Failed("it panicked".to_owned()),
            3 => ExitReason::Failed("it returned an error".to_owned()),
            4 => ExitReason::Unknown,
            5 => ExitReason::Shutdown(Some("idle".to_owned())),
            _ => return self.kill_node(worker),
        };
        self.exit(worker, reason)
    }

    fn storm(&mut self) -> Verdict {
        let bosses = self.tree.bosses();
        let pod = self.random.pick(&bosses).copied();
        let Some(pod) = pod.filter(|pod| self.is_meddled_with(*pod)) else {
            return Ok(());
        };
        let kill = self.random.percent(50);
        for worker in self.flock(pod) {
            if kill {
                self.kill_node(worker)?;
            } else {
                self.worker_ends(worker)?;
            }
        }
        Ok(())
    }

    fn process_fault(&mut self) {
        let there: Vec<_> = self.processes.keys().copied().collect();
        // What is on its way in or out is there for a moment only, and so is sought.
        let moving: Vec<_> = self.moving_processes();
        let sought = self.random.percent(25) && !moving.is_empty();
        let of = if sought { &moving } else { &there };
        let Some((agent, epoch)) = self.random.pick(of).copied() else {
            return;
        };
        let class = if sought && self.random.percent(30) {
            FailureClass::Policy
        } else {
            self.random.weighted(&ENDS).unwrap_or(FailureClass::Crash)
        };
        // Some are hit again and again.
        let times = if self.random.percent(10) { 4 } else { 1 };
        for again in 0..times {
            let after = if self.random.percent(50) {
                (self.now + CRASH_GRID * again).div_ceil(CRASH_GRID) * CRASH_GRID - self.now
            } else {
                again * self.random.between(1, 400)
            };
            let event = crate::world::processes::ProcessEvent::Dies(class);
            let event = Event::Process {
                agent,
                epoch,
                event,
            };
            self.queue.at(self.now + after, event);
        }
    }

    fn part_panics(&mut self, part: Part) -> Verdict {
        let Some(node) = self.tree.parts.get(&part).copied() else {
            return Ok(());
        };
        if self.random.percent(50) {
            return self.kill_node(node);
        }
        self.exit(node, ExitReason::Failed("it panicked".to_owned()))
    }

    /// Somebody reports on an attempt that is not theirs, or is over.
    fn impostor(&mut self) {
        let known = if self.random.percent(50) {
            self.attempt_under_way().map(|(task, ..)| task)
        } else {
            self.known_task()
        };
        let Some(task) = known else {
            return;
        };
        let Some(line) = self.ledger.decided.lines.get(&task) else {
            return;
        };
        let agent = self.random.index(self.ids.len());
        let (attempt, holder) = (line.attempt, line.holder.clone());
        let wrong = self.random.between(0, 2);
        let key = match holder {
            // The right task and attempt by the wrong incarnation, or the right one on an attempt that is over.
            Some((id, instance, epoch)) if wrong == 0 => (id, instance, Epoch(epoch.0 + 1)),
            Some((id, instance, epoch)) if wrong == 1 => (id, instance, epoch),
            Some(_) | None => (
                self.ids[agent].clone(),
                mesh_messages::InstanceNo(0),
                Epoch(self.random.between(1, 5)),
            ),
        };
        let attempt = if wrong == 1 {
            AttemptNo(attempt.0.saturating_sub(1))
        } else {
            attempt
        };
        let attempt = AttemptRef {
            task,
            attempt,
            epoch: key.2,
        };
        if self
            .ledger
            .decided
            .is_current(&attempt.task, attempt.attempt, &key)
        {
            return;
        }
        let command = if self.random.percent(70) {
            Command::AttemptEnded {
                attempt,
                key: Some(key),
                result: Ok(json!("stolen")),
            }
        } else {
            Command::AttemptStarted { attempt, key }
        };
        let message = ToOrchestrator::Command {
            command: Box::new(command),
            reply: None,
        };
        self.send_orchestrator(9000, message);
    }

    fn set_clock(&mut self) {
        let by = match self.random.between(0, 5) {
            0 => 3_700_000,
            1 => -1000,
            2 => -60_000,
            3 => 30_000,
            4 => i64::try_from(self.random.between(1, 100_000)).unwrap_or(1),
            _ => -i64::try_from(self.random.between(1, 5000)).unwrap_or(1),
        };
        self.skew += by;
        self.edges.hit(
            "life",
            if by > 0 {
                "the clock is set forward"
            } else {
                "the clock is set back"
            },
        );
    }
}
