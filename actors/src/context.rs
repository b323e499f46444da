//! What every actor of the tree is given: settings, the store, the places of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use mesh_actors_core::governance::Governance;
pub use mesh_actors_core::liveness::Limits as LivenessLimits;
use mesh_messages::AgentId;
use mesh_messages::certificate::KnownCertificate;
use mesh_messages::events::LogCut;
use mesh_messages::identity::DidKey;
use mesh_messages::manifest::SandboxLevel;
use mesh_messages::policy::PolicyDocument;
use mesh_messages::system::{AtRest, MeshEvent};
use mesh_messages::task::RetrySpec;
use mesh_messages::trust::TrustLevel;
use mesh_persistence::LogSigner;
use mesh_sandbox::{Launcher, PlanPolicy};
use mesh_supervision_core::fault::FaultConfig;
pub use mesh_vault::KeySource;

use crate::agents::native::NativeAgents;
use crate::alarms::Alarms;
use crate::alerts::Untold;
use crate::desk::Desk;
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::outbound::{EgressSettings, Outbound, ServiceSettings};
use crate::secrets::SecretShelf;
use crate::store::StoreCell;

/// Events that a slow reader of the live feed may lag behind before it has to resume from the journal.
pub const EVENTS_KEPT: usize = 4096;

/// What the tree needs to know of the configuration.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the configuration"
)]
pub struct Settings {
    /// The data directory.
    pub data: PathBuf,
    /// Names this run.
    pub run_id: String,
    /// meshd's version.
    pub version: String,
    /// Retry policy of a task that names none, every field filled in.
    pub retry: RetrySpec,
    /// Whether a failed task is offered to another capable agent.
    pub fallback_on_error: bool,
    /// Whether agents may delegate to agents.
    pub allow_cross_agent: bool,
    /// Tasks in flight at once on this node.
    pub max_parallel_tasks: u32,
    /// The trust that a task needs which asks for it without a number.
    pub trust_threshold: TrustLevel,
    /// Whether an agent that cannot be sandboxed as asked is refused.
    pub sandbox_required: bool,
    /// Whether homes that are made from now on are images, where the machine gives that.
    pub home_images: bool,
    /// What the sandbox may degrade.
    pub sandbox: PlanPolicy,
    /// How strict the sandbox of an agent is whose manifest says nothing.
    pub sandbox_level: SandboxLevel,
    /// Agents that get the host's network, unfiltered, when they ask for outbound network.
    pub open_network: BTreeSet<AgentId>,
    /// Which files of the host may be granted.
    pub files: FileBounds,
    /// What no agent's connections get beyond.
    pub egress: EgressSettings,
    /// What service steps may call.
    pub services: ServiceSettings,
    /// Where the vault's key is; `<data>/vault.key` when absent.
    pub vault_key: Option<KeySource>,
    /// Whether the data directory is readable without a key.
    pub encryption: AtRest,
    /// First user id given to agents, and how many follow; used when meshd is root.
    pub uids: (u32, u32),
    /// Whether allowed actions are audited, too.
    pub audit_all_actions: bool,
    /// Fault policy of an agent that overrides nothing.
    pub fault: FaultConfig,
    /// Limits of an agent that overrides nothing.
    pub limits: DefaultLimits,
    /// When an agent that overrides nothing counts as getting nowhere.
    pub liveness: LivenessLimits,
    /// Where the operator's values of an agent's policy come from, by the policy's keys; the others are defaults.
    pub policy_origins: BTreeMap<&'static str, String>,
    /// Whether an agent without a signing key is refused.
    pub crypto_required: bool,
    /// Whether a bundle is refused that no registered key signed.
    pub signature_required: bool,
    /// Whether an admin may hurt agents and parts on purpose.
    pub chaos: bool,
    /// How long an agent may take to start and shake hands.
    pub start_timeout: Duration,
    /// How long an agent may take to end what it was told to end.
    pub stop_timeout: Duration,
    /// How long an agent may take to answer a cancellation before its process is ended.
    pub cancel_timeout: Duration,
    /// How long a stop waits for work in flight.
    pub drain_timeout: Duration,
    /// Callers that are known by their certificates.
    pub certificates: Vec<KnownCertificate>,
    /// Requests per second of one caller, and the burst on top.
    pub api_rate: (u32, u32),
    /// Lines per second of one agent.
    pub agent_rate: u32,
    /// What is kept of ended tasks.
    pub retention: Retention,
    /// Largest segment of the journal, in bytes.
    pub journal_segment_bytes: u64,
}

pub use mesh_actors_core::retention::Limits as Retention;

/// Which files of the host may be granted to agents, whatever they ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileBounds {
    /// The only paths, with what is below them; when absent, any to what admins register, and none to what others do.
    pub allowed: Option<Vec<PathBuf>>,
    /// Absolute paths, and names wherever they lie, that never are.
    pub blocked: Vec<PathBuf>,
    /// Where an agent's user stands for the owner of what is granted.
    pub as_owner: Vec<PathBuf>,
}

/// Limits of an agent that overrides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultLimits {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub disk_bytes: u64,
    /// Bytes a second read from disks, and as many written; unbounded when absent.
    pub io_bytes_per_second: Option<u64>,
    /// Processes and threads.
    pub pids: u32,
    /// Open descriptors of one process.
    pub nofile: u32,
}

/// The node's identity: a name that stays, and the key that signs for it now.
#[derive(Debug)]
pub struct NodeIdentity {
    /// Its public name, which is its log's: its first key.
    pub did: DidKey,
    signer: ArcSwap<LogSigner>,
}

impl NodeIdentity {
    /// Of a node whose log is signed so.
    #[must_use]
    pub fn new(signer: LogSigner) -> Self {
        Self {
            did: *signer.keys().log(),
            signer: ArcSwap::from_pointee(signer),
        }
    }

    /// Who signs for it at this moment.
    #[must_use]
    pub fn signer(&self) -> Arc<LogSigner> {
        self.signer.load_full()
    }

    /// Another one signs from now on.
    pub(crate) fn hold(&self, signer: Arc<LogSigner>) {
        self.signer.store(signer);
    }
}

/// What every actor is given.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub settings: Settings,
    /// Who this node is.
    pub node: Arc<NodeIdentity>,
    /// The open journal.
    pub store: StoreCell,
    /// Starts sandboxes.
    pub launcher: Launcher,
    /// The vault.
    pub secrets: SecretShelf,
    /// What all ways out share.
    pub outbound: Outbound,
    /// Agents compiled into this binary.
    pub natives: NativeAgents,
    /// The agents and their actors.
    pub directory: Directory,
    /// The operator's policy, as it is durable; the registry publishes it.
    pub policy: Arc<ArcSwap<PolicyDocument>>,
    /// Who governs, as it is durable; the registry publishes it, too.
    pub governance: ArcSwap<Governance>,
    /// The live feed.
    pub events: broadcast::Sender<Arc<MeshEvent>>,
    /// The registered services; the registry publishes them, too.
    pub desk: Desk,
    /// Counters and histograms.
    pub metrics: Metrics,
    /// What wakes whoever waits for a time.
    pub alarms: Alarms,
    /// Who cannot be told of alerts.
    pub untold: Untold,
    /// What of the log is gone, and accepted at this start.
    pub cut: Option<LogCut>,
}
