//! The ways of messages whose sender asked for it: a conversation, hop by hop, in the order of the log.
//!
//! A message is traced when its `context` says `trace: true`, when its `trace` is a W3C `traceparent` with the sampled
//! flag, or when it answers a traced one. Of all others only the head of what was sent lately is known here.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::bus::{Hop, MessageTrace};
use mesh_messages::events::BusEvent;
use mesh_messages::{Position, RecordHeader};

use super::{BusState, Head, Seen};

/// Traced conversations that are known; beyond them the oldest is forgotten here, and stays on record.
pub const TRACES_MAX: usize = 256;
/// Steps of one conversation that are known; later ones stay on record alone.
pub const HOPS_MAX: usize = 512;

/// How many messages an answer looks back for what it answers: as long as somebody waits for it, it is near.
const ASKED_MAX: usize = 4096;

/// All that are known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Traces {
    conversations: BTreeMap<String, Vec<Hop>>,
    // The conversation of each traced message, by its id.
    of: BTreeMap<String, String>,
    // Conversations in the order in which they began.
    order: VecDeque<String>,
}

/// What a step is about.
struct Step<'a> {
    message: &'a str,
    from: &'a str,
    to: &'a str,
    kind: &'a str,
    envelope: &'a Value,
    by: Option<String>,
    note: Option<String>,
}

impl Traces {
    /// The conversation that an envelope belongs to, if it is traced.
    fn conversation(&self, message: &str, envelope: &Value) -> Option<String> {
        if let Some(known) = self.of.get(message) {
            return Some(known.clone());
        }
        let text = |field: &str| envelope.get(field).and_then(Value::as_str);
        if let Some(known) = text("in_reply_to").and_then(|id| self.of.get(id)) {
            return Some(known.clone());
        }
        let sampled = text("trace").and_then(sampled);
        let asked = envelope.pointer("/context/trace") == Some(&Value::Bool(true));
        sampled.or_else(|| asked.then(|| message.to_owned()))
    }

    fn note(&mut self, header: &RecordHeader, kind: &str, step: Step<'_>) {
        let Some(conversation) = self.conversation(step.message, step.envelope) else {
            return;
        };
        if !self.conversations.contains_key(&conversation) {
            self.order.push_back(conversation.clone());
            if self.order.len() > TRACES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.conversations.remove(&oldest);
                self.of.retain(|_, of| *of != oldest);
            }
        }
        let hops = self.conversations.entry(conversation.clone()).or_default();
        if hops.len() >= HOPS_MAX {
            return;
        }
        self.of.insert(step.message.to_owned(), conversation);
        let reply = step.envelope.get("in_reply_to").and_then(Value::as_str);
        hops.push(Hop {
            position: header.position,
            at: header.time,
            kind: kind.to_owned(),
            message: step.message.to_owned(),
            from: step.from.to_owned(),
            to: step.to.to_owned(),
            of: step.kind.to_owned(),
            in_reply_to: reply.map(str::to_owned),
            by: step.by,
            note: step.note,
            payload: None,
        });
    }
}

impl Seen {
    fn hop(&self, head: &Head) -> Hop {
        let step = head.step.as_deref().unwrap_or("message_sent");
        Hop {
            position: head.record,
            at: self.at,
            kind: step.to_owned(),
            message: self.id.clone(),
            from: self.from.clone(),
            to: head.to.clone(),
            of: head.kind.clone(),
            in_reply_to: head.answers.clone(),
            by: None,
            note: None,
            payload: None,
        }
    }
}

