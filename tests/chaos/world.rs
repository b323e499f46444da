//! A mesh to hurt: its data, its agents, its parts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_actors::Operations;
use mesh_actors::agents::native::NativeAgents;
use mesh_actors::context::{DefaultLimits, LivenessLimits, Settings};
use mesh_actors::mesh::{Mesh, MeshOptions};
use mesh_actors::operations::BundleSource;
use mesh_messages::agent::Activity;
use mesh_messages::identity::SigningKey;
use mesh_messages::manifest::SandboxLevel;
use mesh_messages::system::{Caller, Role};
use mesh_messages::task::{DelayStrategy, RetrySpec};
use mesh_sandbox::PlanPolicy;
use mesh_supervision_core::fault::{FaultConfig, Ladder};
use mesh_tests::{MESHD, Random, binary};
use serde_json::json;
use tempfile::TempDir;

use crate::ledger::{Ledger, Worker};
use crate::prey::Prey;

/// Longer than anything takes that is going to happen at all, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// By how much whoever has more to say of a failure comes before [`until`].
const MARGIN: Duration = Duration::from_secs(1);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// The replays of a run are told apart by its seed.
const SEED: &str = "MESH_CHAOS_SEED";
/// How many blows a run deals.
const STEPS: &str = "MESH_CHAOS_STEPS";

/// Looks until there is something to be seen.
#[track_caller]
pub(crate) fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let (what, place) = (what.to_owned(), std::panic::Location::caller());
    async move {
        let looking = async {
            loop {
                if let Some(seen) = look().await {
                    return seen;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE + MARGIN, looking).await;
        seen.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what} ({place})"))
    }
}

/// The seed of this run, printed so that a failure can be replayed.
pub(crate) fn random(test: &str) -> Random {
    let seed = number(SEED).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| u64::from(since.subsec_nanos()))
    });
    println!("{test}: {SEED}={seed}");
    Random::new(seed)
}

/// How many blows this run deals.
pub(crate) fn steps(small: u64) -> u64 {
    number(STEPS).unwrap_or(small)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// A mesh, the place where it lives, and what its agents did.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) mesh: Mesh,
    pub(crate) prey: Prey,
}

impl World {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::default();
        let (mesh, prey) = start(dir.path(), &ledger).await;
        Self {
            dir,
            ledger,
            mesh,
            prey,
        }
    }

    pub(crate) fn ops(&self) -> Arc<dyn Operations> {
        self.mesh.operations()
    }

    /// Ends the tree in order, and starts another one in the same place: nothing of the first may hold on to the data.
    pub(crate) async fn again(self) -> Self {
        let Self {
            dir, ledger, mesh, ..
        } = self;
        mesh.stop().await;
        drop(mesh);
        let (mesh, prey) = start(dir.path(), &ledger).await;
        Self {
            dir,
            ledger,
            mesh,
            prey,
        }
    }

    /// Registers a native agent of capability `work` and waits until it serves.
    pub(crate) async fn worker(&self, id: &str, concurrency: u32) {
        let manifest = json!({
            "id": id, "version": "1.0.0", "capabilities": ["work"], "concurrency": concurrency,
            "runtime": { "kind": "native" }, "entry": "builtin:worker", "security": { "sandbox": false },
        });
        self.register(manifest).await;
        self.serves(id).await;
    }

    /// Registers an agent with a process of its own, and waits until it serves.
    pub(crate) async fn process(&self, id: &str) {
        let manifest = json!({
            "id": id, "version": "1.0.0", "capabilities": ["echo"], "entry": "builtin:echo",
        });
        self.register(manifest).await;
        self.serves(id).await;
    }

    async fn register(&self, manifest: serde_json::Value) {
        let source = BundleSource::Manifest {
            manifest,
            path: None,
        };
        self.ops()
            .register_agent(&admin(), source, true)
            .await
            .unwrap();
    }

    /// Waits until the agent serves.
    pub(crate) async fn serves(&self, id: &str) {
        let ops = self.ops();
        until(&format!("{id} serves"), async || {
            let status = ops.agent_status(id).await.unwrap();
            (status.activity != Some(Activity::Offline) && status.activity.is_some()).then_some(())
        })
        .await;
    }

    /// The processes of an agent, and the incarnations that they are.
    pub(crate) async fn lives(&self, id: &str) -> Vec<(u64, Option<u32>)> {
        let instances = self.ops().agent_instances(id).await.unwrap();
        instances
            .iter()
            .map(|instance| (instance.epoch.0, instance.pid))
            .collect()
    }
}

