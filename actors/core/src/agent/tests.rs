//! An agent around the machine: what it starts and stops is tracked, and every step is checked against the promises.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::agent::{Lifecycle, QuarantineKind};
use mesh_messages::events::{AgentEvent, partition};
use mesh_messages::manifest::{ManifestFormat, parse_manifest};
use mesh_messages::{
    AgentId, Epoch, Failure, FailureClass, InstanceNo, Position, RecordHeader, Severity, TaskId,
    Timestamp,
};
use mesh_supervision_core::fault::{FaultConfig, FaultState};

use serde_json::{Value, json};

use super::*;

mod failures;
mod handover;
mod orders;
mod properties;
mod upgrades;

const START: u64 = 1_800_000_000_000;

/// A process as the shell would have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    epoch: Epoch,
    shook: bool,
    ready: bool,
    told: bool,
}

/// Why an instance was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The policy, an order, a boot.
    Wanted,
    /// It had ended as nobody's failure.
    Unscored,
}

struct World {
    id: AgentId,
    config: FaultConfig,
    machine: AgentMachine,
    state: AgentState,
    /// Fed with the same events after a trip through their stored form.
    replayed: AgentState,
    now: Timestamp,
    processes: BTreeMap<InstanceNo, Process>,
    timer: Option<(u64, Timestamp)>,
    rest: Option<Timestamp>,
    starts: Vec<(Timestamp, InstanceNo, Why)>,
    last_epoch: Epoch,
    isolated: bool,
    closed: bool,
    /// An agent that it needs is not there.
    lacks: bool,
}

impl World {
    /// A registered agent that was never started.
    fn new(replicas: u32) -> Self {
        Self::with(replicas, FaultConfig::default())
    }

    fn with(replicas: u32, config: FaultConfig) -> Self {
        let id = AgentId::new("a").unwrap();
        let now = Timestamp::from_millis(START);
        let mut world = Self {
            machine: AgentMachine::new(id.clone(), config.clone(), now).unwrap(),
            id,
            config,
            state: AgentState::default(),
            replayed: AgentState::default(),
            now,
            processes: BTreeMap::new(),
            timer: None,
            rest: None,
            starts: Vec::new(),
            last_epoch: Epoch(0),
            isolated: false,
            closed: false,
            lacks: false,
        };
        world.apply(&AgentEvent::Created { name: "a".into() });
        world.register("1.0.0", replicas);
        world.run(AgentCommand::Boot);
        world
    }

    /// All replicas serve.
    fn serving(replicas: u32) -> Self {
        let mut world = Self::new(replicas);
        world.run(AgentCommand::Start);
        world.all_ready();
        world
    }

    fn register(&mut self, version: &str, replicas: u32) {
        let text = format!(
            r#"{{"id":"a","version":"{version}","capabilities":["x"],"entry":"run.sh","replicas":{replicas}}}"#
        );
        let manifest = parse_manifest(text.as_bytes(), ManifestFormat::Json)
            .unwrap()
            .manifest;
        self.isolated &= self.state.stage() != Lifecycle::Audited;
        self.apply(&AgentEvent::Registered {
            manifest: Box::new(manifest),
            digest: format!("blake3:{version}"),
        });
    }

    fn apply(&mut self, event: &AgentEvent) {
        let header = RecordHeader {
            v: 1,
            ns: "default".into(),
            log: String::new(),
            position: Position(self.state.records),
            partition: partition::agent(&self.id),
            seq: self.state.records,
            time: self.now,
            lc: 0,
            kind: event.kind().into(),
            kv: 1,
            agent: Some(self.id.clone()),
            task: None,
            actor: "user:test".to_owned(),
            cause: None,
            correlation: None,
            payload: String::new(),
        };
        let (from, alone) = (self.state.stage(), self.state.instances.len() <= 1);
        self.state.apply(&header, event);
        check_step(from, self.state.stage(), event, alone);
        let stored = serde_json::to_vec(event).unwrap();
        self.replayed
            .apply(&header, &serde_json::from_slice(&stored).unwrap());
        assert_eq!(self.state, self.replayed, "replay differs after {event:?}");
    }

