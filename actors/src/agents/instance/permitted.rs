//! Lines for which the manifest of their incarnation has no permission: refused, each in the form of its answer.

use mesh_actors_core::access::needs;
use mesh_messages::klp::{Envelope, ErrorCode, MemoryReply, MessageType, TaskResult};
use mesh_messages::{Failure, FailureClass};
use serde_json::Value;

use super::Session;
use super::session::problem;
use crate::operations::Action;

impl Session {
    /// Refuses a line for which a permission is missing; true when it did.
    pub(super) fn lacks_permission(&mut self, line: &Envelope) -> bool {
        // Whoever was asked may answer, and how it goes is told to meshd alone, whatever the address.
        if self.is_awaited(line) || line.kind == MessageType::StatusUpdate {
            return false;
        }
        let security = &self.args.manifest.security;
        let Some(need) = security.missing(needs::of_message(line)) else {
            return false;
        };
        let (services, agent) = (&self.args.services, &self.args.agent);
        let refusal = services.lacks(agent, action_of(line.kind), &need.subject, &need);
        self.args.ctx.metrics.refused("permission");
        let text = format!("{}: {need} is not in the manifest", refusal.detail);
        match line.kind {
            // A delegation that is refused has its outcome, and a question about memory its answer.
            MessageType::TaskRequest => {
                let error = Failure::new(FailureClass::Refusal, text);
                let failed = TaskResult::Failed { error, usage: None };
                let payload = serde_json::to_value(failed).unwrap_or_default();
                self.answer_refused(MessageType::TaskResult, payload, line);
            }
            MessageType::Memory => {
                let reply = MemoryReply {
                    ok: false,
                    value: Value::Null,
                    first: None,
                    error: Some(text),
                };
                let payload = serde_json::to_value(reply).unwrap_or_default();
                self.answer_refused(MessageType::Memory, payload, line);
            }
            _ => {
                let code = problem(ErrorCode::NotAllowed, None, text);
                self.refused(Some(line.id.clone()), &code, true);
            }
        }
        true
    }

    fn answer_refused(&mut self, kind: MessageType, payload: Value, line: &Envelope) {
        self.args.live.refused();
        let mut answer = self.message(kind, payload);
        answer.in_reply_to = Some(line.id.clone());
        self.send(&answer);
    }
}

/// What was asked for, as the audit names it.
const fn action_of(kind: MessageType) -> Action {
    match kind {
        MessageType::Memory => Action::Memory,
        MessageType::TaskRequest | MessageType::Claim => Action::TaskSubmit,
        MessageType::Subscribe => Action::MessageReceive,
        MessageType::CapabilityQuery => Action::Read,
        _ => Action::MessageSend,
    }
}
