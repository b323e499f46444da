//! Submitting, waiting, replaying.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::support::ask;

fn submit(body: &Value) -> crate::support::Ask {
    ask("POST", "/v1/tasks").json(body.to_string())
}

#[tokio::test]
async fn a_task_is_answered_with_a_receipt_and_an_array_with_an_array() {
    let fake = Fake::new();
    let answer = submit(&json!({"type": "a"})).send(&fake).await;
    let receipt = json!({"id": "T0", "state": "queued", "assignment": null, "waitingFor": null});
    assert_eq!(answer.answered(202), receipt);
    assert_eq!(answer.header("location"), "/v1/tasks/T0");
    let answer = submit(&json!([{"type": "a"}, {"type": "b"}]))
        .send(&fake)
        .await
        .answered(202);
    assert_eq!(answer.as_array().unwrap().len(), 2);
    assert!(
        submit(&json!([{"type": "a"}]))
            .send(&fake)
            .await
            .answered(202)
            .is_array()
    );
}

#[tokio::test]
async fn arrays_have_bounds_and_other_shapes_are_refused() {
    let fake = Fake::new();
    submit(&json!([]))
        .send(&fake)
        .await
        .refused(422, "empty_submission", None);
    submit(&Value::from(vec![json!({}); 1001]))
        .send(&fake)
        .await
        .refused(422, "too_many_in_array", None);
    submit(&Value::from(vec![json!({}); 1000]))
        .send(&fake)
        .await
        .answered(202);
    submit(&json!("task"))
        .send(&fake)
        .await
        .refused(422, "invalid_value", None);
    assert_eq!(
        fake.calls()
            .iter()
            .filter(|call| call.starts_with("submit"))
            .count(),
        1
    );
}

#[tokio::test]
async fn the_same_key_and_body_are_answered_with_the_first_task() {
    let fake = Fake::new();
    let keyed = || submit(&json!({"type": "a"})).header("idempotency-key", "k1");
    keyed().send(&fake).await.answered(202);
    let replayed = keyed().send(&fake).await.answered(200);
    assert_eq!(
        (&replayed["id"], &replayed["type"]),
        (&json!("T0"), &json!("a"))
    );
    let field =
        submit(&json!({"type": "a", "idempotencyKey": "k1"})).header("idempotency-key", "k1");
    assert_eq!(field.send(&fake).await.answered(200)["id"], "T0");
    let other = submit(&json!({"type": "b"})).header("idempotency-key", "k1");
    other
        .send(&fake)
        .await
        .refused(409, "idempotency_conflict", None);
    let waiting = ask("POST", "/v1/tasks?wait=1ms")
        .json(r#"{"type":"a"}"#)
        .header("idempotency-key", "k1");
    assert_eq!(waiting.send(&fake).await.answered(200)["state"], "queued");
}

#[tokio::test]
async fn keys_in_header_and_body_must_agree() {
    let fake = Fake::new();
    let both = submit(&json!({"idempotencyKey": "a"})).header("idempotency-key", "b");
    both.send(&fake)
        .await
        .refused(422, "idempotency_key_mismatch", Some("idempotencyKey"));
    let array = submit(&json!([{}])).header("idempotency-key", "b");
    array
        .send(&fake)
        .await
        .refused(422, "idempotency_key_for_array", Some("Idempotency-Key"));
    let binary = submit(&json!({})).header("idempotency-key", "ü");
    binary
        .send(&fake)
        .await
        .refused(400, "invalid_header", Some("Idempotency-Key"));
}

#[tokio::test]
async fn waiting_ends_with_the_task_or_with_the_time() {
    let fake = Fake::new();
    let quick = json!({"type": "quick"}).to_string();
    let slow = json!({"type": "slow"}).to_string();
    let ended = ask("POST", "/v1/tasks?wait=30s")
        .json(&quick)
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(
        (&ended["state"], &ended["output"]),
        (&json!("succeeded"), &json!({"done": true}))
    );
    let receipt = ask("POST", "/v1/tasks?wait=20ms")
        .json(&slow)
        .send(&fake)
        .await
        .answered(202);
    assert_eq!(receipt["state"], "queued");
    assert_eq!(receipt.get("output"), None);
    let both = ask("POST", "/v1/tasks?wait=20ms")
        .json(format!("[{quick},{slow}]"))
        .send(&fake)
        .await
        .answered(202);
    assert_eq!(
        (&both[0]["state"], &both[1]["state"]),
        (&json!("succeeded"), &json!("queued"))
    );
    let both = ask("POST", "/v1/tasks?wait=30s")
        .json(format!("[{quick},{quick}]"))
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(both[1]["output"], json!({"done": true}));
    let show = ask("GET", "/v1/tasks/T0?wait=30s")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(show["state"], "succeeded");
}

#[tokio::test]
async fn a_wait_longer_than_the_answer_limit_is_still_granted() {
    let fake = Fake::new();
    let began = std::time::Instant::now();
    ask("POST", "/v1/tasks?wait=400ms")
        .json(r#"{"type":"slow"}"#)
        .send(&fake)
        .await
        .answered(202);
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn waits_have_bounds() {
    let fake = Fake::new();
    for wait in ["11m", "601", "5x", "1.2.3", "-1s", "soon", ""] {
        let path = format!("/v1/tasks?wait={wait}");
        ask("POST", &path)
            .json("{}")
            .send(&fake)
            .await
            .refused(400, "invalid_query", Some("wait"));
    }
    assert!(!fake.calls().iter().any(|call| call.starts_with("submit")));
}

#[tokio::test]
async fn a_wait_is_in_seconds_unless_it_says_otherwise() {
    let fake = Fake::new();
    for wait in ["0", "0.02", "20ms"] {
        ask("POST", &format!("/v1/tasks?wait={wait}"))
            .json("{}")
            .send(&fake)
            .await
            .answered(202);
    }
    for wait in ["10", "30s", "600"] {
        ask("POST", &format!("/v1/tasks?wait={wait}"))
            .json(r#"{"type":"quick"}"#)
            .send(&fake)
            .await
            .answered(200);
    }
}

#[tokio::test]
async fn verbs_of_tasks() {
    let fake = Fake::new();
    submit(&json!({"type": "a"}))
        .send(&fake)
        .await
        .answered(202);
    ask("POST", "/v1/tasks/T0/cancel")
        .json(r#"{"reason":"enough"}"#)
        .send(&fake)
        .await
        .answered(200);
    ask("POST", "/v1/tasks/T0/cancel")
        .send(&fake)
        .await
        .answered(200);
    ask("POST", "/v1/tasks/T0/retry")
        .send(&fake)
        .await
        .answered(200);
    ask("POST", "/v1/tasks/T0/outcome")
        .json(r#"{"attempt":1,"epoch":1,"output":{}}"#)
        .send(&fake)
        .await
        .answered(200);
    ask("POST", "/v1/tasks/T0/approve")
        .send(&fake)
        .await
        .refused(409, "not_waiting_for_approval", None);
    ask("GET", "/v1/tasks/T0/explain")
        .send(&fake)
        .await
        .answered(200);
    ask("GET", "/v1/tasks/T0/events")
        .send(&fake)
        .await
        .answered(200);
    for path in ["cancel", "retry", "approve"] {
        ask("POST", &format!("/v1/tasks/T9/{path}"))
            .send(&fake)
            .await
            .refused(404, "task_not_found", None);
    }
    let calls = fake.calls();
    assert!(
        calls.contains(&"cancel enough".into())
            && calls.contains(&"cancel cancelled by user:admin".into())
    );
}
