//! What is written out whole, as a stream.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use mesh_actors::operations::ChunkStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::stream::place;
use crate::problem::Answer;
use crate::route::{Call, Route, text};
use crate::shared::Shared;

/// The media type of SQL (RFC 6922).
const SQL: &str = "application/sql";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/export/sql",
            "exportSql",
            "Agents, assignments, relationships and insights as tables",
            sql,
        )
        .answers_as(
            SQL,
            "A script for SQLite and PostgreSQL, one transaction. Without its `COMMIT`, the export broke off.",
        ),
    ]
}

async fn sql(call: Call) -> Answer {
    let permit = place(&call.shared)?;
    let chunks = call.ops().export_sql().await?;
    streamed(&call.shared, permit, SQL, chunks).await
}

/// Sends chunks on as they come. The stream holds its place among the open streams until its end.
pub(super) async fn streamed(
    shared: &Arc<Shared>,
    permit: OwnedSemaphorePermit,
    media: &'static str,
    mut chunks: ChunkStream,
) -> Answer {
    let patience = shared.config.answer_timeout;
    // What is wrong from the beginning is answered as such. The time for that is the whole request's.
    let first = chunks.recv().await.transpose()?;
    let first =
        futures::stream::iter(first.map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk))));
    // An error in the midst of it breaks the connection off, so that a part is not taken for the whole.
    let rest = futures::stream::unfold((chunks, permit), move |(mut chunks, permit)| async move {
        let chunk = match timeout(patience, chunks.recv()).await {
            Ok(chunk) => chunk?.map(Bytes::from).map_err(std::io::Error::other),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        };
        if let Err(error) = &chunk {
            tracing::warn!(%error, "an export broke off");
        }
        Some((chunk, (chunks, permit)))
    });
    text(media, Body::from_stream(first.chain(rest)))
}
