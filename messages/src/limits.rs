//! Limits of a running instance: what they are changed to, and when it runs into one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Connections to the outside at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Bytes per second to and from the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
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
