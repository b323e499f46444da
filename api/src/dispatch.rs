//! From a request to its handler. In this order: who asks, may they, what do they ask; only then is the body read.

use std::sync::Arc;
use std::time::Duration;

use axum::RequestExt;
use axum::body::{Body, Bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mesh_actors::operations::Action;
use mesh_messages::certificate::{CertificateNames, Credentials};
use mesh_messages::system::Caller;
use tokio::time::timeout;

use crate::problem::{Answer, Refusal};
use crate::query::Query;
use crate::route::{BodyRule, Call, Handler, JSON, Route, Run};
use crate::routes::tasks::{WAIT, WAIT_MAX};
use crate::shared::{Peer, PeerCertificate, Shared};

/// Longest resource name in the audit of an authorisation; a longer path names nothing that exists.
const RESOURCE_MAX: usize = 256;
/// Most of an unwanted body that is read and thrown away: a client that is still sending when the connection
/// closes never sees why.
const DISCARD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest time for that.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Serves one request by its route.
pub(crate) async fn dispatch(shared: Arc<Shared>, route: Arc<Route>, request: Request) -> Response {
    let mut body = None;
    let answer = answer(shared, &route, request, &mut body).await;
    if let (true, Some(body)) = (answer.is_err(), body) {
        discard(body).await;
    }
    answer.unwrap_or_else(Refusal::into_response)
}

/// Answers what no route serves. Which paths exist is not for everybody.
pub(crate) async fn unknown(shared: Arc<Shared>, request: Request, code: &'static str) -> Response {
    let detail = match code {
        "method_not_allowed" => format!(
            "{} does not take {}",
            request.uri().path(),
            request.method()
        ),
        _ => format!("nothing at {}; see /openapi.json", request.uri().path()),
    };
    let (parts, body) = request.into_parts();
    let refusal = authenticate(&shared, &parts)
        .err()
        .unwrap_or_else(|| Refusal::new(code, detail));
    discard(body).await;
    refusal.into_response()
}

async fn answer(
    shared: Arc<Shared>,
    route: &Route,
    mut request: Request,
    rest: &mut Option<Body>,
) -> Answer {
    let params = request.extract_parts::<RawPathParams>().await;
    let (parts, body) = request.into_parts();
    *rest = Some(body);
    let (action, run) = match &route.handler {
        Handler::Open(run) => return run(&shared),
        Handler::Guarded(action, run) => (*action, run),
    };
    let caller = authenticate(&shared, &parts)?;
    let resource = resource_of(&parts).to_owned();
    shared.ops.authorize(&caller, action, &resource).await?;
    shared.ops.note_access(&caller, action, route.id, &resource);
    let (ops, who) = (&shared.ops, caller.clone());
    let served = serve(&shared, (route, run), (params, parts, caller), rest).await;
    if let Err(refusal) = &served
        && action != Action::Read
        && let Some(code) = refusal.unacceptable()
    {
        ops.note_refused(&who, action, &resource, code);
    }
    served
}

/// What follows once it is known that the caller may ask.
async fn serve(
    shared: &Arc<Shared>,
    (route, run): (&Route, &Run),
    (params, parts, caller): (Result<RawPathParams, RawPathParamsRejection>, Parts, Caller),
    rest: &mut Option<Body>,
) -> Answer {
    let params = params.map_err(|error| Refusal::new("malformed_path", error.body_text()))?;
    let params = params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let query = Query::parse(parts.uri.query().unwrap_or_default(), route.query)?;
    let (body, media) = match (&route.body, rest.as_mut()) {
        (Some(rule), Some(body)) => {
            let read = read(shared, rule, &parts.headers, body).await?;
            *rest = None;
            read
        }
        (None, _) | (_, None) => (Bytes::new(), JSON),
    };
    let waits = route.query.iter().any(|param| param.name == WAIT.name);
    let limit = shared.config.answer_timeout + if waits { WAIT_MAX } else { Duration::ZERO };
    let call = Call {
        shared: Arc::clone(shared),
        caller,
        params,
        query,
        headers: parts.headers,
        body,
        media,
    };
    match timeout(limit, run(call)).await {
        Ok(answer) => answer,
        Err(_) => Err(Refusal::new(
            "timed_out",
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}

/// What is asked for, as records name it.
fn resource_of(parts: &Parts) -> &str {
    let path = parts.uri.path();
    &path[..path.floor_char_boundary(RESOURCE_MAX)]
}

fn authenticate(shared: &Shared, parts: &Parts) -> Result<Caller, Refusal> {
    let caller = shared.ops.authenticate(Credentials {
        bearer: bearer(&parts.headers),
        certificate: certificate(parts),
        loopback: loopback(parts),
        resource: resource_of(parts),
    });
    caller.map_err(|problem| match Refusal::from(problem) {
        refusal if refusal.is_unauthenticated() => Refusal::unauthenticated(),
        refusal => refusal,
    })
}

/// The token; empty when there is something in its place that is none. Two of them are none: which one counts would be a
/// guess.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    let alone = values.next().is_none().then_some(value);
    let words = alone.and_then(|value| value.to_str().ok()?.split_once(' '));
    let token = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Some(token.map_or("", |(_, token)| token.trim()))
}

/// The certificate of the connection. A browser presents one unasked, to whatever page wants something of meshd, so it
/// does not count in a request that a page sends.
fn certificate(parts: &Parts) -> Option<&CertificateNames> {
    let of_a_page = [header::ORIGIN.as_str(), "sec-fetch-site"];
    let connection = parts.extensions.get::<PeerCertificate>()?;
    let by_itself = !of_a_page
        .iter()
        .any(|name| parts.headers.contains_key(*name));
    by_itself.then_some(&*connection.0)
}

/// Whether the caller sits on this host. What a proxy on this host forwards does not.
fn loopback(parts: &Parts) -> bool {
    let forwarded = [
        header::FORWARDED.as_str(),
        "x-forwarded-for",
        "x-real-ip",
        header::VIA.as_str(),
    ];
    let peer = parts
        .extensions
        .get::<Peer>()
        .is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    peer && !forwarded
        .iter()
        .any(|name| parts.headers.contains_key(*name))
}

async fn read(
    shared: &Shared,
    rule: &BodyRule,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<(Bytes, &'static str), Refusal> {
    let media = media(rule, headers)?;
    let limit = rule.size.bytes_max(&shared.config);
    let too_large = || Refusal::new("body_too_large", format!("the body exceeds {limit} bytes"));
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    let bytes = match timeout(
        shared.config.body_timeout,
        Limited::new(&mut *body, limit).collect(),
    )
    .await
    {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => {
            return Err(Refusal::new(
                "malformed_json",
                format!("the body broke off: {error}"),
            ));
        }
        Err(_) => {
            let seconds = shared.config.body_timeout.as_secs_f64();
            return Err(Refusal::new(
                "request_timeout",
                format!("the body did not arrive within {seconds} s"),
            ));
        }
    };
    match media {
        Some(media) => Ok((bytes, media)),
        None if bytes.is_empty() && rule.optional => Ok((bytes, JSON)),
        None => Err(unsupported(rule)),
    }
}

/// The body's media type, one of the rule's; none when the request names another.
///
/// Without `Content-Type` a body is taken for JSON where nothing else is possible.
fn media(rule: &BodyRule, headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return if let [(only, _)] = rule.media[..] {
            Ok(Some(only))
        } else {
            Err(unsupported(rule))
        };
    };
    let essence = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let named = if essence.ends_with("+json") {
        JSON
    } else {
        essence.as_str()
    };
    let known = rule
        .media
        .iter()
        .map(|(media, _)| *media)
        .find(|media| *media == named);
    // A client that sends nothing may still name a type; that is for whoever reads the body to judge.
    if known.is_none() && !rule.optional {
        Err(unsupported(rule))
    } else {
        Ok(known)
    }
}

fn unsupported(rule: &BodyRule) -> Refusal {
    let names: Vec<_> = rule.media.iter().map(|(media, _)| *media).collect();
    Refusal::new(
        "unsupported_media_type",
        format!("expected Content-Type {}", names.join(" or ")),
    )
    .field("Content-Type")
}

/// Reads what the client is still sending, within bounds, so that it comes to read the answer.
async fn discard(body: Body) {
    let read = Limited::new(body, DISCARD_BYTES_MAX);
    let drained = timeout(DISCARD_TIME_MAX, async move {
        let mut read = std::pin::pin!(read);
        while let Some(Ok(_)) = read.frame().await {}
    });
    if drained.await.is_err() {
        tracing::debug!("a client kept sending the body of a refused request");
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::Timestamp;

    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = axum::http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let names = CertificateNames {
            names: vec!["ada.test".to_owned()],
            until: Timestamp::from_millis(1),
        };
        request
            .extension(PeerCertificate(Arc::new(names)))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    #[test]
    fn something_in_the_place_of_a_token_is_not_the_absence_of_one() {
        let token = |headers| bearer(&parts(headers).headers).map(str::to_owned);
        assert_eq!(token(&[]), None);
        assert_eq!(
            token(&[("authorization", "bearer  x ")]).as_deref(),
            Some("x")
        );
        for headers in [
            &[("authorization", "")] as &[(&str, &str)],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic eA==")],
            &[("authorization", "Bearer x"), ("authorization", "Bearer x")],
        ] {
            assert_eq!(token(headers).as_deref(), Some(""), "{headers:?}");
        }
    }

    #[test]
    fn a_certificate_does_not_speak_for_what_a_page_sends() {
        fn counts(headers: &[(&str, &str)]) -> bool {
            certificate(&parts(headers)).is_some()
        }
        assert!(counts(&[]));
        for header in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "none"),
        ] {
            assert!(!counts(&[header]), "{header:?}");
        }
    }
}
