//! Properties of every decoder of outside bytes: nothing makes it panic, and what it accepts it writes back equal.
//! `fuzz/` runs the same entry points for longer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mesh_messages::address::Address;
use mesh_messages::identity::SigningKey;
use mesh_messages::klp::{
    self, Control, Defaults, Envelope, Handshake, MemoryOp, MessageType, NotExpressible, Publish,
    Stamp, StatusUpdate, TaskRequest, TaskResult,
};
use mesh_messages::manifest::{ManifestFormat, parse_manifest};
use mesh_messages::schema::Checker;
use mesh_messages::task::Priority;
use mesh_messages::{Epoch, TaskId, Timestamp, json};
use proptest::prelude::*;
use serde_json::{Value, json};

const LINE: &str = r#"{"v":1,"id":"1","type":"TASK_RESULT","from":"agent:a","to":"kai://node.n","task_id":"T1","payload":{"ok":true,"output":{"n":[1,2.5,"x",null]}},"context":{},"priority":"high","timestamp":"2025-06-20T22:04:00Z","epoch":7,"attempt":1,"auth":{"signature":"ed25519:x","key":"did:key:z6Mk","token":"vault://a"}}"#;
const MANIFEST: &str = include_str!("../../config/agents/calendarAgent/manifest.json");

/// A text with a few bytes replaced, inserted or removed.
fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        0..text.len(),
        0_u8..3,
        prop_oneof![
            any::<u8>(),
            prop::sample::select(b"{}[]\":,0129.-eE\\un tf".to_vec())
        ],
    );
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, kind, byte) in edits {
            let at = at % bytes.len();
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_992_i64..=9_007_199_254_740_992).prop_map(Value::from),
        (-1e15_f64..1e15).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn any_address() -> impl Strategy<Value = Address> {
    prop::sample::select(vec![
        "kPlanner:research",
        "kai://agent.echo",
        "kai://node.n1/agent.echo",
        "kai://user.device.kai-core",
        "topic://a.b",
        "policy://x",
    ])
    .prop_map(|text| text.parse().unwrap())
}

prop_compose! {
    fn any_envelope()(
        kind in prop::sample::select(MessageType::ALL.to_vec()),
        from in any_address(),
        to in any_address(),
        payload in any_json(),
        context in prop::option::of(any_json()),
        id in "[a-zA-Z0-9-]{1,40}",
        at in 0_u64..4_000_000_000_000,
        epoch in prop::option::of(0_u64..1 << 53),
        task in prop::option::of("[a-z0-9]{1,20}"),
        intent in prop::option::of("[a-z_]{1,20}"),
        critical in any::<bool>(),
    ) -> Envelope {
        let stamp = Stamp { id, timestamp: Timestamp::from_millis(at), epoch: epoch.map(Epoch) };
        let mut envelope = Envelope::new(kind, from, to, payload, stamp);
        envelope.context = context;
        envelope.task_id = task.map(|id| TaskId::new(id).unwrap());
        envelope.intent = intent;
        envelope.priority = if critical { Priority::Critical } else { Priority::Normal };
        envelope
    }
}

/// What a session does with a line.
fn read_line(bytes: &[u8]) -> Option<Envelope> {
    let envelope = klp::decode_line(bytes).ok()?;
    // Whether the typed payload can be read is its own question; it must only never panic.
    drop(envelope.payload_as::<TaskResult>());
    drop(envelope.payload_as::<TaskRequest>());
    drop(envelope.payload_as::<StatusUpdate>());
    drop(envelope.payload_as::<Handshake>());
    drop(envelope.payload_as::<MemoryOp>());
    drop(envelope.payload_as::<Publish>());
    drop(envelope.payload_as::<Control>());
    Some(envelope)
}

#[track_caller]
fn writes_back_what_it_read(envelope: &Envelope) {
    let sent =
        klp::decode(envelope.as_sent(), &Defaults::default()).expect("what was sent reads again");
    assert_eq!(&sent, envelope);
}