    fn try_run(&mut self, command: AgentCommand) -> Result<Decision, AgentRefusal> {
        let unscored = match &command {
            AgentCommand::Rested => true,
            AgentCommand::Ended {
                failure: Some(failure),
                ..
            } => !failure.class.is_scored() && !self.closed,
            _ => false,
        };
        let around = Around {
            sandbox: &|_: &str| None,
            lacks: self.lacks,
        };
        let decision = self
            .machine
            .step(&self.state, self.now, u64::MAX, &around, command)?;
        for event in &decision.events {
            self.apply(event);
        }
        // A new life, or the way back.
        self.isolated &= self.fault() != FaultState::Recovering;
        for effect in &decision.effects {
            self.perform(effect, unscored);
        }
        self.check();
        Ok(decision)
    }

    #[track_caller]
    fn run(&mut self, command: AgentCommand) -> Decision {
        self.try_run(command).unwrap()
    }

    fn perform(&mut self, effect: &AgentEffect, unscored: bool) {
        match effect {
            AgentEffect::Spawn {
                instance, epoch, ..
            } => {
                assert!(*epoch > self.last_epoch, "epoch {epoch} was given before");
                self.last_epoch = *epoch;
                let policy = self.machine.policy().record().state;
                assert!(policy.is_started(), "started while its policy is {policy}");
                assert!(!self.isolated, "started before it was to recover");
                assert!(!self.closed, "started although meshd is about to end");
                let process = Process {
                    epoch: *epoch,
                    shook: false,
                    ready: false,
                    told: false,
                };
                let before = self.processes.insert(*instance, process);
                assert_eq!(before, None, "two incarnations of {instance} at once");
                let why = if unscored { Why::Unscored } else { Why::Wanted };
                self.starts.push((self.now, *instance, why));
            }
            AgentEffect::Stop {
                instance, epoch, ..
            } => {
                let process = self.processes.get_mut(instance);
                process.filter(|p| p.epoch == *epoch).unwrap().told = true;
            }
            AgentEffect::Arm { token, at } => self.timer = Some((*token, *at)),
            AgentEffect::Disarm => self.timer = None,
            AgentEffect::Rest { until } => {
                assert!(*until > self.now, "a rest that is over already");
                self.rest = Some(*until);
            }
            AgentEffect::Isolate => self.isolated = true,
            AgentEffect::Release => self.isolated = false,
            AgentEffect::Paused(_)
            | AgentEffect::Kept { .. }
            | AgentEffect::Down { .. }
            | AgentEffect::Deliver
            | AgentEffect::Decline { .. }
            | AgentEffect::Seal
            | AgentEffect::Escalate { .. }
            | AgentEffect::UpgradeDone { .. } => {}
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let known: Vec<_> = self
            .state
            .instances
            .iter()
            .map(|(n, i)| (*n, i.epoch))
            .collect();
        let there: Vec<_> = self.processes.iter().map(|(n, p)| (*n, p.epoch)).collect();
        assert_eq!(known, there, "the state and the processes differ");
        let record = self.machine.policy().record();
        if record.state == FaultState::Quarantined {
            assert!(
                self.processes.values().all(|p| p.told),
                "a quarantined agent executes"
            );
        }
        let stored = self
            .state
            .fault_record
            .as_ref()
            .and_then(fault::from_stored);
        if let Some(stored) = stored {
            assert_eq!(*record, stored, "the policy is ahead of its record");
        }
        // Whatever waits, waits for something.
        let wanted = record.state.is_started() && !self.closed;
        if wanted && self.state.replicas > 0 && self.processes.is_empty() {
            let due = self.rest.is_some() || self.lacks;
            assert!(due, "nothing runs and nothing is due");
        }
        if matches!(record.state, FaultState::Backoff | FaultState::Open) {
            assert!(self.timer.is_some(), "{} without a timer", record.state);
        }
    }

    // ---- what processes do ----

    fn shake(&mut self, no: u32) -> Decision {
        let instance = InstanceNo(no);
        let process = self.processes.get_mut(&instance).unwrap();
        process.shook = true;
        let epoch = process.epoch;
        self.run(AgentCommand::Handshaken {
            instance,
            epoch,
            hooks: vec!["health".to_owned()],
            proven: None,
        })
    }

    fn ready(&mut self, no: u32) -> Decision {
        let instance = InstanceNo(no);
        let process = self.processes.get_mut(&instance).unwrap();
        process.ready = true;
        let epoch = process.epoch;
        self.run(AgentCommand::Ready { instance, epoch })
    }

    fn all_ready(&mut self) {
        let unready: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, p)| !p.ready && !p.told)
            .map(|(no, _)| no.0)
            .collect();
        for no in unready {
            self.shake(no);
            self.ready(no);
        }
    }

    fn end(&mut self, no: u32, failure: Option<FailureClass>) -> Decision {
        let instance = InstanceNo(no);
        let epoch = self.processes.remove(&instance).unwrap().epoch;
        let failure = failure.map(|class| Failure::new(class, "test"));
        self.run(AgentCommand::Ended {
            instance,
            epoch,
            failure,
        })
    }

    /// What was told to stop ends.
    fn all_stopped(&mut self) {
        let told: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, p)| p.told)
            .map(|(no, _)| no.0)
            .collect();
        for no in told {
            self.end(no, None);
        }
    }

    // ---- time ----

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// Lets time pass until the policy's timer is due, and delivers it.
    fn fire(&mut self) -> Decision {
        let (token, at) = self.timer.take().unwrap();
        self.now = self.now.max(at);
        self.run(AgentCommand::Timer { token })
    }

    fn wake(&mut self) -> Decision {
        let until = self.rest.take().unwrap();
        self.now = self.now.max(until);
        self.run(AgentCommand::Rested)
    }

    /// `kill -9` of meshd, and its next start.
    fn reboot(&mut self) -> Decision {
        self.machine = AgentMachine::new(self.id.clone(), self.config.clone(), self.now).unwrap();
        self.processes.clear();
        (self.timer, self.rest, self.closed) = (None, None, false);
        self.run(AgentCommand::Boot)
    }

    fn fault(&self) -> FaultState {
        self.machine.policy().record().state
    }
}

