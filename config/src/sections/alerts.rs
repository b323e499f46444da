//! Who is told of what needs somebody's eyes.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Records of the audit that are told as they happen. To nobody unless a file or an address is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// A file to append each alert to, as a line of JSON; none when null.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub file: Option<PathBuf>,
    /// Whom to POST alerts to, as a batch of cloud events; none when null.
    #[schemars(extend("x-expected" = "an address such as https://alerts.example.com/meshd"), regex(pattern = "^https?://[^\\s]+$"))]
    pub url: Option<String>,
    /// A file that holds the bearer's token for it, if it wants one.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub token_file: Option<PathBuf>,
    /// A PEM file of the authorities that its certificate is checked against; those that browsers know when null.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// The kinds of records, as in the audit: a name, or all that begin with one that ends with a dot.
    #[schemars(length(min = 1, max = 32), inner(regex(pattern = "^[a-z_]+(\\.[a-z_]+)*\\.?$")), extend("x-expected" = "kinds of records such as access.denied, or limit. for all that begin so"))]
    pub kinds: Vec<String>,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        let kinds = [
            "security.alert",
            "quarantined",
            "access.denied",
            "egress.denied",
            "limit.breached",
            "health.alert",
            "governance.updated",
            "key.revoked",
            "key.rotated",
        ];
        Self {
            file: None,
            url: None,
            token_file: None,
            ca_file: None,
            kinds: kinds.map(str::to_owned).to_vec(),
        }
    }
}
