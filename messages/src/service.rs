//! Services: what is called over HTTP beside the agents, as it is registered, shown and called.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::ServiceId;
use crate::time::Timestamp;
use crate::workflow::ServiceMethod;

mod check;
mod file;

pub use check::{Place, place_of};
pub use file::ServiceFile;

/// Most services: each is checked again and again, and shown in `GET /v1/health`.
pub const SERVICES_MAX: usize = 1000;
/// Most endpoints of one service.
pub const ENDPOINTS_MAX: usize = 64;
/// Most capabilities of one service.
pub const SERVICE_CAPABILITIES_MAX: usize = 64;
/// Longest name of a service, an endpoint or a capability, in bytes.
pub const SERVICE_NAME_MAX: usize = 128;
/// Longest address of an endpoint, in bytes: what servers commonly take.
pub const SERVICE_URL_MAX: usize = 2048;
/// How long a call of an endpoint may take that says nothing, in milliseconds.
pub const ENDPOINT_TIMEOUT_DEFAULT_MS: u64 = 30_000;
/// The longest that an endpoint may ask for, in milliseconds.
pub const ENDPOINT_TIMEOUT_MAX_MS: u64 = 10 * 60 * 1000;
/// How often a service is checked that says nothing, in milliseconds.
pub const CHECK_INTERVAL_DEFAULT_MS: u64 = 30_000;
/// The shortest and the longest time between two checks, in milliseconds.
pub const CHECK_INTERVAL_MS: (u64, u64) = (1000, 24 * 60 * 60 * 1000);
/// How long a check may take that says nothing, in milliseconds.
pub const CHECK_TIMEOUT_DEFAULT_MS: u64 = 5000;
/// The longest that a check may take, in milliseconds.
pub const CHECK_TIMEOUT_MAX_MS: u64 = 60_000;
/// Most calls per second that a definition may allow itself; more is no limit.
pub const SERVICE_RATE_MAX: u32 = 10_000;

/// What kind of service it is. For people and for lists; meshd treats all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceType {
    /// A language model.
    Llm,
    /// Makes or reads images.
    Image,
    /// Searches vectors.
    Vector,
    /// Anything else.
    Utility,
}

impl ServiceType {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llm => "llm",
            Self::Image => "image",
            Self::Vector => "vector",
            Self::Utility => "utility",
        }
    }
}

/// How a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    /// It is called. In a definition this is the default.
    #[default]
    Active,
    /// It is neither called nor checked, because its definition says so.
    Inactive,
    /// Its latest check failed. It is not called until one passes. In a definition it means `active`: what holds is found.
    Error,
}

impl ServiceStatus {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Error => "error",
        }
    }
}

/// One thing that a service does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEndpoint {
    /// What it is called by.
    pub name: String,
    /// Where: `https://…`, or `http://…` on this host.
    pub url: String,
    /// `POST` when absent. `GET` and `DELETE` send what they are called with as the query, the others as JSON.
    #[serde(default)]
    pub method: ServiceMethod,
    /// Further headers. Whoever may read sees them; what is secret belongs into `auth`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long a call may take, all its tries; 30 000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it may be tried again when it is not known whether it was done. True for `GET`, `PUT` and `DELETE` when
    /// absent, and false for `POST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
}

impl ServiceEndpoint {
    /// Whether a call that may have been done is tried again.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
            .unwrap_or(self.method != ServiceMethod::Post)
    }

    /// How long a call may take, in milliseconds.
    pub fn timeout(&self) -> u64 {
        self.timeout_ms.unwrap_or(ENDPOINT_TIMEOUT_DEFAULT_MS)
    }
}

/// How meshd proves to a service who calls. The value is in the vault, under `secret`; here is only its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ServiceAuth {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Bearer <secret>`.
    Bearer {
        /// The secret's name in the vault.
        secret: String,
    },
    /// A header that holds the secret alone.
    Header {
        /// The secret's name in the vault.
        secret: String,
        /// The header, such as `X-Api-Key`.
        name: String,
    },
    /// `Authorization: Basic …`.
    Basic {
        /// The secret's name in the vault: the password.
        secret: String,
        /// The user.
        username: String,
    },
    /// A parameter of the query.
    Query {
        /// The secret's name in the vault.
        secret: String,
        /// The parameter.
        name: String,
    },
}

impl ServiceAuth {
    /// The secret that is needed.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Bearer { secret }
            | Self::Header { secret, .. }
            | Self::Basic { secret, .. }
            | Self::Query { secret, .. } => Some(secret),
        }
    }

    /// The name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bearer { .. } => "bearer",
            Self::Header { .. } => "header",
            Self::Basic { .. } => "basic",
            Self::Query { .. } => "query",
        }
    }
}

