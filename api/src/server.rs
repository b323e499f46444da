//! The listener: connections within bounds, and an orderly end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_actors::operations::Operations;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::config::ApiConfig;
use crate::router::build;
use crate::shared::{Peer, PeerCertificate};
use crate::tls::{Cut, Handshakes};

/// Largest head of a request: a token, a path and a few headers.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a request may go on over a connection whose certificate has to be shown again. Streams are cut then; their
/// readers resume without loss.
const RENEWAL_GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept. Out of descriptors, the next try would fail as well and the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the surface could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener has no address: it is closed. Bind again.
    #[error("the listener has no local address")]
    LocalAddr(#[source] io::Error),
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the drain time was over, and were cut.
    pub cut: usize,
}

/// Serves until `shutdown` resolves, then lets requests in progress end within the drain time.
///
/// Streams and waits end at once at shutdown; their readers resume elsewhere or later without loss.
///
/// # Errors
/// [`ServeError::LocalAddr`] when the listener is closed. A failed accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    ops: Arc<dyn Operations>,
    config: ApiConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Drained, ServeError> {
    let bound = listener.local_addr().map_err(ServeError::LocalAddr)?;
    let (close, closing) = watch::channel(false);
    let router = build(ops, config.clone(), Some(bound), closing.clone());
    let places = Arc::new(Semaphore::new(config.connections_max));
    let mut handshakes = Handshakes::within(config.connections_max);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, peer, place)) => {
                    prepare(&stream, &config);
                    let cut = config.tls.is_some().then(|| handshakes.begin());
                    let serving = open(stream, peer, cut, router.clone(), config.clone(), closing.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Only fails when no connection is left to hear it.
    let _ = close.send(true);
    let drained = timeout(config.drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    let cut = if drained.await.is_ok() {
        0
    } else {
        connections.len()
    };
    connections.shutdown().await;
    Ok(Drained { cut })
}

/// A place first: connections beyond the limit wait in the kernel's backlog, which costs nothing here.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

fn prepare(stream: &TcpStream, config: &ApiConfig) {
    let stall_ms = u32::try_from(config.stall_timeout.as_millis()).unwrap_or(u32::MAX);
    // Without it, a reader that stops reading holds its connection for good.
    let stall =
        rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms).map_err(io::Error::from);
    if let Err(error) = stream.set_nodelay(true).and(stall) {
        tracing::debug!(%error, "could not prepare a connection");
    }
}

/// Serves a connection, in TLS where there is a `cut`: its handshake ends when that does.
async fn open(
    stream: TcpStream,
    peer: SocketAddr,
    cut: Option<Cut>,
    router: Router,
    config: ApiConfig,
    mut closing: watch::Receiver<bool>,
) {
    let (Some(tls), Some(cut)) = (config.tls.clone(), cut) else {
        return connection(stream, (peer, None), router, config, closing).await;
    };
    // Before the handshake: files that are taken during it were not what it went by.
    let mut taken = tls.taken();
    let shaken = tokio::select! {
        shaken = tls.accept(stream, cut) => shaken,
        _ = closing.wait_for(|closing| *closing) => return,
    };
    match shaken {
        Ok((stream, certificate)) => {
            let certificate = certificate.map(PeerCertificate);
            let by_certificate = certificate.is_some();
            let (end, ending) = watch::channel(false);
            let peer = (peer, certificate);
            let mut serving = std::pin::pin!(connection(stream, peer, router, config, ending));
            let closed = async move {
                let _gone = closing.wait_for(|closing| *closing).await.is_err();
            };
            let again = tokio::select! {
                () = serving.as_mut() => return,
                () = closed => false,
                // Whether its certificate counts by them, the next handshake says.
                _ = taken.changed(), if by_certificate => true,
            };
            end.send_replace(true);
            if !again {
                return serving.await;
            }
            let _cut = timeout(RENEWAL_GRACE, serving).await;
        }
        Err(error) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (peer, certificate): (SocketAddr, Option<PeerCertificate>),
    router: Router,
    config: ApiConfig,
    mut closing: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        let router = router.clone();
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        async move { Ok::<_, Infallible>(respond(router, peer, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let closed = async move {
        // An error means that the server is gone, which is the same.
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = closed => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection broke off");
    }
}

async fn respond(router: Router, peer: SocketAddr, request: hyper::Request<Incoming>) -> Response {
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(Peer(peer));
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "serving a connection panicked");
    }
}
