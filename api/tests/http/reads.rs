//! Lists, filters, audit, memory, tokens, system.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::fake::Fake;
use crate::support::{ask, bare};

#[tokio::test]
async fn filters_are_read_by_type_and_unknown_ones_refused() {
    let fake = Fake::new();
    let list =
        "/v1/agents?capability=echo&persona=kExecutor&status=active&tag=x&limit=5&cursor=abc";
    ask("GET", list).send(&fake).await.answered(200);
    ask(
        "GET",
        "/v1/tasks?state=dead_lettered&type=t&agent=echo&column=In%20progress",
    )
    .send(&fake)
    .await
    .answered(200);
    ask(
        "GET",
        "/v1/audit?agent=echo&task=T1&kind=error&since=2025-01-01T00:00:00Z",
    )
    .send(&fake)
    .await
    .answered(200);
    let calls: Vec<_> = fake
        .calls()
        .into_iter()
        .filter(|call| !call.starts_with("authorize"))
        .collect();
    assert_eq!(
        calls[0],
        "agents AgentFilter { capability: Some(\"echo\"), persona: Some(\"kExecutor\"), status: Some(Active), \
         tag: Some(\"x\") } PageRequest { limit: 5, cursor: Some(\"abc\") }"
    );
    assert!(
        calls[1].contains("state: Some(DeadLettered), kind: Some(\"t\")"),
        "{}",
        calls[1]
    );
    assert!(
        calls[1].contains("column: Some(\"In progress\")") && calls[1].contains("limit: 100"),
        "{}",
        calls[1]
    );
    for (path, code, field) in [
        ("/v1/agents?statuss=active", "unknown_parameter", "statuss"),
        ("/v1/agents?status=alive", "invalid_query", "status"),
        ("/v1/agents?limit=0", "invalid_query", "limit"),
        ("/v1/agents?limit=1001", "invalid_query", "limit"),
        ("/v1/agents?tag=a&tag=b", "invalid_query", "tag"),
        ("/v1/tasks?state=done", "invalid_query", "state"),
        ("/v1/tasks?column=Nowhere", "invalid_query", "column"),
        ("/v1/tasks?agent=..%2F..", "invalid_query", "agent"),
        ("/v1/audit?since=yesterday", "invalid_query", "since"),
        ("/v1/agents/echo/logs?tail=0", "invalid_query", "tail"),
        (
            "/v1/agents/echo/policy?cursor=x",
            "invalid_cursor",
            "cursor",
        ),
        ("/v1/events?topic=a..b", "invalid_query", "topic"),
        ("/status?verbose=1", "unknown_parameter", "verbose"),
    ] {
        ask("GET", path)
            .send(&fake)
            .await
            .refused(400, code, Some(field));
    }
    ask("GET", "/v1/agents/%ff")
        .send(&fake)
        .await
        .refused(400, "malformed_path", None);
}

#[tokio::test]
async fn short_lists_page_like_long_ones() {
    let fake = Fake::new();
    let first = ask("GET", "/v1/agents/echo/policy?limit=2")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(
        (
            first["items"].as_array().unwrap().len(),
            &first["nextCursor"]
        ),
        (2, &json!("2"))
    );
    let rest = ask("GET", "/v1/agents/echo/policy?limit=2&cursor=2")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(
        (&rest["items"][0]["key"], &rest["nextCursor"]),
        (&json!("c"), &json!(null))
    );
    let beyond = ask("GET", "/v1/agents/echo/policy?cursor=99")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(beyond, json!({"items": [], "nextCursor": null}));
}

#[tokio::test]
async fn proofs_are_of_one_kind_or_the_other() {
    let fake = Fake::new();
    let included = ask("GET", "/v1/audit/proof?index=3&size=7")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(included, json!({"index": 3, "size": 7, "path": []}));
    let grown = ask("GET", "/v1/audit/proof?from=3")
        .send(&fake)
        .await
        .answered(200);
    assert_eq!(grown, json!({"from": 3, "to": null, "path": []}));
    for (query, field) in [
        ("", "index"),
        ("?size=7", "index"),
        ("?index=1&from=1", "from"),
        ("?index=1&to=2", "from"),
    ] {
        let path = format!("/v1/audit/proof{query}");
        ask("GET", &path)
            .send(&fake)
            .await
            .refused(400, "invalid_query", Some(field));
    }
}

#[tokio::test]
async fn an_export_ends_with_its_checkpoint_or_breaks_off() {
    let fake = Fake::new();
    let whole = ask("GET", "/v1/audit/export").send(&fake).await;
    assert_eq!(whole.header("content-type"), "application/x-ndjson");
    assert_eq!(whole.text, "{\"record\":\"\"}\n{\"checkpoint\":\"\"}\n");
    assert_eq!(
        ask("GET", "/v1/audit/export?agent=echo")
            .send(&fake)
            .await
            .text,
        "broken off"
    );
    let when = ask("GET", "/v1/audit?since=yesterday").send(&fake).await;
    let document = when.refused(400, "invalid_query", Some("since"));
    assert!(
        document["detail"]
            .as_str()
            .unwrap()
            .contains("such as 2025-06-20T22:04:00Z")
    );
    ask("GET", "/v1/audit/export?witnessed=3")
        .send(&fake)
        .await
        .refused(400, "invalid_query", Some("witnessed"));
    ask("GET", "/v1/audit/export?agent=ghost")
        .send(&fake)
        .await
        .refused(404, "agent_not_found", None);
}

