//! The few messages of SOCKS5 (RFC 1928) that a client may send here. Pure.
//!
//! An own decoder of sixty lines: crates of the field own the socket and dial themselves, and what is dialled here is an
//! address that was checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::denial::Code;
use crate::host::Host;

/// The version byte, by which SOCKS is told from HTTP.
pub const VERSION: u8 = 5;

/// Longest message: a request with a name of 255 bytes.
pub const MESSAGE_BYTES_MAX: usize = 262;

const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;

/// The answer to a greeting: no authentication, because the listener itself says who it is.
pub const GREETING_ACCEPTED: [u8; 2] = [VERSION, NO_AUTHENTICATION];

/// The answer to a greeting that offers only other ways.
pub const GREETING_REFUSED: [u8; 2] = [VERSION, 0xff];

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub host: Host,
    /// Which port.
    pub port: u16,
}

/// Why a message is refused; the connection ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocksError {
    /// Not SOCKS5.
    #[error("not a SOCKS5 message")]
    Syntax,
    /// Only ways to authenticate that do not exist here.
    #[error("the proxy takes no authentication")]
    Authentication,
    /// `BIND` or `UDP ASSOCIATE`.
    #[error("only CONNECT is served")]
    Command,
    /// A type of address that does not exist.
    #[error("not a type of address")]
    AddressType,
    /// The host is none.
    #[error("the host or port is none")]
    Host,
}

/// What was read, and how many bytes it took; nothing while it is incomplete.
pub type Read<T> = Result<Option<(T, usize)>, SocksError>;

/// Reads the greeting.
///
/// # Errors
/// [`SocksError`].
pub fn greeting(bytes: &[u8]) -> Read<()> {
    match bytes {
        [] | [VERSION] => Ok(None),
        [VERSION, 0, ..] => Err(SocksError::Syntax),
        [VERSION, count, rest @ ..] => {
            let Some(methods) = rest.get(..usize::from(*count)) else {
                return Ok(None);
            };
            if methods.contains(&NO_AUTHENTICATION) {
                Ok(Some(((), 2 + methods.len())))
            } else {
                Err(SocksError::Authentication)
            }
        }
        _ => Err(SocksError::Syntax),
    }
}

/// Reads the request.
///
/// # Errors
/// [`SocksError`].
pub fn request(bytes: &[u8]) -> Read<Request> {
    let &[version, command, reserved, kind, ref rest @ ..] = bytes else {
        return match bytes.first() {
            Some(&VERSION) | None => Ok(None),
            Some(_) => Err(SocksError::Syntax),
        };
    };
    if version != VERSION || reserved != 0 {
        return Err(SocksError::Syntax);
    }
    if command != CONNECT {
        return Err(SocksError::Command);
    }
    let (host, length) = match kind {
        1 => match rest.first_chunk::<4>() {
            Some(octets) => (Host::Address(Ipv4Addr::from(*octets).into()), 4),
            None => return Ok(None),
        },
        4 => match rest.first_chunk::<16>() {
            Some(octets) => (Host::Address(Ipv6Addr::from(*octets).into()), 16),
            None => return Ok(None),
        },
        3 => {
            let Some((length, name)) = rest.split_first() else {
                return Ok(None);
            };
            let length = usize::from(*length);
            let Some(name) = name.get(..length) else {
                return Ok(None);
            };
            let name = std::str::from_utf8(name).map_err(|_| SocksError::Host)?;
            (Host::parse(name).map_err(|_| SocksError::Host)?, 1 + length)
        }
        _ => return Err(SocksError::AddressType),
    };
    let Some(port) = rest.get(length..length + 2) else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    if port == 0 {
        return Err(SocksError::Host);
    }
    Ok(Some((Request { host, port }, 4 + length + 2)))
}

/// The answer that the connection stands. The address it was made from is nobody's business.
#[must_use]
pub const fn accepted() -> [u8; 10] {
    [VERSION, 0, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The answer to what does not go through.
#[must_use]
pub const fn refused(code: Code) -> [u8; 10] {
    let reply = match code {
        Code::NotResolved => 4,
        Code::Unreachable => 5,
        Code::Timeout => 6,
        Code::CommandNotAllowed => 7,
        Code::BadRequest | Code::HeadTooLarge | Code::TooManyConnections => 1,
        // Not allowed by the ruleset.
        _ => 2,
    };
    [VERSION, reply, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The answer to what cannot be read.
#[must_use]
pub const fn malformed(error: &SocksError) -> [u8; 10] {
    let reply = match error {
        SocksError::Command => 7,
        SocksError::AddressType => 8,
        SocksError::Host => 2,
        SocksError::Syntax | SocksError::Authentication => 1,
    };
    [VERSION, reply, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(443_u16.to_be_bytes());
        bytes
    }

    #[test]
    fn a_connection_to_a_name_or_address_is_read() {
        let (request, length) = super::request(&named(b"Allowed.test")).unwrap().unwrap();
        assert_eq!(
            (request.host.to_string().as_str(), request.port, length),
            ("allowed.test", 443, 19)
        );
        let (request, _) = super::request(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80])
            .unwrap()
            .unwrap();
        assert_eq!(request.host.to_string(), "127.0.0.1");
        assert_eq!(greeting(&[5, 2, 2, 0]), Ok(Some(((), 4))));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(greeting(&[5, 1, 2]), Err(SocksError::Authentication));
        assert_eq!(greeting(&[4, 1]), Err(SocksError::Syntax));
        for command in [0, 2, 3, 255] {
            assert_eq!(
                super::request(&[5, command, 0, 1, 1, 1, 1, 1, 0, 80]),
                Err(SocksError::Command)
            );
        }
        for name in [
            &b"a\0b.test"[..],
            b"",
            b"a b",
            b"\xff\xfe",
            b"127.1",
            b"a@b",
            b"http://a",
        ] {
            assert_eq!(
                super::request(&named(name)),
                Err(SocksError::Host),
                "{name:?}"
            );
        }
        assert_eq!(super::request(&named(&[b'a'; 255])), Err(SocksError::Host));
        assert_eq!(
            super::request(&[5, 1, 0, 9, 0, 0, 0]),
            Err(SocksError::AddressType)
        );
        assert_eq!(
            super::request(&[5, 1, 0, 1, 1, 1, 1, 1, 0, 0]),
            Err(SocksError::Host)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _no_panic = (greeting(&bytes), super::request(&bytes));
            if let Ok(Some((_, length))) = super::request(&bytes) {
                prop_assert!(length <= bytes.len() && length <= MESSAGE_BYTES_MAX);
            }
        }
    }
}