/// How it is found out whether a service is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceCheck {
    /// What is read, with `GET` and the service's auth; an answer of 200 to 299 is health. Without it the host of the first
    /// endpoint is asked for `/`, without auth, and any answer below 500 will do: somebody is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How often, give or take a tenth; 30 000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// How long it may take; 5000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl ServiceCheck {
    /// How often, in milliseconds.
    pub fn interval(&self) -> u64 {
        self.interval_ms.unwrap_or(CHECK_INTERVAL_DEFAULT_MS)
    }

    /// How long, in milliseconds.
    pub fn timeout(&self) -> u64 {
        self.timeout_ms.unwrap_or(CHECK_TIMEOUT_DEFAULT_MS)
    }
}

/// How many calls a service gets at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRate {
    /// In a second, tries included.
    pub per_second: u32,
    /// On top, after a pause; as many as `perSecond` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A service, as its author writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceDefinition {
    /// What it is called by.
    pub id: ServiceId,
    /// What it is, for people.
    pub name: String,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Whether it is to be called.
    #[serde(default)]
    pub status: ServiceStatus,
    /// What it can do, as agents' capabilities are named.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What it does.
    pub endpoints: Vec<ServiceEndpoint>,
    /// How meshd proves who calls.
    #[serde(default)]
    pub auth: ServiceAuth,
    /// How it is found out whether it is there.
    #[serde(default)]
    pub health: ServiceCheck,
    /// How many calls it gets; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<ServiceRate>,
}

impl ServiceDefinition {
    /// The endpoint of this name; the only one there is, when none is named.
    pub fn endpoint(&self, name: Option<&str>) -> Option<&ServiceEndpoint> {
        match name {
            Some(name) => self.endpoints.iter().find(|known| known.name == name),
            None if self.endpoints.len() == 1 => self.endpoints.first(),
            None => None,
        }
    }
}

/// Where a definition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceOrigin {
    /// Somebody registered it.
    #[default]
    Api,
    /// The file that `services.definitions` names. It is changed there.
    Config,
}

/// Why a service is in error, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFault {
    /// What the check found.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Where a circuit breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    #[default]
    Closed,
    /// No call goes through until its time is up.
    Open,
    /// One call goes through, and decides.
    HalfOpen,
}

impl BreakerState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The circuit breaker of a service. It begins closed with each start of meshd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// Where it stands.
    pub state: BreakerState,
    /// Calls that failed one after the other.
    pub failures: u32,
    /// When the next call may be tried, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// A service, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// What it is called by.
    pub id: ServiceId,
    /// What it is, for people.
    pub name: String,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// How it stands.
    pub status: ServiceStatus,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What it does.
    pub endpoints: Vec<ServiceEndpoint>,
    /// How meshd proves who calls; the name of the secret, never its value.
    pub auth: ServiceAuth,
    /// How it is found out whether it is there.
    pub health: ServiceCheck,
    /// How many calls it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<ServiceRate>,
    /// From 1; each change of the definition is another one.
    pub version: u32,
    /// Where the definition comes from.
    pub origin: ServiceOrigin,
    /// Who wrote this version.
    pub by: String,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// When this version was written.
    pub updated_at: Timestamp,
    /// What is wrong, while it is in error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ServiceFault>,
    /// When it was checked last in this run of meshd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Timestamp>,
    /// How long that check took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_ms: Option<u64>,
    /// Its circuit breaker.
    pub breaker: BreakerView,
}

/// `POST /v1/services/{id}/call`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceCallOrder {
    /// Which endpoint; the only one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What it is called with: any JSON; for `GET` and `DELETE` an object of plain values, or nothing.
    #[serde(default)]
    pub params: Value,
    /// Sent to the service as `Idempotency-Key`; a new one for each call when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReply {
    /// Which service.
    pub service: ServiceId,
    /// Which endpoint.
    pub endpoint: String,
    /// The HTTP status of its answer: 200 to 299.
    pub status: u16,
    /// The answer: JSON as it is, other text as `{"text": …}`, nothing as null.
    pub output: Value,
    /// How often it was tried.
    pub attempts: u32,
    /// How long it took, all tries, in milliseconds.
    pub duration_ms: u64,
}

/// A call of a service, as it is recorded: nothing of what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCalled {
    /// Which service.
    pub service: ServiceId,
    /// The version of its definition.
    pub version: u32,
    /// Which endpoint.
    pub endpoint: String,
    /// In whose name.
    pub by: String,
    /// When it began.
    pub at: Timestamp,
    /// The HTTP status of its last answer; absent when none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed, as a stable code; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it was tried; 0 when it was refused before.
    pub attempts: u32,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}
