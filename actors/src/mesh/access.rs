//! What a decision on access may go by: whose a thing is, and which tasks it is about.

use std::borrow::Cow;

use mesh_actors_core::access::About;
use mesh_messages::access::TaskFacts;
use mesh_messages::capability::Limits;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::task::TaskSpec;
use mesh_messages::workflow::WorkflowDocument;
use percent_encoding::percent_decode_str;

use super::Mesh;
use super::tasks::{find, task_id};
use crate::operations::Action;
use crate::sentinel::Facts;

/// A resource of this many bytes may have been cut off, so what it names is not known.
const RESOURCE_BYTES_MAX: usize = 256;

/// The tasks of a submission, as its resource is named in the audit.
pub(crate) const TASKS: &str = "/v1/tasks";

/// Whose something is, and what it is about.
type Known = (Option<String>, About);

/// Tasks of a caller whose token was narrowed: what is done on their behalf is held to it, too.
fn held_within(caller: &Caller, mut specs: Vec<TaskSpec>) -> Vec<TaskSpec> {
    for spec in &mut specs {
        spec.within.extend(limits_of(caller));
    }
    specs
}

/// What the caller's token was narrowed to.
pub(super) fn limits_of(caller: &Caller) -> impl Iterator<Item = Limits> {
    caller.narrowed.iter().map(|block| block.limits.clone())
}

/// The agent that a resource names.
fn agent_in(resource: &str) -> Option<String> {
    let mut parts = resource.strip_prefix("/v1/")?.split('/');
    let kind = parts.next()?;
    let id = percent_decode_str(parts.next()?).decode_utf8().ok()?;
    matches!(kind, "agents" | "memory").then(|| id.into_owned())
}

/// Whether it is about schedules or plans, which outlive whoever made them.
fn is_standing(resource: &str) -> bool {
    let kind = resource
        .strip_prefix("/v1/")
        .and_then(|path| path.split('/').next());
    let kind = kind.and_then(|kind| percent_decode_str(kind).decode_utf8().ok());
    matches!(kind.as_deref(), Some("schedules" | "plans"))
}

/// What is not there, there is nothing to know of; that it cannot be looked up is no such answer.
fn unless_absent<T>(found: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(problem) if problem.kind == ProblemKind::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

impl Mesh {
    /// Whether the caller may do this: by role, as the owner, and by the operator's rules.
    pub(super) async fn may(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        // A run that is resumed goes on beyond the token's end, and what is removed is gone for those with all rights, too.
        if action == Action::TaskControl && is_standing(resource) {
            self.sentinel.not_narrowed(caller, action, resource)?;
        }
        let facts = async {
            let (owner, about) = self.known_of(action, resource).await?;
            Ok(Facts {
                owner_may: self.owns(caller, action, resource).await,
                own: owner.map(|owner| owner == caller.name),
                about,
                agent: agent_in(resource),
                ..Facts::default()
            })
        };
        self.sentinel
            .authorize_about(caller, action, resource, facts)
            .await?;
        self.may_enter(caller, action, resource)
    }

    /// Whether the caller may submit these tasks, now that it is known what they are.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn may_submit(&self, caller: &Caller, specs: &[TaskSpec]) -> Result<(), Problem> {
        let tasks: Vec<_> = specs.iter().flat_map(TaskFacts::all_of).collect();
        self.may_give(caller, TASKS, &tasks)?;
        self.sentinel.may_submit(caller, TASKS, tasks)
    }

    /// Tasks as their caller may submit them.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) async fn permitted(
        &self,
        caller: &Caller,
        specs: Vec<TaskSpec>,
    ) -> Result<Vec<TaskSpec>, Problem> {
        self.may_submit(caller, &specs)?;
        self.may_check(caller, &specs).await?;
        self.may_submit_below(caller, &specs).await?;
        Ok(held_within(caller, specs))
    }

    /// Whether the caller may have a workflow run, at once or later: it is control of all its tasks, their submission, and
    /// the calls of services that it names.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn may_run(
        &self,
        caller: &Caller,
        resource: &str,
        document: &WorkflowDocument,
    ) -> Result<(), Problem> {
        self.may_call_services(caller, document)?;
        let tasks = TaskFacts::of_workflow(document);
        let facts = Facts {
            about: About::Tasks(tasks.clone()),
            ..Facts::default()
        };
        self.sentinel
            .not_narrowed(caller, Action::TaskControl, resource)?;
        self.sentinel
            .judge(caller, Action::TaskControl, resource, &facts)?;
        if tasks.is_empty() {
            return Ok(());
        }
        self.may_give(caller, resource, &tasks)?;
        self.sentinel.may_submit(caller, resource, tasks)
    }

    async fn known_of(&self, action: Action, resource: &str) -> Result<Known, Problem> {
        if resource.len() >= RESOURCE_BYTES_MAX {
            return Ok((None, About::Unknown));
        }
        let Some(path) = resource.strip_prefix("/v1/") else {
            return Ok(Known::default());
        };
        // As the router will read it, so that no other spelling of a name gets around a rule.
        let parts: Option<Vec<Cow<'_, str>>> = path
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8().ok())
            .collect();
        let Some(parts) = parts else {
            return Ok(Known::default());
        };
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let known = match (action, &parts[..]) {
            (Action::TaskSubmit, _)
            | (Action::TaskControl, ["workflows" | "schedules" | "plans"]) => {
                Some((None, About::Later))
            }
            (Action::TaskControl, ["tasks", id, ..]) => self.known_task(id).await?,
            (Action::TaskControl, ["workflows", id, ..]) => {
                let run = unless_absent(self.workflow_named(id).await)?;
                run.map(|run| {
                    let tasks = run.workflow.as_deref().map(TaskFacts::of_workflow);
                    let about = tasks.map_or(About::Unknown, About::Tasks);
                    (Some(run.submitted_by), about)
                })
            }
            (Action::TaskControl, ["schedules", id, ..]) => {
                let schedule = unless_absent(self.schedule_named(id).await)?;
                schedule.map(|schedule| {
                    let tasks = schedule.workflow.as_deref().map(TaskFacts::of_workflow);
                    let about = tasks.map_or(About::Unknown, About::Tasks);
                    (Some(schedule.created_by), about)
                })
            }
            (Action::TaskControl, ["plans", id, ..]) => {
                let plan = crate::operations::PlanOperations::plan(self, id).await;
                unless_absent(plan)?.map(|plan| {
                    let tasks = TaskFacts::of_workflow(&plan.current.workflow);
                    (Some(plan.current.by), About::Tasks(tasks))
                })
            }
            (Action::AgentControl | Action::AgentGovern, ["agents", id, ..]) => {
                let entry = self.ctx.directory.get(id);
                let owner = entry.map(|entry| entry.state().owner.clone());
                Some((owner, About::Nothing))
            }
            _ => None,
        };
        Ok(known.unwrap_or_default())
    }

    async fn known_task(&self, id: &str) -> Result<Option<Known>, Problem> {
        let Ok(id) = task_id(id) else {
            return Ok(None);
        };
        let task = find(&self.ctx, &self.orchestrator, &id).await;
        Ok(unless_absent(task)?.map(|task| {
            let about = About::Tasks(TaskFacts::all_of(&task.spec));
            (Some(task.submitted_by), about)
        }))
    }
}
