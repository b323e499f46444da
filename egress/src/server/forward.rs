//! One request in absolute form, sent on in origin form, with a credential where one is bound to it.
//!
//! A connection carries one request: the head of each is decoded by us and not by a library, so that a second one cannot
//! slip through behind the first. hyper does the rest: the framing of bodies, in and out.

use std::io;
use std::sync::Arc;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Proxy;
use crate::broker::Binding;
use crate::denial::{Code, Denial};
use crate::dial::dial;
use crate::head::{HEADERS_MAX, Head};
use crate::host::Host;
use crate::metered::{Activity, Metered};
use crate::policy::Ask;

/// Largest head of an answer.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Headers by which some servers take another method or path than the request's line says.
const OVERRIDING: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
];

type Body = BoxBody<Bytes, hyper::Error>;

/// Both kinds of connection to a server.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Proxy {
    pub(super) async fn forward(
        &self,
        stream: TcpStream,
        head: &Head,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        let activity = Activity::default();
        let agent = Metered::new(
            stream,
            bytes,
            activity.clone(),
            Arc::clone(&self.parts.bounds),
        );
        let serve = service_fn(|request| async {
            let answer = self.exchange(head, request).await.unwrap_or_else(|denial| {
                self.denied(&denial);
                refusal(&denial)
            });
            Ok::<_, std::convert::Infallible>(answer)
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server
            .keep_alive(false)
            .max_headers(HEADERS_MAX)
            .half_close(true);
        tokio::select! {
            // What breaks here is the agent's connection; there is nobody left to tell.
            _ended = server.serve_connection(TokioIo::new(agent), serve) => Ok(()),
            () = activity.idle(self.parts.limits.idle) => Ok(()),
        }
    }

    async fn exchange(
        &self,
        head: &Head,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Denial> {
        let parts = &self.parts;
        let path = head.path.as_deref().unwrap_or("/");
        let at = |denial: Denial| denial.at(&head.host, head.port);
        // The library reads the same bytes; should it ever read them otherwise, nothing goes out.
        if request.method().as_str() != head.method {
            return Err(at(Denial::new(
                Code::BadRequest,
                "the request can be read in two ways",
            )));
        }
        let ask = Ask::Request {
            method: &head.method,
            path,
        };
        let verdict = parts.policy.decide(&head.host, head.port, ask)?;
        let credential = match verdict.credential {
            Some(binding) => Some((binding, self.credential(binding, &head.host).map_err(at)?)),
            None => None,
        };
        let limit = parts.limits.connect;
        let stream = dial(
            &parts.policy,
            &*parts.resolver,
            limit,
            &head.host,
            verdict.port,
        )
        .await?;
        let tls = verdict.credential.is_some_and(|binding| binding.tls);
        let stream: Box<dyn Stream> = if tls {
            Box::new(self.secure(stream, &head.host).await.map_err(at)?)
        } else {
            Box::new(stream)
        };
        parts.observer.opened();

        let failed = |what: &str, error: hyper::Error| {
            at(Denial::new(Code::Unreachable, format!("{what}: {error}")))
        };
        let mut client = hyper::client::conn::http1::Builder::new();
        client
            .max_headers(HEADERS_MAX)
            .max_buf_size(ANSWER_HEAD_BYTES_MAX);
        let (mut sender, connection) = client
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed("the server cannot be spoken with", error))?;
        // Ends with the answer's body, or when that is dropped.
        tokio::spawn(connection);
        let default_port = if tls { 443 } else { 80 };
        let outward = outward(
            request,
            path,
            &head.host,
            (verdict.port, default_port),
            credential,
            verdict.literal,
        )
        .map_err(at)?;
        let mut response = sender
            .send_request(outward)
            .await
            .map_err(|error| failed("the server did not answer", error))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let reason = "the server changed the protocol, which nobody asked it to";
            return Err(at(Denial::new(Code::Unreachable, reason)));
        }
        strip(response.headers_mut());
        Ok(response.map(BodyExt::boxed))
    }

    fn credential(&self, binding: &Binding, host: &Host) -> Result<HeaderValue, Denial> {
        let missing = |reason: &str| {
            Denial::new(
                Code::CredentialMissing,
                format!("{reason}: {}", binding.secret),
            )
            .by("secrets")
        };
        let secret = self
            .parts
            .credentials
            .secret(&binding.secret, &host.to_string());
        let secret = secret.ok_or_else(|| {
            missing("the vault does not give this agent the secret for this host")
        })?;
        let value = binding.header.value(&secret);
        let mut value = HeaderValue::from_bytes(&value)
            .map_err(|_| missing("the secret holds characters that no header carries"))?;
        // Keeps it out of every debug output.
        value.set_sensitive(true);
        Ok(value)
    }

    async fn secure(
        &self,
        stream: TcpStream,
        host: &Host,
    ) -> Result<impl Stream + 'static, Denial> {
        let bare = host.to_string();
        let bare = bare
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| Denial::new(Code::BadHost, "TLS has no name for this host"))?;
        let connector = TlsConnector::from(std::sync::Arc::clone(&self.parts.tls));
        let limit = self.parts.limits.connect;
        match tokio::time::timeout(limit, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Denial::new(
                Code::Unreachable,
                format!("no TLS with this host: {error}"),
            )),
            Err(_) => Err(Denial::new(
                Code::Timeout,
                format!("no TLS within {limit:?}"),
            )),
        }
    }
}

/// The request as it goes out.
fn outward(
    mut request: Request<Incoming>,
    path: &str,
    host: &Host,
    (port, default_port): (u16, u16),
    credential: Option<(&Binding, HeaderValue)>,
    literal: bool,
) -> Result<Request<Incoming>, Denial> {
    let bad = |what: &str| Denial::new(Code::BadRequest, format!("the {what} cannot be sent on"));
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| bad("path"))?;
    *request.version_mut() = hyper::Version::HTTP_11;
    let authority = if port == default_port {
        host.to_string()
    } else {
        format!("{host}:{port}")
    };
    let headers = request.headers_mut();
    strip(headers);
    if literal {
        for name in OVERRIDING {
            headers.remove(name);
        }
    }
    headers.insert(
        HOST,
        HeaderValue::from_str(&authority).map_err(|_| bad("host"))?,
    );
    if let Some((binding, value)) = credential {
        let name = HeaderName::from_bytes(binding.header.name().as_bytes())
            .map_err(|_| bad("credential's header"))?;
        // Whatever the agent put there itself is replaced.
        headers.insert(name, value);
    }
    Ok(request)
}

/// Takes out what belongs to one connection and not to the message.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Naming one of these as the connection's own would take the frame from the message.
        .filter(|name| !matches!(name.as_str(), "host" | "content-length" | "authorization"))
        .collect();
    let proxy = [
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "keep-alive",
    ];
    let always = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, EXPECT];
    let all = named
        .into_iter()
        .chain(always)
        .chain(proxy.map(HeaderName::from_static));
    for name in all {
        headers.remove(name);
    }
}

fn refusal(denial: &Denial) -> Response<Body> {
    let body = Full::new(Bytes::from(denial.body()))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    let (status, phrase) = denial.code.status();
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    // Some clients show nothing else.
    let phrase = format!("{phrase} ({})", denial.code.name()).into_bytes();
    if let Ok(phrase) = ReasonPhrase::try_from(phrase) {
        response.extensions_mut().insert(phrase);
    }
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert(
        "x-mesh-egress",
        HeaderValue::from_static(denial.code.name()),
    );
    response
}
