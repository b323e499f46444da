//! HTTP: `CONNECT` becomes a tunnel, a request in absolute form is forwarded.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::tunnel::Destination;
use super::{Proxy, read_until, refuse};
use crate::denial::{Code, Denial};
use crate::dial::dial;
use crate::head::{Head, HeadError};
use crate::host::HostError;
use crate::policy::Ask;

/// The answer to an opened tunnel.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Proxy {
    pub(super) async fn http(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(4096);
        let limit = self.parts.limits.head;
        let Some(read) = read_until(&mut stream, &mut bytes, limit, Head::parse).await? else {
            return Ok(());
        };
        let head = match read {
            Ok(head) => head,
            Err(error) => {
                let denial = malformed(&error).at(written_host(&bytes), 0);
                return self.answer(stream, denial).await;
            }
        };
        match &head.path {
            None => self.connect(stream, &head, bytes).await,
            Some(_) => self.forward(stream, &head, bytes).await,
        }
    }

    async fn connect(
        &self,
        mut stream: TcpStream,
        head: &Head,
        mut bytes: Vec<u8>,
    ) -> io::Result<()> {
        let parts = &self.parts;
        let reached = match parts.policy.decide(&head.host, head.port, Ask::Tunnel) {
            Ok(verdict) => {
                let limit = parts.limits.connect;
                dial(
                    &parts.policy,
                    &*parts.resolver,
                    limit,
                    &head.host,
                    verdict.port,
                )
                .await
                .map(|upstream| (upstream, verdict.tls_only))
            }
            Err(denial) => Err(denial),
        };
        match reached {
            Ok((upstream, tls_only)) => {
                stream.write_all(ESTABLISHED).await?;
                bytes.drain(..head.length);
                let to = Destination {
                    host: &head.host,
                    port: head.port,
                    tls_only,
                };
                self.tunnel(stream, bytes, upstream, to).await
            }
            Err(denial) => self.answer(stream, denial).await,
        }
    }

    /// Tells the agent and the observer.
    pub(super) async fn answer(&self, stream: TcpStream, denial: Denial) -> io::Result<()> {
        self.denied(&denial);
        refuse(stream, &denial.response()).await;
        Ok(())
    }
}

/// The host of a head that cannot be read, as it is written: without user, path and query, which may hold what is
/// nobody's business.
fn written_host(bytes: &[u8]) -> String {
    let line = bytes.split(u8::is_ascii_control).next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let target = line.split(' ').nth(1).unwrap_or_default();
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    let host = authority.rsplit_once('@');
    host.map_or(authority, |(_, host)| host).to_owned()
}

fn malformed(error: &HeadError) -> Denial {
    let code = match error {
        HeadError::TooLarge => Code::HeadTooLarge,
        // It can be read, and names what nobody gets to by that name.
        HeadError::Host(HostError::OddAddress | HostError::Idna) => Code::BadHost,
        HeadError::Host(HostError::Length | HostError::Characters | HostError::Label)
        | HeadError::Syntax(_)
        | HeadError::NotForProxies
        | HeadError::Mismatch
        | HeadError::Smuggling => Code::BadRequest,
    };
    Denial::new(code, error.to_string())
}
