//! The way out of a sandbox, and the vault.

use std::collections::BTreeMap;

use mesh_messages::units::{ByteCount, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What no agent gets beyond, whatever its manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// The only ports that agents reach.
    #[schemars(length(max = 1024), extend("uniqueItems" = true))]
    pub ports: Vec<u16>,
    /// The only domains that any agent reaches, beside what its manifest says; any when null, none when empty.
    #[schemars(length(max = 1024))]
    pub allowed_domains: Option<Vec<String>>,
    /// Domains that no agent reaches.
    #[schemars(length(max = 1024))]
    pub blocked_domains: Vec<String>,
    /// Networks that are not public and may be reached all the same, such as `10.1.0.0/16`. A cloud's metadata address is
    /// only open when it is named itself.
    #[schemars(length(max = 256))]
    pub networks: Vec<String>,
    /// Names that are not looked up, with their addresses. An address that is not public needs `networks`, too.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Connections of one instance at once, when its manifest says nothing, and at most.
    #[schemars(range(min = 1, max = 4096))]
    pub max_connections: u32,
    /// Bytes per second of one instance, both directions together; unlimited when null.
    pub bytes_per_second: Option<ByteCount>,
    /// Time for the head of a request.
    pub head_timeout: Span,
    /// Time for resolving a name and connecting.
    pub connect_timeout: Span,
    /// Time without a byte in either direction.
    pub idle_timeout: Span,
    /// Time of one connection as a whole.
    pub total_timeout: Span,
    /// A file of further authorities in PEM, for hosts to which the proxy speaks TLS itself.
    pub extra_ca: Option<String>,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            ports: vec![80, 443],
            allowed_domains: None,
            blocked_domains: Vec::new(),
            networks: Vec::new(),
            hosts: BTreeMap::new(),
            max_connections: 64,
            bytes_per_second: None,
            head_timeout: Span::from_secs(10),
            connect_timeout: Span::from_secs(10),
            idle_timeout: Span::from_secs(300),
            total_timeout: Span::from_secs(3600),
            extra_ca: None,
        }
    }
}

/// The vault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// The file with the vault's key, made when the first secret is set; `<data>/vault.key` when null. Elsewhere it
    /// protects against whoever gets a copy of the data directory.
    pub key_file: Option<String>,
    /// A file with a passphrase, from which the key is derived instead.
    pub passphrase_file: Option<String>,
    /// The description of a key of type `user` in the kernel's keyring that holds the vault's key as 64 hexadecimal digits. It is
    /// on no disk, and has to be put there after each start of the machine.
    #[schemars(length(min = 1, max = 255))]
    pub keyring: Option<String>,
}
