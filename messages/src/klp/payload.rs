//! The payloads of each type, typed. Their keys are refused when unknown, but for a task's: that is its author's.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{ErrorCode, KlpDecodeError};
use super::{Envelope, KEY_BYTES_MAX};
use crate::address::TopicPattern;
use crate::agent::HealthLevel;
use crate::budget::Usage;
use crate::bus::{AckOp, SubscribeFrom};
use crate::failure::Severity;
use crate::identity::{DidKey, SignatureText};
use crate::ids::{AgentId, Epoch, InstanceNo};
use crate::manifest::Persona;
use crate::time::Timestamp;

mod claim;
mod task;

pub use claim::{ClaimCode, ClaimOp, ClaimOpKind, ClaimReply};
pub use task::{TaskRequest, TaskResult};

impl Envelope {
    /// The payload as the typed one of its kind, such as [`Handshake`] for `HANDSHAKE`.
    ///
    /// # Errors
    /// `invalid_payload` or `missing_field`, naming the field within the payload.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, KlpDecodeError> {
        serde_path_to_error::deserialize(&self.payload).map_err(|error| {
            let path = match error.path().to_string().as_str() {
                "." => "payload".to_owned(),
                path => format!("payload.{path}"),
            };
            let inner = error.inner().to_string();
            let missing = inner
                .strip_prefix("missing field `")
                .and_then(|rest| rest.strip_suffix('`'));
            let error = match missing {
                Some(field) => KlpDecodeError::missing(&format!("{path}.{field}")),
                None => KlpDecodeError::new(
                    ErrorCode::InvalidPayload,
                    path.clone(),
                    format!("{path}: {inner}"),
                ),
            };
            KlpDecodeError {
                id: Some(self.id.clone()),
                ..error
            }
        })
    }
}

/// `HANDSHAKE` of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Handshake {
    /// What it calls itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it can do: capabilities of its manifest.
    pub capabilities: Vec<String>,
    /// The hooks that it wants to be sent, beside `cancel` and `shutdown`, which always are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<ControlVerb>,
    /// The key that it holds, where it proves one: the key that is registered as its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DidKey>,
    /// In answer to a challenge: its key's signature over [`handshake_proof`](super::handshake_proof).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<SignatureText>,
    /// To be signed by meshd with the node's key, in its answer: 16 to 128 letters, digits and `+/=_-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

/// `HANDSHAKE` of meshd, in answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HandshakeReply {
    /// The node's `did:key`, which is its name.
    pub node: String,
    /// The key that it signs with now, where another one took over from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who the agent is.
    pub agent: AgentId,
    /// Which replica.
    pub instance: InstanceNo,
    /// Which incarnation.
    pub epoch: Epoch,
    /// What bounds it.
    pub limits: SessionLimits,
    /// To be signed with the key that the agent named, in another `HANDSHAKE`; until then hands are not shaken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// In answer to the agent's challenge: the node's signature over [`node_proof`](super::node_proof).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<SignatureText>,
    /// A token of its own, where its manifest asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionToken>,
}

/// A token of one incarnation of an agent, of the role `agent`. It is shown to that incarnation and to nobody else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionToken {
    /// What it presents: as `Authorization: Bearer` over HTTP, as `auth.token` in a message.
    pub token: String,
    /// When it ends, if the incarnation has not ended before. Another `HANDSHAKE` is answered with another token.
    pub expires: Timestamp,
}

impl std::fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionToken")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What bounds an agent's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionLimits {
    /// Largest line, in bytes.
    pub line_bytes: u64,
    /// Tasks sent to it at once.
    pub concurrency: u32,
    /// Memory in bytes, when it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of a core, when it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u32>,
    /// Longest silence, when the manifest declares a heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ttl_ms: Option<u64>,
}

