//! Stored plans, as the outside asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mesh_actors_core::workflow::team::{self, Candidate, Merit};
use mesh_actors_core::workflow::{NewPlan, PlanCommand, PlanRefusal};
use mesh_messages::PlanId;
use mesh_messages::agent::Lifecycle;
use mesh_messages::plan::StoredPlan;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::FieldError;
use mesh_messages::system::Caller;
use mesh_messages::task::TaskSpec;
use mesh_messages::team::TeamOrder;
use mesh_messages::trust::CapabilityTrust;
use serde_json::{Map, Value, json};

use super::Mesh;
use crate::context::Context;
use crate::directory::AgentEntry;
use crate::operations::{PlanOperations, PlanOrder, PlanWork};
use crate::orchestrator::OrchestratorHandle;

/// The one step of a plan that is a task.
const STEP: &str = "task";

/// A plan's id, or that there is no such plan: what is no id is nobody's.
fn plan_id(text: &str) -> Result<PlanId, Problem> {
    PlanId::new(text).map_err(|_| not_found(text))
}

fn not_found(id: &str) -> Problem {
    let detail = format!("Plan {id} not found");
    Problem::new(ProblemKind::NotFound, "plan_not_found", detail)
}

/// A task as the workflow of one step that it is, and what that works on. What would have no meaning there is refused.
fn workflow_of(task: TaskSpec) -> Result<(Value, Value), Problem> {
    let written = serde_json::to_value(&task);
    let written = written.map_err(|error| Problem::internal(error.to_string()))?;
    let Value::Object(mut fields) = written else {
        return Err(Problem::internal("a task is written as an object"));
    };
    let mut step = Map::new();
    step.insert("id".to_owned(), Value::from(STEP));
    step.insert("input".to_owned(), Value::from("${input}"));
    for name in [
        "requirements",
        "type",
        "agent",
        "prefer",
        "priority",
        "retry",
        "contract",
        "claims",
        "trust",
        "approval",
        "timeoutMs",
    ] {
        if let Some(value) = fields.remove(name) {
            step.insert(name.to_owned(), value);
        }
    }
    let input = fields.remove("input").unwrap_or_default();
    if let Some(name) = fields.keys().next() {
        let field = format!("task.{name}");
        let detail =
            format!("{field}: is for tasks that are submitted at once; a plan is started later");
        return Err(Problem::invalid("invalid_plan", field, detail));
    }
    let name = task.action().to_owned();
    let name = if name.is_empty() {
        STEP.to_owned()
    } else {
        name
    };
    Ok((json!({"name": name, "steps": [step]}), input))
}

fn misfit(errors: &[FieldError]) -> Problem {
    let at = |error: &FieldError| format!("team.{}", error.path);
    let all: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", at(error), error.message))
        .collect();
    let field = errors.first().map(at).unwrap_or_default();
    Problem::invalid("invalid_team", field, all.join("; "))
}

/// The agents that may become members of teams.
pub(super) fn candidates(ctx: &Context) -> Vec<Candidate> {
    let candidate = |entry: &Arc<AgentEntry>| {
        let stage = entry.state().stage();
        if stage >= Lifecycle::Terminated || stage == Lifecycle::Quarantined {
            return None;
        }
        let known = entry.fleet();
        Some(Candidate {
            agent: entry.id.clone(),
            capabilities: known.capabilities,
            serves: !known.instances.is_empty() && !known.paused,
            merits: BTreeMap::new(),
        })
    };
    ctx.directory.all().iter().filter_map(candidate).collect()
}

/// The same, with what was measured of them.
pub(crate) async fn measured(
    ctx: &Context,
    orchestrator: &OrchestratorHandle,
) -> Result<Vec<Candidate>, Problem> {
    let trusts = orchestrator.trust(None).await?.into_iter();
    let trusts: BTreeMap<_, _> = trusts.map(|of| (of.agent_id.clone(), of)).collect();
    let qualities: BTreeMap<_, _> = orchestrator.qualities().await?.into_iter().collect();
    let mut fleet = candidates(ctx);
    for candidate in &mut fleet {
        let known = trusts.get(&candidate.agent);
        let quality = qualities.get(&candidate.agent);
        let merit = |of: &CapabilityTrust| {
            let quality = quality.and_then(|known| known.capabilities.get(&of.capability));
            let merit = Merit {
                trust: of.trust,
                quality: quality.copied().unwrap_or_default(),
            };
            (of.capability.clone(), merit)
        };
        let capabilities = known.map_or(&[][..], |of| &of.capabilities);
        candidate.merits = capabilities.iter().map(merit).collect();
    }
    Ok(fleet)
}

