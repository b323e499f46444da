//! What people want of agents: to take a version in, to start, to stop, to be upgraded.

use std::sync::Arc;

use mesh_actors_core::agent::{AgentCommand, AgentMachine};
use mesh_messages::Severity;
use mesh_messages::agent::{Lifecycle, QuarantineKind};
use mesh_messages::events::AgentEvent;

use super::Released;
use super::seat::{config, manifest};
use crate::checkers::Verdict;
use crate::checkers::fault_table::FaultTable;
use crate::world::{Part, World};

/// Versions that each agent may be upgraded to.
const VERSIONS: [&str; 3] = ["1.0.0", "1.1.0", "1.2.0"];

impl World {
    /// Takes a version in, as the real shell does.
    pub(super) fn register(&mut self, agent: usize, version: usize) -> Verdict {
        let (now, durable) = (self.wall(), self.log.durable);
        let version = VERSIONS[version % VERSIONS.len()];
        let seat = &mut self.seats[agent];
        let Some(mut shell) = seat.shell.take() else {
            return Ok(());
        };
        let stage = shell.owned.state.stage();
        let over = stage == Lifecycle::Audited;
        let known = shell.owned.state.versions.contains_key(version) && !over;
        let shape = (&seat.capabilities[..], seat.concurrency, seat.replicas);
        let parsed = manifest(&seat.id, version, shape);
        let Some(parsed) = parsed.filter(|_| stage != Lifecycle::Terminated && !known) else {
            seat.shell = Some(shell);
            return Ok(());
        };
        let mut events = Vec::new();
        if stage == Lifecycle::Defined {
            let name = seat.id.to_string();
            events.push((AgentEvent::Created { name }, Some(seat.id.clone()), None));
        }
        let digest = format!("blake3:{version}");
        let registered = AgentEvent::Registered {
            manifest: Box::new(parsed),
            digest,
        };
        events.push((registered, Some(seat.id.clone()), None));
        let part = Part::Agent(agent);
        let Some(headers) = self.append(part, &mut shell.owned, &events)? else {
            return Ok(());
        };
        for (header, (event, ..)) in headers.iter().zip(&events) {
            self.apply_agent_event(&mut shell, header, event)?;
        }
        let seat = &mut self.seats[agent];
        if over || shell.owned.state.versions.len() == 1 {
            let config = seat.config.clone();
            seat.table = FaultTable::new(config.clone(), now.as_millis());
            if let Ok(machine) = AgentMachine::new(seat.id.clone(), config, now) {
                shell.machine = machine;
            }
            self.starts.begins_anew(agent);
        }
        let seat = &mut self.seats[agent];
        seat.remember(shell.owned.last(), durable);
        let state = Arc::new(shell.owned.state.clone());
        shell.owned.after_last(vec![Released::Publish(state)]);
        self.trace
            .note(self.now, format_args!("agent {agent} registered {version}"));
        self.seats[agent].shell = Some(shell);
        self.release_agent(agent)
    }

    /// An order that a person may give.
    pub(crate) fn some_order(&mut self) -> AgentCommand {
        let upgrade = |rollback| AgentCommand::Upgrade {
            target: None,
            forceful: false,
            rollback,
            kind: "hard".to_owned(),
        };
        match self.random.between(0, 39) {
            0..=6 => AgentCommand::Start,
            7 | 8 => AgentCommand::Stop,
            9..=11 => AgentCommand::Restart,
            12 | 13 => AgentCommand::Pause,
            14..=16 => AgentCommand::Resume,
            17 | 18 => self.some_quarantine(),
            19..=22 => AgentCommand::Recover { force: false },
            23..=25 => AgentCommand::Recover { force: true },
            26 | 27 => AgentCommand::Terminate {
                reason: "it was enough".to_owned(),
            },
            28..=30 => AgentCommand::Scale {
                replicas: u32::try_from(self.random.between(0, 3)).unwrap_or(1),
            },
            31..=36 => upgrade(false),
            37 | 38 => upgrade(true),
            _ => AgentCommand::Configure(Box::new(config(&mut self.random))),
        }
    }

    pub(super) fn some_quarantine(&mut self) -> AgentCommand {
        const KINDS: [QuarantineKind; 4] = [
            QuarantineKind::Manual,
            QuarantineKind::Crash,
            QuarantineKind::ResourceAbuse,
            QuarantineKind::SecurityViolation,
        ];
        const SEVERITIES: [Severity; 4] = [
            Severity::Low,
            Severity::Medium,
            Severity::High,
            Severity::Critical,
        ];
        AgentCommand::Quarantine {
            kind: KINDS[self.random.index(KINDS.len())],
            severity: SEVERITIES[self.random.index(SEVERITIES.len())],
            description: "by order".to_owned(),
        }
    }
}
