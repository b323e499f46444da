//! What becomes of checkpoints.

use std::path::PathBuf;

use mesh_messages::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The proof of what happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Who keeps checkpoints beside this node. A log whose end was cut off is told only by somebody else's copy.
    pub witness: WitnessConfig,
}

/// Where checkpoints go, whenever the log has grown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WitnessConfig {
    /// A file to append each checkpoint to, best on another machine's disk; none when null.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub file: Option<PathBuf>,
    /// A C2SP witness, which co-signs them: http:// and its prefix, before `/add-checkpoint`. Another meshd's is
    /// `http://host:port/v1/audit/witness`. None when null.
    #[schemars(extend("x-expected" = "an address such as http://10.0.0.2:8080/v1/audit/witness"), regex(pattern = "^http://[^\\s]+$"))]
    pub url: Option<String>,
    /// A file that holds the token for it, if it wants one.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub token_file: Option<PathBuf>,
    /// How often; nothing is sent while the log stands still.
    pub interval: Span,
}

impl Default for WitnessConfig {
    fn default() -> Self {
        Self {
            file: None,
            url: None,
            token_file: None,
            interval: Span::from_millis(60_000),
        }
    }
}
