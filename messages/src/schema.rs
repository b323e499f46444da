//! Checks a value against a JSON Schema and reports every violation, each with its path and what was expected.

use std::fmt;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::json::{push_index, push_key};

/// Most violations that are reported at once: nobody reads more, and hostile input must not buy a large answer.
pub const VIOLATIONS_MAX: usize = 64;
/// Longest excerpt of an offending value that an error repeats.
const EXCERPT_MAX: usize = 60;

/// How the message of a key begins that nobody knows.
const UNKNOWN: &str = "unknown key";
/// How the message of a field begins that is not there.
const MISSING: &str = "required, but missing";

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// Path of the offending value, such as `security.networkAccess.allowedDomains[2]`; empty at the top.
    pub path: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl FieldError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl FieldError {
    /// Whether a key is there that nobody knows; the path leads to it.
    pub fn is_unknown(&self) -> bool {
        self.message.starts_with(UNKNOWN)
    }

    /// Whether a field is not there that has to be; the path leads to where it belongs.
    pub fn is_missing(&self) -> bool {
        self.message.starts_with(MISSING)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// A compiled schema.
#[derive(Debug)]
pub struct Checker {
    schema: Value,
    validator: Validator,
}

/// The given text is not a usable JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable JSON Schema: {0}")]
pub struct InvalidSchema(String);

/// The JSON Schema (draft 2020-12) of a type, its integers bounded as the type's are: what conforms can be read.
pub fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(bound_integer))
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// The format of an unsigned integer of 32 bits says how large it may be; to validators it is a mere annotation.
fn bound_integer(schema: &mut Schema) {
    let is_u32 = schema.get("format").and_then(Value::as_str) == Some("uint32");
    if is_u32 && schema.get("maximum").is_none() {
        schema.insert("maximum".to_owned(), Value::from(u32::MAX));
    }
}

impl Checker {
    /// Compiles a schema. References leave the schema itself neither for files nor for the network.
    ///
    /// # Errors
    /// [`InvalidSchema`] when it is none.
    pub fn new(schema: Value) -> Result<Self, InvalidSchema> {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .map_err(|error| InvalidSchema(excerpt(&error.to_string())))?;
        Ok(Self { schema, validator })
    }

    /// Compiles the schema of a type; see [`schema_of`].
    ///
    /// # Errors
    /// [`InvalidSchema`] when the type's schema is none.
    pub fn of<T: JsonSchema>() -> Result<Self, InvalidSchema> {
        Self::new(schema_of::<T>())
    }

    /// The schema.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Every violation (at most [`VIOLATIONS_MAX`]), sorted by path; none when the value conforms.
    pub fn check(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for error in self.validator.iter_errors(value).take(VIOLATIONS_MAX) {
            self.describe(&error, value, &mut errors);
        }
        errors.truncate(VIOLATIONS_MAX);
        errors.sort();
        errors.dedup();
        errors
    }

    fn describe(&self, error: &ValidationError<'_>, top: &Value, out: &mut Vec<FieldError>) {
        let path = dotted(error.instance_path().as_str());
        match error.kind() {
            // So an object is refused that may hold nothing: its keys are not named.
            ValidationErrorKind::FalseSchema => {
                let object = top
                    .pointer(error.instance_path().as_str())
                    .and_then(Value::as_object);
                for key in object.into_iter().flat_map(|object| object.keys()) {
                    let mut path = path.clone();
                    push_key(&mut path, key);
                    out.push(FieldError::new(path, UNKNOWN));
                }
                if object.is_none_or(serde_json::Map::is_empty) {
                    out.push(FieldError::new(path, self.message(error)));
                }
            }
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let known = self.known_keys(error);
                for key in unexpected {
                    let mut path = path.clone();
                    push_key(&mut path, key);
                    out.push(FieldError::new(
                        path,
                        unknown_key(key, known.iter().map(String::as_str)),
                    ));
                }
            }
            ValidationErrorKind::Required { property } => {
                let mut path = path;
                push_key(&mut path, property.as_str().unwrap_or_default());
                out.push(FieldError::new(path, MISSING));
            }
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                self.describe_alternatives(error, context, top, out);
            }
            _ => out.push(FieldError::new(path, self.message(error))),
        }
    }

    /// Of several forms, none of which fits: the choices when each is one constant, else what the likeliest form lacks.
    fn describe_alternatives(
        &self,
        error: &ValidationError<'_>,
        context: &[Vec<ValidationError<'static>>],
        top: &Value,
        out: &mut Vec<FieldError>,
    ) {
        let here = error.instance_path();
        let constants: Option<Vec<&str>> = context
            .iter()
            .map(|branch| branch.iter().find_map(choice))
            .collect();
        if let Some(names) = constants.filter(|names| !names.is_empty()) {
            out.push(FieldError::new(
                dotted(here.as_str()),
                not_one_of(error.instance(), &names),
            ));
            return;
        }
        let other_type = |branch: &&Vec<ValidationError<'static>>| {
            branch.iter().any(|e| {
                matches!(e.kind(), ValidationErrorKind::Type { .. }) && e.instance_path() == here
            })
        };
        match context
            .iter()
            .find(|branch| !other_type(branch))
            .or(context.first())
        {
            Some(branch) => branch
                .iter()
                .for_each(|error| self.describe(error, top, out)),
            None => out.push(FieldError::new(dotted(here.as_str()), self.message(error))),
        }
    }

    fn message(&self, error: &ValidationError<'_>) -> String {
        let got = excerpt(&error.instance().to_string());
        if let Some(expected) = self
            .parent(error)
            .and_then(|schema| schema.get("x-expected"))
            .and_then(Value::as_str)
        {
            return format!("{got} is not {expected}");
        }
        match error.kind() {
            ValidationErrorKind::Enum { options } => {
                let names: Vec<_> = options
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                not_one_of(error.instance(), &names)
            }
            ValidationErrorKind::Type {
                kind: TypeKind::Single(kind),
            } => format!("{got} is not of type {kind}"),
            ValidationErrorKind::Type {
                kind: TypeKind::Multiple(kinds),
            } => {
                // That a field may be null is the same as that it may be left out.
                let names: Vec<_> = kinds
                    .iter()
                    .map(|kind| kind.to_string())
                    .filter(|name| name != "null")
                    .collect();
                format!("{got} is not of type {}", names.join(" or "))
            }
            ValidationErrorKind::Minimum { .. }
            | ValidationErrorKind::Maximum { .. }
            | ValidationErrorKind::ExclusiveMinimum { .. }
            | ValidationErrorKind::ExclusiveMaximum { .. } => {
                format!("{got} is out of range; {}", self.range(error))
            }
            ValidationErrorKind::Format { format } => format!("{got} is not a {format}"),
            _ => excerpt(&error.to_string()),
        }
    }

    /// The bounds of a number that is beyond them.
    fn range(&self, error: &ValidationError<'_>) -> String {
        let bound = |name| self.parent(error).and_then(|schema| schema.get(name));
        match (bound("minimum"), bound("maximum")) {
            (Some(min), Some(max)) => format!("expected {min} to {max}"),
            (Some(min), None) => format!("expected {min} or more"),
            (None, Some(max)) => format!("expected {max} or less"),
            (None, None) => excerpt(&error.to_string()),
        }
    }

    /// The schema object whose keyword failed.
    fn parent(&self, error: &ValidationError<'_>) -> Option<&Value> {
        let path = error.schema_path().as_str();
        self.schema.pointer(&path[..path.rfind('/')?])
    }

    fn known_keys(&self, error: &ValidationError<'_>) -> Vec<String> {
        let properties = self
            .parent(error)
            .and_then(|schema| schema.get("properties"))
            .and_then(Value::as_object);
        properties
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// The message for a key that nobody knows, with the nearest one that is known.
pub fn unknown_key<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(key, known) {
        Some(near) => format!("{UNKNOWN}; did you mean \"{near}\"?"),
        None => UNKNOWN.to_owned(),
    }
}

