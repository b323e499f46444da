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
    json::parse_yaml(bytes).map_err(|error| {
        let line = 1 + bytes
            .iter()
            .take(error.byte)
            .filter(|byte| **byte == b'\n')
            .count();
        FieldError::new(error.path, format!("line {line}: {}", error.reason))
    })
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
