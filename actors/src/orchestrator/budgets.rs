//! Budgets: what is shown and counted of them.

use mesh_actors_core::task::{Command, Known};
use mesh_messages::TaskId;
use mesh_messages::budget::{BudgetStep, BudgetView};
use mesh_messages::problem::Problem;
use ractor::{ActorProcessingErr, RpcReplyPort};

use super::handle::{CALL_LIMIT, OrchestratorHandle};
use super::{Message, Released, Shell};

impl Shell {
    /// Waits until what it says can no longer be lost.
    pub(super) async fn show_budgets(
        &mut self,
        only: Option<String>,
        reply: RpcReplyPort<Vec<BudgetView>>,
    ) -> Result<(), ActorProcessingErr> {
        self.config.policy = self.args.ctx.policy.load_full();
        let known = Known::default();
        let look = self.look(&known);
        let shown = self
            .partition
            .state()
            .budget_views(&self.live, look, only.as_deref());
        self.reply_when_durable(Released::Budgets(shown, reply))
            .await
    }

    pub(super) fn budget_moved(&self, task: &TaskId, step: &BudgetStep) {
        match step {
            BudgetStep::Reserved { .. } => self.args.ctx.metrics.budget_moved("reserved"),
            BudgetStep::Told { .. } => self.args.ctx.metrics.budget_moved("told"),
            BudgetStep::Settled { .. } => self.args.ctx.metrics.budget_moved("settled"),
            BudgetStep::Short { shortage, .. } => {
                self.args.ctx.metrics.budget_moved("exhausted");
                tracing::info!(
                    %task,
                    account = %shortage.account,
                    dimension = %shortage.dimension,
                    used = shortage.used,
                    limit = shortage.limit,
                    "a task waits for its budget"
                );
            }
            BudgetStep::Raised {
                account,
                dimension,
                by,
                who,
                ..
            } => {
                self.args.ctx.metrics.budget_moved("raised");
                tracing::info!(%account, %dimension, by, %who, "a budget was raised");
            }
        }
    }
}

impl OrchestratorHandle {
    /// What may be used, and what was, by account; with `only`, that account alone, if it is there.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn budgets(&self, only: Option<String>) -> Result<Vec<BudgetView>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Budgets { only, reply })
            .await?)
    }

    /// Another policy holds: who waited for what it bounds is looked at again. One that is not there looks when it comes up.
    pub fn policy_changed(&self) {
        let _looks_when_it_comes_up = self.tell(Command::Tick);
    }
}
