//! From bytes to a checked manifest.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize as _;
use serde_json::Value;

use super::{AgentManifest, check};
use crate::json::{self, JsonError};
use crate::schema::{Checker, FieldError};

/// Largest manifest: profiles with generous schemas fit ten times over.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;

/// What a manifest's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManifestFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// JSON when the first visible character is `{`, YAML otherwise.
    #[default]
    Detect,
}

impl ManifestFormat {
    /// By a file's extension; anything but `.json`, `.yaml` and `.yml` is detected.
    pub fn of_path(path: &std::path::Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Detect,
        }
    }
}

/// A manifest that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedManifest {
    /// The manifest, defaults filled in.
    pub manifest: AgentManifest,
    /// What its author should know, although nothing is wrong.
    pub notices: Vec<FieldError>,
    /// The value that was read: what a publisher's signature covers.
    pub source: Value,
}

/// Everything that is wrong with a manifest; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestErrors(Vec<FieldError>);

impl ManifestErrors {
    /// The errors, sorted by path.
    pub fn errors(&self) -> &[FieldError] {
        &self.0
    }
}

impl fmt::Display for ManifestErrors {
    /// One error per line, each `path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl From<FieldError> for ManifestErrors {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl From<JsonError> for ManifestErrors {
    fn from(error: JsonError) -> Self {
        FieldError::new(
            error.path,
            format!("{} (byte {})", error.reason, error.byte),
        )
        .into()
    }
}

static CHECKER: LazyLock<Checker> = LazyLock::new(|| {
    Checker::of::<AgentManifest>().expect("the derived schema is a schema, which the tests show")
});

/// The JSON Schema (draft 2020-12) that every manifest is checked against.
pub fn manifest_schema() -> &'static Value {
    CHECKER.schema()
}

/// Reads and checks a manifest.
///
/// # Errors
/// [`ManifestErrors`] with everything that is wrong at once; only text that cannot be read at all hides the rest.
pub fn parse_manifest(
    bytes: &[u8],
    format: ManifestFormat,
) -> Result<ParsedManifest, ManifestErrors> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        let message = format!(
            "{} bytes, but a manifest has at most {MANIFEST_BYTES_MAX}",
            bytes.len()
        );
        return Err(FieldError::new("", message).into());
    }
    let is_json = match format {
        ManifestFormat::Json => true,
        ManifestFormat::Yaml => false,
        ManifestFormat::Detect => bytes.trim_ascii_start().first() == Some(&b'{'),
    };
    let source = if is_json {
        json::parse(bytes)?
    } else {
        json::parse_yaml(bytes)?
    };
    from_value(source)
}

fn from_value(source: Value) -> Result<ParsedManifest, ManifestErrors> {
    let mut errors = CHECKER.check(&source);
    if errors.is_empty() {
        let manifest: AgentManifest =
            serde_path_to_error::deserialize(&source).map_err(|error| {
                FieldError::new(error.path().to_string(), error.inner().to_string())
            })?;
        let mut notices = Vec::new();
        check::check(&manifest, &mut errors, &mut notices);
        if errors.is_empty() {
            notices.sort();
            return Ok(ParsedManifest {
                manifest,
                notices,
                source,
            });
        }
    } else {
        // Contradictions in what holds by the schema are told, too, so that all errors come at once.
        let mut rest = source;
        for error in errors.iter().filter(|error| error.is_unknown()) {
            forget(&mut rest, &error.path);
        }
        match AgentManifest::deserialize(&rest) {
            Ok(manifest) if CHECKER.check(&rest).is_empty() => {
                check::check(&manifest, &mut errors, &mut Vec::new());
            }
            Ok(_) | Err(_) => check::check_readable_parts(&rest, &mut errors),
        }
    }
    errors.sort();
    errors.dedup();
    Err(ManifestErrors(errors))
}

/// Removes the key at the end of a path, which changes the meaning of nothing else when nobody knows the key.
fn forget(value: &mut Value, path: &str) {
    match value {
        Value::Object(fields) => {
            if fields.remove(path).is_some() {
                return;
            }
            // A key may hold what separates keys, so the path is compared with the keys that are there.
            for (key, inner) in fields {
                let rest = path.strip_prefix(key.as_str()).unwrap_or_default();
                match rest.strip_prefix('.') {
                    Some(rest) => forget(inner, rest),
                    None if rest.starts_with('[') => forget(inner, rest),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            let Some((index, rest)) = path.strip_prefix('[').and_then(|path| path.split_once(']'))
            else {
                return;
            };
            let item = index
                .parse()
                .ok()
                .and_then(|index: usize| items.get_mut(index));
            if let Some(item) = item {
                forget(item, rest.strip_prefix('.').unwrap_or(rest));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads one part of a manifest for its own sake.
pub(super) fn part<T: for<'de> serde::Deserialize<'de> + Default>(
    source: &Value,
    key: &str,
) -> Option<T> {
    source
        .get(key)
        .map_or_else(|| Some(T::default()), |value| T::deserialize(value).ok())
}