/// Checks one event's step of the nine stages. Of several replicas, the end of the furthest leads back to `Registered`
/// and from there to where the next one stands.
fn check_step(from: Lifecycle, to: Lifecycle, event: &AgentEvent, alone: bool) {
    let reborn = from == Lifecycle::Audited && matches!(event, AgentEvent::Registered { .. });
    if from == to || from.may_become(to) || reborn {
        return;
    }
    let ended = matches!(
        event,
        AgentEvent::InstanceFailed { .. } | AgentEvent::InstanceStopped { .. }
    );
    let climbed = matches!(
        to,
        Lifecycle::Activated | Lifecycle::Handshaken | Lifecycle::Executing
    );
    let legal = !alone && ended && from.may_become(Lifecycle::Registered) && climbed;
    assert!(legal, "{from} became {to} by {event:?}");
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).unwrap()
}

fn isolate(severity: Severity) -> AgentCommand {
    AgentCommand::Quarantine {
        kind: QuarantineKind::Manual,
        severity,
        description: "test".to_owned(),
    }
}

/// An event in a word or two.
fn event(event: &AgentEvent) -> String {
    match event {
        AgentEvent::FaultChanged { view, .. } => format!("fault {}", view.state.name()),
        AgentEvent::Activated {
            instance,
            epoch,
            version,
            ..
        } => format!("activated {instance}@{epoch} {version}"),
        AgentEvent::Handshaken {
            instance, epoch, ..
        } => format!("handshaken {instance}@{epoch}"),
        AgentEvent::Started { instance, epoch } => format!("started {instance}@{epoch}"),
        AgentEvent::InstanceStopped {
            instance, epoch, ..
        } => format!("stopped {instance}@{epoch}"),
        AgentEvent::InstanceFailed {
            instance,
            epoch,
            failure,
        } => format!("failed {instance}@{epoch} {}", failure.class),
        AgentEvent::Quarantined { record } => format!("quarantined {:?}", record.reason.severity),
        AgentEvent::DesiredChanged {
            running,
            paused,
            replicas,
        } => format!("desired running={running} paused={paused} replicas={replicas}"),
        AgentEvent::LifecycleChanged { from, to } => format!("{from} -> {to}"),
        AgentEvent::Upgraded {
            from, to, success, ..
        } => format!("upgraded {from} {to} {success}"),
        AgentEvent::Audited { records } => format!("audited {records}"),
        AgentEvent::Finding { finding, .. } => format!("finding {}", finding.finding),
        AgentEvent::LimitsChanged { .. } => "limits changed".to_owned(),
        AgentEvent::LimitBreached { breach, .. } => format!("breached {}", breach.limit.name()),
        AgentEvent::InstanceFrozen { frozen, .. } => format!("frozen {frozen}"),
        AgentEvent::StateSaved {
            instance, epoch, ..
        } => format!("saved {instance}@{epoch}"),
        AgentEvent::StateRestored {
            instance,
            epoch,
            from,
        } => format!("restored {instance}@{epoch} from {from}"),
        AgentEvent::StateLost {
            instance, epoch, ..
        } => format!("lost {instance}@{epoch}"),
        AgentEvent::InstanceHealth { from, to, .. } => format!("health {from:?} -> {to:?}"),
        AgentEvent::Created { .. }
        | AgentEvent::Registered { .. }
        | AgentEvent::Recovered { .. }
        | AgentEvent::ProbationPassed { .. }
        | AgentEvent::Terminated { .. } => event.kind().to_owned(),
    }
}

