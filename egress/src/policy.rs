//! What one instance may reach. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::refused_address;
use crate::broker::Binding;
use crate::denial::{Code, Denial};
use crate::host::{Host, Pattern};
use crate::permit::{self, Permit};
use crate::protocol::Protocol;
use crate::request::{RequestRule, plain_path};

/// A list of allowed and a list of blocked hosts, and who wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRules {
    /// Where they stand, such as `security.networkAccess`; for messages.
    pub origin: String,
    /// The only hosts; any name when absent, none at all when empty.
    pub allowed: Option<Vec<Pattern>>,
    /// Never these.
    pub blocked: Vec<Pattern>,
}

/// What one instance may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Lists that must all agree: the manifest's and the operator's.
    pub domains: Vec<DomainRules>,
    /// The only ports.
    pub ports: BTreeSet<u16>,
    /// The only protocols; any that the proxy speaks when absent.
    pub protocols: Option<BTreeSet<Protocol>>,
    /// Hosts of which only some requests are allowed. Where several speak of a host, one must allow the request.
    pub requests: Vec<RequestRule>,
    /// What of all this the agent's own permissions leave; everything when absent. One must permit what is asked.
    pub permits: Option<Vec<Permit>>,
    /// Networks that are not public and open all the same, by the operator's word.
    pub networks: Vec<IpNet>,
    /// Names that are not looked up, by the operator's word.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Credentials that are added on the way out.
    pub brokered: Vec<Binding>,
}

/// What an agent wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Bytes to and fro, which nobody reads.
    Tunnel,
    /// One HTTP request.
    Request {
        /// Its method.
        method: &'a str,
        /// Its path, with the query if there is one.
        path: &'a str,
    },
}

/// What follows from a yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The credential to add.
    pub credential: Option<&'a Binding>,
    /// The port to dial: with TLS in the agent's name, 80 means 443.
    pub port: u16,
    /// Whether the tunnel has to begin as TLS does.
    pub tls_only: bool,
    /// Whether the method or the path decided, so that no header may change them behind the proxy.
    pub literal: bool,
}

/// The rule that names protocols.
pub(crate) const PROTOCOLS: &str = "policy.networkLimit.allowedProtocols";

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

