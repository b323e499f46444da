//! Query parameters: declared once per route, refused when unknown, read by type.

use mesh_messages::schema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};

use mesh_actors::operations::{PAGE_DEFAULT, PAGE_MAX, PageRequest};

use crate::problem::Refusal;

/// A query parameter or header, as the route reads it and the document shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) shape: Shape,
}

/// What a parameter's text must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number between two bounds.
    Integer(u64, u64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A date and time.
    Time,
    /// Whatever a type reads.
    Typed(fn(&mut SchemaGenerator) -> Schema),
}

impl Shape {
    /// The shape of a type.
    pub(crate) const fn of<T: JsonSchema>() -> Self {
        Self::Typed(SchemaGenerator::subschema_for::<T>)
    }

    /// Its JSON Schema.
    pub(crate) fn schema(self, generator: &mut SchemaGenerator) -> Schema {
        match self {
            Self::Text => json_schema!({ "type": "string" }),
            Self::Flag => json_schema!({ "type": "boolean" }),
            Self::Time => json_schema!({ "type": "string", "format": "date-time" }),
            Self::Integer(min, max) => {
                json_schema!({ "type": "integer", "minimum": min, "maximum": max })
            }
            Self::OneOf(names) => json_schema!({ "type": "string", "enum": names }),
            Self::Typed(schema) => schema(generator),
        }
    }
}

/// Rows of a page.
pub(crate) const LIMIT: Param = Param {
    name: "limit",
    about: "Rows of the page; 100 when absent.",
    shape: Shape::Integer(1, PAGE_MAX as u64),
};
/// Where the last page ended.
pub(crate) const CURSOR: Param = Param {
    name: "cursor",
    about: "The `nextCursor` of the page before.",
    shape: Shape::Text,
};

/// The query of one request, checked against what its route takes.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Refuses what the route does not know, and what is there twice.
    pub(crate) fn parse(text: &str, known: &[Param]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !known.iter().any(|param| param.name == name) {
                let hint = schema::unknown_key(&name, known.iter().map(|param| param.name));
                return Err(
                    Refusal::new("unknown_parameter", format!("{name}: {hint}")).field(name)
                );
            }
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(invalid(&name, "given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// A parameter's text.
    pub(crate) fn text(&self, param: &Param) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == param.name)
            .map(|(_, value)| value.as_str())
    }

    /// A whole number within the parameter's bounds.
    pub(crate) fn integer(&self, param: &Param) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(param) else {
            return Ok(None);
        };
        let Shape::Integer(min, max) = param.shape else {
            return Err(invalid(param.name, "not a number"));
        };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(invalid(
                param.name,
                format!("expected a whole number from {min} to {max}"),
            )),
        }
    }

    /// A small whole number within the parameter's bounds, or the default.
    pub(crate) fn count(&self, param: &Param, default: usize) -> Result<usize, Refusal> {
        Ok(self
            .integer(param)?
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(default))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, param: &Param) -> Result<Option<bool>, Refusal> {
        match self.text(param) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(invalid(param.name, "expected true or false")),
        }
    }

    /// One of the names that the parameter takes.
    pub(crate) fn name(&self, param: &Param) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text(param) else {
            return Ok(None);
        };
        match param.shape {
            Shape::OneOf(names) if !names.contains(&text) => Err(invalid(
                param.name,
                format!("expected one of {}", names.join(", ")),
            )),
            _ => Ok(Some(text.to_owned())),
        }
    }

    /// A value of a type that is read from text.
    pub(crate) fn read<T: DeserializeOwned>(&self, param: &Param) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(param) else {
            return Ok(None);
        };
        let reader: StrDeserializer<'_, ValueError> = StrDeserializer::new(text);
        T::deserialize(reader)
            .map(Some)
            .map_err(|error| match param.shape {
                Shape::Time => invalid(
                    param.name,
                    "expected a date and time such as 2025-06-20T22:04:00Z",
                ),
                _ => invalid(param.name, error),
            })
    }

    /// Which page is wanted.
    pub(crate) fn page(&self) -> Result<PageRequest<'_>, Refusal> {
        Ok(PageRequest {
            limit: self.count(&LIMIT, PAGE_DEFAULT)?,
            cursor: self.text(&CURSOR),
        })
    }
}

/// 400 about a parameter.
pub(crate) fn invalid(name: &str, detail: impl std::fmt::Display) -> Refusal {
    Refusal::new("invalid_query", format!("{name}: {detail}")).field(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Param] = &[LIMIT, CURSOR];

    #[test]
    fn unknown_parameters_are_named_with_the_nearest_known_one() {
        let document = Query::parse("limt=3", KNOWN)
            .expect_err("unknown")
            .document();
        assert_eq!(
            (document.code.as_str(), document.field.as_deref()),
            ("unknown_parameter", Some("limt"))
        );
        assert!(
            document.detail.contains("did you mean \"limit\""),
            "{document:?}"
        );
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let document = Query::parse("limit=1&limit=2", KNOWN)
            .expect_err("twice")
            .document();
        assert_eq!(document.code, "invalid_query");
    }

    #[test]
    fn a_page_has_bounds() {
        for text in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit="] {
            let query = Query::parse(text, KNOWN).expect("known");
            assert!(query.page().is_err(), "{text}");
        }
        let query = Query::parse("limit=1000&cursor=a%20b", KNOWN).expect("known");
        assert_eq!(
            query.page().expect("fits"),
            PageRequest {
                limit: 1000,
                cursor: Some("a b")
            }
        );
    }
}
