//! A mesh in this process whose agents do nothing, so that what is left is the cost of durable work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
use mesh_messages::task::{RetrySpec, Task, TaskSpec};
use mesh_sandbox::PlanPolicy;
use mesh_supervision_core::fault::FaultConfig;
use serde_json::{Value, json};

use crate::noop::{AGENT, Noop};

/// What went wrong with a benchmark.
pub(crate) type Failed = Box<dyn std::error::Error>;

/// Bytes of a task's input, or of a record's payload.
pub(crate) const PAYLOAD: usize = 1024;

/// A task takes a fraction of this; without it, a benchmark that lost one would wait for ever.
const PATIENCE: Duration = Duration::from_mins(2);

/// Tasks that an agent does at once.
const CONCURRENCY: u32 = 1024;

/// Starts a mesh on a directory.
pub(crate) async fn start(data: &Path) -> Result<Mesh, Failed> {
    let options = MeshOptions {
        settings: settings(data),
        key: SigningKey::from_secret(&[7; 32]),
        natives: NativeAgents::default().with("noop", Arc::new(Noop)),
        sandbox_helper: None,
        kept: mesh_actors::kept::Kept::default(),
    };
    Ok(Mesh::start(options).await?)
}

/// Registers the agent in this process, and waits until it serves.
pub(crate) async fn native(ops: &dyn Operations) -> Result<(), Failed> {
    register(
        ops,
        json!({
            "id": "noop", "version": "1.0.0", "capabilities": ["noop"], "concurrency": CONCURRENCY,
            "runtime": { "kind": "native" }, "entry": "builtin:noop", "security": { "sandbox": false },
        }),
    )
    .await
}

/// Registers agents in processes of their own, and waits until they serve.
pub(crate) async fn processes(ops: &dyn Operations, replicas: u32) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    register(
        ops,
        json!({
            "id": "noop", "version": "1.0.0", "capabilities": ["noop"], "concurrency": 128,
            "replicas": replicas,
            "runtime": { "kind": "klp", "command": program, "args": [AGENT] },
            "security": { "sandbox": false },
        }),
    )
    .await
}

async fn register(ops: &dyn Operations, manifest: Value) -> Result<(), Failed> {
    const PAUSE: Duration = Duration::from_millis(5);
    let source = BundleSource::Manifest {
        manifest,
        path: None,
    };
    let registered = ops.register_agent(&admin(), source, true).await;
    registered.map_err(|problem| format!("{problem:?}"))?;
    loop {
        let status = ops.agent_status("noop").await;
        let activity = status.map_err(|problem| format!("{problem:?}"))?.activity;
        if activity.is_some_and(|activity| activity != Activity::Offline) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A task that the agents do, or one that waits for an agent for ever.
pub(crate) fn spec(kind: &str) -> TaskSpec {
    TaskSpec {
        kind: Some(kind.to_owned()),
        requirements: vec![kind.to_owned()],
        input: json!({ "text": "x".repeat(PAYLOAD - 11) }),
        ..TaskSpec::default()
    }
}

/// Submits tasks in one go.
pub(crate) async fn submit(
    ops: &dyn Operations,
    specs: Vec<TaskSpec>,
) -> Result<Vec<TaskId>, Failed> {
    let outcome = ops.submit_tasks(&admin(), specs).await;
    let receipts = outcome.map_err(|problem| format!("{problem:?}"))?.receipts;
    Ok(receipts.into_iter().map(|receipt| receipt.id).collect())
}

/// Waits until a task has ended well.
pub(crate) async fn done(ops: &dyn Operations, id: &TaskId) -> Result<Task, Failed> {
    let task = ops.wait_task(id.as_str(), PATIENCE).await;
    let task = task.map_err(|problem| format!("{id}: {problem:?}"))?;
    if task.state == mesh_messages::task::TaskState::Succeeded {
        Ok(task)
    } else {
        Err(format!("{id} is {}: {:?}", task.state, task.error).into())
    }
}

/// Bytes of the log that are used, more or less: whole segments but for what is zero at the end of the last.
pub(crate) fn log_bytes(data: &Path) -> Result<u64, Failed> {
    let mut sum = 0;
    for entry in fs::read_dir(data.join("journal/log"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let bytes = fs::read(path)?;
            let used = bytes.iter().rposition(|&byte| byte != 0);
            sum += used.map_or(0, |last| last as u64 + 1);
        }
    }
    Ok(sum)
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

fn settings(data: &Path) -> Settings {
    Settings {
        data: data.to_owned(),
        run_id: format!("bench-{}", std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        retry: RetrySpec::default(),
        fallback_on_error: true,
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
        uids: (200_000, 1000),
        egress: mesh_actors::outbound::EgressSettings::default(),
        services: mesh_actors::outbound::ServiceSettings::default(),
        encryption: mesh_messages::system::AtRest::none(),
        vault_key: None,
        audit_all_actions: false,
        certificates: Vec::new(),
        signature_required: false,
        fault: FaultConfig::default(),
        limits: DefaultLimits {
            cpu_millicores: 1000,
            memory_bytes: 512 * 1024 * 1024,
            disk_bytes: 64 * 1024 * 1024,
            io_bytes_per_second: None,
            pids: 64,
            nofile: 256,
        },
        crypto_required: false,
        liveness: LivenessLimits::default(),
        chaos: false,
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(2),
        cancel_timeout: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(2),
        api_rate: (1_000_000, 1_000_000),
        agent_rate: 1_000_000,
        retention: mesh_actors::context::Retention::default(),
        journal_segment_bytes: 8 * 1024 * 1024,
    }
}
