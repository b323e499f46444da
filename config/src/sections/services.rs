//! Plain services that meshd itself calls.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What registered services and the `service` steps of workflows may call. meshd makes these calls itself, in no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServicesConfig {
    /// The only hosts that are called; any when null, none when empty.
    #[schemars(length(max = 1024))]
    pub allowed_domains: Option<Vec<String>>,
    /// Hosts that are never called.
    #[schemars(length(max = 1024))]
    pub blocked_domains: Vec<String>,
    /// The only ports that are called; any when null.
    #[schemars(length(max = 1024), extend("uniqueItems" = true))]
    pub ports: Option<Vec<u16>>,
    /// Networks that are not public and may be called all the same. A cloud's metadata address is only open when it is named
    /// itself.
    #[schemars(length(max = 256))]
    pub networks: Vec<String>,
    /// Hosts that registered services may have beyond this one without TLS; all others have `https`.
    #[schemars(length(max = 1024))]
    pub http_domains: Vec<String>,
    /// A file of service definitions, YAML or JSON, that are registered at each start; none when null.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub definitions: Option<PathBuf>,
    /// A PEM file of the authorities that certificates are checked against; those that browsers know when null.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub ca_file: Option<PathBuf>,
}

/// This host, and the networks that people run their own services in.
const INTERNAL: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

impl Default for ServicesConfig {
    fn default() -> Self {
        Self {
            allowed_domains: None,
            blocked_domains: Vec::new(),
            ports: None,
            networks: INTERNAL.map(str::to_owned).to_vec(),
            http_domains: Vec::new(),
            definitions: None,
            ca_file: None,
        }
    }
}
