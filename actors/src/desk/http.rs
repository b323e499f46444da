//! One HTTP exchange of meshd itself with a service: whom it may call, the configuration says.
//!
//! The name is resolved once, and the address that was checked is the one that is dialled. Redirects are not followed, and
//! no proxy of the environment is used.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_egress::{Code, Denial, Host, ServicePolicy};
use mesh_messages::json;
use mesh_messages::task::TASK_DATA_MAX;
use mesh_messages::workflow::ServiceMethod;
use serde_json::Value;
use ureq::config::Config;
use ureq::http::{Request, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use zeroize::Zeroizing;

use crate::context::Context;

/// What is sent.
pub(crate) struct Outgoing {
    pub(crate) method: ServiceMethod,
    /// May hold a secret in its query, and is never shown.
    pub(crate) url: Zeroizing<String>,
    pub(crate) headers: Vec<(String, Zeroizing<String>)>,
    /// Sent as JSON.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// An answer, cut where it is longer than what a task may carry.
    Answer {
        status: u16,
        bytes: Vec<u8>,
        is_whole: bool,
    },
    /// The configuration does not allow it; nothing was sent.
    Denied(Denial),
    /// It cannot be sent, now or ever.
    Unusable(String),
    /// No answer came, or not all of one.
    Silent {
        why: String,
        /// Whether the service may have taken it.
        was_sent: bool,
    },
}

/// Sends, and reads the answer. Blocks.
pub(crate) fn exchange(ctx: &Context, outgoing: Outgoing) -> Incoming {
    let silent = |why: String, was_sent| Incoming::Silent { why, was_sent };
    let tls = match tls(ctx) {
        Ok(tls) => tls,
        Err(why) => return silent(why, false),
    };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(outgoing.limit))
        .tls_config(tls)
        .build();
    let checked = Checked {
        policy: ctx.settings.services.policy.clone(),
        names: DefaultResolver::default(),
    };
    let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), checked);
    let mut request = Request::builder()
        .method(outgoing.method.name())
        .uri(outgoing.url.as_str())
        .header("Accept", "application/json");
    for (name, value) in &outgoing.headers {
        request = request.header(name, value.as_str());
    }
    let sent = match outgoing.body {
        None => request.body(()).map(|request| agent.run(request)),
        Some(body) => {
            let request = request.header("Content-Type", "application/json");
            request.body(body).map(|request| agent.run(request))
        }
    };
    let answer = match sent {
        Err(unusable) => return Incoming::Unusable(unusable.to_string()),
        Ok(Err(error)) => return not_answered(&error),
        Ok(Ok(answer)) => answer,
    };
    let status = answer.status().as_u16();
    let mut bytes = Vec::new();
    let body = answer.into_body().into_reader();
    match body.take(TASK_DATA_MAX as u64 + 1).read_to_end(&mut bytes) {
        Err(error) => silent(error.to_string(), true),
        Ok(read) => {
            bytes.truncate(TASK_DATA_MAX);
            let is_whole = read <= TASK_DATA_MAX;
            Incoming::Answer {
                status,
                bytes,
                is_whole,
            }
        }
    }
}

fn not_answered(error: &ureq::Error) -> Incoming {
    let denial = match error {
        ureq::Error::Other(inner) => inner.downcast_ref::<Denial>(),
        _ => None,
    };
    if let Some(denial) = denial {
        return Incoming::Denied(denial.clone());
    }
    let was_sent = match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => false,
        ureq::Error::Io(error) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
        ),
        _ => true,
    };
    // Some say the whole address, and with it what its query holds.
    let why = match error {
        ureq::Error::BadUri(_) => "its address cannot be used".to_owned(),
        other => other.to_string(),
    };
    Incoming::Silent { why, was_sent }
}

fn tls(ctx: &Context) -> Result<TlsConfig, String> {
    let shared = ctx.outbound.tls(&ctx.settings.egress)?;
    let roots = match &ctx.settings.services.ca_file {
        Some(path) => RootCerts::new_with_certs(&authorities(path)?),
        None => RootCerts::WebPki,
    };
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::clone(shared.crypto_provider()))
        .root_certs(roots)
        .build())
}

fn authorities(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
    let failed = |why: String| format!("services.ca_file: {}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| failed(error.to_string()))?;
    let certificates = items.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(failed("holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

/// Resolves a name once and leaves the addresses that may be dialled.
#[derive(Debug)]
struct Checked {
    policy: ServicePolicy,
    names: DefaultResolver,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let refused = |denial: Denial| ureq::Error::Other(Box::new(denial));
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        let name = uri.host().unwrap_or_default();
        let host = Host::parse(name).map_err(|error| {
            refused(Denial::new(Code::BadHost, error.to_string()).at(name, port))
        })?;
        self.policy.decide(&host, port).map_err(refused)?;
        let found = self.names.resolve(uri, config, timeout)?;
        let addresses: Vec<_> = found.iter().map(SocketAddr::ip).collect();
        let permitted = self.policy.permitted(&addresses);
        let permitted = permitted.map_err(|denial| refused(denial.at(&host, port)))?;
        let mut left = self.empty();
        for address in permitted {
            left.push(SocketAddr::new(address, port));
        }
        Ok(left)
    }
}

/// JSON as it is, any other text as `{"text": …}`, nothing as null: as programs answer tasks.
pub(crate) fn output(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    json::parse(bytes)
        .unwrap_or_else(|_| serde_json::json!({ "text": String::from_utf8_lossy(bytes) }))
}
