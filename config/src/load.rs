//! Joins the sources: each is read strictly and checked against the schema; config-rs lays them over one another.

use std::fmt;
use std::sync::LazyLock;

use mesh_messages::json;
use mesh_messages::schema::{Checker, FieldError};
use serde_json::Value;

use crate::check;
use crate::config::Config;
use crate::layer::{Layer, to_json};
use crate::origin::{Origin, Origins};
use crate::sources::{ENV_OF_THE_CLIENT, ENV_PREFIX, Sources};

/// Largest configuration file; the annotated default is a fiftieth of it.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<(FieldError, String)>);

impl ConfigErrors {
    /// What is wrong, each with the source that said it (`file:…`, `env:…`, `flag:…`).
    pub fn errors(&self) -> &[(FieldError, String)] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    /// One error per line: `path: message (source)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (error, source)) in self.0.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{error} ({source})")?;
        }
        Ok(())
    }
}

static CHECKER: LazyLock<Checker> = LazyLock::new(|| {
    let schema = schemars::schema_for!(Config).to_value();
    Checker::new(schema).expect("the derived schema is a schema, which the tests show")
});

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn config_schema() -> &'static Value {
    CHECKER.schema()
}

impl Config {
    /// Joins defaults, file, environment and flags, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigErrors`] with everything that is wrong, each with where it was said.
    pub fn load(sources: &Sources) -> Result<(Self, Origins), ConfigErrors> {
        let mut errors = Vec::new();
        let mut builder = config::Config::builder().add_source(defaults());
        for layer in layers(sources, &mut errors) {
            let violations = CHECKER.check(&layer.tree);
            let fits = violations.is_empty();
            let origin = layer.origin.to_string();
            errors.extend(violations.into_iter().map(|error| (error, origin.clone())));
            if fits {
                builder = builder.add_source(layer);
            }
        }
        let merged = match builder.build() {
            Ok(merged) => merged.cache,
            Err(error) => {
                errors.push((
                    FieldError::new("", error.to_string()),
                    Origin::Default.to_string(),
                ));
                return Err(ConfigErrors(errors));
            }
        };
        let origins = Origins::of(&merged);
        let said = |error: FieldError| {
            let origin = origins.origin(&error.path).to_string();
            (error, origin)
        };
        match serde_path_to_error::deserialize::<_, Self>(to_json(&merged)) {
            Ok(config) => {
                errors.extend(check::check(&config).into_iter().map(said));
                if errors.is_empty() {
                    return Ok((config, origins));
                }
            }
            Err(error) => {
                let path = error.path().to_string();
                errors.push(said(FieldError::new(path, error.inner().to_string())));
            }
        }
        Err(ConfigErrors(errors))
    }
}

/// The lowest layer.
fn defaults() -> Layer {
    let tree = serde_json::to_value(Config::default())
        .expect("the configuration has string keys and finite numbers");
    Layer {
        tree,
        origin: Origin::Default,
    }
}

/// Each source as a tree; what cannot be read as one becomes an error.
fn layers(sources: &Sources, errors: &mut Vec<(FieldError, String)>) -> Vec<Layer> {
    let mut layers = Vec::new();
    if let Some((path, bytes)) = &sources.file {
        let origin = Origin::File(path.clone());
        match read(bytes) {
            // An empty file is a valid one.
            Ok(Value::Null) => {}
            Ok(mut tree) => {
                drop_empty_sections(&mut tree, &defaults().tree);
                layers.push(Layer { tree, origin });
            }
            Err(error) => errors.push((error, origin.to_string())),
        }
    }
    for (name, text) in &sources.env {
        if let Some(key) = env_key(name) {
            layers.push(Layer {
                tree: env_layer(&key, text),
                origin: Origin::Env(name.clone()),
            });
        }
    }
    for (flag, key, value) in &sources.flags {
        layers.push(Layer {
            tree: nest(key, value.clone()),
            origin: Origin::Flag(flag.clone()),
        });
    }
    layers
}

