//! One source of configuration, as config-rs takes it, and values on their way there and back.

use config::{ConfigError, Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use crate::origin::Origin;

/// A tree that is known to fit the schema, with where it comes from.
///
/// config-rs has sources of its own for files and the environment. They let the last of two equal keys win and every
/// text be a number, so values are read here and only layered there.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) tree: Json,
    pub(crate) origin: Origin,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        to_value(&self.tree, &self.origin.to_string()).into_table()
    }
}

fn to_value(json: &Json, origin: &String) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => ValueKind::U64(value),
            (None, Some(value)) => ValueKind::I64(value),
            // Without arbitrary precision every number is one of the three.
            (None, None) => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Array(items) => {
            ValueKind::Array(items.iter().map(|item| to_value(item, origin)).collect())
        }
        Json::Object(fields) => ValueKind::Table(
            fields
                .iter()
                .map(|(name, field)| (name.clone(), to_value(field, origin)))
                .collect(),
        ),
    };
    Value::new(Some(origin), kind)
}

/// The way back. Integers beyond 64 bits and numbers that JSON cannot write do not come from [`to_value`].
pub(crate) fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil | ValueKind::I128(_) | ValueKind::U128(_) => Json::Null,
        ValueKind::Boolean(value) => Json::from(*value),
        ValueKind::I64(value) => Json::from(*value),
        ValueKind::U64(value) => Json::from(*value),
        ValueKind::Float(value) => Json::from(*value),
        ValueKind::String(text) => Json::from(text.as_str()),
        ValueKind::Array(items) => items.iter().map(to_json).collect(),
        ValueKind::Table(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, field)| (name.clone(), to_json(field)))
                .collect()
        }
    }
}