/// The one that asks for everything in these tests.
pub(crate) fn admin() -> Caller {
    Caller {
        name: "user:chaos".to_owned(),
        role: Role::Admin,
        loopback: true,
        narrowed: Vec::new(),
    }
}

/// What meshd says of itself, shown with a test that fails; `RUST_LOG` says how much.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "warn,mesh_supervision=info".into());
    let told = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // The first test of the process has set it.
    let _there_already = told.try_init();
}

async fn start(data: &Path, ledger: &Arc<Ledger>) -> (Mesh, Prey) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    log();
    let run_id = format!(
        "chaos-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let prey = Prey::of(&run_id);
    // It asks cargo, which may take a while.
    let helper = tokio::task::spawn_blocking(|| binary(MESHD)).await.unwrap();
    let options = MeshOptions {
        settings: settings(data, run_id),
        key: SigningKey::from_secret(&[7; 32]),
        natives: NativeAgents::default().with("worker", Arc::new(Worker(Arc::clone(ledger)))),
        sandbox_helper: Some(helper),
        kept: mesh_actors::kept::Kept::default(),
    };
    (Mesh::start(options).await.unwrap(), prey)
}

fn settings(data: &Path, run_id: String) -> Settings {
    Settings {
        data: data.to_owned(),
        run_id,
        version: "0.0.0".to_owned(),
        retry: RetrySpec {
            max_attempts: Some(3),
            delay_strategy: Some(DelayStrategy::Exponential),
            base_delay_ms: Some(10),
            jitter: Some(true),
        },
        fallback_on_error: true,
        trust_threshold: mesh_messages::trust::TrustLevel::from_millionths(700_000),
        policy_origins: std::collections::BTreeMap::new(),
        allow_cross_agent: true,
        max_parallel_tasks: 16,
        sandbox_required: false,
        sandbox: PlanPolicy {
            required: false,
            degradable: Vec::new(),
        },
        sandbox_level: SandboxLevel::Relaxed,
        home_images: false,
        open_network: std::collections::BTreeSet::new(),
        files: mesh_actors::context::FileBounds::default(),
        egress: mesh_actors::outbound::EgressSettings::default(),
        services: mesh_actors::outbound::ServiceSettings::default(),
        encryption: mesh_messages::system::AtRest::none(),
        vault_key: None,
        uids: (200_000, 1000),
        audit_all_actions: false,
        certificates: Vec::new(),
        fault: fault(),
        limits: DefaultLimits {
            cpu_millicores: 1000,
            memory_bytes: 512 * 1024 * 1024,
            disk_bytes: 64 * 1024 * 1024,
            io_bytes_per_second: None,
            pids: 64,
            nofile: 256,
        },
        crypto_required: false,
        signature_required: false,
        liveness: LivenessLimits::default(),
        chaos: false,
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(2),
        cancel_timeout: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(2),
        api_rate: (100_000, 100_000),
        agent_rate: 1000,
        // Small, so that segments change under fire.
        retention: mesh_actors::context::Retention::default(),
        journal_segment_bytes: 1024 * 1024,
    }
}

/// A policy that lets an agent crash as often as these tests make it, and lets it wait only shortly.
fn fault() -> FaultConfig {
    let soon = Ladder {
        base: Duration::from_millis(10),
        cap: Duration::from_millis(50),
    };
    FaultConfig {
        max_crashes: 900,
        quarantine_threshold: 900,
        hourly_max: 900,
        backoff: soon,
        cool_down: soon,
        ..FaultConfig::default()
    }
}
