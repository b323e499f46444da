//! Owners: who registered an agent or submitted a task may do more with it than their role says.

use mesh_messages::agent::Lifecycle;
use mesh_messages::system::{Caller, Role};

use super::Mesh;
use super::tasks::{find, task_id};
use crate::operations::Action;
use crate::sentinel::{OwnersAct, owner_permits};

/// An act on something that can have an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owned<'a> {
    act: OwnersAct,
    of: &'a str,
}

impl<'a> Owned<'a> {
    /// What an action on a resource is; `None` where ownership makes no difference. A resource is named by its path, as in
    /// the audit, and an id that is not written plainly there is nobody's.
    fn of(action: Action, resource: &'a str) -> Option<Self> {
        let parts: Vec<&str> = resource.strip_prefix("/v1/")?.split('/').collect();
        let (act, of) = match (action, parts[..].as_ref()) {
            (Action::AgentControl, ["agents", id, "stop"]) => (OwnersAct::Stop, *id),
            (Action::AgentControl, ["agents", id, "restart"]) => (OwnersAct::Restart, *id),
            (Action::AgentControl, ["agents", id, "pause"]) => (OwnersAct::Pause, *id),
            (Action::AgentGovern, ["agents", id, "terminate"]) => (OwnersAct::Terminate, *id),
            (Action::AgentGovern, ["agents", id]) => (OwnersAct::Remove, *id),
            (Action::TaskControl, ["tasks", id, "cancel"]) => (OwnersAct::CancelTask, *id),
            _ => return None,
        };
        Some(Self { act, of })
    }
}

impl Mesh {
    /// Whether the caller may do this as the owner of what it is done to.
    pub(super) async fn owns(&self, caller: &Caller, action: Action, resource: &str) -> bool {
        let Some(Owned { act, of }) = Owned::of(action, resource) else {
            return false;
        };
        if !owner_permits(caller.role, act) {
            return false;
        }
        if act == OwnersAct::CancelTask {
            let Ok(id) = task_id(of) else {
                return false;
            };
            let task = find(&self.ctx, &self.orchestrator, &id).await;
            // What it delegated, or what checks its own result, is its parent's; and ends with that.
            return task
                .is_ok_and(|task| task.submitted_by == caller.name && task.spec.parent.is_none());
        }
        let Some(entry) = self.ctx.directory.get(of) else {
            return false;
        };
        let state = entry.state();
        let lives = state.stage() < Lifecycle::Terminated;
        // One that others have stopped is not started by its owner: whether code runs is not for who brought it.
        let runs = act != OwnersAct::Restart || state.running;
        // What others have isolated stays so: ended and registered anew, it would be free again.
        let removes = matches!(act, OwnersAct::Terminate | OwnersAct::Remove);
        let isolated = removes && state.stage() == Lifecycle::Quarantined;
        // Nor are limits shed that an admin has set for it.
        let limited = act == OwnersAct::Remove
            && caller.role != Role::Admin
            && self.ctx.policy.load().agents.contains_key(&entry.id);
        state.owner == caller.name && lives && runs && !isolated && !limited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_owners_may_do_is_looked_into_and_only_under_its_own_action() {
        let of = |action, path| Owned::of(action, path).map(|owned| (owned.act, owned.of));
        assert_eq!(
            of(Action::AgentControl, "/v1/agents/a/stop"),
            Some((OwnersAct::Stop, "a"))
        );
        assert_eq!(
            of(Action::AgentGovern, "/v1/agents/a"),
            Some((OwnersAct::Remove, "a"))
        );
        assert_eq!(
            of(Action::TaskControl, "/v1/tasks/t/cancel"),
            Some((OwnersAct::CancelTask, "t"))
        );
        for (action, path) in [
            (Action::AgentControl, "/v1/agents/a/start"),
            (Action::AgentControl, "/v1/agents/a/resume"),
            (Action::AgentControl, "/v1/agents/a/scale"),
            (Action::AgentGovern, "/v1/agents/a/upgrade"),
            (Action::AgentGovern, "/v1/agents/a/recover"),
            (Action::AgentGovern, "/v1/agents/a/stop"),
            (Action::AgentGovern, "/v1/trust/a/reset"),
            (Action::TaskControl, "/v1/tasks/t/outcome"),
            (Action::TaskControl, "/v1/tasks/t/retry"),
            (Action::TaskControl, "/v1/workflows/t/cancel"),
            (Action::Read, "/v1/agents/a"),
            (Action::AgentGovern, "agents/a"),
        ] {
            assert_eq!(of(action, path), None, "{action:?} {path}");
        }
    }
}
