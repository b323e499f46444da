//! From an envelope to bytes.

use serde_json::{Map, Value, json};

use super::field::{Field, FieldSet, Sent};
use super::{Auth, Envelope, KLP_VERSION, MessageType, WireForm};

/// The envelope holds something that the other form has no place for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} has no place in a StandardMessage")]
pub struct NotExpressible {
    /// The field.
    pub field: &'static str,
}

impl Envelope {
    /// The envelope as JSON. A signed one is written as its signer wrote it, so that the signature still holds;
    /// any other with everything that is known.
    pub fn to_value(&self) -> Value {
        if self.signature().is_some() {
            self.as_sent()
        } else {
            self.full(FieldSet::default(), FieldSet::default())
        }
    }

    /// One line, with its newline.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = self.to_value().to_string().into_bytes();
        line.push(b'\n');
        line
    }

    /// Exactly the fields that the sender wrote, in the sender's form: reading it again gives an equal envelope, and
    /// it is the same JSON value as what was read.
    pub fn as_sent(&self) -> Value {
        let Sent {
            form,
            filled,
            nulls,
        } = self.sent;
        match form {
            WireForm::Envelope => self.full(filled, nulls),
            WireForm::StandardMessage => self.standard(filled, nulls),
        }
    }

    /// The envelope as a `StandardMessage`.
    ///
    /// # Errors
    /// [`NotExpressible`] when it holds something that this form would lose.
    pub fn to_standard_message(&self) -> Result<Value, NotExpressible> {
        let auth = self.auth.as_ref();
        let lost = [
            ("type", self.kind != MessageType::Message),
            ("task_id", self.task_id.is_some()),
            ("in_reply_to", self.in_reply_to.is_some()),
            ("expires", self.expires.is_some()),
            ("epoch", self.epoch.is_some()),
            ("attempt", self.attempt.is_some()),
            ("trace", self.trace.is_some()),
            (
                "auth.signature",
                auth.is_some_and(|auth| auth.signature.is_some()),
            ),
            ("auth.key", auth.is_some_and(|auth| auth.key.is_some())),
            // The form must have an intent, and none can be made up.
            ("intent", self.intent.is_none()),
        ];
        match lost.into_iter().find(|(_, lost)| *lost) {
            Some((field, _)) => Err(NotExpressible { field }),
            None => Ok(self.standard(FieldSet::default(), FieldSet::default())),
        }
    }

    pub(super) fn signature(&self) -> Option<&str> {
        self.auth
            .as_ref()
            .and_then(|auth| auth.signature.as_deref())
    }

    fn full(&self, omit: FieldSet, nulls: FieldSet) -> Value {
        self.write(&Field::ENVELOPE, WireForm::Envelope, omit, nulls)
    }

    fn standard(&self, omit: FieldSet, nulls: FieldSet) -> Value {
        self.write(&Field::STANDARD, WireForm::StandardMessage, omit, nulls)
    }

    fn write(&self, fields: &[Field], form: WireForm, omit: FieldSet, nulls: FieldSet) -> Value {
        let mut out = Map::new();
        for &field in fields {
            let value = if omit.contains(field) {
                None
            } else {
                self.field(field, form, nulls)
            };
            match value {
                Some(value) => out.insert(field.key(form).to_owned(), value),
                None if nulls.contains(field) => {
                    out.insert(field.key(form).to_owned(), Value::Null)
                }
                None => None,
            };
        }
        Value::Object(out)
    }

    fn field(&self, field: Field, form: WireForm, nulls: FieldSet) -> Option<Value> {
        let text = |text: &Option<String>| text.clone().map(Value::String);
        match field {
            Field::V => Some(json!(KLP_VERSION)),
            Field::Id => Some(json!(self.id)),
            Field::Type => Some(json!(self.kind.name())),
            Field::From => Some(json!(self.from.to_string())),
            Field::To => Some(json!(self.to.to_string())),
            Field::TaskId => self.task_id.as_ref().map(|id| json!(id.as_str())),
            Field::InReplyTo => text(&self.in_reply_to),
            Field::Intent => text(&self.intent),
            Field::Payload => Some(self.payload.clone()),
            Field::Context => self.context.clone(),
            Field::Priority => Some(json!(self.priority)),
            Field::Timestamp => Some(match form {
                WireForm::Envelope => json!(self.timestamp.text()),
                WireForm::StandardMessage => json!(self.timestamp.at().as_millis()),
            }),
            Field::Expires => self.expires.as_ref().map(|at| json!(at.text())),
            Field::Epoch => self.epoch.map(|epoch| json!(epoch.0)),
            Field::Attempt => self.attempt.map(|attempt| json!(attempt.0)),
            Field::Trace => text(&self.trace),
            Field::Auth => self
                .auth
                .as_ref()
                .and_then(|auth| write_auth(auth, form, nulls)),
            Field::AuthSignature | Field::AuthKey | Field::AuthToken => None,
        }
    }
}

fn write_auth(auth: &Auth, form: WireForm, nulls: FieldSet) -> Option<Value> {
    if form == WireForm::StandardMessage {
        return auth.token.clone().map(Value::String);
    }
    let parts = [
        (Field::AuthSignature, &auth.signature),
        (Field::AuthKey, &auth.key),
        (Field::AuthToken, &auth.token),
    ];
    let mut out = Map::new();
    for (field, text) in parts {
        match text {
            Some(text) => out.insert(field.key(form).to_owned(), json!(text)),
            None if nulls.contains(field) => out.insert(field.key(form).to_owned(), Value::Null),
            None => None,
        };
    }
    Some(Value::Object(out))
}
