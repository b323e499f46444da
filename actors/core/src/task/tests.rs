//! A small mesh around the machine: every decision is checked against the promises that hold after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::agent::FaultState;
use mesh_messages::events::TaskEvent;
use mesh_messages::task::{Task, TaskReceipt, TaskSpec, TaskState, WaitReason};
use mesh_messages::team::Teamwork;
use mesh_messages::{
    AgentId, AttemptNo, Epoch, Failure, FailureClass, InstanceNo, TaskId, Timestamp,
};
use serde_json::{Value, json};

use super::index::Timer;
use super::tx::Slots;
use super::*;
use crate::gate::account_of;
use crate::routing::{FleetAgent, FleetInstance, Gate, InstanceKey, Occupancy};

mod asks;
mod attempts;
mod budgets;
mod claimed;
mod claims;
mod declines;
mod delegation;
mod escalation;
mod fairness;
mod fleet;
mod gates;
mod properties;
mod restart;
mod splits;
mod submission;
mod teams;
mod trust;

/// The machine, a clock that the test turns, and a second state that only ever replays.
struct World {
    tasks: Tasks,
    replayed: Tasks,
    live: Live,
    config: TaskConfig,
    known: Known,
    now: Timestamp,
    random: u64,
    ids: u32,
    outcomes: BTreeMap<TaskId, TaskState>,
}

const START: u64 = 1_800_000_000_000;

impl World {
    fn new() -> Self {
        Self::with(TaskConfig::default())
    }

    /// A mesh whose fleet is complete, and still empty.
    fn with(config: TaskConfig) -> Self {
        let mut world = Self {
            tasks: Tasks::default(),
            replayed: Tasks::default(),
            live: Live::default(),
            config,
            known: Known::default(),
            now: Timestamp::from_millis(START),
            random: 7,
            ids: 0,
            outcomes: BTreeMap::new(),
        };
        world.run(Command::Fleet(FleetChange::Complete));
        world
    }

    fn decide(&mut self, command: Command) -> Result<Decision, Refusal> {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let before = (self.tasks.clone(), self.live.clone());
        let ctx = Context {
            now: self.now,
            random: self.random,
            config: &self.config,
            known: &self.known,
        };
        let decision = self.tasks.decide(&mut self.live, command, ctx);
        match &decision {
            Ok(decision) => self.check(decision),
            Err(refusal) => {
                assert_eq!(
                    before,
                    (self.tasks.clone(), self.live.clone()),
                    "after {refusal}"
                );
            }
        }
        decision
    }

    #[track_caller]
    fn run(&mut self, command: Command) -> Decision {
        let name = command.name();
        self.decide(command)
            .unwrap_or_else(|refusal| panic!("{name} was refused: {refusal}"))
    }

    #[track_caller]
    fn refused(&mut self, command: Command) -> Refusal {
        let name = command.name();
        match self.decide(command) {
            Ok(decision) => panic!("{name} was not refused: {decision:?}"),
            Err(refusal) => refusal,
        }
    }

    /// What must hold after every decision.
    fn check(&mut self, decision: &Decision) {
        for (id, event) in &decision.events {
            self.check_reservation(id, event);
            self.replayed.apply(id, event).unwrap();
            match event {
                // Its task may have ended before.
                TaskEvent::Gate { .. } => continue,
                TaskEvent::Assigned { assignment, .. } => self.check_slots(assignment),
                TaskEvent::Retried { .. } => {
                    self.outcomes.remove(id);
                }
                _ => {}
            }
            if let Some(state) = self
                .replayed
                .get(id)
                .map(|t| t.state)
                .filter(|s| s.is_terminal())
            {
                let before = self.outcomes.insert(id.clone(), state);
                assert_eq!(before, None, "task {id} ended a second time by {event:?}");
            }
        }
        for trusting in &decision.trust {
            self.replayed.apply_trust(&trusting.change);
        }
        for event in &decision.accounts {
            if let TaskEvent::Budget { at, step } = event {
                self.replayed.apply_account(*at, step);
            }
        }
        assert_eq!(
            self.replayed, self.tasks,
            "replay must lead to the same state"
        );
        assert_eq!(
            self.tasks.rebuilt(),
            self.tasks,
            "a snapshot must hold all, and indexes must be right"
        );
        self.check_claims(decision.more);
        self.check_claimants(decision.more);
        // With more to come, some tasks have yet to learn what happened to others.
        for id in self.tasks.ids().filter(|_| !decision.more) {
            self.check_moves_or_waits(id);
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            now: self.now,
            random: 0,
            config: &self.config,
            known: &self.known,
        }
    }

