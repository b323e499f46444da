//! Bytes to and fro.

use std::io;
use std::sync::Arc;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::{Proxy, read_until};
use crate::denial::{Code, Denial};
use crate::host::Host;
use crate::metered::{Activity, Metered};
use crate::policy::PROTOCOLS;
use crate::protocol::client_hello;

/// What is moved at once in each direction: enough that system calls do not dominate.
const BUFFER_BYTES: usize = 128 * 1024;

/// Where a tunnel leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) host: &'a Host,
    pub(super) port: u16,
    /// Whether it has to begin as TLS does.
    pub(super) tls_only: bool,
}

impl Proxy {
    /// Whether what the agent sends begins as TLS does. Nothing has gone out before that is known; the tunnel stands already,
    /// so the agent is told by its end.
    async fn is_tls(
        &self,
        agent: &mut TcpStream,
        first: &mut Vec<u8>,
        to: Destination<'_>,
    ) -> io::Result<bool> {
        let limit = self.parts.limits.head;
        match read_until(agent, first, limit, client_hello).await? {
            Some(Ok(())) => Ok(true),
            // Gone, or it waits for the other side to begin, as no TLS client does.
            None => Ok(false),
            Some(Err(_)) => {
                let reason = "only https is allowed, and this is no TLS";
                self.denied(
                    &Denial::new(Code::ProtocolNotAllowed, reason)
                        .at(to.host, to.port)
                        .by(PROTOCOLS),
                );
                Ok(false)
            }
        }
    }

    /// Carries bytes until one side is done, nothing moves any more, or the connection's time is up. `first` was read from
    /// the agent already.
    pub(super) async fn tunnel(
        &self,
        mut agent: TcpStream,
        mut first: Vec<u8>,
        mut outside: TcpStream,
        to: Destination<'_>,
    ) -> io::Result<()> {
        if to.tls_only && !self.is_tls(&mut agent, &mut first, to).await? {
            return Ok(());
        }
        self.parts.observer.opened();
        let activity = Activity::default();
        let mut agent = Metered::new(
            agent,
            first,
            activity.clone(),
            Arc::clone(&self.parts.bounds),
        );
        tokio::select! {
            ended = copy_bidirectional_with_sizes(&mut agent, &mut outside, BUFFER_BYTES, BUFFER_BYTES) => ended.map(drop),
            () = activity.idle(self.parts.limits.idle) => Ok(()),
        }
    }
}
