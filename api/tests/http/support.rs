//! Asking the surface in process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use mesh_api::{ApiConfig, Peer, router};
use serde_json::Value;
use tower::ServiceExt;

use crate::fake::Fake;

pub(crate) const LOOPBACK: &str = "127.0.0.1:4000";
pub(crate) const ELSEWHERE: &str = "192.0.2.7:4000";

/// Limits small enough to reach.
pub(crate) fn config() -> ApiConfig {
    ApiConfig {
        body_bytes_max: 128 * 1024,
        bundle_bytes_max: 4096,
        body_timeout: Duration::from_millis(100),
        answer_timeout: Duration::from_millis(200),
        header_timeout: Duration::from_millis(200),
        ping_interval: Duration::from_millis(50),
        drain_timeout: Duration::from_secs(5),
        streams_max: 2,
        ..ApiConfig::default()
    }
}

/// One request in the making.
pub(crate) struct Ask {
    request: axum::http::request::Builder,
    body: Body,
    peer: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A request without a token.
pub(crate) fn bare(method: &str, path: &str) -> Ask {
    let request = Request::builder().method(method).uri(path);
    Ask {
        request,
        body: Body::empty(),
        peer: LOOPBACK.parse().unwrap(),
    }
}

/// A request of the admin's.
pub(crate) fn ask(method: &str, path: &str) -> Ask {
    bare(method, path).header("authorization", "Bearer admin")
}

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(self, text: impl Into<String>) -> Self {
        let text: String = text.into();
        self.header("content-type", "application/json").body(text)
    }

    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().unwrap();
        self
    }

    pub(crate) async fn send(self, fake: &Arc<Fake>) -> Answered {
        let mut request = self.request.body(self.body).unwrap();
        request.extensions_mut().insert(Peer(self.peer));
        let ops: Arc<dyn mesh_actors::Operations> = Arc::<Fake>::clone(fake);
        let response = router(ops, config()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = to_bytes(body, usize::MAX)
            .await
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        Answered {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: text.unwrap_or_else(|_| "broken off".into()),
        }
    }
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Checks a refusal: the document is sound and says this.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str, field: Option<&str>) -> Value {
        let document = self.json();
        assert_eq!(self.status, status, "{document}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["status"], status);
        assert_eq!(document["type"], format!("urn:meshd:problem:{code}"));
        assert_eq!(
            document.get("field").and_then(Value::as_str),
            field,
            "{document}"
        );
        assert!(!document["title"].as_str().unwrap().is_empty());
        assert!(!document["detail"].as_str().unwrap().is_empty());
        document
    }

    /// Checks an answer that is no refusal.
    #[track_caller]
    pub(crate) fn answered(&self, status: u16) -> Value {
        assert_eq!(
            StatusCode::from_u16(self.status).unwrap(),
            StatusCode::from_u16(status).unwrap(),
            "{}",
            self.text
        );
        self.json()
    }
}