/// An effect in a word or two; times from now on.
fn effect(effect: &AgentEffect, now: Timestamp) -> String {
    match effect {
        AgentEffect::Spawn {
            instance,
            epoch,
            version,
            upgraded_from,
        } => match upgraded_from {
            None => format!("spawn {instance}@{epoch} {version}"),
            Some(from) => format!("spawn {instance}@{epoch} {version} from {from}"),
        },
        AgentEffect::Stop {
            instance,
            epoch,
            how: StopKind::Drain,
        } => format!("drain {instance}@{epoch}"),
        AgentEffect::Stop {
            instance,
            epoch,
            how: StopKind::HandOver,
        } => format!("hand over {instance}@{epoch}"),
        AgentEffect::Kept { epoch } => format!("kept {epoch}"),
        AgentEffect::Stop {
            instance,
            epoch,
            how: StopKind::Kill,
        } => format!("kill {instance}@{epoch}"),
        AgentEffect::Paused(paused) => format!("paused {paused}"),
        AgentEffect::Down {
            instance,
            epoch,
            failure,
        } => format!("down {instance}@{epoch} {}", failure.class),
        AgentEffect::Arm { at, .. } => format!("arm +{}", at.since(now).as_millis()),
        AgentEffect::Rest { until } => format!("rest +{}", until.since(now).as_millis()),
        AgentEffect::UpgradeDone { error } => format!("upgrade done {}", error.is_none()),
        AgentEffect::Disarm => "disarm".to_owned(),
        AgentEffect::Deliver => "deliver".to_owned(),
        AgentEffect::Decline { .. } => "decline".to_owned(),
        AgentEffect::Isolate => "isolate".to_owned(),
        AgentEffect::Release => "release".to_owned(),
        AgentEffect::Seal => "seal".to_owned(),
        AgentEffect::Escalate { .. } => "escalate".to_owned(),
    }
}

/// The whole answer.
#[track_caller]
fn expect(world: &World, decision: &Decision, events: &[&str], effects: &[&str]) {
    let seen: Vec<_> = decision.events.iter().map(event).collect();
    assert_eq!(seen, events, "events");
    let seen: Vec<_> = decision
        .effects
        .iter()
        .map(|e| effect(e, world.now))
        .collect();
    assert_eq!(seen, effects, "effects");
}
