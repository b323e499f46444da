//! meshd's HTTP interface, as a client sees it. Blocking, and every wait has an end.

mod answer;
mod request;
mod sse;

use std::io::{BufReader, Read};
use std::time::Duration;

use ureq::http;

use crate::endpoint::Endpoint;
use crate::exit::{Exit, Failure};
use crate::tls::TlsError;

pub(crate) use answer::{Answer, Listing, Refusal};
pub(crate) use request::Request;
pub(crate) use sse::EventReader;

/// How long a connection may take: the daemon is on this host or on a near one.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take, beyond what the request itself asks meshd to wait.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Silence after which an event stream counts as dead; meshd sends a comment far more often.
const STREAM_SILENCE_MAX: Duration = Duration::from_mins(1);
/// Largest answer that is kept in memory; pages are bounded far below.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Nobody answers there. Nothing was done.
    #[error("cannot reach meshd at {url} ({origin}): {reason}")]
    Unreachable {
        url: String,
        origin: String,
        reason: String,
    },
    /// The connection broke after the request had begun. It may or may not have been done.
    #[error("lost the connection to meshd at {url}: {reason}")]
    Lost { url: String, reason: String },
    /// No answer in time. It may or may not have been done.
    #[error("meshd at {url} did not answer in {} s", after.as_secs())]
    TimedOut { url: String, after: Duration },
    /// meshd said no.
    #[error("{}", .0.detail)]
    Refused(Box<Refusal>),
    /// Something answers, but not as meshd does.
    #[error("what answers at {url} is not meshd: {reason}")]
    Foreign { url: String, reason: String },
}

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    head: Duration,
    body: Option<Duration>,
    silence: Option<Duration>,
}

impl RequestError {
    /// Whether what was asked takes longer than an answer may.
    pub(crate) fn is_late(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Refused(refusal) => refusal.code == "timed_out",
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Foreign { .. } => false,
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Unreachable { .. } => Self::new(Exit::Unreachable, message)
                .hint("is meshd running? start it with `meshd`, or name its address with --url or MESH_URL"),
            RequestError::Lost { .. } => Self::new(Exit::Unreachable, message)
                .hint("whether it was done is not known; look before you try again"),
            RequestError::TimedOut { .. } => Self::new(Exit::TimedOut, message)
                .hint("it may still be done; look before you try again"),
            RequestError::Refused(refusal) => refusal.into_failure(),
            RequestError::Foreign { .. } => Self::new(Exit::Unreachable, message)
                .hint("name meshd's address with --url or MESH_URL"),
        }
    }
}

/// A daemon to speak to.
#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: Endpoint,
}

impl Client {
    /// Speaks to the daemon at `endpoint`. Connects on the first request.
    ///
    /// # Errors
    /// That the files for TLS cannot be used.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, TlsError> {
        let mut agent = ureq::Agent::config_builder();
        if endpoint.url.starts_with("https://") {
            agent = agent.tls_config(endpoint.tls.load()?);
        }
        let agent = agent
            .http_status_as_error(false)
            // A token must not follow a redirect or pass through somebody's proxy.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            // A connection that meshd has closed meanwhile would look like a request that was lost.
            .max_idle_connections(0)
            .timeout_resolve(Some(CONNECT_MAX))
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_send_body(Some(ANSWER_MAX))
            .user_agent(concat!("meshctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint })
    }

    /// Sends a request and takes the whole answer.
    ///
    /// # Errors
    /// [`RequestError`]; any status but 2xx is [`RequestError::Refused`].
    pub(crate) fn send(&self, request: &Request) -> Result<Answer, RequestError> {
        let within = ANSWER_MAX + request.wait;
        let limits = Limits {
            head: within,
            body: Some(within),
            silence: None,
        };
        let response = self.open(request, limits)?;
        let (parts, mut body) = response.into_parts();
        let bytes = body
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| self.failed(error, within))?;
        let text = String::from_utf8(bytes).map_err(|_| self.foreign("its answer is not UTF-8"))?;
        Ok(Answer::new(text, &parts.headers))
    }

