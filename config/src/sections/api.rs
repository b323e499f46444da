//! Bounds of the HTTP surface.

use mesh_messages::units::{ByteCount, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::TlsConfig;

/// Bounds of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Largest JSON body.
    pub body_size_max: ByteCount,
    /// Largest bundle.
    pub bundle_size_max: ByteCount,
    /// How long the head of a request may take, and how long an idle connection is kept.
    pub header_timeout: Span,
    /// How long the body of a request may take.
    pub body_timeout: Span,
    /// How long an answer may take, beside what the caller asked to wait.
    pub answer_timeout: Span,
    /// Open event streams and exports.
    #[schemars(range(min = 1))]
    pub streams_max: u32,
    /// Open connections.
    #[schemars(range(min = 1))]
    pub connections_max: u32,
    /// How long an event stream may be silent before a comment tells its reader that it lives.
    pub ping_interval: Span,
    /// How long a connection is kept whose peer takes nothing.
    pub stall_timeout: Span,
    /// How long requests in progress, and agents' work, may take to end at shutdown.
    pub drain_timeout: Span,
    /// Names in `Host` that are accepted on a loopback address, beside `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// How many requests one caller may make.
    pub rate_limit: RateLimit,
    /// TLS, and callers that are known by their certificates.
    pub tls: TlsConfig,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_size_max: ByteCount::from_bytes(16 << 20),
            bundle_size_max: ByteCount::from_bytes(64 << 20),
            header_timeout: Span::from_secs(15),
            body_timeout: Span::from_secs(30),
            answer_timeout: Span::from_secs(180),
            streams_max: 256,
            connections_max: 1024,
            ping_interval: Span::from_secs(15),
            stall_timeout: Span::from_secs(60),
            drain_timeout: Span::from_secs(10),
            hosts: Vec::new(),
            rate_limit: RateLimit::default(),
            tls: TlsConfig::default(),
        }
    }
}

/// How many requests one caller may make; beyond it the answer is 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Per second, over time.
    #[schemars(range(min = 1))]
    pub per_second: u32,
    /// At once.
    #[schemars(range(min = 1))]
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        // A script that polls every agent of a fleet stays below; a loop without a pause does not.
        Self {
            per_second: 1000,
            burst: 2000,
        }
    }
}
