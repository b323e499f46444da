//! What an agent's policy changes of the default policy, in either of its two spellings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{LivenessPolicy, pattern};
use crate::ids::AgentId;
use crate::schema::FieldError;
use crate::units::{ByteCount, Cpu, CpuPercent};

/// Largest `max_crashes`: each crash within the window is remembered, and that many are.
pub const MAX_CRASHES_MAX: u32 = 999;

/// An agent's policy: the flat spelling (`maxCrashes`), the nested one (`lifecycle.max_crashes`), or both where they agree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentPolicy {
    /// The agent it is for; must be the manifest's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Crashes within the window after which restarts pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_CRASHES_MAX))]
    pub max_crashes: Option<u32>,
    /// Runs isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<bool>,
    /// Restarts after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_restart: Option<bool>,
    /// Most memory; a bare number counts megabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteCount>,
    /// Most processor time; a bare number counts percent of one core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuPercent>,
    /// Limits of its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limit: Option<NetworkLimit>,
    /// Limits, in the nested spelling.
    #[serde(
        default,
        rename = "resource_limits",
        skip_serializing_if = "ResourceLimits::is_empty"
    )]
    pub resource_limits: ResourceLimits,
    /// Restarts and quarantine, in the nested spelling.
    #[serde(default, skip_serializing_if = "LifecyclePolicy::is_empty")]
    pub lifecycle: LifecyclePolicy,
    /// Isolation and signing, in the nested spelling.
    #[serde(default, skip_serializing_if = "SecurityPolicy::is_empty")]
    pub security: SecurityPolicy,
    /// When it counts as getting nowhere although it lives.
    #[serde(default, skip_serializing_if = "LivenessPolicy::is_empty")]
    pub liveness: LivenessPolicy,
    /// The mesh cannot do without it: when it is exhausted the failure escalates instead of being isolated.
    #[serde(default)]
    pub essential: bool,
}

/// Limits of what an instance may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Processor time; a bare number counts cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteCount>,
    /// Disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteCount>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pids: Option<u32>,
    /// Bytes a second read from disks, and as many written; a bare number counts megabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<ByteCount>,
}

impl ResourceLimits {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Restarts and quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LifecyclePolicy {
    /// Crashes within the window after which restarts pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_CRASHES_MAX))]
    pub max_crashes: Option<u32>,
    /// Restarts after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_restart: Option<bool>,
    /// Score at which it is quarantined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub quarantine_threshold: Option<u32>,
}

impl LifecyclePolicy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Isolation and signing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityPolicy {
    /// What happens when the machine cannot enforce a control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_level: Option<SandboxLevel>,
    /// With `true`, what the agent does not sign with its own registered key is refused. `false` is as if it were absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crypto_required: Option<bool>,
}

impl SecurityPolicy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens when the machine cannot enforce one of the sandbox's controls.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = other_names)]
pub enum SandboxLevel {
    /// It starts all the same, and `status` says what is missing. Also `basic`.
    #[serde(alias = "basic")]
    Relaxed,
    /// It does not start, save for the controls that the operator declared degradable. Also `enhanced`.
    #[default]
    #[serde(alias = "enhanced")]
    Strict,
    /// As strict, whatever the operator declared degradable but for `disk`; and it executes nothing that it can write,
    /// and never has the host's network.
    Maximum,
}

/// Two levels have a second name, which the schema has to know, too: what is read is checked against it first.
fn other_names(schema: &mut schemars::Schema) {
    let Some(Value::Array(all)) = schema.get_mut("oneOf") else {
        return;
    };
    for (name, level) in [("basic", "relaxed"), ("enhanced", "strict")] {
        let description = format!("The same as `{level}`.");
        all.push(json!({ "description": description, "type": "string", "const": name }));
    }
}

impl SandboxLevel {
    /// All of them, the weakest first.
    pub const ALL: [Self; 3] = [Self::Relaxed, Self::Strict, Self::Maximum];

