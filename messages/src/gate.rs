//! The gate before a provider's account: what everybody who uses the account waits behind after its limit was reached.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, TaskId};
use crate::time::Timestamp;

/// Longest text of a provider's refusal that a gate keeps, in bytes: it is shown with every task that waits.
pub const GATE_REASON_BYTES_MAX: usize = 512;

/// Where a gate stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// Nobody passes until its time has come.
    Closed,
    /// It opens little by little: one attempt first, then more and more at a time.
    Ramping,
    /// Everybody passes.
    Open,
}

impl GateState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Ramping => "ramping",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for GateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The gate of one account, as it is recorded and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderGate {
    /// `provider:<name>` as manifests name it, or `agent:<id>` of an agent that names none.
    pub account: String,
    /// Where it stands.
    pub state: GateState,
    /// What the provider's refusal said, as the agent told it.
    pub reason: String,
    /// The agent that ran into the limit last.
    pub agent: AgentId,
    /// The task that it was about.
    pub task: TaskId,
    /// Since when it stands there.
    pub since: Timestamp,
    /// When it takes its next step by itself.
    pub until: Timestamp,
    /// How often it closed without having been open in between.
    pub strikes: u32,
    /// Attempts that may be under way at one time; none while it is closed.
    pub permits: u32,
    /// Attempts that were under way when it closed; with more permits than these it is open.
    pub peak: u32,
}