proptest! {
    #[test]
    fn json_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(json::parse(&bytes));
        drop(json::parse_yaml(&bytes));
    }

    #[test]
    fn json_that_is_accepted_has_one_canonical_form(value in any_json()) {
        let read = json::parse(value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&read, &value);
        let canonical = json::canonical(&read);
        prop_assert_eq!(json::canonical(&json::parse(&canonical).unwrap()), canonical);
    }

    #[test]
    fn envelope_reader_survives_damage(bytes in damaged(LINE)) {
        if let Some(envelope) = read_line(&bytes) {
            writes_back_what_it_read(&envelope);
        }
    }

    #[test]
    fn envelope_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(read_line(&bytes));
    }

    #[test]
    fn envelope_is_read_as_it_was_written_signed_or_not(mut envelope in any_envelope(), sign in any::<bool>()) {
        let key = SigningKey::from_secret(&[9; 32]);
        if sign {
            envelope.sign(&key);
        }
        let read = klp::decode_line(&envelope.to_line()).unwrap();
        prop_assert_eq!(&read, &envelope);
        prop_assert_eq!(read.verify(&key.public()).is_ok(), sign);
        prop_assert_eq!(Checker::new(klp::klp_schema().clone()).unwrap().check(&envelope.to_value()), []);
    }

    #[test]
    fn any_change_breaks_the_signature(mut envelope in any_envelope(), other in any_envelope(), field in 0_usize..8) {
        let key = SigningKey::from_secret(&[9; 32]);
        envelope.sign(&key);
        let signed = envelope.clone();
        match field {
            0 => envelope.kind = other.kind,
            1 => envelope.from = other.from,
            2 => envelope.to = other.to,
            3 => envelope.payload = other.payload,
            4 => envelope.timestamp = other.timestamp,
            5 => envelope.epoch = other.epoch,
            6 => envelope.context = other.context,
            _ => envelope.id = other.id,
        }
        prop_assert_eq!(envelope.verify(&key.public()).is_ok(), envelope == signed);
    }

    #[test]
    fn standard_message_loses_nothing_or_refuses(envelope in any_envelope()) {
        match envelope.to_standard_message() {
            Ok(standard) => {
                let read = klp::decode(standard.clone(), &Defaults::default()).unwrap();
                prop_assert_eq!(read.as_sent(), standard);
                prop_assert_eq!(read.to_value(), envelope.to_value());
            }
            Err(NotExpressible { field }) => {
                prop_assert!(field == "intent" || field == "type" || !envelope.to_value()[field].is_null());
            }
        }
    }

    #[test]
    fn manifest_reader_survives_damage(bytes in damaged(MANIFEST)) {
        if let Ok(parsed) = parse_manifest(&bytes, ManifestFormat::Json) {
            let written = serde_json::to_vec(&parsed.manifest).unwrap();
            prop_assert_eq!(parse_manifest(&written, ManifestFormat::Json).unwrap().manifest, parsed.manifest);
        }
    }

    #[test]
    fn manifest_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse_manifest(&bytes, ManifestFormat::Detect));
        drop(parse_manifest(&bytes, ManifestFormat::Yaml));
    }
}

#[test]
fn lines_at_the_bound_are_read_and_beyond_it_refused() {
    let line = |bytes: usize| {
        let empty = LINE.replace("[1,2.5,\"x\",null]", "\"\"");
        let filler = "x".repeat(bytes - empty.len());
        LINE.replace("[1,2.5,\"x\",null]", &format!("\"{filler}\""))
    };
    let (fits, exceeds) = (
        line(klp::ENVELOPE_BYTES_MAX),
        line(klp::ENVELOPE_BYTES_MAX + 1),
    );
    assert!(klp::decode_line(fits.as_bytes()).is_ok());
    assert_eq!(
        klp::decode_line(exceeds.as_bytes()).unwrap_err().code,
        klp::ErrorCode::TooLarge
    );
}

#[test]
fn typed_payloads_name_what_is_wrong_with_them() {
    let stamp = Stamp {
        id: "1".into(),
        timestamp: Timestamp::ZERO,
        epoch: None,
    };
    let read = |payload: Value| {
        let (from, to) = ("agent:a".parse().unwrap(), "agent:b".parse().unwrap());
        Envelope::new(MessageType::TaskResult, from, to, payload, stamp.clone())
    };
    let error = read(json!({ "name": "x", "version": "1" }))
        .payload_as::<Handshake>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Missing required field: payload.capabilities"
    );
    assert_eq!(error.field.as_deref(), Some("payload.capabilities"));
    let error = read(json!({ "progress": 2 }))
        .payload_as::<StatusUpdate>()
        .unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (klp::ErrorCode::InvalidPayload, Some("payload.progress"))
    );
    for bad in [
        json!({ "ok": true, "error": { "class": "crash" } }),
        json!({ "ok": false }),
        json!({ "ok": false, "output": 1, "error": { "class": "crash" } }),
        json!({ "ok": false, "error": { "class": "sad" } }),
        json!({ "ok": "yes" }),
        json!({ "ok": false, "error": { "class": "unavailable", "retryAfterMs": 5 } }),
        json!({ "ok": false, "error": { "class": "quota", "retryAfterMs": -5 } }),
        json!({ "ok": false, "error": { "class": "quota", "retryAfterMs": "5" } }),
        json!({ "ok": true, "outptu": 1 }),
        json!({}),
        json!("done"),
    ] {
        assert!(
            read(bad.clone()).payload_as::<TaskResult>().is_err(),
            "{bad}"
        );
    }
    assert_eq!(
        read(json!({ "ok": true })).payload_as(),
        Ok(TaskResult::Done {
            output: Value::Null,
            usage: None,
        })
    );
    let limit = json!({ "ok": false, "error": { "class": "quota", "message": "", "retryable": true, "retryAfterMs": 5 } });
    let result: TaskResult = read(limit.clone()).payload_as().unwrap();
    let TaskResult::Failed { error, .. } = &result else {
        panic!("{result:?}")
    };
    assert_eq!(error.retry_after_ms, Some(5));
    assert_eq!(serde_json::to_value(&result).unwrap(), limit);
}

