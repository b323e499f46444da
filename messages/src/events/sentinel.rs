//! Access: who may come in, whose key is whose, and what was refused.

use serde::{Deserialize, Serialize};

use super::EgressDenial;
use crate::chaos::ChaosBlow;
use crate::identity::DidKey;
use crate::ids::{AgentId, Epoch, TaskId};
use crate::time::Timestamp;

/// Who may do what. Partition `sentinel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SentinelEvent {
    /// A token was issued. Only its digest is kept.
    #[serde(rename = "token.issued")]
    TokenIssued {
        /// Its public id.
        id: String,
        /// SHA-256 of the secret, hex.
        digest: String,
        /// Its role.
        role: String,
        /// Its bearer.
        subject: String,
        /// When it ends.
        expires_at: Option<Timestamp>,
        /// Whether its holder can narrow it; its digest is then that of its first block's signature.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        attenuable: bool,
    },
    /// A token is void; or, with a dot in its id, all that was derived from one of its blocks.
    #[serde(rename = "token.revoked")]
    TokenRevoked {
        /// Its public id.
        id: String,
    },
    /// Something was allowed.
    #[serde(rename = "access.allowed")]
    Allowed {
        /// What.
        action: String,
        /// On what.
        resource: String,
        /// To whom.
        user: String,
    },
    /// Something was refused.
    #[serde(rename = "access.denied")]
    Denied {
        /// What.
        action: String,
        /// On what.
        resource: String,
        /// To whom.
        user: String,
        /// Why.
        reason: String,
        /// What forbids it, beside roles: a rule of the policy, as `default.access[2]`, or a limit of a token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// Something was asked for that could not be taken as it was: it may be asked for, and what came did not do.
    #[serde(rename = "request.refused")]
    Refused {
        /// What was asked for, as in `access.allowed`; `klp.line` for a line of an agent.
        action: String,
        /// On what.
        resource: String,
        /// By whom.
        user: String,
        /// Why not, as a stable code. What was said is not repeated here: it is the sender's, and may be anything.
        code: String,
    },
    /// An agent says that it calls something beside meshd: a model, a service, a tool.
    #[serde(rename = "call.announced")]
    CallAnnounced(Box<CallNote>),
    /// Such a call is over, the agent says.
    #[serde(rename = "call.ended")]
    CallEnded(Box<CallNote>),
    /// What has no record of its own, because there was too much of it: refusals, and calls of agents.
    #[serde(rename = "audit.counted")]
    Counted(Box<AuditCounts>),
    /// What callers were let look at since the last such record: reading changes nothing, and is counted.
    #[serde(rename = "access.granted")]
    Granted(Box<AuditCounts>),
    /// A token that an incarnation of an agent was given with its handshake is void from now on, and that incarnation ends.
    #[serde(rename = "session.revoked")]
    SessionRevoked {
        /// The token's public id.
        id: String,
        /// Whose it was.
        agent: AgentId,
        /// Which incarnation's.
        epoch: Epoch,
    },
    /// An agent's connection to the outside was refused. The same one again is counted, and told in one record.
    #[serde(rename = "egress.denied")]
    EgressDenied(Box<EgressDenial>),
    /// A key is somebody's from now on; the one before it, if there was one, is not any more.
    #[serde(rename = "key.registered")]
    KeyRegistered {
        /// Which key.
        key: Box<DidKey>,
        /// Whose, as an address such as `user:ada` or `agent:echo`.
        owner: String,
        /// The key that it replaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<Box<DidKey>>,
    },
    /// A key is nobody's any more, and never will be again.
    #[serde(rename = "key.revoked")]
    KeyRevoked {
        /// Which key.
        key: Box<DidKey>,
        /// Why.
        reason: String,
    },
    /// This node is about to co-sign another log's checkpoint, which continues the last one that it co-signed.
    #[serde(rename = "checkpoint.witnessed")]
    CheckpointWitnessed {
        /// The log.
        origin: String,
        /// How many records the checkpoint covers.
        size: u64,
        /// Their root, hex.
        root: String,
    },
    /// Another key signs for this node's log. The log's own file says so, and is what counts; this puts it on record.
    #[serde(rename = "key.rotated")]
    KeyRotated {
        /// Which succession of the log's key it is, from 1.
        number: u64,
        /// The old key.
        old: Box<DidKey>,
        /// The new key.
        new: Box<DidKey>,
        /// The last tree that the old key speaks for.
        size: u64,
        /// Whether the old key is in wrong hands: tokens that rest on it are void from here on.
        compromised: bool,
        /// Why, as whoever ordered it says.
        reason: String,
        /// The note that both keys signed.
        note: String,
    },
    /// Another key signs for another log, whose checkpoints this node co-signs; it is its owner's key from now on.
    #[serde(rename = "succession.witnessed")]
    SuccessionWitnessed(Box<LogSuccession>),
    /// Something is about to be hurt on purpose. Written before the blow falls.
    #[serde(rename = "chaos.struck")]
    ChaosStruck {
        /// On whose order.
        user: String,
        /// What it is, and what it falls on.
        blow: Box<ChaosBlow>,
    },
}

