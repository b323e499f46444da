//! From bytes to an envelope.

use serde::Deserialize as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::error::{ErrorCode, KlpDecodeError};
use super::field::{Field, Sent};
use super::{
    Auth, ENVELOPE_BYTES_MAX, Envelope, KEY_BYTES_MAX, KLP_VERSION, MessageType, SentAt,
    TEXT_BYTES_MAX, WireForm,
};
use crate::address::Address;
use crate::ids::{AttemptNo, Epoch, TaskId};
use crate::json;
use crate::schema::unknown_key;
use crate::task::Priority;
use crate::time::Timestamp;

/// What the receiver knows of a sender that may leave it out: on an agent's own stdio the channel is its identity.
///
/// A field that is `None` here must be in the message, save for two: a missing `id` is then derived from the
/// content, and a missing `epoch` stays missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// For a missing `id`.
    pub id: Option<String>,
    /// For a missing `from`.
    pub from: Option<Address>,
    /// For a missing `to`.
    pub to: Option<Address>,
    /// For a missing `timestamp`.
    pub timestamp: Option<Timestamp>,
    /// For a missing `epoch`.
    pub epoch: Option<Epoch>,
}

/// Reads one line, in which everything must be said.
///
/// # Errors
/// [`KlpDecodeError`] names what is wrong and where.
pub fn decode_line(line: &[u8]) -> Result<Envelope, KlpDecodeError> {
    decode_with(line, &Defaults::default())
}

/// Reads one line, filling in what it leaves out.
///
/// # Errors
/// [`KlpDecodeError`] names what is wrong and where.
pub fn decode_with(line: &[u8], defaults: &Defaults) -> Result<Envelope, KlpDecodeError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() > ENVELOPE_BYTES_MAX {
        let detail = format!(
            "{} bytes, but an envelope has at most {ENVELOPE_BYTES_MAX}",
            line.len()
        );
        return Err(KlpDecodeError::new(ErrorCode::TooLarge, None, detail));
    }
    decode(json::parse(line)?, defaults)
}

/// Reads an envelope from JSON that was already read strictly.
///
/// # Errors
/// [`KlpDecodeError`] names what is wrong and where.
pub fn decode(value: Value, defaults: &Defaults) -> Result<Envelope, KlpDecodeError> {
    let Value::Object(fields) = value else {
        return Err(KlpDecodeError::new(
            ErrorCode::Malformed,
            None,
            "not a JSON object",
        ));
    };
    let form = form_of(&fields, defaults);
    let id = fields
        .get(Field::Id.key(form))
        .and_then(Value::as_str)
        .map(str::to_owned);
    let mut reader = Reader {
        sent: Sent {
            form,
            ..Sent::default()
        },
        fields,
        defaults,
    };
    reader
        .envelope()
        .map_err(|error| KlpDecodeError { id, ..error })
}

/// Without `type` it is the other form, unless it holds what only an envelope has.
fn form_of(fields: &Map<String, Value>, defaults: &Defaults) -> WireForm {
    let has = |key: &str| fields.contains_key(key);
    let envelope_only = [
        "type",
        "v",
        "id",
        "task_id",
        "in_reply_to",
        "expires",
        "epoch",
        "attempt",
        "trace",
    ]
    .into_iter()
    .any(has);
    if has("type") || (envelope_only && !has("messageId")) {
        WireForm::Envelope
    } else if has("intent") || has("messageId") || defaults.from.is_none() {
        WireForm::StandardMessage
    } else {
        // An agent's line, which seldom says where it comes from: what it forgot is its type.
        WireForm::Envelope
    }
}

struct Reader<'d> {
    fields: Map<String, Value>,
    sent: Sent,
    defaults: &'d Defaults,
}

