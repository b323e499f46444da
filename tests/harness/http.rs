//! Speaks to the daemon as `curl` would: no retries, no types of meshd's own.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value;
use ureq::http;

/// Longest exchange; a test that waits longer should wait for a state instead.
const EXCHANGE_MAX: Duration = Duration::from_mins(1);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A caller with a token, or without one.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: http::HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    request: String,
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .timeout_global(Some(EXCHANGE_MAX));
        Self {
            agent: config.build().new_agent(),
            url: url.to_owned(),
            token,
        }
    }

    /// The same caller with another token, or with none.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self {
            token: token.map(str::to_owned),
            ..self.clone()
        }
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    /// `POST` with a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            Some(body.to_string().as_bytes()),
        )
    }

    /// `PUT` with a JSON body.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            Some(body.to_string().as_bytes()),
        )
    }

    /// `DELETE`.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None)
    }

    /// Any request.
    #[track_caller]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: no answer: {error}"))
    }

    /// Any request to a daemon that may not be there, or not for long.
    ///
    /// # Errors
    /// What the transport says; whether the request was carried out is then not known.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ureq::Error> {
        let mut response = self.open(method, path, headers, body)?;
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
            request: format!("{method} {path}"),
        })
    }

    fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        match body {
            Some(body) => self.agent.run(request.body(body)?),
            None => self.agent.run(request.body(())?),
        }
    }

    /// Opens the event stream, after an event that was seen or from now on.
    #[track_caller]
    pub fn events(&self, query: &str, after: Option<u64>) -> Events {
        let after = after.map(|id| id.to_string());
        let headers: Vec<(&str, &str)> = after
            .iter()
            .map(|id| ("last-event-id", id.as_str()))
            .collect();
        let response = self
            .open("GET", &format!("/v1/events{query}"), &headers, None)
            .expect("the event stream opens");
        assert_eq!(response.status().as_u16(), 200, "GET /v1/events{query}");
        let mut lines: Box<dyn BufRead + Send> =
            Box::new(BufReader::new(response.into_body().into_reader()));
        // The first block comes at once; with it the subscription stands.
        let mut first = String::new();
        lines.read_line(&mut first).expect("the stream begins");
        Events { lines }
    }
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: no JSON ({error}): {}", self.request, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The JSON body, once the status is the expected one.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        self.json()
    }

    /// The problem document, once status and code are the expected ones and the form is that of RFC 9457.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.ok(status);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}: {problem}",
            self.request
        );
        assert_eq!(problem["status"], status, "{}: {problem}", self.request);
        assert_eq!(problem["code"], code, "{}: {problem}", self.request);
        for member in ["type", "title", "detail"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{member}: {problem}"
            );
        }
        problem
    }
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id; absent for what is not kept.
    pub id: Option<u64>,
    /// Its data.
    pub data: Value,
}

/// An open event stream. It ends with an error after a minute at the latest.
pub struct Events {
    lines: Box<dyn BufRead + Send>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut id, mut data) = (None, String::new());
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("the stream goes on") == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some(("id", text)) => id = text.trim().parse().ok(),
                Some(("data", text)) => data.push_str(text),
                None if line.trim().is_empty() && !data.is_empty() => {
                    let data = serde_json::from_str(&data).expect("an event's data is JSON");
                    return Some(Event { id, data });
                }
                // Comments, `retry`, and blocks without data.
                _ => {}
            }
        }
    }
}
