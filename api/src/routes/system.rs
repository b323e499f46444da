//! Liveness, status, metrics, health, nodes, and the document itself.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::StatusCode;
use mesh_messages::agent::Page;
use mesh_messages::system::{HealthReport, NodeInfo, SystemStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::page_of;
use crate::openapi;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT};
use crate::route::{Call, JSON, Route, json, ok, text};
use crate::shared::Shared;

/// The media type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// `GET /healthz`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Liveness {
    /// `ok`.
    status: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::open("/healthz", "getLiveness", "Whether meshd serves", alive)
            .answers::<Liveness>(200, "It does.")
            .refuses(&[503]),
        Route::open("/openapi.json", "getOpenApi", "This document", document)
            .answers::<Value>(200, "OpenAPI 3.1."),
        Route::get(
            "/status",
            "getStatus",
            "What meshd is doing, in detail",
            status,
        )
        .answers::<SystemStatus>(200, "The status."),
        Route::get("/metrics", "getMetrics", "Metrics for Prometheus", metrics)
            .answers_as(PROMETHEUS, "Prometheus' text format."),
        Route::get("/v1/health", "getHealth", "Health checks", health)
            .answers::<HealthReport>(200, "Every check."),
        Route::get(
            "/v1/insights",
            "getInsights",
            "What the mesh has learned",
            insights,
        )
        .answers::<Value>(200, "Per agent and task type."),
        Route::get("/v1/nodes", "listNodes", "Lists nodes", nodes)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<NodeInfo>>(200, "A page of nodes."),
    ]
}

fn alive(shared: &Shared) -> Answer {
    if shared.ops.alive() {
        json(
            StatusCode::OK,
            &Liveness {
                status: "ok".to_owned(),
            },
        )
    } else {
        Err(Refusal::new(
            "not_alive",
            "the journal takes no writes, or the supervision tree is down",
        )
        .retry_after(1))
    }
}

fn document(_: &Shared) -> Answer {
    /// The same for every server of this build.
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| Bytes::from(openapi::document(&super::table()).to_string()));
    text(JSON, DOCUMENT.clone())
}

async fn status(call: Call) -> Answer {
    ok(&call.ops().status().await?)
}

async fn metrics(call: Call) -> Answer {
    text(PROMETHEUS, call.ops().metrics().await?)
}

async fn health(call: Call) -> Answer {
    ok(&call.ops().health().await?)
}

async fn insights(call: Call) -> Answer {
    ok(&call.ops().insights().await?)
}

async fn nodes(call: Call) -> Answer {
    ok(&page_of(call.ops().nodes().await?, call.query.page()?)?)
}
