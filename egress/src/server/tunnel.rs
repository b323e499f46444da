//! Bytes to and fro.

use std::io;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::Proxy;
use crate::metered::{Activity, Metered};

/// What is moved at once in each direction: enough that system calls do not dominate.
const BUFFER_BYTES: usize = 128 * 1024;

impl Proxy {
    /// Carries bytes until one side is done, nothing moves any more, or the connection's time is up. `first` was read from
    /// the agent already.
    pub(super) async fn tunnel(
        &self,
        agent: TcpStream,
        first: Vec<u8>,
        mut outside: TcpStream,
    ) -> io::Result<()> {
        self.parts.observer.opened();
        let activity = Activity::default();
        let mut agent = Metered::new(agent, first, activity.clone(), self.rate.clone());
        tokio::select! {
            ended = copy_bidirectional_with_sizes(&mut agent, &mut outside, BUFFER_BYTES, BUFFER_BYTES) => ended.map(drop),
            () = activity.idle(self.parts.limits.idle) => Ok(()),
        }
    }
}
