//! Agents as they are shown: their durable state joined with what is measured now.

use mesh_actors_core::agent::AgentState;
use mesh_messages::Timestamp;
use mesh_messages::agent::{
    Activity, AgentStatus, AgentStatusKind, AgentSummary, FaultState, HealthLevel, HealthStatus,
    InstanceView, Lifecycle,
};
use mesh_messages::problem::Problem;

use crate::agents::agent::shown;
use crate::agents::spawn::control_level;
use crate::clock::now;
use crate::directory::AgentEntry;
use crate::operations::{AgentInsights, AgentProfile};

fn persona(state: &AgentState) -> String {
    state
        .manifest()
        .and_then(|m| serde_json::to_value(m.persona).ok())
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The status in one word.
pub(super) fn status_kind(state: &AgentState) -> AgentStatusKind {
    match state.stage() {
        Lifecycle::Quarantined => AgentStatusKind::Quarantined,
        Lifecycle::Terminated | Lifecycle::Audited => AgentStatusKind::Terminated,
        _ if state.fault_state() == FaultState::Quarantined => AgentStatusKind::Quarantined,
        _ => AgentStatusKind::Active,
    }
}

fn activity(instances: &[InstanceView]) -> Activity {
    let busy = instances.iter().any(|i| i.activity == Activity::Busy);
    let idle = instances.iter().any(|i| i.activity == Activity::Idle);
    match (busy, idle) {
        (true, _) => Activity::Busy,
        (false, true) => Activity::Idle,
        (false, false) => Activity::Offline,
    }
}

/// The instances of an agent, measured now.
pub(super) fn instances(entry: &AgentEntry, at: Timestamp) -> Vec<InstanceView> {
    let state = entry.state();
    let live = entry.live();
    state
        .instances
        .iter()
        .map(|(no, instance)| {
            let reading = live
                .get(no)
                .filter(|l| l.epoch == instance.epoch)
                .map(|l| l.live.read(at));
            // The state is what was durable last; without something live behind it, it is of an earlier life.
            let activity = match (instance.stage, &reading) {
                (Lifecycle::Executing, Some(reading)) if reading.tasks.is_empty() => Activity::Idle,
                (Lifecycle::Executing, Some(_)) => Activity::Busy,
                _ => Activity::Offline,
            };
            let reading = reading.unwrap_or_default();
            InstanceView {
                instance: *no,
                epoch: instance.epoch,
                lifecycle: instance.stage,
                activity,
                pid: reading.pid,
                uid: reading.uid,
                started_at: instance.activated_at,
                assigned_tasks: reading.tasks,
                memory_usage: reading.memory,
                cpu_usage: reading.cpu,
                last_activity: reading.last_activity,
                refused_messages: reading.refused,
                frozen: reading.frozen.map(control_level),
                limits: reading.limits.map(shown),
            }
        })
        .collect()
}

fn uptime(state: &AgentState, at: Timestamp) -> u64 {
    let since = state.ready().filter_map(|(_, i)| i.ready_at).min();
    since.map_or(0, |since| {
        u64::try_from(at.since(since).as_millis()).unwrap_or(u64::MAX)
    })
}

/// The status of an agent, measured now.
pub(super) fn status_of(entry: &AgentEntry, at: Timestamp) -> AgentStatus {
    let state = entry.state();
    if state.version().is_none() {
        return AgentStatus::not_found();
    }
    let instances = instances(entry, at);
    let said = entry
        .live()
        .values()
        .map(|l| l.live.read(at).level)
        .max()
        .unwrap_or_default();
    let seen = match state.fault_state() {
        FaultState::Quarantined | FaultState::Open => HealthLevel::Critical,
        FaultState::Backoff | FaultState::HalfOpen | FaultState::Recovering => HealthLevel::Warning,
        FaultState::Running | FaultState::Stopped | FaultState::Terminated => HealthLevel::Healthy,
    };
    let health = HealthStatus {
        status: said.max(seen),
        uptime: uptime(&state, at),
        memory_usage: instances
            .iter()
            .filter_map(|i| i.memory_usage)
            .fold(0.0, |a, b| a + b),
        cpu_usage: instances
            .iter()
            .filter_map(|i| i.cpu_usage)
            .reduce(|a, b| a + b),
        last_activity: instances.iter().filter_map(|i| i.last_activity).max(),
        errors: state.errors.values().cloned().collect(),
    };
    AgentStatus {
        status: status_kind(&state),
        lifecycle: Some(state.stage()),
        activity: Some(activity(&instances)),
        epoch: Some(state.epoch),
        uptime: Some(uptime(&state, at)),
        version: state.current.clone(),
        health: Some(health),
        fault: state.fault.clone().or_else(|| Some(never_started())),
        paused: Some(state.paused),
        instances: Some(instances),
        // What depends on others than the agent itself, whoever has those adds.
        waiting_for: Vec::new(),
    }
}

/// The fault view of an agent that was never started.
fn never_started() -> mesh_messages::agent::FaultView {
    mesh_messages::agent::FaultView {
        state: FaultState::Stopped,
        score: 0,
        crashes_in_window: 0,
        next_attempt_at: None,
        reason: None,
        quarantine: None,
    }
}

/// An agent in full.
pub(super) fn profile(
    entry: &AgentEntry,
    insights: AgentInsights,
) -> Result<AgentProfile, Problem> {
    let state = entry.state();
    let Some((version, manifest)) = state.version().map(|v| (v, &v.manifest)) else {
        return Err(Problem::agent_not_found(entry.id.as_str()));
    };
    Ok(AgentProfile {
        id: entry.id.clone(),
        name: manifest.display_name().to_owned(),
        kind: persona(&state),
        version: manifest.version.to_string(),
        versions: state.versions.keys().cloned().collect(),
        capabilities: manifest.capabilities.clone(),
        digest: version.digest.clone(),
        manifest: serde_json::to_value(manifest).unwrap_or_default(),
        performance: insights,
        health: status_of(entry, now()),
        owner: state.owner.clone(),
        created_at: state.created_at,
        updated_at: state.updated_at,
    })
}

/// An agent in a listing; `None` without a registered version.
pub(super) fn summary(entry: &AgentEntry, at: Timestamp) -> Option<AgentSummary> {
    let state = entry.state();
    let manifest = state.manifest()?;
    Some(AgentSummary {
        id: entry.id.clone(),
        name: manifest.display_name().to_owned(),
        version: manifest.version.to_string(),
        persona: persona(&state),
        capabilities: manifest.capabilities.clone(),
        tags: manifest.metadata.tags.clone(),
        status: status_kind(&state),
        lifecycle: state.stage(),
        activity: activity(&instances(entry, at)),
        fault_state: state.fault_state(),
        instances_ready: u32::try_from(state.ready().count()).unwrap_or(u32::MAX),
        instances_wanted: state.replicas,
        epoch: state.epoch,
        quarantine: state.fault.as_ref().and_then(|f| f.quarantine.clone()),
    })
}

/// Bytes of the files of a directory and its subdirectories.
pub(super) fn directory_bytes(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => directory_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

impl super::Mesh {
    /// What the operator granted beyond the default, and what this machine does not enforce.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for entry in self.ctx.directory.all() {
            let state = entry.state();
            let Some(manifest) = state.manifest() else {
                continue;
            };
            let open = self.ctx.settings.open_network.contains(&entry.id);
            if open && manifest.security.reaches_out() && state.running {
                warnings.push(format!(
                    "agent {} has the host's network, unfiltered",
                    entry.id
                ));
            }
            let weak: Vec<_> = state
                .sandbox
                .iter()
                .flat_map(|s| &s.controls)
                .filter(|c| c.level != mesh_messages::agent::ControlLevel::Kernel)
                .map(|c| c.control.as_str())
                .collect();
            if !weak.is_empty() {
                warnings.push(format!(
                    "agent {}: not enforced by the kernel: {}",
                    entry.id,
                    weak.join(", ")
                ));
            }
        }
        warnings
    }
}
