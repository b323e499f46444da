//! A request, before it is sent.

use std::time::Duration;

use serde_json::Value;
use ureq::http::Method;

/// What is sent along.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// A request: what is asked of which route, with which parameters.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(super) method: &'static Method,
    path: String,
    query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Option<Body>,
    /// How much longer than usual the answer may take.
    pub(super) wait: Duration,
}

impl Request {
    fn new(method: &'static Method, path: &[&str]) -> Self {
        let path = path.iter().fold(String::new(), |path, segment| {
            path + "/" + &encoded(segment)
        });
        Self {
            method,
            path,
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            wait: Duration::ZERO,
        }
    }

    /// Reads what lies at a path, given by its segments.
    pub(crate) fn get(path: &[&str]) -> Self {
        Self::new(&Method::GET, path)
    }
    /// Has something done.
    pub(crate) fn post(path: &[&str]) -> Self {
        Self::new(&Method::POST, path)
    }
    /// Writes what lies at a path.
    pub(crate) fn put(path: &[&str]) -> Self {
        Self::new(&Method::PUT, path)
    }
    /// Removes what lies at a path.
    pub(crate) fn delete(path: &[&str]) -> Self {
        Self::new(&Method::DELETE, path)
    }

    /// With a parameter, if it has a value.
    #[must_use]
    pub(crate) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.retain(|(other, _)| *other != name);
        self.query
            .extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// With a JSON body.
    #[must_use]
    pub(crate) fn json(mut self, value: &Value) -> Self {
        self.body = Some(Body {
            content_type: "application/json",
            bytes: value.to_string().into_bytes(),
        });
        self
    }

    /// With a tar archive as its body.
    #[must_use]
    pub(crate) fn tar(mut self, bytes: Vec<u8>) -> Self {
        self.body = Some(Body {
            content_type: "application/x-tar",
            bytes,
        });
        self
    }

    /// Asks meshd to wait that long for the end of what is asked about.
    #[must_use]
    pub(crate) fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self.query("wait", Some(format!("{}ms", wait.as_millis())))
    }

    /// Grants the answer more time, because processes have to be stopped or started first.
    #[must_use]
    pub(crate) fn slow(mut self) -> Self {
        self.wait = SLOW_MAX;
        self
    }

    /// Asks for what follows the event of this id.
    #[must_use]
    pub(crate) fn after_event(mut self, id: Option<&str>) -> Self {
        self.headers.retain(|(name, _)| *name != LAST_EVENT_ID);
        self.headers
            .extend(id.map(|id| (LAST_EVENT_ID, id.to_owned())));
        self
    }

    /// Path and parameters.
    pub(super) fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encoded(value));
        }
        target
    }
}

/// What meshd itself allows an upgrade, which stops one version and starts another, and a bit.
const SLOW_MAX: Duration = Duration::from_mins(3);

const LAST_EVENT_ID: &str = "last-event-id";

/// Percent-encodes everything but RFC 3986's unreserved characters, so that no id or key can become another path.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && !is_dots(text))
        {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
        }
    }
    encoded
}

/// The digits of a percent-encoded byte.
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `.` and `..` mean something as segments of a path.
fn is_dots(text: &str) -> bool {
    text == "." || text == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_encoded() {
        let request = Request::get(&["v1", "memory", "echo", "a/b ?ü"])
            .query("state", Some("a&b"))
            .query("agent", None::<&str>)
            .query("limit", Some(5));
        assert_eq!(
            request.target(),
            "/v1/memory/echo/a%2Fb%20%3F%C3%BC?state=a%26b&limit=5"
        );
    }

    #[test]
    fn no_id_leads_to_another_path() {
        assert_eq!(
            Request::get(&["v1", "agents", "..", "x.y"]).target(),
            "/v1/agents/%2E%2E/x.y"
        );
    }

    #[test]
    fn waiting_is_told_to_the_daemon_and_granted_to_the_answer() {
        let request = Request::get(&["x"]).wait(Duration::from_secs(3));
        assert_eq!(
            (request.target().as_str(), request.wait),
            ("/x?wait=3000ms", Duration::from_secs(3))
        );
    }
}
