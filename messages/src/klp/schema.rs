//! The JSON Schema of the envelope and its payloads: documentation that tests hold against the decoder.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::payload::{
    Ack, CapabilityQuery, CapabilityReply, ClaimOp, ClaimReply, Control, Handshake, HandshakeReply,
    KlpError, MemoryOp, MemoryReply, Publish, SecurityAlert, StatusUpdate, Subscribe, TaskRequest,
    TaskResult,
};
use super::{KEY_BYTES_MAX, KLP_VERSION, MessageType, TEXT_BYTES_MAX};
use crate::ids::{AttemptNo, Epoch, TaskId};
use crate::task::Priority;
use crate::time::Timestamp;

static SCHEMA: LazyLock<Value> = LazyLock::new(build);

/// The JSON Schema (draft 2020-12) of a full envelope, with the payload of each type under `$defs`.
pub fn klp_schema() -> &'static Value {
    &SCHEMA
}

fn build() -> Value {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    // Each is put into $defs by its name; which one a type's payload is, `x-payloads` says.
    let payloads = json!({
        "HANDSHAKE": [generator.subschema_for::<Handshake>(), generator.subschema_for::<HandshakeReply>()],
        "TASK_REQUEST": [generator.subschema_for::<TaskRequest>()],
        "TASK_RESULT": [generator.subschema_for::<TaskResult>()],
        "STATUS_UPDATE": [generator.subschema_for::<StatusUpdate>()],
        "CAPABILITY_QUERY": [generator.subschema_for::<CapabilityQuery>()],
        "CAPABILITY_REPLY": [generator.subschema_for::<CapabilityReply>()],
        "SECURITY_ALERT": [generator.subschema_for::<SecurityAlert>()],
        "MEMORY": [generator.subschema_for::<MemoryOp>(), generator.subschema_for::<MemoryReply>()],
        "CLAIM": [generator.subschema_for::<ClaimOp>(), generator.subschema_for::<ClaimReply>()],
        "PUBLISH": [generator.subschema_for::<Publish>()],
        "SUBSCRIBE": [generator.subschema_for::<Subscribe>()],
        "ACK": [generator.subschema_for::<Ack>()],
        "CONTROL": [generator.subschema_for::<Control>()],
        "ERROR": [generator.subschema_for::<KlpError>()],
        "MESSAGE": [true],
    });
    let key = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": KEY_BYTES_MAX });
    let text = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": TEXT_BYTES_MAX });
    let address =
        json!({ "type": "string", "minLength": 1, "maxLength": crate::address::ADDRESS_MAX });
    let properties = json!({
        "v": { "type": ["integer", "null"], "enum": [KLP_VERSION, null] },
        "id": key,
        "type": { "type": "string", "enum": MessageType::ALL.map(MessageType::name) },
        "from": address,
        "to": address,
        "task_id": generator.subschema_for::<Option<TaskId>>(),
        "in_reply_to": key,
        "intent": key,
        "payload": { "not": { "type": "null" } },
        "context": true,
        "priority": generator.subschema_for::<Option<Priority>>(),
        "timestamp": generator.subschema_for::<Timestamp>(),
        "expires": generator.subschema_for::<Option<Timestamp>>(),
        "epoch": generator.subschema_for::<Option<Epoch>>(),
        "attempt": generator.subschema_for::<Option<AttemptNo>>(),
        "trace": text,
        "auth": {
            "type": ["object", "null"],
            "properties": { "signature": text, "key": text, "token": text },
            "additionalProperties": false,
        },
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "KLP envelope",
        "type": "object",
        "required": ["type", "from", "to", "payload", "timestamp"],
        "additionalProperties": false,
        "properties": properties,
        "x-payloads": payloads,
        "$defs": generator.take_definitions(true),
    })
}
