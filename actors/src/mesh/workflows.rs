//! Workflows, as the outside asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::projection;
use mesh_actors_core::workflow::{NewRun, Plan, Surroundings, check};
use mesh_messages::agent::Page;
use mesh_messages::json::canonical;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::FieldError;
use mesh_messages::system::Caller;
use mesh_messages::workflow::{
    RegisteredCall, StepKind, StepState, StepView, WorkflowCheck, WorkflowDocument, WorkflowRun,
    mermaid,
};
use mesh_messages::{AgentId, TaskId, WorkflowRunId};
use serde_json::Value;

use super::Mesh;
use super::plans::candidates;
use super::tasks::find;
use crate::operations::{PageRequest, WorkflowOrder};
use crate::reads::{self, LookupError, StoreReader};

/// How often a waiter looks for itself although nobody told it of an end.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Tasks of one step whose state is asked for to show where the step stands.
const TASKS_SHOWN_MAX: usize = 64;

/// A run's id, or that there is no such run: what is no id is nobody's.
fn run_id(text: &str) -> Result<WorkflowRunId, Problem> {
    WorkflowRunId::new(text).map_err(|_| not_found(text))
}

fn not_found(id: &str) -> Problem {
    let detail = format!("Workflow {id} not found");
    Problem::new(ProblemKind::NotFound, "workflow_not_found", detail)
}

/// All that is wrong, with paths below `workflow`.
fn invalid(errors: &[FieldError]) -> Problem {
    let at = |path: &str| {
        if path.is_empty() {
            "workflow".to_owned()
        } else {
            format!("workflow.{path}")
        }
    };
    let all: Vec<String> = errors
        .iter()
        .map(|error| format!("{}: {}", at(&error.path), error.message))
        .collect();
    let field = errors
        .first()
        .map(|error| at(&error.path))
        .unwrap_or_default();
    Problem::invalid("invalid_workflow", field, all.join("; ")).errors(all)
}

/// The names of workflows to which a document refers, at any depth.
fn names_in(source: &Value, names: &mut BTreeMap<String, Option<Arc<WorkflowDocument>>>) {
    let steps = source
        .get("steps")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for step in steps {
        match step.get("workflow") {
            Some(Value::String(name)) => {
                names.insert(name.clone(), None);
            }
            Some(inner) => names_in(inner, names),
            None => {}
        }
    }
}

