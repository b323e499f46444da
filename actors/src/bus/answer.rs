//! What the sender of a message gets back, in the form in which it wrote.

use std::time::Duration;

use serde_json::{Value, json};

use mesh_messages::Timestamp;
use mesh_messages::klp::{Envelope, MessageType, Stamp, WireForm};

use super::BusHandle;
use crate::clock;

/// What the answer has to fit to.
#[derive(Debug)]
pub(super) struct Asked {
    form: WireForm,
    id: String,
    intent: Option<String>,
    /// How long its sender wants to wait for an answer, when it says so.
    patience: Option<Duration>,
    /// How long its sender's interest lasts.
    pub(super) left: Option<Duration>,
}

/// What a sender gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// An envelope.
    Reply(Box<Envelope>),
    /// Where its message went.
    Receipt(Value),
}

impl Asked {
    pub(super) fn new(envelope: &Envelope, now: Timestamp, patience: Option<Duration>) -> Self {
        Self {
            form: envelope.form(),
            id: envelope.id.clone(),
            intent: envelope.intent.clone(),
            patience,
            left: envelope.expires.as_ref().map(|end| end.at().since(now)),
        }
    }

    /// How long an answer is waited for: as its sender says, else `usual`, and never beyond its interest.
    pub(super) fn wait(&self, usual: Duration) -> Duration {
        let wait = self.patience.unwrap_or(usual);
        self.left.map_or(wait, |left| left.min(wait))
    }

    pub(super) fn receipt(&self, status: &str, more: Value) -> Answer {
        let mut receipt = json!({"accepted": true, "id": self.id, "status": status});
        if let (Some(receipt), Value::Object(more)) = (receipt.as_object_mut(), more) {
            receipt.extend(more);
        }
        Answer::Receipt(receipt)
    }

    /// The answer as its receiver reads it.
    pub(super) fn in_its_form(&self, answer: Answer) -> Value {
        let envelope = match answer {
            Answer::Receipt(receipt) => return receipt,
            Answer::Reply(envelope) => *envelope,
        };
        match self.form {
            WireForm::Envelope => envelope.to_value(),
            WireForm::StandardMessage => {
                let mut plain = envelope.clone();
                plain
                    .intent
                    .get_or_insert_with(|| self.intent.clone().unwrap_or_default());
                // This form has no place for these; what it answers is told in its context.
                (plain.in_reply_to, plain.epoch, plain.auth) = (None, None, None);
                plain
                    .context
                    .get_or_insert_with(|| json!({"inReplyTo": self.id}));
                plain
                    .to_standard_message()
                    .unwrap_or_else(|_| envelope.to_value())
            }
        }
    }
}

/// An answer of this node.
pub(super) fn reply_to(
    bus: &BusHandle,
    asked: &Envelope,
    kind: MessageType,
    payload: Value,
) -> Envelope {
    let stamp = Stamp {
        id: uuid::Uuid::now_v7().to_string(),
        timestamp: clock::now(),
        epoch: None,
    };
    let (from, to) = (bus.node.address.clone(), asked.from.clone());
    let mut reply = Envelope::new(kind, from, to, payload, stamp);
    reply.in_reply_to = Some(asked.id.clone());
    bus.node.sign(&mut reply);
    reply
}
