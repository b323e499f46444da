//! Schedules over HTTP: what is read strictly, and what is left to the mesh.

use serde_json::json;

use crate::fake::Fake;
use crate::support::ask;

#[tokio::test]
async fn a_schedule_is_made_listed_shown_paused_resumed_and_removed() {
    let fake = Fake::new();
    let body = json!({"id": "nightly", "cron": "0 3 * * *", "workflow": {"steps": []}}).to_string();
    let made = ask("POST", "/v1/schedules").json(&body).send(&fake).await;
    let shown = made.answered(201);
    assert_eq!(
        (&shown["cron"], &shown["timeZone"]),
        (&json!("0 3 * * *"), &json!("UTC"))
    );
    assert_eq!(made.header("location"), "/v1/schedules/nightly");
    let page = ask("GET", "/v1/schedules?limit=1").send(&fake).await;
    let page = page.answered(200);
    assert_eq!(
        (&page["items"][0]["id"], &page["nextCursor"]),
        (&json!("a"), &json!("1"))
    );
    for (verb, paused) in [("pause", true), ("resume", false)] {
        let path = format!("/v1/schedules/nightly/{verb}");
        let after = ask("POST", &path).send(&fake).await;
        assert_eq!(after.answered(200)["paused"], json!(paused));
    }
    let removed = ask("DELETE", "/v1/schedules/nightly").send(&fake).await;
    assert_eq!(
        removed.answered(200),
        json!({"id": "nightly", "removed": true})
    );
}

#[tokio::test]
async fn what_surrounds_the_document_is_read_strictly() {
    let fake = Fake::new();
    let post = |body: serde_json::Value| ask("POST", "/v1/schedules").json(body.to_string());
    post(json!({"id": "a", "workflow": "w"}))
        .send(&fake)
        .await
        .refused(422, "missing_field", Some("cron"));
    post(json!({"id": "a", "cron": "@daily", "workflow": "w", "zone": "UTC"}))
        .send(&fake)
        .await
        .refused(422, "unknown_field", Some("zone"));
}
