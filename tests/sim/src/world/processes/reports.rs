//! What a process reports: one thing after the other, each again until it is answered.

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::task::Command;
use mesh_messages::Epoch;

use super::{Cause, Phase, ProcessEvent};
use crate::world::World;
use crate::world::orchestrator::{Reply, ToOrchestrator};

/// How long a report waits for its answer, and how often it is made.
const REPORT_LIMIT: u64 = 700;
const REPORTS_MAX: u32 = 20;

impl World {
    /// Reports go one after the other, each again until it is answered.
    pub(super) fn report_next(&mut self, agent: usize, epoch: Epoch) {
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process.waits.is_some() {
            return;
        }
        let Some(report) = process.reports.front().cloned() else {
            if process.phase == Phase::Gone {
                let instance = process.instance;
                let ended = self.processes.remove(&(agent, epoch));
                let failure = ended.and_then(|process| match process.cause {
                    Cause::Failure(failure) => Some(failure),
                    Cause::Unknown | Cause::Order => None,
                });
                let command = AgentCommand::Ended {
                    instance,
                    epoch,
                    failure,
                };
                self.say(agent, epoch, command);
            }
            return;
        };
        self.actors += 1;
        let serial = self.actors;
        process.waits = Some((serial, 1));
        self.send_report(agent, epoch, report, serial);
    }

    pub(super) fn send_report(&mut self, agent: usize, epoch: Epoch, report: Command, serial: u64) {
        let message = ToOrchestrator::Command {
            command: Box::new(report),
            reply: Some(Reply::Report(agent, epoch, serial)),
        };
        self.send_orchestrator(2 << 40 | epoch.0, message);
        self.plan(agent, epoch, REPORT_LIMIT, ProcessEvent::NoAnswer(serial));
    }

    pub(super) fn report_answered(&mut self, agent: usize, epoch: Epoch, serial: u64) {
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process.waits.is_none_or(|(waits, _)| waits != serial) {
            return;
        }
        process.waits = None;
        if let Some(Command::AttemptEnded { attempt, .. }) = process.reports.pop_front() {
            let open = (epoch, attempt.task, attempt.attempt);
            self.seats[agent].open.remove(&open);
        }
        self.report_next(agent, epoch);
    }

    pub(super) fn report_again(&mut self, agent: usize, epoch: Epoch, serial: u64) {
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        let Some((waits, times)) = process.waits.filter(|(waits, _)| *waits == serial) else {
            return;
        };
        let Some(report) = process.reports.front().cloned() else {
            return;
        };
        if times >= REPORTS_MAX {
            return self.report_answered(agent, epoch, waits);
        }
        process.waits = Some((waits, times + 1));
        self.edges.hit("report", "made again");
        self.send_report(agent, epoch, report, serial);
    }
}
