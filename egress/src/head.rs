//! The head of a request to the proxy, decoded so that no other reader can read it otherwise. Pure.

use crate::host::{Host, HostError};

/// Longest head of a request. What is longer is refused with 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most header lines.
pub const HEADERS_MAX: usize = 100;

/// Longest target, and longest header line.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// A request as it was asked of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: String,
    /// Where to.
    pub host: Host,
    /// Which port.
    pub port: u16,
    /// The path with its query; nothing for `CONNECT`.
    pub path: Option<String>,
    /// How many bytes the head has.
    pub length: usize,
}

/// Why a head is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Longer than a bound.
    #[error(
        "the head is longer than {HEAD_BYTES_MAX} bytes, has more than {HEADERS_MAX} headers, or a line of more than {TARGET_BYTES_MAX}"
    )]
    TooLarge,
    /// Not HTTP/1.
    #[error("not an HTTP/1.1 request: {0}")]
    Syntax(&'static str),
    /// A request to a server, not to a proxy.
    #[error(
        "a proxy takes CONNECT host:port, or a whole URL http://host/path; https goes through CONNECT"
    )]
    NotForProxies,
    /// The host is none.
    #[error("{0}")]
    Host(#[from] HostError),
    /// The target and the `Host` header name different hosts.
    #[error("the URL and the Host header name different hosts")]
    Mismatch,
    /// Two ways to find the end of the body.
    #[error("the length of the body can be read in two ways")]
    Smuggling,
}

impl Head {
    /// Decodes the head at the start of `bytes`; nothing when it is not complete yet.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let end = within.windows(4).position(|four| four == b"\r\n\r\n");
        let seen = end.map_or(within, |end| &within[..end + 4]);
        lines(seen)?;
        let Some(end) = end else {
            if bytes.len() >= HEAD_BYTES_MAX {
                return Err(HeadError::TooLarge);
            }
            return Ok(None);
        };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(seen) {
            Ok(httparse::Status::Complete(length)) if length == end + 4 => {}
            Ok(_) => return Err(HeadError::Syntax("no end of the head")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Syntax("malformed")),
        }
        let missing = HeadError::Syntax("no request line");
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(missing);
        };
        framing(request.headers, version)?;
        let (host, port, path) = target_of(method, target)?;
        same_host(request.headers, version, &host, port, path.is_none())?;
        Ok(Some(Self {
            method: method.to_owned(),
            host,
            port,
            path,
            length: end + 4,
        }))
    }
}

/// Lines end with CR LF, both or neither, and none is too long.
fn lines(seen: &[u8]) -> Result<(), HeadError> {
    let mut start = 0;
    for (index, byte) in seen.iter().enumerate() {
        match byte {
            b'\n' if index == 0 || seen[index - 1] != b'\r' => {
                return Err(HeadError::Syntax("a line ends without CR"));
            }
            b'\n' => start = index + 1,
            b'\r' if seen.get(index + 1).is_some_and(|next| *next != b'\n') => {
                return Err(HeadError::Syntax("a CR within a line"));
            }
            0 => return Err(HeadError::Syntax("a NUL")),
            _ => {}
        }
        if index - start.min(index) > TARGET_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
    }
    Ok(())
}

fn values<'a>(
    headers: &'a [httparse::Header<'_>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

fn framing(headers: &[httparse::Header<'_>], version: u8) -> Result<(), HeadError> {
    let lengths: Vec<&[u8]> = values(headers, "content-length").collect();
    let codings: Vec<&[u8]> = values(headers, "transfer-encoding").collect();
    let number =
        |value: &[u8]| (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(()),
        ([length], []) if number(length) => Ok(()),
        ([], [coding]) if version == 1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeadError::Smuggling),
    }
}

/// Host, port and path of a target.
fn target_of(method: &str, target: &str) -> Result<(Host, u16, Option<String>), HeadError> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(HeadError::TooLarge);
    }
    if !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(HeadError::Syntax(
            "the target holds other than visible ASCII",
        ));
    }
    if method == "CONNECT" {
        let (host, port) = authority(target, None)?;
        return Ok((host, port, None));
    }
    let scheme = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    if scheme.is_none() || target.contains('#') {
        return Err(HeadError::NotForProxies);
    }
    let rest = &target[7..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, port) = authority(&rest[..end], Some(80))?;
    let path = match &rest[end..] {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    if path.contains('\\') {
        return Err(HeadError::Syntax("a backslash in the target"));
    }
    Ok((host, port, Some(path)))
}

/// `host:port`, without a user, which browsers hide and parsers dispute.
fn authority(text: &str, default: Option<u16>) -> Result<(Host, u16), HeadError> {
    if text.contains('@') {
        return Err(HeadError::Syntax("a user name in the target"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or(HostError::Characters)?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':').ok_or(HostError::Characters)?),
            };
            (format!("[{inner}]"), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let digits =
        |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let port = match port {
        Some(text) if digits(text) => text.parse().ok().filter(|port| *port != 0),
        Some(_) => None,
        None => default,
    };
    let port = port.ok_or(HeadError::Syntax("no port, or none from 1 to 65535"))?;
    Ok((Host::parse(&host)?, port))
}

/// The `Host` header is there once and says what the target says.
fn same_host(
    headers: &[httparse::Header<'_>],
    version: u8,
    host: &Host,
    port: u16,
    tunnel: bool,
) -> Result<(), HeadError> {
    let mut hosts = values(headers, "host");
    let (first, more) = (hosts.next(), hosts.next());
    let text = match (first, more) {
        (_, Some(_)) => return Err(HeadError::Syntax("several Host headers")),
        // Old clients open tunnels in HTTP/1.0 without one.
        (None, None) if version == 0 || tunnel => return Ok(()),
        (None, None) => return Err(HeadError::Syntax("no Host header")),
        (Some(value), None) => std::str::from_utf8(value).map_err(|_| HeadError::Mismatch)?,
    };
    // A tunnel's Host header may lack the port, or name the default one; the host has to be the same.
    let (named, named_port) =
        authority(text, Some(if tunnel { port } else { 80 })).map_err(|_| HeadError::Mismatch)?;
    if named == *host && (tunnel || named_port == port) {
        return Ok(());
    }
    Err(HeadError::Mismatch)
}

#[cfg(test)]
mod tests;
