//! Durable subscriptions, what is handed out by them, dead letters, and the routing table.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::address::TopicPattern;
use crate::ids::{Epoch, Position};
use crate::task::Priority;
use crate::time::Timestamp;

/// Longest name of a subscription, in bytes.
pub const SUBSCRIPTION_NAME_MAX: usize = 63;
/// How long a receiver has to acknowledge, unless the subscription says otherwise, in milliseconds.
pub const ACK_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Shortest and longest such time that may be asked for: below, a busy machine would redeliver all the time.
pub const ACK_TIMEOUT_MS: (u64, u64) = (100, 24 * 3600 * 1000);
/// Messages that one subscription may have in hand, unless it says otherwise.
pub const UNACKED_DEFAULT: u32 = 64;
/// Most that it may ask for.
pub const UNACKED_MAX: u32 = 1000;
/// How often a message is handed out before it is a dead letter, unless the subscription says otherwise.
pub const DELIVER_DEFAULT: u32 = 5;
/// Most that a subscription may ask for.
pub const DELIVER_MAX: u32 = 1000;
/// Messages that wait in one subscription, those in hand included, unless it says otherwise.
pub const QUEUE_DEFAULT: u32 = 1000;
/// Most that it may ask for: they lie in the working memory, too.
pub const QUEUE_MAX: u32 = 10_000;
/// Longest pause that a negative acknowledgement may ask for, in milliseconds.
pub const NACK_DELAY_MS_MAX: u64 = 24 * 3600 * 1000;
/// Messages that are handed out, or acknowledged, at once.
pub const BATCH_MAX: usize = 64;
/// Longest reason of a negative acknowledgement, in bytes.
pub const NACK_REASON_MAX: usize = 256;

/// Topics on which meshd alone publishes: what happens to the mesh itself.
pub const RESERVED_TOPICS: [&str; 3] = [TASK_CREATED, AGENT_OVERLOADED, QUEUE_BACKLOG];
/// A task was accepted.
pub const TASK_CREATED: &str = "task.created";
/// All places of an agent are taken and more work waits for it, or no longer so.
pub const AGENT_OVERLOADED: &str = "agent.overloaded";
/// Many tasks wait, or no longer so.
pub const QUEUE_BACKLOG: &str = "queue.backlog";

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubscribeFrom {
    /// With what is published after it was made.
    #[default]
    Now,
    /// With the oldest publication that the log still holds.
    Earliest,
    /// With this record of the log, or the first after it.
    Position(Position),
}

impl Serialize for SubscribeFrom {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Now => out.serialize_str("now"),
            Self::Earliest => out.serialize_str("earliest"),
            Self::Position(position) => out.serialize_u64(position.0),
        }
    }
}

impl<'de> Deserialize<'de> for SubscribeFrom {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(reader)?;
        match (value.as_str(), value.as_u64()) {
            (Some("now"), _) => Ok(Self::Now),
            (Some("earliest"), _) => Ok(Self::Earliest),
            (_, Some(position)) => Ok(Self::Position(Position(position))),
            _ => Err(serde::de::Error::custom(
                "expected now, earliest, or the position of a record",
            )),
        }
    }
}

impl JsonSchema for SubscribeFrom {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SubscribeFrom".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "type": "string", "enum": ["now", "earliest"] },
            { "type": "integer", "minimum": 0 },
        ] })
    }
}

/// What happens when a message comes and the subscription's queue is full.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The oldest message of the lowest priority becomes a dead letter.
    #[default]
    DropOldest,
    /// The publisher is refused. Nobody gets the message.
    Reject,
}

/// A durable subscription, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubscriptionOrder {
    /// Its name, unique among its owner's; the topic's text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The topic, `*` standing for one segment and a last `>` for the rest.
    pub topic: TopicPattern,
    /// Where it begins; `now` when absent.
    #[serde(default)]
    pub from: SubscribeFrom,
    /// How long a receiver has to acknowledge, in milliseconds; 30 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_timeout_ms: Option<u64>,
    /// Messages that may be in hand at once; 64 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unacked: Option<u32>,
    /// How often a message is handed out before it is a dead letter; 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// Messages that it holds, those in hand included; 1000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
    /// What happens when it is full; `drop_oldest` when absent.
    #[serde(default)]
    pub overflow: Overflow,
}

/// A durable subscription, as it is recorded: every field filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionTerms {
    /// `<owner>:<name>`, such as `agent:echo:news`.
    pub id: String,
    /// Whose it is: `agent:<id>` or `user:<name>`.
    pub owner: String,
    /// Its name among the owner's.
    pub name: String,
    /// What it wants.
    pub topic: TopicPattern,
    /// Where it began.
    pub from: SubscribeFrom,
    /// How long a receiver has to acknowledge.
    pub ack_timeout_ms: u64,
    /// Messages that may be in hand at once.
    pub max_unacked: u32,
    /// How often a message is handed out before it is a dead letter.
    pub max_deliver: u32,
    /// Messages that it holds.
    pub max_queue: u32,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// Whether messages are brought to the agent on its own channel, as they come; else they are pulled.
    pub push: bool,
}

/// A durable subscription, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionView {
    /// What it was made with.
    pub terms: SubscriptionTerms,
    /// When it was made.
    pub created_at: Timestamp,
    /// Messages that wait, those in hand not among them.
    pub queued: u64,
    /// Messages in hand.
    pub unacked: u64,
    /// When the oldest of both was published.
    pub oldest: Option<Timestamp>,
    /// How often a message was handed out.
    pub delivered: u64,
    /// Of these, how often it was not the first time.
    pub redelivered: u64,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Messages of it that became dead letters.
    pub dead: u64,
    /// Whether publications of before it was made are still being read from the log.
    pub catching_up: bool,
}

