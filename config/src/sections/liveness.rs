//! When an agent that lives counts as getting nowhere.

use mesh_messages::liveness::FindingAction;
use mesh_messages::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When an agent that lives counts as getting nowhere, and what is done then: `end` its instance (which counts against
/// it), `cancel` the attempt (which does not), `alert` (it is watched and gets no further task meanwhile), or `off`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LivenessDefaults {
    /// A task in hand, nothing that it waits for, and not a line.
    pub silence: SilenceDefaults,
    /// Lines keep coming, and the task's progress does not move.
    pub stall: StallDefaults,
    /// The same calls again and again, and nothing new.
    pub repetition: RepetitionDefaults,
    /// A call that outlasts the bound with which it was announced.
    pub overrun: OverrunDefaults,
}

/// A task in hand, nothing that it waits for, and not a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SilenceDefaults {
    /// How long that may last; as long as the attempt when null.
    pub limit: Option<Span>,
    /// What is done then.
    pub action: FindingAction,
}

impl Default for SilenceDefaults {
    fn default() -> Self {
        Self {
            limit: None,
            action: FindingAction::End,
        }
    }
}

/// Lines keep coming, and the task's progress does not move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StallDefaults {
    /// How long that may last, without the time of calls in flight.
    pub limit: Span,
    /// What is done then.
    pub action: FindingAction,
}

impl Default for StallDefaults {
    fn default() -> Self {
        Self {
            limit: Span::from_secs(30 * 60),
            action: FindingAction::Alert,
        }
    }
}

/// The same calls again and again, and nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepetitionDefaults {
    /// How many identical calls that takes.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub limit: u32,
    /// Least time that they take: what is quicker is only quick.
    pub over: Span,
    /// What is done then.
    pub action: FindingAction,
}

impl Default for RepetitionDefaults {
    fn default() -> Self {
        Self {
            limit: 250,
            over: Span::from_secs(120),
            action: FindingAction::Cancel,
        }
    }
}

/// A call that outlasts the bound with which it was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverrunDefaults {
    /// Longest bound; longer ones are cut to this.
    pub max: Span,
    /// What is done then.
    pub action: FindingAction,
}

impl Default for OverrunDefaults {
    fn default() -> Self {
        Self {
            max: Span::from_secs(3600),
            action: FindingAction::Cancel,
        }
    }
}
