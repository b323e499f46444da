//! Calls of plain HTTP services.
//!
//! A call is made at least once: after a restart it is made again, under the same `Idempotency-Key`, by which a service
//! can tell. Whom meshd may call, `services` in the configuration says: the name is resolved once, and the address that
//! was checked is the one that is dialled.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_egress::{Code, Denial, Host, ServicePolicy};
use serde_json::Value;
use ureq::config::Config;
use ureq::http::{Request, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use mesh_actors_core::workflow::Call;
use mesh_messages::FailureClass;
use mesh_messages::json;
use mesh_messages::task::{ATTEMPT_TIMEOUT_DEFAULT_MS, TASK_DATA_MAX};
use mesh_messages::workflow::{ServiceMethod, UnitOutcome};

use crate::context::Context;

/// How often a call is made that may pass next time, and the first pause between; it doubles.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// How often a call that is held back looks whether the shutdown was lifted.
const HALTED: Duration = Duration::from_millis(250);

/// How one try ended.
enum Tried {
    Ended(UnitOutcome),
    Again(String),
}

/// Calls a service until it answers, or has had its chances.
pub(super) async fn call(ctx: &Arc<Context>, call: Call) -> UnitOutcome {
    // While a shutdown is in force nothing is done in anybody's name. The step's time goes on.
    while ctx.governance.load().halted.is_some() {
        tokio::time::sleep(HALTED).await;
    }
    let mut pause = PAUSE;
    let mut last = String::new();
    for tried in 0..TRIES_MAX {
        if tried > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let (next, ctx) = (call.clone(), Arc::clone(ctx));
        match tokio::task::spawn_blocking(move || once(&ctx, &next)).await {
            Ok(Tried::Ended(outcome)) => return outcome,
            Ok(Tried::Again(why)) => last = why,
            Err(error) => last = error.to_string(),
        }
    }
    UnitOutcome::failed(
        FailureClass::Unavailable,
        format!("{}: {last}", call.call.url),
    )
}

fn once(ctx: &Context, call: &Call) -> Tried {
    let limit = Duration::from_millis(call.timeout_ms.unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS));
    let tls = match tls(ctx) {
        Ok(tls) => tls,
        Err(why) => return Tried::Again(why),
    };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(limit))
        .tls_config(tls)
        .build();
    let checked = Checked {
        policy: ctx.settings.services.policy.clone(),
        names: DefaultResolver::default(),
    };
    let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), checked);
    let mut request = Request::builder()
        .method(call.call.method.name())
        .uri(&call.call.url)
        .header("Idempotency-Key", call.task.as_str())
        .header("Accept", "application/json");
    for (name, value) in &call.call.headers {
        request = request.header(name, value);
    }
    let bare = matches!(call.call.method, ServiceMethod::Get | ServiceMethod::Delete);
    let sent = if bare {
        request
            .body(())
            .map_err(|e| e.to_string())
            .map(|request| agent.run(request))
    } else {
        let body = call.input.to_string().into_bytes();
        let request = request.header("Content-Type", "application/json");
        request
            .body(body)
            .map_err(|e| e.to_string())
            .map(|request| agent.run(request))
    };
    let answer = match sent {
        Err(unusable) => {
            let outcome = UnitOutcome::failed(FailureClass::Refusal, unusable);
            return Tried::Ended(outcome);
        }
        Ok(Err(error)) => return not_answered(call, &error),
        Ok(Ok(answer)) => answer,
    };
    let status = answer.status().as_u16();
    let mut bytes = Vec::new();
    let mut body = answer
        .into_body()
        .into_reader()
        .take(TASK_DATA_MAX as u64 + 1);
    if let Err(error) = body.read_to_end(&mut bytes) {
        return Tried::Again(error.to_string());
    }
    match status {
        200..300 if bytes.len() > TASK_DATA_MAX => {
            let why = format!("answered with more than {TASK_DATA_MAX} bytes");
            Tried::Ended(UnitOutcome::failed(FailureClass::Contract, why))
        }
        200..300 => Tried::Ended(UnitOutcome::Succeeded {
            output: output(&bytes),
        }),
        408 | 425 | 429 | 500.. => Tried::Again(format!("answered {status}")),
        _ => {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            let why = format!("{} answered {status}: {text}", call.call.url);
            Tried::Ended(UnitOutcome::failed(FailureClass::Refusal, why))
        }
    }
}

/// Whether a call that got no answer may get one next time.
fn not_answered(call: &Call, error: &ureq::Error) -> Tried {
    let denial = match error {
        ureq::Error::Other(inner) => inner.downcast_ref::<Denial>(),
        _ => None,
    };
    let Some(denial) = denial else {
        return Tried::Again(error.to_string());
    };
    tracing::warn!(task = %call.task, host = denial.host, port = denial.port, code = denial.code.name(), "a service was not called");
    let rule = denial.rule.as_deref().unwrap_or("services");
    let why = format!("{} is not called: {denial} ({rule})", call.call.url);
    Tried::Ended(UnitOutcome::failed(FailureClass::Refusal, why))
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
fn output(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    json::parse(bytes)
        .unwrap_or_else(|_| serde_json::json!({ "text": String::from_utf8_lossy(bytes) }))
}
