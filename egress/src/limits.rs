//! Bounds of one instance's way out.

use std::time::Duration;

/// Bounds of one instance's way out. Every wait and every number has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is answered with 503.
    pub connections: u32,
    /// Bytes per second, both directions and all connections together; unlimited when absent.
    pub bytes_per_second: Option<u32>,
    /// For the head of a request, or the greetings of SOCKS.
    pub head: Duration,
    /// For the name and the connection.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// For a connection as a whole.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            bytes_per_second: None,
            head: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            // Longer than a language model thinks before its first word.
            idle: Duration::from_mins(5),
            total: Duration::from_hours(1),
        }
    }
}
