//! How a task's record changes while it is escalated.

use mesh_messages::Timestamp;
use mesh_messages::escalation::{Escalation, EscalationEnd, EscalationMove};
use mesh_messages::task::{TaskState, WaitReason, WaitingFor};

use super::TaskRecord;

/// A wait for whoever is to take a task up.
pub(super) fn waiting_for_escalation(latest: Option<&Escalation>) -> WaitingFor {
    let detail = match latest {
        None => "it has failed for good, and is being escalated".to_owned(),
        Some(one) => format!("it has failed for good; {} is to take it up", one.to),
    };
    WaitingFor {
        reason: WaitReason::Escalation,
        detail,
        until: latest.map(|one| one.until),
        agents: latest
            .and_then(|one| one.to.agent.clone())
            .into_iter()
            .collect(),
        tasks: latest.map(|one| one.task.clone()).into_iter().collect(),
    }
}

impl TaskRecord {
    fn is_escalated(&self) -> bool {
        let reason = self.task.waiting_for.as_ref().map(|waits| waits.reason);
        self.task.state == TaskState::Blocked && reason == Some(WaitReason::Escalation)
    }

    /// Takes a move of its escalation in; false when it cannot happen to the task.
    pub(super) fn escalated(&mut self, at: Timestamp, step: &EscalationMove) -> bool {
        let state = self.task.state;
        match step {
            EscalationMove::Asked(latest) => {
                if state.is_terminal() || state.is_in_flight() {
                    return false;
                }
                self.task.state = TaskState::Blocked;
                self.task.error = Some(latest.error.clone());
                self.task.waiting_for = Some(waiting_for_escalation(Some(latest)));
                self.task.deadline_at = latest.until;
                self.task.escalation = Some(latest.clone());
                return true;
            }
            _ if !self.is_escalated() => return false,
            EscalationMove::Retried { by, deadline_at } => {
                self.close(EscalationEnd::Retried, by.as_ref());
                self.retried(*deadline_at);
                self.task.waiting_for = None;
            }
            EscalationMove::Done { by, output } => {
                self.close(EscalationEnd::Done, Some(by));
                self.task.output = Some(output.clone());
                self.end(at, TaskState::Succeeded, None);
            }
            EscalationMove::Dropped { by, why } => {
                let Some(latest) = &self.task.escalation else {
                    return false;
                };
                let (state, mut failure) = (latest.otherwise.state(), latest.error.clone());
                failure.message = format!("{}; {why}", failure.message);
                self.close(EscalationEnd::Dropped, by.as_ref());
                self.end(at, state, Some(failure));
            }
        }
        true
    }

    fn close(&mut self, end: EscalationEnd, by: Option<&String>) {
        if let Some(latest) = &mut self.task.escalation {
            latest.end = Some(end);
            latest.by = by.cloned();
        }
    }
}
