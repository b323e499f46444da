//! Where each value comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use config::{Value, ValueKind};
use serde_json::Value as Json;

use crate::layer::to_json;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl Origin {
    /// Reads what `Display` writes, in which form config-rs carries it.
    fn of_text(text: &str) -> Self {
        match text.split_once(':') {
            Some(("file", path)) => Self::File(PathBuf::from(path)),
            Some(("env", name)) => Self::Env(name.to_owned()),
            Some(("flag", name)) => Self::Flag(name.to_owned()),
            _ => Self::Default,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Flag(name) => write!(f, "flag:{name}"),
        }
    }
}

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginEntry {
    /// The value.
    pub value: Json,
    /// Where it comes from.
    pub origin: Origin,
}

/// Every effective value by its dotted key, such as `orchestrator.retry.max_attempts`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Origins(BTreeMap<String, OriginEntry>);

impl Origins {
    /// The value of a dotted key.
    pub fn get(&self, key: &str) -> Option<&OriginEntry> {
        self.0.get(key)
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OriginEntry)> {
        self.0.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// The leaves of what config-rs made of the layers.
    pub(crate) fn of(merged: &Value) -> Self {
        let mut origins = Self::default();
        origins.collect(String::new(), merged);
        origins
    }

    fn collect(&mut self, key: String, value: &Value) {
        let ValueKind::Table(fields) = &value.kind else {
            let entry = OriginEntry {
                value: to_json(value),
                origin: value.origin().map_or(Origin::Default, Origin::of_text),
            };
            self.0.insert(key, entry);
            return;
        };
        for (name, field) in fields {
            let key = match key.as_str() {
                "" => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            self.collect(key, field);
        }
    }

    /// Where a key's value comes from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.get(key)
            .map_or(Origin::Default, |entry| entry.origin.clone())
    }
}

impl fmt::Display for Origins {
    /// `key = value  (origin)`, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, entry) in &self.0 {
            writeln!(f, "{key} = {}  ({})", entry.value, entry.origin)?;
        }
        Ok(())
    }
}