/// The candidate most like `text`, when one is like it at all.
fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this Jaro-Winkler similarity a hint would only puzzle.
    const SIMILARITY_MIN: f64 = 0.75;
    let text = text.to_lowercase();
    candidates
        .map(|name| (strsim::jaro_winkler(&text, &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
        .map(|(_, name)| name)
}

/// The constant text that a value should have been, when that is what is wrong with it.
fn choice<'e>(error: &'e ValidationError<'_>) -> Option<&'e str> {
    match error.kind() {
        ValidationErrorKind::Constant { expected_value } => expected_value.as_str(),
        _ => None,
    }
}

fn not_one_of(value: &Value, names: &[&str]) -> String {
    let near = value
        .as_str()
        .and_then(|text| nearest(text, names.iter().copied()));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
    format!(
        "{} is not one of {}{hint}",
        excerpt(&value.to_string()),
        names.join(", ")
    )
}

/// A JSON pointer as people write it: `/a/b/2` is `a.b[2]`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        match segment.parse() {
            Ok(index) => push_index(&mut path, index),
            Err(_) => push_key(&mut path, &segment.replace("~1", "/").replace("~0", "~")),
        }
    }
    path
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX) {
        Some((end, _)) if text.len() > 3 * EXCERPT_MAX => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}