impl Mesh {
    /// The workflow of a team of those agents that are registered now.
    async fn team(&self, order: &TeamOrder, goal: &str) -> Result<Value, Problem> {
        let goal = order.goal.as_deref().unwrap_or(goal);
        let fleet = measured(&self.ctx, &self.orchestrator).await?;
        team::draft(order, goal, &fleet).map_err(|errors| misfit(&errors))
    }

    async fn plan_write(
        &self,
        caller: &Caller,
        id: PlanId,
        order: PlanOrder,
    ) -> Result<StoredPlan, Problem> {
        let (workflow, input) = match order.work {
            PlanWork::Workflow(workflow) => (workflow, order.input),
            PlanWork::Task(task) => workflow_of(*task)?,
            PlanWork::Team(team) => (self.team(&team, &order.goal).await?, order.input),
        };
        self.may_check_in(caller, &workflow).await?;
        let plan = self.plan(&workflow, order.deploy_later).await?;
        self.may_run(caller, "/v1/plans", plan.document())?;
        let new = NewPlan {
            id: id.clone(),
            replaces: order.replaces,
            goal: order.goal,
            plan: Arc::new(plan),
            input,
            by: caller.name.clone(),
        };
        let command = PlanCommand::Write(Box::new(new));
        self.workflows.plan(&caller.name, command).await?;
        self.plan_of(id).await
    }

    async fn plan_of(&self, id: PlanId) -> Result<StoredPlan, Problem> {
        let mut found = self.workflows.plans(Some(id.clone())).await?;
        found.pop().ok_or_else(|| not_found(id.as_str()))
    }
}

#[async_trait]
impl PlanOperations for Mesh {
    async fn create_plan(&self, caller: &Caller, order: PlanOrder) -> Result<StoredPlan, Problem> {
        let id = PlanId::new(uuid::Uuid::now_v7().to_string())
            .map_err(|error| Problem::internal(error.to_string()))?;
        let order = PlanOrder {
            replaces: None,
            ..order
        };
        self.plan_write(caller, id, order).await
    }

    async fn plans(&self) -> Result<Vec<StoredPlan>, Problem> {
        self.workflows.plans(None).await
    }

    async fn plan(&self, id: &str) -> Result<StoredPlan, Problem> {
        self.plan_of(plan_id(id)?).await
    }

    async fn edit_plan(
        &self,
        caller: &Caller,
        id: &str,
        order: PlanOrder,
    ) -> Result<StoredPlan, Problem> {
        let id = plan_id(id)?;
        if order.replaces.is_none() {
            let detail = "Missing required field: version (the one that was read)";
            return Err(Problem::invalid("missing_field", "version", detail));
        }
        self.plan_write(caller, id, order).await
    }

    async fn start_plan(
        &self,
        caller: &Caller,
        id: &str,
        version: u32,
    ) -> Result<(StoredPlan, bool), Problem> {
        let id = plan_id(id)?;
        // Its commands run in agents' sandboxes from now on, whoever wrote them.
        let read = self.plan_of(id.clone()).await?;
        let current = read.current.version;
        if current != version {
            // What is checked here has to be what is started.
            return Err(PlanRefusal::Changed { plan: id, current }.into());
        }
        let document = serde_json::to_value(&read.current.workflow);
        let document = document.map_err(|error| Problem::internal(error.to_string()))?;
        self.may_check_in(caller, &document).await?;
        self.may_run(caller, "/v1/plans", &read.current.workflow)?;
        let command = PlanCommand::Start {
            id: id.clone(),
            version,
            by: caller.name.clone(),
        };
        let replayed = self.workflows.plan(&caller.name, command).await?;
        Ok((self.plan_of(id).await?, replayed))
    }

    async fn remove_plan(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let id = plan_id(id)?;
        let by = caller.name.clone();
        let command = PlanCommand::Remove { id, by };
        self.workflows.plan(&caller.name, command).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(value: Value) -> TaskSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_task_becomes_a_workflow_of_one_step_that_gets_its_input() {
        let spec = task(json!({"requirements": ["echo"], "input": {"n": 1}, "priority": "high"}));
        let (workflow, input) = workflow_of(spec).unwrap();
        assert_eq!(input, json!({"n": 1}));
        assert_eq!(workflow["name"], "echo");
        let step = &workflow["steps"][0];
        assert_eq!(
            (&step["requirements"], &step["input"], &step["priority"]),
            (&json!(["echo"]), &json!("${input}"), &json!("high"))
        );
    }

    #[test]
    fn what_belongs_to_a_submission_is_refused_by_its_name() {
        let spec = task(json!({"requirements": ["echo"], "idempotencyKey": "k"}));
        let problem = workflow_of(spec).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("task.idempotencyKey"));
    }
}