impl Mesh {
    /// Checks a document against itself, the documents it names, and the agents that there are.
    pub(super) async fn plan(&self, workflow: &Value, deploy_later: bool) -> Result<Plan, Problem> {
        let mut names = BTreeMap::new();
        let source = match workflow {
            Value::String(name) => {
                let Some(document) = self.workflows.named(name).await? else {
                    let message =
                        format!("unknown workflow \"{name}\": none of this name has run here");
                    return Err(invalid(&[FieldError::new("", message)]));
                };
                serde_json::to_value(&*document)
                    .map_err(|error| Problem::internal(error.to_string()))?
            }
            source => source.clone(),
        };
        names_in(&source, &mut names);
        for (name, found) in &mut names {
            *found = self.workflows.named(name).await?;
        }
        let named = |name: &str| names.get(name).cloned().flatten();
        let capabilities: Vec<_> = self
            .ctx
            .directory
            .all()
            .iter()
            .filter_map(|entry| {
                entry
                    .state()
                    .manifest()
                    .map(|manifest| manifest.capabilities.clone())
            })
            .collect();
        let offered = |needs: &[String]| {
            let mut all = capabilities.iter();
            all.any(|has| {
                needs
                    .iter()
                    .all(|need| has.iter().any(|one| one.as_str() == need.as_str()))
            })
        };
        let registered = |agent: &AgentId| self.ctx.directory.get(agent.as_str()).is_some();
        let fleet = candidates(&self.ctx);
        let serves = |call: &RegisteredCall| self.serves(call);
        let around = Surroundings {
            services: (!deploy_later).then_some(&serves as mesh_actors_core::workflow::Serves<'_>),
            fleet: (!deploy_later).then_some(&fleet),
            named: &named,
            offered: (!deploy_later).then_some(&offered as mesh_actors_core::workflow::Offers<'_>),
            registered: (!deploy_later).then_some(&registered as &dyn Fn(&AgentId) -> bool),
        };
        check(&source, around).map_err(|errors| invalid(&errors))
    }

    /// What a submission asks for, as far as its caller may have it run.
    async fn permitted_plan(
        &self,
        caller: &Caller,
        order: &WorkflowOrder,
    ) -> Result<Plan, Problem> {
        self.may_check_in(caller, &order.workflow).await?;
        let plan = self.plan(&order.workflow, order.deploy_later).await?;
        self.may_run(caller, "/v1/workflows", plan.document())?;
        Ok(plan)
    }

    pub(super) async fn workflow_check(
        &self,
        caller: &Caller,
        order: &WorkflowOrder,
    ) -> Result<WorkflowCheck, Problem> {
        let plan = self.permitted_plan(caller, order).await?;
        let document = plan.document();
        Ok(WorkflowCheck {
            valid: true,
            name: document.name.clone(),
            version: document.version.0.clone(),
            steps: plan.size(),
            mermaid: mermaid(&plan.drawn(), None),
        })
    }

    pub(super) async fn workflow_start(
        &self,
        caller: &Caller,
        order: WorkflowOrder,
    ) -> Result<(WorkflowRun, bool), Problem> {
        let plan = self.permitted_plan(caller, &order).await?;
        let submitted = serde_json::json!([order.workflow, order.input]);
        let request = format!("blake3:{}", blake3::hash(&canonical(&submitted)).to_hex());
        let id = WorkflowRunId::new(uuid::Uuid::now_v7().to_string())
            .map_err(|error| Problem::internal(error.to_string()))?;
        let new = NewRun {
            id,
            plan: Arc::new(plan),
            input: order.input,
            by: caller.name.clone(),
            key: order.idempotency_key,
            request,
            scheduled: None,
        };
        let (id, replayed) = self.workflows.start(new).await?;
        Ok((self.workflow_of(&id).await?, replayed))
    }

    pub(super) async fn workflow_named(&self, id: &str) -> Result<WorkflowRun, Problem> {
        self.workflow_of(&run_id(id)?).await
    }

    /// A run: from the machine that holds it, with where its tasks stand; else from the read side.
    async fn workflow_of(&self, id: &WorkflowRunId) -> Result<WorkflowRun, Problem> {
        if let Some(mut run) = self.workflows.view(id).await? {
            for step in &mut run.steps {
                self.complete(step).await?;
            }
            return Ok(run);
        }
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let wanted = id.clone();
        let row = reads::blocking(store, move |store| {
            projection::workflow(&StoreReader(store), &wanted).map_err(LookupError::from)
        });
        row.await?.ok_or_else(|| not_found(id.as_str()))
    }

    /// Whether the run of which a task is a step, if it is one, goes on.
    ///
    /// # Errors
    /// The run has ended: nobody would wait for another round of the task.
    pub(super) async fn goes_on(&self, task: &TaskId) -> Result<(), Problem> {
        let Ok(task) = find(&self.ctx, &self.orchestrator, task).await else {
            return Ok(());
        };
        let run = task.spec.labels.get("workflow").map(String::as_str);
        let Some(run) = run.and_then(|id| WorkflowRunId::new(id).ok()) else {
            return Ok(());
        };
        match self.workflow_of(&run).await {
            Ok(run) if run.state.is_terminal() => {
                let detail = format!(
                    "task {} cannot be retried: it belongs to run {}, which has ended; start another run",
                    task.id, run.id
                );
                Err(Problem::new(
                    ProblemKind::Conflict,
                    "task_not_retryable",
                    detail,
                ))
            }
            // Its label may say anything, where a version before this one took it.
            _ => Ok(()),
        }
    }

    /// Adds where the tasks of a step stand that has not ended.
    async fn complete(&self, step: &mut StepView) -> Result<(), Problem> {
        if step.state.is_terminal() || step.kind != StepKind::Task {
            return Ok(());
        }
        let mut best: Option<(u8, StepState, Option<String>)> = None;
        for id in step.task_ids.iter().take(TASKS_SHOWN_MAX) {
            let Some(task) = self.orchestrator.view(id).await? else {
                continue;
            };
            let state = if task.state.is_terminal() {
                StepState::Running
            } else {
                task.state.into()
            };
            let why = task.waiting_for.map(|waiting| waiting.detail);
            let rank = activity(state);
            if best.as_ref().is_none_or(|(other, ..)| rank > *other) {
                best = Some((rank, state, why));
            }
        }
        if let Some((_, state, why)) = best {
            step.state = state;
            step.waiting_for = why;
        }
        Ok(())
    }

    pub(super) async fn workflow_wait(
        &self,
        id: &str,
        wait: Duration,
    ) -> Result<WorkflowRun, Problem> {
        let id = run_id(id)?;
        let mut ends = self.workflows.ends();
        let until = tokio::time::Instant::now() + wait;
        loop {
            let run = self.workflow_of(&id).await?;
            if run.state.is_terminal() || tokio::time::Instant::now() >= until {
                return Ok(run);
            }
            let next_look = until.min(tokio::time::Instant::now() + LOOK_AGAIN);
            loop {
                match tokio::time::timeout_at(next_look, ends.recv()).await {
                    Ok(Ok(ended)) if ended != id => {}
                    // It is the one, some were missed, or it is time to look.
                    _ => break,
                }
            }
        }
    }

    pub(super) async fn workflow_cancel(
        &self,
        caller: &Caller,
        id: &str,
        reason: &str,
    ) -> Result<WorkflowRun, Problem> {
        let id = run_id(id)?;
        match self
            .workflows
            .cancel(&caller.name, id.clone(), reason)
            .await
        {
            Ok(()) => self.workflow_of(&id).await,
            // Ended long ago, perhaps: the read side knows.
            Err(problem) if problem.kind == ProblemKind::NotFound => {
                let run = self.workflow_of(&id).await?;
                let detail = format!("workflow {id} has ended already: {}", run.state);
                Err(Problem::new(
                    ProblemKind::Conflict,
                    "workflow_ended",
                    detail,
                ))
            }
            Err(problem) => Err(problem),
        }
    }

    pub(super) async fn workflow_page(
        &self,
        page: PageRequest<'_>,
    ) -> Result<Page<WorkflowRun>, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let from = page.cursor.map(super::tasks::decode_cursor).transpose()?;
        let limit = page.limit;
        let (ids, next) = reads::blocking(store, move |store| {
            projection::workflow_page(&StoreReader(store), from.as_deref(), limit)
                .map_err(LookupError::from)
        })
        .await?;
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let mut run = self.workflow_of(&id).await?;
            run.workflow = None;
            items.push(run);
        }
        Ok(Page {
            items,
            next_cursor: next.map(hex::encode),
        })
    }
}

/// Of the tasks of a step, the one that is furthest on says where the step stands.
const fn activity(state: StepState) -> u8 {
    match state {
        StepState::Running => 5,
        StepState::Assigned => 4,
        StepState::Retrying => 3,
        StepState::Queued => 2,
        StepState::Parked => 1,
        StepState::Blocked
        | StepState::Succeeded
        | StepState::Failed
        | StepState::Cancelled
        | StepState::DeadLettered
        | StepState::Skipped => 0,
    }
}
