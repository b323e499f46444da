//! The protocols that a way out may be limited to. Pure.

/// A protocol of the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Plain requests through the proxy.
    Http,
    /// Tunnels that begin with a TLS handshake, and requests that the proxy itself sends over TLS.
    Https,
    /// Any tunnel.
    Tcp,
}

impl Protocol {
    /// The protocol of this name; nothing for those that no way out speaks.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// The bytes by which a TLS client begins: a handshake record of any version, of at most 16 KiB and some, with a client's
/// hello in it.
const HELLO: usize = 6;

/// Whether a stream begins as a TLS client does; nothing until enough of it is there.
///
/// # Errors
/// It does not.
pub(crate) fn client_hello(bytes: &[u8]) -> Result<Option<()>, NotTls> {
    let fits = |(index, byte): (usize, &u8)| match index {
        0 => *byte == 0x16,
        1 => *byte == 0x03,
        2 => *byte <= 0x04,
        // The length's upper half.
        3 => *byte <= 0x48,
        5 => *byte == 0x01,
        _ => true,
    };
    if bytes.iter().take(HELLO).enumerate().all(fits) {
        Ok((bytes.len() >= HELLO).then_some(()))
    } else {
        Err(NotTls)
    }
}

/// A stream that should have been TLS and is something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotTls;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_known_at_its_sixth_byte_and_anything_else_at_its_first_other_byte() {
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
        for length in 0..=hello.len() {
            let expected = Ok((length >= HELLO).then_some(()));
            assert_eq!(client_hello(&hello[..length]), expected, "{length}");
        }
        for other in [
            &b"G"[..],
            b"SSH-2.0",
            &[0x16, 3, 1, 2, 0, 2],
            &[0x16, 2],
            &[0x16, 3, 1, 0xff],
        ] {
            assert_eq!(client_hello(other), Err(NotTls), "{other:?}");
        }
    }

    #[test]
    fn only_protocols_of_the_way_out_have_names() {
        assert_eq!(Protocol::named("https"), Some(Protocol::Https));
        for none in ["HTTPS", "ftp", "udp", ""] {
            assert_eq!(Protocol::named(none), None, "{none}");
        }
    }
}
