//! What is done with a message, by its type and address.
//!
//! | type | from outside | from an agent |
//! |---|---|---|
//! | `TASK_REQUEST` | becomes a task, answered by `TASK_RESULT` | (a delegation; its session has it) |
//! | `MESSAGE`, `STATUS_UPDATE` | to the agent, the topic or the person addressed | the same |
//! | `PUBLISH` | to whoever subscribed to its topic | the same |
//! | `SUBSCRIBE` | only with an agent's token, and not `durable` | for the agent |
//! | `ACK` | (`POST /v1/subscriptions/{id}/ack`) | settles what its durable subscriptions handed out |
//! | `CAPABILITY_QUERY` | answered by `CAPABILITY_REPLY`, whatever the address | the same |
//! | `SECURITY_ALERT` | journalled, and heard by the health checks, whatever the address | the same |
//! | others | refused: they belong to an agent's own channel | refused |

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use mesh_actors_core::access::Recipient;
use mesh_actors_core::bus::{AddressUnknown, Destination, Mail, Snapshot};
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::bus::RESERVED_TOPICS;
use mesh_messages::events::BusEvent;
use mesh_messages::klp::{
    CapabilityQuery, Envelope, ErrorCode, MessageType, Publish, SecurityAlert, Subscribe,
};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch};

use super::answer::{Answer, Asked, reply_to};
use super::check::{agent_as_caller, refusal, unreadable};
use super::outside::Waiter;
use super::{BusHandle, Message, Posted, Publication, agent_of, order};
use crate::clock;
use crate::operations::Action;
use crate::partition::Cause;

/// How long the actor may take to journal a message: a restart of it and a slow disk fit in.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long the sender of a message waits for the agent's answer, when it does not say; then it gets a receipt. Most
/// messages are not answered at all, so it is short.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Acts upon a message that was posted.
pub(super) async fn route(
    bus: &BusHandle,
    caller: &Caller,
    envelope: Envelope,
    asked: &Asked,
) -> Result<Answer, Problem> {
    match envelope.kind {
        MessageType::TaskRequest => order::task(bus, caller, &envelope, asked).await,
        MessageType::Message => message(bus, caller, envelope, asked).await,
        MessageType::StatusUpdate | MessageType::Publish | MessageType::SecurityAlert => {
            tell(bus, (caller, None), envelope, asked).await
        }
        MessageType::Subscribe => {
            let subscriber = agent_of(&envelope.from).ok_or_else(|| {
                let detail = "only agents subscribe; others read GET /v1/events";
                refusal(ErrorCode::Unexpected, "type", detail)
            })?;
            let wanted: Subscribe = envelope.payload_as().map_err(unreadable)?;
            if wanted.durable {
                let detail = "a durable subscription is made by POST /v1/subscriptions";
                return Err(refusal(ErrorCode::Unexpected, "payload.durable", detail));
            }
            subscribe(bus, (&subscriber, None), wanted).await?;
            Ok(asked.receipt("recorded", Value::Null))
        }
        MessageType::CapabilityQuery => Ok(Answer::Reply(Box::new(query(bus, &envelope)?))),
        MessageType::TaskResult
        | MessageType::CapabilityReply
        | MessageType::Handshake
        | MessageType::Memory
        | MessageType::Claim
        | MessageType::Ack
        | MessageType::Control
        | MessageType::Error => Err(misplaced(envelope.kind)),
    }
}

/// Acts upon a line of an agent.
pub(super) async fn from_agent(
    bus: &BusHandle,
    (agent, epoch): (&AgentId, Epoch),
    envelope: Envelope,
) -> Result<Option<Envelope>, Problem> {
    let by = agent_as_caller(agent);
    let asked = Asked::new(&envelope, clock::now(), None);
    match envelope.kind {
        MessageType::Message
        | MessageType::StatusUpdate
        | MessageType::Publish
        | MessageType::SecurityAlert => {
            // Nothing waits here: an answer is a message of its own, to the agent.
            let told = tell(bus, (&by, Some(epoch)), envelope, &asked).await;
            told.map(|_receipt| None)
        }
        MessageType::Subscribe => {
            let asked: Subscribe = envelope.payload_as().map_err(unreadable)?;
            if asked.durable {
                bus.subscribe_durably((agent, epoch), asked).await?;
            } else {
                subscribe(bus, (agent, Some(epoch)), asked).await?;
            }
            Ok(None)
        }
        MessageType::Ack => bus
            .acknowledge((agent, epoch), &envelope)
            .await
            .map(|()| None),
        MessageType::CapabilityQuery => query(bus, &envelope).map(Some),
        MessageType::TaskRequest
        | MessageType::TaskResult
        | MessageType::CapabilityReply
        | MessageType::Handshake
        | MessageType::Memory
        | MessageType::Claim
        | MessageType::Control
        | MessageType::Error => Err(misplaced(envelope.kind)),
    }
}

