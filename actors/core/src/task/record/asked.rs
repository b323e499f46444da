//! What a task asks a person, and the answer.

use mesh_messages::events::TaskEvent;
use mesh_messages::inbox::{AnswerRole, Answered, InboxItem, InboxState};
use mesh_messages::task::TaskState;
use mesh_messages::{Failure, FailureClass};

use super::TaskRecord;

impl TaskRecord {
    /// A person's yes ends it well, a no is a refusal; either way it is an answer, and the only one.
    pub(super) fn approved(&mut self, event: &TaskEvent) {
        let TaskEvent::Approved {
            at,
            by,
            approve,
            comment,
            answer,
        } = event
        else {
            return;
        };
        let at = *at;
        let answered = Answered {
            at,
            by: by.clone(),
            approve: *approve,
            answer: answer.clone(),
            comment: comment.clone(),
        };
        if answered.approve {
            let mut output =
                serde_json::json!({ "approved": true, "by": by, "comment": answered.comment });
            if let Some(answer) = &answered.answer {
                output["answer"] = answer.as_str().into();
            }
            self.task.output = Some(output);
            self.end(at, TaskState::Succeeded, None);
        } else {
            let why = answered.comment.as_ref();
            let why = why.map_or_else(String::new, |comment| format!(": {comment}"));
            let failure = Failure {
                retryable: false,
                ..Failure::new(FailureClass::Refusal, format!("denied by {by}{why}"))
            };
            self.end(at, TaskState::Failed, Some(failure));
        }
        self.answered = Some(Box::new(answered));
    }

    /// The least role that may answer it.
    pub fn answer_role(&self) -> AnswerRole {
        self.ruling
            .as_ref()
            .map(|ruling| ruling.role)
            .unwrap_or_default()
    }

    /// It as the inbox shows it; `None` when it asks nobody.
    pub fn inbox_item(&self) -> Option<InboxItem> {
        let (task, ask) = (&self.task, self.task.spec.approval.as_ref()?);
        Some(InboxItem {
            id: task.id.clone(),
            state: InboxState::of(task)?,
            kind: ask.kind,
            message: ask.message.clone(),
            permission: ask.permission.clone(),
            choices: ask.choices.clone(),
            about: task.spec.input.clone(),
            asked_by: task.submitted_by.clone(),
            parent: task.spec.parent.clone(),
            priority: task.spec.priority,
            role: self.answer_role(),
            rule: self.ruling.as_ref().and_then(|ruling| ruling.rule.clone()),
            asked_at: task.submitted_at,
            expires_at: task.deadline_at,
            answered: self.answered.as_deref().cloned(),
        })
    }
}
