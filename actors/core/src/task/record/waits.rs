//! What a task waits for, in words.

use mesh_messages::TaskId;
use mesh_messages::inbox::AnswerRole;
use mesh_messages::task::{AcceptanceCheck, WaitReason, WaitingFor};
use mesh_messages::workflow::ApprovalSpec;

/// A wait for those who check the result.
pub(super) fn waiting_for_checks(checks: &[AcceptanceCheck]) -> WaitingFor {
    let each = checks.iter().map(|check| {
        let by = if check.requirements.is_empty() {
            "a command".to_owned()
        } else {
            format!("an agent that can {}", check.requirements.join(", "))
        };
        format!("{:?} by {by}", check.name)
    });
    let each: Vec<_> = each.collect();
    WaitingFor {
        reason: WaitReason::Check,
        detail: format!("its result is being checked: {}", each.join("; ")),
        until: None,
        agents: Vec::new(),
        tasks: Vec::new(),
    }
}

/// Whom an answer has to come from, in words.
pub(crate) fn who_answers(asked: &ApprovalSpec) -> &'static str {
    match asked.role {
        None | Some(AnswerRole::Operator) => "a person",
        Some(AnswerRole::Admin) => "an admin",
    }
}

/// A wait for a person, and for whom.
pub(super) fn waiting_for_person(asked: &ApprovalSpec) -> WaitingFor {
    let question = &asked.message;
    let colon = if question.is_empty() { "" } else { ": " };
    let who = who_answers(asked);
    WaitingFor {
        reason: WaitReason::Approval,
        detail: format!("{who} has to approve or deny it{colon}{question}"),
        until: None,
        agents: Vec::new(),
        tasks: Vec::new(),
    }
}

/// A wait for other tasks.
pub(crate) fn waiting_for_tasks(tasks: Vec<TaskId>) -> WaitingFor {
    let detail = match tasks.as_slice() {
        [one] => format!("task {one} has to succeed first"),
        several => format!("{} tasks have to succeed first", several.len()),
    };
    WaitingFor {
        reason: WaitReason::Dependency,
        detail,
        until: None,
        agents: Vec::new(),
        tasks,
    }
}
