//! A call of a registered service, from the order to the record.

use std::sync::Arc;
use std::time::Duration;

use mesh_egress::Denial;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::service::{ServiceCalled, ServiceEndpoint, ServiceReply, ServiceStatus};
use mesh_messages::task::TASK_DATA_MAX;
use mesh_messages::workflow::ServiceMethod;
use mesh_messages::{Failure, FailureClass};
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Served;
use super::auth::{Proof, in_query};
use super::http::{Incoming, Outgoing, exchange, output};
use super::rules::{Unfit, may_call};
use crate::clock::{now, random};
use crate::context::Context;
use crate::partition::Cause;
use crate::registry::RegistryHandle;

/// How often a call is tried at most, and the first pause between; it doubles, and up to half of it is added by chance.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How often a call that is held back looks whether the shutdown was lifted.
const HALTED: Duration = Duration::from_millis(250);
/// As much of an answer that refuses as is told.
const TOLD_CHARS_MAX: usize = 200;
/// Longest key that is sent, in bytes.
const KEY_MAX: usize = 256;

/// What a caller does about a service that has no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It is told at once.
    None,
    /// It waits, as long as the call may take.
    Waits,
}

/// A call that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) service: String,
    /// The only one, when absent.
    pub(crate) endpoint: Option<String>,
    pub(crate) params: Value,
    /// Sent as `Idempotency-Key`.
    pub(crate) key: String,
    /// In whose name.
    pub(crate) by: String,
    /// How long it may take, where that is less than what the endpoint says.
    pub(crate) limit: Option<Duration>,
    pub(crate) patience: Patience,
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ProblemKind,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    field: Option<&'static str>,
    retry_after_s: Option<u32>,
}

impl Fault {
    fn new(kind: ProblemKind, code: &'static str, detail: impl Into<String>) -> Self {
        let (field, retry_after_s) = (None, None);
        let detail = detail.into();
        Self {
            kind,
            code,
            detail,
            field,
            retry_after_s,
        }
    }

    fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Unavailable, "service_unavailable", detail)
    }

    fn denied(denial: &Denial, service: &str) -> Self {
        let rule = denial.rule.as_deref().unwrap_or("services");
        let detail = format!("service {service} is not called: {denial} ({rule})");
        Self::new(ProblemKind::Forbidden, "service_denied", detail)
    }

    fn invalid(field: &'static str, detail: String) -> Self {
        let fault = Self::new(ProblemKind::Invalid, "invalid_service_call", detail);
        Self {
            field: Some(field),
            ..fault
        }
    }

    fn after(mut self, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
        self.retry_after_s = Some(seconds.saturating_add(1));
        self
    }

    /// As the failure of a piece of work.
    pub(crate) fn failure(&self) -> Failure {
        let class = match self.kind {
            ProblemKind::Unavailable | ProblemKind::RateLimited => FailureClass::Unavailable,
            ProblemKind::TooLarge => FailureClass::Contract,
            _ => FailureClass::Refusal,
        };
        Failure::new(class, self.detail.clone())
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let mut problem = Self::new(fault.kind, fault.code, fault.detail);
        problem.field = fault.field.map(str::to_owned);
        problem.retry_after_s = fault.retry_after_s;
        problem
    }
}

impl Served {
    fn id(&self) -> &str {
        self.kept.definition.id.as_str()
    }

    /// Whether it is called at all.
    fn callable(&self) -> Result<(), Fault> {
        let id = self.id();
        match self.kept.status() {
            ServiceStatus::Active => Ok(()),
            ServiceStatus::Inactive => {
                let detail = format!("service {id} is inactive; set its status to active");
                Err(Fault::new(
                    ProblemKind::Conflict,
                    "service_inactive",
                    detail,
                ))
            }
            ServiceStatus::Error => {
                let reason = self.trouble().unwrap_or_default();
                let detail = format!(
                    "service {id} is in error: {reason}; it is called again when a check passes"
                );
                Err(Fault::unavailable(detail))
            }
        }
    }
}

