//! Whatever an agent sends to its proxy is read or refused; what is read is one host in one spelling, and a policy that
//! allows nothing lets nothing through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_egress::{Ask, DomainRules, Head, Host, Policy, socks};

fuzz_target!(|bytes: &[u8]| {
    let closed = Policy {
        domains: vec![DomainRules {
            origin: "fuzz".into(),
            allowed: Some(Vec::new()),
            blocked: Vec::new(),
        }],
        ports: (1..=u16::MAX).collect(),
        ..Policy::default()
    };
    let check = |host: &Host, port: u16, ask: Ask<'_>| {
        let again = Host::parse(&host.to_string()).expect("what is shown can be read");
        assert_eq!(again, *host);
        assert!(closed.decide(host, port, ask).is_err());
    };
    if let Ok(Some(head)) = Head::parse(bytes) {
        assert!(head.length <= bytes.len());
        let ask = match &head.path {
            None => Ask::Tunnel,
            Some(path) => Ask::Request {
                method: &head.method,
                path,
            },
        };
        check(&head.host, head.port, ask);
    }
    let _refused = socks::greeting(bytes);
    if let Ok(Some((request, length))) = socks::request(bytes) {
        assert!(length <= bytes.len());
        check(&request.host, request.port, Ask::Tunnel);
    }
});
