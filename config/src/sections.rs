//! The sections. Each field's comment is its manual.

use mesh_messages::manifest::SandboxLevel;
use mesh_messages::task::DelayStrategy;
use mesh_messages::units::{ByteCount, Cpu, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod alerts;
mod api;
mod audit;
mod egress;
mod faults;
mod files;
mod liveness;
mod services;
mod storage;
mod tls;

pub use alerts::AlertsConfig;
pub use api::{ApiConfig, RateLimit};
pub use audit::{AuditConfig, WitnessConfig};
pub use egress::{EgressConfig, VaultConfig};
pub use faults::SupervisionConfig;
pub use files::FilesConfig;
pub use liveness::{
    LivenessDefaults, OverrunDefaults, RepetitionDefaults, SilenceDefaults, StallDefaults,
};
pub use services::ServicesConfig;
pub use storage::{StorageConfig, StorageEncryption};
pub use tls::{TlsClient, TlsConfig};

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Name for people, in traces and metrics; the node's key without one.
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
}

/// The log of everything that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Size of the log's files, 128KiB to 64MiB. Two are kept allocated ahead.
    pub segment_size: ByteCount,
    /// What is kept of ended tasks.
    pub retention: RetentionConfig,
}

/// What is kept of ended tasks: what is beyond any of these goes, oldest end first. Null is no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// So long after their ends.
    pub max_age: Option<Span>,
    /// So many of them.
    pub max_tasks: Option<u64>,
    /// So many bytes of them: their rows, inputs and outputs as the read side stores them.
    pub max_size: Option<ByteCount>,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_size: ByteCount::from_bytes(8 << 20),
            retention: RetentionConfig::default(),
        }
    }
}

/// Isolation of agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// Controls that may be weaker than asked for where the machine has no better. File system, network, processes
    /// and privilege never degrade.
    #[schemars(extend("uniqueItems" = true))]
    pub degradable: Vec<Degradable>,
    /// What the homes are made of that are made from now on.
    pub homes: HomeKind,
    /// Users that agents run as, where meshd may switch users.
    pub uid_range: UidRange,
    /// Most processes and threads of an instance, when its manifest says nothing.
    #[schemars(range(min = 1))]
    pub pids: u32,
    /// Most open files of one process.
    #[schemars(range(min = 16))]
    pub open_files: u32,
    /// Agents whose wish for `allowOutbound` is granted with the host's unfiltered network. Others go through the proxy.
    #[schemars(with = "Vec<mesh_messages::AgentId>", extend("uniqueItems" = true))]
    pub open_network: Vec<mesh_messages::AgentId>,
    /// Which files of the host agents may be granted.
    pub files: FilesConfig,
    /// The way out of the sandbox, for agents that ask for `allowOutbound`.
    pub egress: EgressConfig,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            degradable: vec![
                Degradable::Cpu,
                Degradable::Memory,
                Degradable::Pids,
                Degradable::Disk,
                Degradable::User,
            ],
            homes: HomeKind::default(),
            uid_range: UidRange::default(),
            pids: 256,
            open_files: 1024,
            open_network: Vec::new(),
            files: FilesConfig::default(),
            egress: EgressConfig::default(),
        }
    }
}

/// What an agent's home is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HomeKind {
    /// A directory. What lies in it is added up every few seconds.
    #[default]
    Directory,
    /// A file system of its own, as large as the limit of disk, which the kernel holds. Where that cannot be had it is a directory,
    /// and the report says so.
    Image,
}

/// A control of the sandbox that may degrade.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Degradable {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Disk.
    Disk,
    /// A user of its own.
    User,
    /// How fast disks are read and written.
    Io,
}

impl Degradable {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::User => "user",
            Self::Io => "io",
        }
    }
}

/// A range of user and group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UidRange {
    /// The first; never one that a person has.
    #[schemars(range(min = 1000, max = 4_294_000_000_u32))]
    pub first: u32,
    /// How many.
    #[schemars(range(min = 1, max = 900_000))]
    pub count: u32,
}

impl Default for UidRange {
    fn default() -> Self {
        Self {
            first: 700_000,
            count: 10_000,
        }
    }
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,mesh_api=debug`.
    #[schemars(length(min = 1))]
    pub log_level: String,
    /// Form of the log on stderr.
    pub log_format: LogFormat,
    /// OTLP/HTTP collector for traces and metrics, such as `http://127.0.0.1:4318`; without one nothing is sent. Not
    /// encrypted: a collector elsewhere belongs behind one on this host.
    #[schemars(regex(pattern = r"^http://[^\s]+$"), extend("x-expected" = "a URL such as http://127.0.0.1:4318"))]
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON lines otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// A part of meshd in which nothing can be set yet: its section may be there, and holds no key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NothingToSet {}

/// Hurting this mesh on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChaosConfig {
    /// An admin may kill, pause and otherwise hurt running agents and parts of meshd, as `meshctl chaos` does. Off, nobody
    /// may, whatever the token: a fleet that people rely on leaves it off but for a rehearsal.
    pub enabled: bool,
}

