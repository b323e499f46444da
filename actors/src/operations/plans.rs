//! What is asked of stored plans.

use async_trait::async_trait;
use serde_json::Value;

use mesh_messages::plan::StoredPlan;
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::task::TaskSpec;
use mesh_messages::team::TeamOrder;

/// What a plan does.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanWork {
    /// A workflow: the document, or the name of one that has run here before.
    Workflow(Value),
    /// One task.
    Task(Box<TaskSpec>),
    /// What a team does, drafted over the agents that there are.
    Team(Box<TeamOrder>),
}

/// A plan to be stored, or a version of one.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOrder {
    /// What it is for.
    pub goal: String,
    /// What is done.
    pub work: PlanWork,
    /// What a workflow works on.
    pub input: Value,
    /// The version that it takes the place of.
    pub replaces: Option<u32>,
    /// Whether agents for its steps may be deployed after it.
    pub deploy_later: bool,
}

/// Plans that are stored, read and edited before somebody starts them. Each change is answered when it is durable.
#[async_trait]
pub trait PlanOperations: Send + Sync + 'static {
    /// Stores a plan; nothing of it runs.
    async fn create_plan(&self, caller: &Caller, order: PlanOrder) -> Result<StoredPlan, Problem>;
    /// All plans, without their earlier versions.
    async fn plans(&self) -> Result<Vec<StoredPlan>, Problem>;
    /// One plan, with its earlier versions.
    async fn plan(&self, id: &str) -> Result<StoredPlan, Problem>;
    /// Writes another version of a plan that was not started.
    async fn edit_plan(
        &self,
        caller: &Caller,
        id: &str,
        order: PlanOrder,
    ) -> Result<StoredPlan, Problem>;
    /// Begins the run of a plan, if this is its version; the plan, and whether it was started before.
    async fn start_plan(
        &self,
        caller: &Caller,
        id: &str,
        version: u32,
    ) -> Result<(StoredPlan, bool), Problem>;
    /// Removes a plan; its run goes on.
    async fn remove_plan(&self, caller: &Caller, id: &str) -> Result<(), Problem>;
}
