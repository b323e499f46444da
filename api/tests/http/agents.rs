//! Agents and their verbs.

use serde_json::json;

use crate::fake::Fake;
use crate::support::ask;

#[tokio::test]
async fn bundles_come_as_archives_or_as_manifests() {
    let fake = Fake::new();
    let tar = |bytes: &'static str| {
        ask("POST", "/v1/agents")
            .header("content-type", "application/x-tar")
            .body(bytes)
    };
    let answer = tar("new").send(&fake).await;
    assert_eq!(answer.answered(201)["id"], "echo");
    assert_eq!(answer.header("location"), "/v1/agents/echo");
    tar("same").send(&fake).await.answered(200);
    let manifest = json!({"manifest": {"id": "echo", "n": 1.5}}).to_string();
    ask("POST", "/v1/agents?start=false")
        .json(manifest)
        .send(&fake)
        .await
        .answered(201);
    let calls = fake.calls();
    assert_eq!(calls[1], format!("register start=true Tar({:?})", b"new"));
    assert_eq!(
        calls[5],
        r#"register start=false Manifest { manifest: Object {"id": String("echo"), "n": Number(1.5)}, path: None }"#
    );
    ask("POST", "/v1/agents?start=yes")
        .json("{}")
        .send(&fake)
        .await
        .refused(400, "invalid_query", Some("start"));
}

#[tokio::test]
async fn the_status_of_an_unknown_agent_is_an_answer() {
    let fake = Fake::new();
    assert_eq!(
        ask("GET", "/v1/agents/nobody/status")
            .send(&fake)
            .await
            .answered(200),
        json!({"status": "not_found"})
    );
    assert_eq!(
        ask("GET", "/v1/agents/echo/status")
            .send(&fake)
            .await
            .answered(200),
        json!({"status": "active", "epoch": 1})
    );
    for path in [
        "",
        "/history",
        "/insights",
        "/logs",
        "/policy",
        "/instances",
        "/sandbox",
        "/memory",
    ] {
        let path = format!("/v1/agents/nobody{path}");
        let document = ask("GET", &path)
            .send(&fake)
            .await
            .refused(404, "agent_not_found", None);
        assert_eq!(document["detail"], "Agent nobody not found");
    }
}

#[tokio::test]
async fn verbs_pass_on_what_their_bodies_say() {
    let fake = Fake::new();
    let post = |verb: &str, body: serde_json::Value| {
        ask("POST", &format!("/v1/agents/echo/{verb}")).json(body.to_string())
    };
    post("scale", json!({"replicas": 3}))
        .send(&fake)
        .await
        .answered(200);
    post(
        "quarantine",
        json!({"type": "resource_abuse", "description": "too hungry", "severity": "high"}),
    )
    .send(&fake)
    .await
    .answered(200);
    assert_eq!(
        post("recover", json!({"force": true}))
            .send(&fake)
            .await
            .answered(200),
        json!({"success": true})
    );
    let upgraded = post(
        "upgrade",
        json!({"agentId": "echo", "targetVersion": "2.0.0", "type": "hard", "forceful": true}),
    );
    assert_eq!(
        upgraded.send(&fake).await.answered(200),
        json!({"success": true, "type": "soft", "rollbackAvailable": true})
    );
    let verbs: Vec<_> = fake
        .calls()
        .into_iter()
        .filter(|call| !call.starts_with("authorize"))
        .collect();
    assert_eq!(verbs[0], "Scale { replicas: 3 }");
    assert_eq!(
        verbs[1],
        "Quarantine(QuarantineOrder { kind: ResourceAbuse, description: \"too hungry\", severity: High })"
    );
    assert_eq!(verbs[2], "Recover { force: true }");
    assert!(
        verbs[3].contains("target_version: Some(\"2.0.0\"), kind: Hard, forceful: true"),
        "{}",
        verbs[3]
    );
}

#[tokio::test]
async fn removing_says_what_is_gone() {
    let fake = Fake::new();
    assert_eq!(
        ask("DELETE", "/v1/agents/echo")
            .send(&fake)
            .await
            .answered(200),
        json!({"id": "echo", "removed": true})
    );
    ask("DELETE", "/v1/agents/nobody")
        .send(&fake)
        .await
        .refused(404, "agent_not_found", None);
}
