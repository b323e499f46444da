use proptest::prelude::*;

use super::*;
use crate::address::grants_from;
use crate::broker::HeaderTemplate;
use crate::request::RequestRule;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts
        .iter()
        .map(|text| Pattern::parse(text).unwrap())
        .collect()
}

fn policy(allowed: Option<&[&str]>, blocked: &[&str]) -> Policy {
    Policy {
        domains: vec![DomainRules {
            origin: "security.networkAccess".to_owned(),
            allowed: allowed.map(patterns),
            blocked: patterns(blocked),
        }],
        ports: [80, 443].into(),
        ..Policy::default()
    }
}

fn code(policy: &Policy, host: &str, port: u16) -> Option<Code> {
    let host = Host::parse(host).unwrap();
    policy
        .decide(&host, port, Ask::Tunnel)
        .err()
        .map(|denial| denial.code)
}

#[test]
fn an_empty_list_allows_nothing_and_an_absent_one_every_name() {
    assert_eq!(
        code(&policy(Some(&[]), &[]), "a.test", 443),
        Some(Code::DomainNotAllowed)
    );
    assert_eq!(code(&policy(None, &[]), "a.test", 443), None);
    assert_eq!(
        code(&policy(None, &[]), "1.1.1.1", 443),
        Some(Code::DomainNotAllowed)
    );
    assert_eq!(code(&policy(Some(&["1.1.1.1"]), &[]), "1.1.1.1", 443), None);
}

#[test]
fn blocked_beats_allowed() {
    let both = policy(Some(&["*"]), &["*.evil.test", "bad.test"]);
    assert_eq!(code(&both, "a.evil.test", 443), Some(Code::DomainBlocked));
    assert_eq!(code(&both, "BAD.test.", 443), Some(Code::DomainBlocked));
    assert_eq!(code(&both, "good.test", 443), None);
}

#[test]
fn every_list_has_to_agree() {
    let mut two = policy(Some(&["a.test", "b.test"]), &[]);
    two.domains.push(DomainRules {
        origin: "sandbox.egress".to_owned(),
        allowed: Some(patterns(&["b.test"])),
        blocked: Vec::new(),
    });
    assert_eq!(code(&two, "a.test", 443), Some(Code::DomainNotAllowed));
    assert_eq!(code(&two, "b.test", 443), None);
}

#[test]
fn a_listed_address_needs_no_second_listing() {
    let mut two = policy(Some(&["1.1.1.1"]), &[]);
    two.domains.push(DomainRules {
        origin: "sandbox.egress".to_owned(),
        allowed: None,
        blocked: Vec::new(),
    });
    assert_eq!(code(&two, "1.1.1.1", 443), None);
    assert_eq!(code(&two, "1.1.1.2", 443), Some(Code::DomainNotAllowed));
}

#[test]
fn only_listed_ports_are_open() {
    let policy = policy(Some(&["a.test"]), &[]);
    assert_eq!(code(&policy, "a.test", 22), Some(Code::PortNotAllowed));
    assert_eq!(code(&policy, "a.test", 80), None);
}

#[test]
fn a_listed_address_that_is_not_public_still_needs_the_operator() {
    let mut listed = policy(Some(&["127.0.0.1", "169.254.169.254"]), &[]);
    assert_eq!(
        code(&listed, "127.0.0.1", 80),
        Some(Code::AddressNotAllowed)
    );
    listed.networks = grants_from(["127.0.0.0/8", "0.0.0.0/0"]).unwrap();
    assert_eq!(code(&listed, "127.0.0.1", 80), None);
    assert_eq!(
        code(&listed, "169.254.169.254", 80),
        Some(Code::AddressNotAllowed)
    );
}

fn with_requests() -> Policy {
    let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let rule = RequestRule::parse(
        &list(&["api.test"]),
        Some(&list(&["GET"])),
        Some(&list(&["/v1/*"])),
    );
    Policy {
        requests: vec![rule.unwrap()],
        ..policy(Some(&["api.test", "free.test"]), &[])
    }
}

