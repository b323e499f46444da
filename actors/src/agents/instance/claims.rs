//! What an agent claims on behalf of what it has in hand: it is asked of the task machine, to which attempts belong.

use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::liveness::{Call, Fingerprint, Input};
use mesh_messages::TaskId;
use mesh_messages::klp::{
    ClaimCode, ClaimOp, ClaimOpKind, ClaimReply, Envelope, KlpError, MessageType,
};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{InstanceMessage, Session};
use crate::agents::delivery::ClaimAnswer;
use crate::agents::services::ClaimRequest;
use crate::clock::now;

/// What comes on top of a wait before its silence counts: the answer has to be put on record and to arrive.
const WAIT_MARGIN: Duration = Duration::from_secs(30);
/// After so long without an answer a request that waits is said again; the second is the least, and the pause after its end.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// The call that a wait for a resource is.
fn waited(request: &str) -> String {
    format!("claim {request}")
}

/// Whether meshd cannot tell now what becomes of a claim.
fn cannot_tell(reply: &ClaimReply) -> bool {
    reply.code == Some(ClaimCode::Unavailable)
}

/// What a wait ends with when its time is over, by the answer to a renewal.
fn at_the_end(reply: ClaimReply) -> ClaimReply {
    if reply.code != Some(ClaimCode::NotHeld) {
        return reply;
    }
    let text = "it was not free within the time that it was waited for";
    let over = ClaimReply::refused(&reply.resource, ClaimCode::WaitOver, text);
    ClaimReply {
        holder: reply.holder,
        ..over
    }
}

impl Session {
    /// It takes, keeps or gives back a resource; true when a side task asks for it.
    pub(super) fn claim(&mut self, envelope: &Envelope) -> Result<bool, KlpError> {
        let op: ClaimOp = envelope.payload_as()?;
        let task = self.behalf(envelope)?;
        let request = envelope.id.clone();
        let wait = op.wait_ms.filter(|_| op.op == ClaimOpKind::Acquire);
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
        if let Some(ms) = wait {
            self.watch_claim(&task, &request, &asked.op.resource, ms);
            self.ask_again(asked.clone(), ms);
        }
        let led = self.led_by(Some(&task));
        let services = Arc::clone(&self.args.services);
        let me = self.me.clone();
        self.aside((None, led, None), async move {
            let reply = services.claim(asked).await?;
            if wait.is_some() {
                // That meshd cannot tell now is no answer to one that waits: it is asked again.
                if cannot_tell(&reply) {
                    return None;
                }
                let answer = ClaimAnswer {
                    task,
                    request,
                    reply,
                };
                let _gone = me.cast(InstanceMessage::Claim(Box::new(answer)));
                return None;
            }
            let payload = serde_json::to_value(reply).unwrap_or_default();
            Some((MessageType::Claim, request, payload))
        });
        Ok(true)
    }

    /// Says a request that waits again and again until it is answered: who answers may have been started anew in between,
    /// and what was said then is lost. When its time is over nothing is asked for anew: what was granted meanwhile is
    /// renewed, and so comes to light.
    fn ask_again(&mut self, mut asked: ClaimRequest, ms: u64) {
        let (answered, mut gone) = oneshot::channel::<()>();
        self.claims.insert(asked.request.clone(), answered);
        let until = now().plus(Duration::from_millis(ms));
        let services = Arc::clone(&self.args.services);
        let me = self.me.clone();
        self.spawn(async move {
            loop {
                let left = until.since(now());
                let pause = AGAIN.min(left).max(AGAIN_MIN);
                if tokio::time::timeout(pause, &mut gone).await.is_ok() {
                    return;
                }
                let left = u64::try_from(until.since(now()).as_millis()).unwrap_or(ms);
                if left > 0 {
                    asked.op.wait_ms = Some(left);
                } else {
                    asked.op.op = ClaimOpKind::Renew;
                    (asked.op.wait_ms, asked.op.token) = (None, None);
                }
                let reply = match services.claim(asked.clone()).await {
                    Some(reply) if left > 0 && cannot_tell(&reply) => continue,
                    Some(reply) if left == 0 => Some(at_the_end(reply)),
                    other => other,
                };
                if let Some(reply) = reply {
                    let answer = ClaimAnswer {
                        task: asked.task,
                        request: asked.request,
                        reply,
                    };
                    let _gone = me.cast(InstanceMessage::Claim(Box::new(answer)));
                    return;
                }
            }
        });
    }

    /// While it stands in line, its silence has its reason.
    fn watch_claim(&mut self, task: &TaskId, request: &str, resource: &str, ms: u64) {
        let call = Call {
            id: waited(request),
            name: format!("CLAIM {resource}").chars().take(128).collect(),
            what: Fingerprint::of("CLAIM", request.as_bytes()),
            bound: Some(Duration::from_millis(ms).saturating_add(WAIT_MARGIN)),
            moves: false,
            // Two waits for one thing are not the same question asked again: each is for another turn.
            waits: true,
        };
        self.watched(Input::Called {
            task: Some(task.clone()),
            call,
        });
    }

    /// Tells the agent what became of a resource that it waited for, once.
    pub(super) fn claim_answered(&mut self, answer: ClaimAnswer) {
        if self.claims.remove(&answer.request).is_none() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_was_granted_or_with_its_end() {
        let granted = ClaimReply::done("r", 7, None);
        assert_eq!(at_the_end(granted.clone()), granted);
        let lost = ClaimReply::refused("r", ClaimCode::NotHeld, "no");
        assert_eq!(at_the_end(lost).code, Some(ClaimCode::WaitOver));
        let silent = ClaimReply::refused("r", ClaimCode::Unavailable, "no");
        assert!(cannot_tell(&silent));
        assert_eq!(at_the_end(silent.clone()), silent);
    }
}