    /// The name in configuration and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
            Self::Maximum => "maximum",
        }
    }
}

/// Limits of an agent's connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkLimit {
    /// Connections open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Kilobytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_limit: Option<u32>,
    /// The only protocols that it may speak to the outside: `http` (requests through the proxy), `https` (tunnels that begin
    /// as TLS does, and requests that meshd sends over TLS), `tcp` (any tunnel). Nothing speaks others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<pattern::Protocol>>", length(max = 32))]
    pub allowed_protocols: Option<Vec<String>>,
}

/// A policy in one spelling: what differs from the default policy, each `None` being "as the default".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyOverrides {
    /// Crashes within the window after which restarts pause.
    pub max_crashes: Option<u32>,
    /// Restarts after a failure.
    pub auto_restart: Option<bool>,
    /// Score at which it is quarantined.
    pub quarantine_threshold: Option<u32>,
    /// Runs isolated.
    pub sandbox: Option<bool>,
    /// What happens when the machine cannot enforce a control.
    pub sandbox_level: Option<SandboxLevel>,
    /// What the agent does not sign with its own registered key is refused.
    pub crypto_required: Option<bool>,
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<ByteCount>,
    /// Disk.
    pub disk: Option<ByteCount>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes a second read from disks, and as many written.
    pub io: Option<ByteCount>,
    /// Limits of its connections.
    pub network: Option<NetworkLimit>,
    /// When it counts as getting nowhere although it lives.
    pub liveness: LivenessPolicy,
    /// Escalates instead of being isolated.
    pub essential: bool,
}

impl AgentPolicy {
    /// Both spellings as one. Where they contradict each other the nested one is taken; a parsed manifest never does.
    pub fn overrides(&self) -> PolicyOverrides {
        PolicyOverrides {
            max_crashes: self.lifecycle.max_crashes.or(self.max_crashes),
            auto_restart: self.lifecycle.auto_restart.or(self.auto_restart),
            quarantine_threshold: self.lifecycle.quarantine_threshold,
            sandbox: self.sandbox,
            sandbox_level: self.security.sandbox_level,
            crypto_required: self.security.crypto_required,
            cpu: self
                .resource_limits
                .cpu
                .or(self.cpu_limit.map(|percent| percent.0)),
            memory: self.resource_limits.memory.or(self.memory_limit),
            disk: self.resource_limits.disk,
            pids: self.resource_limits.pids,
            io: self.resource_limits.io,
            network: self.network_limit.clone(),
            liveness: self.liveness,
            essential: self.essential,
        }
    }

    /// Every contradiction between the two spellings, and with the manifest's own id.
    pub(super) fn check(&self, id: &AgentId, errors: &mut Vec<FieldError>) {
        if let Some(other) = self.agent_id.as_ref().filter(|other| *other != id) {
            errors.push(FieldError::new(
                "policy.agentId",
                format!("is {other}, but this is the manifest of {id}"),
            ));
        }
        self.liveness.check(errors);
        let cpu = self.cpu_limit.map(|percent| percent.0);
        let mut agree = |flat: &str, nested: &str, contradict: bool| {
            if contradict {
                errors.push(FieldError::new(
                    format!("policy.{flat}"),
                    format!("contradicts policy.{nested}"),
                ));
            }
        };
        agree(
            "maxCrashes",
            "lifecycle.max_crashes",
            differ(self.max_crashes, self.lifecycle.max_crashes),
        );
        agree(
            "autoRestart",
            "lifecycle.auto_restart",
            differ(self.auto_restart, self.lifecycle.auto_restart),
        );
        agree(
            "memoryLimit",
            "resource_limits.memory",
            differ(self.memory_limit, self.resource_limits.memory),
        );
        agree(
            "cpuLimit",
            "resource_limits.cpu",
            differ(cpu, self.resource_limits.cpu),
        );
    }
}

fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_some() && b.is_some() && a != b
}
