//! Why something did not go through, for the agent and for the audit.

use serde::Serialize;

/// The kind of a refusal. Stable: agents and tests go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// What was sent is no request that a proxy takes.
    BadRequest,
    /// The head of the request is longer than the bound.
    HeadTooLarge,
    /// The host's name is no name.
    BadHost,
    /// The host is on no list of allowed ones.
    DomainNotAllowed,
    /// The host is on a list of blocked ones.
    DomainBlocked,
    /// The port is not open.
    PortNotAllowed,
    /// The method is not allowed on that host.
    MethodNotAllowed,
    /// The path is not allowed on that host.
    PathNotAllowed,
    /// The protocol is not allowed.
    ProtocolNotAllowed,
    /// The host is allowed for single requests only, which a tunnel hides.
    TunnelNotAllowed,
    /// The agent's own permissions do not leave it.
    PermissionMissing,
    /// The address behind the name belongs to no agent's world.
    AddressNotAllowed,
    /// SOCKS asked for something else than a connection.
    CommandNotAllowed,
    /// Too many connections at once.
    TooManyConnections,
    /// The name cannot be resolved.
    NotResolved,
    /// Nobody answers there.
    Unreachable,
    /// It took too long.
    Timeout,
    /// The credential for this request is not at hand.
    CredentialMissing,
    /// Not an answer to anybody: refusals that a record counts together.
    Several,
}

impl Code {
    /// The name in answers, records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::HeadTooLarge => "head_too_large",
            Self::BadHost => "bad_host",
            Self::DomainNotAllowed => "domain_not_allowed",
            Self::DomainBlocked => "domain_blocked",
            Self::PortNotAllowed => "port_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::ProtocolNotAllowed => "protocol_not_allowed",
            Self::TunnelNotAllowed => "tunnel_not_allowed",
            Self::PermissionMissing => "permission_missing",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::CommandNotAllowed => "command_not_allowed",
            Self::TooManyConnections => "too_many_connections",
            Self::NotResolved => "not_resolved",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::CredentialMissing => "credential_missing",
            Self::Several => "several",
        }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "Bad Request"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::TooManyConnections | Self::CredentialMissing => (503, "Service Unavailable"),
            Self::NotResolved | Self::Unreachable => (502, "Bad Gateway"),
            Self::Timeout => (504, "Gateway Timeout"),
            Self::BadHost
            | Self::DomainNotAllowed
            | Self::DomainBlocked
            | Self::PortNotAllowed
            | Self::MethodNotAllowed
            | Self::PathNotAllowed
            | Self::ProtocolNotAllowed
            | Self::TunnelNotAllowed
            | Self::PermissionMissing
            | Self::AddressNotAllowed
            | Self::CommandNotAllowed
            | Self::Several => (403, "Forbidden"),
        }
    }

    /// Whether somebody refused it, rather than it having failed.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        !matches!(
            self,
            Self::NotResolved | Self::Unreachable | Self::Timeout | Self::CredentialMissing
        )
    }
}

/// Why something did not go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {reason}", .code.name())]
pub struct Denial {
    /// Its kind.
    pub code: Code,
    /// In words, with what to do about it.
    pub reason: String,
    /// The host that was asked for, as far as it could be read.
    pub host: String,
    /// The port that was asked for; 0 when it could not be read.
    pub port: u16,
    /// The rule that decided, when one did.
    pub rule: Option<String>,
}

/// Longest host in a denial: an agent chose it, and it goes into records.
const HOST_CHARS_MAX: usize = 253;

impl Denial {
    /// A denial about no host.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            host: String::new(),
            port: 0,
            rule: None,
        }
    }

    /// About this host and port.
    #[must_use]
    pub fn at(mut self, host: impl ToString, port: u16) -> Self {
        // Control characters would let an agent write lines of its own into whatever shows this.
        let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        self.host = host
            .to_string()
            .chars()
            .take(HOST_CHARS_MAX)
            .map(clean)
            .collect();
        self.port = port;
        self
    }

    /// By this rule.
    #[must_use]
    pub fn by(mut self, rule: impl ToString) -> Self {
        self.rule = Some(rule.to_string());
        self
    }

    /// The answer to an HTTP client, whole.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let body = self.body();
        let (status, phrase) = self.code.status();
        // The code is in the phrase, too: of a refused CONNECT many clients show nothing else.
        let code = self.code.name();
        let mut text = format!(
            "HTTP/1.1 {status} {phrase} ({code})\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\nCache-Control: no-store\r\nX-Mesh-Egress: {code}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        text.extend(body);
        text
    }

    /// The JSON that an agent reads.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        // Strings and numbers alone: serialising them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
