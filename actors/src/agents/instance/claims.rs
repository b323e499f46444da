//! What an agent claims on behalf of what it has in hand: it is asked of the task machine, to which attempts belong.

use std::time::Duration;

use mesh_actors_core::liveness::{Call, Fingerprint, Input};
use mesh_messages::TaskId;
use mesh_messages::klp::{ClaimOp, ClaimOpKind, Envelope, KlpError, MessageType};
use serde_json::Value;

use super::Session;
use crate::agents::delivery::ClaimAnswer;
use crate::agents::services::ClaimRequest;

/// What comes on top of a wait before its silence counts: the answer has to be put on record and to arrive.
const WAIT_MARGIN: Duration = Duration::from_secs(30);

/// The call that a wait for a resource is.
fn waited(request: &str) -> String {
    format!("claim {request}")
}

impl Session {
    /// It takes, keeps or gives back a resource; true when a side task asks for it.
    pub(super) fn claim(&mut self, envelope: &Envelope) -> Result<bool, KlpError> {
        let op: ClaimOp = envelope.payload_as()?;
        let task = self.behalf(envelope)?;
        let request = envelope.id.clone();
        let wait = op.wait_ms.filter(|_| op.op == ClaimOpKind::Acquire);
        let watched = wait.map(|ms| self.watch_claim(&task, &request, &op.resource, ms));
        let asked = ClaimRequest {
            key: (self.args.agent.clone(), self.args.instance, self.args.epoch),
            attempt: self
                .flights
                .get(&task)
                .map(|flight| flight.attempt)
                .unwrap_or_default(),
            task: task.clone(),
            request: request.clone(),
            op,
        };
        let led = self.led_by(Some(&task));
        let services = std::sync::Arc::clone(&self.args.services);
        self.aside((watched, led), async move {
            let reply = services.claim(asked).await?;
            let payload = serde_json::to_value(reply).unwrap_or_default();
            Some((MessageType::Claim, request, payload))
        });
        Ok(true)
    }

    /// While it stands in line, its silence has its reason.
    fn watch_claim(
        &mut self,
        task: &TaskId,
        request: &str,
        resource: &str,
        ms: u64,
    ) -> (TaskId, String) {
        let id = waited(request);
        let call = Call {
            id: id.clone(),
            name: format!("CLAIM {resource}").chars().take(128).collect(),
            // Two waits for one thing are not the same question asked again: each is for another turn.
            what: Fingerprint::of("CLAIM", request.as_bytes()),
            bound: Some(Duration::from_millis(ms).saturating_add(WAIT_MARGIN)),
            moves: false,
        };
        self.watched(Input::Called {
            task: Some(task.clone()),
            call,
        });
        (task.clone(), id)
    }

    /// Tells the agent what became of a resource that it waited for.
    pub(super) fn claim_answered(&mut self, answer: ClaimAnswer) {
        self.watched(Input::Answered {
            task: Some(answer.task.clone()),
            id: waited(&answer.request),
        });
        let payload = serde_json::to_value(answer.reply).unwrap_or(Value::Null);
        let mut envelope = self.message(MessageType::Claim, payload);
        envelope.in_reply_to = Some(answer.request);
        envelope.task_id = Some(answer.task);
        self.send(&envelope);
    }
}
