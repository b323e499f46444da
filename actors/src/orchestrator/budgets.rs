//! Budgets: what is shown and counted of them.

use std::collections::BTreeSet;

use mesh_actors_core::task::{Command, Known, Trusting};
use mesh_messages::TaskId;
use mesh_messages::budget::{BudgetStep, BudgetView};
use mesh_messages::events::TaskEvent;
use mesh_messages::problem::Problem;
use ractor::{ActorProcessingErr, RpcReplyPort};

use super::handle::{CALL_LIMIT, OrchestratorHandle};
use super::trail::agent_of;
use super::{Message, Released, Shell};
use crate::clock::now;
use crate::partition::{Cause, Entry, Led};

/// Accounts of one record: some hundred bytes each, so that it stands in the log itself.
const NOTED_MAX: usize = 64;

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
            // They are on record of no task.
            BudgetStep::Restarted { .. } | BudgetStep::Noted { .. } => {}
        }
    }

    /// The records of one decision that are of no task: of trust, then of accounts.
    pub(super) fn entries_beside(
        &self,
        trust: Vec<Trusting>,
        accounts: Vec<TaskEvent>,
        cause: &Cause,
    ) -> Vec<Entry<TaskEvent>> {
        let mut entries = self.entries_of_trust(trust, cause);
        entries.extend(self.entries_of_accounts(accounts, cause));
        entries
    }

    /// The records of what happened to accounts and is on record of no task, which `cause` led to.
    fn entries_of_accounts(&self, events: Vec<TaskEvent>, cause: &Cause) -> Vec<Entry<TaskEvent>> {
        let entry = |event: TaskEvent| {
            let record = match &event {
                TaskEvent::Budget { step, .. } => match &**step {
                    BudgetStep::Restarted { agent, epoch, .. } => {
                        self.args.ctx.metrics.budget_moved("restarted");
                        self.downs.get(&(agent.clone(), *epoch)).copied()
                    }
                    _ => None,
                },
                _ => None,
            };
            let by = Cause {
                cause: record.or(cause.cause),
                ..Cause::meshd()
            };
            Entry {
                agent: agent_of(&event),
                task: None,
                led: Led {
                    by: Some(by),
                    after: None,
                },
                event,
            }
        };
        events.into_iter().map(entry).collect()
    }

    /// Retires tasks, and has on record before their records are erased how the accounts stand that they were counted on.
    pub(super) async fn retire_noted(
        &mut self,
        tasks: Vec<TaskId>,
        reply: RpcReplyPort<BTreeSet<TaskId>>,
    ) -> Result<(), ActorProcessingErr> {
        let goes_on = self.retire(tasks);
        let at = now();
        let notes = self.partition.state().budgets().notes(at);
        let notes: Vec<_> = self.retired.unnoted(notes);
        let events = notes.chunks(NOTED_MAX).map(|accounts| {
            let accounts = accounts.to_vec();
            let step = Box::new(BudgetStep::Noted { accounts });
            TaskEvent::Budget { at, step }
        });
        let events: Vec<_> = events.collect();
        for event in &events {
            if let TaskEvent::Budget { at, step } = event {
                self.partition.state_mut().apply_account(*at, step);
            }
        }
        let entries = self.entries_of_accounts(events, &Cause::meshd());
        let released = vec![Released::Retired(goes_on, reply)];
        let committed = self
            .partition
            .commit_applied(entries, &Cause::meshd(), released)
            .await?;
        if let Some(last) = committed {
            self.written
                .push_back((last, self.partition.state().applied()));
        }
        self.release();
        Ok(())
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
