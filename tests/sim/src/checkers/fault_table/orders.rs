//! The rows of the table that begin with an order.

use mesh_actors_core::agent::AgentCommand;
use mesh_actors_core::agent::fault::{kind_in, severity_in};
use mesh_supervision_core::Timestamp;
use mesh_supervision_core::fault::{FaultState, ReasonKind, Severity};

use super::FaultTable;
use crate::edges::Edges;

/// What a person wants of the policy.
pub(super) enum Wish {
    Start,
    Stop,
    Restart,
    Resume,
    Recover(bool),
    Terminate,
    Quarantine(Severity, ReasonKind),
}

pub(super) fn wish(command: &AgentCommand) -> Option<Wish> {
    match command {
        AgentCommand::Start => Some(Wish::Start),
        AgentCommand::Stop => Some(Wish::Stop),
        AgentCommand::Restart => Some(Wish::Restart),
        AgentCommand::Resume => Some(Wish::Resume),
        AgentCommand::Recover { force } => Some(Wish::Recover(*force)),
        AgentCommand::Terminate { .. } => Some(Wish::Terminate),
        AgentCommand::Quarantine { kind, severity, .. } => {
            Some(Wish::Quarantine(severity_in(*severity), kind_in(*kind)))
        }
        _ => None,
    }
}

impl FaultTable {
    /// The refusal that an order must get where the agent stands; `None` when it must be obeyed.
    pub(super) fn refusal(&self, wish: &Wish) -> Option<&'static str> {
        use FaultState as S;
        match (wish, self.state) {
            (Wish::Terminate, _) | (Wish::Stop, S::Stopped) => None,
            (_, S::Terminated) => Some("a terminated agent obeys nothing"),
            (Wish::Quarantine(..), _) => None,
            (Wish::Recover(force), S::Quarantined) => (!force && self.exhausted())
                .then_some("quarantined and exhausted, recover: refused"),
            (Wish::Recover(_), _) => Some("recover outside of quarantine: refused"),
            (_, S::Quarantined) => Some("quarantined, stop, start, restart, resume: refused"),
            (Wish::Start | Wish::Restart, S::Backoff | S::Open) => {
                Some("backoff or open, start, restart: refused")
            }
            (Wish::Start, S::Running) => Some("running, start: refused"),
            (Wish::Start | Wish::Restart, S::HalfOpen | S::Recovering) => {
                Some("on trial, start, restart: refused")
            }
            (Wish::Restart | Wish::Resume, S::Stopped) => Some("stopped, restart, resume: refused"),
            (Wish::Start | Wish::Stop | Wish::Restart | Wish::Resume, _) => None,
        }
    }

    pub(super) fn obey(&mut self, now: Timestamp, wish: &Wish, edges: &mut Edges) {
        use FaultState as S;
        match (wish, self.state) {
            (Wish::Terminate, S::Terminated) | (Wish::Stop, S::Stopped) => {}
            (Wish::Terminate, _) => {
                edges.hit("fault table", "any, terminate: terminated");
                self.go(S::Terminated, now);
                self.step.isolates = true;
            }
            (Wish::Quarantine(severity, kind), S::Quarantined) => {
                edges.hit("fault table", "quarantined, a worse order: quarantined");
                self.worsen((*severity, *kind));
                if let Some(ward) = &mut self.ward {
                    ward.counted = false;
                }
                self.step.isolates = false;
            }
            (Wish::Quarantine(severity, kind), _) => {
                edges.hit("fault table", "any, quarantine order: quarantined");
                let next = *kind != ReasonKind::Manual;
                self.quarantine(now, (*severity, *kind), next, false);
            }
            (Wish::Recover(force), _) => {
                edges.hit(
                    "fault table",
                    if *force {
                        "quarantined, recover --force: recovering"
                    } else {
                        "quarantined, recover: recovering"
                    },
                );
                self.go(S::Recovering, now);
                self.start_trial();
            }
            (Wish::Start, _) if self.ward.is_some() => {
                edges.hit("fault table", "stopped in its trial, start: recovering");
                self.go(S::Recovering, now);
                self.start_trial();
            }
            (Wish::Start, _) => {
                edges.hit("fault table", "stopped, start: running");
                self.go(S::Running, now);
                self.start();
                self.arm_running();
            }
            (Wish::Stop, _) => {
                edges.hit("fault table", "live, stop: stopped");
                self.go(S::Stopped, now);
            }
            (Wish::Restart, _) => {
                edges.hit("fault table", "running, restart: running");
                self.start();
                self.arm_running();
            }
            (Wish::Resume, _) => edges.hit("fault table", "live, resume: same"),
        }
    }
}