fn misplaced(kind: MessageType) -> Problem {
    refusal(
        ErrorCode::Unexpected,
        "type",
        format!("{kind} belongs to an agent's own channel"),
    )
}

/// A message whose sender can use an answer.
async fn message(
    bus: &BusHandle,
    caller: &Caller,
    envelope: Envelope,
    asked: &Asked,
) -> Result<Answer, Problem> {
    let (snapshot, by) = (bus.outside.directory.snapshot(), &*caller.name);
    let found = find(bus, &snapshot, by, &envelope).await?;
    let Destination::Agent { id, .. } = &found else {
        return tell(bus, (caller, None), envelope, asked).await;
    };
    bus.check_recipient(caller, &envelope, reached(&snapshot, &found, &envelope))?;
    let (tx, rx) = oneshot::channel();
    let waiter = Waiter {
        answer: tx,
        correlation: crate::request::current().1,
    };
    let posted = post(bus, by, (id, envelope), Some(waiter)).await?;
    let more = json!({"agent": id.as_str()});
    if posted == Posted::Held {
        return Ok(asked.receipt("held", more));
    }
    match tokio::time::timeout(asked.wait(ANSWER_WAIT), rx).await {
        Ok(Ok(answer)) => Ok(Answer::Reply(Box::new(answer))),
        // Not every message is answered.
        Ok(Err(_)) | Err(_) => Ok(asked.receipt("delivered", more)),
    }
}

/// Characters of an alert's description that its own record repeats.
const ALERT_TEXT_MAX: usize = 1000;

/// A message that nobody answers; of an agent on its own channel, by the incarnation that says it.
async fn tell(
    bus: &BusHandle,
    (caller, epoch): (&Caller, Option<Epoch>),
    envelope: Envelope,
    asked: &Asked,
) -> Result<Answer, Problem> {
    let by = &*caller.name;
    if envelope.kind == MessageType::Publish {
        let topic = topic_of(&envelope)?;
        let to = Recipient::Topic(topic.to_string());
        bus.check_recipient(caller, &envelope, Some(to))?;
        return publish(bus, (by, epoch), topic, envelope, asked).await;
    }
    if envelope.kind == MessageType::SecurityAlert {
        let alert: SecurityAlert = envelope.payload_as().map_err(unreadable)?;
        let raised = BusEvent::Alerted {
            message: envelope.id.clone(),
            from: envelope.from.to_string(),
            severity: alert.severity,
            // The whole is in the message.
            description: alert.description.chars().take(ALERT_TEXT_MAX).collect(),
            about: alert.agent.clone(),
        };
        let said = vec![sent(&envelope, &bus.node.address), raised];
        record(bus, by, said).await?;
        bus.outside.alarms.alert(&envelope.from, alert);
        return Ok(asked.receipt("recorded", Value::Null));
    }
    let snapshot = bus.outside.directory.snapshot();
    let found = find(bus, &snapshot, by, &envelope).await?;
    bus.check_recipient(caller, &envelope, reached(&snapshot, &found, &envelope))?;
    match found {
        Destination::Agent { id, .. } => {
            let more = json!({"agent": id.as_str()});
            let posted = post(bus, by, (&id, envelope), None).await?;
            let status = match posted {
                Posted::Delivered => "delivered",
                Posted::Held => "held",
            };
            Ok(asked.receipt(status, more))
        }
        Destination::Topic(topic) => publish(bus, (by, epoch), topic, envelope, asked).await,
        Destination::Node if envelope.kind == MessageType::Message => {
            let detail = "meshd itself holds no conversation; address an agent, a topic or a user";
            Err(refusal(ErrorCode::Unexpected, "to", detail))
        }
        Destination::Node | Destination::Person => {
            let to = envelope.to.clone();
            record(bus, by, vec![sent(&envelope, &to)]).await?;
            Ok(asked.receipt("recorded", Value::Null))
        }
    }
}

