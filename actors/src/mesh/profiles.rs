//! Security profiles, as the outside sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use mesh_messages::manifest::{AgentManifest, RuntimeKind, SandboxLevel};
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::Problem;
use mesh_messages::profile::{ProfileDiff, ProfileDifference, SecurityProfile};
use mesh_messages::{Epoch, InstanceNo};
use mesh_sandbox::Execution;

use super::Mesh;
use crate::agents::policy::{degradable, effective, execution, resolve};
use crate::agents::spawn::{Start, plan_under};
use crate::context::Context;
use crate::operations::ProfileOperations;

/// What is compared: keys and their values.
type Facts = BTreeMap<String, Value>;

#[async_trait]
impl ProfileOperations for Mesh {
    async fn security_profiles(&self) -> Result<Vec<SecurityProfile>, Problem> {
        let mut profiles: Vec<_> = SandboxLevel::ALL
            .into_iter()
            .map(|level| profile_of(&self.ctx, level))
            .collect();
        for entry in self.ctx.directory.all() {
            let state = entry.state();
            let Some(manifest) = state.manifest() else {
                continue;
            };
            let holds = effective(manifest, &self.ctx).profile;
            let of = profiles.iter_mut().filter(|one| one.name == holds);
            of.for_each(|one| one.agents.push(entry.id.clone()));
        }
        Ok(profiles)
    }

    async fn profile_diff(&self, id: &str, profile: SandboxLevel) -> Result<ProfileDiff, Problem> {
        let entry = self.entry(id)?;
        let state = entry.state();
        let version = state
            .versions
            .get(state.current.as_deref().unwrap_or_default());
        let version = version
            .cloned()
            .ok_or_else(|| Problem::agent_not_found(id))?;
        let now = self.ctx.policy.load_full();
        let mut then = PolicyDocument::clone(&now);
        let own = then.agents.entry(entry.id.clone()).or_default();
        own.sandbox_level = Some(profile);
        let ctx = Arc::clone(&self.ctx);
        // It looks at the disk.
        let compared = tokio::task::spawn_blocking(move || {
            let manifest = &*version.manifest;
            let holds = resolve(Some(manifest), &ctx.settings, &now).profile;
            let would_hold = resolve(Some(manifest), &ctx.settings, &then).profile;
            let mut before = facts(&ctx, manifest, holds);
            let mut after = facts(&ctx, manifest, profile);
            let (is, _) = controls(&ctx, (manifest, &version.digest), &now);
            let (would, refused) = controls(&ctx, (manifest, &version.digest), &then);
            if refused.is_none() && !is.is_empty() {
                before.extend(is);
                after.extend(would);
            }
            let differences = differences(&before, &after);
            (holds, would_hold, differences, refused)
        });
        let (effective, would_hold, differences, refused) = compared
            .await
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?;
        Ok(ProfileDiff {
            agent: entry.id.clone(),
            effective,
            profile,
            would_hold,
            differences,
            refused,
        })
    }
}

fn profile_of(ctx: &Context, level: SandboxLevel) -> SecurityProfile {
    let also = match level {
        SandboxLevel::Relaxed => Some("basic"),
        SandboxLevel::Strict => Some("enhanced"),
        SandboxLevel::Maximum => None,
    };
    SecurityProfile {
        name: level,
        also: also.map(str::to_owned),
        required: level >= SandboxLevel::Strict,
        degradable: degrades(ctx, level),
        execution: execution_name(execution(level)).to_owned(),
        configured: resolve(None, &ctx.settings, &ctx.policy.load()).profile == level,
        agents: Vec::new(),
    }
}

/// Below `strict`, whatever can degrade does.
fn degrades(ctx: &Context, level: SandboxLevel) -> Vec<String> {
    let kept = if level >= SandboxLevel::Strict {
        degradable(level, &ctx.settings.sandbox.degradable)
    } else {
        mesh_sandbox::Degradable::ALL.to_vec()
    };
    kept.iter()
        .map(|one| one.control().name().to_owned())
        .collect()
}

const fn execution_name(execution: Execution) -> &'static str {
    match execution {
        Execution::Anything => "anything",
        Execution::Installed | Execution::Withheld => "installed",
    }
}

/// What a profile comes to for an agent, whatever the machine.
fn facts(ctx: &Context, manifest: &AgentManifest, level: SandboxLevel) -> Facts {
    let executes = match execution(level) {
        Execution::Anything if !manifest.security.file_grants().execute() => Execution::Withheld,
        of_profile => of_profile,
    };
    let open = ctx.settings.open_network.contains(&manifest.id);
    [
        ("security.sandbox_level", json!(level.name())),
        (
            "security.sandbox_required",
            json!(level >= SandboxLevel::Strict),
        ),
        ("sandbox.degradable", json!(degrades(ctx, level))),
        ("sandbox.execution", json!(execution_name(executes))),
        (
            "sandbox.open_network",
            json!(open && level != SandboxLevel::Maximum),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// What this machine would make of each control under this policy, or why it would not start.
fn controls(
    ctx: &Context,
    (manifest, digest): (&AgentManifest, &str),
    policy: &PolicyDocument,
) -> (Facts, Option<String>) {
    if manifest.resolved_runtime().kind == RuntimeKind::Native {
        return (Facts::new(), None);
    }
    let start = Start {
        manifest,
        digest,
        instance: InstanceNo(0),
        epoch: Epoch(0),
        process: 0,
    };
    match plan_under(ctx, start, policy) {
        Ok((plan, _)) => {
            let controls = plan.report().controls.iter().map(|one| {
                let value = json!({"requested": one.requested, "level": one.level});
                (format!("control.{}", one.control.name()), value)
            });
            (controls.collect(), None)
        }
        Err(refusal) => (Facts::new(), Some(refusal.to_string())),
    }
}

fn differences(before: &Facts, after: &Facts) -> Vec<ProfileDifference> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |facts: &Facts, key: &String| facts.get(key).cloned().unwrap_or_default();
    keys.into_iter()
        .map(|key| ProfileDifference {
            key: key.clone(),
            effective: value(before, key),
            profile: value(after, key),
        })
        .filter(|one| one.effective != one.profile)
        .collect()
}