/// `STATUS_UPDATE`: progress of a task, health, or the answer to a `CONTROL`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusUpdate {
    /// How much of the task is done, 0 to 1.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "fraction"
    )]
    #[schemars(range(min = 0, max = 1))]
    pub progress: Option<f64>,
    /// What it is doing, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ReportedHealth>,
    /// Why it could not do what a `CONTROL` asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What `save_state` asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// A call that it makes from now on, or that goes on: while it lasts, silence and standstill have their reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallAnnounced>,
    /// The `id` of a call that has ended.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_key"
    )]
    #[schemars(length(min = 1, max = KEY_BYTES_MAX))]
    pub call_ended: Option<String>,
    /// What the attempt has used so far: running totals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A call that an agent makes: to a model, a service, a tool. It ends with `callEnded`, or with the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallAnnounced {
    /// Names it among the calls of its task that are in flight. Announced again, it is the same call, and may take longer.
    #[serde(deserialize_with = "key")]
    #[schemars(length(min = 1, max = KEY_BYTES_MAX))]
    pub id: String,
    /// What it is, for people; the id when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_key"
    )]
    #[schemars(length(min = 1, max = KEY_BYTES_MAX))]
    pub name: Option<String>,
    /// What it asks, in short, such as a digest of it: calls of one name and fingerprint are the same call again.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_key"
    )]
    #[schemars(length(min = 1, max = KEY_BYTES_MAX))]
    pub fingerprint: Option<String>,
    /// How long it takes at most, in milliseconds from now.
    pub bound_ms: NonZeroU64,
}

fn key<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<String, D::Error> {
    let text = String::deserialize(reader)?;
    if text.is_empty() || text.len() > KEY_BYTES_MAX || text.chars().any(char::is_control) {
        let expected = format!("expected 1 to {KEY_BYTES_MAX} bytes without control characters");
        return Err(serde::de::Error::custom(expected));
    }
    Ok(text)
}

fn optional_key<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<String>, D::Error> {
    // `null` is absence, as for every field.
    struct Key(String);
    impl<'de> Deserialize<'de> for Key {
        fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
            key(reader).map(Self)
        }
    }
    Ok(Option::<Key>::deserialize(reader)?.map(|Key(text)| text))
}

fn fraction<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<f64>, D::Error> {
    let number = Option::<f64>::deserialize(reader)?;
    if number.is_some_and(|number| !(0.0..=1.0).contains(&number)) {
        return Err(serde::de::Error::custom("expected a number from 0 to 1"));
    }
    Ok(number)
}

/// An agent's health by its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportedHealth {
    /// The level.
    pub status: HealthLevel,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A verb of `CONTROL`; the hooks have the same names.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ControlVerb {
    /// Prepare.
    Init,
    /// Begin.
    Start,
    /// Say how you are.
    Health,
    /// You are a newer version now; `args` names the old one.
    Upgrade,
    /// Finish and exit.
    Shutdown,
    /// Take no more work.
    Pause,
    /// Take work again.
    Resume,
    /// Give up the task named by `task_id`.
    Cancel,
    /// Say what is to be kept across a restart.
    SaveState,
    /// This was kept; `args` holds it.
    RestoreState,
    /// Something of yours failed; `args` says what.
    Error,
    /// The node has another key from here on; `args` names it, and holds the note by which it took over.
    NodeKey,
}

impl ControlVerb {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Start => "start",
            Self::Health => "health",
            Self::Upgrade => "upgrade",
            Self::Shutdown => "shutdown",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::SaveState => "save_state",
            Self::RestoreState => "restore_state",
            Self::Error => "error",
            Self::NodeKey => "node_key",
        }
    }

    /// Sent even to an agent that did not name it in its handshake.
    pub const fn is_always_sent(self) -> bool {
        matches!(self, Self::Cancel | Self::Shutdown)
    }
}

/// `CONTROL`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Control {
    /// What to do.
    pub verb: ControlVerb,
    /// What the verb needs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub args: Value,
    /// Time for it; afterwards the process is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// `MEMORY` of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryOp {
    /// What to do.
    pub op: MemoryOpKind,
    /// The key; with `list`, what the keys begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// With `set` and `once`: the value.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// With `set` and `once`: seconds until it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}

/// What to do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryOpKind {
    /// Answers the value, `null` when there is none.
    Get,
    /// Writes a value.
    Set,
    /// Removes a key.
    Delete,
    /// Answers the keys.
    List,
    /// Writes a value if the key has none, durably whatever the memory's type, and answers the one that it has then: the
    /// record of something that must be done once.
    Once,
}

/// `MEMORY` of meshd, in answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryReply {
    /// Whether it was done.
    pub ok: bool,
    /// The value, or the list of keys.
    #[serde(default)]
    pub value: Value,
    /// With `once`: whether this request wrote it; otherwise another one had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<bool>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `PUBLISH`: from an agent to a topic, and from meshd to those who subscribed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Publish {
    /// The topic; without wildcards.
    pub topic: TopicPattern,
    /// What is published.
    #[serde(default)]
    pub data: Value,
}

