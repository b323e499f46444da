//! The agent manifest: what an agent is, what it may do, and what it needs.
//!
//! The spelling is fixed; what a manifest leaves out is the least privilege. The JSON Schema is derived from these
//! types and is itself what a manifest is checked against, so the two cannot disagree; contradictions that a schema
//! cannot express are checked after it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::budget::{AMOUNT_MAX, AccountBudget, Money};
use crate::ids::AgentId;
use crate::time::Timestamp;
use crate::units::Span;

mod bundle;
mod check;
mod liveness;
mod memory;
mod pattern;
mod permission;
mod policy;
mod read;
mod runtime;
mod security;

pub use bundle::{BundleFile, MANIFEST_FILES, bundle_files_digest};
pub use liveness::{LivenessPolicy, OverrunRule, RepetitionRule, TimeRule};
pub use memory::{MemoryBackend, MemoryConfig, MemoryType};
pub use permission::{
    Action, FileGrant, FileGrants, FileRights, Need, NetworkGrant, Permission, ResourceKind,
};
pub use policy::{
    AgentPolicy, LifecyclePolicy, MAX_CRASHES_MAX, NetworkLimit, PolicyOverrides, ResourceLimits,
    SandboxLevel, SecurityPolicy,
};
pub use read::{
    MANIFEST_BYTES_MAX, ManifestErrors, ManifestFormat, ParsedManifest, manifest_schema,
    parse_manifest,
};
pub use runtime::{BUILTINS, Program, ResolvedRuntime, RuntimeKind, RuntimeSpec};
pub use security::{
    Crypto, FileAccessPolicy, ManifestSignature, ManifestSignatureError, NetworkPolicy,
    RequestPolicy, SecretMode, SecretSpec, SecurityConfig, TopicPolicy, manifest_signing_input,
    verify_manifest_signature,
};

/// An agent, as its author describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentManifest {
    /// Unique identifier. It names the agent for good, across versions and restarts.
    pub id: AgentId,
    /// Name for people; the id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub name: Option<String>,
    /// Semantic version, such as `1.0.3`.
    #[schemars(with = "pattern::SemanticVersion")]
    pub version: semver::Version,
    /// The file to run, inside the bundle, or `builtin:<name>`. Required unless `runtime.command` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub entry: Option<String>,
    /// Behavioural profile.
    #[serde(default)]
    pub persona: Persona,
    /// What it can do. Only these capabilities can be matched by a task or invoked.
    #[schemars(with = "Vec<pattern::Capability>", length(min = 1, max = 256), extend("uniqueItems" = true))]
    pub capabilities: Vec<String>,
    /// What it remembers, and where.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// What it may touch. Absent: no network, no files, no permissions.
    #[serde(default)]
    pub security: SecurityConfig,
    /// What must be there before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub dependencies: Vec<Dependency>,
    /// Who made it, and when.
    #[serde(default)]
    pub metadata: AgentMetadata,
    /// How it runs; inferred from `entry` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeSpec>,
    /// What each capability takes, gives and costs. Keys are capabilities of this manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, CapabilityProfile>,
    /// Tasks that one instance works on at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = crate::agent::CONCURRENCY_MAX))]
    pub concurrency: NonZeroU32,
    /// Instances to run.
    #[serde(default = "one_replica")]
    #[schemars(range(min = 0, max = crate::agent::REPLICAS_MAX))]
    pub replicas: u32,
    /// Declares that the agent reports its health by itself; without it, liveness is the process and the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// What differs from the daemon's default policy.
    #[serde(default)]
    pub policy: AgentPolicy,
    /// What it may use up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Secrets it needs, by reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub secrets: Vec<SecretSpec>,
    /// The publisher's signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ManifestSignature>,
    /// Whatever other tools keep here; meshd stores it and reads nothing of it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extensions: Map<String, Value>,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

const fn one_replica() -> u32 {
    1
}

impl AgentManifest {
    /// The name for people.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }

    /// Whether the agent declares this capability.
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().any(|c| c == name)
    }

    /// Whether nothing counts as the agent's that it did not sign itself, with its own registered key.
    pub fn signs_itself(&self) -> bool {
        self.policy.overrides().crypto_required == Some(true)
    }

    /// The field in which it asks for no sandbox, if it does.
    pub fn declines_sandbox(&self) -> Option<&'static str> {
        if !self.security.sandbox {
            Some("security.sandbox")
        } else if self.policy.overrides().sandbox == Some(false) {
            Some("policy.sandbox")
        } else {
            None
        }
    }

    /// The registered service that does the agent's tasks, where its `entry` names one.
    pub fn service(&self) -> Option<crate::workflow::RegisteredCall> {
        self.entry.as_deref().and_then(runtime::service)
    }

    /// How the agent is run, with everything inferred that the manifest leaves out.
    pub fn resolved_runtime(&self) -> ResolvedRuntime {
        runtime::resolve(self)
    }
}