    fn check_slots(&self, assignment: &mesh_messages::task::TaskAssignment) {
        let agent = self
            .live
            .fleet
            .agent(&assignment.agent_id)
            .expect("a known agent");
        let instance = &agent.instances[&assignment.instance];
        let key = (
            assignment.agent_id.clone(),
            assignment.instance,
            assignment.epoch,
        );
        let kept = BTreeSet::new();
        let slots = Slots::new(
            (&self.replayed, &self.live, self.context()),
            &kept,
            Some(&assignment.task_id),
        );
        let on_instance: Vec<_> = self.replayed.in_flight_on(&key).collect();
        let load = slots.on_instance(&key);
        assert_eq!(
            instance.epoch, assignment.epoch,
            "nothing goes to an old incarnation"
        );
        assert!(instance.closed.is_none() && !matches!(agent.gate(), Gate::Broken | Gate::Down));
        assert!(
            load.at_work <= instance.concurrency,
            "{on_instance:?} on {}",
            instance.concurrency
        );
        if agent.gate() == Gate::Permit {
            assert!(slots.on_agent(&assignment.agent_id) <= 1, "one permit");
        }
        let limit = usize::try_from(self.config.max_parallel_tasks).unwrap();
        assert!(self.replayed.at_work() <= limit, "max_parallel_tasks");
        let account = account_of(&assignment.agent_id, agent.account.as_deref());
        if let Some(gate) = self.replayed.gates().get(&account) {
            let busy = super::gates::at_work(&self.replayed, &self.live);
            assert!(
                busy[&account] <= gate.permits,
                "{gate:?} let {busy:?} through"
            );
        }
        if load.kept {
            assert_eq!(load.at_work, 1, "a suspect runs alone");
        }
        let needs = self.replayed.get(&assignment.task_id).unwrap().spec.needs();
        assert!(needs.iter().all(|need| agent.capabilities.contains(need)));
    }

    /// No task is forgotten: each has something that will move it, and its deadline at the latest.
    fn check_moves_or_waits(&self, id: &TaskId) {
        let entry = self.tasks.entry(id).unwrap();
        let task = entry.task();
        if task.state.is_terminal() {
            assert!(task.ended_at.is_some());
            return;
        }
        let index = self.tasks.index();
        let has = |timer| {
            index
                .timers
                .iter()
                .any(|(_, kind, of)| *kind == timer && of == id)
        };
        assert!(has(Timer::Deadline));
        match task.state {
            TaskState::Queued => assert!(super::index::is_ready(entry)),
            TaskState::Parked => assert!(
                super::index::is_ready(entry)
                    || has(Timer::Resume)
                    || self.tasks.budgets().wait_of(id).is_some()
                    || super::index::waits_for_claims(entry)
            ),
            TaskState::Retrying => assert!(has(Timer::Resume)),
            TaskState::Blocked => {
                // For other tasks, or for a person.
                let waits = task.waiting_for.as_ref().map(|wait| wait.reason);
                let asked = super::escalate::escalated_to(entry);
                let team = task
                    .teamwork
                    .as_deref()
                    .filter(|_| super::teams::is_teams(entry));
                let mut parts = team.into_iter().flat_map(Teamwork::current);
                let has_part = parts.any(|part| self.tasks.live(&part.task).is_some());
                assert!(
                    !entry.pending.is_empty()
                        || waits == Some(WaitReason::Approval)
                        || has_part
                        || asked.is_some_and(|asked| self.tasks.live(asked).is_some()),
                    "{task:?}"
                );
                assert!(
                    entry
                        .pending
                        .iter()
                        .all(|dep| self.tasks.live(dep).is_some()),
                    "{task:?}"
                );
            }
            TaskState::Assigned | TaskState::Running => {
                let key = super::index::instance_of(entry).unwrap();
                assert!(index.in_flight[&key].contains(id) && has(Timer::Attempt));
            }
            _ => unreachable!("terminal"),
        }
        if !task.state.is_in_flight() {
            assert!(
                self.view(id).waiting_for.is_some(),
                "every wait can be explained: {task:?}"
            );
        }
    }

    fn view(&self, id: &TaskId) -> Task {
        let ctx = Context {
            now: self.now,
            random: 0,
            config: &self.config,
            known: &self.known,
        };
        self.tasks.view(&self.live, ctx, id).expect("a held task")
    }

    #[track_caller]
    fn state(&self, id: &TaskId) -> TaskState {
        self.tasks.get(id).expect("a held task").state
    }

    #[track_caller]
    fn waits(&self, id: &TaskId, state: TaskState, reason: WaitReason) {
        let task = self.view(id);
        assert_eq!(
            (task.state, task.waiting_for.map(|w| w.reason)),
            (state, Some(reason))
        );
    }

