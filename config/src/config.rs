//! The whole.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sections::{
    AlertsConfig, ApiConfig, AuditConfig, ChaosConfig, ClusterConfig, DefaultPolicy, JournalConfig,
    NodeConfig, NothingToSet, OrchestratorConfig, SandboxConfig, ServicesConfig, StorageConfig,
    SupervisionConfig, TelemetryConfig, VaultConfig,
};

/// Everything that an operator can set. `Default` is what an empty file gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the HTTP surface; port 0 takes a free one.
    #[schemars(extend("x-expected" = "an address and port such as 127.0.0.1:8080"), length(min = 1))]
    pub listen: String,
    /// Directory of everything that meshd keeps.
    #[schemars(with = "String", length(min = 1))]
    pub data: PathBuf,
    /// Directory whose bundles are deployed at start.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub agents: Option<PathBuf>,
    /// This node.
    pub node: NodeConfig,
    /// The log of everything that happened.
    pub journal: JournalConfig,
    /// Restarts, backoff, breaker and recovery.
    pub supervision: SupervisionConfig,
    /// Isolation of agents.
    pub sandbox: SandboxConfig,
    /// Secrets at rest.
    pub vault: VaultConfig,
    /// Plain services that meshd itself calls.
    pub services: ServicesConfig,
    /// The data directory at rest.
    pub storage: StorageConfig,
    /// Bounds of the HTTP surface.
    pub api: ApiConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Agents' memory.
    pub memory: NothingToSet,
    /// Choice of agents for tasks.
    pub routing: NothingToSet,
    /// Health checks of meshd's own parts.
    pub health: NothingToSet,
    /// The proof of what happened.
    pub audit: AuditConfig,
    /// Who is told of what needs somebody's eyes.
    pub alerts: AlertsConfig,
    /// Hurting this mesh on purpose.
    pub chaos: ChaosConfig,
    /// More than one machine.
    pub cluster: ClusterConfig,
    /// How tasks are carried out.
    pub orchestrator: OrchestratorConfig,
    /// What applies to an agent whose manifest says nothing else.
    pub default_policy: DefaultPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            data: PathBuf::from("./.mesh"),
            agents: None,
            node: NodeConfig::default(),
            journal: JournalConfig::default(),
            supervision: SupervisionConfig::default(),
            sandbox: SandboxConfig::default(),
            vault: VaultConfig::default(),
            services: ServicesConfig::default(),
            storage: StorageConfig::default(),
            api: ApiConfig::default(),
            telemetry: TelemetryConfig::default(),
            memory: NothingToSet::default(),
            routing: NothingToSet::default(),
            health: NothingToSet::default(),
            audit: AuditConfig::default(),
            alerts: AlertsConfig::default(),
            chaos: ChaosConfig::default(),
            cluster: ClusterConfig::default(),
            orchestrator: OrchestratorConfig::default(),
            default_policy: DefaultPolicy::default(),
        }
    }
}
