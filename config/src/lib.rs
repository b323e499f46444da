//! meshd's configuration: defaults, file, environment and flags, in one typed and checked whole.
//!
//! [`Sources`] says where values come from, [`Config::load`] joins them. Loading is pure but for [`Sources::read`],
//! the only place that reads the environment. Later sources win: defaults, file, environment, flags.

mod check;
mod config;
mod layer;
mod load;
mod origin;
mod sections;
mod sources;

pub use config::Config;
pub use load::{ConfigErrors, config_schema};
pub use origin::{Origin, OriginEntry, Origins};
pub use sections::{
    AlertsConfig, ApiConfig, AuditConfig, ClusterConfig, ClusterMode, DefaultPolicy,
    DefaultResourceLimits, Degradable, EgressConfig, FilesConfig, HomeKind, JournalConfig,
    LifecycleDefaults, LivenessDefaults, LogFormat, NodeConfig, NothingToSet, OrchestratorConfig,
    OrchestratorPolicies, OrchestratorSecurity, OverrunDefaults, RateLimit, RepetitionDefaults,
    RetryConfig, SandboxConfig, SecurityDefaults, ServicesConfig, SilenceDefaults, StallDefaults,
    StorageConfig, StorageEncryption, SupervisionConfig, TelemetryConfig, TlsClient, TlsConfig,
    UidRange, VaultConfig, WitnessConfig,
};
pub use sources::{DEFAULT_FILE, ENV_OF_THE_CLIENT, ENV_PREFIX, ReadError, Sources};
