//! JSON with expressions in it, read once and written out for each step.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::expr::{
    EvaluationError, Expression, InvalidExpression, Kind, Known, Left, Piece, Scope, pieces,
};

/// JSON with expressions in it.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    /// No expression in it.
    Constant(Value),
    /// One expression, whose value keeps its type.
    Expression(Expression),
    /// Text around expressions, which are written out.
    Text(Vec<Part>),
    List(Vec<Template>),
    Map(Vec<(String, Template)>),
    /// It could not be read; whoever needs it is told why.
    Invalid(InvalidExpression),
}

/// A part of a text.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Plain(String),
    Expression(Expression),
}

/// Where something is wrong below a value, and what.
pub(crate) type Wrong = (String, InvalidExpression);

impl Template {
    /// Reads a value; what is wrong is added to `wrong` with its path below the value.
    pub(crate) fn read(
        value: &Value,
        ids: &BTreeSet<&str>,
        path: &str,
        wrong: &mut Vec<Wrong>,
    ) -> Self {
        match value {
            Value::String(text) => Self::text(text, ids).unwrap_or_else(|error| {
                wrong.push((path.to_owned(), error.clone()));
                Self::Invalid(error)
            }),
            Value::Array(items) => {
                let read =
                    |(index, item)| Self::read(item, ids, &format!("{path}[{index}]"), wrong);
                let items: Vec<_> = items.iter().enumerate().map(read).collect();
                if items.iter().all(Self::is_constant) {
                    // Also where `$${` was written, which stands for itself by now.
                    let items = items.into_iter().filter_map(|item| match item {
                        Self::Constant(value) => Some(value),
                        _ => None,
                    });
                    return Self::Constant(items.collect());
                }
                Self::List(items)
            }
            Value::Object(fields) => {
                let mut read = Vec::with_capacity(fields.len());
                for (key, field) in fields {
                    let path = format!("{path}.{key}");
                    read.push((key.clone(), Self::read(field, ids, &path, wrong)));
                }
                if read.iter().all(|(_, field)| field.is_constant()) {
                    let fields = read.into_iter().filter_map(|(key, field)| match field {
                        Self::Constant(value) => Some((key, value)),
                        _ => None,
                    });
                    return Self::Constant(Value::Object(fields.collect()));
                }
                Self::Map(read)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::Constant(value.clone()),
        }
    }

    fn text(text: &str, ids: &BTreeSet<&str>) -> Result<Self, InvalidExpression> {
        let mut parts = Vec::new();
        for piece in pieces(text)? {
            parts.push(match piece {
                Piece::Plain(text) => Part::Plain(text),
                Piece::Expression(text) => Part::Expression(Expression::read(text, ids)?),
            });
        }
        Ok(match parts.as_slice() {
            [Part::Plain(text)] => Self::Constant(Value::from(text.clone())),
            [Part::Expression(expression)] => Self::Expression(expression.clone()),
            _ => Self::Text(parts),
        })
    }

    /// Reads a condition or a list: an expression with `${…}` around it or bare, or a value itself.
    pub(crate) fn bare(
        value: &Value,
        ids: &BTreeSet<&str>,
        path: &str,
        wrong: &mut Vec<Wrong>,
    ) -> Self {
        let Value::String(text) = value else {
            return Self::read(value, ids, path, wrong);
        };
        let inner = text.trim();
        let read = if inner.contains("${") {
            Self::text(inner, ids)
        } else {
            Expression::read(inner, ids).map(Self::Expression)
        };
        read.unwrap_or_else(|error| {
            wrong.push((path.to_owned(), error.clone()));
            Self::Invalid(error)
        })
    }

    fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_))
    }

    /// Its type, as far as it shows without values.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Constant(value) => Some(Kind::of(value)),
            Self::Expression(expression) => expression.kind(),
            Self::Text(_) => Some(Kind::Text),
            Self::List(_) => Some(Kind::List),
            Self::Map(_) => Some(Kind::Map),
            Self::Invalid(_) => None,
        }
    }

    /// The same by what is known of the steps; nothing where that cannot fit.
    pub(crate) fn kind_within(&self, known: Known<'_>) -> Option<Kind> {
        match self {
            Self::Expression(expression) => expression.kind_within(known).ok().flatten(),
            other => other.kind(),
        }
    }

    /// The expressions in it.
    pub(crate) fn expressions<'t>(&'t self, out: &mut Vec<&'t Expression>) {
        match self {
            Self::Constant(_) | Self::Invalid(_) => {}
            Self::Expression(expression) => out.push(expression),
            Self::Text(parts) => out.extend(parts.iter().filter_map(|part| match part {
                Part::Plain(_) => None,
                Part::Expression(expression) => Some(expression),
            })),
            Self::List(items) => items.iter().for_each(|item| item.expressions(out)),
            Self::Map(fields) => fields.iter().for_each(|(_, field)| field.expressions(out)),
        }
    }

    /// Its value.
    ///
    /// # Errors
    /// [`EvaluationError`] of the first expression that has none.
    pub(crate) fn write(&self, scope: &Scope<'_>) -> Result<Value, EvaluationError> {
        self.write_within(scope, &mut Left::default())
    }

    fn write_within(&self, scope: &Scope<'_>, left: &mut Left) -> Result<Value, EvaluationError> {
        Ok(match self {
            Self::Constant(value) => value.clone(),
            Self::Expression(expression) => expression.evaluate_within(scope, left)?,
            Self::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Plain(plain) => text.push_str(plain),
                        Part::Expression(expression) => {
                            match expression.evaluate_within(scope, left)? {
                                Value::String(value) => text.push_str(&value),
                                other => text.push_str(&other.to_string()),
                            }
                        }
                    }
                }
                Value::String(text)
            }
            Self::List(items) => {
                let items = items.iter().map(|item| item.write_within(scope, left));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(fields) => {
                let mut map = Map::new();
                for (key, field) in fields {
                    map.insert(key.clone(), field.write_within(scope, left)?);
                }
                Value::Object(map)
            }
            Self::Invalid(error) => {
                return Err(EvaluationError {
                    source_text: String::new(),
                    why: error.to_string(),
                });
            }
        })
    }
}
