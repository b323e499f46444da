//! What permissions of an agent's manifest leave it, where it asks: over HTTP with its token, and on the bus.

use std::sync::Arc;

use mesh_actors_core::access::needs;
use mesh_actors_core::agent::AgentState;
use mesh_messages::access::{AccessVerb, TaskFacts};
use mesh_messages::manifest::{AgentManifest, Need};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch};

use super::Mesh;
use crate::bus::agent_of_caller;
use crate::context::Context;
use crate::operations::Action;
use crate::sentinel::SentinelHandle;

/// An agent's last durable state.
pub(super) fn state(ctx: &Context, agent: &AgentId) -> Option<Arc<AgentState>> {
    let entry = ctx.directory.get(agent.as_str())?;
    Some(entry.state())
}

/// The manifest of this incarnation, if it lives; else the one in force.
pub(super) fn manifest(state: Option<&AgentState>, epoch: Option<Epoch>) -> Option<&AgentManifest> {
    let state = state?;
    let of_it = epoch.and_then(|epoch| state.manifest_of(epoch));
    of_it.or_else(|| state.manifest())
}

/// The first of what is needed that the agent's permissions do not leave it.
pub(super) fn missing(
    ctx: &Context,
    (agent, epoch): (&AgentId, Option<Epoch>),
    needs: Vec<Need>,
) -> Option<Need> {
    let state = state(ctx, agent);
    let manifest = manifest(state.as_deref(), epoch)?;
    manifest.security.missing(needs)
}

/// Whether an agent may have these tasks done.
///
/// # Errors
/// `forbidden`, and the audit names the permission.
pub(super) fn may_give(
    parts: (&Context, &SentinelHandle),
    caller: &Caller,
    resource: &str,
    tasks: &[TaskFacts],
) -> Result<(), Problem> {
    let needs = tasks.iter().flat_map(needs::of_task).collect();
    permitted(parts, (caller, Action::TaskSubmit), resource, needs)
}

fn permitted(
    (ctx, sentinel): (&Context, &SentinelHandle),
    (caller, action): (&Caller, Action),
    resource: &str,
    needs: Vec<Need>,
) -> Result<(), Problem> {
    let agent = agent_of_caller(caller);
    let missing = agent.and_then(|agent| missing(ctx, (&agent, None), needs));
    missing.map_or(Ok(()), |need| {
        Err(sentinel.lacks(caller, action, resource, &need))
    })
}

impl Mesh {
    /// Whether an agent that comes with its token may come through this door at all.
    ///
    /// # Errors
    /// `forbidden`, and the audit names the permission.
    pub(super) fn may_enter(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        let needs = AccessVerb::named(action.name()).map(needs::of_action);
        let parts = (&*self.ctx, &self.sentinel);
        permitted(
            parts,
            (caller, action),
            resource,
            needs.into_iter().collect(),
        )
    }

    /// Whether an agent may have these tasks done.
    ///
    /// # Errors
    /// `forbidden`, and the audit names the permission.
    pub(super) fn may_give(
        &self,
        caller: &Caller,
        resource: &str,
        tasks: &[TaskFacts],
    ) -> Result<(), Problem> {
        may_give((&*self.ctx, &self.sentinel), caller, resource, tasks)
    }
}