/// Another key signs for a log that is not this node's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSuccession {
    /// The log: the `did:key` of its first key.
    pub origin: DidKey,
    /// Which succession of its key it is, from 1.
    pub number: u64,
    /// The old key.
    pub old: DidKey,
    /// The new key.
    pub new: DidKey,
    /// The last tree that the old key speaks for.
    pub size: u64,
    /// Its root, hex.
    pub root: String,
    /// Whether the old key is in wrong hands.
    pub compromised: bool,
    /// The note that both keys signed.
    pub note: String,
}

/// A call of an agent, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallNote {
    /// Whose.
    pub agent: AgentId,
    /// Of which incarnation.
    pub epoch: Epoch,
    /// For which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Its name among the calls in flight.
    pub id: String,
    /// What is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is asked, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// How long it takes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_ms: Option<u64>,
}

/// How often what happened since the last count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCounts {
    /// When the first of them was.
    pub since: Timestamp,
    /// When they were counted.
    pub until: Timestamp,
    /// Each kind of them, in order.
    pub counts: Vec<AuditCount>,
    /// Events of further kinds, beyond those that are told apart.
    #[serde(default)]
    pub others: u64,
    /// The digest of those among `others` that were done and not refused, as [`AuditCount::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others_digest: Option<String>,
}

/// Events of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCount {
    /// Whose.
    pub user: String,
    /// What was asked for or done.
    pub action: String,
    /// Why not, as a code; `noted` of what was done, and `allowed` of what was looked at.
    pub code: String,
    /// How often.
    pub times: u64,
    /// Of what was done and not refused: which, as `sha256:` and hex. It begins as 32 zero bytes, and for each of them in
    /// turn becomes SHA-256(it ‖ SHA-256(the JSON of the record that this one would have been)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of what was looked at: the verb, by its `operationId` in the `OpenAPI` document, or the type of an agent's line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// Of what is sensitive: what exactly was looked at, as in `access.allowed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

kinds!(SentinelEvent {
    TokenIssued => "token.issued",
    TokenRevoked => "token.revoked",
    Allowed => "access.allowed",
    Denied => "access.denied",
    Refused => "request.refused",
    CallAnnounced => "call.announced",
    CallEnded => "call.ended",
    Counted => "audit.counted",
    Granted => "access.granted",
    SessionRevoked => "session.revoked",
    EgressDenied => "egress.denied",
    KeyRegistered => "key.registered",
    KeyRevoked => "key.revoked",
    CheckpointWitnessed => "checkpoint.witnessed",
    KeyRotated => "key.rotated",
    SuccessionWitnessed => "succession.witnessed",
    ChaosStruck => "chaos.struck",
});
