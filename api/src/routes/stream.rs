//! `GET /v1/events`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderValue;
use mesh_messages::Position;
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use crate::dispatch::bearer;
use crate::events::{Subscription, stream};
use crate::problem::{Answer, Refusal};
use crate::query::{Param, Shape, invalid};
use crate::route::{Call, Route, text};
use crate::shared::Shared;
use crate::topic::Topic;
use crate::withheld::sees_memory;

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

const TOPIC: Param = Param {
    name: "topic",
    about: "Only events of this topic; `*` stands for one or more segments, as in `agent.echo.*`.",
    shape: Shape::Text,
};
const LAST_EVENT_ID: Param = Param {
    name: "Last-Event-ID",
    about: "The last event that was seen; the stream resumes after it.",
    shape: Shape::Integer(0, u64::MAX),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/events",
            "streamEvents",
            "Everything that happens, as server-sent events",
            events,
        )
        .query(&[TOPIC])
        .headers(&[LAST_EVENT_ID])
        .answers_as(
            EVENT_STREAM,
            "Each `data` is a MeshEvent; those without `id` are not resumed.",
        )
        .refuses(&[422]),
    ]
}

async fn events(call: Call) -> Answer {
    let topic = call
        .query
        .text(&TOPIC)
        .map(Topic::parse)
        .transpose()
        .map_err(|why| invalid(TOPIC.name, why))?;
    let seen = last_event_id(&call)?;
    let permit = place(&call.shared)?;
    // The end of the log before subscribing: whatever comes after it is in the feed, or in the journal when it lags.
    let end = call
        .ops()
        .status()
        .await?
        .journal
        .records
        .checked_sub(1)
        .map(Position);
    if seen > end {
        let detail = format!(
            "there is no event {} yet; was it of another log?",
            seen.unwrap_or_default()
        );
        return Err(Refusal::new("unknown_event", detail).field(LAST_EVENT_ID.name));
    }
    let subscription = Subscription {
        sees_memory: sees_memory(call.ops(), &call.caller),
        bearer: bearer(&call.headers).map(|token| Zeroizing::new(token.to_owned())),
        caller: call.caller.clone(),
        feed: call.ops().subscribe(),
        shared: Arc::clone(&call.shared),
        after: seen.or(end),
        behind: seen.is_some(),
        topic,
        permit,
    };
    text(EVENT_STREAM, Body::from_stream(stream(subscription)))
}

/// A place for a stream.
pub(super) fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_| {
            let detail = format!("{} streams are open already", shared.config.streams_max);
            Refusal::new("too_many_streams", detail).retry_after(5)
        })
}

fn last_event_id(call: &Call) -> Result<Option<Position>, Refusal> {
    let given = call
        .headers
        .get(LAST_EVENT_ID.name)
        .map(HeaderValue::to_str);
    match given {
        // An empty one is how a client says that it has seen none.
        None | Some(Ok("")) => Ok(None),
        Some(text) => text
            .ok()
            .and_then(|text| text.parse().ok())
            .map(|at| Some(Position(at)))
            .ok_or_else(|| {
                let detail = "Last-Event-ID: expected the number of an event of this stream";
                Refusal::new("invalid_header", detail).field(LAST_EVENT_ID.name)
            }),
    }
}