impl Reader<'_> {
    fn envelope(&mut self) -> Result<Envelope, KlpDecodeError> {
        let derived = self.derived_id();
        self.version()?;
        let standard = self.sent.form == WireForm::StandardMessage;
        let kind = if standard {
            MessageType::Message
        } else {
            self.kind()?
        };
        let from = self.address(Field::From, self.defaults.from.clone())?;
        let to = self.address(Field::To, self.defaults.to.clone())?;
        let intent = self.text(Field::Intent, KEY_BYTES_MAX)?;
        if standard && intent.is_none() {
            return Err(KlpDecodeError::missing("intent"));
        }
        let payload = self
            .take(Field::Payload)
            .ok_or_else(|| KlpDecodeError::missing("payload"))?;
        let timestamp = self.timestamp()?;
        let priority = self.priority()?;
        let epoch = match self.number(Field::Epoch)? {
            Some(epoch) => Some(Epoch(epoch)),
            None => self.fill(Field::Epoch, self.defaults.epoch),
        };
        let id = match self.text(Field::Id, KEY_BYTES_MAX)? {
            Some(id) => id,
            None => self
                .fill(Field::Id, Some(self.defaults.id.clone().unwrap_or(derived)))
                .unwrap_or_default(),
        };
        let envelope = Envelope {
            id,
            kind,
            from,
            to,
            task_id: self.task_id()?,
            in_reply_to: self.text(Field::InReplyTo, KEY_BYTES_MAX)?,
            intent,
            payload,
            context: self.take(Field::Context),
            priority,
            timestamp,
            expires: self.expires()?,
            epoch,
            attempt: self.attempt()?,
            trace: self.text(Field::Trace, TEXT_BYTES_MAX)?,
            auth: self.auth()?,
            sent: Sent::default(),
        };
        self.nothing_left()?;
        Ok(Envelope {
            sent: self.sent,
            ..envelope
        })
    }

    /// An id for a message that has none: the same content is the same message.
    fn derived_id(&self) -> String {
        let has_id = self
            .fields
            .get(Field::Id.key(self.sent.form))
            .is_some_and(|id| !id.is_null());
        if has_id || self.defaults.id.is_some() {
            return String::new();
        }
        let digest = Sha256::digest(json::canonical(&Value::Object(self.fields.clone())));
        format!("klp-{}", hex::encode(&digest[..16]))
    }

    /// Takes a field out; `null` is remembered, and otherwise the same as absent.
    ///
    /// What the form has no place for is left where it is, to be refused in the end.
    fn take(&mut self, field: Field) -> Option<Value> {
        if self.sent.form == WireForm::StandardMessage && !Field::STANDARD.contains(&field) {
            return None;
        }
        match self.fields.remove(field.key(self.sent.form)) {
            Some(Value::Null) => {
                self.sent.nulls.insert(field);
                None
            }
            other => other,
        }
    }

    /// Notes that a value was filled in.
    fn fill<T>(&mut self, field: Field, value: Option<T>) -> Option<T> {
        if value.is_some() {
            self.sent.filled.insert(field);
        }
        value
    }

    fn invalid(&self, field: Field, expected: &str) -> KlpDecodeError {
        KlpDecodeError::invalid(field.path(self.sent.form), expected)
    }

    fn version(&mut self) -> Result<(), KlpDecodeError> {
        if self.sent.form == WireForm::StandardMessage {
            return Ok(());
        }
        match self.take(Field::V) {
            None => {
                self.sent.filled.insert(Field::V);
                Ok(())
            }
            Some(v) if v.as_u64() == Some(KLP_VERSION) => Ok(()),
            Some(v) => {
                let detail = format!("version {v} is not spoken here; expected {KLP_VERSION}");
                Err(KlpDecodeError::new(
                    ErrorCode::UnsupportedVersion,
                    "v".to_owned(),
                    detail,
                ))
            }
        }
    }

    fn kind(&mut self) -> Result<MessageType, KlpDecodeError> {
        let value = self
            .take(Field::Type)
            .ok_or_else(|| KlpDecodeError::missing("type"))?;
        let name = value
            .as_str()
            .ok_or_else(|| self.invalid(Field::Type, "text"))?;
        MessageType::from_name(name).ok_or_else(|| {
            let names = MessageType::ALL.map(MessageType::name).join(", ");
            let shown: String = name.chars().take(40).collect();
            let detail = format!("Unknown type {shown:?}; expected one of {names}");
            KlpDecodeError::new(ErrorCode::UnknownType, "type".to_owned(), detail)
        })
    }

    fn address(
        &mut self,
        field: Field,
        default: Option<Address>,
    ) -> Result<Address, KlpDecodeError> {
        let Some(value) = self.take(field) else {
            let filled = self.fill(field, default);
            return filled.ok_or_else(|| KlpDecodeError::missing(field.key(self.sent.form)));
        };
        let text = value
            .as_str()
            .ok_or_else(|| self.invalid(field, "an address"))?;
        text.parse()
            .map_err(|error: crate::address::InvalidAddress| {
                let detail = format!("Invalid field {}: {error}", field.path(self.sent.form));
                KlpDecodeError::new(
                    ErrorCode::InvalidField,
                    field.path(self.sent.form).to_owned(),
                    detail,
                )
            })
    }

    fn text(&mut self, field: Field, bytes_max: usize) -> Result<Option<String>, KlpDecodeError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text))
                if !text.is_empty()
                    && text.len() <= bytes_max
                    && !text.chars().any(char::is_control) =>
            {
                Ok(Some(text))
            }
            Some(_) => Err(self.invalid(
                field,
                &format!("text of 1 to {bytes_max} bytes without control characters"),
            )),
        }
    }

    fn number(&mut self, field: Field) -> Result<Option<u64>, KlpDecodeError> {
        self.take(field)
            .map(|v| {
                v.as_u64()
                    .ok_or_else(|| self.invalid(field, "a non-negative integer"))
            })
            .transpose()
    }

    fn timestamp(&mut self) -> Result<SentAt, KlpDecodeError> {
        let field = Field::Timestamp;
        let Some(value) = self.take(field) else {
            let filled = self.fill(field, self.defaults.timestamp);
            return filled
                .map(SentAt::from)
                .ok_or_else(|| KlpDecodeError::missing("timestamp"));
        };
        match self.sent.form {
            WireForm::Envelope => value.as_str().and_then(SentAt::parse).ok_or_else(|| {
                self.invalid(field, "an RFC 3339 time such as 2025-06-20T22:04:00Z")
            }),
            WireForm::StandardMessage => value
                .as_u64()
                .map(|ms| Timestamp::from_millis(ms).into())
                .ok_or_else(|| self.invalid(field, "milliseconds since 1970 as an integer")),
        }
    }

    fn expires(&mut self) -> Result<Option<SentAt>, KlpDecodeError> {
        let Some(value) = self.take(Field::Expires) else {
            return Ok(None);
        };
        let read = value.as_str().and_then(SentAt::parse);
        read.map(Some).ok_or_else(|| {
            self.invalid(
                Field::Expires,
                "an RFC 3339 time such as 2025-06-20T22:04:00Z",
            )
        })
    }

    fn priority(&mut self) -> Result<Priority, KlpDecodeError> {
        match self.take(Field::Priority) {
            None => {
                self.sent.filled.insert(Field::Priority);
                Ok(Priority::Normal)
            }
            Some(value) => {
                let read = Priority::deserialize(&value);
                read.map_err(|_| {
                    self.invalid(Field::Priority, "one of low, normal, high, critical")
                })
            }
        }
    }

    fn task_id(&mut self) -> Result<Option<TaskId>, KlpDecodeError> {
        let Some(value) = self.take(Field::TaskId) else {
            return Ok(None);
        };
        let id = value.as_str().and_then(|text| TaskId::new(text).ok());
        id.map(Some)
            .ok_or_else(|| self.invalid(Field::TaskId, "1 to 64 of A-Z a-z 0-9 - _ ."))
    }

    fn attempt(&mut self) -> Result<Option<AttemptNo>, KlpDecodeError> {
        let Some(number) = self.number(Field::Attempt)? else {
            return Ok(None);
        };
        let number = u32::try_from(number)
            .map_err(|_| self.invalid(Field::Attempt, "an attempt's number"))?;
        Ok(Some(AttemptNo(number)))
    }

    fn auth(&mut self) -> Result<Option<Auth>, KlpDecodeError> {
        let form = self.sent.form;
        let fields = match (self.take(Field::Auth), form) {
            (None, _) => return Ok(None),
            (Some(Value::String(token)), WireForm::StandardMessage)
                if token.len() <= TEXT_BYTES_MAX =>
            {
                return Ok(Some(Auth {
                    token: Some(token),
                    ..Auth::default()
                }));
            }
            (Some(Value::Object(fields)), WireForm::Envelope) => fields,
            (Some(_), WireForm::Envelope) => {
                return Err(self.invalid(Field::Auth, "{signature, key, token}"));
            }
            (Some(_), WireForm::StandardMessage) => {
                return Err(self.invalid(Field::Auth, "a reference such as vault://token@kai"));
            }
        };
        // The same reader, one level down.
        let mut inner = Reader {
            fields,
            sent: self.sent,
            defaults: self.defaults,
        };
        let auth = Auth {
            signature: inner.text(Field::AuthSignature, TEXT_BYTES_MAX)?,
            key: inner.text(Field::AuthKey, TEXT_BYTES_MAX)?,
            token: inner.text(Field::AuthToken, TEXT_BYTES_MAX)?,
        };
        if let Some(key) = inner.fields.keys().next() {
            return Err(unknown_field("auth.", key, &Field::AUTH, form));
        }
        self.sent.nulls = inner.sent.nulls;
        Ok(Some(auth))
    }

    fn nothing_left(&self) -> Result<(), KlpDecodeError> {
        let known: &[Field] = match self.sent.form {
            WireForm::Envelope => &Field::ENVELOPE,
            WireForm::StandardMessage => &Field::STANDARD,
        };
        match self.fields.keys().next() {
            Some(key) => Err(unknown_field("", key, known, self.sent.form)),
            None => Ok(()),
        }
    }
}

fn unknown_field(prefix: &str, key: &str, known: &[Field], form: WireForm) -> KlpDecodeError {
    let shown: String = key.chars().take(40).collect();
    let hint = unknown_key(key, known.iter().map(|field| field.key(form)));
    KlpDecodeError::new(
        ErrorCode::UnknownField,
        format!("{prefix}{shown}"),
        format!("{prefix}{shown}: {hint}"),
    )
}
