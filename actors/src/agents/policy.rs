//! The policy in force for an agent, and where each of its values comes from.
//!
//! Four layers, each over the next: what the operator applied to this agent, its manifest, what the operator applied to
//! all agents, the configuration.

use std::time::Duration;

use serde_json::{Value, json};

use mesh_actors_core::liveness;
use mesh_messages::agent::PolicyValue;
use mesh_messages::manifest::{AgentManifest, PolicyOverrides, SandboxLevel};
use mesh_messages::policy::{OperatorPolicy, PolicyDocument};
use mesh_messages::units::{ByteCount, Cpu};
use mesh_sandbox::{Degradable, Execution, Limits};
use mesh_supervision_core::fault::FaultConfig;

use super::bounds::bounds;
use crate::context::{Context, Settings};

/// The key of the security profile.
const LEVEL: &str = "security.sandbox_level";

/// The one key that is the operator's alone.
const OPEN_NETWORK: &str = "security.open_network";

/// All that bounds one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceBounds {
    /// What its sandbox holds.
    pub kernel: Limits,
    /// What its way out holds, when it has one.
    pub way_out: Option<WayOut>,
}

/// How an instance may use its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WayOut {
    /// Connections at once.
    pub connections: u32,
    /// Bytes a second, both directions together; as many as it can when absent.
    pub bytes_per_second: Option<u32>,
}

/// What holds for one agent.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    /// Restarts, breaker, quarantine.
    pub(crate) fault: FaultConfig,
    /// Bounds of each instance.
    pub(crate) limits: InstanceBounds,
    /// When it counts as getting nowhere.
    pub(crate) liveness: liveness::Limits,
    /// Which security profile.
    pub(crate) profile: SandboxLevel,
    /// Whether a control that falls short refuses the start.
    pub(crate) sandbox_required: bool,
    /// Each value with its origin.
    pub(crate) values: Vec<PolicyValue>,
}

/// Computes what holds for the agent of this manifest.
pub(crate) fn effective(manifest: &AgentManifest, ctx: &Context) -> Effective {
    resolve(Some(manifest), &ctx.settings, &ctx.policy.load())
}

/// What holds for an agent whose manifest overrides nothing.
pub(crate) fn effective_default(ctx: &Context) -> Effective {
    resolve(None, &ctx.settings, &ctx.policy.load())
}

