//! Signals to an agent's own process, as any process can be sent them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AgentId, Epoch, InstanceNo};

/// A signal that people send. What stops, freezes and ends agents has orders of its own, which are durable: `restart` and
/// `stop` instead of KILL, `pause` and `resume` instead of STOP and CONT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum AgentSignal {
    /// Read the configuration again; ends a program that does not handle it.
    Hup,
    /// Leave off, as from a terminal.
    Int,
    /// Leave off, and say where you are.
    Quit,
    /// End in order; the supervisor takes it for an end that nobody ordered.
    Term,
    /// Whatever the program takes it for; ends one that does not handle it.
    Usr1,
    /// The same.
    Usr2,
    /// The window has another size; programs that do not handle it ignore it.
    Winch,
}

impl AgentSignal {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hup,
        Self::Int,
        Self::Quit,
        Self::Term,
        Self::Usr1,
        Self::Usr2,
        Self::Winch,
    ];

    /// Its name, without `SIG`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Term => "TERM",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Winch => "WINCH",
        }
    }
}

/// `POST /v1/agents/{id}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignalOrder {
    /// Which.
    pub signal: AgentSignal,
    /// To which instance; all that run when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceNo>,
}

/// Who got a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignalSent {
    /// Which agent.
    pub agent_id: AgentId,
    /// Which signal.
    pub signal: AgentSignal,
    /// Its incarnations.
    pub instances: Vec<SignalledInstance>,
}

/// An incarnation that got a signal: the agent's own process, or each that it runs for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignalledInstance {
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
}