/// The trace id of a `traceparent` that says that the trace is recorded.
fn sampled(parent: &str) -> Option<String> {
    let mut parts = parent.split('-');
    let (_version, id, _span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (sampled && id.len() == 32).then(|| id.to_owned())
}

impl BusState {
    /// The first record of the last message of this id, among the latest, whose addressee is meant; what answers it follows
    /// from that.
    pub fn record_of(&self, message: &str, is_meant: impl Fn(&str) -> bool) -> Option<Position> {
        let mut latest = self.recent.iter().rev().take(ASKED_MAX);
        latest.find_map(|seen| {
            let head = seen.head.as_ref().filter(|_| seen.id == message)?;
            is_meant(&head.to).then_some(head.record)
        })
    }

    /// The way of a message by its id, without payloads; `None` when it is neither traced nor one of the latest.
    pub fn trace(&self, message: &str) -> Option<MessageTrace> {
        if let Some(conversation) = self.traces.of.get(message) {
            let hops = self.traces.conversations.get(conversation);
            return Some(MessageTrace {
                message: message.to_owned(),
                traced: true,
                conversation: conversation.clone(),
                hops: hops.cloned().unwrap_or_default(),
            });
        }
        // Of the latest, the last message of this id, and those that answer it: heads alone.
        let mut hops: VecDeque<Hop> = VecDeque::new();
        for seen in self.recent.iter().rev() {
            let Some(head) = &seen.head else { continue };
            if seen.id == message {
                hops.push_front(seen.hop(head));
                return Some(MessageTrace {
                    message: message.to_owned(),
                    traced: false,
                    conversation: message.to_owned(),
                    hops: hops.into(),
                });
            }
            if head.answers.as_deref() == Some(message) && hops.len() < HOPS_MAX {
                hops.push_front(seen.hop(head));
            }
        }
        None
    }

    /// Notes a step of a traced message. To be called before the event is taken in: afterwards what it is about may be gone.
    pub(super) fn traced(&mut self, header: &RecordHeader, event: &BusEvent) {
        let kind = event.kind();
        match event {
            BusEvent::Sent {
                message,
                from,
                to,
                kind: of,
                envelope,
            }
            | BusEvent::Received {
                message,
                from,
                to,
                kind: of,
                envelope,
            } => {
                let step = Step {
                    message,
                    from,
                    to,
                    kind: of,
                    envelope,
                    by: None,
                    note: None,
                };
                self.traces.note(header, kind, step);
            }
            BusEvent::DeadLettered {
                message,
                from,
                to,
                reason,
                detail,
            } => {
                let by = detail.as_ref().map(|detail| detail.subscription.clone());
                let note = Some(reason.clone());
                let step = Step {
                    message,
                    from,
                    to,
                    kind: "",
                    envelope: &Value::Null,
                    by,
                    note,
                };
                self.traces.note(header, kind, step);
            }
            BusEvent::HandedOut {
                subscription,
                messages,
                ..
            } => {
                for handed in messages {
                    let note = format!("delivery {}", handed.delivery);
                    self.stepped(header, kind, (subscription, handed.record, note));
                }
            }
            BusEvent::Acked {
                subscription,
                records,
            } => {
                for &record in records {
                    self.stepped(header, kind, (subscription, record, String::new()));
                }
            }
            BusEvent::Returned {
                subscription,
                messages,
            } => {
                for back in messages {
                    self.stepped(
                        header,
                        kind,
                        (subscription, back.record, back.cause.why.clone()),
                    );
                }
            }
            BusEvent::Taken { .. }
            | BusEvent::Alerted { .. }
            | BusEvent::Subscribed { .. }
            | BusEvent::Made { .. }
            | BusEvent::Removed { .. }
            | BusEvent::Filled { .. }
            | BusEvent::Extended { .. }
            | BusEvent::DeadSettled { .. } => {}
        }
    }

    fn stepped(&mut self, header: &RecordHeader, kind: &str, step: (&String, Position, String)) {
        let (subscription, record, note) = step;
        if self.traces.of.is_empty() {
            return;
        }
        let Some(stored) = self.durable.messages.get(&record) else {
            return;
        };
        let text = |field: &str| {
            stored
                .envelope
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let step = Step {
            message: text("id"),
            from: text("from"),
            to: text("to"),
            kind: text("type"),
            envelope: &stored.envelope,
            by: Some(subscription.clone()),
            note: Some(note).filter(|note| !note.is_empty()),
        };
        self.traces.note(header, kind, step);
    }
}
