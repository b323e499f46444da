//! Owners: who registered an agent or submitted a task may do more with it than their role says, and nobody else puts work
//! under it.

use std::collections::BTreeSet;

use mesh_messages::TaskId;
use mesh_messages::agent::Lifecycle;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role};
use mesh_messages::task::{Task, TaskSpec};

use super::Mesh;
use super::access::TASKS;
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

/// Whether an agent has a task in hand.
fn has_in_hand(caller: &Caller, task: &Task) -> bool {
    let agent = caller.name.strip_prefix("agent:");
    let with = task.assignment.as_ref();
    task.state.is_in_flight() && with.is_some_and(|with| agent == Some(with.agent_id.as_str()))
}

impl Mesh {
    /// Whether the caller may submit these on behalf of the tasks that they name as their `parent`, whose budget, deadline
    /// and limits they share: an admin may, who submitted that task or one above it, and the agent that has it in hand.
    ///
    /// # Errors
    /// `forbidden`, or that a task cannot be looked up.
    pub(super) async fn may_submit_below(
        &self,
        caller: &Caller,
        specs: &[TaskSpec],
    ) -> Result<(), Problem> {
        if caller.role == Role::Admin {
            return Ok(());
        }
        let parents: BTreeSet<&TaskId> = specs.iter().filter_map(|s| s.parent.as_ref()).collect();
        for parent in parents {
            if !self.is_theirs(caller, parent).await? {
                let rule = format!("parent {parent}, which is another's");
                let action = Action::TaskSubmit;
                return Err(self.sentinel.refuse_by(caller, action, TASKS, rule));
            }
        }
        Ok(())
    }

    async fn is_theirs(&self, caller: &Caller, parent: &TaskId) -> Result<bool, Problem> {
        let mut next = Some(parent.clone());
        // Tasks are delegated a few times at most, and a parent is always older than its child.
        while let Some(id) = next {
            let task = match find(&self.ctx, &self.orchestrator, &id).await {
                Ok(task) => task,
                // What is not there is nobody's, and told by its own name when the tasks are looked at.
                Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(id == *parent),
                Err(problem) => return Err(problem),
            };
            if task.submitted_by == caller.name || (id == *parent && has_in_hand(caller, &task)) {
                return Ok(true);
            }
            next = task.spec.parent.filter(|_| caller.role != Role::Agent);
        }
        Ok(false)
    }

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
