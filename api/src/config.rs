//! The limits of the HTTP surface.

use std::time::Duration;

use crate::tls::Tls;

/// Every bound of the HTTP surface. `Default` is what meshd ships with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Largest JSON body. A thousand tasks of ordinary size fit; a client with more sends several arrays.
    pub body_bytes_max: usize,
    /// Largest bundle. It is held in memory while it is checked.
    pub bundle_bytes_max: usize,
    /// How long the head of a request may take, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long an answer may take, beside what the caller asked to wait.
    pub answer_timeout: Duration,
    /// Open event streams and exports: each holds a connection for as long as its reader likes.
    pub streams_max: usize,
    /// Open connections. Further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// How long an event stream may be silent before a comment tells its reader that it lives.
    pub ping_interval: Duration,
    /// How long the kernel keeps a connection whose peer takes nothing.
    pub stall_timeout: Duration,
    /// How long requests in progress may take to end at shutdown.
    pub drain_timeout: Duration,
    /// Names in `Host` that are accepted on a loopback address, beside `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// TLS instead of plain HTTP.
    pub tls: Option<Tls>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 * 1024 * 1024,
            bundle_bytes_max: 64 * 1024 * 1024,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            // An upgrade stops one version and starts the other, each within its own limit.
            answer_timeout: Duration::from_mins(3),
            streams_max: 256,
            connections_max: 1024,
            ping_interval: Duration::from_secs(15),
            stall_timeout: Duration::from_mins(1),
            drain_timeout: Duration::from_secs(10),
            hosts: Vec::new(),
            tls: None,
        }
    }
}