/// More than one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// How this node belongs to others.
    pub mode: ClusterMode,
}

/// How a node belongs to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterMode {
    /// Not at all: one process, embedded store.
    #[default]
    Embedded,
}

/// How tasks are carried out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrchestratorConfig {
    /// When and how often a failed attempt is followed by another, when the task says nothing.
    pub retry: RetryConfig,
    /// What the orchestrator may do.
    pub policies: OrchestratorPolicies,
    /// What it demands.
    pub security: OrchestratorSecurity,
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Attempts in all, the first included.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// How pauses grow.
    pub delay_strategy: DelayStrategy,
    /// The first pause, in milliseconds.
    #[schemars(range(max = 3_600_000))]
    pub base_delay_ms: u64,
    /// Whether each pause is spread over its upper half.
    pub jitter: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            delay_strategy: DelayStrategy::Exponential,
            base_delay_ms: 200,
            jitter: true,
        }
    }
}

/// What the orchestrator may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrchestratorPolicies {
    /// A task that an agent failed is offered to other agents.
    pub fallback_on_error: bool,
    /// Agents may delegate to agents.
    pub allow_cross_agent: bool,
    /// Most tasks worked on at one time; a task that waits for its children does not count.
    #[schemars(range(min = 1))]
    pub max_parallel_tasks: u32,
}

impl Default for OrchestratorPolicies {
    fn default() -> Self {
        Self {
            fallback_on_error: true,
            allow_cross_agent: true,
            max_parallel_tasks: 5,
        }
    }
}

/// What the orchestrator demands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrchestratorSecurity {
    /// An agent whose sandbox is not as strict as asked for does not start, whatever its manifest says.
    pub sandbox_required: bool,
    /// Least trust, 0 to 1, of an agent that is given a task that asks for trust.
    #[schemars(range(min = 0, max = 1))]
    pub trust_threshold: f64,
    /// Every action is in the audit log, not only those that change something.
    pub audit_all_actions: bool,
}

impl Default for OrchestratorSecurity {
    fn default() -> Self {
        Self {
            sandbox_required: true,
            trust_threshold: 0.7,
            audit_all_actions: true,
        }
    }
}

/// What applies to an agent whose manifest says nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultPolicy {
    /// What an instance may use.
    pub resource_limits: DefaultResourceLimits,
    /// Restarts and quarantine.
    pub lifecycle: LifecycleDefaults,
    /// When an agent that lives counts as getting nowhere.
    pub liveness: LivenessDefaults,
    /// Isolation and signing.
    pub security: SecurityDefaults,
}

/// What an instance may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultResourceLimits {
    /// Processor time; a bare number counts cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: ByteCount,
    /// Disk.
    pub disk: ByteCount,
    /// Bytes a second read from disks, and as many written; a bare number counts megabytes. Unbounded when null.
    pub io: Option<ByteCount>,
}

impl Default for DefaultResourceLimits {
    fn default() -> Self {
        Self {
            cpu: Cpu::from_millicores(1000),
            memory: ByteCount::from_megabytes(512),
            disk: ByteCount::from_megabytes(1000),
            io: None,
        }
    }
}

/// Restarts and quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LifecycleDefaults {
    /// Crashes within `supervision.crash_window` that are answered by a restart; the next one opens the breaker.
    #[schemars(range(max = 999))]
    pub max_crashes: u32,
    /// Restarts after a failure.
    pub auto_restart: bool,
    /// Score at which an agent is quarantined.
    #[schemars(range(min = 1))]
    pub quarantine_threshold: u32,
}

impl Default for LifecycleDefaults {
    fn default() -> Self {
        Self {
            max_crashes: 3,
            auto_restart: true,
            quarantine_threshold: 5,
        }
    }
}

/// Isolation and signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityDefaults {
    /// What happens when the machine cannot enforce a control.
    pub sandbox_level: SandboxLevel,
    /// An agent whose manifest says `crypto: none` is refused.
    pub crypto_required: bool,
    /// A bundle is refused that is not signed by a registered key (`meshctl agent sign`, `meshctl key register`).
    pub signature_required: bool,
}

impl Default for SecurityDefaults {
    fn default() -> Self {
        Self {
            sandbox_level: SandboxLevel::Strict,
            crypto_required: true,
            signature_required: false,
        }
    }
}