    fn next_id(&mut self) -> TaskId {
        self.ids += 1;
        TaskId::new(format!("t{}", self.ids)).unwrap()
    }

    fn submit_all(&mut self, specs: Vec<Value>) -> Decision {
        let command = self.submission(specs);
        self.run(command)
    }

    fn submission(&mut self, specs: Vec<Value>) -> Command {
        let tasks = specs
            .into_iter()
            .map(|spec| NewTask {
                id: self.next_id(),
                fresh: false,
                envelope: None,
                spec: serde_json::from_value(spec).expect("a task"),
            })
            .collect();
        Command::Submit {
            by: "user:test".to_owned(),
            tasks,
        }
    }

    fn submit(&mut self, spec: Value) -> TaskId {
        let decision = self.submit_all(vec![spec]);
        receipts(&decision)[0].id.clone()
    }

    /// An agent that runs, with an instance for each number of slots; all of epoch 1.
    fn agent(&mut self, name: &str, capabilities: &[&str], slots: &[u32]) {
        let agent = agent_view(FaultState::Running, capabilities, slots, Epoch(1));
        self.fleet(name, agent);
    }

    fn fleet(&mut self, name: &str, agent: FleetAgent) -> Decision {
        self.run(Command::Fleet(FleetChange::Agent(
            agent_id(name),
            Box::new(agent),
        )))
    }

    fn attempt(&self, id: &TaskId) -> (AttemptRef, InstanceKey) {
        let attempt = self
            .tasks
            .record(id)
            .and_then(|r| r.attempt())
            .expect("an attempt under way");
        let key = (attempt.agent_id.clone(), attempt.instance, attempt.epoch);
        (
            AttemptRef {
                task: id.clone(),
                attempt: attempt.number,
                epoch: attempt.epoch,
            },
            key,
        )
    }

    fn agent_of(&self, id: &TaskId) -> String {
        self.attempt(id).1.0.to_string()
    }

    fn end(&mut self, id: &TaskId, result: Result<Value, Failure>) -> Decision {
        let (attempt, key) = self.attempt(id);
        self.run(Command::AttemptEnded {
            attempt,
            key: Some(key),
            result,
        })
    }

    fn succeed(&mut self, id: &TaskId) -> Decision {
        self.end(id, Ok(json!("done")))
    }

    fn fail(&mut self, id: &TaskId, class: FailureClass) -> Decision {
        self.end(id, Err(Failure::new(class, "it broke")))
    }

    /// An instance takes in hand what it was sent.
    fn take_up(&mut self, key: &InstanceKey) {
        let sent: Vec<_> = self.tasks.in_flight_on(key).cloned().collect();
        for id in sent {
            let (attempt, key) = self.attempt(&id);
            self.run(Command::AttemptStarted { attempt, key });
        }
    }

    fn crash(&mut self, id: &TaskId) -> Decision {
        let key = self.attempt(id).1;
        self.take_up(&key);
        self.run(Command::InstanceDown {
            key,
            failure: Failure::new(FailureClass::Crash, "signal 9"),
        })
    }

    fn pass(&mut self, by: Duration) -> Decision {
        self.now = self.now.plus(by);
        self.run(Command::Tick)
    }

    /// Turns the clock to the next timer.
    fn next(&mut self) -> Decision {
        let due = self.tasks.next_timer().into_iter();
        let due = due.chain(self.live.next_timer()).min();
        self.now = due.expect("a timer").max(self.now);
        self.run(Command::Tick)
    }
}

fn agent_id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn agent_view(fault: FaultState, capabilities: &[&str], slots: &[u32], epoch: Epoch) -> FleetAgent {
    let instances = (0..).zip(slots).map(|(no, concurrency)| {
        (
            InstanceNo(no),
            FleetInstance {
                epoch,
                concurrency: *concurrency,
                closed: None,
            },
        )
    });
    FleetAgent {
        capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
        fault,
        instances: instances.collect(),
        ..FleetAgent::default()
    }
}

fn receipts(decision: &Decision) -> &[TaskReceipt] {
    match &decision.answer {
        Answer::Receipts { receipts, .. } => receipts,
        other => panic!("expected receipts, got {other:?}"),
    }
}

fn delivered(decision: &Decision) -> Vec<String> {
    let delivery = |effect: &Effect| match effect {
        Effect::Deliver(delivery) => Some(format!("{}#{}", delivery.task, delivery.attempt)),
        _ => None,
    };
    decision.effects.iter().filter_map(delivery).collect()
}

fn kinds(decision: &Decision) -> Vec<String> {
    decision
        .events
        .iter()
        .map(|(id, event)| format!("{id} {}", event.kind()))
        .collect()
}
