//! Bodies: what they must be before a handler sees them.

use axum::body::Body;
use serde_json::json;

use crate::fake::Fake;
use crate::support::{ask, config};

#[tokio::test]
async fn json_that_cannot_be_read_is_refused_with_its_place() {
    let fake = Fake::new();
    for (body, field) in [
        ("", None),
        ("{", None),
        ("{\"type\":\"a\"} x", None),
        (r#"{"type":"a","type":"b"}"#, Some("type")),
        (r#"{"input":{"n":9007199254740993}}"#, Some("input.n")),
    ] {
        let document = ask("POST", "/v1/tasks")
            .json(body)
            .send(&fake)
            .await
            .refused(400, "malformed_json", field);
        let detail = document["detail"].as_str().unwrap();
        assert!(
            detail.contains("byte ") && detail.contains("(line 1, column "),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn fields_that_make_no_sense_are_named() {
    let fake = Fake::new();
    for (path, body, code, field) in [
        ("/v1/tasks", r#"{"tipe":"a"}"#, "unknown_field", "tipe"),
        (
            "/v1/tasks",
            r#"{"requirements":["a",1]}"#,
            "invalid_value",
            "requirements[1]",
        ),
        (
            "/v1/tasks",
            r#"[{},{},{},{"priority":"hihg"}]"#,
            "invalid_value",
            "[3].priority",
        ),
        ("/v1/agents/echo/scale", "{}", "missing_field", "replicas"),
        (
            "/v1/agents/echo/scale",
            r#"{"replicas":-1}"#,
            "invalid_value",
            "replicas",
        ),
        (
            "/v1/agents/echo/quarantine",
            r#"{"type":"whim"}"#,
            "invalid_value",
            "type",
        ),
        (
            "/v1/agents/echo/recover",
            r#"{"forced":true}"#,
            "unknown_field",
            "forced",
        ),
        (
            "/v1/agents/echo/stop",
            r#"{"now":true}"#,
            "unknown_field",
            "now",
        ),
        (
            "/v1/agents/echo/upgrade",
            r#"{"agentId":"other"}"#,
            "agent_id_mismatch",
            "agentId",
        ),
        (
            "/v1/agents",
            r#"{"path":"/x"}"#,
            "missing_field",
            "manifest",
        ),
        ("/v1/tokens", r#"{"role":"king"}"#, "invalid_value", "role"),
        (
            "/v1/tokens",
            r#"{"role":"viewer","ttl":"soon"}"#,
            "invalid_value",
            "ttl",
        ),
        (
            "/v1/tasks/T0/outcome",
            r#"{"attempt":1}"#,
            "missing_field",
            "epoch",
        ),
    ] {
        ask("POST", path)
            .json(body)
            .send(&fake)
            .await
            .refused(422, code, Some(field));
    }
    each_was_only_refused(&fake);
}

#[tokio::test]
async fn an_array_is_no_body_whose_names_are_left_out() {
    let fake = Fake::new();
    for (path, body, field) in [
        ("/v1/tasks", r#"[["echo"]]"#, Some("[0]")),
        ("/v1/tasks", r#"{"type":"echo","retry":[3]}"#, Some("retry")),
        ("/v1/agents/echo/quarantine", "[]", None),
        ("/v1/agents/echo/scale", "[2]", None),
        ("/v1/agents/echo/recover", "[true]", None),
        ("/v1/agents/echo/upgrade", "[]", None),
        ("/v1/agents/echo/stop", "[]", None),
        ("/v1/agents", r#"[{"id":"x"}]"#, None),
        ("/v1/tokens", r#"["viewer"]"#, None),
        ("/v1/tasks/T0/cancel", r#"["why"]"#, None),
        ("/v1/tasks/T0/outcome", "[1,1]", None),
    ] {
        ask("POST", path)
            .json(body)
            .send(&fake)
            .await
            .refused(422, "invalid_value", field);
    }
    each_was_only_refused(&fake);
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let fake = Fake::new();
    let text = |path| {
        ask("POST", path)
            .header("content-type", "text/plain")
            .body("{}")
    };
    text("/v1/tasks").send(&fake).await.refused(
        415,
        "unsupported_media_type",
        Some("Content-Type"),
    );
    text("/v1/agents").send(&fake).await.refused(
        415,
        "unsupported_media_type",
        Some("Content-Type"),
    );
    text("/v1/agents/echo/stop").send(&fake).await.refused(
        415,
        "unsupported_media_type",
        Some("Content-Type"),
    );
    // Where a bundle could be meant, nothing is guessed.
    ask("POST", "/v1/agents")
        .body("{}")
        .send(&fake)
        .await
        .refused(415, "unsupported_media_type", Some("Content-Type"));
    ask("POST", "/v1/tasks")
        .body("{}")
        .send(&fake)
        .await
        .answered(202);
    let problem = ask("POST", "/v1/tasks")
        .header("content-type", "Application/JSON; charset=utf-8")
        .body("{}");
    problem.send(&fake).await.answered(202);
    // Some clients name a type for nothing.
    let nothing =
        ask("POST", "/v1/agents/echo/stop").header("content-type", "application/octet-stream");
    nothing.send(&fake).await.answered(200);
}

#[tokio::test]
async fn large_bodies_are_refused_whether_they_say_so_or_not() {
    let fake = Fake::new();
    let large = json!({"input": "x".repeat(config().body_bytes_max)}).to_string();
    ask("POST", "/v1/tasks")
        .json(&large)
        .send(&fake)
        .await
        .refused(413, "body_too_large", None);
    let pieces: Vec<_> = large
        .as_bytes()
        .chunks(1000)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
        .collect();
    let chunked = Body::from_stream(futures::stream::iter(pieces));
    ask("POST", "/v1/tasks")
        .body(chunked)
        .send(&fake)
        .await
        .refused(413, "body_too_large", None);
    let declared = ask("POST", "/v1/tasks")
        .header("content-length", "999999999")
        .body("");
    declared
        .send(&fake)
        .await
        .refused(413, "body_too_large", None);
    let small = json!({"replicas": 1, "x": "x".repeat(100_000)}).to_string();
    ask("POST", "/v1/agents/echo/scale")
        .json(small)
        .send(&fake)
        .await
        .refused(413, "body_too_large", None);
}

#[tokio::test]
async fn bodies_that_do_not_come_time_out() {
    let fake = Fake::new();
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    ask("POST", "/v1/tasks")
        .body(never)
        .send(&fake)
        .await
        .refused(408, "request_timeout", None);
}

#[tokio::test]
async fn verbs_take_nothing_or_an_empty_object() {
    let fake = Fake::new();
    for verb in [
        "start",
        "stop",
        "restart",
        "pause",
        "resume",
        "terminate",
        "quarantine",
        "recover",
        "upgrade",
        "rollback",
    ] {
        let path = format!("/v1/agents/echo/{verb}");
        ask("POST", &path).send(&fake).await.answered(200);
        ask("POST", &path)
            .json("{}")
            .send(&fake)
            .await
            .answered(200);
        let other = format!("/v1/agents/other/{verb}");
        let document = ask("POST", &other)
            .send(&fake)
            .await
            .refused(404, "agent_not_found", None);
        assert_eq!(document["detail"], "Agent other not found");
    }
}

/// Nothing was done: each request was allowed, and its refusal is remembered by its code.
fn each_was_only_refused(fake: &Fake) {
    let calls = fake.calls();
    assert!(!calls.is_empty());
    for pair in calls.chunks(2) {
        let told = matches!(pair, [allowed, refused]
            if allowed.starts_with("authorize ") && refused.starts_with("refused "));
        assert!(told, "{calls:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_without_it() {
    let fake = Fake::new();
    for (body, field) in [
        (json!({"value": 88_231_177}), Some("value")),
        (json!({"value": ["sekrit-88231177"]}), Some("value")),
        (json!("sekrit-88231177"), None),
        (
            json!({"value": "sekrit-88231177", "agents": 88_231_177}),
            Some("agents"),
        ),
        (
            json!({"value": {"a": "88231177"}, "agents": "88231177"}),
            None,
        ),
    ] {
        let answer = ask("PUT", "/v1/secrets/x")
            .json(body.to_string())
            .send(&fake)
            .await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text);
        assert!(!answer.text.contains("88231177"), "{}", answer.text);
        assert!(answer.text.contains("needs the form"), "{}", answer.text);
        if field.is_some() {
            answer.refused(422, "invalid_value", field);
        }
    }
}