/// What holds for the agent of this manifest, would this policy be applied.
pub(crate) fn resolve(
    manifest: Option<&AgentManifest>,
    settings: &Settings,
    policy: &PolicyDocument,
) -> Effective {
    let nothing = OperatorPolicy::default();
    let id = manifest.map(|manifest| &manifest.id);
    let layers = Layers {
        agent: id.and_then(|id| policy.agents.get(id)).unwrap_or(&nothing),
        agent_origin: id.map(|id| format!("policy:{id}")).unwrap_or_default(),
        manifest: manifest
            .map(|manifest| manifest.policy.overrides())
            .unwrap_or_default(),
        all: policy.default.as_ref().unwrap_or(&nothing),
        settings,
    };
    let mut values = Vec::new();
    let fault = layers.fault(&mut values);
    let kernel = layers.limits(&mut values);
    // The operator's demand cannot be lowered from a manifest.
    let asked = layers
        .manifest
        .sandbox_level
        .max(manifest.and_then(|manifest| asked_in_a_word(manifest, settings.sandbox_level)));
    let assigned = layers.agent.sandbox_level;
    let base = assigned.or(layers.all.sandbox_level);
    let profile = profile(settings, (assigned, base), asked);
    let sandbox_required = profile >= SandboxLevel::Strict;
    // A manifest can only ask for more where nobody requires it; that it may ask for less is the configuration's word.
    let unasked = self::profile(settings, (assigned, base), None) >= SandboxLevel::Strict;
    let by_manifest = sandbox_required && !unasked;
    let signs_itself = layers.manifest.crypto_required == Some(true);
    let mut plain = |key: &str, value: Value, by_manifest: bool| {
        let origin = if by_manifest {
            "manifest".to_owned()
        } else {
            layers.configured(key)
        };
        let key = key.to_owned();
        values.push(PolicyValue { key, value, origin });
    };
    plain(
        "security.sandbox_required",
        json!(sandbox_required),
        by_manifest,
    );
    plain(
        LEVEL,
        json!(profile.name()),
        asked == Some(profile) && profile != base.unwrap_or(settings.sandbox_level),
    );
    plain(
        "security.crypto_required",
        json!(settings.crypto_required || signs_itself),
        signs_itself,
    );
    let granted = id.map(|id| settings.open_network.contains(id));
    if let Some(granted) = granted {
        plain(OPEN_NETWORK, json!(granted), false);
    }
    let said = crate::outbound::Said {
        agent: &layers.agent.network_limit,
        agent_origin: &layers.agent_origin,
        all: &layers.all.network_limit,
    };
    let (way_out, network) = crate::outbound::values(settings, manifest, said);
    values.extend(network);
    let outbound = manifest.is_some_and(|manifest| manifest.security.reaches_out());
    let limits = InstanceBounds {
        kernel,
        way_out: (outbound && granted == Some(false)).then_some(way_out),
    };
    if base == Some(profile)
        && let Some(level) = values.iter_mut().find(|value| value.key == LEVEL)
    {
        // Where the operator's policy says it, that is its origin.
        let own = assigned.map(|_| layers.agent_origin.clone());
        level.origin = own.unwrap_or_else(|| "policy".to_owned());
    }
    let (liveness, bounds) = bounds(manifest, settings);
    values.extend(bounds);
    for (suffix, said, origin) in [
        ("", layers.all, "policy"),
        (".own", layers.agent, &layers.agent_origin),
    ] {
        let lists = [
            ("access", json!(said.access)),
            ("approvals", json!(said.approvals)),
            ("escalate", json!(said.escalate)),
        ];
        for (key, value) in lists.into_iter().filter(|(_, list)| *list != json!([])) {
            values.push(PolicyValue {
                key: format!("{key}{suffix}"),
                value,
                origin: origin.to_owned(),
            });
        }
    }
    Effective {
        fault,
        limits,
        liveness,
        profile,
        sandbox_required,
        values,
    }
}

/// The profile that `sandbox: true` of a manifest's policy asks for, and `sandbox: false` of either: no agent's process runs
/// without any, so that is the one with which it starts wherever it can.
fn asked_in_a_word(manifest: &AgentManifest, configured: SandboxLevel) -> Option<SandboxLevel> {
    match manifest.policy.overrides().sandbox {
        Some(true) => Some(configured.max(SandboxLevel::Strict)),
        _ => manifest.declines_sandbox().map(|_| SandboxLevel::Relaxed),
    }
}

/// The security profile of an agent that asks for one: a manifest may always ask for more, and for less only where the
/// operator requires nothing.
///
/// What the operator assigned to the agent is the least that it has; what was assigned to all takes the place of the
/// configuration.
pub(crate) fn profile(
    settings: &Settings,
    (assigned, base): (Option<SandboxLevel>, Option<SandboxLevel>),
    asked: Option<SandboxLevel>,
) -> SandboxLevel {
    let base = base.unwrap_or(settings.sandbox_level);
    let wanted = asked
        .unwrap_or(base)
        .max(assigned.unwrap_or(SandboxLevel::Relaxed));
    if settings.sandbox_required {
        wanted.max(base).max(SandboxLevel::Strict)
    } else {
        wanted
    }
}

/// What a profile lets degrade, of what the operator does.
pub(crate) fn degradable(profile: SandboxLevel, operator: &[Degradable]) -> Vec<Degradable> {
    match profile {
        SandboxLevel::Relaxed | SandboxLevel::Strict => operator.to_vec(),
        // No kernel holds the sum of a directory's files on an ordinary file system, so nothing would ever start.
        SandboxLevel::Maximum => vec![Degradable::Disk],
    }
}

