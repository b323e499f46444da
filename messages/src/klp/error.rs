//! Why an envelope is refused.

use serde::{Deserialize, Serialize};

use crate::json::JsonError;

/// What is wrong with an envelope; stable names, sent in `ERROR` and as `code` over HTTP.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a JSON object, or JSON that two readers could understand differently.
    Malformed,
    /// Larger than an envelope may be.
    TooLarge,
    /// A `v` that is not spoken here.
    UnsupportedVersion,
    /// A `type` that does not exist.
    UnknownType,
    /// A field that does not exist.
    UnknownField,
    /// A field that must be there.
    MissingField,
    /// A field of another type or form.
    InvalidField,
    /// A payload that is not of its type's form.
    InvalidPayload,
    /// No signature where one is needed.
    Unsigned,
    /// A signature that does not hold.
    BadSignature,
    /// Seen before, or outside the clock window.
    Replayed,
    /// Past its `expires`.
    Expired,
    /// From an incarnation or for an attempt that is over.
    Stale,
    /// Nobody has this address.
    UnknownAddress,
    /// The sender may not do this.
    NotAllowed,
    /// There is no such thing.
    NotFound,
    /// A bound is reached; later it may work.
    Busy,
    /// Out of turn: before the handshake, or a type that this side does not take.
    Unexpected,
    /// meshd's fault.
    Internal,
}

impl ErrorCode {
    /// All codes, in the order of the documentation.
    pub const ALL: [Self; 19] = [
        Self::Malformed,
        Self::TooLarge,
        Self::UnsupportedVersion,
        Self::UnknownType,
        Self::UnknownField,
        Self::MissingField,
        Self::InvalidField,
        Self::InvalidPayload,
        Self::Unsigned,
        Self::BadSignature,
        Self::Replayed,
        Self::Expired,
        Self::Stale,
        Self::UnknownAddress,
        Self::NotAllowed,
        Self::NotFound,
        Self::Busy,
        Self::Unexpected,
        Self::Internal,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownType => "unknown_type",
            Self::UnknownField => "unknown_field",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::InvalidPayload => "invalid_payload",
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad_signature",
            Self::Replayed => "replayed",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::UnknownAddress => "unknown_address",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Unexpected => "unexpected",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not an acceptable envelope. The text is for people; code and field are for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct KlpDecodeError {
    /// What is wrong.
    pub code: ErrorCode,
    /// The field that is wrong, such as `to` or `payload.key`; `None` when it is the whole.
    pub field: Option<String>,
    /// What is wrong, for people.
    pub detail: String,
    /// Offset of the offending byte, when the text itself is wrong.
    pub byte: Option<usize>,
    /// The `id` of the refused envelope, when it could be read, for an answer's `in_reply_to`.
    pub id: Option<String>,
}

impl KlpDecodeError {
    pub(super) fn new(
        code: ErrorCode,
        field: impl Into<Option<String>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            code,
            field: field.into(),
            detail: detail.into(),
            byte: None,
            id: None,
        }
    }

    pub(super) fn missing(field: &str) -> Self {
        Self::new(
            ErrorCode::MissingField,
            field.to_owned(),
            format!("Missing required field: {field}"),
        )
    }

    pub(super) fn invalid(field: &str, expected: &str) -> Self {
        Self::new(
            ErrorCode::InvalidField,
            field.to_owned(),
            format!("Invalid field {field}: expected {expected}"),
        )
    }
}

impl From<JsonError> for KlpDecodeError {
    fn from(error: JsonError) -> Self {
        let field = (!error.path.is_empty()).then(|| error.path.clone());
        Self {
            byte: Some(error.byte),
            ..Self::new(ErrorCode::Malformed, field, error.to_string())
        }
    }
}
