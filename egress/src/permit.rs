//! What of the way out an agent's own permissions leave: kinds of acts, host by host.

use std::collections::BTreeSet;

use crate::denial::{Code, Denial};
use crate::host::{Host, HostError, Pattern};
use crate::policy::Ask;

/// What is done to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Reading: `GET`, `HEAD`, `OPTIONS`.
    Read,
    /// Changing: every other method but `DELETE`, and those that nobody knows.
    Write,
    /// `DELETE`.
    Delete,
    /// A tunnel, in which nobody sees what is done.
    Tunnel,
}

impl Act {
    /// What an ask comes to.
    #[must_use]
    pub fn of(ask: Ask<'_>) -> Self {
        match ask {
            Ask::Tunnel => Self::Tunnel,
            Ask::Request { method, .. } => match method {
                "GET" | "HEAD" | "OPTIONS" => Self::Read,
                "DELETE" => Self::Delete,
                _ => Self::Write,
            },
        }
    }

    /// The permission that it needs.
    const fn permission(self) -> &'static str {
        match self {
            Self::Read => "network:read",
            Self::Write => "network:write",
            Self::Delete => "network:delete",
            Self::Tunnel => "network:execute",
        }
    }
}

/// Acts that are permitted on some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    host: Option<Pattern>,
    acts: BTreeSet<Act>,
}

impl Permit {
    /// These acts on the hosts of this name, `*.` before it for all below it; on any when absent.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(
        host: Option<&str>,
        acts: impl IntoIterator<Item = Act>,
    ) -> Result<Self, HostError> {
        Ok(Self {
            host: host.map(Pattern::parse).transpose()?,
            acts: acts.into_iter().collect(),
        })
    }

    fn allows(&self, host: &Host, act: Act) -> bool {
        self.acts.contains(&act)
            && self
                .host
                .as_ref()
                .is_none_or(|pattern| pattern.matches(host))
    }
}

/// Whether one of these permits the act.
///
/// # Errors
/// The [`Denial`], about no host yet; its rule names the permission that is missing.
pub(crate) fn check(permits: &[Permit], host: &Host, ask: Ask<'_>) -> Result<(), Denial> {
    let act = Act::of(ask);
    if permits.iter().any(|permit| permit.allows(host, act)) {
        return Ok(());
    }
    let reason = match act {
        Act::Tunnel => {
            "the agent's permissions leave no tunnel to this host, as nobody sees what goes through one; single requests go in \
             plain HTTP to the proxy"
        }
        Act::Read | Act::Write | Act::Delete => {
            "the agent's permissions leave no such request to this host"
        }
    };
    let rule = format!("permission {} ({host})", act.permission());
    Err(Denial::new(Code::PermissionMissing, reason).by(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(permits: &[Permit], host: &str, ask: Ask<'_>) -> Option<String> {
        let host = Host::parse(host).unwrap();
        let denial = check(permits, &host, ask).err()?;
        assert_eq!(denial.code, Code::PermissionMissing);
        denial.rule
    }

    const fn request(method: &str) -> Ask<'_> {
        Ask::Request { method, path: "/" }
    }

    #[test]
    fn an_act_needs_a_permit_for_it_on_that_host() {
        let permits = [
            Permit::parse(Some("a.example"), [Act::Read]).unwrap(),
            Permit::parse(Some("*.b.example"), [Act::Write, Act::Tunnel]).unwrap(),
        ];
        for (method, missing) in [
            ("GET", None),
            ("HEAD", None),
            ("OPTIONS", None),
            ("POST", Some("permission network:write (a.example)")),
            ("get", Some("permission network:write (a.example)")),
            ("PROPFIND", Some("permission network:write (a.example)")),
            ("DELETE", Some("permission network:delete (a.example)")),
        ] {
            assert_eq!(
                asked(&permits, "a.example", request(method)).as_deref(),
                missing
            );
        }
        let tunnel = "permission network:execute (a.example)";
        assert_eq!(
            asked(&permits, "a.example", Ask::Tunnel).as_deref(),
            Some(tunnel)
        );
        assert_eq!(asked(&permits, "x.b.example", Ask::Tunnel), None);
        assert_eq!(asked(&permits, "x.b.example", request("PUT")), None);
        assert!(asked(&permits, "x.b.example", request("GET")).is_some());
        assert!(asked(&permits, "b.example", request("PUT")).is_some());
        assert!(asked(&permits, "sub.a.example", request("GET")).is_some());
        assert!(asked(&[], "a.example", request("GET")).is_some());
    }

    #[test]
    fn permits_for_any_host_are_for_addresses_too() {
        let any = [Permit::parse(None, [Act::Read]).unwrap()];
        assert_eq!(asked(&any, "10.0.0.1", request("GET")), None);
        let names = [Permit::parse(Some("*"), [Act::Read]).unwrap()];
        assert!(asked(&names, "10.0.0.1", request("GET")).is_some());
    }
}