    /// Sends a request and leaves the answer to be read bit by bit.
    ///
    /// # Errors
    /// As [`Client::send`]; what fails later comes out of the reader.
    pub(crate) fn stream(
        &self,
        request: &Request,
    ) -> Result<BufReader<Box<dyn Read + Send>>, RequestError> {
        let limits = Limits {
            head: ANSWER_MAX,
            body: None,
            silence: Some(STREAM_SILENCE_MAX),
        };
        let response = self.open(request, limits)?;
        Ok(BufReader::new(Box::new(response.into_body().into_reader())))
    }

    fn open(
        &self,
        request: &Request,
        limits: Limits,
    ) -> Result<http::Response<ureq::Body>, RequestError> {
        let mut head = http::Request::builder().method(request.method).uri(format!(
            "{}{}",
            self.endpoint.url,
            request.target()
        ));
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if let Some(token) = &self.endpoint.token {
            head = head.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let sent = match &request.body {
            Some(body) => head
                .header(http::header::CONTENT_TYPE, body.content_type)
                .body(body.bytes.as_slice())
                .map(|request| self.run(request, limits)),
            None => head.body(()).map(|request| self.run(request, limits)),
        };
        // Everything that goes into the head was checked or encoded before; what is left is a host that is none.
        let mut response = sent
            .map_err(|error| self.foreign(format!("not a usable address: {error}")))?
            .map_err(|error| self.failed(error, limits.head))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        // An error whose text is lost is still that error.
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .lossy_utf8(true)
            .read_to_string();
        let refusal = Refusal::new(status, &text.unwrap_or_default(), response.headers());
        Err(RequestError::Refused(Box::new(
            refusal.about(&self.endpoint),
        )))
    }

    fn run(
        &self,
        request: http::Request<impl ureq::AsSendBody>,
        limits: Limits,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_recv_response(Some(limits.head))
            .timeout_recv_body(limits.body)
            .timeout_per_read(limits.silence)
            .build();
        self.agent.run(request)
    }

    /// Sorts a transport error by what the caller can conclude from it.
    fn failed(&self, error: ureq::Error, within: Duration) -> RequestError {
        use std::io::ErrorKind as Kind;
        let url = self.endpoint.url.clone();
        let unreachable = |reason: String| RequestError::Unreachable {
            url: self.endpoint.url.clone(),
            origin: self.endpoint.url_origin.clone(),
            reason,
        };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                unreachable(format!("no connection within {} s", CONNECT_MAX.as_secs()))
            }
            ureq::Error::Timeout(_) => RequestError::TimedOut { url, after: within },
            ureq::Error::HostNotFound => unreachable("there is no such host".to_owned()),
            ureq::Error::ConnectionFailed => unreachable("no connection".to_owned()),
            ureq::Error::Io(error)
                if matches!(
                    error.kind(),
                    Kind::ConnectionRefused
                        | Kind::NetworkUnreachable
                        | Kind::HostUnreachable
                        | Kind::AddrNotAvailable
                        | Kind::PermissionDenied
                ) =>
            {
                unreachable(error.to_string())
            }
            ureq::Error::Io(error) => match untrusted(&error) {
                Some(reason) => unreachable(reason),
                None => RequestError::Lost {
                    url,
                    reason: error.to_string(),
                },
            },
            ureq::Error::BodyExceedsLimit(limit) => {
                self.foreign(format!("its answer is longer than {limit} bytes"))
            }
            other => RequestError::Lost {
                url,
                reason: other.to_string(),
            },
        }
    }

    fn foreign(&self, reason: impl Into<String>) -> RequestError {
        RequestError::Foreign {
            url: self.endpoint.url.clone(),
            reason: reason.into(),
        }
    }
}

/// Why one side did not trust the other, when that is what ended a connection; nothing was done then.
fn untrusted(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => Some(format!(
            "its certificate is not to be trusted: {reason:?}; name its authority with --ca or MESH_CA"
        )),
        rustls::Error::AlertReceived(alert) => {
            Some(format!("it refuses the TLS connection: {alert:?}"))
        }
        _ => None,
    }
}