/// `SUBSCRIBE`. Everything but the topic is for a durable subscription, and makes sense with `durable` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscribe {
    /// The topic, `*` standing for one segment and a last `>` for the rest.
    pub topic: TopicPattern,
    /// Whether it is to outlive the agent's incarnations: each message comes until it is acknowledged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub durable: bool,
    /// The durable subscription's name, unique among the agent's; the topic's text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it begins; `now` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SubscribeFrom>,
    /// How long the agent has to acknowledge, in milliseconds; 30 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_timeout_ms: Option<u64>,
    /// Messages that the agent has in hand at once; 64 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unacked: Option<u32>,
    /// How often a message comes before it is a dead letter; 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// Messages that wait for the agent; 1000 when absent. Beyond, the oldest is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
}

/// `ACK` of an agent: what becomes of messages that a durable subscription handed out to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ack {
    /// What to do; `ack` when absent.
    #[serde(default)]
    pub op: AckOp,
    /// The name of the subscription, as `context.delivery.subscription` has it.
    pub subscription: String,
    /// The tokens of the deliveries, as `context.delivery.token` has them, at most 64.
    pub tokens: Vec<String>,
    /// Of `nack`: when they are to come again, in milliseconds; at once when absent. Of `extend`: how much longer they
    /// take from now on; once more the subscription's time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Of `nack`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `ERROR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KlpError {
    /// What is wrong: an [`ErrorCode`]'s name, or an agent's own.
    pub code: String,
    /// The field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, for people.
    #[serde(default)]
    pub detail: String,
}

impl From<KlpDecodeError> for KlpError {
    fn from(error: KlpDecodeError) -> Self {
        Self {
            code: error.code.name().to_owned(),
            field: error.field,
            detail: error.detail,
        }
    }
}

/// `CAPABILITY_QUERY`: who can do all of this? Without capabilities: who can do what?
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapabilityQuery {
    /// All of them are needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Only agents of this persona.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<Persona>,
}

/// `CAPABILITY_REPLY`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapabilityReply {
    /// Who can.
    pub agents: Vec<FoundAgent>,
}

/// One agent that can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FoundAgent {
    /// Who.
    pub id: AgentId,
    /// Its version.
    pub version: String,
    /// All that it can do.
    pub capabilities: Vec<String>,
    /// What kind of helper it is.
    pub persona: Persona,
}

/// `SECURITY_ALERT`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityAlert {
    /// How bad it is.
    pub severity: Severity,
    /// What happened, for people.
    pub description: String,
    /// The agent that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub evidence: Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(payload: &Value) -> Result<StatusUpdate, String> {
        serde_json::from_value(payload.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_call_needs_its_id_and_its_bound_and_nothing_else() {
        let call = |call: Value| update(&json!({ "call": call }));
        let least = call(json!({ "id": "c", "boundMs": 1 })).unwrap();
        let least = least.call.unwrap();
        assert_eq!((least.id.as_str(), least.bound_ms.get()), ("c", 1));
        assert_eq!((least.name, least.fingerprint), (None, None));
        let all = json!({ "id": "c", "name": "llm", "fingerprint": "9f", "boundMs": 600_000 });
        assert_eq!(
            serde_json::to_value(call(all.clone()).unwrap()).unwrap(),
            json!({ "call": all })
        );
        for wrong in [
            json!({}),
            json!({ "id": "c" }),
            json!({ "boundMs": 1 }),
            json!({ "id": "c", "boundMs": 0 }),
            json!({ "id": "c", "boundMs": -1 }),
            json!({ "id": "c", "boundMs": 1.5 }),
            json!({ "id": "", "boundMs": 1 }),
            json!({ "id": "a\nb", "boundMs": 1 }),
            json!({ "id": "x".repeat(KEY_BYTES_MAX + 1), "boundMs": 1 }),
            json!({ "id": "c", "boundMs": 1, "name": "" }),
            json!({ "id": "c", "boundMs": 1, "surprise": 1 }),
        ] {
            assert!(call(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(call(json!(null)).unwrap().call.is_none(), "null is absence");
    }

    #[test]
    fn the_end_of_a_call_names_it() {
        let ended = |id: Value| update(&json!({ "callEnded": id }));
        assert_eq!(ended(json!("c")).unwrap().call_ended.as_deref(), Some("c"));
        assert_eq!(ended(json!(null)).unwrap().call_ended, None);
        assert!(ended(json!("")).is_err());
        assert!(ended(json!(7)).is_err());
    }
}
