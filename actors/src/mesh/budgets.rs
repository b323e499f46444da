//! Budgets, as the outside asks for them.

use async_trait::async_trait;
use mesh_messages::budget::BudgetView;
use mesh_messages::problem::{Problem, ProblemKind};

use super::Mesh;
use crate::operations::BudgetOperations;

#[async_trait]
impl BudgetOperations for Mesh {
    async fn budgets(&self) -> Result<Vec<BudgetView>, Problem> {
        self.orchestrator.budgets(None).await
    }

    async fn budget(&self, account: &str) -> Result<BudgetView, Problem> {
        let only = Some(account.to_owned());
        let found = self.orchestrator.budgets(only).await?.into_iter().next();
        found.ok_or_else(|| {
            let detail = format!("nothing bounds {account}; `meshctl budget list` shows what is");
            Problem::new(ProblemKind::NotFound, "budget_not_found", detail)
        })
    }
}
