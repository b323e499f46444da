//! Limits of an agent, as the outside changes them.

use async_trait::async_trait;

use mesh_messages::limits::{LimitChange, LimitsInForce};
use mesh_messages::manifest::RuntimeKind;
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch, InstanceNo};

use mesh_sandbox::Plan;

use super::Mesh;
use crate::agents::agent::shown;
use crate::agents::home;
use crate::agents::policy::effective;
use crate::agents::spawn::{Start, homes_of, plan_under};
use crate::context::Context;
use crate::operations::{Action, LimitOperations};
use crate::partition::Cause;
use crate::registry::PolicyChange;

#[async_trait]
impl LimitOperations for Mesh {
    async fn change_limits(
        &self,
        caller: &Caller,
        id: &str,
        change: LimitChange,
    ) -> Result<LimitsInForce, Problem> {
        if let Some(name) = change.contradiction() {
            let name = name.name();
            let text = format!("{name}: cannot be set and taken back at once");
            return Err(Problem::invalid("invalid_value", name, text));
        }
        if change.is_empty() {
            let text = "reset: name at least one limit, or one to take back";
            return Err(Problem::invalid("invalid_value", "reset", text));
        }
        let entry = self.entry(id)?;
        self.could_start(&entry.id, &change).await?;
        let change = PolicyChange::Limits(entry.id.clone(), change);
        let resource = format!("/v1/agents/{id}/limit");
        self.change_policy(caller, change, &resource).await?;
        let state = entry.state();
        let manifest = state
            .manifest()
            .ok_or_else(|| Problem::agent_not_found(id))?;
        let limits = shown(effective(manifest, &self.ctx).limits);
        Ok(LimitsInForce { limits })
    }
}

impl Mesh {
    /// Changes the operator's policy; a refusal is audited.
    pub(super) async fn change_policy(
        &self,
        caller: &Caller,
        change: PolicyChange,
        resource: &str,
    ) -> Result<(), Problem> {
        let cause = Cause::by(&caller.name);
        let applied = self.registry.apply_policy(change, cause).await;
        applied.inspect_err(|problem| {
            if problem.kind == ProblemKind::Forbidden {
                let (action, detail) = (Action::Policy.name(), &problem.detail);
                self.sentinel
                    .record_denied(&caller.name, action, resource, detail);
            }
        })
    }

    /// Refuses limits under which an agent that can be started now could not be started again.
    async fn could_start(&self, agent: &AgentId, change: &LimitChange) -> Result<(), Problem> {
        let state = self.entry(agent.as_str())?.state();
        let Some(version) = state.version() else {
            return Ok(());
        };
        if version.manifest.resolved_runtime().kind == RuntimeKind::Native {
            return Ok(());
        }
        let (manifest, digest) = (version.manifest.clone(), version.digest.clone());
        let now = self.ctx.policy.load_full();
        let mut then = PolicyDocument::clone(&now);
        let held = then.agents.entry(agent.clone()).or_default();
        *held = change.onto(held);
        let (ctx, agent) = (std::sync::Arc::clone(&self.ctx), agent.clone());
        // It looks at the disk.
        let planned = tokio::task::spawn_blocking(move || {
            let start = Start {
                manifest: &manifest,
                digest: &digest,
                instance: InstanceNo(0),
                epoch: Epoch(0),
                process: 0,
            };
            let (then, now) = (
                plan_under(&ctx, start, &then),
                plan_under(&ctx, start, &now),
            );
            match (then, now) {
                (Ok((then, _)), _) => too_full(&ctx, &agent, &then),
                (Err(refused), Ok(_)) => Some(format!(
                    "with these limits it could not start again: {refused}"
                )),
                // What keeps it from starting as it is, is not for this change to mend.
                (Err(_), Err(_)) => None,
            }
        });
        let refused = planned
            .await
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?;
        refused.map_or(Ok(()), |text| {
            Err(Problem::invalid("start_refused", "limits", text))
        })
    }
}

/// Whether a home of the agent holds more by now than it is to, where the kernel holds it to that.
fn too_full(ctx: &Context, agent: &AgentId, then: &Plan) -> Option<String> {
    let allowed = then.spec().limits.disk_bytes?;
    let data = &ctx.settings.data;
    let homes = homes_of(data, agent).into_iter();
    let used = homes.filter_map(|home| home::held(data, &home)).max()?;
    (used > allowed).then(|| {
        format!("disk: its home holds {used} bytes, more than {allowed}; remove files there first, or allow more")
    })
}
