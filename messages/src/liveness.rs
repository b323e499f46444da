//! What is found when an agent lives but gets nowhere, and what is done about it.
//!
//! Liveness is progress, not a clock. Each [`FindingKind`] has one [`FindingAction`] bound to it; which one, and from
//! which limit on, the agent's policy says. `mesh_actors_core::liveness` decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AttemptNo, TaskId};

/// A way in which an agent that lives gets nowhere.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// It declared a heartbeat, has nothing in hand, and was silent for longer than its `ttl`.
    Heartbeat,
    /// It asked to be asked for its health, and does not answer.
    HealthCheck,
    /// It has a task in hand, waits for nothing, and says nothing.
    Silence,
    /// A call that it announced takes longer than the bound that it announced.
    Overrun,
    /// It makes the same calls again and again, and gets the same nothing from them.
    Repetition,
    /// It goes on talking, and its task does not move.
    Stall,
}

impl FindingKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Heartbeat,
        Self::HealthCheck,
        Self::Silence,
        Self::Overrun,
        Self::Repetition,
        Self::Stall,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::HealthCheck => "health_check",
            Self::Silence => "silence",
            Self::Overrun => "overrun",
            Self::Repetition => "repetition",
            Self::Stall => "stall",
        }
    }
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a finding leads to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FindingAction {
    /// The instance is ended as `hang`, which counts against its agent; its tasks are tried again.
    End,
    /// The attempt is given up as `timeout`, which counts against nobody; its task is tried again.
    Cancel,
    /// The instance gets no further task while it has this one in hand, and its health is a warning.
    Alert,
    /// It is not looked for.
    Off,
}

impl FindingAction {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Cancel => "cancel",
            Self::Alert => "alert",
            Self::Off => "off",
        }
    }
}

/// What the level of an instance leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthAction {
    /// It takes work again.
    Resume,
    /// It gets no further work, ends what it has in hand, and is watched.
    Drain,
    /// It is ended; its fault policy says when it is started again.
    Restart,
}

/// Something that was found, with what shows it. Acted upon once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What.
    pub finding: FindingKind,
    /// What is done about it.
    pub action: FindingAction,
    /// The task in whose attempt; absent when the instance had none in hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptNo>,
    /// How often: identical calls, or lines that moved nothing; 0 where nothing is counted.
    pub count: u64,
    /// How long it had lasted when it was found.
    pub lasted_ms: u64,
    /// The time that was allowed.
    pub limit_ms: u64,
    /// The number that was allowed, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_count: Option<u64>,
    /// The call, by its name and the fingerprint of what it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// All of it in a sentence.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for action in [
            FindingAction::End,
            FindingAction::Cancel,
            FindingAction::Alert,
            FindingAction::Off,
        ] {
            assert_eq!(serde_json::to_value(action).unwrap(), action.name());
        }
    }
}