/// A message that was handed out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Handed {
    /// What acknowledges it. Another delivery of the message has another one.
    pub token: String,
    /// The record of its publication.
    pub position: Position,
    /// The how manieth delivery of it by this subscription this is; the first is 1.
    pub delivery: u32,
    /// Until when it has to be acknowledged.
    pub until: Timestamp,
    /// The envelope.
    pub envelope: Value,
}

/// What `pull` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// The messages, the most urgent first; none when there was none within the wait.
    pub messages: Vec<Handed>,
}

/// The body of `ack`, `nack` and `extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AckOrder {
    /// The tokens of the deliveries that are meant, at most 64.
    pub tokens: Vec<String>,
    /// Of `nack`: when it is to come again, in milliseconds; at once when absent. Of `extend`: how much longer it is
    /// needed from now on; once more the subscription's time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Of `nack`: why, for people. It is kept with the dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What to do with deliveries.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AckOp {
    /// It is done; it does not come again.
    #[default]
    Ack,
    /// It could not be done; it comes again.
    Nack,
    /// It takes longer.
    Extend,
}

/// What became of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AckOutcome {
    /// Tokens that were in hand, and counted.
    pub done: Vec<String>,
    /// Tokens that are not in hand: acknowledged before, or the message went back or was handed out again.
    pub stale: Vec<String>,
}

/// How a delivery ended without an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryCause {
    /// Which delivery.
    pub delivery: u32,
    /// When it ended.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

/// What is known of a dead letter beside its head.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadDetail {
    /// The subscription that could not be served.
    pub subscription: String,
    /// The record of the publication; absent for the one that stands right before in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Position>,
    /// How often it was handed out.
    #[serde(default)]
    pub deliveries: u32,
    /// How the latest of these ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<DeliveryCause>,
}

/// A message that nobody got, or that nobody acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The record that says so; it names the letter.
    pub id: Position,
    /// When.
    pub at: Timestamp,
    /// The envelope's id.
    pub message: String,
    /// Its sender.
    pub from: String,
    /// Its addressee.
    pub to: String,
    /// Why.
    pub reason: String,
    /// The subscription that could not be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// How often it was handed out.
    #[serde(default)]
    pub deliveries: u32,
    /// How the latest of these ended.
    #[serde(default)]
    pub causes: Vec<DeliveryCause>,
    /// Whether it can be put back.
    #[serde(default)]
    pub retryable: bool,
}

/// How a dead letter was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadSettlement {
    /// It was put back.
    Retried,
    /// It was given up for good.
    Dropped,
}

/// One row of the routing table: who gets what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The topics, or the address of a mailbox.
    pub pattern: String,
    /// Who gets it: `agent:<id>` or `user:<name>`.
    pub subscriber: String,
    /// How.
    pub kind: RouteKind,
    /// The durable subscription's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Messages that wait.
    pub queued: u64,
    /// Messages in hand.
    pub unacked: u64,
    /// When the oldest of them was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// How a subscriber gets what is published.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// While it is up.
    Live,
    /// At least once.
    Durable,
    /// Messages to it alone, which wait until it is back.
    Mailbox,
}

impl RouteKind {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Durable => "durable",
            Self::Mailbox => "mailbox",
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One step of a message's way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The record of the step.
    pub position: Position,
    /// When.
    pub at: Timestamp,
    /// The record's kind: `message_sent`, `message_received`, `subscription.delivered`, …
    pub kind: String,
    /// The message that it is about.
    pub message: String,
    /// Who sent the message.
    pub from: String,
    /// Who it was for.
    pub to: String,
    /// Its KLP type.
    #[serde(rename = "type")]
    pub of: String,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// Who did the step, or whom it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What more there is to say: the delivery, the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The payload, at the step that sent it; only of a traced message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

/// The way of a message, and of all of its conversation when that is traced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageTrace {
    /// The message that was asked for.
    pub message: String,
    /// Whether it was sent with a trace flag, or answers one that was.
    pub traced: bool,
    /// What the messages of the conversation have in common.
    pub conversation: String,
    /// All steps in the order of the log.
    pub hops: Vec<Hop>,
}

/// A publication of before a subscription was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastMessage {
    /// Its record.
    pub record: Position,
    /// When it was published.
    pub at: Timestamp,
    /// The envelope.
    pub envelope: Value,
}

/// One message that is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOut {
    /// The record of its publication.
    pub record: Position,
    /// The how manieth time.
    pub delivery: u32,
}

/// One message that goes back into its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// The record of its publication.
    pub record: Position,
    /// How the delivery ended.
    pub cause: DeliveryCause,
    /// From when on it may be handed out again.
    pub not_before: Timestamp,
}

/// Who has a delivery in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The incarnation of the agent, when an agent's channel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Until when.
    pub until: Timestamp,
}

/// The four priorities, the most urgent first, and how many of each are handed out before a lower one is: among full
/// queues, the lowest gets every fifteenth message.
pub const SHARES: [(Priority, u32); 4] = [
    (Priority::Critical, 8),
    (Priority::High, 4),
    (Priority::Normal, 2),
    (Priority::Low, 1),
];