/// Whom a message reaches; nobody, where it is for the daemon.
fn reached(snapshot: &Snapshot, found: &Destination, envelope: &Envelope) -> Option<Recipient> {
    Some(match found {
        Destination::Agent { id, .. } => {
            let entry = snapshot.agents.get(id);
            let can = entry
                .into_iter()
                .flat_map(|entry| entry.capabilities.iter().cloned());
            Recipient::Agent(id.to_string(), can.collect())
        }
        Destination::Topic(topic) => Recipient::Topic(topic.to_string()),
        Destination::Person => {
            let address = envelope.to.to_string();
            Recipient::Person(person(&address).to_owned())
        }
        Destination::Node => return None,
    })
}

/// The name of a person, of whom there are two ways to write the address.
fn person(address: &str) -> &str {
    let mut starts = ["user:", "kai://user."].iter();
    let name = starts.find_map(|start| address.strip_prefix(start));
    name.unwrap_or(address)
}

/// The topic of a publication; an address that is a topic, too, must not name another.
fn topic_of(envelope: &Envelope) -> Result<TopicPattern, Problem> {
    let Publish { topic, .. } = envelope.payload_as().map_err(unreadable)?;
    match &envelope.to {
        Address::Topic(addressed) if *addressed != topic => {
            let detail = format!("is {addressed}, but payload.topic is {topic}");
            Err(refusal(ErrorCode::InvalidField, "to", detail))
        }
        _ => Ok(topic),
    }
}

async fn publish(
    bus: &BusHandle,
    (by, epoch): (&str, Option<Epoch>),
    topic: TopicPattern,
    envelope: Envelope,
    asked: &Asked,
) -> Result<Answer, Problem> {
    if !topic.is_concrete() {
        let detail = format!("{topic} is a pattern; one publishes to one topic");
        return Err(refusal(ErrorCode::InvalidField, "to", detail));
    }
    if RESERVED_TOPICS.contains(&topic.as_str()) {
        let detail = format!("{topic} is meshd's own; nobody else publishes there");
        return Err(refusal(ErrorCode::NotAllowed, "to", detail));
    }
    let publisher = agent_of(&envelope.from);
    if let Some(agent) = &publisher {
        bus.check_topic((agent, epoch), Action::MessageSend, &topic)?;
    }
    // Without one of its own, the id is that of the content, and the same content is published again and again.
    let named = !envelope.id.starts_with("klp-");
    let publication = Box::new(Publication {
        topic,
        publisher,
        named,
        own: false,
        envelope,
    });
    let by = Cause::by(by);
    let receivers = bus
        .slot
        .call(CALL_LIMIT, |reply| Message::Publish {
            publication,
            by,
            reply,
        })
        .await??;
    Ok(asked.receipt("published", json!({"receivers": receivers})))
}

async fn subscribe(
    bus: &BusHandle,
    (agent, epoch): (&AgentId, Option<Epoch>),
    asked: Subscribe,
) -> Result<(), Problem> {
    let pattern = plain(asked)?;
    bus.check_topic((agent, epoch), Action::MessageReceive, &pattern)?;
    let by = Cause::by(format!("agent:{agent}"));
    let agent = agent.clone();
    bus.slot
        .call(CALL_LIMIT, |reply| Message::Subscribe {
            agent,
            by,
            pattern,
            reply,
        })
        .await?
}

/// The topic of a subscription that is not durable, and says nothing that only a durable one can.
fn plain(asked: Subscribe) -> Result<TopicPattern, Problem> {
    let surplus = [
        ("name", asked.name.is_some()),
        ("from", asked.from.is_some()),
        ("ackTimeoutMs", asked.ack_timeout_ms.is_some()),
        ("maxUnacked", asked.max_unacked.is_some()),
        ("maxDeliver", asked.max_deliver.is_some()),
        ("maxQueue", asked.max_queue.is_some()),
    ];
    match surplus.into_iter().find(|(_, said)| *said) {
        None => Ok(asked.topic),
        Some((field, _)) => {
            let detail = format!("{field} makes sense with durable alone");
            Err(refusal(
                ErrorCode::InvalidPayload,
                &format!("payload.{field}"),
                detail,
            ))
        }
    }
}