fn read(bytes: &[u8]) -> Result<Value, FieldError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(FieldError::new(
            "",
            format!("larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    let mut merged = Value::Null;
    for document in documents(bytes) {
        let read = json::parse_yaml(&document).map_err(|error| {
            let line = 1 + document
                .iter()
                .take(error.byte)
                .filter(|byte| **byte == b'\n')
                .count();
            FieldError::new(error.path, format!("line {line}: {}", error.reason))
        })?;
        join(&mut merged, read)?;
    }
    Ok(merged)
}

/// The YAML documents of a file, each with the lines of the others empty, so that it keeps its place.
///
/// A line that begins with `---` and a space or nothing is a marker wherever it stands; no text may hold one.
fn documents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut documents = Vec::new();
    let (mut document, mut lines, mut has_content) = (Vec::new(), 0, false);
    for line in bytes.split(|byte| *byte == b'\n') {
        let rest = line
            .strip_prefix(b"---")
            .filter(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
        if rest.is_some() && has_content {
            documents.push(std::mem::replace(&mut document, vec![b'\n'; lines]));
            has_content = false;
        }
        let text = rest.unwrap_or(line);
        let visible = text.trim_ascii_start();
        has_content |= !visible.is_empty() && !visible.starts_with(b"#");
        if rest.is_some() {
            document.extend_from_slice(b"   ");
        }
        document.extend_from_slice(text);
        document.push(b'\n');
        lines += 1;
    }
    if has_content {
        documents.push(document);
    }
    documents
}

/// Adds a document's sections to those before it. What is said twice would be a guess.
fn join(merged: &mut Value, document: Value) -> Result<(), FieldError> {
    match (&mut *merged, document) {
        (_, Value::Null) => Ok(()),
        (Value::Object(there), Value::Object(fields)) => {
            for (key, value) in fields {
                if there.contains_key(&key) {
                    let message = "is in two documents of the file; say it once";
                    return Err(FieldError::new(key, message));
                }
                there.insert(key, value);
            }
            Ok(())
        }
        (Value::Object(_), _) => Err(FieldError::new(
            "",
            "each document of the file must be a mapping of sections",
        )),
        (_, first) => {
            *merged = first;
            Ok(())
        }
    }
}

/// `section:` with nothing under it is a heading, not a value.
fn drop_empty_sections(tree: &mut Value, defaults: &Value) {
    let Some(fields) = tree.as_object_mut() else {
        return;
    };
    fields.retain(|name, value| {
        !(value.is_null() && defaults.get(name).is_some_and(Value::is_object))
    });
    for (name, value) in fields {
        if let Some(defaults) = defaults.get(name) {
            drop_empty_sections(value, defaults);
        }
    }
}

/// `MESH_API__RATE_LIMIT__BURST` is `api.rate_limit.burst`.
fn env_key(name: &str) -> Option<String> {
    let rest = name
        .strip_prefix(ENV_PREFIX)
        .filter(|_| !ENV_OF_THE_CLIENT.contains(&name))?;
    Some(rest.to_ascii_lowercase().replace("__", "."))
}

/// A variable's text is YAML (`5`, `true`, `[cpu, memory]`), unless only the text itself fits its key.
fn env_layer(key: &str, text: &str) -> Value {
    let as_text = nest(key, Value::from(text));
    let as_yaml = if text.is_empty() {
        Ok(Value::Null)
    } else {
        json::parse_yaml(text.as_bytes())
    };
    match as_yaml {
        Ok(value) => {
            let as_yaml = nest(key, value);
            let only_text_fits =
                !CHECKER.check(&as_yaml).is_empty() && CHECKER.check(&as_text).is_empty();
            if only_text_fits { as_text } else { as_yaml }
        }
        Err(_) => as_text,
    }
}

fn nest(key: &str, value: Value) -> Value {
    key.rsplit('.').fold(value, |inner, name| {
        let mut object = serde_json::Map::new();
        object.insert(name.to_owned(), inner);
        Value::Object(object)
    })
}

#[cfg(test)]
mod tests;
