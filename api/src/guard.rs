//! What holds for every request: its name, its span, the host it asks for, and an answer whatever happens inside.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use mesh_actors::request;
use tracing::Instrument;

use crate::problem::Refusal;
use crate::shared::{Peer, Shared};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from the client: it goes into every line of the log.
const REQUEST_ID_MAX: usize = 128;

/// Wraps every request.
pub(crate) async fn guard(shared: Arc<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    // The path as it was asked for may hold anything; the matched one is one of ours.
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("-", MatchedPath::as_str)
        .to_owned();
    let span =
        tracing::info_span!("http", %method, path, request = id.to_str().unwrap_or_default());
    let served = respond(&shared, request, next).instrument(span.clone());
    let mut response = request::within(id.to_str().unwrap_or("-"), served).await;
    let latency_ms = began.elapsed().as_secs_f64() * 1000.0;
    let status = response.status().as_u16();
    span.in_scope(|| {
        if response.status().is_server_error() {
            tracing::warn!(status, latency_ms, "answered");
        } else {
            tracing::debug!(status, latency_ms, "answered");
        }
    });
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn respond(shared: &Shared, request: Request, next: Next) -> Response {
    // RFC 9112, section 3.2. A request that came over no connection has no such duty.
    let over_a_connection = request.extensions().get::<Peer>().is_some() && shared.bound.is_some();
    if over_a_connection
        && request.version() == Version::HTTP_11
        && !request.headers().contains_key(header::HOST)
    {
        return Refusal::new("invalid_header", "an HTTP/1.1 request names its Host")
            .field("Host")
            .into_response();
    }
    if let Some(host) = foreign_host(shared, &request) {
        let detail = format!(
            "\"{host}\" is not a name of this host; use localhost or the address meshd listens on"
        );
        return Refusal::new("unknown_host", detail)
            .field("Host")
            .into_response();
    }
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let reason = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let reason = reason
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            tracing::error!(reason, "a handler panicked");
            Refusal::new("internal", "a bug of meshd; see its log").into_response()
        }
    }
}

fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(&REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    given.cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().to_string();
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

/// The host that the request names, when it is not this one.
///
/// A web page can point a name of its own at 127.0.0.1 and talk to whatever listens there; its `Host` gives it away.
/// On an address that others reach anyway, nothing is gained by asking.
fn foreign_host(shared: &Shared, request: &Request) -> Option<String> {
    let bound = shared.bound?;
    if !bound.ip().is_loopback() {
        return None;
    }
    let named = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().unwrap_or("?"));
    let uri = request
        .uri()
        .authority()
        .map(axum::http::uri::Authority::as_str);
    named
        .chain(uri)
        .find(|host| !is_ours(host, &shared.config.hosts))
        .map(str::to_owned)
}

fn is_ours(authority: &str, hosts: &[String]) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn loopback_names_are_ours_and_names_of_others_are_not() {
        let hosts = ["mesh.internal".to_owned()];
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:8080",
            "mesh.internal:80",
        ] {
            assert!(is_ours(host, &hosts), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "127.0.0.1.nip.io",
            "[::2]",
        ] {
            assert!(!is_ours(host, &hosts), "{host}");
        }
    }
}