impl Policy {
    /// Whether this may go to that host and port, as far as can be said without resolving its name.
    ///
    /// # Errors
    /// The [`Denial`], naming the rule.
    pub fn decide(&self, host: &Host, port: u16, ask: Ask<'_>) -> Result<Verdict<'_>, Denial> {
        for rules in &self.domains {
            rules.check(host).map_err(|denial| denial.at(host, port))?;
        }
        let bare = matches!(host, Host::Address(_));
        if bare && !self.domains.iter().any(|rules| rules.names(host)) {
            let reason = "a bare address is reached only where allowedDomains lists it";
            return Err(Denial::new(Code::DomainNotAllowed, reason)
                .at(host, port)
                .by("allowedDomains"));
        }
        let mut verdict = self.bound(host, port, ask);
        if !self.ports.contains(&verdict.port) {
            let open: Vec<String> = self.ports.iter().map(u16::to_string).collect();
            let reason = format!(
                "port {} is not open; open: {}",
                verdict.port,
                open.join(", ")
            );
            return Err(Denial::new(Code::PortNotAllowed, reason)
                .at(host, port)
                .by("ports"));
        }
        verdict.tls_only = self
            .protocol(ask, verdict.credential)
            .map_err(|denial| denial.at(host, port))?;
        let narrowed = self
            .request(host, ask)
            .map_err(|denial| denial.at(host, port))?;
        verdict.literal = narrowed || verdict.credential.is_some_and(Binding::is_narrowed);
        if let Some(permits) = &self.permits {
            permit::check(permits, host, ask).map_err(|denial| denial.at(host, port))?;
        }
        if let Host::Address(address) = host {
            self.permits_address(*address)
                .map_err(|denial| denial.at(host, port))?;
        }
        Ok(verdict)
    }

    /// Whether an address, written or resolved, may be dialled.
    ///
    /// # Errors
    /// The [`Denial`], about no host yet.
    pub fn permits_address(&self, address: IpAddr) -> Result<(), Denial> {
        match refused_address(address, &self.networks) {
            None => Ok(()),
            Some(what) => {
                let reason = format!("{address} is {what}; only the operator can open it");
                Err(Denial::new(Code::AddressNotAllowed, reason).by("sandbox.egress.networks"))
            }
        }
    }

    /// The credential that a request gets, and where it goes then.
    fn bound(&self, host: &Host, port: u16, ask: Ask<'_>) -> Verdict<'_> {
        let Ask::Request { method, path } = ask else {
            return Verdict {
                credential: None,
                port,
                tls_only: false,
                literal: false,
            };
        };
        let path = without_query(path);
        let fits = |binding: &&Binding| {
            binding.concerns(host)
                && plain_path(path)
                && binding.requests.takes_method(method)
                && binding.requests.takes_path(path)
        };
        let credential = self.brokered.iter().find(fits);
        let port = match credential {
            Some(binding) if binding.tls && port == HTTP_PORT => HTTPS_PORT,
            _ => port,
        };
        Verdict {
            credential,
            port,
            tls_only: false,
            literal: false,
        }
    }

    /// Whether the protocol is allowed; whether what goes through has to be TLS then.
    fn protocol(&self, ask: Ask<'_>, credential: Option<&Binding>) -> Result<bool, Denial> {
        let Some(allowed) = &self.protocols else {
            return Ok(false);
        };
        let speaks = |protocol| allowed.contains(&protocol);
        let (well, tls_only, what) = match ask {
            Ask::Tunnel => {
                let any = speaks(Protocol::Tcp);
                let https = speaks(Protocol::Https);
                (any || https, !any, "tunnels are")
            }
            Ask::Request { .. } if credential.is_some_and(|binding| binding.tls) => {
                (speaks(Protocol::Https), false, "https is")
            }
            Ask::Request { .. } => (speaks(Protocol::Http), false, "plain http is"),
        };
        if well {
            return Ok(tls_only);
        }
        let reason = format!("{what} not among the protocols that the agent may speak");
        Err(Denial::new(Code::ProtocolNotAllowed, reason).by(PROTOCOLS))
    }

    /// Whether single requests to this host are bound, when this one may go.
    fn request(&self, host: &Host, ask: Ask<'_>) -> Result<bool, Denial> {
        let about: Vec<&RequestRule> = self
            .requests
            .iter()
            .filter(|rule| rule.hosts.iter().any(|pattern| pattern.matches(host)))
            .collect();
        let rule = "security.networkAccess.requests";
        if about.is_empty() {
            return Ok(false);
        }
        let Ask::Request { method, path } = ask else {
            let reason = "only some requests are allowed on this host, and a tunnel hides which: send them in plain HTTP \
                          to the proxy";
            return Err(Denial::new(Code::TunnelNotAllowed, reason).by(rule));
        };
        let path = without_query(path);
        if !plain_path(path) {
            let reason = "the path can be read in two ways: no `..`, `//`, `;`, backslash, nor escapes of them";
            return Err(Denial::new(Code::PathNotAllowed, reason).by(rule));
        }
        if about
            .iter()
            .any(|rule| rule.takes_method(method) && rule.takes_path(path))
        {
            return Ok(true);
        }
        if about.iter().any(|rule| rule.takes_method(method)) {
            return Err(Denial::new(
                Code::PathNotAllowed,
                "this path is not allowed on this host",
            )
            .by(rule));
        }
        let reason = "this method is not allowed on this host";
        Err(Denial::new(Code::MethodNotAllowed, reason).by(rule))
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

impl DomainRules {
    fn check(&self, host: &Host) -> Result<(), Denial> {
        // Deny wins: whatever stands on both lists is blocked.
        if let Some(pattern) = self.blocked.iter().find(|pattern| pattern.matches(host)) {
            return Err(Denial::new(Code::DomainBlocked, "this host is blocked")
                .by(format!("{}.blockedDomains: {pattern}", self.origin)));
        }
        match &self.allowed {
            Some(list) if !list.iter().any(|pattern| pattern.matches(host)) => {
                Err(self.not_allowed("this host is not among those that the agent may reach"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the list of allowed hosts names this one; an absent list names nobody.
    fn names(&self, host: &Host) -> bool {
        self.allowed
            .as_ref()
            .is_some_and(|list| list.iter().any(|pattern| pattern.matches(host)))
    }

    fn not_allowed(&self, reason: &str) -> Denial {
        Denial::new(Code::DomainNotAllowed, reason).by(format!("{}.allowedDomains", self.origin))
    }
}

#[cfg(test)]
mod tests;
