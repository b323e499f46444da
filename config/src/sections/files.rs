//! What of the host's files agents may be granted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which files of the host agents may be granted, whatever their manifests ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilesConfig {
    /// The only paths that may be granted, with what is below them, none when empty. When null, any to what admins
    /// register, and none to what others do.
    #[schemars(length(max = 1024))]
    pub allowed_paths: Option<Vec<String>>,
    /// What is never granted: an absolute path with what is below it, or the name of a file or directory wherever it lies. A
    /// path that holds one, at its top, is refused, too.
    #[schemars(length(max = 1024))]
    pub blocked_paths: Vec<String>,
    /// Paths in which, and below, an agent's user stands for the owner of the granted path: it may do there what the owner
    /// may, and what it makes is the owner's. Needs root, and an owner that is not user or group 0.
    #[schemars(length(max = 1024))]
    pub as_owner: Vec<String>,
}

impl Default for FilesConfig {
    fn default() -> Self {
        let names = [".ssh", ".gnupg", ".aws", ".kube", ".docker"];
        Self {
            allowed_paths: None,
            blocked_paths: names.map(str::to_owned).to_vec(),
            as_owner: Vec::new(),
        }
    }
}
