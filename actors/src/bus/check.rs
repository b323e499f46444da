//! Whether an envelope may be acted upon, and in whose name.

use mesh_messages::address::Address;
use mesh_messages::klp::{
    Defaults, Envelope, ErrorCode, KlpDecodeError, MessageType, ReplayError, decode,
};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role};
use mesh_messages::{AgentId, Epoch, Timestamp};

use super::NodeSigner;
use super::outside::{Keys, Outside, Speaker};
use crate::sentinel::SentinelHandle;

/// What a token that is a reference begins with.
pub(super) const REFERENCE: &str = "vault://";

/// What is said of one that has to sign itself, and did not.
pub(crate) const UNSIGNED: &str =
    "has crypto_required: what it does not sign with its own registered key is refused";

/// A refusal under a code of the protocol.
pub(super) fn refusal(code: ErrorCode, field: &str, detail: impl Into<String>) -> Problem {
    let kind = match code {
        ErrorCode::Malformed => ProblemKind::Malformed,
        ErrorCode::TooLarge => ProblemKind::TooLarge,
        ErrorCode::UnsupportedVersion
        | ErrorCode::UnknownType
        | ErrorCode::UnknownField
        | ErrorCode::MissingField
        | ErrorCode::InvalidField
        | ErrorCode::InvalidPayload
        | ErrorCode::Expired
        | ErrorCode::Unexpected => ProblemKind::Invalid,
        ErrorCode::Unsigned | ErrorCode::BadSignature | ErrorCode::NotAllowed => {
            ProblemKind::Forbidden
        }
        ErrorCode::Replayed | ErrorCode::Stale => ProblemKind::Conflict,
        ErrorCode::UnknownAddress | ErrorCode::NotFound => ProblemKind::NotFound,
        ErrorCode::Busy => ProblemKind::Unavailable,
        ErrorCode::Internal => ProblemKind::Internal,
    };
    let problem = Problem::new(kind, code.name(), detail);
    let problem = if code == ErrorCode::Busy {
        problem.retry_after(1)
    } else {
        problem
    };
    if field.is_empty() {
        problem
    } else {
        problem.field(field)
    }
}

/// The same for what could not be read.
pub(super) fn unreadable(error: KlpDecodeError) -> Problem {
    refusal(
        error.code,
        error.field.as_deref().unwrap_or(""),
        error.detail,
    )
}

/// The same for what came before.
pub(super) fn replayed(error: ReplayError) -> Problem {
    let field = match error {
        ReplayError::Seen => "id",
        ReplayError::OutsideWindow => "timestamp",
        ReplayError::Full => "",
    };
    refusal(error.code(), field, error.to_string())
}

/// An envelope that its sender stands for.
#[derive(Debug)]
pub(super) struct Vouched {
    /// The envelope, without a token that would travel in it.
    pub(super) envelope: Envelope,
    /// Whose token it bears, if that was narrowed.
    pub(super) bearer: Option<Caller>,
    /// Whether its sender signed it; else the caller's own right made it acceptable.
    pub(super) signed: bool,
}

/// Reads what somebody posted, and finds out whether they may say it.
pub(super) fn posted(
    caller: &Caller,
    value: serde_json::Value,
    (keys, sentinel): (&dyn Keys, &SentinelHandle),
    now: Timestamp,
) -> Result<Vouched, Problem> {
    let defaults = own(caller, &value, now);
    let envelope = decode(value, &defaults).map_err(unreadable)?;
    check_time(&envelope, now)?;
    let signed = check_signature(&envelope, keys)?;
    check_own_signature(&envelope, signed, keys)?;
    let speaks = |caller: &Caller| is_own(caller, &envelope.from);
    // Else whoever names another's reference would borrow that other's token.
    let vouched = signed || speaks(caller);
    let by_token = check_token((&caller.name, &envelope), vouched, keys, sentinel)?;
    if !signed
        && caller.role != Role::Admin
        && !speaks(caller)
        && !by_token.as_ref().is_some_and(speaks)
    {
        let detail = format!(
            "{} may not send in the name of {}",
            caller.name, envelope.from
        );
        return Err(refusal(ErrorCode::NotAllowed, "from", detail));
    }
    Ok(Vouched {
        envelope,
        signed,
        bearer: by_token.filter(is_narrowed),
    })
}

