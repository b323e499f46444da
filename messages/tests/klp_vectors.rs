//! Holds the decoder, the signatures and the schema against `tests/vectors/klp`, which other implementations use, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::identity::{DidKey, SigningKey};
use mesh_messages::klp::{self, Defaults, Envelope, KlpDecodeError, VerifyError, WireForm};
use mesh_messages::schema::Checker;
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors/klp")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn cases(vectors: &Value) -> impl Iterator<Item = &Value> {
    let cases = vectors.as_array().unwrap();
    assert!(!cases.is_empty());
    cases.iter()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

#[track_caller]
fn check_error(case: &Value, result: Result<Envelope, KlpDecodeError>) {
    let error = result.expect_err(text(case, "name"));
    assert_eq!(error.code.name(), text(case, "code"), "{case}: {error}");
    assert_eq!(
        error.field.as_deref(),
        case["field"].as_str(),
        "{case}: {error}"
    );
    if let Some(detail) = case["detail"].as_str() {
        assert_eq!(error.to_string(), detail);
    }
}

/// Everything in it, as JSON, whatever the sender left out.
fn whole(envelope: &Envelope) -> Value {
    let mut unsigned = envelope.clone();
    unsigned.auth = None;
    let mut value = unsigned.to_value();
    if let Some(auth) = &envelope.auth {
        let parts = [
            ("signature", &auth.signature),
            ("key", &auth.key),
            ("token", &auth.token),
        ];
        value["auth"] = parts
            .into_iter()
            .filter_map(|(key, text)| Some((key, text.clone()?)))
            .collect();
    }
    value
}

#[test]
fn valid_lines_are_read_as_the_vectors_say() {
    let schema = Checker::new(klp::klp_schema().clone()).unwrap();
    for case in cases(&vectors("valid.json")) {
        let line = text(case, "line");
        let envelope =
            klp::decode_line(line.as_bytes()).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(whole(&envelope), case["envelope"], "{case}");
        let sent: Value = serde_json::from_str(line).unwrap();
        assert_eq!(envelope.as_sent(), sent, "not written back as it was sent");
        match envelope.form() {
            WireForm::Envelope => assert_eq!(schema.check(&sent), [], "{case}"),
            WireForm::StandardMessage => {
                assert_eq!(text(case, "form"), "standard_message");
                let standard = envelope.to_standard_message().unwrap();
                assert_eq!(
                    klp::decode(standard, &Defaults::default()).unwrap().payload,
                    envelope.payload
                );
            }
        }
    }
}

#[test]
fn invalid_lines_are_refused_with_code_and_field() {
    for case in cases(&vectors("invalid.json")) {
        check_error(case, klp::decode_line(text(case, "line").as_bytes()));
    }
}

#[test]
fn lines_of_an_agent_are_filled_in() {
    let vectors = vectors("stdio.json");
    let known = &vectors["defaults"];
    let defaults = Defaults {
        id: Some(text(known, "id").to_owned()),
        from: Some(text(known, "from").parse().unwrap()),
        to: Some(text(known, "to").parse().unwrap()),
        timestamp: Some(text(known, "timestamp").parse().unwrap()),
        epoch: known["epoch"].as_u64().map(mesh_messages::Epoch),
    };
    for case in cases(&vectors["valid"]) {
        let envelope = klp::decode_with(text(case, "line").as_bytes(), &defaults).unwrap();
        assert_eq!(whole(&envelope), case["envelope"], "{case}");
        assert_eq!(
            envelope.as_sent(),
            serde_json::from_str::<Value>(text(case, "line")).unwrap()
        );
    }
    for case in cases(&vectors["invalid"]) {
        check_error(
            case,
            klp::decode_with(text(case, "line").as_bytes(), &defaults),
        );
    }
}

#[test]
fn signatures_hold_exactly_where_the_vectors_say() {
    let vectors = vectors("signatures.json");
    let secret: [u8; 32] = hex::decode(text(&vectors, "secret"))
        .unwrap()
        .try_into()
        .unwrap();
    let signer = SigningKey::from_secret(&secret);
    assert_eq!(signer.public().to_string(), text(&vectors, "key"));
    for case in cases(&vectors["cases"]) {
        let envelope = klp::decode_line(text(case, "line").as_bytes()).unwrap();
        let key: DidKey = text(case, "key").parse().unwrap();
        let input = String::from_utf8(envelope.signing_input()).unwrap();
        assert_eq!(input, text(case, "signing_input"), "{case}");
        let expected = match text(case, "verdict") {
            "ok" => Ok(()),
            "bad_signature" => Err(VerifyError::Bad),
            "wrong_key" => Err(VerifyError::Key),
            "unsigned" => Err(VerifyError::Unsigned),
            "malformed_signature" => Err(VerifyError::Form),
            other => panic!("unknown verdict {other}"),
        };
        assert_eq!(envelope.verify(&key), expected, "{case}");
        if expected.is_ok() {
            // ed25519 is deterministic: the same content has the same signature here.
            assert_eq!(
                Some(signer.sign(input.as_bytes()).to_string()),
                envelope.auth.unwrap().signature
            );
        }
    }
}

#[test]
fn addresses_are_read_and_matched_as_the_vectors_say() {
    let vectors = vectors("addresses.json");
    for address in cases(&vectors["valid"]) {
        let text = address.as_str().unwrap();
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for address in cases(&vectors["invalid"]) {
        assert!(
            address.as_str().unwrap().parse::<Address>().is_err(),
            "{address}"
        );
    }
    for (list, expected) in [("matches", true), ("differs", false)] {
        for pair in cases(&vectors[list]) {
            let topic = |index: usize| {
                pair[index]
                    .as_str()
                    .unwrap()
                    .parse::<TopicPattern>()
                    .unwrap()
            };
            assert_eq!(topic(0).matches(&topic(1)), expected, "{pair}");
        }
    }
}

#[test]
fn the_worked_example_of_the_specification_is_the_first_vector() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/KLP.md");
    let specification = std::fs::read_to_string(path).unwrap();
    let vectors = vectors("signatures.json");
    let case = cases(&vectors["cases"]).next().unwrap();
    let envelope = klp::decode_line(text(case, "line").as_bytes()).unwrap();
    let auth = envelope.auth.unwrap();
    for part in [
        text(case, "signing_input"),
        text(case, "key"),
        &auth.signature.unwrap(),
    ] {
        assert!(
            specification.contains(part),
            "not in the specification: {part}"
        );
    }
    for code in klp::ErrorCode::ALL {
        assert!(
            specification.contains(&format!("`{code}`")),
            "{code} is not in the specification"
        );
    }
    for kind in klp::MessageType::ALL {
        assert!(
            specification.contains(kind.name()),
            "{kind} is not in the specification"
        );
    }
}

#[test]
fn signatures_of_foreign_keys_hold_exactly_where_the_vectors_say() {
    let vectors = vectors("signatures.json");
    for case in cases(&vectors["foreign"]) {
        let envelope = klp::decode_line(text(case, "line").as_bytes()).unwrap();
        let key: DidKey = text(case, "key").parse().unwrap();
        let expected = match text(case, "verdict") {
            "ok" => Ok(()),
            "bad_signature" => Err(VerifyError::Bad),
            "wrong_key" => Err(VerifyError::Key),
            "malformed_signature" => Err(VerifyError::Form),
            other => panic!("unknown verdict {other}"),
        };
        assert_eq!(envelope.verify(&key), expected, "{case}");
    }
}