fn query(bus: &BusHandle, envelope: &Envelope) -> Result<Envelope, Problem> {
    let query: CapabilityQuery = envelope.payload_as().map_err(unreadable)?;
    let reply = bus.outside.directory.snapshot().query(&query);
    let payload = serde_json::to_value(reply).map_err(|e| Problem::internal(e.to_string()))?;
    Ok(reply_to(
        bus,
        envelope,
        MessageType::CapabilityReply,
        payload,
    ))
}

/// Whom a message is for. One for nobody is a dead letter.
pub(super) async fn find(
    bus: &BusHandle,
    snapshot: &Snapshot,
    by: &str,
    envelope: &Envelope,
) -> Result<Destination, Problem> {
    let unknown = match snapshot.resolve(&envelope.to) {
        Ok(destination) => return Ok(destination),
        Err(unknown) => unknown,
    };
    let reason = match &unknown {
        AddressUnknown::Agent(_) | AddressUnknown::Nobody(_) => "address unknown",
        AddressUnknown::Node(_) => "node unknown",
    };
    let dead = BusEvent::DeadLettered {
        message: envelope.id.clone(),
        from: envelope.from.to_string(),
        to: envelope.to.to_string(),
        reason: reason.to_owned(),
        detail: None,
    };
    // The sender is told either way; the record is for everybody else.
    if let Err(problem) = record(bus, by, vec![dead]).await {
        tracing::warn!(message = envelope.id, %problem, "a dead letter could not be recorded");
    }
    Err(refusal(
        ErrorCode::UnknownAddress,
        "to",
        unknown.to_string(),
    ))
}

async fn post(
    bus: &BusHandle,
    by: &str,
    (to, envelope): (&AgentId, Envelope),
    answer: Option<Waiter>,
) -> Result<Posted, Problem> {
    let mail = Box::new(Mail {
        message: envelope.id.clone(),
        from: envelope.from.clone(),
        sender: agent_of(&envelope.from),
        to: to.clone(),
        kind: envelope.kind.name().to_owned(),
        priority: envelope.priority,
        envelope: envelope.to_value(),
    });
    let by = Cause::by(by);
    bus.slot
        .call(CALL_LIMIT, |reply| Message::Post {
            mail,
            by,
            answer,
            reply,
        })
        .await?
}

/// Journals a line of an agent that does not go through the bus, and whom it reaches, whatever it says itself.
pub(super) async fn note(
    bus: &BusHandle,
    by: &str,
    line: &Envelope,
    to: &Address,
) -> Result<(), Problem> {
    let Some(agent) = agent_of(to) else {
        return record(bus, by, vec![sent(line, to)]).await;
    };
    // It has it: what was only sent to an agent would wait for it, and be brought once more.
    let to = Address::agent(agent);
    let received = BusEvent::Received {
        message: line.id.clone(),
        from: line.from.to_string(),
        to: to.to_string(),
        kind: line.kind.name().to_owned(),
        envelope: Value::Null,
    };
    record(bus, by, vec![sent(line, &to), received]).await
}

/// Puts on record that a signed message was taken which leaves no record of its own among the messages.
///
/// # Errors
/// That it cannot be journalled now.
pub(super) async fn taken(bus: &BusHandle, by: &str, envelope: &Envelope) -> Result<(), Problem> {
    let taken = BusEvent::Taken {
        message: envelope.id.clone(),
        from: envelope.from.to_string(),
        epoch: envelope.epoch,
        to: envelope.to.to_string(),
        kind: envelope.kind.name().to_owned(),
        sent: envelope.timestamp.at(),
    };
    record(bus, by, vec![taken]).await
}

async fn record(bus: &BusHandle, by: &str, events: Vec<BusEvent>) -> Result<(), Problem> {
    let by = Cause::by(by);
    bus.slot
        .call(CALL_LIMIT, |reply| Message::Record { events, by, reply })
        .await?
}

fn sent(envelope: &Envelope, to: &Address) -> BusEvent {
    BusEvent::Sent {
        message: envelope.id.clone(),
        from: envelope.from.to_string(),
        to: to.to_string(),
        kind: envelope.kind.name().to_owned(),
        envelope: envelope.to_value(),
    }
}

#[cfg(test)]
mod tests {
    use super::person;

    #[test]
    fn a_person_has_one_name_however_the_address_is_written() {
        for address in ["user:ada", "kai://user.ada"] {
            assert_eq!(person(address), "ada", "{address}");
        }
    }
}
