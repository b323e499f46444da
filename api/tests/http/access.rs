//! Who may ask what, and in which order it is found out.

use serde_json::json;

use crate::fake::Fake;
use crate::support::{ELSEWHERE, ask, bare};

#[tokio::test]
async fn only_liveness_and_the_document_are_for_everybody() {
    let fake = Fake::new();
    for (method, path) in mesh_api::route_list() {
        let path = path
            .replace("{*key}", "k")
            .replace("{agent}", "echo")
            .replace("{id}", "echo")
            .replace("{name}", "key");
        let answer = bare(method.as_str(), &path).send(&fake).await;
        if ["/healthz", "/openapi.json"].contains(&path.as_str()) {
            assert_eq!(answer.status, 200, "{path}");
        } else {
            let document = answer.refused(401, "unauthenticated", None);
            assert_eq!(document["detail"], "Invalid authentication");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn every_failed_authentication_looks_the_same() {
    let fake = Fake::new();
    let mut seen = Vec::new();
    for value in [
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        "Basic admin",
        "admin",
        "",
    ] {
        seen.push(
            bare("GET", "/status")
                .header("authorization", value)
                .send(&fake)
                .await
                .refused(401, "unauthenticated", None),
        );
    }
    let twice = bare("GET", "/status")
        .header("authorization", "Bearer admin")
        .header("authorization", "Bearer admin");
    seen.push(
        twice
            .send(&fake)
            .await
            .refused(401, "unauthenticated", None),
    );
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    bare("GET", "/status")
        .header("authorization", "bearer admin")
        .send(&fake)
        .await
        .answered(200);
}

#[tokio::test]
async fn a_refused_caller_learns_nothing_and_the_body_is_not_read() {
    let fake = Fake::new();
    let answer = bare("POST", "/v1/tasks?nonsense=1")
        .header("authorization", "Bearer viewer")
        .json("{")
        .send(&fake)
        .await;
    assert_eq!(
        answer.refused(403, "forbidden", None)["detail"],
        "Insufficient permissions"
    );
    assert_eq!(fake.calls(), ["authorize task.submit /v1/tasks"]);
}

#[tokio::test]
async fn a_viewer_reads_and_does_nothing_else() {
    let fake = Fake::new();
    for (method, path) in mesh_api::route_list() {
        let (memory, backup) = (path.contains("memory"), path == "/v1/backup");
        let (tokens, open) = (
            path.contains("tokens") || path.contains("secrets"),
            ["/healthz", "/openapi.json"].contains(&path),
        );
        let path = path
            .replace("{*key}", "k")
            .replace("{agent}", "echo")
            .replace("{id}", "echo");
        if path == "/v1/events" {
            continue;
        }
        let answer = bare(method.as_str(), &path)
            .header("authorization", "Bearer viewer")
            .send(&fake)
            .await;
        let permitted = open || (method == "GET" && !memory && !tokens && !backup);
        assert_eq!(
            answer.status != 403,
            permitted,
            "{method} {path}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_problems_too() {
    let fake = Fake::new();
    ask("GET", "/v1/nope")
        .send(&fake)
        .await
        .refused(404, "unknown_path", None);
    ask("POST", "/v1/agents/echo/explode")
        .send(&fake)
        .await
        .refused(404, "unknown_path", None);
    ask("GET", "/v1/memory/echo/")
        .send(&fake)
        .await
        .refused(404, "unknown_path", None);
    let answer = ask("PATCH", "/v1/agents/echo").send(&fake).await;
    answer.refused(405, "method_not_allowed", None);
    let allowed: std::collections::BTreeSet<_> = answer.header("allow").split(',').collect();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD"].into());
    bare("GET", "/v1/nope")
        .send(&fake)
        .await
        .refused(401, "unauthenticated", None);
    bare("OPTIONS", "/v1/tasks")
        .send(&fake)
        .await
        .refused(401, "unauthenticated", None);
}

#[tokio::test]
async fn directories_of_the_host_are_for_its_admin() {
    let fake = Fake::new();
    let body = json!({"manifest": {"id": "echo"}, "path": "/srv/echo"}).to_string();
    ask("POST", "/v1/agents")
        .json(&body)
        .send(&fake)
        .await
        .answered(201);
    let answers = [
        ask("POST", "/v1/agents")
            .json(&body)
            .from(ELSEWHERE)
            .send(&fake)
            .await,
        ask("POST", "/v1/agents")
            .json(&body)
            .header("x-forwarded-for", "192.0.2.7")
            .send(&fake)
            .await,
    ];
    for answer in answers {
        assert_eq!(
            answer.refused(403, "forbidden", Some("path"))["detail"],
            "Insufficient permissions"
        );
    }
    ask("POST", "/v1/agents")
        .json(r#"{"manifest":{}}"#)
        .from(ELSEWHERE)
        .send(&fake)
        .await
        .answered(201);
}

#[tokio::test]
async fn every_answer_is_named_and_never_stored() {
    let fake = Fake::new();
    let answer = ask("GET", "/v1/nope")
        .header("x-request-id", "abc-1.2_3")
        .send(&fake)
        .await;
    assert_eq!(answer.header("x-request-id"), "abc-1.2_3");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let long = "a".repeat(200);
    for hostile in ["a b", "\"quoted\"", long.as_str()] {
        let answer = bare("GET", "/healthz")
            .header("x-request-id", hostile)
            .send(&fake)
            .await;
        assert_eq!(answer.header("x-request-id").len(), 36, "{hostile}");
    }
}