/// What a profile lets an agent execute.
pub(crate) const fn execution(profile: SandboxLevel) -> Execution {
    match profile {
        SandboxLevel::Relaxed | SandboxLevel::Strict => Execution::Anything,
        SandboxLevel::Maximum => Execution::Installed,
    }
}

/// Where a value may come from, the first before the others.
struct Layers<'a> {
    agent: &'a OperatorPolicy,
    agent_origin: String,
    manifest: PolicyOverrides,
    all: &'a OperatorPolicy,
    settings: &'a Settings,
}

/// What each layer says of one value.
struct Said<T> {
    agent: Option<T>,
    manifest: Option<T>,
    all: Option<T>,
    configured: T,
}

impl Layers<'_> {
    fn fault(&self, values: &mut Vec<PolicyValue>) -> FaultConfig {
        let (agent, all) = (&self.agent.lifecycle, &self.all.lifecycle);
        let (manifest, base) = (&self.manifest, &self.settings.fault);
        let mut fault = base.clone();
        fault.max_crashes = self.take(
            values,
            "lifecycle.max_crashes",
            Said {
                agent: agent.max_crashes,
                manifest: manifest.max_crashes,
                all: all.max_crashes,
                configured: base.max_crashes,
            },
            |value| json!(value),
        );
        fault.crash_window = self.take(
            values,
            "lifecycle.crash_window_ms",
            Said {
                agent: agent.crash_window_ms.map(Duration::from_millis),
                manifest: None,
                all: all.crash_window_ms.map(Duration::from_millis),
                configured: base.crash_window,
            },
            |value| json!(value.as_millis()),
        );
        fault.auto_restart = self.take(
            values,
            "lifecycle.auto_restart",
            Said {
                agent: agent.auto_restart,
                manifest: manifest.auto_restart,
                all: all.auto_restart,
                configured: base.auto_restart,
            },
            |value| json!(value),
        );
        fault.quarantine_threshold = self.take(
            values,
            "lifecycle.quarantine_threshold",
            Said {
                agent: agent.quarantine_threshold,
                manifest: manifest.quarantine_threshold,
                all: all.quarantine_threshold,
                configured: base.quarantine_threshold,
            },
            |value| json!(value),
        );
        fault.hourly_max = self.take(
            values,
            "lifecycle.failures_per_hour",
            Said {
                agent: agent.failures_per_hour,
                manifest: None,
                all: all.failures_per_hour,
                configured: base.hourly_max,
            },
            |value| json!(value),
        );
        fault.essential = self.take(
            values,
            "essential",
            Said {
                agent: self.agent.essential,
                // A manifest that does not say so says nothing.
                manifest: manifest.essential.then_some(true),
                all: self.all.essential,
                configured: base.essential,
            },
            |value| json!(value),
        );
        fault
    }

    fn limits(&self, values: &mut Vec<PolicyValue>) -> Limits {
        let (agent, all) = (&self.agent.resource_limits, &self.all.resource_limits);
        let (manifest, base) = (&self.manifest, &self.settings.limits);
        let cpu = self.take(
            values,
            "resource_limits.cpu_millicores",
            Said {
                agent: agent.cpu.map(Cpu::millicores),
                manifest: manifest.cpu.map(Cpu::millicores),
                all: all.cpu.map(Cpu::millicores),
                configured: base.cpu_millicores,
            },
            |value| json!(value),
        );
        let memory = self.take(
            values,
            "resource_limits.memory_bytes",
            Said {
                agent: agent.memory.map(ByteCount::bytes),
                manifest: manifest.memory.map(ByteCount::bytes),
                all: all.memory.map(ByteCount::bytes),
                configured: base.memory_bytes,
            },
            |value| json!(value),
        );
        let disk = self.take(
            values,
            "resource_limits.disk_bytes",
            Said {
                agent: agent.disk.map(ByteCount::bytes),
                manifest: manifest.disk.map(ByteCount::bytes),
                all: all.disk.map(ByteCount::bytes),
                configured: base.disk_bytes,
            },
            |value| json!(value),
        );
        let pids = self.take(
            values,
            "resource_limits.pids",
            Said {
                agent: agent.pids,
                manifest: manifest.pids,
                all: all.pids,
                configured: base.pids,
            },
            |value| json!(value),
        );
        let io = self.take(
            values,
            "resource_limits.io_bytes_per_second",
            Said {
                agent: agent.io.map(|io| Some(io.bytes())),
                manifest: manifest.io.map(|io| Some(io.bytes())),
                all: all.io.map(|io| Some(io.bytes())),
                configured: base.io_bytes_per_second,
            },
            |value| json!(value),
        );
        Limits {
            cpu_millicores: Some(cpu),
            memory_bytes: Some(memory),
            pids: Some(pids),
            nofile: Some(base.nofile),
            disk_bytes: Some(disk),
            io_bytes_per_second: io,
        }
    }

    /// The value of the first layer that says something, noted with its origin.
    fn take<T>(
        &self,
        values: &mut Vec<PolicyValue>,
        key: &str,
        said: Said<T>,
        show: impl Fn(&T) -> Value,
    ) -> T {
        let (value, origin) = if let Some(value) = said.agent {
            (value, self.agent_origin.clone())
        } else if let Some(value) = said.manifest {
            (value, "manifest".to_owned())
        } else if let Some(value) = said.all {
            (value, "policy".to_owned())
        } else {
            (said.configured, self.configured(key))
        };
        values.push(PolicyValue {
            key: key.to_owned(),
            value: show(&value),
            origin,
        });
        value
    }

    /// Where the configuration's value comes from.
    fn configured(&self, key: &str) -> String {
        let set = self.settings.policy_origins.get(key);
        set.map_or_else(|| "default".to_owned(), Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- profiles -->\n";
    const END: &str = "<!-- /profiles -->";

    fn table() -> String {
        let all = Degradable::ALL;
        let mut table = "| profile | also called | a control that falls short | may degrade | executes |\n|---|---|---|---|---|\n".to_owned();
        for level in SandboxLevel::ALL {
            let also = ["basic", "enhanced"].into_iter().find(|name| {
                serde_json::from_value::<SandboxLevel>(json!(name))
                    .is_ok_and(|named| named == level)
            });
            let refuses = level >= SandboxLevel::Strict;
            let falls = if refuses {
                "keeps the agent from starting"
            } else {
                "is missing, and `status` says so"
            };
            let kept = degradable(level, &all);
            let degrades = match (refuses, kept.len()) {
                (false, _) => all.map(|one| one.control().name()).join(", "),
                (true, count) if count == all.len() => "what `sandbox.degradable` names".to_owned(),
                (true, _) => kept
                    .iter()
                    .map(|one| one.control().name())
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            let executes = match execution(level) {
                Execution::Anything => "whatever it can read",
                Execution::Installed | Execution::Withheld => "nothing that it can write",
            };
            let also = also.map(|name| format!("`{name}`")).unwrap_or_default();
            let name = level.name();
            table.push_str(
                &[
                    "| `", name, "` | ", &also, " | ", falls, " | ", &degrades, " | ", executes,
                    " |\n",
                ]
                .concat(),
            );
        }
        table
    }

    #[test]
    fn the_profiles_are_documented_as_they_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sandbox.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (shown, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
            return;
        }
        assert_eq!(shown, table(), "UPDATE_DOCS=1 writes it anew");
    }

    #[test]
    fn each_profile_is_stricter_than_the_one_before() {
        let all = [Degradable::Cpu, Degradable::Disk];
        let strictness = |level| {
            (
                level >= SandboxLevel::Strict,
                execution(level) == Execution::Installed,
                std::cmp::Reverse(degradable(level, &all).len()),
            )
        };
        let [basic, strict, maximum] = SandboxLevel::ALL.map(strictness);
        assert!(basic < strict && strict < maximum);
    }
}
