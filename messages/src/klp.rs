//! KLP, the Kind Link Protocol: the envelope in which everything between agents and meshd travels.
//!
//! `docs/KLP.md` is the specification for other implementations. An [`Envelope`] holds the union of the accepted
//! forms; it remembers which of its fields its sender wrote, since a signature covers what was sent and nothing else.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::address::Address;
use crate::ids::{AttemptNo, Epoch, TaskId};
use crate::task::Priority;
use crate::time::Timestamp;

mod decode;
mod encode;
mod error;
mod field;
mod payload;
mod replay;
mod schema;
mod sent_at;
mod sign;

pub use decode::{Defaults, decode, decode_line, decode_with};
pub use encode::NotExpressible;
pub use error::{ErrorCode, KlpDecodeError};
pub use payload::{
    Ack, CallAnnounced, CapabilityQuery, CapabilityReply, ClaimCode, ClaimOp, ClaimOpKind,
    ClaimReply, Control, ControlVerb, FoundAgent, Handshake, HandshakeReply, KlpError, MemoryOp,
    MemoryOpKind, MemoryReply, Publish, ReportedHealth, SecurityAlert, SessionLimits, SessionToken,
    StatusUpdate, Subscribe, TaskRequest, TaskResult,
};
pub use replay::{ReplayError, ReplayWindow};
pub use schema::klp_schema;
pub use sent_at::SentAt;
pub use sign::{VerifyError, handshake_proof, is_challenge, node_proof};

/// Version of the envelope, its `v`.
pub const KLP_VERSION: u64 = 1;

/// Largest envelope, in bytes of JSON: one line must not hold up the others, and larger content has a content store.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

/// Longest `id`, `in_reply_to` and `intent`, in bytes: they are keys of tables.
pub const KEY_BYTES_MAX: usize = 128;

/// Longest other text of an envelope's own fields (`trace`, `auth.*`), in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;

/// What an envelope is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageType {
    /// Do this.
    TaskRequest,
    /// It is done, or it failed.
    TaskResult,
    /// Progress, health, or the answer to a `CONTROL`.
    StatusUpdate,
    /// Who can do this?
    CapabilityQuery,
    /// These can.
    CapabilityReply,
    /// Something is wrong.
    SecurityAlert,
    /// The first line of a conversation, in each direction.
    Handshake,
    /// Anything between agents.
    Message,
    /// For everybody who subscribed to a topic.
    Publish,
    /// Send me what is published on a topic.
    Subscribe,
    /// What a durable subscription handed out is done, or is not.
    Ack,
    /// Reads or changes the agent's memory.
    Memory,
    /// Takes or gives back a named resource that only one may have at a time.
    Claim,
    /// A hook of the agent's life.
    Control,
    /// An envelope could not be read or acted upon.
    Error,
}

impl MessageType {
    /// All types, in the order of the documentation.
    pub const ALL: [Self; 15] = [
        Self::TaskRequest,
        Self::TaskResult,
        Self::StatusUpdate,
        Self::CapabilityQuery,
        Self::CapabilityReply,
        Self::SecurityAlert,
        Self::Handshake,
        Self::Message,
        Self::Publish,
        Self::Subscribe,
        Self::Ack,
        Self::Memory,
        Self::Claim,
        Self::Control,
        Self::Error,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskRequest => "TASK_REQUEST",
            Self::TaskResult => "TASK_RESULT",
            Self::StatusUpdate => "STATUS_UPDATE",
            Self::CapabilityQuery => "CAPABILITY_QUERY",
            Self::CapabilityReply => "CAPABILITY_REPLY",
            Self::SecurityAlert => "SECURITY_ALERT",
            Self::Handshake => "HANDSHAKE",
            Self::Message => "MESSAGE",
            Self::Publish => "PUBLISH",
            Self::Subscribe => "SUBSCRIBE",
            Self::Ack => "ACK",
            Self::Memory => "MEMORY",
            Self::Claim => "CLAIM",
            Self::Control => "CONTROL",
            Self::Error => "ERROR",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message between agents, users and meshd.
///
/// Made by [`Envelope::new`] or by decoding. The payload stays JSON, so that nothing of it is lost on the way;
/// [`Envelope::payload_as`] reads it as the typed payload of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Unique for its sender within an epoch.
    pub id: String,
    /// What it is about; `type` on the wire.
    pub kind: MessageType,
    /// The sender.
    pub from: Address,
    /// The receiver.
    pub to: Address,
    /// The task that it concerns.
    pub task_id: Option<TaskId>,
    /// The `id` of the message that it answers.
    pub in_reply_to: Option<String>,
    /// What the sender wants, in a word.
    pub intent: Option<String>,
    /// The content.
    pub payload: Value,
    /// What the receiver should know beside it.
    pub context: Option<Value>,
    /// Higher ones are delivered first.
    pub priority: Priority,
    /// When it was sent, by the sender's clock.
    pub timestamp: SentAt,
    /// From when on it must not be acted upon.
    pub expires: Option<SentAt>,
    /// The sender's incarnation.
    pub epoch: Option<Epoch>,
    /// The attempt of the task that it belongs to.
    pub attempt: Option<AttemptNo>,
    /// W3C `traceparent`.
    pub trace: Option<String>,
    /// Who vouches for it.
    pub auth: Option<Auth>,
    /// How its sender wrote it.
    pub(crate) sent: field::Sent,
}

/// Who vouches for an envelope. `Debug` shows no token.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// `ed25519:` and base64url; read when it is verified, so that a wrong one is a failed verification.
    pub signature: Option<String>,
    /// The signer's `did:key`.
    pub key: Option<String>,
    /// A bearer token, or a reference to one (`vault://…`).
    pub token: Option<String>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Auth")
            .field("signature", &self.signature)
            .field("key", &self.key)
            .field("token", &token)
            .finish()
    }
}

/// The shape in which an envelope was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WireForm {
    /// The envelope; with `v` and `id` left out it is the shorter KLP form.
    #[default]
    Envelope,
    /// `{from, to, intent, payload, context, priority, auth, timestamp, messageId}`.
    StandardMessage,
}

/// What meshd or a client adds to a message to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// See [`Envelope::id`].
    pub id: String,
    /// See [`Envelope::timestamp`].
    pub timestamp: Timestamp,
    /// See [`Envelope::epoch`].
    pub epoch: Option<Epoch>,
}

impl Envelope {
    /// A new, unsigned envelope of normal priority; set the other fields as needed.
    pub fn new(
        kind: MessageType,
        from: Address,
        to: Address,
        payload: Value,
        stamp: Stamp,
    ) -> Self {
        Self {
            id: stamp.id,
            kind,
            from,
            to,
            task_id: None,
            in_reply_to: None,
            intent: None,
            payload,
            context: None,
            priority: Priority::Normal,
            timestamp: stamp.timestamp.into(),
            expires: None,
            epoch: stamp.epoch,
            attempt: None,
            trace: None,
            auth: None,
            sent: field::Sent::default(),
        }
    }

    /// The shape in which it was written.
    pub fn form(&self) -> WireForm {
        self.sent.form
    }

    /// Whether it must no longer be acted upon.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires
            .as_ref()
            .is_some_and(|expires| expires.at() <= now)
    }
}
