//! Limits of a running instance: what they are changed to, and when it runs into one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::OperatorPolicy;
use crate::units::{ByteCount, Cpu};

/// The limits of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceLimits {
    /// Thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u32>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Bytes a second read from disks, and as many written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_bytes_per_second: Option<u64>,
    /// Connections to the outside at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Bytes per second to and from the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
}

/// `POST /v1/agents/{id}/limit`: limits of one agent that are to be others. What is not named stays as it is. They are the
/// operator's word for this agent, above its manifest, and stay until they are changed or taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// Processor time; a bare number counts cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory; a bare number counts megabytes, here and below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteCount>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pids: Option<u32>,
    /// Disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteCount>,
    /// Bytes a second read from disks, and as many written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<ByteCount>,
    /// Connections to the outside at once; none at all with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Bytes a second to and from the outside, together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteCount>,
    /// Taken back: what the manifest and the configuration say holds again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub reset: Vec<LimitName>,
}

/// A limit that can be changed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of `LimitChange` say it")]
pub enum LimitName {
    Cpu,
    Memory,
    Pids,
    Disk,
    Io,
    Connections,
    Bandwidth,
}

impl LimitName {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Memory,
        Self::Pids,
        Self::Disk,
        Self::Io,
        Self::Connections,
        Self::Bandwidth,
    ];

    /// The name, as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Io => "io",
            Self::Connections => "connections",
            Self::Bandwidth => "bandwidth",
        }
    }
}

impl LimitChange {
    /// What the operator's word for the agent is with this change.
    pub fn onto(&self, policy: &OperatorPolicy) -> OperatorPolicy {
        let mut after = policy.clone();
        let (own, way) = (&mut after.resource_limits, &mut after.network_limit);
        for name in &self.reset {
            match name {
                LimitName::Cpu => own.cpu = None,
                LimitName::Memory => own.memory = None,
                LimitName::Pids => own.pids = None,
                LimitName::Disk => own.disk = None,
                LimitName::Io => own.io = None,
                LimitName::Connections => way.max_connections = None,
                LimitName::Bandwidth => way.bandwidth = None,
            }
        }
        own.cpu = self.cpu.or(own.cpu);
        own.memory = self.memory.or(own.memory);
        own.pids = self.pids.or(own.pids);
        own.disk = self.disk.or(own.disk);
        own.io = self.io.or(own.io);
        way.max_connections = self.connections.or(way.max_connections);
        way.bandwidth = self.bandwidth.or(way.bandwidth);
        after
    }

    /// Whether it names nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A limit that is both set and taken back.
    pub fn contradiction(&self) -> Option<LimitName> {
        let set = |name: &LimitName| match name {
            LimitName::Cpu => self.cpu.is_some(),
            LimitName::Memory => self.memory.is_some(),
            LimitName::Pids => self.pids.is_some(),
            LimitName::Disk => self.disk.is_some(),
            LimitName::Io => self.io.is_some(),
            LimitName::Connections => self.connections.is_some(),
            LimitName::Bandwidth => self.bandwidth.is_some(),
        };
        self.reset.iter().copied().find(set)
    }
}

/// The answer to a change of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsInForce {
    /// What holds for every instance from now on, as far as the kernel lets it; the record `limits.changed` of an instance
    /// says what only holds from its next start on.
    pub limits: InstanceLimits,
}

/// What an instance can have too much of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Processor time: its share was used up most of the time.
    Cpu,
    /// Memory: the kernel ended a process of it.
    Memory,
    /// Processes and threads: the kernel refused one.
    Pids,
    /// Disk: its home holds more.
    Disk,
}

impl Limit {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
        }
    }
}

/// What follows a breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreachAction {
    /// Nothing: the kernel holds the limit, and the instance goes on within it.
    Held,
    /// The instance is ended, as `resource`.
    End,
}

/// An instance ran into a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Breach {
    /// Which.
    pub limit: Limit,
    /// The limit's value: millicores, bytes, or a number.
    pub allowed: Option<u64>,
    /// What was seen: bytes on the disk, or how often the kernel had to hold it since the last record of this kind.
    pub seen: u64,
    /// What is done.
    pub action: BreachAction,
    /// In words.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> LimitChange {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let none = OperatorPolicy::default();
        let first = change(r#"{"cpu":"500m","connections":3}"#).onto(&none);
        let second = change(r#"{"memory":"64MiB","bandwidth":"10KB"}"#).onto(&first);
        assert_eq!(
            (
                second.resource_limits.cpu,
                second.network_limit.max_connections
            ),
            (Some(Cpu::from_millicores(500)), Some(3))
        );
        let names = LimitName::ALL.map(LimitName::name);
        let all = change(&serde_json::json!({ "reset": names }).to_string());
        assert_eq!(all.onto(&second), none);
    }

    #[test]
    fn what_is_set_and_taken_back_at_once_is_found() {
        for name in LimitName::ALL {
            let mut text = serde_json::json!({ "reset": [name.name()] });
            assert_eq!(change(&text.to_string()).contradiction(), None);
            text[name.name()] = 1.into();
            assert_eq!(change(&text.to_string()).contradiction(), Some(name));
        }
        assert!(change("{}").is_empty() && !change(r#"{"pids":1}"#).is_empty());
    }
}
