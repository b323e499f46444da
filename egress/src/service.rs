//! What meshd itself may call for others: a workflow's plain services. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::refused_address;
use crate::denial::{Code, Denial};
use crate::dial::permitted;
use crate::host::{Host, Pattern};

/// What may be called. Unlike an agent's way out it takes bare addresses and any port unless told otherwise: whoever may
/// run workflows is trusted with more than a program in a sandbox, but not with whatever this host can reach.
///
/// The default leaves only what is public.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePolicy {
    /// The only hosts; any when absent, none when empty.
    pub allowed: Option<Vec<Pattern>>,
    /// Never these.
    pub blocked: Vec<Pattern>,
    /// The only ports; any when absent.
    pub ports: Option<BTreeSet<u16>>,
    /// Networks that are not public and open all the same. A cloud's metadata address only when it is named itself.
    pub networks: Vec<IpNet>,
}

impl ServicePolicy {
    /// Whether this host and port may be called, as far as can be said without resolving its name.
    ///
    /// # Errors
    /// The [`Denial`], naming the key of the configuration that decided.
    pub fn decide(&self, host: &Host, port: u16) -> Result<(), Denial> {
        let refused = |code, reason: &str, rule: String| {
            Err(Denial::new(code, reason).at(host, port).by(rule))
        };
        if let Some(pattern) = self.blocked.iter().find(|pattern| pattern.matches(host)) {
            let rule = format!("services.blocked_domains: {pattern}");
            return refused(Code::DomainBlocked, "this host is blocked", rule);
        }
        if let Some(allowed) = &self.allowed
            && !allowed.iter().any(|pattern| pattern.matches(host))
        {
            let reason = "this host is not among those that may be called";
            let rule = "services.allowed_domains".to_owned();
            return refused(Code::DomainNotAllowed, reason, rule);
        }
        if let Some(ports) = &self.ports
            && !ports.contains(&port)
        {
            let reason = format!("port {port} is not among those that may be called");
            return refused(Code::PortNotAllowed, &reason, "services.ports".to_owned());
        }
        match host {
            Host::Address(address) => self.permits_address(*address),
            Host::Name(_) => Ok(()),
        }
        .map_err(|denial| denial.at(host, port))
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
                Err(Denial::new(Code::AddressNotAllowed, reason).by("services.networks"))
            }
        }
    }

    /// Those of a name's addresses that may be dialled, in their order.
    ///
    /// # Errors
    /// The first refusal when none may; [`Code::NotResolved`] when there are none.
    pub fn permitted(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Denial> {
        permitted(addresses, |address| self.permits_address(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::grants_from;

    fn internal() -> ServicePolicy {
        let networks = ["127.0.0.0/8", "::1", "10.0.0.0/8"];
        ServicePolicy {
            networks: grants_from(networks).unwrap(),
            ..ServicePolicy::default()
        }
    }

    fn asked(policy: &ServicePolicy, host: &str, port: u16) -> Result<(), (Code, String)> {
        let host = Host::parse(host).unwrap();
        let decided = policy.decide(&host, port);
        decided.map_err(|denial| (denial.code, denial.rule.unwrap()))
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|t| Pattern::parse(t).unwrap()).collect()
    }

    #[test]
    fn what_is_open_is_called_and_the_metadata_of_a_cloud_never_by_a_wider_grant() {
        let policy = internal();
        for host in ["127.0.0.1", "::1", "10.1.2.3", "1.1.1.1", "prices.example"] {
            assert_eq!(asked(&policy, host, 8080), Ok(()), "{host}");
        }
        let refused = |host| (host, (Code::AddressNotAllowed, "services.networks".into()));
        for (host, denied) in
            ["169.254.169.254", "192.168.1.1", "fd00:ec2::254", "0.0.0.0"].map(refused)
        {
            assert_eq!(asked(&policy, host, 80), Err(denied), "{host}");
        }
        let wide = ServicePolicy {
            networks: grants_from(["0.0.0.0/0", "::/0"]).unwrap(),
            ..policy.clone()
        };
        assert!(asked(&wide, "192.168.1.1", 80).is_ok());
        for host in ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"] {
            assert!(asked(&wide, host, 80).is_err(), "{host}");
        }
        let named = ServicePolicy {
            networks: grants_from(["169.254.169.254"]).unwrap(),
            ..policy
        };
        assert!(asked(&named, "169.254.169.254", 80).is_ok());
    }

    #[test]
    fn lists_and_ports_hold_for_names_and_addresses_and_blocked_wins() {
        let policy = ServicePolicy {
            allowed: Some(patterns(&["*.example", "10.0.0.7"])),
            blocked: patterns(&["old.example"]),
            ports: Some([80, 8443].into()),
            ..internal()
        };
        assert_eq!(asked(&policy, "new.example", 80), Ok(()));
        assert_eq!(asked(&policy, "10.0.0.7", 8443), Ok(()));
        let cases = [
            (
                "old.example",
                80,
                Code::DomainBlocked,
                "services.blocked_domains: old.example",
            ),
            (
                "10.0.0.8",
                80,
                Code::DomainNotAllowed,
                "services.allowed_domains",
            ),
            (
                "elsewhere.test",
                80,
                Code::DomainNotAllowed,
                "services.allowed_domains",
            ),
            ("new.example", 81, Code::PortNotAllowed, "services.ports"),
        ];
        for (host, port, code, rule) in cases {
            assert_eq!(
                asked(&policy, host, port),
                Err((code, rule.to_owned())),
                "{host}:{port}"
            );
        }
        let nobody = ServicePolicy {
            allowed: Some(Vec::new()),
            ..internal()
        };
        assert!(asked(&nobody, "new.example", 80).is_err());
    }

    #[test]
    fn of_a_names_addresses_only_the_permitted_are_dialled() {
        let policy = internal();
        let of =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let mixed = of(&["169.254.169.254", "10.0.0.1", "192.168.0.1", "1.1.1.1"]);
        assert_eq!(
            policy.permitted(&mixed).unwrap(),
            of(&["10.0.0.1", "1.1.1.1"])
        );
        let rebound = policy.permitted(&of(&["169.254.169.254"])).unwrap_err();
        assert_eq!(rebound.code, Code::AddressNotAllowed);
        assert_eq!(policy.permitted(&[]).unwrap_err().code, Code::NotResolved);
    }
}