/// Calls a service, and puts on record that it was called. What is under way goes on when the caller leaves.
///
/// # Errors
/// [`Fault`].
pub(crate) async fn call(
    ctx: &Arc<Context>,
    registry: &RegistryHandle,
    ask: Ask,
) -> Result<ServiceReply, Fault> {
    let Some(served) = ctx.desk.get(&ask.service) else {
        let detail = format!("Service {} not found", ask.service);
        return Err(Fault::new(
            ProblemKind::NotFound,
            "service_not_found",
            detail,
        ));
    };
    let definition = &served.kept.definition;
    let Some(endpoint) = definition.endpoint(ask.endpoint.as_deref()) else {
        let names: Vec<_> = definition
            .endpoints
            .iter()
            .map(|known| known.name.as_str())
            .collect();
        let detail = format!("endpoint: must be one of {}", names.join(", "));
        return Err(Fault::invalid("endpoint", detail));
    };
    if ask.key.is_empty()
        || ask.key.len() > KEY_MAX
        || !ask.key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        let detail = format!("idempotencyKey: must be 1 to {KEY_MAX} visible characters of ASCII");
        return Err(Fault::invalid("idempotencyKey", detail));
    }
    let limit = Duration::from_millis(endpoint.timeout());
    let limit = ask.limit.map_or(limit, |most| most.min(limit));
    let trying = Trying {
        body: Body::of(endpoint, &ask.params)?,
        endpoint: endpoint.clone(),
        deadline: Instant::now() + limit,
        ctx: Arc::clone(ctx),
        attempts: 0,
        status: None,
        served,
        ask,
    };
    let (cause, registry) = (Cause::by(&trying.ask.by), registry.clone());
    let done = ractor::concurrency::spawn(trying.recorded(registry, cause));
    let given_up = |error| Fault::unavailable(format!("the call was given up: {error}"));
    done.await.map_err(given_up)?
}

/// What is sent of the parameters.
enum Body {
    Query(String),
    Json(Vec<u8>),
}

impl Body {
    fn of(endpoint: &ServiceEndpoint, params: &Value) -> Result<Self, Fault> {
        if !matches!(endpoint.method, ServiceMethod::Get | ServiceMethod::Delete) {
            return Ok(Self::Json(params.to_string().into_bytes()));
        }
        let refused = || {
            let detail = format!(
                "params: {} takes an object of texts, numbers and booleans, or lists of them",
                endpoint.method.name()
            );
            Err(Fault::invalid("params", detail))
        };
        let fields = match params {
            Value::Null => return Ok(Self::Query(String::new())),
            Value::Object(fields) => fields,
            _ => return refused(),
        };
        let mut parts = Vec::new();
        for (name, value) in fields {
            let one = std::slice::from_ref(value);
            for value in value.as_array().map_or(one, Vec::as_slice) {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    Value::Null => continue,
                    Value::Array(_) | Value::Object(_) => return refused(),
                };
                parts.push(format!("{}={}", in_query(name), in_query(&text)));
            }
        }
        Ok(Self::Query(parts.join("&")))
    }
}

/// How one try ended.
enum Tried {
    Answered(ServiceReply),
    Ended(Fault),
    Again(Fault),
}

/// A call under way.
struct Trying {
    ctx: Arc<Context>,
    served: Arc<Served>,
    endpoint: ServiceEndpoint,
    ask: Ask,
    body: Body,
    deadline: Instant,
    attempts: u32,
    status: Option<u16>,
}

impl Trying {
    async fn recorded(
        mut self,
        registry: RegistryHandle,
        cause: Cause,
    ) -> Result<ServiceReply, Fault> {
        let (at, began) = (now(), Instant::now());
        let outcome = self.tries().await;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let called = ServiceCalled {
            service: self.served.kept.definition.id.clone(),
            version: self.served.kept.version,
            endpoint: self.endpoint.name.clone(),
            by: self.ask.by.clone(),
            at,
            status: self.status,
            error: outcome.as_ref().err().map(|fault| fault.code.to_owned()),
            attempts: self.attempts,
            duration_ms,
        };
        // That it was allowed is on record since before; the service has done what it did.
        if let Err(problem) = registry.service_called(called, cause).await {
            tracing::warn!(service = self.served.id(), %problem, "how a call ended is not on record");
        }
        outcome.map(|reply| ServiceReply {
            attempts: self.attempts,
            duration_ms,
            ..reply
        })
    }

