//! What a process does with the attempts in its hand: takes them, works, delegates, lets go.

use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{Asker, AttemptRef, Command, Delivery};
use mesh_messages::agent::FaultState;
use mesh_messages::task::TaskSpec;
use mesh_messages::{AttemptNo, Epoch, Failure, FailureClass, TaskId};
use serde_json::json;

use super::{CANCEL_LIMIT, Flight, Phase, ProcessEvent, QUARANTINE};
use crate::checkers::{Verdict, ensure};
use crate::world::World;
use crate::world::agents::CAPABILITIES;
use crate::world::clients::POISON;
use crate::world::orchestrator::{Reply, ToOrchestrator};

impl World {
    pub(crate) fn process_deliver(&mut self, agent: usize, delivery: Delivery) -> Verdict {
        let fault = self.seats[agent].published.fault_state();
        ensure(fault != FaultState::Quarantined, QUARANTINE, || {
            format!("agent {agent} was handed {}", delivery.task)
        })?;
        let epoch = delivery.key.2;
        let there = self
            .processes
            .get(&(agent, epoch))
            .is_some_and(|p| p.instance == delivery.key.1 && p.phase != Phase::Gone);
        if !there {
            self.decline(&delivery, FailureClass::Lost);
            return Ok(());
        }
        let (task, attempt) = (delivery.task.clone(), delivery.attempt);
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return Ok(());
        };
        let named = AttemptRef {
            task: task.clone(),
            attempt,
            epoch,
        };
        let key = Some(delivery.key.clone());
        if process.phase != Phase::Ready || process.flights.contains_key(&task) {
            let failure = Failure::new(FailureClass::Lost, "it no longer takes work");
            process.reports.push_back(Command::AttemptEnded {
                attempt: named,
                key,
                result: Err(failure),
            });
        } else {
            let flight = Flight {
                attempt,
                spec: delivery.spec,
                delegated: false,
            };
            process.flights.insert(task.clone(), flight);
            process.reports.push_back(Command::AttemptStarted {
                attempt: named,
                key: delivery.key,
            });
            let takes = self.random.between(5, 600);
            self.plan(agent, epoch, takes, ProcessEvent::Work(task, attempt));
        }
        self.report_next(agent, epoch);
        Ok(())
    }

    pub(crate) fn process_cancel(
        &mut self,
        agent: usize,
        key: &InstanceKey,
        task: &TaskId,
        attempt: AttemptNo,
    ) {
        let epoch = key.2;
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process.phase == Phase::Gone {
            return;
        }
        let held = process
            .flights
            .get(task)
            .is_some_and(|flight| flight.attempt == attempt);
        if !held {
            let named = AttemptRef {
                task: task.clone(),
                attempt,
                epoch,
            };
            process.reports.push_back(Command::AttemptEnded {
                attempt: named,
                key: Some(key.clone()),
                result: Err(Failure::new(
                    FailureClass::Cancelled,
                    "it has let go already",
                )),
            });
            return self.report_next(agent, epoch);
        }
        self.plan(
            agent,
            epoch,
            CANCEL_LIMIT,
            ProcessEvent::GiveUp(task.clone(), attempt),
        );
        if self.random.percent(88) {
            let takes = self.random.between(1, 150);
            self.plan(
                agent,
                epoch,
                takes,
                ProcessEvent::LetGo(task.clone(), attempt),
            );
        }
    }

    pub(crate) fn process_child(&mut self, agent: usize, epoch: Epoch, parent: &TaskId) {
        let attempt = self
            .processes
            .get(&(agent, epoch))
            .and_then(|process| process.flights.get(parent))
            .map(|flight| flight.attempt);
        if let Some(attempt) = attempt {
            let takes = self.random.between(1, 200);
            self.plan(
                agent,
                epoch,
                takes,
                ProcessEvent::Work(parent.clone(), attempt),
            );
        }
    }

    /// The process is done with what it was doing for a task.
    pub(super) fn work(&mut self, agent: usize, epoch: Epoch, task: &TaskId, attempt: AttemptNo) {
        let calm = self.faults_left == 0;
        let draw = self.random.between(0, 99);
        let Some(flight) = self
            .processes
            .get_mut(&(agent, epoch))
            .and_then(|process| process.flights.get_mut(task))
        else {
            return;
        };
        if flight.attempt != attempt {
            return;
        }
        let poison = flight.spec.labels.contains_key(POISON);
        if poison {
            return self.process_dies(agent, epoch, FailureClass::Crash);
        }
        let failed = |class| Err(Failure::new(class, "it says so"));
        let result = match draw {
            _ if calm => Ok(json!({"done": true})),
            0..=9 if !flight.delegated => {
                flight.delegated = true;
                return self.delegate(agent, epoch, task, attempt);
            }
            10 => failed(FailureClass::Timeout),
            11 => failed(FailureClass::Declined),
            12..=14 => failed(FailureClass::Unavailable),
            15 => failed(FailureClass::Quota),
            16 => failed(FailureClass::Refusal),
            17 => failed(FailureClass::Auth),
            18 => failed(FailureClass::Contract),
            // It breaks the schema, where there is one.
            19..=22 => Ok(json!(7)),
            23 | 24 => return self.process_dies(agent, epoch, FailureClass::Crash),
            25 => return self.process_dies(agent, epoch, FailureClass::Resource),
            // It hangs; the attempt's time ends it.
            26 | 27 => return,
            _ => Ok(json!({"done": true})),
        };
        self.land(agent, epoch, (task, attempt), result);
    }

    pub(super) fn delegate(
        &mut self,
        agent: usize,
        epoch: Epoch,
        task: &TaskId,
        attempt: AttemptNo,
    ) {
        let needs = CAPABILITIES[self.random.index(CAPABILITIES.len())];
        let request = format!("r{}", self.random.between(0, 3));
        let Some(process) = self.processes.get(&(agent, epoch)) else {
            return;
        };
        let spec = TaskSpec {
            requirements: vec![needs.to_owned()],
            timeout_ms: Some(5000),
            ..TaskSpec::default()
        };
        let asker = Asker {
            parent: AttemptRef {
                task: task.clone(),
                attempt,
                epoch,
            },
            key: (self.ids[agent].clone(), process.instance, epoch),
            request,
        };
        let message = ToOrchestrator::Command {
            command: Box::new(Command::Delegate {
                envelope: None,
                asker,
                spec: Box::new(spec),
            }),
            reply: Some(Reply::Delegation(agent, epoch, task.clone(), attempt)),
        };
        self.send_orchestrator(2 << 40 | epoch.0, message);
    }

    /// An attempt has come to its end in the process.
    pub(super) fn land(
        &mut self,
        agent: usize,
        epoch: Epoch,
        (task, attempt): (&TaskId, AttemptNo),
        result: Result<serde_json::Value, Failure>,
    ) {
        let twice = self.random.percent(4);
        let id = self.ids[agent].clone();
        let Some(process) = self.processes.get_mut(&(agent, epoch)) else {
            return;
        };
        if process
            .flights
            .get(task)
            .is_none_or(|f| f.attempt != attempt)
        {
            return;
        }
        process.flights.remove(task);
        let report = Command::AttemptEnded {
            attempt: AttemptRef {
                task: task.clone(),
                attempt,
                epoch,
            },
            key: Some((id, process.instance, epoch)),
            result,
        };
        if twice {
            process.reports.push_back(report.clone());
        }
        process.reports.push_back(report);
        let drained = process.phase == Phase::Draining && process.flights.is_empty();
        self.report_next(agent, epoch);
        if drained {
            self.ask_to_leave(agent, epoch);
        }
    }
}
