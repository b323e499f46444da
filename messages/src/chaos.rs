//! Hurting a running mesh on purpose: one blow at a time, bounded, and on the record.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, Epoch, InstanceNo};
use crate::time::Timestamp;

/// Longest time that a blow may last, in milliseconds: longer than any heartbeat's limit, short enough that a forgotten
/// one ends by itself.
pub const CHAOS_DURATION_MAX_MS: u64 = 300_000;
/// How long a blow lasts that does not say, in milliseconds.
pub const CHAOS_DURATION_MS: u64 = 5_000;
/// Most lines of one blow: they are held in memory until they are read.
pub const CHAOS_LINES_MAX: u32 = 100_000;
/// Lines of garbage when the order does not say: enough to be seen, below what counts as flooding.
pub const CHAOS_GARBAGE_LINES: u32 = 20;
/// Lines of a flood when the order does not say.
pub const CHAOS_FLOOD_LINES: u32 = 5_000;

/// The ways to hurt.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ChaosAction {
    /// Every process of an instance gets `SIGKILL`; an actor of the tree is dropped where it stands.
    Kill,
    /// Every process of an instance is stopped for a while, then goes on.
    Pause,
    /// Nothing of what an instance writes is heard for a while.
    Hang,
    /// Memory is eaten inside an instance's limit and held for a while.
    Leak,
    /// Lines that are no envelopes arrive as though an instance had written them.
    Garbage,
    /// Very many well-formed lines arrive as though an instance had written them.
    Flood,
}

impl ChaosAction {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Kill,
        Self::Pause,
        Self::Hang,
        Self::Leak,
        Self::Garbage,
        Self::Flood,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Hang => "hang",
            Self::Leak => "leak",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
        }
    }

    /// Whether it lasts, so that `durationMs` means something.
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Pause | Self::Hang | Self::Leak)
    }

    /// Whether it writes, so that `lines` means something.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Garbage | Self::Flood)
    }
}

impl std::fmt::Display for ChaosAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChaosAction {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|action| action.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|action| action.name()).collect();
            format!("must be one of {}", names.join(", "))
        })
    }
}

/// The body of `POST /v1/chaos`: one blow. Names either an `agent` or a `part`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChaosOrder {
    /// How to hurt.
    pub action: ChaosAction,
    /// The agent to hurt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Which of its replicas; without it, the first that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceNo>,
    /// An actor of the supervision tree instead, such as `orchestrator`, `work` or `agent:<id>`. Only for `kill`, and
    /// never the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// How long `pause`, `hang` and `leak` last; 5000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300_000))]
    pub duration_ms: Option<u64>,
    /// How many lines `garbage` (20 when absent) and `flood` (5000 when absent) write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub lines: Option<u32>,
    /// How much memory `leak` eats; all that the agent may have when absent, and never more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bytes: Option<u64>,
    /// Which garbage: the same number gives the same lines.
    #[serde(default)]
    pub seed: u64,
}

impl ChaosOrder {
    /// A blow at one of an agent's replicas, with everything else left to meshd.
    pub fn at_agent(action: ChaosAction, agent: AgentId, instance: Option<InstanceNo>) -> Self {
        Self {
            agent: Some(agent),
            instance,
            ..Self::empty(action)
        }
    }

    /// A blow at an actor of the tree.
    pub fn at_part(part: impl Into<String>) -> Self {
        Self {
            part: Some(part.into()),
            ..Self::empty(ChaosAction::Kill)
        }
    }

    fn empty(action: ChaosAction) -> Self {
        Self {
            action,
            agent: None,
            instance: None,
            part: None,
            duration_ms: None,
            lines: None,
            bytes: None,
            seed: 0,
        }
    }
}

/// What a blow fell on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChaosTarget {
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Its replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceNo>,
    /// The incarnation of the replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The process that was hurt, as the host numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The actor of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Which incarnation of that actor, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl std::fmt::Display for ChaosTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.agent, &self.part) {
            (_, Some(part)) => f.write_str(part)?,
            (Some(agent), None) => write!(f, "{agent}")?,
            (None, None) => f.write_str("nothing")?,
        }
        if let Some(instance) = self.instance {
            write!(f, "#{instance}")?;
        }
        if let Some(epoch) = self.epoch {
            write!(f, " epoch {epoch}")?;
        }
        match self.pid {
            Some(pid) => write!(f, " pid {pid}"),
            None => Ok(()),
        }
    }
}

/// One blow, with every value filled in. It is in the audit log, as `chaos.struck`, before it falls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChaosBlow {
    /// Its id, the same here and in the audit log.
    pub id: String,
    /// How it hurts.
    pub action: ChaosAction,
    /// What it falls on.
    pub target: ChaosTarget,
    /// How long it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How many lines it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// How much memory it eats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it was decided.
    pub at: Timestamp,
}

/// The answer to `POST /v1/chaos`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChaosAnswer {
    /// What was done, to what.
    pub blow: ChaosBlow,
    /// What came of it at once, in words.
    pub effect: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_as_they_are_written() {
        for action in ChaosAction::ALL {
            assert_eq!(action.name().parse(), Ok(action));
            assert_eq!(serde_json::to_value(action).unwrap(), action.name());
        }
        assert!(
            "explode"
                .parse::<ChaosAction>()
                .unwrap_err()
                .contains("kill, pause")
        );
    }

    #[test]
    fn an_order_takes_nothing_that_it_does_not_know() {
        let order = serde_json::from_str::<ChaosOrder>(r#"{"action":"kill","agent":"a"}"#).unwrap();
        let expected = ChaosOrder::at_agent(ChaosAction::Kill, AgentId::new("a").unwrap(), None);
        assert_eq!(order, expected);
        assert!(serde_json::from_str::<ChaosOrder>(r#"{"action":"kill","host":"a"}"#).is_err());
    }

    #[test]
    fn a_target_reads_as_people_name_it() {
        let target = ChaosTarget {
            agent: Some(AgentId::new("echo").unwrap()),
            instance: Some(InstanceNo(1)),
            epoch: Some(Epoch(7)),
            pid: Some(42),
            part: None,
            actor: None,
        };
        assert_eq!(target.to_string(), "echo#1 epoch 7 pid 42");
    }
}