fn is_narrowed(bearer: &Caller) -> bool {
    !bearer.narrowed.is_empty()
}

/// What a posted envelope leaves out: who posts one that is not signed means it as their own, and each time as another
/// one. The shorter form names its sender; what has a signature says all that was signed.
fn own(caller: &Caller, value: &serde_json::Value, now: Timestamp) -> Defaults {
    let signed = value.pointer("/auth/signature").is_some();
    let whole = value.get("type").is_some();
    Defaults {
        id: (!signed).then(|| uuid::Uuid::now_v7().to_string()),
        from: caller.name.parse().ok().filter(|_| whole && !signed),
        timestamp: Some(now),
        ..Defaults::default()
    }
}

/// The agent that a caller is.
pub(crate) fn agent_of_caller(caller: &Caller) -> Option<AgentId> {
    AgentId::new(caller.name.strip_prefix("agent:")?).ok()
}

/// An agent on its own channel, as the door would know it by a token.
pub(crate) fn agent_as_caller(agent: &AgentId) -> Caller {
    Caller {
        name: format!("agent:{agent}"),
        role: Role::Agent,
        loopback: true,
        narrowed: Vec::new(),
    }
}

/// Finds out whether a line of an agent is really its own.
pub(super) fn of_agent(
    (agent, epoch): (&AgentId, Epoch),
    mut envelope: Envelope,
    (keys, sentinel): (&dyn Keys, &SentinelHandle),
    now: Timestamp,
) -> Result<Vouched, Problem> {
    let own = agent_as_caller(agent);
    if !is_own(&own, &envelope.from) {
        // The channel says who speaks; whoever says otherwise forges.
        let detail = format!("agent {agent} speaks in the name of {}", envelope.from);
        return Err(Problem::new(ProblemKind::Forbidden, "forged_sender", detail).field("from"));
    }
    if envelope.epoch.is_some_and(|claimed| claimed != epoch) {
        let detail = format!("sent by another incarnation than {epoch}");
        return Err(refusal(ErrorCode::Stale, "epoch", detail));
    }
    check_time(&envelope, now)?;
    let signed = check_signature(&envelope, keys)?;
    check_own_signature(&envelope, signed, keys)?;
    let bearer = check_token((&own.name, &envelope), true, keys, sentinel)?;
    if !signed {
        envelope.epoch = Some(epoch);
    }
    Ok(Vouched {
        envelope,
        signed,
        bearer: bearer.filter(is_narrowed),
    })
}

/// Whether a message leaves a record as a message, by which it is known after a restart.
pub(super) const fn is_recorded(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::Message
            | MessageType::StatusUpdate
            | MessageType::Publish
            | MessageType::SecurityAlert
    )
}

/// Whether what an agent of this node signed may be taken from somebody else's hands: not while the agent is isolated, not of an
/// incarnation that is over, and nothing of which nobody knows any more whether the agent said it on its own channel before
/// this node started, at `began`.
pub(super) fn check_speaker(
    envelope: &Envelope,
    outside: &Outside,
    began: Timestamp,
) -> Result<(), Problem> {
    let Some(Speaker { id, silenced }) = outside.directory.speaker(&envelope.from) else {
        return Ok(());
    };
    if let Some(why) = silenced {
        let detail = format!("agent {id} {why}: nothing is taken in its name");
        return Err(refusal(ErrorCode::NotAllowed, "from", detail));
    }
    if let Some(epoch) = epoch_as_sent(envelope)
        && !outside.delivery.incarnations(&id).contains(&epoch)
    {
        let detail = format!("sent by incarnation {epoch} of agent {id}, which does not run");
        return Err(refusal(ErrorCode::Stale, "epoch", detail));
    }
    let unknown = matches!(envelope.kind, MessageType::StatusUpdate) || !is_recorded(envelope.kind);
    if unknown && envelope.timestamp.at() < began {
        let detail = "signed before this node started, which may have taken it then; sign it again";
        return Err(refusal(ErrorCode::Replayed, "timestamp", detail));
    }
    Ok(())
}