    async fn tries(&mut self) -> Result<ServiceReply, Fault> {
        self.served.callable()?;
        let mut pause = PAUSE;
        loop {
            match self.once().await? {
                Tried::Answered(reply) => return Ok(reply),
                Tried::Ended(fault) => return Err(fault),
                Tried::Again(fault) => {
                    let chance = u32::try_from(random() % 1000).unwrap_or_default();
                    let wait = pause + pause * chance / 2000;
                    if self.attempts >= TRIES_MAX || Instant::now() + wait >= self.deadline {
                        return Err(fault);
                    }
                    tokio::time::sleep(wait).await;
                    pause *= 2;
                }
            }
        }
    }

    /// Waits until a try may begin.
    async fn room(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Fault> {
        let waits = self.ask.patience == Patience::Waits;
        while self.ctx.governance.load().halted.is_some() {
            // While a shutdown is in force nothing is done in anybody's name.
            if !waits || Instant::now() + HALTED >= self.deadline {
                let detail = "an emergency_shutdown is in force; an emergency_lift ends it";
                return Err(Fault::new(
                    ProblemKind::Conflict,
                    "emergency_shutdown",
                    detail,
                ));
            }
            tokio::time::sleep(HALTED).await;
        }
        let id = self.served.id();
        while let Some(wait) = self.served.run.too_fast() {
            if !waits || Instant::now() + wait >= self.deadline {
                let detail = format!("service {id} has had all the calls that its rate allows");
                return Err(
                    Fault::new(ProblemKind::RateLimited, "service_busy", detail).after(wait)
                );
            }
            tokio::time::sleep(wait).await;
        }
        let places = Arc::clone(&self.ctx.desk.calls);
        let busy = || {
            let detail = format!("{} calls of services are under way", super::CALLS_MAX);
            Fault::new(ProblemKind::RateLimited, "service_busy", detail).after(Duration::ZERO)
        };
        if !waits {
            return places.try_acquire_owned().map_err(|_| busy());
        }
        let place = tokio::time::timeout_at(self.deadline, places.acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or_else(busy)
    }

    async fn once(&mut self) -> Result<Tried, Fault> {
        let place = self.room().await?;
        let (id, settings) = (self.served.id().to_owned(), &self.ctx.settings.services);
        may_call(settings, &self.endpoint.url).map_err(|unfit| match unfit {
            Unfit::Denied(denial) => Fault::denied(&denial, &id),
            Unfit::Wrong(why) => {
                let detail = format!("service {id} is not called: {why}");
                Fault::new(ProblemKind::Forbidden, "service_denied", detail)
            }
        })?;
        let proof = Proof::of(&self.ctx, &self.served.kept.definition, &self.endpoint.url);
        let proof = proof.map_err(|why| {
            let kind = ProblemKind::Conflict;
            Fault::new(
                kind,
                "service_secret_missing",
                format!("service {id}: {why}"),
            )
        })?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        if let Err(held) = self.served.run.breaker().admit(now(), left_ms) {
            let wait = held.until.since(now());
            let detail = format!(
                "service {id} has failed too often: its circuit breaker lets nothing through until {}",
                held.until
            );
            return Err(Fault::unavailable(detail).after(wait));
        }
        self.attempts += 1;
        let (ctx, outgoing) = (Arc::clone(&self.ctx), self.outgoing(&proof, left));
        let exchanged = tokio::task::spawn_blocking(move || exchange(&ctx, outgoing)).await;
        drop(place);
        let incoming = exchanged.unwrap_or_else(|error| Incoming::Silent {
            why: error.to_string(),
            was_sent: true,
        });
        Ok(self.judge(incoming, &proof))
    }

    fn outgoing(&self, proof: &Proof, limit: Duration) -> Outgoing {
        let plain = |text: &str| Zeroizing::new(text.to_owned());
        let mut headers = vec![("Idempotency-Key".to_owned(), plain(&self.ask.key))];
        let own = self.endpoint.headers.iter();
        headers.extend(own.map(|(name, value)| (name.clone(), plain(value))));
        headers.extend(proof.header.clone());
        let mut url = plain(&self.endpoint.url);
        let mut add = |part: &str| {
            if !part.is_empty() {
                let joint = if url.contains('?') { '&' } else { '?' };
                url.push(joint);
                url.push_str(part);
            }
        };
        let body = match &self.body {
            Body::Query(query) => {
                add(query);
                None
            }
            Body::Json(body) => Some(body.clone()),
        };
        add(proof.query.as_ref().map_or("", |query| query.as_str()));
        Outgoing {
            method: self.endpoint.method,
            url,
            headers,
            body,
            limit,
        }
    }

    /// What an exchange means, for the call and for the breaker.
    fn judge(&mut self, incoming: Incoming, proof: &Proof) -> Tried {
        let id = self.served.id().to_owned();
        let mut breaker = self.served.run.breaker();
        let (status, bytes, is_whole) = match incoming {
            Incoming::Denied(denial) => {
                breaker.given_up(now());
                tracing::warn!(
                    service = id,
                    host = denial.host,
                    port = denial.port,
                    code = denial.code.name(),
                    "a service was not called"
                );
                return Tried::Ended(Fault::denied(&denial, &id));
            }
            Incoming::Unusable(why) => {
                breaker.given_up(now());
                let detail =
                    proof.blotted(format!("service {id}: what is to be sent cannot be: {why}"));
                return Tried::Ended(Fault::new(ProblemKind::Invalid, "service_refused", detail));
            }
            Incoming::Silent { why, was_sent } => {
                breaker.failed(now());
                let why = proof.blotted(why);
                if !was_sent || self.endpoint.is_idempotent() {
                    return Tried::Again(Fault::unavailable(format!("service {id}: {why}")));
                }
                let detail = format!(
                    "service {id}: {why}; it may have done what it was asked, so it was not tried again"
                );
                return Tried::Ended(Fault::unavailable(detail));
            }
            Incoming::Answer {
                status,
                bytes,
                is_whole,
            } => (status, bytes, is_whole),
        };
        self.status = Some(status);
        match status {
            408 | 425 | 429 => breaker.given_up(now()),
            500.. => breaker.failed(now()),
            _ => breaker.succeeded(),
        }
        drop(breaker);
        let told = || {
            let text = proof.blot(bytes.clone());
            let text: String = String::from_utf8_lossy(&text)
                .chars()
                .take(TOLD_CHARS_MAX)
                .collect();
            format!("service {id} answered {status}: {text}")
        };
        match status {
            200..300 if !is_whole => {
                let detail = format!("service {id} answered with more than {TASK_DATA_MAX} bytes");
                Tried::Ended(Fault::new(
                    ProblemKind::TooLarge,
                    "service_answer_too_large",
                    detail,
                ))
            }
            200..300 => Tried::Answered(ServiceReply {
                service: self.served.kept.definition.id.clone(),
                endpoint: self.endpoint.name.clone(),
                status,
                output: output(&proof.blot(bytes)),
                attempts: 0,
                duration_ms: 0,
            }),
            408 | 425 | 429 => Tried::Again(Fault::unavailable(told())),
            500.. if self.endpoint.is_idempotent() => Tried::Again(Fault::unavailable(told())),
            500.. => Tried::Ended(Fault::unavailable(format!(
                "{}; it is not tried again, because its endpoint is not idempotent",
                told()
            ))),
            _ => Tried::Ended(Fault::new(ProblemKind::Invalid, "service_refused", told())),
        }
    }
}
