//! Services over HTTP: what is read strictly, and what is left to the mesh.

use serde_json::json;

use crate::fake::Fake;
use crate::support::ask;

fn definition() -> serde_json::Value {
    json!({"id": "geo", "name": "Geo", "type": "utility", "endpoints": [{"name": "run", "url": "https://geo.example/"}]})
}

#[tokio::test]
async fn a_service_is_added_listed_shown_replaced_checked_called_and_removed() {
    let fake = Fake::new();
    let body = definition().to_string();
    let made = ask("POST", "/v1/services").json(&body).send(&fake).await;
    assert_eq!(made.answered(201)["id"], "geo");
    assert_eq!(made.header("location"), "/v1/services/geo");
    for (query, ids) in [
        ("", 2),
        ("?type=llm", 1),
        ("?capability=b", 1),
        ("?status=error", 0),
    ] {
        let page = ask("GET", &format!("/v1/services{query}"))
            .send(&fake)
            .await;
        let page = page.answered(200);
        assert_eq!(page["items"].as_array().unwrap().len(), ids, "{query}");
    }
    ask("GET", "/v1/services?type=magic")
        .send(&fake)
        .await
        .refused(400, "invalid_query", Some("type"));
    ask("GET", "/v1/services/geo")
        .send(&fake)
        .await
        .answered(200);
    ask("PUT", "/v1/services/geo")
        .json(&body)
        .send(&fake)
        .await
        .answered(200);
    ask("POST", "/v1/services/geo/check")
        .send(&fake)
        .await
        .answered(200);
    let order = json!({"endpoint": "run", "params": {"a": 1}}).to_string();
    let reply = ask("POST", "/v1/services/geo/call")
        .json(order)
        .send(&fake)
        .await;
    assert_eq!(reply.answered(200)["output"], json!({"a": 1}));
    let removed = ask("DELETE", "/v1/services/geo").send(&fake).await;
    assert_eq!(removed.answered(200), json!({"id": "geo", "removed": true}));
}

#[tokio::test]
async fn a_definition_is_read_strictly() {
    let fake = Fake::new();
    let cases = [
        ("value", json!("x"), 422, "unknown_field", "value"),
        ("type", json!("magic"), 422, "invalid_value", "type"),
        (
            "auth",
            json!({"type": "bearer"}),
            422,
            "missing_field",
            "auth.secret",
        ),
        ("endpoints", json!("x"), 422, "invalid_value", "endpoints"),
    ];
    for (key, value, status, _code, field) in cases {
        let mut body = definition();
        body[key] = value;
        let answer = ask("POST", "/v1/services")
            .json(body.to_string())
            .send(&fake)
            .await;
        let problem = answer.answered(status);
        assert!(
            problem["field"]
                .as_str()
                .unwrap_or_default()
                .starts_with(field.split('.').next().unwrap()),
            "{problem}"
        );
    }
}
