//! The event stream: what was missed from the journal, then live, without a gap and without a repetition.
//!
//! The feed is subscribed before the journal is read, so everything published in between is in one of the two; the
//! position of the last event sent tells which events of the feed the journal has already supplied. A reader that is
//! too slow for the feed's buffer goes back to the journal, which is why nothing is buffered here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use futures::Stream;
use mesh_actors::operations::{Action, EventFeed};
use mesh_messages::Position;
use mesh_messages::certificate::Credentials;
use mesh_messages::system::{Caller, MeshEvent};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::shared::Shared;
use crate::topic::Topic;
use crate::withheld::shown;

/// Events that are read from the journal at once: few enough to be in memory for every reader.
const REPLAY_BATCH: usize = 256;
/// How long a browser waits before it connects again.
const RECONNECT_MS: u32 = 1000;

/// What a reader wants.
pub(crate) struct Subscription {
    /// Whose it is.
    pub(crate) caller: Caller,
    /// What it came with; the stream ends when that does not hold any more.
    pub(crate) bearer: Option<Zeroizing<String>>,
    /// Not everybody is shown everything.
    pub(crate) sees_memory: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) feed: EventFeed,
    /// Resume after this; absent: from the beginning of the log.
    pub(crate) after: Option<Position>,
    /// Whether the journal holds events that the reader missed.
    pub(crate) behind: bool,
    pub(crate) topic: Option<Topic>,
    /// Held as long as the stream is.
    #[expect(dead_code, reason = "dropping it gives the place back")]
    pub(crate) permit: OwnedSemaphorePermit,
}

struct Reader {
    subscription: Subscription,
    ready: VecDeque<Bytes>,
    ping_at: Instant,
    /// When it is asked again whether the reader may read.
    ask_at: Instant,
    /// The position that the client knows of, by an event or by a ping.
    told: Option<Position>,
    ended: bool,
}

/// The stream as chunks of `text/event-stream`.
pub(crate) fn stream(
    subscription: Subscription,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let reader = Reader {
        ping_at: Instant::now() + subscription.shared.config.ping_interval,
        ask_at: Instant::now() + subscription.shared.config.ping_interval,
        told: subscription.after,
        // Sent at once, so that the client sees the stream open before anything happens.
        ready: VecDeque::from([Bytes::from(format!("retry: {RECONNECT_MS}\n\n"))]),
        subscription,
        ended: false,
    };
    futures::stream::unfold(reader, |mut reader| async move {
        let chunk = reader.chunk().await?;
        Some((Ok(chunk), reader))
    })
}

impl Reader {
    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if Instant::now() >= self.ask_at && !self.still_may() {
                return None;
            }
            if let Some(chunk) = self.ready.pop_front() {
                self.ping_at = Instant::now() + self.subscription.shared.config.ping_interval;
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            if self.subscription.behind {
                self.replay().await;
            } else {
                self.listen().await;
            }
        }
    }

    /// Whether the reader may still read: tokens end, are revoked, and rules change.
    fn still_may(&mut self) -> bool {
        let subscription = &mut self.subscription;
        let config = &subscription.shared.config;
        self.ask_at = Instant::now() + config.ping_interval;
        let ops = &subscription.shared.ops;
        if let Some(bearer) = &subscription.bearer {
            let credentials = Credentials {
                bearer: Some(bearer.as_str()),
                certificate: None,
                loopback: subscription.caller.loopback,
                resource: "/v1/events",
            };
            match ops.authenticate(credentials) {
                Ok(caller) => subscription.caller = caller,
                Err(_) => return false,
            }
        }
        subscription.sees_memory = ops.would_permit(&subscription.caller, Action::Memory);
        ops.would_permit(&subscription.caller, Action::Read)
    }

    /// One batch from the journal.
    async fn replay(&mut self) {
        let subscription = &mut self.subscription;
        let read = subscription
            .shared
            .ops
            .events_after(subscription.after, REPLAY_BATCH);
        let events = tokio::select! {
            events = read => events,
            () = subscription.shared.closed() => {
                self.ended = true;
                return;
            }
        };
        match events {
            Ok(events) => {
                let newest = events.iter().filter_map(|event| event.id).max();
                // A batch without progress is the end of what there is, whatever it holds.
                if newest <= subscription.after {
                    subscription.behind = false;
                    return;
                }
                for event in &events {
                    self.offer(event);
                }
            }
            Err(problem) => {
                // The client connects again with the last id it saw; nothing is lost by ending here.
                tracing::warn!(
                    code = problem.code,
                    detail = problem.detail,
                    "an event stream ended"
                );
                self.ready
                    .push_back(Bytes::from(format!(": ended, {}\n\n", problem.code)));
                self.ended = true;
            }
        }
    }

    /// One event from the feed, or a ping.
    async fn listen(&mut self) {
        let subscription = &mut self.subscription;
        let received = tokio::select! {
            received = subscription.feed.recv() => received,
            () = tokio::time::sleep_until(self.ping_at) => return self.ping(),
            () = subscription.shared.closed() => Err(RecvError::Closed),
        };
        match received {
            Ok(event) => self.offer(&event),
            Err(RecvError::Lagged(_)) => subscription.behind = true,
            Err(RecvError::Closed) => self.ended = true,
        }
    }

    fn offer(&mut self, event: &MeshEvent) {
        let subscription = &mut self.subscription;
        if event.id.is_some() && event.id <= subscription.after {
            return;
        }
        subscription.after = event.id.max(subscription.after);
        if subscription
            .topic
            .as_ref()
            .is_none_or(|topic| topic.covers(&event.topic))
        {
            self.told = event.id.max(self.told);
            let event = shown(subscription.sees_memory, event);
            self.ready.push_back(frame(&event));
        }
    }

    /// Tells the client that the stream lives, and how far it has come past events of other topics.
    fn ping(&mut self) {
        let after = self.subscription.after;
        let moved = after.filter(|after| Some(*after) > self.told);
        let chunk = moved.map_or_else(
            || ": ping\n\n".to_owned(),
            |after| format!(": ping\nid: {after}\n\n"),
        );
        self.told = after.max(self.told);
        self.ready.push_back(Bytes::from(chunk));
    }
}

/// One event. Without an id the client's `Last-Event-ID` stays what it was: volatile events are not resumed.
fn frame(event: &MeshEvent) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_else(|error| {
        tracing::error!(%error, topic = event.topic, "an event is not JSON");
        "null".to_owned()
    });
    Bytes::from(match event.id {
        Some(id) => format!("id: {id}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    })
}