#[test]
fn where_requests_are_named_nothing_else_passes() {
    let policy = with_requests();
    let host = Host::parse("api.test").unwrap();
    let ask = |method, path| {
        policy
            .decide(&host, 80, Ask::Request { method, path })
            .err()
            .map(|d| d.code)
    };
    assert_eq!(ask("GET", "/v1/models?x=/../"), None);
    assert_eq!(ask("POST", "/v1/models"), Some(Code::MethodNotAllowed));
    assert_eq!(ask("GET", "/v2"), Some(Code::PathNotAllowed));
    assert_eq!(ask("GET", "/v1/../admin"), Some(Code::PathNotAllowed));
    assert_eq!(ask("GET", "/v1/%2e%2e/admin"), Some(Code::PathNotAllowed));
    assert_eq!(code(&policy, "api.test", 443), Some(Code::TunnelNotAllowed));
    assert_eq!(code(&policy, "free.test", 443), None);
}

#[test]
fn a_credential_goes_only_where_it_is_bound() {
    let mut policy = policy(Some(&["api.test", "other.test"]), &[]);
    policy.brokered = vec![Binding {
        secret: "key".to_owned(),
        requests: RequestRule::parse(
            &["api.test".to_owned()],
            Some(&["GET".to_owned()]),
            Some(&["/v1/*".to_owned()]),
        )
        .unwrap(),
        header: HeaderTemplate::parse("Authorization: Bearer {secret}").unwrap(),
        tls: true,
    }];
    let bound = |host: &str, method, path| {
        let host = Host::parse(host).unwrap();
        let verdict = policy
            .decide(&host, 80, Ask::Request { method, path })
            .unwrap();
        (verdict.credential.is_some(), verdict.port)
    };
    assert_eq!(bound("api.test", "GET", "/v1/x"), (true, 443));
    assert_eq!(bound("api.test", "POST", "/v1/x"), (false, 80));
    assert_eq!(bound("api.test", "GET", "/v2"), (false, 80));
    assert_eq!(bound("api.test", "GET", "/v1/../v2"), (false, 80));
    assert_eq!(bound("other.test", "GET", "/v1/x"), (false, 80));
}

proptest! {
    /// Whatever the host is called, what is let through is on the list, at a dot's boundary.
    #[test]
    fn nothing_passes_that_no_list_names(text in "[a-zA-Z0-9.:%@*\\[\\]\u{fc}\u{3002}-]{0,40}(allowed\\.test|127\\.0\\.0\\.1)?\\.?", port: u16) {
        let policy = policy(Some(&["allowed.test", "*.allowed.test"]), &["no.allowed.test"]);
        if let Ok(host) = Host::parse(&text)
            && policy.decide(&host, port, Ask::Tunnel).is_ok()
        {
            let name = host.to_string();
            prop_assert!(name == "allowed.test" || name.ends_with(".allowed.test"), "{name}");
            prop_assert!(name != "no.allowed.test");
            prop_assert!(port == 80 || port == 443);
            prop_assert_eq!(Host::parse(&name).unwrap(), host);
        }
    }

    /// No address outside the public internet is dialled without a grant, whatever its family.
    #[test]
    fn no_hidden_v4_address_passes(v4: u32) {
        let v4 = std::net::Ipv4Addr::from(v4);
        let policy = Policy::default();
        if policy.permits_address(v4.into()).is_err() {
            let s = v4.octets();
            let (a, b) = (u16::from_be_bytes([s[0], s[1]]), u16::from_be_bytes([s[2], s[3]]));
            for v6 in [
                v4.to_ipv6_mapped(), v4.to_ipv6_compatible(),
                std::net::Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                std::net::Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 0),
            ] {
                prop_assert!(policy.permits_address(v6.into()).is_err(), "{v6}");
            }
        }
    }
}
