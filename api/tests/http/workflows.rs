//! Workflows over HTTP: what is read strictly, and what is left to the mesh.

use serde_json::json;

use crate::fake::Fake;
use crate::support::ask;

#[tokio::test]
async fn a_submission_is_answered_with_its_run_and_a_check_with_a_verdict() {
    let fake = Fake::new();
    let body = json!({"workflow": {"name": "w", "steps": []}, "input": {"n": 1}}).to_string();
    let answer = ask("POST", "/v1/workflows").json(&body).send(&fake).await;
    assert_eq!(answer.answered(202)["input"], json!({"n": 1}));
    assert_eq!(answer.header("location"), "/v1/workflows/W1");
    let check = ask("POST", "/v1/workflows?check=true")
        .json(&body)
        .send(&fake)
        .await;
    assert_eq!(check.answered(200)["valid"], json!(true));
    for (method, path) in [
        ("GET", "/v1/workflows"),
        ("GET", "/v1/workflows/W1?wait=1s"),
        ("POST", "/v1/workflows/W1/cancel"),
    ] {
        ask(method, path).send(&fake).await.answered(200);
    }
}

#[tokio::test]
async fn what_surrounds_the_document_is_read_strictly() {
    let fake = Fake::new();
    let post = |body: serde_json::Value| ask("POST", "/v1/workflows").json(body.to_string());
    post(json!({"input": 1}))
        .send(&fake)
        .await
        .refused(422, "missing_field", Some("workflow"));
    post(json!({"workflow": "w", "inputs": 1}))
        .send(&fake)
        .await
        .refused(422, "unknown_field", Some("inputs"));
    post(json!({"workflow": "w", "idempotencyKey": ""}))
        .send(&fake)
        .await
        .refused(422, "invalid_value", Some("idempotencyKey"));
    post(json!({"workflow": "w", "idempotencyKey": "a"}))
        .header("idempotency-key", "b")
        .send(&fake)
        .await
        .refused(422, "idempotency_key_mismatch", Some("idempotencyKey"));
}
