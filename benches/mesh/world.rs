//! A mesh in this process, on a directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use mesh_actors::Operations;
use mesh_actors::agents::native::NativeAgents;
use mesh_actors::context::{DefaultLimits, LivenessLimits, Settings};
use mesh_actors::mesh::{Mesh, MeshOptions};
use mesh_actors::operations::BundleSource;
use mesh_messages::TaskId;
use mesh_messages::agent::Activity;
use mesh_messages::identity::SigningKey;
use mesh_messages::manifest::SandboxLevel;
use mesh_messages::system::{Caller, Role};
use mesh_messages::task::{DelayStrategy, RetrySpec, TaskSpec};
use mesh_sandbox::PlanPolicy;
use mesh_supervision_core::fault::{FaultConfig, Ladder};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::worker::{Note, Worker, input};

/// What went wrong with a benchmark.
pub(crate) type Failed = Box<dyn std::error::Error>;

/// Registrations under way at once; they share the journal's syncs.
const AT_ONCE: usize = 64;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) mesh: Mesh,
    pub(crate) notes: mpsc::UnboundedReceiver<Note>,
    pub(crate) storm: watch::Sender<bool>,
}

impl World {
    /// Starts it with this delay before each restart, of which chance takes up to half.
    pub(crate) async fn start(delay: Duration) -> Result<Self, Failed> {
        let dir = tempfile::tempdir()?;
        let (sender, notes) = mpsc::unbounded_channel();
        let (storm, calm) = watch::channel(false);
        let worker = Arc::new(Worker::new(sender, calm));
        let options = MeshOptions {
            settings: settings(dir.path(), delay),
            key: SigningKey::from_secret(&[7; 32]),
            natives: NativeAgents::default().with("worker", worker),
            sandbox_helper: None,
            kept: mesh_actors::kept::Kept::default(),
        };
        let mesh = Mesh::start(options).await?;
        Ok(Self {
            dir,
            mesh,
            notes,
            storm,
        })
    }

    pub(crate) fn ops(&self) -> Arc<dyn Operations> {
        self.mesh.operations()
    }

    /// Registers so many native agents, and waits until all of them serve.
    pub(crate) async fn agents(&self, prefix: &str, count: usize) -> Result<(), Failed> {
        let ops = self.ops();
        let registered = stream::iter(0..count)
            .map(|n| {
                let (ops, id) = (Arc::clone(&ops), format!("{prefix}-{n}"));
                async move { register(&*ops, &id).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        registered.into_iter().collect::<Result<(), Failed>>()?;
        for n in 0..count {
            serves(&*ops, &format!("{prefix}-{n}")).await?;
        }
        Ok(())
    }

    /// Submits tasks for agents, in one go.
    pub(crate) async fn submit(&self, tasks: &[(String, &str)]) -> Result<Vec<TaskId>, Failed> {
        let specs = tasks.iter().map(|(agent, way)| spec(agent, way));
        let specs: Result<Vec<_>, Failed> = specs.collect();
        let outcome = self.ops().submit_tasks(&admin(), specs?).await;
        let receipts = outcome.map_err(|problem| format!("{problem:?}"))?.receipts;
        Ok(receipts.into_iter().map(|receipt| receipt.id).collect())
    }
}

fn spec(agent: &str, way: &str) -> Result<TaskSpec, Failed> {
    let once = RetrySpec {
        max_attempts: Some(1),
        ..RetrySpec::default()
    };
    Ok(TaskSpec {
        kind: Some("work".to_owned()),
        agent: Some(
            agent
                .parse()
                .map_err(|error| format!("{agent}: {error:?}"))?,
        ),
        input: input(way),
        retry: Some(once),
        ..TaskSpec::default()
    })
}

/// How many agents the larger benchmarks make: `MESH_BENCH_AGENTS`, or ten thousand.
pub(crate) fn agents_wanted() -> usize {
    const USUAL: usize = 10_000;
    let told = std::env::var("MESH_BENCH_AGENTS").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(USUAL)
}

async fn register(ops: &dyn Operations, id: &str) -> Result<(), Failed> {
    let manifest = json!({
        "id": id, "version": "1.0.0", "capabilities": ["work"], "concurrency": 1,
        "runtime": { "kind": "native" }, "entry": "builtin:worker", "security": { "sandbox": false },
    });
    let source = BundleSource::Manifest {
        manifest,
        path: None,
    };
    let registered = ops.register_agent(&admin(), source, true).await;
    registered.map_err(|problem| format!("{id}: {problem:?}"))?;
    Ok(())
}

/// Waits until the agent serves.
async fn serves(ops: &dyn Operations, id: &str) -> Result<(), Failed> {
    /// Between two looks; long, because looking is work for the mesh as well.
    const PAUSE: Duration = Duration::from_millis(20);
    loop {
        let status = ops.agent_status(id).await;
        let activity = status
            .map_err(|problem| format!("{id}: {problem:?}"))?
            .activity;
        if activity.is_some_and(|activity| activity != Activity::Offline) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Who asks for everything here.
pub(crate) fn admin() -> Caller {
    Caller {
        name: "user:bench".to_owned(),
        role: Role::Admin,
        loopback: true,
        narrowed: Vec::new(),
    }
}

fn settings(data: &Path, delay: Duration) -> Settings {
    let delay = Ladder {
        base: delay,
        cap: delay,
    };
    Settings {
        data: data.to_owned(),
        run_id: format!("bench-{}", std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        retry: RetrySpec {
            max_attempts: Some(1),
            delay_strategy: Some(DelayStrategy::Exponential),
            base_delay_ms: Some(10),
            jitter: Some(true),
        },
        fallback_on_error: false,
        trust_threshold: mesh_messages::trust::TrustLevel::from_millionths(700_000),
        policy_origins: BTreeMap::new(),
        allow_cross_agent: false,
        max_parallel_tasks: 100_000,
        sandbox_required: false,
        sandbox: PlanPolicy {
            required: false,
            degradable: Vec::new(),
        },
        sandbox_level: SandboxLevel::Relaxed,
        home_images: false,
        open_network: BTreeSet::new(),
        files: mesh_actors::context::FileBounds::default(),
        egress: mesh_actors::outbound::EgressSettings::default(),
        services: mesh_actors::outbound::ServiceSettings::default(),
        encryption: mesh_messages::system::AtRest::none(),
        vault_key: None,
        uids: (200_000, 1000),
        audit_all_actions: false,
        certificates: Vec::new(),
        // As many failures as a record holds.
        fault: FaultConfig {
            max_crashes: 900,
            quarantine_threshold: 900,
            hourly_max: 900,
            backoff: delay,
            cool_down: delay,
            ..FaultConfig::default()
        },
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
        api_rate: (1_000_000, 1_000_000),
        agent_rate: 1000,
        retention: mesh_actors::context::Retention::default(),
        journal_segment_bytes: 64 * 1024 * 1024,
    }
}