/// The epoch that the signature covers, if the sender named one.
pub(super) fn epoch_as_sent(envelope: &Envelope) -> Option<Epoch> {
    let sent = envelope.as_sent();
    sent.get("epoch")
        .and_then(serde_json::Value::as_u64)
        .map(Epoch)
}

fn check_time(envelope: &Envelope, now: Timestamp) -> Result<(), Problem> {
    if envelope.is_expired(now) {
        return Err(refusal(
            ErrorCode::Expired,
            "expires",
            "the message has expired",
        ));
    }
    Ok(())
}

/// Whether it is signed; what is signed must be so by the key that is known to be its sender's.
pub(super) fn check_signature(envelope: &Envelope, keys: &dyn Keys) -> Result<bool, Problem> {
    if envelope
        .auth
        .as_ref()
        .is_none_or(|auth| auth.signature.is_none())
    {
        return Ok(false);
    }
    let key = keys.key_of(&envelope.from).ok_or_else(|| {
        let detail = format!("no key of {} is known here", envelope.from);
        refusal(ErrorCode::BadSignature, "auth.key", detail)
    })?;
    envelope.verify(&key).map_err(|error| {
        let text = error.to_string();
        let field = text.split(':').next().unwrap_or_default().to_owned();
        refusal(ErrorCode::BadSignature, &field, text)
    })?;
    Ok(true)
}

/// Whoever has to sign what it says has done so: neither its channel nor a token says as much.
fn check_own_signature(envelope: &Envelope, signed: bool, keys: &dyn Keys) -> Result<(), Problem> {
    if signed || !keys.must_sign(&envelope.from) {
        return Ok(());
    }
    Err(refusal(
        ErrorCode::Unsigned,
        "auth.signature",
        format!("{} {UNSIGNED}", envelope.from),
    ))
}

/// Whose token it bears, if it bears one. A reference is looked up for a sender that is `vouched` for, and proves nothing
/// unless the vault has it for that sender; what it resolves to, and what is written out, must be a valid token.
fn check_token(
    (user, envelope): (&str, &Envelope),
    vouched: bool,
    keys: &dyn Keys,
    sentinel: &SentinelHandle,
) -> Result<Option<Caller>, Problem> {
    let Some(token) = envelope
        .auth
        .as_ref()
        .and_then(|auth| auth.token.as_deref())
    else {
        return Ok(None);
    };
    let resolved = if token.starts_with(REFERENCE) {
        vouched
            .then(|| keys.resolve(token, &envelope.from))
            .flatten()
    } else {
        Some(zeroize::Zeroizing::new(token.to_owned()))
    };
    let Some(resolved) = resolved else {
        return Ok(None);
    };
    let caller = sentinel.authenticate_within(user, Some(&resolved));
    caller
        .map(Some)
        .map_err(|problem| problem.field("auth.token"))
}

/// Whether an address is one of the caller's own.
fn is_own(caller: &Caller, from: &Address) -> bool {
    match from {
        Address::Role { role, name } => {
            let name = name
                .split_once('#')
                .filter(|_| &**role == "agent")
                .map_or(&**name, |n| n.0);
            caller.name.split_once(':') == Some((&**role, name))
        }
        Address::Agent { id, .. } => caller
            .name
            .strip_prefix("agent:")
            .is_some_and(|own| own == id.as_str()),
        Address::Kai(path) => path.strip_prefix("user.").is_some_and(|name| {
            caller
                .name
                .strip_prefix("user:")
                .is_some_and(|own| own == name)
        }),
        Address::Node(_) | Address::Topic(_) | Address::Policy(_) => false,
    }
}

/// Makes of a vouched envelope what travels: without a written-out token, and signed, by meshd if by nobody else.
pub(super) fn sealed(vouched: Vouched, node: &NodeSigner) -> Envelope {
    let Vouched {
        mut envelope,
        signed,
        ..
    } = vouched;
    let written_out = envelope
        .auth
        .as_mut()
        .and_then(|auth| auth.token.take_if(|token| !token.starts_with(REFERENCE)))
        .is_some();
    // A receiver must be able to read it without knowing who its sender's channel was.
    let complete = || decode(envelope.to_value(), &Defaults::default()).is_ok();
    if !signed || written_out || !complete() {
        node.sign(&mut envelope);
    }
    envelope
}
