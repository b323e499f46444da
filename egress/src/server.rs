//! The listener's side: who connects, what they speak, and how they are refused. A thin shell around the pure parts.

mod forward;
mod http;
mod socks;
mod tunnel;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::bounds::Bounds;
use crate::denial::{Code, Denial};
use crate::dial::Resolver;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::socks::VERSION;

/// Answers "too many" that may be under way; beyond them connections are just closed.
const BUSY_ANSWERS_MAX: usize = 16;

/// How long a refused client may take to read its answer.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a failed `accept`, which is for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Gives out the secrets that bindings name.
pub trait Credentials: Send + Sync + fmt::Debug + 'static {
    /// The secret of that name, when the instance may use it on this host.
    fn secret(&self, name: &str, host: &str) -> Option<Zeroizing<Vec<u8>>>;
}

/// No secrets at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn secret(&self, _: &str, _: &str) -> Option<Zeroizing<Vec<u8>>> {
        None
    }
}

/// Is told of what happens.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Something did not go through.
    fn denied(&self, denial: &Denial);
    /// A connection to the outside stands.
    fn opened(&self) {}
}

/// What a proxy is made of.
#[derive(Debug)]
pub struct ProxyParts {
    /// What may be reached.
    pub policy: Policy,
    /// Its times.
    pub limits: Limits,
    /// Its connections and its rate, which may change.
    pub bounds: Arc<Bounds>,
    /// Who knows addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Who knows secrets.
    pub credentials: Arc<dyn Credentials>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
    /// How TLS is spoken, from [`crate::tls_config`].
    pub tls: Arc<ClientConfig>,
}

/// The way out of one instance.
#[derive(Debug)]
pub struct Proxy {
    parts: ProxyParts,
}

impl Proxy {
    /// A proxy that serves nobody yet.
    #[must_use]
    pub const fn new(parts: ProxyParts) -> Self {
        Self { parts }
    }

    /// Serves a listener until the returned future is dropped; its connections end with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let busy = Arc::new(Semaphore::new(BUSY_ANSWERS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "an agent's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let proxy = Arc::clone(&self);
            let most = match self.parts.bounds.enter() {
                Ok(place) => {
                    tasks.spawn(async move {
                        proxy.connection(stream).await;
                        drop(place);
                    });
                    continue;
                }
                Err(most) => most,
            };
            let reason = format!("more than {most} connections at once; close some");
            let denial = Denial::new(Code::TooManyConnections, reason).by("maxConnections");
            self.parts.observer.denied(&denial);
            if let Ok(permit) = Arc::clone(&busy).try_acquire_owned() {
                tasks.spawn(async move {
                    refuse(stream, &denial.response()).await;
                    drop(permit);
                });
            }
        }
    }

    /// Serves one connection to its end, within the total limit.
    pub async fn connection(&self, stream: TcpStream) {
        // Without it a small answer may wait for the other side's acknowledgement.
        stream.set_nodelay(true).ok();
        // A broken connection is the agent's affair, or the server's; there is nobody to tell.
        let _ended = tokio::time::timeout(self.parts.limits.total, self.speak(stream)).await;
    }

    async fn speak(&self, stream: TcpStream) -> io::Result<()> {
        let mut first = [0];
        let peeked = tokio::time::timeout(self.parts.limits.head, stream.peek(&mut first)).await;
        match peeked {
            Ok(Ok(1)) if first[0] == VERSION => self.socks(stream).await,
            Ok(Ok(1)) => self.http(stream).await,
            // Gone, or silent for too long.
            _ => Ok(()),
        }
    }

    fn denied(&self, denial: &Denial) {
        self.parts.observer.denied(denial);
    }
}

/// Reads into `bytes` until `parse` says that it has what it wants; nothing when the client is gone or too slow.
async fn read_until<T, E>(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    limit: Duration,
    parse: impl Fn(&[u8]) -> Result<Option<T>, E>,
) -> io::Result<Option<Result<T, E>>> {
    let reading = async {
        loop {
            match parse(bytes) {
                Ok(None) => {}
                Ok(Some(value)) => return Ok(Some(Ok(value))),
                Err(error) => return Ok(Some(Err(error))),
            }
            if stream.read_buf(bytes).await? == 0 {
                return Ok(None);
            }
        }
    };
    tokio::time::timeout(limit, reading)
        .await
        .unwrap_or(Ok(None))
}

/// Sends an answer and closes such that it arrives: a close with unread bytes would reset the connection.
async fn refuse(mut stream: TcpStream, answer: &[u8]) {
    let told = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _gone_or_slow = tokio::time::timeout(LINGER, told).await;
}
