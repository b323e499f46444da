//! SOCKS5, from greeting to tunnel.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::tunnel::Destination;
use super::{Proxy, read_until, refuse};
use crate::denial::{Code, Denial};
use crate::dial::dial;
use crate::policy::Ask;
use crate::socks::{self, MESSAGE_BYTES_MAX, SocksError};

impl Proxy {
    pub(super) async fn socks(&self, mut stream: TcpStream) -> io::Result<()> {
        let limit = self.parts.limits.head;
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES_MAX);
        let Some(greeted) = read_until(&mut stream, &mut bytes, limit, socks::greeting).await?
        else {
            return Ok(());
        };
        match greeted {
            Ok(((), length)) => drop(bytes.drain(..length)),
            Err(error) => {
                self.malformed(&error);
                refuse(stream, &socks::GREETING_REFUSED).await;
                return Ok(());
            }
        }
        stream.write_all(&socks::GREETING_ACCEPTED).await?;
        let Some(asked) = read_until(&mut stream, &mut bytes, limit, socks::request).await? else {
            return Ok(());
        };
        let (request, length) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                self.malformed(&error);
                refuse(stream, &socks::malformed(&error)).await;
                return Ok(());
            }
        };
        bytes.drain(..length);
        let parts = &self.parts;
        let reached = match parts
            .policy
            .decide(&request.host, request.port, Ask::Tunnel)
        {
            Ok(verdict) => {
                let limit = parts.limits.connect;
                dial(
                    &parts.policy,
                    &*parts.resolver,
                    limit,
                    &request.host,
                    verdict.port,
                )
                .await
                .map(|upstream| (upstream, verdict.tls_only))
            }
            Err(denial) => Err(denial),
        };
        match reached {
            Ok((upstream, tls_only)) => {
                stream.write_all(&socks::accepted()).await?;
                let to = Destination {
                    host: &request.host,
                    port: request.port,
                    tls_only,
                };
                self.tunnel(stream, bytes, upstream, to).await
            }
            Err(denial) => {
                self.denied(&denial);
                refuse(stream, &socks::refused(denial.code)).await;
                Ok(())
            }
        }
    }

    fn malformed(&self, error: &SocksError) {
        let code = match error {
            SocksError::Command => Code::CommandNotAllowed,
            SocksError::Host | SocksError::AddressType => Code::BadHost,
            SocksError::Syntax | SocksError::Authentication => Code::BadRequest,
        };
        self.denied(&Denial::new(code, error.to_string()));
    }
}
