//! The envelope's fields, and which of them its sender wrote.

use super::WireForm;

/// A field of the envelope, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    V,
    Id,
    Type,
    From,
    To,
    TaskId,
    InReplyTo,
    Intent,
    Payload,
    Context,
    Priority,
    Timestamp,
    Expires,
    Epoch,
    Attempt,
    Trace,
    Auth,
    AuthSignature,
    AuthKey,
    AuthToken,
}

impl Field {
    /// The fields of the envelope itself; those of `auth` come after them.
    pub(crate) const ENVELOPE: [Self; 17] = [
        Self::V,
        Self::Id,
        Self::Type,
        Self::From,
        Self::To,
        Self::TaskId,
        Self::InReplyTo,
        Self::Intent,
        Self::Payload,
        Self::Context,
        Self::Priority,
        Self::Timestamp,
        Self::Expires,
        Self::Epoch,
        Self::Attempt,
        Self::Trace,
        Self::Auth,
    ];

    pub(crate) const AUTH: [Self; 3] = [Self::AuthSignature, Self::AuthKey, Self::AuthToken];

    /// The fields of a `StandardMessage`.
    pub(crate) const STANDARD: [Self; 9] = [
        Self::From,
        Self::To,
        Self::Intent,
        Self::Payload,
        Self::Context,
        Self::Priority,
        Self::Auth,
        Self::Timestamp,
        Self::Id,
    ];

    /// The key in a form of the envelope.
    pub(crate) const fn key(self, form: WireForm) -> &'static str {
        match self {
            Self::V => "v",
            Self::Id => match form {
                WireForm::Envelope => "id",
                WireForm::StandardMessage => "messageId",
            },
            Self::Type => "type",
            Self::From => "from",
            Self::To => "to",
            Self::TaskId => "task_id",
            Self::InReplyTo => "in_reply_to",
            Self::Intent => "intent",
            Self::Payload => "payload",
            Self::Context => "context",
            Self::Priority => "priority",
            Self::Timestamp => "timestamp",
            Self::Expires => "expires",
            Self::Epoch => "epoch",
            Self::Attempt => "attempt",
            Self::Trace => "trace",
            Self::Auth => "auth",
            Self::AuthSignature => "signature",
            Self::AuthKey => "key",
            Self::AuthToken => "token",
        }
    }

    /// The field's path, for errors.
    pub(crate) const fn path(self, form: WireForm) -> &'static str {
        match self {
            Self::AuthSignature => "auth.signature",
            Self::AuthKey => "auth.key",
            Self::AuthToken => "auth.token",
            other => other.key(form),
        }
    }
}

/// A set of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FieldSet(u32);

impl FieldSet {
    pub(crate) fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u32;
    }

    pub(crate) const fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u32) != 0
    }
}

/// How the sender wrote an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sent {
    /// The shape.
    pub(crate) form: WireForm,
    /// Fields that the sender left out and the receiver filled in.
    pub(crate) filled: FieldSet,
    /// Fields that the sender wrote as `null`.
    pub(crate) nulls: FieldSet,
}