#[test]
fn a_task_request_in_either_spelling_has_an_input() {
    let read = |payload: Value| serde_json::from_value::<TaskRequest>(payload);
    let short =
        read(json!({ "action": "scrape", "target": "https://example.com", "params": {} })).unwrap();
    assert_eq!(short.action.as_deref(), Some("scrape"));
    assert_eq!(
        short.input,
        json!({ "target": "https://example.com", "params": {} })
    );
    let delegation =
        read(json!({ "requirements": ["fetch"], "input": { "a": 1 }, "deadlineMs": 5 })).unwrap();
    assert_eq!(
        (
            delegation.requirements,
            delegation.input,
            delegation.deadline_ms
        ),
        (vec!["fetch".into()], json!({ "a": 1 }), Some(5))
    );
    assert!(read(json!({ "input": 1, "inptu": 2 })).is_err());
    assert!(read(json!({ "requirements": "fetch" })).is_err());
}

#[test]
fn debug_output_holds_no_token() {
    let envelope = klp::decode_line(LINE.as_bytes()).unwrap();
    assert!(!format!("{envelope:?}").contains("vault://a"));
}

#[test]
fn a_manifest_bounds_restarts_and_topics_and_a_delegation_its_budget() {
    let mut manifest: Value = serde_json::from_str(MANIFEST).unwrap();
    let mut read = |path: &str, value: Value| {
        let (part, field) = path.split_once('.').unwrap();
        let before = manifest.clone();
        manifest[part][field] = value;
        let bytes = serde_json::to_vec(&manifest).unwrap();
        manifest = before;
        parse_manifest(&bytes, ManifestFormat::Json)
    };
    let bounded = read("budget.restarts", json!(3)).unwrap().manifest;
    let account = bounded.budget.unwrap().account().unwrap();
    assert_eq!(account.limits().restarts, Some(3));
    for wrong in [json!(0), json!(-1), json!(1.5), json!("3")] {
        assert!(read("budget.restarts", wrong).is_err());
    }
    assert!(read("budget.maxStarts", json!(3)).is_err());

    let topics = json!({"publish": ["a.*"], "subscribe": []});
    let left = read("security.topics", topics).unwrap().manifest;
    let left = left.security.topics;
    let topic = |text: &str| text.parse().unwrap();
    assert!(left.may_publish(&topic("a.b")) && !left.may_publish(&topic("a.b.c")));
    assert!(!left.may_subscribe(&topic("a.b")));
    let open = read("security.topics", json!({})).unwrap().manifest;
    let open = open.security.topics;
    assert!(open.may_publish(&topic("a")) && open.may_subscribe(&topic(">")));
    for wrong in [
        json!({"publish": ["a..b"]}),
        json!({"publish": ["a.>.b"]}),
        json!({"publish": "a"}),
        json!({"read": ["a"]}),
    ] {
        assert!(read("security.topics", wrong).is_err());
    }

    let request = json!({"requirements": ["x"], "input": 1, "budget": {"calls": 2, "restarts": 1}});
    let request: TaskRequest = serde_json::from_value(request).unwrap();
    let budget = request.budget.unwrap().limits();
    assert_eq!((budget.calls, budget.restarts), (Some(2), Some(1)));
    let written = serde_json::to_value(&request).unwrap();
    assert_eq!(
        serde_json::from_value::<TaskRequest>(written).unwrap(),
        request
    );
    let wrong = json!({"input": 1, "budget": {"cals": 2}});
    assert!(serde_json::from_value::<TaskRequest>(wrong).is_err());
}
