//! The event stream: resumed without a gap, filtered, bounded.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures::StreamExt;
use mesh_api::router;
use serde_json::Value;
use tower::ServiceExt;

use crate::fake::{FEED_CAPACITY, Fake};
use crate::support::{ask, config};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

struct Stream {
    body: BodyDataStream,
    buffer: String,
}

/// One block of the stream.
#[derive(Debug, Default, PartialEq)]
struct Block {
    id: Option<u64>,
    data: Option<Value>,
    comment: Option<String>,
}

impl Stream {
    async fn open(router: axum::Router, query: &str, seen: Option<u64>) -> Self {
        let mut request =
            Request::get(format!("/v1/events{query}")).header("authorization", "Bearer admin");
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen);
        }
        let response = router
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self {
            body: response.into_body().into_data_stream(),
            buffer: String::new(),
        };
        assert_eq!(stream.text().await.as_deref(), Some("retry: 1000"));
        stream
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                return Some(block);
            }
            let next = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .expect("the stream is silent");
            self.buffer
                .push_str(std::str::from_utf8(&next?.unwrap()).unwrap());
        }
    }

    async fn block(&mut self) -> Block {
        let mut block = Block::default();
        for line in self.text().await.expect("the stream ended").lines() {
            match line.split_once(": ") {
                Some(("id", id)) => block.id = Some(id.parse().unwrap()),
                Some(("data", data)) => block.data = Some(serde_json::from_str(data).unwrap()),
                Some(("", comment)) => block.comment = Some(comment.to_owned()),
                other => panic!("{other:?}"),
            }
        }
        block
    }

    /// The next event, past pings.
    async fn event(&mut self) -> Block {
        loop {
            let block = self.block().await;
            if block.data.is_some() {
                return block;
            }
        }
    }
}

fn surface(fake: &Arc<Fake>) -> axum::Router {
    router(Arc::<Fake>::clone(fake), config())
}

#[tokio::test]
async fn a_new_reader_sees_what_happens_from_now_on() {
    let fake = Fake::new();
    fake.publish("task.submitted");
    let mut stream = Stream::open(surface(&fake), "", None).await;
    fake.publish("task.succeeded");
    fake.publish_volatile("task.progress");
    let event = stream.event().await;
    assert_eq!(event.id, Some(1));
    let shown = event.data.unwrap();
    assert_eq!(
        (&shown["id"], &shown["topic"]),
        (&1.into(), &"task.succeeded".into())
    );
    let volatile = stream.event().await;
    assert_eq!(
        (volatile.id, &volatile.data.unwrap()["id"]),
        (None, &Value::Null)
    );
}

#[tokio::test]
async fn a_reader_resumes_after_the_last_event_without_gap_or_repetition() {
    let fake = Fake::new();
    for _ in 0..1000 {
        fake.publish("task.submitted");
    }
    let mut stream = Stream::open(surface(&fake), "", Some(9)).await;
    // Published while the journal is being read: in the feed and in the journal.
    for _ in 0..5 {
        fake.publish("task.succeeded");
    }
    for expected in 10..1005 {
        assert_eq!(stream.event().await.id, Some(expected));
    }
    fake.publish("task.succeeded");
    assert_eq!(stream.event().await.id, Some(1005));
}

#[tokio::test]
async fn a_reader_that_lags_gets_the_rest_from_the_journal() {
    let fake = Fake::new();
    fake.publish("node.started");
    let mut stream = Stream::open(surface(&fake), "", None).await;
    for _ in 0..FEED_CAPACITY * 10 {
        fake.publish("task.submitted");
    }
    for expected in 1..=(FEED_CAPACITY * 10) as u64 {
        assert_eq!(stream.event().await.id, Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_others_publish() {
    let fake = Fake::new();
    let total = 5000;
    let publisher = Arc::clone(&fake);
    publisher.publish("task.submitted");
    let mut stream = Stream::open(surface(&fake), "", Some(0)).await;
    let publishing = tokio::task::spawn_blocking(move || {
        for at in 1..=total {
            publisher.publish("task.submitted");
            if at % 7 == 0 {
                publisher.publish_volatile("task.progress");
                std::thread::yield_now();
            }
        }
    });
    let mut expected = 1;
    while expected <= total {
        if let Some(id) = stream.event().await.id {
            assert_eq!(id, expected);
            expected += 1;
        }
    }
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_topic_filters_and_pings_tell_how_far_the_stream_is() {
    let fake = Fake::new();
    let mut stream = Stream::open(surface(&fake), "?topic=agent.*.error", None).await;
    fake.publish("agent.my.bot.error");
    fake.publish("agent.my.bot.started");
    assert_eq!(stream.event().await.id, Some(0));
    let ping = stream.block().await;
    assert_eq!(
        ping,
        Block {
            id: Some(1),
            data: None,
            comment: Some("ping".into())
        }
    );
    assert_eq!(
        stream.block().await,
        Block {
            id: None,
            data: None,
            comment: Some("ping".into())
        }
    );
}

#[tokio::test]
async fn an_id_of_another_log_is_refused() {
    let fake = Fake::new();
    fake.publish("task.submitted");
    let resume = |id: &str| ask("GET", "/v1/events").header("last-event-id", id);
    resume("1")
        .send(&fake)
        .await
        .refused(422, "unknown_event", Some("Last-Event-ID"));
    for id in ["x", "-1", "1.5", "18446744073709551616"] {
        resume(id)
            .send(&fake)
            .await
            .refused(400, "invalid_header", Some("Last-Event-ID"));
    }
}

#[tokio::test]
async fn streams_are_bounded_and_give_their_place_back() {
    let fake = Fake::new();
    let surface = surface(&fake);
    let first = Stream::open(surface.clone(), "", None).await;
    let _second = Stream::open(surface.clone(), "", None).await;
    assert_eq!(fake.readers(), 2);
    let request = Request::get("/v1/events")
        .header("authorization", "Bearer admin")
        .body(Body::empty())
        .unwrap();
    let refused = surface.clone().oneshot(request).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    drop(first);
    let _third = Stream::open(surface, "", None).await;
    assert_eq!(fake.readers(), 2);
}
