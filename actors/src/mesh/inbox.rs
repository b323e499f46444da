//! The inbox: what people are asked, and their answers.

use async_trait::async_trait;
use mesh_actors_core::governance::Denied;
use mesh_actors_core::projection::{self, InboxFilter};
use mesh_actors_core::task::{Answerer, CANCEL, account_asked_about};
use mesh_messages::TaskId;
use mesh_messages::agent::Page;
use mesh_messages::inbox::{AnswerRole, InboxAnswer, InboxItem};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role};
use mesh_messages::task::Task;

use super::Mesh;
use super::tasks::{decode_cursor, find, task_id};
use crate::operations::{Action, InboxOperations, InboxQuery, PageRequest};
use crate::reads::{self, LookupError, StoreReader};

#[async_trait]
impl InboxOperations for Mesh {
    async fn inbox(
        &self,
        query: InboxQuery,
        page: PageRequest<'_>,
    ) -> Result<Page<InboxItem>, Problem> {
        self.inbox_page(query, page).await
    }

    async fn inbox_item(&self, id: &str) -> Result<InboxItem, Problem> {
        self.inbox_one(id).await
    }

    async fn answer_inbox(
        &self,
        caller: &Caller,
        id: &str,
        answer: InboxAnswer,
    ) -> Result<InboxItem, Problem> {
        // What asks nobody is not there, whatever else it may be.
        let item = self.inbox_one(id).await?;
        self.inbox_give(caller, &item.id, answer).await?;
        self.inbox_one(id).await
    }

    async fn approve_task(
        &self,
        caller: &Caller,
        id: &str,
        answer: InboxAnswer,
    ) -> Result<Task, Problem> {
        self.inbox_give(caller, &task_id(id)?, answer).await
    }
}

impl Mesh {
    /// Refuses that one person raises what it took several admins to bound; it takes as many to raise it.
    ///
    /// # Errors
    /// `insufficient_signatures`.
    async fn not_signed(
        &self,
        caller: &Caller,
        id: &TaskId,
        answer: &InboxAnswer,
    ) -> Result<(), Problem> {
        let governance = self.ctx.governance.load_full();
        let cancels = answer.answer.as_deref().map(str::trim) == Some(CANCEL);
        if !answer.approve || cancels || !governance.is_in_force() {
            return Ok(());
        }
        let asked = find(&self.ctx, &self.orchestrator, id).await?;
        let account = account_asked_about(&asked.submitted_by, &asked.spec);
        if !account.is_some_and(|account| governance.has_signed_account(account)) {
            return Ok(());
        }
        let need = governance.authority.as_ref().map_or(1, |set| set.threshold);
        let denied = Problem::from(Denied::Signatures { have: 0, need });
        let (action, resource) = (Action::InboxAnswer.name(), format!("/v1/inbox/{id}"));
        self.sentinel
            .record_denied(&caller.name, action, &resource, &denied.detail);
        Err(denied)
    }

    /// Gives a person's answer, whichever way it came: the first one counts.
    async fn inbox_give(
        &self,
        caller: &Caller,
        id: &TaskId,
        answer: InboxAnswer,
    ) -> Result<Task, Problem> {
        let by = Answerer {
            name: caller.name.clone(),
            role: match caller.role {
                Role::Admin => AnswerRole::Admin,
                // Who is none of the two has not got past the door.
                Role::Operator | Role::Viewer | Role::Agent | Role::Publisher => {
                    AnswerRole::Operator
                }
            },
        };
        self.not_signed(caller, id, &answer).await?;
        let given = self.orchestrator.approve(by, id.clone(), answer).await;
        given.inspect_err(|problem| {
            if problem.kind == ProblemKind::Forbidden {
                let resource = format!("/v1/inbox/{id}");
                self.sentinel.refuse(caller, Action::InboxAnswer, &resource);
            }
        })
    }

    async fn inbox_page(
        &self,
        query: InboxQuery,
        page: PageRequest<'_>,
    ) -> Result<Page<InboxItem>, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let filter = projection::TaskFilter {
            inbox: Some(InboxFilter {
                state: query.state,
                kind: query.kind,
            }),
            ..projection::TaskFilter::default()
        };
        let from = page.cursor.map(decode_cursor).transpose()?;
        let limit = page.limit;
        let found = reads::blocking(store, move |store| {
            projection::task_page(&StoreReader(store), &filter, from.as_deref(), limit)
                .map_err(LookupError::from)
        })
        .await?;
        let items = found.rows.iter().filter_map(|row| row.record.inbox_item());
        Ok(Page {
            items: items.collect(),
            next_cursor: found.next.map(hex::encode),
        })
    }

    async fn inbox_one(&self, id: &str) -> Result<InboxItem, Problem> {
        let not_found = || {
            let detail = format!("nothing of the id {id} is in the inbox");
            Problem::new(ProblemKind::NotFound, "not_in_inbox", detail)
        };
        let wanted = TaskId::new(id).map_err(|_| not_found())?;
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let row = reads::blocking(store, move |store| reads::task_row(store, &wanted)).await?;
        row.and_then(|row| row.record.inbox_item())
            .ok_or_else(not_found)
    }
}
