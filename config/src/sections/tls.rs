//! TLS on the HTTP surface, and callers that are known by their certificates.

use mesh_messages::system::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS on the HTTP surface, spoken when `cert` and `key` are set; nothing is then served without it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A file with meshd's certificate in PEM, followed by those that lead to its authority.
    #[schemars(length(min = 1))]
    pub cert: Option<String>,
    /// A file with its key in PEM, which only its owner may have a right to.
    #[schemars(length(min = 1))]
    pub key: Option<String>,
    /// A file with the authorities of clients' certificates in PEM; clients are asked for none when null.
    #[schemars(length(min = 1))]
    pub client_ca: Option<String>,
    /// A file with lists of clients' certificates that were revoked, in PEM: one list of each authority that signs any. None
    /// is asked when null.
    #[schemars(length(min = 1))]
    pub client_crl: Option<String>,
    /// Whether a client without a certificate is turned away, whatever token it has.
    pub require_client_cert: bool,
    /// Callers that are known by their certificates, when they present no token.
    #[schemars(length(max = 1024))]
    pub clients: Vec<TlsClient>,
}

/// Whom a name in a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsClient {
    /// A name in the certificate: a URI (`spiffe://mesh/ada`) or a DNS name (`ada.example`) of its alternative names, or
    /// `CN=…`, the common name of a certificate that has neither.
    #[schemars(length(min = 1, max = 1024))]
    pub subject: String,
    /// The caller's name in the audit, `user:…`.
    #[schemars(length(min = 6, max = 133))]
    pub name: String,
    /// What it may do: viewer, operator, admin or publisher.
    pub role: Role,
}
