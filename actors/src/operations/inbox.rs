//! What is asked of the inbox.

use async_trait::async_trait;

use mesh_messages::agent::Page;
use mesh_messages::inbox::{AskKind, InboxAnswer, InboxItem, InboxState};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::task::Task;

use super::PageRequest;

/// Which requests to list. What is absent matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxQuery {
    /// In this state.
    pub state: Option<InboxState>,
    /// Of this kind.
    pub kind: Option<AskKind>,
}

/// What people are asked, and their answers.
#[async_trait]
pub trait InboxOperations {
    /// Lists requests, newest first.
    async fn inbox(
        &self,
        query: InboxQuery,
        page: PageRequest<'_>,
    ) -> Result<Page<InboxItem>, Problem>;
    /// One request.
    async fn inbox_item(&self, id: &str) -> Result<InboxItem, Problem>;
    /// Answers a request; the first answer counts, and is durable when this answers.
    async fn answer_inbox(
        &self,
        caller: &Caller,
        id: &str,
        answer: InboxAnswer,
    ) -> Result<InboxItem, Problem>;
    /// The same by the task that waits for it.
    async fn approve_task(
        &self,
        caller: &Caller,
        id: &str,
        answer: InboxAnswer,
    ) -> Result<Task, Problem>;
}
