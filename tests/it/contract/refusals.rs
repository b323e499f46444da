//! Bad input gets an error that names the place, and changes nothing.

use mesh_tests::{Bundle, Daemon};
use serde_json::json;

/// Method, path, media type, body, status, code, and the field that is named.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [u8],
    u16,
    &'static str,
    &'static str,
);

const JSON: &str = "application/json";
const TAR: &str = "application/x-tar";

const CASES: [Case; 34] = [
    ("GET", "/nowhere", "", b"", 404, "unknown_path", ""),
    ("GET", "/v1/agents/%ff", "", b"", 400, "malformed_path", ""),
    (
        "PATCH",
        "/v1/tasks",
        JSON,
        b"{}",
        405,
        "method_not_allowed",
        "",
    ),
    ("DELETE", "/status", "", b"", 405, "method_not_allowed", ""),
    (
        "GET",
        "/v1/tasks/nothing",
        "",
        b"",
        404,
        "task_not_found",
        "",
    ),
    (
        "GET",
        "/v1/agents/nobody",
        "",
        b"",
        404,
        "agent_not_found",
        "",
    ),
    (
        "DELETE",
        "/v1/tokens/nothing",
        "",
        b"",
        404,
        "token_not_found",
        "",
    ),
    ("POST", "/v1/tasks", JSON, b"{", 400, "malformed_json", ""),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"type\":\"b\"}",
        400,
        "malformed_json",
        "",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"input\":9007199254740993}",
        400,
        "malformed_json",
        "",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\"} {}",
        400,
        "malformed_json",
        "",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"\xff\"}",
        400,
        "malformed_json",
        "",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"[]",
        422,
        "empty_submission",
        "",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"prority\":\"high\"}",
        422,
        "unknown_field",
        "prority",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"priority\":\"urgent\"}",
        422,
        "invalid_value",
        "priority",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":7}",
        422,
        "invalid_value",
        "type",
    ),
    ("POST", "/v1/tasks", JSON, b"{}", 422, "invalid_task", ""),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"dependsOn\":[\"no such task\"]}",
        422,
        "",
        "dependsOn[0]",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"retry\":{\"maxAttempts\":0}}",
        422,
        "invalid_task",
        "retry.maxAttempts",
    ),
    (
        "POST",
        "/v1/tasks",
        JSON,
        b"{\"type\":\"a\",\"contract\":{\"outputSchema\":{\"type\":\"nonsense\"}}}",
        422,
        "invalid_task",
        "contract.outputSchema",
    ),
    (
        "POST",
        "/v1/tasks",
        "text/plain",
        b"{\"type\":\"a\"}",
        415,
        "unsupported_media_type",
        "",
    ),
    (
        "POST",
        "/v1/tasks?wait=soon",
        JSON,
        b"{\"type\":\"a\"}",
        400,
        "invalid_query",
        "wait",
    ),
    (
        "GET",
        "/v1/tasks?state=running&sate=queued",
        "",
        b"",
        400,
        "unknown_parameter",
        "sate",
    ),
    (
        "GET",
        "/v1/tasks?state=asleep",
        "",
        b"",
        400,
        "invalid_query",
        "state",
    ),
    (
        "GET",
        "/v1/tasks?limit=0",
        "",
        b"",
        400,
        "invalid_query",
        "limit",
    ),
    (
        "GET",
        "/v1/tasks?limit=5&limit=6",
        "",
        b"",
        400,
        "invalid_query",
        "limit",
    ),
    (
        "GET",
        "/v1/tasks?cursor=nonsense",
        "",
        b"",
        400,
        "invalid_cursor",
        "cursor",
    ),
    (
        "POST",
        "/v1/agents",
        TAR,
        b"this is no archive",
        400,
        "malformed_bundle",
        "",
    ),
    (
        "POST",
        "/v1/agents",
        JSON,
        b"{\"manifest\":{\"id\":\"x\"}}",
        422,
        "invalid_manifest",
        "",
    ),
    (
        "POST",
        "/v1/agents/echo/scale",
        JSON,
        b"{}",
        422,
        "missing_field",
        "replicas",
    ),
    (
        "POST",
        "/v1/agents/echo/scale",
        JSON,
        b"{\"replicas\":-1}",
        422,
        "invalid_value",
        "replicas",
    ),
    (
        "POST",
        "/v1/agents/echo/quarantine",
        JSON,
        b"{\"severity\":\"awful\"}",
        422,
        "invalid_value",
        "severity",
    ),
    (
        "POST",
        "/v1/tokens",
        JSON,
        b"{\"role\":\"king\"}",
        422,
        "invalid_value",
        "role",
    ),
    (
        "POST",
        "/v1/messages",
        JSON,
        b"{\"type\":\"MESSAGE\",\"payload\":{}}",
        422,
        "",
        "",
    ),
];

