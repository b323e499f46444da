//! What an agent remembers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::ByteCount;

/// What an agent remembers, and where. Absent: nothing that outlives an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryConfig {
    /// How long memory lives.
    #[serde(default, rename = "type")]
    pub kind: MemoryType,
    /// Where it lies; by default as the type demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<MemoryBackend>,
    /// Seconds after which a value that was not written again is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_153_600_000_u64))]
    pub ttl: Option<u64>,
    /// Most that it may hold; a bare number counts megabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteCount>,
    /// Survives restarts. Must not contradict `type`; by default as the type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
    /// Lets other agents read it.
    #[serde(default)]
    pub shared_access: bool,
}

impl MemoryConfig {
    /// Whether anything survives a restart.
    pub fn is_persistent(&self) -> bool {
        self.persistent.unwrap_or(self.kind != MemoryType::Volatile)
    }

    /// Where memory lies, once defaults are filled in.
    pub fn effective_backend(&self) -> MemoryBackend {
        self.backend.unwrap_or(match self.kind {
            MemoryType::Volatile => MemoryBackend::Memory,
            MemoryType::Persistent | MemoryType::Hybrid => MemoryBackend::Embedded,
        })
    }
}

/// How long memory lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryType {
    /// As long as the instance; it never reaches a disk.
    #[default]
    Volatile,
    /// Until it is deleted or its `ttl` ends.
    Persistent,
    /// Keys written without `ttl` persist, those with one are volatile.
    Hybrid,
}

/// Where memory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryBackend {
    /// The daemon's working memory.
    Memory,
    /// The daemon's own durable store.
    Embedded,
    /// A browser's store, which a daemon has not: the durable store instead.
    Indexeddb,
    /// Served by the durable store, too.
    Sqlite,
    /// Served by the durable store, too.
    Redis,
}
