//! Addresses that no agent reaches unless the operator says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Where clouds answer with credentials: machines, containers and pods, and Azure's host, whose address looks public. A
/// wider grant does not include them; they have to be named.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Blocks of IPv4 that are not the public internet.
const V4: [(Ipv4Addr, u8, &str); 15] = [
    (Ipv4Addr::UNSPECIFIED, 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a carrier"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a 6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// Blocks within `2000::/3` that are not the public internet, or that hide an IPv4 address.
const V6: [(Ipv6Addr, u8, &str); 4] = [
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "for protocols",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "for documentation",
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        "an IPv4 address within IPv6 (6to4)",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "for documentation",
    ),
];

/// What is wrong with an address for an agent, or nothing. `granted` are the networks that the operator opened.
#[must_use]
pub fn refused_address(address: IpAddr, granted: &[IpNet]) -> Option<&'static str> {
    // However it is dressed: a grant of all of IPv6 is no grant of what hides in it.
    let hidden = hidden_v4(address).is_some_and(|inner| METADATA.contains(&inner.into()));
    if hidden || METADATA.contains(&address) {
        let named = granted
            .iter()
            .any(|net| net.addr() == address && net.prefix_len() == net.max_prefix_len());
        return (!named).then_some("a cloud's metadata service");
    }
    if granted.iter().any(|net| net.contains(&address)) {
        return None;
    }
    match address {
        IpAddr::V4(address) => V4
            .iter()
            .find(|(net, bits, _)| {
                let mask = u32::MAX << (32 - u32::from(*bits));
                address.to_bits() & mask == net.to_bits()
            })
            .map(|(_, _, what)| *what),
        IpAddr::V6(address) => v6(address),
    }
}

/// The IPv4 address that an IPv6 address leads to, on a network that translates: mapped, compatible, translated (SIIT),
/// NAT64 with its well-known prefix, 6to4.
fn hidden_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(inner(high, low)),
        _ => None,
    }
}

fn v6(address: Ipv6Addr) -> Option<&'static str> {
    let within = |net: Ipv6Addr, bits: u8| {
        let mask = u128::MAX << (128 - u32::from(bits));
        address.to_bits() & mask == net.to_bits()
    };
    if !within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3) {
        let first = address.segments()[0];
        return Some(match address {
            Ipv6Addr::LOCALHOST => "loopback",
            Ipv6Addr::UNSPECIFIED => "no address",
            _ if address.to_ipv4_mapped().is_some() => "an IPv4 address within IPv6 (mapped)",
            _ if first == 0x64 => "an IPv4 address within IPv6 (NAT64)",
            _ if first & 0xffc0 == 0xfe80 => "link-local",
            _ if first & 0xfe00 == 0xfc00 => "private",
            _ if first & 0xff00 == 0xff00 => "multicast",
            _ => "not public",
        });
    }
    V6.iter()
        .find(|(net, bits, _)| within(*net, *bits))
        .map(|(_, _, what)| *what)
}

/// Networks as an operator writes them: `10.1.0.0/16`, `::1/128`, or an address alone.
///
/// # Errors
/// The first text that is none of these.
pub fn grants_from<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<IpNet>, String> {
    let read = |text: &str| {
        let net = text.parse::<IpNet>().ok().map(|net| net.trunc());
        net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .ok_or_else(|| text.to_owned())
    };
    texts.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, granted: &[&str]) -> Option<&'static str> {
        let granted = grants_from(granted.iter().copied()).unwrap();
        refused_address(address.parse().unwrap(), &granted)
    }

    #[test]
    fn only_the_public_internet_is_open_without_a_grant() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "168.63.129.16",
            "169.254.170.2",
            "169.254.170.23",
            "192.0.0.192",
            "::ffff:0:808:808",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(refused(address, &[]).is_some(), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(refused(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn a_grant_opens_what_it_names_and_no_more() {
        assert_eq!(refused("127.0.0.1", &["127.0.0.0/8"]), None);
        assert_eq!(refused("10.1.2.3", &["10.1.2.3"]), None);
        assert!(refused("10.1.2.4", &["10.1.2.3"]).is_some());
        assert!(refused("::ffff:127.0.0.1", &["127.0.0.0/8"]).is_some());
        assert!(refused("169.254.169.254", &["0.0.0.0/0", "169.254.0.0/16"]).is_some());
        assert_eq!(refused("169.254.169.254", &["169.254.169.254"]), None);
        assert!(refused("168.63.129.16", &["168.63.0.0/16"]).is_some());
        for dressed in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:a9fe:a9fe",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(refused(dressed, &["::/0"]).is_some(), "{dressed}");
            assert!(
                refused(dressed, &["169.254.169.254"]).is_some(),
                "{dressed}"
            );
            assert_eq!(refused(dressed, &[dressed]), None, "{dressed}");
        }
        assert_eq!(refused("::ffff:10.1.2.3", &["::/0"]), None);
        assert!(grants_from(["10.0.0.0/33"]).is_err());
    }
}
