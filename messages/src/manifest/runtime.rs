//! How an agent is run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AgentManifest;
use crate::workflow::RegisteredCall;

/// Marks an entry that is part of meshd itself.
const BUILTIN: &str = "builtin:";

/// Marks an entry that is a registered service.
const SERVICE: &str = "service:";

/// The agents that meshd brings: what `entry: builtin:<name>` may name, unless the agent runs natively.
pub const BUILTINS: [&str; 5] = ["analyst", "echo", "fragile-analyst", "planner", "reporter"];

/// How an agent is run; whatever is absent is inferred from the manifest's `entry`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeSpec {
    /// What meshd speaks with it.
    #[serde(default)]
    pub kind: RuntimeKind,
    /// The program: a name to be found in the sandbox, an absolute path, or `./…` within the bundle. The manifest's
    /// `entry`, when there is one, becomes its last argument unless `args` name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub command: Option<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Its environment, beside what meshd sets. Not for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory, relative to the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub workdir: Option<String>,
}

/// What meshd speaks with an agent.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// KLP lines on standard input and output of one long-lived process.
    #[default]
    Klp,
    /// One process per task: input on standard input, result on standard output.
    Command,
    /// Part of meshd; trusted, without a sandbox. Its `entry` is `builtin:<name>`, or `service:<id>/<endpoint>`: an agent whose
    /// tasks are calls of a registered service.
    Native,
}

/// What is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A file of the bundle, by its path within it.
    Bundle(String),
    /// A program of the host: a bare name or an absolute path.
    Host(String),
    /// A part of meshd, by name.
    Builtin(String),
}

/// A runtime with nothing left to infer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRuntime {
    /// What meshd speaks with it.
    pub kind: RuntimeKind,
    /// What is started.
    pub program: Program,
    /// Arguments, an interpreter's script first.
    pub args: Vec<String>,
    /// Environment beside what meshd sets.
    pub env: BTreeMap<String, String>,
    /// Working directory within the bundle; `None` is the bundle itself.
    pub workdir: Option<String>,
}

/// The service that an entry names, and its endpoint: `service:<id>/<endpoint>`, or `service:<id>` of one with a single
/// endpoint.
pub(super) fn service(entry: &str) -> Option<RegisteredCall> {
    let named = entry.strip_prefix(SERVICE)?;
    let (id, endpoint) = match named.split_once('/') {
        Some((id, endpoint)) => (id, Some(endpoint.to_owned())),
        None => (named, None),
    };
    let id = id.to_owned();
    Some(RegisteredCall { id, endpoint })
}

/// The name after `builtin:`.
pub(super) fn builtin(entry: &str) -> Option<&str> {
    entry.strip_prefix(BUILTIN)
}

/// Whether a path stays inside the bundle, as text; links are for whoever opens it to refuse.
pub(super) fn stays_inside(path: &str) -> bool {
    !path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

/// The interpreter of an entry, by its extension.
fn interpreter(entry: &str) -> Option<&'static str> {
    match entry.rsplit_once('.').map(|(_, extension)| extension) {
        Some("py") => Some("python3"),
        Some("js" | "mjs" | "ts") => Some("node"),
        _ => None,
    }
}

pub(super) fn resolve(manifest: &AgentManifest) -> ResolvedRuntime {
    let spec = manifest.runtime.clone().unwrap_or_default();
    let entry = manifest.entry.as_deref();
    let mut args = spec.args;
    let program = match (spec.command, entry) {
        (Some(command), entry) => {
            if let Some(entry) = entry.filter(|entry| !args.iter().any(|arg| arg == entry)) {
                args.push(entry.to_owned());
            }
            match command.strip_prefix("./") {
                Some(path) => Program::Bundle(path.to_owned()),
                None => Program::Host(command),
            }
        }
        (None, Some(entry)) => match (builtin(entry), interpreter(entry)) {
            (Some(name), _) => Program::Builtin(name.to_owned()),
            (None, Some(interpreter)) => {
                args.insert(0, entry.to_owned());
                Program::Host(interpreter.to_owned())
            }
            (None, None) => Program::Bundle(entry.trim_start_matches("./").to_owned()),
        },
        // A parsed manifest has one of the two; for one built by hand, the bundle's directory fails to start by name.
        (None, None) => Program::Bundle(".".to_owned()),
    };
    let kind = match entry.and_then(service) {
        Some(_) => RuntimeKind::Native,
        None => spec.kind,
    };
    ResolvedRuntime {
        kind,
        program,
        args,
        env: spec.env,
        workdir: spec.workdir,
    }
}