/// Whether `docs/errors.md` has a row for a code.
fn is_documented(code: &serde_json::Value) -> bool {
    static DOCUMENT: &str = include_str!("../../../docs/errors.md");
    let row = code.as_str().map(|code| format!("| `{code}` |"));
    row.is_some_and(|row| DOCUMENT.lines().any(|line| line.starts_with(&row)))
}

#[test]
fn bad_requests_get_a_problem_that_names_the_place_and_change_nothing() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let state = || {
        let listed = ["/v1/tasks", "/v1/tokens", "/v1/agents", "/v1/nodes"];
        let mut all: Vec<_> = listed
            .iter()
            .map(|path| daemon.client().get(path).ok(200))
            .collect();
        all.push(daemon.client().get("/status").ok(200)["journal"]["records"].clone());
        all
    };
    let before = state();
    let mut wrong = Vec::new();
    for (method, path, media, body, status, code, field) in CASES {
        let headers: &[(&str, &str)] = if media.is_empty() {
            &[]
        } else {
            &[("content-type", media)]
        };
        let body = (!media.is_empty()).then_some(body);
        let answer = daemon.client().send(method, path, headers, body);
        let text = answer.text();
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let right = answer.status == status
            && answer.header("content-type") == Some("application/problem+json")
            && (code.is_empty() || problem["code"] == code)
            && is_documented(&problem["code"])
            && problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
            && (field.is_empty() || problem["field"] == field);
        if !right {
            let body = String::from_utf8_lossy(body.unwrap_or_default()).into_owned();
            wrong.push(format!(
                "{method} {path} {body}\n  wanted {status} {code} {field:?}\n  got {} {text}",
                answer.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Records of what was looked at and refused may be there; nothing else may.
    let after = state();
    assert_eq!(before[..4], after[..4]);
}

#[test]
fn a_missing_field_of_an_envelope_is_named_in_the_words_of_the_contract() {
    let daemon = Daemon::start();
    let envelope = json!({"type": "MESSAGE", "from": "user:ada", "payload": {}, "timestamp": "2026-01-01T00:00:00Z"});
    let answer = daemon.client().post("/v1/messages", &envelope);
    assert!((400..500).contains(&answer.status), "{}", answer.text());
    assert!(
        answer.text().contains("Missing required field: to"),
        "{}",
        answer.text()
    );
}

#[test]
fn an_answer_names_the_request_and_is_kept_by_no_cache() {
    let daemon = Daemon::start();
    let answer = daemon
        .client()
        .send("GET", "/nowhere", &[("x-request-id", "my-own-7")], None);
    assert_eq!(answer.header("x-request-id"), Some("my-own-7"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn metrics_have_the_form_of_prometheus() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.output("echo", &json!(1));
    let metrics = daemon.client().get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .contains("openmetrics")
            || metrics
                .header("content-type")
                .unwrap()
                .starts_with("text/plain")
    );
    let text = metrics.text();
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert!(samples.len() > 10, "{text}");
    for sample in samples {
        let (name, value) = sample.rsplit_once(' ').unwrap();
        assert!(
            !name.is_empty() && (value.parse::<f64>().is_ok() || value == "+Inf"),
            "{sample}"
        );
    }
}