/// What kind of helper an agent is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Persona {
    /// General purpose helper.
    Assistant,
    /// Domain expert.
    Specialist,
    /// Security and monitoring.
    Guardian,
    /// Coordinates other agents.
    Orchestrator,
    /// Background service.
    #[default]
    Utility,
    /// Personal support.
    Companion,
}

/// What a capability takes, gives and costs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapabilityProfile {
    /// JSON Schema of a task's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// JSON Schema of a result's output; a result that breaks it fails its attempt as `contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// What one task costs, in the unit that the mesh's budgets count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cost: Option<f64>,
    /// Time that an attempt may take, when the task says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether doing it twice is the same as doing it once.
    #[serde(default)]
    pub idempotent: bool,
}

/// How often a living agent reports, and when its silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// Time between two reports.
    #[serde(default = "Heartbeat::default_interval")]
    pub interval: Span,
    /// Silence after which it counts as hanging; longer than the interval.
    #[serde(default = "Heartbeat::default_ttl")]
    pub ttl: Span,
}

impl Heartbeat {
    const fn default_interval() -> Span {
        Span::from_secs(5)
    }
    const fn default_ttl() -> Span {
        Span::from_secs(15)
    }
}

/// What an agent may use up within each window of time, and on whose account.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// The window: it begins with the first attempt after the one before is over. 24 hours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Span>,
    /// Another name of `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// Calls: attempts given to it, and what it tells beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub calls: Option<u64>,
    /// Tokens of a model, as it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub tokens: Option<u64>,
    /// Money, as it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Milliseconds in which it has attempts in hand, those of all its instances together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub wall_time_ms: Option<u64>,
    /// Attempts of tasks given to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    /// Never acted upon, and refused; read where it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub max_starts: Option<u32>,
    /// Never acted upon, and refused; read where it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub max_cost: Option<f64>,
    /// Ends of its instances by a failure, each of which asks for a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub restarts: Option<u64>,
    /// The account at a provider (of a model, of a service) that its work is counted on. Agents that name the same one wait behind
    /// one gate when that provider's limit is reached; without a name the agent has a gate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<pattern::Capability>")]
    pub provider: Option<String>,
    /// The team on whose account its work is counted, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<pattern::Capability>")]
    pub team: Option<String>,
}

impl Budget {
    /// The window when none is named.
    pub const WINDOW: Span = Span::from_secs(24 * 3600);

    /// What it may use within each window; `None` when nothing is bounded.
    pub fn account(&self) -> Option<AccountBudget> {
        let per = self.per.or(self.window).unwrap_or(Self::WINDOW);
        // A manifest that was stored when nothing was checked yet may have a 0, which would let nothing through for ever.
        let bound = |amount: Option<u64>| amount.filter(|amount| *amount > 0);
        let account = AccountBudget {
            calls: bound(self.calls),
            tokens: bound(self.tokens),
            money: self.money.filter(|money| money.micros() > 0),
            wall_time_ms: bound(self.wall_time_ms),
            attempts: bound(self.max_attempts),
            restarts: bound(self.restarts),
            per_ms: per.as_millis(),
        };
        (!account.limits().is_empty()).then_some(account)
    }
}

/// Something that must be there before the agent starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dependency {
    /// Its name: a module's, a service's or an agent's id.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// Version requirement, such as `^2.29.0`.
    #[serde(default = "Dependency::any_version")]
    pub version: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: DependencyType,
    /// An agent that is required serves before this one starts. One that is not only says which of the two stops first, and
    /// its absence is told when the manifest is deployed.
    #[serde(default = "Dependency::required_by_default")]
    pub required: bool,
}

impl Dependency {
    fn any_version() -> String {
        "*".to_owned()
    }
    const fn required_by_default() -> bool {
        true
    }

    /// Whether it takes this version. A requirement that cannot be read, which no manifest is accepted with, takes all.
    pub fn takes(&self, version: &semver::Version) -> bool {
        semver::VersionReq::parse(&self.version).map_or(true, |taken| taken.matches(version))
    }
}

/// What a dependency is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DependencyType {
    /// A library within the bundle or its interpreter.
    Module,
    /// A service that the mesh knows.
    Service,
    /// Another agent; it serves before this one starts.
    Agent,
}

/// Who made an agent, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentMetadata {
    /// Person or organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it does, in a sentence or two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// SPDX expression or name of its licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Where its documentation lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tags: Vec<String>,
    /// When it was first made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When it was last changed; not before `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
}

#[cfg(test)]
mod tests;
