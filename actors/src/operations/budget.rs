//! What is asked about budgets.

use async_trait::async_trait;

use mesh_messages::budget::BudgetView;
use mesh_messages::problem::Problem;

/// What may be used, and what was.
#[async_trait]
pub trait BudgetOperations {
    /// All accounts that something bounds, by name.
    async fn budgets(&self) -> Result<Vec<BudgetView>, Problem>;
    /// One of them.
    async fn budget(&self, account: &str) -> Result<BudgetView, Problem>;
}
