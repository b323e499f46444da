//! Hosts as they are compared: one spelling each, or refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name in DNS.
const NAME_MAX: usize = 253;

/// Longest label in DNS.
const LABEL_MAX: usize = 63;

/// A host in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name: lower-case letters, digits, `-`, labels with dots between, no dot at the end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Why a text is no host. Whoever wrote it has to write it plainly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing, or more than DNS carries.
    #[error("a host has 1 to {NAME_MAX} bytes")]
    Length,
    /// Something that belongs to no host name.
    #[error("a host is letters, digits, hyphens and dots, or an address")]
    Characters,
    /// A label that is empty, too long, or begins or ends with a hyphen.
    #[error("a part of the name is empty, too long, or has a hyphen at its end")]
    Label,
    /// Not a valid internationalised name.
    #[error("the name is no valid internationalised domain name")]
    Idna,
    /// `127.1`, `0x7f000001`, `2130706433`, `fe80::1%eth0`: programs disagree on what these mean, or they mean something of
    /// this host.
    #[error("an IPv4 address is four decimal numbers, one of IPv6 has no zone")]
    OddAddress,
}

impl Host {
    /// Reads a host as a client writes it, an IPv6 address with or without its brackets.
    ///
    /// # Errors
    /// [`HostError`], for whatever could be read in two ways.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let inner = text.strip_prefix('[').map(|rest| rest.strip_suffix(']'));
        match inner {
            Some(Some(inner)) => return v6(inner),
            Some(None) => return Err(HostError::Characters),
            None if text.contains(':') => return v6(text),
            None => {}
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(HostError::Length);
        }
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = ascii(name)?;
        labels(&name)?;
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last
            .strip_prefix("0x")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostError::OddAddress);
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

fn v6(text: &str) -> Result<Host, HostError> {
    // A zone (`fe80::1%eth0`) names an interface of this host, which is no agent's business: it does not parse.
    let address: Ipv6Addr = text.parse().map_err(|_| HostError::OddAddress)?;
    Ok(Host::Address(address.into()))
}

/// The name in the letters of DNS, lower case.
fn ascii(name: &str) -> Result<String, HostError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if name.is_ascii() && !name.bytes().all(plain) {
        return Err(HostError::Characters);
    }
    let lower = name.to_ascii_lowercase();
    if lower.is_ascii() && !lower.split('.').any(|label| label.starts_with("xn--")) {
        return Ok(lower);
    }
    let encoded = idna::domain_to_ascii_strict(&lower).map_err(|_| HostError::Idna)?;
    if encoded.len() > NAME_MAX || !encoded.bytes().all(plain) {
        return Err(HostError::Idna);
    }
    // Compatibility forms may have become dots at the end, or digits.
    if encoded.parse::<Ipv4Addr>().is_ok() {
        return Err(HostError::OddAddress);
    }
    Ok(encoded)
}

fn labels(name: &str) -> Result<(), HostError> {
    let legal = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.split('.').all(legal) {
        return Ok(());
    }
    Err(HostError::Label)
}

/// Hosts that a list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Every name; no bare address.
    AnyName,
    /// Every name below this one, at any depth; not the name itself.
    Below(String),
    /// This host alone.
    Exactly(Host),
}

impl Pattern {
    /// Reads `example.com`, `*.example.com`, `*` or an address.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text == "*" {
            return Ok(Self::AnyName);
        }
        match text.strip_prefix("*.") {
            Some(rest) => match Host::parse(rest)? {
                Host::Name(name) => Ok(Self::Below(name)),
                Host::Address(_) => Err(HostError::Characters),
            },
            None => Host::parse(text).map(Self::Exactly),
        }
    }

    /// Whether the list's entry names this host.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::AnyName, Host::Name(_)) => true,
            (Self::Below(parent), Host::Name(name)) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            (Self::Exactly(exactly), host) => exactly == host,
            (Self::AnyName | Self::Below(_), Host::Address(_)) => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyName => f.write_str("*"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Exactly(host) => write!(f, "{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn one_host_has_one_spelling() {
        for text in ["allowed.test", "Allowed.TEST", "allowed.test."] {
            assert_eq!(Host::parse(text), Ok(name("allowed.test")), "{text}");
        }
        assert_eq!(Host::parse("bücher.test"), Ok(name("xn--bcher-kva.test")));
        assert_eq!(
            Host::parse("xn--bcher-kva.test"),
            Ok(name("xn--bcher-kva.test"))
        );
        assert_eq!(Host::parse("[::1]"), Host::parse("::1"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "allowed.test..",
            "allowed.test\0.evil.example",
            "allowed.test%00.evil.example",
            "user@allowed.test",
            "allowed.test/evil",
            "allowed.test#x",
            "-a.test",
            "a-.test",
            "a_b.test",
            "a b.test",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1.5",
            "0x7f000001",
            "1.2.3.0xff",
            "[::1",
            "::1]",
            "[fe80::1%25eth0]",
            "fe80::1%eth0",
            "[127.0.0.1]",
            "xn--a",
            "１２７.0.0.1",
        ] {
            assert!(
                Host::parse(text).is_err(),
                "{text:?}: {:?}",
                Host::parse(text)
            );
        }
        assert!(Host::parse(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn a_wildcard_ends_at_a_dot() {
        let below = Pattern::parse("*.allowed.test").unwrap();
        assert!(below.matches(&name("api.allowed.test")));
        assert!(below.matches(&name("a.b.allowed.test")));
        for host in [
            "allowed.test",
            "evil-allowed.test",
            "allowed.test.evil.example",
        ] {
            assert!(!below.matches(&name(host)), "{host}");
        }
        assert!(!Pattern::AnyName.matches(&Host::parse("192.0.2.1").unwrap()));
        assert!(Pattern::parse("*.192.0.2.1").is_err());
        assert!(Pattern::parse("**.a.test").is_err());
    }
}
