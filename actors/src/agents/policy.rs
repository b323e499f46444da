//! The policy in force for an agent: its manifest's overrides over the operator's defaults, with where each value came from.

use serde_json::json;

use mesh_messages::agent::PolicyValue;
use mesh_messages::manifest::{AgentManifest, PolicyOverrides, SandboxLevel};
use mesh_sandbox::Limits;
use mesh_supervision_core::fault::FaultConfig;

use crate::context::Settings;

/// The one key that is the operator's alone.
const OPEN_NETWORK: &str = "security.open_network";

/// What holds for one agent.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    /// Restarts, breaker, quarantine.
    pub(crate) fault: FaultConfig,
    /// Bounds of each instance.
    pub(crate) limits: Limits,
    /// Whether a control that falls short refuses the start.
    pub(crate) sandbox_required: bool,
    /// Each value with its origin.
    pub(crate) values: Vec<PolicyValue>,
}

/// Computes what holds for the agent of this manifest.
pub(crate) fn effective(manifest: &AgentManifest, settings: &Settings) -> Effective {
    let over = manifest.policy.overrides();
    let base = &settings.fault;
    let fault = FaultConfig {
        max_crashes: over.max_crashes.unwrap_or(base.max_crashes),
        auto_restart: over.auto_restart.unwrap_or(base.auto_restart),
        quarantine_threshold: over
            .quarantine_threshold
            .unwrap_or(base.quarantine_threshold),
        essential: over.essential || base.essential,
        ..base.clone()
    };
    let default = &settings.limits;
    let limits = Limits {
        cpu_millicores: Some(over.cpu.map_or(
            default.cpu_millicores,
            mesh_messages::units::Cpu::millicores,
        )),
        memory_bytes: Some(
            over.memory
                .map_or(default.memory_bytes, mesh_messages::units::ByteCount::bytes),
        ),
        pids: Some(over.pids.unwrap_or(default.pids)),
        nofile: Some(default.nofile),
        disk_bytes: Some(
            over.disk
                .map_or(default.disk_bytes, mesh_messages::units::ByteCount::bytes),
        ),
    };
    // The operator's demand cannot be lowered from a manifest.
    let level = over.sandbox_level.unwrap_or(settings.sandbox_level);
    let sandbox_required = settings.sandbox_required || level == SandboxLevel::Strict;
    let mut values = values(&over, &fault, &limits, sandbox_required, settings);
    values.push(PolicyValue {
        key: OPEN_NETWORK.to_owned(),
        value: json!(settings.open_network.contains(&manifest.id)),
        origin: origin(settings, OPEN_NETWORK),
    });
    Effective {
        fault,
        limits,
        sandbox_required,
        values,
    }
}

/// Where the operator's value comes from.
fn origin(settings: &Settings, key: &str) -> String {
    let set = settings.policy_origins.get(key);
    set.map_or_else(|| "default".to_owned(), Clone::clone)
}

fn values(
    over: &PolicyOverrides,
    fault: &FaultConfig,
    limits: &Limits,
    sandbox_required: bool,
    settings: &Settings,
) -> Vec<PolicyValue> {
    let value = |key: &str, value: serde_json::Value, overridden: bool| PolicyValue {
        key: key.to_owned(),
        value,
        origin: if overridden {
            "manifest".to_owned()
        } else {
            origin(settings, key)
        },
    };
    vec![
        value(
            "lifecycle.max_crashes",
            json!(fault.max_crashes),
            over.max_crashes.is_some(),
        ),
        value(
            "lifecycle.crash_window_ms",
            json!(fault.crash_window.as_millis()),
            false,
        ),
        value(
            "lifecycle.auto_restart",
            json!(fault.auto_restart),
            over.auto_restart.is_some(),
        ),
        value(
            "lifecycle.quarantine_threshold",
            json!(fault.quarantine_threshold),
            over.quarantine_threshold.is_some(),
        ),
        value(
            "lifecycle.failures_per_hour",
            json!(fault.hourly_max),
            false,
        ),
        value("essential", json!(fault.essential), over.essential),
        value(
            "resource_limits.cpu_millicores",
            json!(limits.cpu_millicores),
            over.cpu.is_some(),
        ),
        value(
            "resource_limits.memory_bytes",
            json!(limits.memory_bytes),
            over.memory.is_some(),
        ),
        value(
            "resource_limits.disk_bytes",
            json!(limits.disk_bytes),
            over.disk.is_some(),
        ),
        value(
            "resource_limits.pids",
            json!(limits.pids),
            over.pids.is_some(),
        ),
        value(
            "security.sandbox_required",
            json!(sandbox_required),
            over.sandbox_level.is_some() && !settings.sandbox_required,
        ),
        value(
            "security.crypto_required",
            json!(settings.crypto_required),
            false,
        ),
    ]
}