#[tokio::test]
async fn the_tables_come_as_a_script() {
    let fake = Fake::new();
    let script = ask("GET", "/v1/export/sql").send(&fake).await;
    assert_eq!(script.header("content-type"), "application/sql");
    assert_eq!(script.text, "BEGIN;\nCOMMIT;\n");
}

#[tokio::test]
async fn a_backup_comes_as_a_tar() {
    let fake = Fake::new();
    let backup = ask("GET", "/v1/backup").send(&fake).await;
    assert_eq!(backup.header("content-type"), "application/x-tar");
    assert_eq!(backup.text, "tar");
}

#[tokio::test]
async fn memory_keys_may_hold_slashes_and_anything_encoded() {
    let fake = Fake::new();
    let put = ask("PUT", "/v1/memory/echo/a/b%20c%2Fd").json(r#"{"value":[1],"ttl":"30s"}"#);
    assert_eq!(put.send(&fake).await.answered(200)["key"], "a/b c/d");
    assert!(fake.calls().contains(&"set a/b c/d Some(30s)".into()));
    assert_eq!(
        ask("GET", "/v1/memory/echo/a/b%20c/d")
            .send(&fake)
            .await
            .answered(200)["value"],
        json!([1])
    );
    assert_eq!(
        ask("GET", "/v1/memory/echo")
            .send(&fake)
            .await
            .answered(200)["items"][0]["key"],
        "a/b c/d"
    );
    let delete = || ask("DELETE", "/v1/memory/echo/a/b%20c/d");
    assert_eq!(
        delete().send(&fake).await.answered(200),
        json!({"key": "a/b c/d", "deleted": true})
    );
    delete()
        .send(&fake)
        .await
        .refused(404, "memory_key_not_found", None);
    ask("PUT", "/v1/memory/echo/k")
        .json("{}")
        .send(&fake)
        .await
        .refused(422, "missing_field", Some("value"));
    ask("PUT", "/v1/memory/echo/k")
        .json(r#"{"value":null}"#)
        .send(&fake)
        .await
        .answered(200);
}

#[tokio::test]
async fn tokens_are_shown_once() {
    let fake = Fake::new();
    let issued = ask("POST", "/v1/tokens")
        .json(r#"{"role":"operator","subject":"ci","ttl":"1h"}"#)
        .send(&fake)
        .await;
    assert_eq!(
        issued.answered(201),
        json!({"id": "k1", "token": "secret", "role": "operator", "expires": null})
    );
    assert_eq!(issued.header("cache-control"), "no-store");
    assert!(
        fake.calls()
            .contains(&"issue Some(\"ci\") Some(3600s)".into())
    );
    ask("GET", "/v1/tokens").send(&fake).await.answered(200);
    assert_eq!(
        ask("DELETE", "/v1/tokens/k1")
            .send(&fake)
            .await
            .answered(200),
        json!({"id": "k1", "revoked": true})
    );
}

#[tokio::test]
async fn messages_are_passed_on() {
    let fake = Fake::new();
    let sent = ask("POST", "/v1/messages")
        .json(r#"{"to":"kai://agent.echo"}"#)
        .send(&fake)
        .await;
    assert_eq!(sent.answered(200), json!({"delivered": "kai://agent.echo"}));
    // What nobody answers is a receipt.
    ask("POST", "/v1/messages")
        .json(r#"{"to":"user:nobody"}"#)
        .send(&fake)
        .await
        .answered(200);
    let refused = ask("POST", "/v1/messages")
        .json("{}")
        .send(&fake)
        .await
        .refused(422, "klp_invalid", Some("to"));
    assert_eq!(refused["detail"], "Missing required field: to");
}

#[tokio::test]
async fn liveness_follows_the_mesh() {
    let fake = Fake::new();
    assert_eq!(
        bare("GET", "/healthz").send(&fake).await.answered(200),
        json!({"status": "ok"})
    );
    fake.alive.store(false, Ordering::SeqCst);
    let answer = bare("GET", "/healthz").send(&fake).await;
    answer.refused(503, "not_alive", None);
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn the_rest_of_the_system_is_readable() {
    let fake = Fake::new();
    for path in [
        "/status",
        "/v1/health",
        "/v1/insights",
        "/v1/nodes",
        "/v1/board?cards=3",
        "/v1/agents/echo/memory",
    ] {
        ask("GET", path).send(&fake).await.answered(200);
    }
    assert!(fake.calls().contains(&"board 3".into()));
    let metrics = ask("GET", "/metrics").send(&fake).await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
    assert!(metrics.text.contains("tasks_total 0"));
    assert!(
        ask("GET", "/v1/audit/checkpoint")
            .send(&fake)
            .await
            .text
            .starts_with("meshd/test\n")
    );
}

#[tokio::test]
async fn whatever_happens_inside_there_is_an_answer() {
    let fake = Fake::new();
    ask("GET", "/v1/agents/panics")
        .send(&fake)
        .await
        .refused(500, "internal", None);
    ask("GET", "/v1/agents/hangs")
        .send(&fake)
        .await
        .refused(504, "timed_out", None);
    let answer = ask("GET", "/v1/agents/restarting").send(&fake).await;
    answer.refused(503, "component_restarting", None);
    assert_eq!(answer.header("retry-after"), "1");
}
