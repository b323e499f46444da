//! Stored plans over HTTP: what is read strictly, and what is left to the mesh.

use serde_json::json;

use crate::fake::Fake;
use crate::support::ask;

#[tokio::test]
async fn a_plan_is_stored_listed_shown_edited_started_and_removed() {
    let fake = Fake::new();
    let body = json!({"goal": "tidy", "workflow": {"steps": []}, "input": 1}).to_string();
    let made = ask("POST", "/v1/plans").json(&body).send(&fake).await;
    let shown = made.answered(201);
    assert_eq!(
        (&shown["goal"], &shown["state"]),
        (&json!("tidy"), &json!("draft"))
    );
    assert_eq!(made.header("location"), "/v1/plans/p");
    let page = ask("GET", "/v1/plans").send(&fake).await.answered(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    let edit = json!({"task": {"requirements": ["echo"]}, "version": 1}).to_string();
    let edited = ask("PUT", "/v1/plans/p").json(&edit).send(&fake).await;
    assert_eq!(edited.answered(200)["version"], 2);
    let start = json!({"version": 2}).to_string();
    let started = ask("POST", "/v1/plans/p/start")
        .json(&start)
        .send(&fake)
        .await;
    assert_eq!(started.answered(202)["version"], 2);
    let removed = ask("DELETE", "/v1/plans/p").send(&fake).await;
    assert_eq!(removed.answered(200), json!({"id": "p", "removed": true}));
}

#[tokio::test]
async fn a_plan_is_a_workflow_or_a_task_and_nothing_else() {
    let fake = Fake::new();
    let post = |body: serde_json::Value| ask("POST", "/v1/plans").json(body.to_string());
    for body in [json!({}), json!({"workflow": "w", "task": {"type": "t"}})] {
        post(body)
            .send(&fake)
            .await
            .refused(422, "invalid_plan", Some("workflow"));
    }
    post(json!({"workflow": "w", "steps": []}))
        .send(&fake)
        .await
        .refused(422, "unknown_field", Some("steps"));
}
